"""Grades finetuning/examples.py: read from every kind of file, cut into three parts, checked, written."""

import csv
import json
from itertools import chain
from operator import itemgetter
from types import SimpleNamespace

import pytest
from small import fingerprint

from minilm.finetuning.classification import Classification, Pair
from minilm.finetuning.examples import (
    Parts,
    check_parts,
    cut,
    names_of,
    read_examples,
    read_parts,
    texts_in,
    write_predictions,
    write_rows,
)  # fmt: skip
from minilm.finetuning.settings import FinetuningSettings
from minilm.finetuning.similarity import Similarity
from minilm.finetuning.span import Span
from minilm.finetuning.tagging import Tagging
from minilm.finetuning.tasks import Prediction
from minilm.finetuning.text_to_text import TextToText
from minilm.plumbing.errors import UserError


def written(folder, name, text):
    """Write a file; return its path as a flag gives it."""
    (folder / name).write_text(text)
    return str(folder / name)


QUESTIONS = [
    {"question": "Who?", "answers": [{"text": "Ana", "answer_start": 0}]},
    {"question": "Why?", "answers": [], "is_impossible": True},
]
ASKED_ONLY = '{"data": [{"paragraphs": [{"context": "Ana ran.", "qas": [{"question": "Who?"}]}]}]}'
SQUAD = json.dumps({"data": [{"paragraphs": [{"context": "Ana ran.", "qas": QUESTIONS}]}]})
FILES = [
    ("a.tsv", "Ana ran.\tx\nRui.\ty\n", Classification, [("Ana ran.", "x"), ("Rui.", "y")]),
    ("a.csv", "label,text\nx,Ana\n", Classification, [("Ana", "x")]),
    ("a.conll", "Rui B-who\nran O\n\nAna B-who\n", Tagging,
     [(["Rui", "ran"], ["B-who", "O"]), (["Ana"], ["B-who"])]),
    ("a.json", SQUAD, Span, [("Ana ran.", "Who?", [("Ana", 0)]), ("Ana ran.", "Why?", [])]),
    ("pairs.csv", 'n,response,prompt\n1,"Ana, Rui",Who?\n', TextToText, [("Who?", "Ana, Rui")]),
    ("chat.jsonl", '{"prompt": "Who?", "response": "Ana"}\n', TextToText, [("Who?", "Ana")]),
]  # fmt: skip


@pytest.mark.parametrize("name, text, task, examples", FILES)
def test_files_are_read_with_their_truths_and_without(tmp_path, name, text, task, examples):
    path = written(tmp_path, name, text)
    assert read_examples(task, [path, None]) == examples
    unknown = [(*example[:-1], None) for example in examples]
    assert read_examples(task, [path], truth=False) == unknown, "truths that nobody asked for"
    assert read_examples(task, [path, path]) == examples * 2


@pytest.mark.parametrize(("name", "text", "task", "example"), [
    ("a.tsv", "Ana ran.\n", Classification, ("Ana ran.", None)),
    ("a.conll", "Rui\nran\n", Tagging, (["Rui", "ran"], None)),
    ("a.tsv", "Ana ran.\tWho?\n", Span, ("Ana ran.", "Who?", None)),
    ("a.json", ASKED_ONLY, Span, ("Ana ran.", "Who?", None)),
    ("a.tsv", "prompt\nWho?\n", TextToText, ("Who?", None)),
    ("a.tsv", "a\tb\n", Pair, ("a", "b", None)),
])  # fmt: skip
def test_files_to_be_predicted_need_no_truths(tmp_path, name, text, task, example):
    assert read_examples(task, [written(tmp_path, name, text)], truth=False) == [example]


READS = "this task reads"


@pytest.mark.parametrize(("text", "task", "truth", "expected"), [
    ("a\tx\nalone\n", Classification, True, f"line 2: .* .{READS} .tsv, .csv or .jsonl with text, label"),
    ("a\tb\tc\td\n", Classification, False, "found 4 columns, expected 1"),
    ("A B-a\nran\n", Tagging, True, rf"found 1 columns \['ran'\].*{READS} CoNLL columns with words, tags"),
    ("a\tx\n", Span, True, "SQuAD 1.1 or 2.0"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line_that_says_what_fits(tmp_path, text, task, truth, expected):
    with pytest.raises(UserError, match=expected):
        read_examples(task, [written(tmp_path, "a.tsv", text)], truth=truth)


def test_what_is_skipped_is_counted_for_each_file(tmp_path, capsys):
    bad = json.dumps({"data": [{"paragraphs": [{"context": "Ana ran.", "qas": [*QUESTIONS, {"id": 1}]}]}]})
    assert len(read_examples(Span, [written(tmp_path, "a.json", bad)], skip_bad=True)) == 2
    assert len(read_examples(Tagging, [written(tmp_path, "a.conll", "A x\nb y\n\nc\n")], skip_bad=True)) == 1
    assert capsys.readouterr().out.count("left out 1 examples") == 2
    path = written(tmp_path, "a.tsv", "a\tx\nalone\n\ty\n")
    assert read_examples(Classification, [path, path], skip_bad=True) == [("a", "x")] * 2
    assert capsys.readouterr().out == f"{path}: left out 2 examples (--skip-bad)\n" * 2


def test_scores_are_numbers(tmp_path):
    path = written(tmp_path, "a.tsv", "a\tb\t2.5\nc\td\t-1\n")
    assert read_examples(Similarity, [path]) == [("a", "b", 2.5), ("c", "d", -1.0)]
    assert read_examples(Similarity, [path], truth=False) == [("a", "b", None), ("c", "d", None)]
    path = written(tmp_path, "comma.csv", "text_a;text_b;label\na;b;2,5\nc;d;-0,25\n")
    assert [label for *_, label in read_examples(Similarity, [path])] == [2.5, -0.25]
    for label in ("high", "inf", "-inf", "1,000", "1,2,3"):  # is 1,000 a thousand, or one?
        path = written(tmp_path, "b.tsv", f"a\tb\t2\nc\td\t{label}\ne\tf\t3\n")
        told = f"b.tsv, line 2: the label '{label}' is not a number; expected one such as 4.5 or 4500"
        with pytest.raises(UserError, match=told):
            read_examples(Similarity, [path])
        assert read_examples(Similarity, [path], True) == [("a", "b", 2.0), ("e", "f", 3.0)]


def test_a_tenth_is_watched_where_nothing_else_is_given():
    given = [(f"text {i}", "xyz"[i % 3]) for i in range(40)]
    parts = cut(given, [], [], seed=0)
    assert list(map(len, parts)) == [36, 4, 4] and parts.test == parts.validation
    assert sorted(parts.train + parts.validation) == sorted(given), "an example is lost, or in both"
    assert cut(given, [], [("t", "x")], 1).validation != parts.validation, "the seed draws"
    assert cut(given, [("w", "z")], [("t", "x")], 0) == Parts(given, [("w", "z")], [("t", "x")])
    assert list(map(len, cut(given[:1], [], [], 0))) == [0, 1, 1]
    assert list(map(len, cut(given[:9], [], [], 0))) == [8, 1, 1], "one of few"


def test_what_was_watched_to_stop_is_not_what_is_measured_on():
    given = [(f"text {i}", "xyz"[i % 3]) for i in range(40)]
    parts = cut(given, [], [], 0, selects=True)
    assert sorted(chain(*parts)) == sorted(given), "a score on examples that patience has chosen by"
    assert list(map(len, parts)) == [32, 4, 4]
    assert len(cut(given, given[:2], [], 0, selects=True).test) == 4, "a file to watch is none to measure on"
    assert cut(given, [], given[:2], 0, selects=True).test == given[:2]
    same = [("the same", f"answer {i}") for i in range(30)]
    assert cut(same, [], [], 0, selects=True).train == [], "one text alone: `check_parts` says so"
    told = "holding out examples would lose a label: give --validation and --test"
    with pytest.raises(UserError, match=told):
        cut([("a", "x"), ("b", "y"), ("c", "z")], [], [], 0, labels_of=itemgetter(1))


def test_few_examples_are_drawn_by_the_seed_and_classes_take_turns():
    examples = [("a", "x")] * 40 + [("b", "y")] * 3 + [("c", "z")] * 20

    def drawn(n, seed=1, given=examples, labels_of=itemgetter(slice(1, 2))):
        return cut(given, [("w", "x")], [], seed, n, labels_of).train

    assert sorted(label for _, label in drawn(9)) == ["x"] * 3 + ["y"] * 3 + ["z"] * 3
    assert drawn(500) == examples
    numbered = [(str(i), "xy"[i % 2]) for i in range(50)]
    for labels_of in (itemgetter(slice(1, 2)), None):
        one, other = (drawn(6, seed, numbered, labels_of) for seed in (0, 1))
        assert len(set(one)) == 6 and one != other and one == drawn(6, 0, numbered, labels_of)
    tagged = [([f"w{i}"], ["O"]) for i in range(30)] + [(["Ana"], ["B-who"]), (["oboe"], ["B-what"])]
    assert {tag for _, (tag,) in drawn(3, 0, tagged, itemgetter(1))} == {"O", "B-who", "B-what"}
    rare = [([f"w{i}"], ["O"]) for i in range(39)] + [(["w", "Ana"], ["O", "B-who"])]
    for seed in range(9):  # "too few for" where its commonest label says when its turn is
        assert rare[-1] in drawn(2, seed, rare, itemgetter(1)), "the rarest label of an example says its turn"
    with pytest.raises(UserError, match="^--n-examples 2: too few for an example of each of the 3 labels$"):
        drawn(2)


TRAIN, ASKED = [("a", "sun"), ("b", "rain")], [("x", "Rain"), ("y", "Rain"), ("z", "snow"), ("w", "sun")]
MANY = [(str(i), f"new {i}") for i in range(7)]
NEW = "label not in the training set: "
RAIN = rf"{NEW}'Rain' \(2 times\), 'snow' \(1 times\) \(did you mean 'rain'\?\); train on it or leave it out$"
SAME = r"all training examples \(4\) have the label 1.5; expected two different ones$"


@pytest.mark.parametrize(("parts", "expected"), [
    ((TRAIN, TRAIN, ASKED), f"^test.tsv: {RAIN}"),
    ((TRAIN, ASKED, TRAIN), f"^watch.tsv: {RAIN}"),
    ((TRAIN, [], MANY), rf"^test.tsv: {NEW}('new \d' \(1 times\),? ?){{5}}; train on it"),  # five at most
    (([("a", 1.5)] * 4, [], []), f"^train.tsv: {SAME}"),
    (([], TRAIN, TRAIN), "^train.tsv: only one text;"),
    ((TRAIN, TRAIN, [("a", None)]), "^test.tsv: a label is missing"),
])  # fmt: skip
def test_parts_must_teach_something_and_ask_for_nothing_else(parts, expected):
    def check(parts, closed):
        task = SimpleNamespace(truths=truths, fields=("text", "label"), closed=closed)
        check_parts(Parts(*parts), task, ("train.tsv", "watch.tsv", "test.tsv"))

    def truths(part):
        if ("a", None) in part:
            raise UserError("a label is missing")
        return [label for _, label in part]

    with pytest.raises(UserError, match=expected):
        check(parts, closed=True)
    check((TRAIN, TRAIN, TRAIN), closed=True)
    check((TRAIN, ASKED, ASKED), closed=False)


def test_texts_in_an_example():
    assert texts_in(("a b", ["c", ("d", 3)], None, 2.5)) == ["a b", "c", "d"]


def test_rows_are_lines_whose_cells_are_one_line(tmp_path):
    rows = [("text", "n"), ("a\tb\nc", 3), ("", 0.5), ('"Well, she said', 1), ('5" wide', 2), ("=1", "")]
    write_rows(tmp_path / "a.tsv", rows)
    assert (tmp_path / "a.tsv").read_text().startswith("text\tn\na b c\t3\n\t0.5\n")
    with open(tmp_path / "a.tsv", newline="") as file:
        found = list(csv.reader(file, "excel-tab"))
    expected = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    assert found == expected, "a quote at the beginning of a cell swallows the rows after it"


PORTUGUESE = "world:portuguese"


@pytest.mark.parametrize(("changes", "watched", "test"), [
    (dict(), "world", "world, with words that are not in the training set"),
    (dict(data=(PORTUGUESE,)), PORTUGUESE, f"{PORTUGUESE}, with words that are not in the training set"),
    (dict(data=("a", "b")), "a and b, the held-out validation set", "a and b, the held-out validation set"),
    (dict(data=("a",), patience=1), "a, the held-out validation set", "a, the held-out test set"),
    (dict(data=("a",), patience=1, validation="v", test="t"), "v", "t"),
    (dict(data=("a",), validation="v"), "v", "v"),
])  # fmt: skip
def test_parts_are_called_what_they_are(changes, watched, test):
    name, *others = names_of(FinetuningSettings(**changes))
    assert name == " and ".join(changes.get("data", ["world"]))
    assert all(found.startswith(told) for found, told in zip(others, (watched, test), strict=True))


def test_files_become_three_parts_for_each_seed(tmp_path, capsys):
    lines = [f"text {i}\t{'xyz'[i % 3]}" for i in range(30)]
    data = written(tmp_path, "a.tsv", "\n".join(lines[:28]) + "\nalone\n")
    test = written(tmp_path, "t.tsv", "\n".join(lines[26:]) + "\n")

    def read(**how):
        return read_parts(Classification, FinetuningSettings(data=(data,), skip_bad=True, **how))

    first, second = read(test=test, seeds=(0, 1))
    out = capsys.readouterr().out
    assert "left out 1 examples (--skip-bad)" in out
    assert f"{test}: 2 of 4 examples are also in {data}" in out and out.count("are also in") == 1
    assert [len(part) for part in first] == [26, 2, 4] and first.test == second.test
    assert first.validation != second.validation and first.test[0] == ("text 26", "z")
    (stopped,) = read(patience=1, seeds=(0,))
    assert [len(part) for part in stopped] == [24, 2, 2]
    (few,) = read(test=test, n_examples=6, seeds=(0,))
    assert sorted(label for _, label in few.train) == [*"xxyyzz"], "labels take turns"
    (watched,) = read(validation=test, seeds=(0,))
    assert len(watched.train) == 28 and watched.validation == watched.test == first.test
    data = written(tmp_path, "one.tsv", "a\tx\n")
    with pytest.raises(UserError, match=r"all training examples \(1\) have the label 'x'"):
        read(seeds=(0,))


def test_predictions_are_rows_with_what_is_known(tmp_path):
    task = SimpleNamespace(written=str.upper)
    given = [Prediction("a", "x", "y", 0.123456), Prediction("b", None, "x")]
    write_predictions(task, given, tmp_path / "p.tsv")
    expected = "text\ttruth\tprediction\tprobability\na\tX\tY\t0.1235\nb\t\tX\t\n"
    assert (tmp_path / "p.tsv").read_text() == expected


def test_the_parts_are_those_of_the_figures_in_the_readmes():
    given = [(f"text {i}", "xyz"[i % 3]) for i in range(60)]
    labels_of = itemgetter(slice(1, 2))
    found = [cut(given, [], [], 3, 20, labels, True) for labels in (labels_of, None)]
    assert fingerprint([*map(list, chain(*found))]) == "c87c6f42", "not the parts that were measured"
