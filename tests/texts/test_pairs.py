"""Pairs of the world and of the user's files: which part a pair goes to, and what is refused."""

import json

import pytest

from minilm import world
from minilm.texts.corpus import WORLD_VALIDATION, draw, split_by_hash
from minilm.texts.pairs import DOMAINS, SOURCE, WORLD_TRAIN, Pairs, load_pairs


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


ONE, *OTHERS = DOMAINS.items()


@pytest.mark.parametrize(
    "source, domain", [ONE, *(pytest.param(*o, marks=pytest.mark.reliability) for o in OTHERS)]
)
def test_world_pairs_share_no_english(source, domain):
    pairs = load_pairs(source, seed=3, n_pairs=600)
    assert pairs.train == world.translation_pairs(600, 3, domain), "the pairs of another seed"
    assert WORLD_TRAIN == 5_000, "the figures of the READMEs are of so many"
    assert len(pairs.validation) == WORLD_VALIDATION and pairs.notes == () and pairs.name == source
    drawn = world.translation_pairs(2 * WORLD_VALIDATION, 3 + 1_000_003, domain)
    trained = {english for english, _ in pairs.train}
    assert trained & {english for english, _ in drawn}, "this seed shows nothing: no sentence is drawn twice"
    assert pairs.validation == [pair for pair in drawn if pair[0] not in trained][:WORLD_VALIDATION]
    assert load_pairs(source, seed=4, n_pairs=50).train != pairs.train[:50]


@pytest.mark.parametrize("n", [2, 9, 57, 300, 12_500])
def test_a_tenth_is_held_out_by_its_sources(table, n):
    pairs = load_pairs(table("a.tsv", numbered(n)))
    found = set(pairs.train) | set(pairs.validation)
    assert found <= set(numbered(n)) and 1 <= len(pairs.validation) <= min(1_000, n // 5 + 2)
    learnt = set(pairs.train)
    assert pairs.train == [pair for pair in numbered(n) if pair in learnt], "the order changed"
    assert len(found) == n or len(pairs.validation) == 1_000 < n - len(pairs.train), "pairs were lost"
    part = load_pairs(table("part.tsv", numbered(n)[-200:]))
    assert n < 300 or not set(part.validation) & learnt, "a part validates on what the whole reads"


def test_a_source_is_on_one_side(table):
    rows = [(f"a{i % 40}{' ' * (i % 3)} b", f"target {i}") for i in range(120)]
    pairs = load_pairs(table("a.tsv", rows))
    sides = (pairs.train, pairs.validation)
    train, validation = ({" ".join(source.split()) for source, _ in side} for side in sides)
    assert not train & validation, "the same source in other white space is the same source"
    assert len(pairs.train + pairs.validation) == 120 and pairs.notes == ()


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_table_is_read(table, suffix):
    path = table(f"pairs{suffix}", numbered(20))
    pairs = load_pairs(path)
    assert sorted(pairs.train + pairs.validation) == sorted(numbered(20))
    n = len(pairs.train)
    assert pairs.summary() == f"{path}: {n} training pairs, {20 - n} validation pairs"


def test_tables_are_joined(table):
    one, two = table("a.tsv", numbered(30)[:25]), table("b.csv", numbered(30)[25:])
    pairs = load_pairs([one, two])
    assert sorted(pairs.train + pairs.validation) == sorted(numbered(30))
    assert pairs.name == f"{one} and {two}"


def test_texts_are_both_sides_of_the_training_pairs():
    pairs = Pairs("small", [("a", "1"), ("b", "2")], [("c", "3")])
    assert sorted(pairs.texts()) == ["1", "2", "a", "b"], "one language, or validation texts"


def test_bad_rows_are_an_error_or_are_counted(table, message, capsys):
    path = table("pairs.tsv", [*numbered(10), ("no tab",), ("", "alvo"), *numbered(20)[10:]])
    assert "pairs.tsv, line 11: found 1 columns" in message(load_pairs, path)
    pairs = load_pairs(path, skip_bad=True)
    assert f"{path}: left out 2 examples (--skip-bad)" in capsys.readouterr().out
    assert sorted(pairs.train + pairs.validation) == sorted(numbered(20))


def test_two_aligned_files_are_read(write, message, capsys):
    both = [write("a.en", "one\n \nthree\nfour"), str(write("a.pt", "um\ndois\ntrês\nquatro"))]
    assert "a.pt, line 2: 'source' is empty" in message(load_pairs, both)
    pairs = load_pairs(both, skip_bad=True)
    expected = [("four", "quatro"), ("one", "um"), ("three", "três")]
    assert sorted(pairs.train + pairs.validation) == expected
    assert "left out 1 examples (--skip-bad)" in capsys.readouterr().out


def test_a_stray_carriage_return_does_not_shift_aligned_lines(write):
    english, german = ([f"{word} {i}" for i in range(40)] for word in ("line", "Zeile"))
    english[7], german[20] = "li\rne 7", "Zeile 20\r"
    pairs = load_pairs([write("a.en", "\n".join(english)), write("a.de", "\r\n".join(german))])
    numbers = [[text.split()[-1] for text in pair] for pair in pairs.train + pairs.validation]
    assert len(numbers) == 40 and all(a == b for a, b in numbers), "a lone \\r counts as a line's end"


def test_n_pairs_limits_the_training_part_only(table):
    path = table("a.tsv", numbered(12_000))
    few = load_pairs(path, seed=1, n_pairs=30)
    train, held = split_by_hash(numbered(12_000), SOURCE)
    assert few.train == draw(train, 30, 1) and few.validation == draw(held, 1_000, 0), "whatever the seed"
    assert load_pairs(path, n_pairs=30).train == draw(train, 30, 0), "seed 0 where none is given"


@pytest.mark.parametrize(
    "sources, named",
    [
        ("world:report", "did you mean 'world:reports'?"),
        ("wrold", "did you mean 'world'?"),
        (["world", "{}/a.tsv"], "world stands alone"),
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
