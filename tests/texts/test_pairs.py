"""Pairs of the world and of the user's files: which part a pair goes to, and what is refused."""

import json

import pytest

from minilm.plumbing.errors import UserError
from minilm.texts.pairs import MOST_VALIDATION, WORLD_VALIDATION, Pairs, load_pairs, split_pairs, unseen
from minilm.world import translation_pairs


def numbered(n: int) -> list[tuple[str, str]]:
    return [(f"source {i}", f"alvo {i} é") for i in range(n)]


def write(path, rows, separator="\t"):
    path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def message(*arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        load_pairs(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def world():
    return load_pairs("world", seed=3, n_pairs=600)


def test_world_pairs_are_english_and_portuguese(world):
    assert world.train == translation_pairs(600, 3, "both"), "the pairs of another seed"
    assert len(world.validation) == WORLD_VALIDATION and world.notes == () and world.n_skipped == 0


def test_no_english_of_the_validation_part_is_trained_on(world):
    trained = {english for english, _ in world.train}
    assert not trained & {english for english, _ in world.validation}, "the answer can be learnt by heart"
    drawn = {english for english, _ in translation_pairs(2 * WORLD_VALIDATION, 3 + 1_000_003, "both")}
    assert trained & drawn, "this seed shows nothing: no sentence is drawn twice"
    assert {english for english, _ in world.validation} <= drawn


def test_world_parts_depend_on_the_seed():
    one, again, other = (load_pairs("world", seed, n_pairs=50) for seed in (1, 1, 2))
    assert (one.train, one.validation) == (again.train, again.validation)
    assert one.train != other.train and one.validation != other.validation


@pytest.mark.parametrize("domain", ["stories", "reports"])
def test_a_domain_alone(domain):
    pairs = load_pairs(f"world:{domain}", seed=4, n_pairs=40)
    assert pairs.train == translation_pairs(40, 4, domain)
    assert set(pairs.validation) <= set(translation_pairs(2 * WORLD_VALIDATION, 4 + 1_000_003, domain))


@pytest.mark.parametrize("n, n_validation", [(2, 1), (9, 1), (20, 2), (57, 5), (10_500, 1_000)])
def test_the_last_tenth_is_for_validation(n, n_validation):
    rows = numbered(n)
    train, validation, n_removed = split_pairs(rows)
    assert len(validation) == n_validation <= MOST_VALIDATION
    assert train + validation == rows and n_removed == 0, "pairs were lost, or changed their order"


def test_training_pairs_with_a_validation_source_are_removed():
    rows = [("a  b", "one"), ("c", "two"), ("a b", "three"), *numbered(17), (" a b", "four"), ("d", "two")]
    train, validation, n_removed = split_pairs(rows)
    assert validation == rows[-2:], "validation stays the last tenth"
    assert train == [rows[1], *rows[3:20]] and n_removed == 2, (
        "the same source in other white space is it too"
    )
    assert ("c", "two") in train, "the same target is no duplicate"


def test_unseen_keeps_the_order_and_repetitions():
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")]
    assert unseen(pairs, [("a ", "9"), ("d", "1")]) == [("b", "1"), ("b", "3"), ("c", "4")]


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_table_is_read(tmp_path, suffix):
    rows = numbered(20)
    path = write(tmp_path / f"pairs{suffix}", rows, "\t" if suffix == ".tsv" else ",")
    if suffix == ".jsonl":
        lines = (json.dumps(dict(target=target, source=source)) for source, target in rows)
        path.write_text("\n".join(lines))
    pairs = load_pairs(path)
    assert (pairs.name, pairs.train, pairs.validation) == (str(path), rows[:18], rows[18:])
    assert pairs.summary() == f"{path}: 18 training pairs, 2 validation pairs"


def test_tables_are_joined(tmp_path):
    one, two = write(tmp_path / "a.tsv", numbered(30)[:25]), write(tmp_path / "b.csv", numbered(30)[25:], ",")
    pairs = load_pairs([one, two])
    assert pairs.train == numbered(30)[:27] and pairs.validation == numbered(30)[27:]
    assert str(one) in pairs.name and str(two) in pairs.name


def test_two_aligned_files_are_read(tmp_path):
    rows = numbered(12)
    for suffix, side in ((".en", 0), (".pt", 1)):
        (tmp_path / f"train{suffix}").write_text("\n".join(row[side] for row in rows), encoding="utf-8")
    pairs = load_pairs([tmp_path / "train.en", str(tmp_path / "train.pt")])
    assert pairs.train + pairs.validation == rows, "the first file is the source, the second the target"


def test_texts_are_both_sides_of_the_training_pairs():
    pairs = Pairs("small", [("a", "1"), ("b", "2")], [("c", "3")])
    assert sorted(pairs.texts()) == ["1", "2", "a", "b"], (
        "a vocabulary of one language, or of validation texts"
    )


def test_bad_rows_are_an_error_or_are_counted(tmp_path):
    rows = [*numbered(10), ("no tab",), ("", "alvo"), *numbered(20)[10:]]
    path = write(tmp_path / "pairs.tsv", rows)
    assert "pairs.tsv, line 11: found 1 columns" in message(path)
    pairs = load_pairs(path, skip_bad=True)
    assert pairs.n_skipped == 2 and pairs.notes == ("left out 2 rows that are no pair (--skip-bad)",)
    assert pairs.train + pairs.validation == numbered(20)


def test_bad_rows_of_aligned_files_are_an_error_or_are_counted(tmp_path):
    (tmp_path / "a.en").write_text("one\n \nthree\nfour")
    (tmp_path / "a.pt").write_text("um\ndois\ntrês\nquatro", encoding="utf-8")
    both = [tmp_path / "a.en", tmp_path / "a.pt"]
    assert "a.pt, line 2: nothing in 'source'" in message(both)
    assert load_pairs(both, skip_bad=True).n_skipped == 1
    (tmp_path / "a.pt").write_text("um\ndois\n")
    assert "has 4 lines" in message(both) and "has 2" in message(both)


def test_removed_pairs_are_told(tmp_path):
    pairs = load_pairs(write(tmp_path / "a.tsv", [*numbered(19), ("source 4", "outro")]))
    assert len(pairs.train) == 17 and ("source 4", "alvo 4 é") not in pairs.train
    assert pairs.notes == ("removed 1 training pairs whose source stands in the validation part too",)


def test_n_pairs_limits_the_training_part_only(tmp_path, world):
    path = write(tmp_path / "a.tsv", numbered(200))
    few, others = load_pairs(path, seed=1, n_pairs=30), load_pairs(path, seed=2, n_pairs=30)
    assert len(few.train) == len(set(few.train)) == 30 and few.validation == numbered(200)[180:]
    assert few.train == sorted(few.train, key=numbered(200).index), "their order is that of the file"
    assert few.train != others.train, "which pairs are drawn depends on the seed"
    assert load_pairs(path, n_pairs=999).train == numbered(200)[:180]
    assert len(load_pairs("world", n_pairs=7).train) == 7
    assert "0 pairs" in message("world", n_pairs=0)


@pytest.mark.parametrize(
    "sources, named",
    [
        ("world:report", "did you mean 'world:reports'?"),
        ("wrold", "did you mean 'world'?"),
        (["world", "{}/a.tsv"], "give world alone"),
        ("{}/b.tsv", "no such file"),
        ("{}/a.txt", "two files whose lines belong together"),
        (["{}/a.txt", "{}/a.tsv"], "two files whose lines belong together"),
        (["{}/a.txt", "{}/a.txt", "{}/a.txt"], "two files whose lines belong together"),
        ([], "no source"),
        ("{}/one.tsv", "1 pairs, none left to train on"),
        ("{}/same.tsv", "12 pairs, none left to train on"),
        ("{}/empty.tsv", "no rows"),
    ],
)
def test_bad_sources_are_refused(tmp_path, sources, named):
    write(tmp_path / "a.tsv", numbered(20)), write(tmp_path / "a.txt", numbered(20))
    write(tmp_path / "one.tsv", numbered(1)), write(tmp_path / "same.tsv", [("a", "b")] * 12)
    write(tmp_path / "empty.tsv", [])
    one = isinstance(sources, str)
    sources = [source.format(tmp_path) for source in ([sources] if one else sources)]
    assert named in message(sources[0] if one else sources)
