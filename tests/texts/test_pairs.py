"""Pairs of the world and of the user's files: which part a pair goes to, and what is refused."""

import json

import pytest

from minilm import world
from minilm.texts.corpus import WORLD_VALIDATION, draw
from minilm.texts.pairs import DOMAINS, Pairs, load_pairs


def numbered(n: int) -> list[tuple[str, str]]:
    return [(f"source {i}", f"alvo {i} é") for i in range(n)]


@pytest.fixture
def table(write):
    """A function that writes pairs as a table of the kind that its name says."""

    def write_table(name, rows):
        lines = [("," if name.endswith(".csv") else "\t").join(row) for row in rows]
        if name.endswith(".jsonl"):
            lines = [json.dumps(dict(target=target, source=source)) for source, target in rows]
        return write(name, "\n".join(lines) + "\n")

    return write_table


@pytest.mark.parametrize("source, domain", DOMAINS.items())
def test_world_pairs_share_no_english(source, domain):
    pairs = load_pairs(source, seed=3, n_pairs=600)
    assert pairs.train == world.translation_pairs(600, 3, domain), "the pairs of another seed"
    assert len(pairs.validation) == WORLD_VALIDATION and pairs.notes == () and pairs.name == source
    drawn = world.translation_pairs(2 * WORLD_VALIDATION, 3 + 1_000_003, domain)
    trained = {english for english, _ in pairs.train}
    assert trained & {english for english, _ in drawn}, "this seed shows nothing: no sentence is drawn twice"
    assert pairs.validation == [pair for pair in drawn if pair[0] not in trained][:WORLD_VALIDATION]
    assert load_pairs(source, seed=4, n_pairs=50).train != pairs.train[:50]


@pytest.mark.parametrize("n, n_validation", [(2, 1), (9, 1), (20, 2), (57, 5), (10_500, 1_000)])
def test_the_last_tenth_is_for_validation(table, n, n_validation):
    pairs = load_pairs(table("a.tsv", numbered(n)))
    assert len(pairs.validation) == n_validation
    assert pairs.train + pairs.validation == numbered(n), "pairs were lost, or changed their order"


def test_training_pairs_with_a_validation_source_are_removed(table):
    rows = [("a  b", "one"), ("c", "two"), ("a b", "three"), *numbered(17), (" a b", "four"), ("d", "two")]
    pairs = load_pairs(table("a.tsv", rows))
    assert pairs.validation == [("a b", "four"), ("d", "two")], "validation stays the last tenth"
    assert pairs.train == [rows[1], *rows[3:20]], "the same source in other white space is it too"
    assert ("c", "two") in pairs.train, "the same target is no duplicate"
    assert pairs.notes == ("removed 2 training pairs whose source is in the validation part too",)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_table_is_read(table, suffix):
    path = table(f"pairs{suffix}", numbered(20))
    pairs = load_pairs(path)
    assert (pairs.train, pairs.validation) == (numbered(18), numbered(20)[18:])
    assert pairs.summary() == f"{path}: 18 training pairs, 2 validation pairs"


def test_tables_are_joined(table):
    one, two = table("a.tsv", numbered(30)[:25]), table("b.csv", numbered(30)[25:])
    pairs = load_pairs([one, two])
    assert pairs.train == numbered(30)[:27] and pairs.validation == numbered(30)[27:]
    assert pairs.name == f"{one} and {two}"


def test_texts_are_both_sides_of_the_training_pairs():
    pairs = Pairs("small", [("a", "1"), ("b", "2")], [("c", "3")])
    assert sorted(pairs.texts()) == ["1", "2", "a", "b"], "one language, or validation texts"


def test_bad_rows_are_an_error_or_are_counted(table, message):
    path = table("pairs.tsv", [*numbered(10), ("no tab",), ("", "alvo"), *numbered(20)[10:]])
    assert "pairs.tsv, line 11: found 1 columns" in message(load_pairs, path)
    pairs = load_pairs(path, skip_bad=True)
    assert pairs.notes == ("left out 2 rows that are no pair (--skip-bad)",)
    assert pairs.train + pairs.validation == numbered(20)


def test_two_aligned_files_are_read(write, message):
    both = [write("a.en", "one\n \nthree\nfour"), str(write("a.pt", "um\ndois\ntrês\nquatro"))]
    assert "a.pt, line 2: nothing in 'source'" in message(load_pairs, both)
    pairs = load_pairs(both, skip_bad=True)
    assert pairs.train + pairs.validation == [("one", "um"), ("three", "três"), ("four", "quatro")]
    assert pairs.notes == ("left out 1 rows that are no pair (--skip-bad)",)


def test_n_pairs_limits_the_training_part_only(table):
    path = table("a.tsv", numbered(200))
    few = load_pairs(path, seed=1, n_pairs=30)
    assert few.train == draw(numbered(180), 30, 1) and few.validation == numbered(200)[180:]


@pytest.mark.parametrize(
    "sources, named",
    [
        ("world:report", "did you mean 'world:reports'?"),
        ("wrold", "did you mean 'world'?"),
        (["world", "{}/a.tsv"], "give world alone"),
        ("{}/b.tsv", "no such file"),
        ("{}/a.txt", "two files whose lines belong together"),
        (["{}/a.txt", "{}/a.tsv"], "two files whose lines belong together"),
        (["{}/a.txt"] * 3, "two files whose lines belong together"),
        ("{}/one.tsv", "1 pairs, none left to train on"),
        ("{}/same.tsv", "12 pairs, none left to train on"),
        ("{}/empty.tsv", "no rows"),
    ],
)
def test_bad_sources_are_refused(tmp_path, table, message, sources, named):
    for name, rows in dict(a=numbered(20), one=numbered(1), same=[("a", "b")] * 12, empty=[]).items():
        table(f"{name}.tsv", rows)
    table("a.txt", numbered(20))
    sources = [source.format(tmp_path) for source in ([sources] if isinstance(sources, str) else sources)]
    assert named in message(load_pairs, sources)
