"""Grades texts/examples.py: examples are read from every kind of file, cut into three parts, and checked."""

import json

import pytest

from minilm.texts.examples import Parts, check_parts, cut, number, read_examples, texts_in, write_rows

ASKED = dict(question="Who?", answers=[dict(text="Ana", answer_start=0)])
NONE = dict(question="Why?", answers=[], is_impossible=True)
SQUAD = json.dumps({"data": [{"paragraphs": [{"context": "Ana ran.", "qas": [ASKED, NONE]}]}]})
FILES = [
    ("a.tsv", "Ana ran.\tx\nRui.\ty\n", ("text", "label"), [("Ana ran.", "x"), ("Rui.", "y")]),
    ("a.csv", "label,text\nx,Ana\n", ("text", "label"), [("Ana", "x")]),
    ("a.conll", "Rui B-who\nran O\n\nAna B-who\n", ("words", "tags"),
     [(["Rui", "ran"], ["B-who", "O"]), (["Ana"], ["B-who"])]),
    ("a.json", SQUAD, ("context", "question", "answers"),
     [("Ana ran.", "Who?", [("Ana", 0)]), ("Ana ran.", "Why?", [])]),
    ("pairs.csv", 'n,response,prompt\n1,"Ana, Rui",Who?\n', ("source", "target"), [("Who?", "Ana, Rui")]),
    ("chat.jsonl", '{"prompt": "Who?", "response": "Ana"}\n', ("source", "target"), [("Who?", "Ana")]),
    ("pairs.jsonl", '{"source": "Who?", "target": "Ana"}\n', ("source", "target"), [("Who?", "Ana")]),
]  # fmt: skip


@pytest.mark.parametrize("name, text, fields, examples", FILES)
def test_files_are_read_with_their_truths_and_without(write, name, text, fields, examples):
    path = write(name, text)
    assert read_examples([path, None], fields) == (examples, 0)
    unknown = [(*example[:-1], None) for example in examples]
    assert read_examples([path], fields, truth=False) == (unknown, 0), "truths that nobody asked for"
    assert read_examples([path, path], fields)[0] == examples * 2


@pytest.mark.parametrize(
    "name, text, fields, example",
    [
        ("a.tsv", "Ana ran.\n", ("text", "label"), ("Ana ran.", None)),
        ("a.conll", "Rui\nran\n", ("words", "tags"), (["Rui", "ran"], None)),
        ("a.tsv", "Ana ran.\tWho?\n", ("context", "question", "answers"), ("Ana ran.", "Who?", None)),
        ("a.tsv", "prompt\nWho?\n", ("source", "target"), ("Who?", None)),
        ("a.tsv", "a\tb\n", ("text_a", "text_b", "label"), ("a", "b", None)),
    ],
)
def test_files_to_be_predicted_need_no_truths(write, name, text, fields, example):
    assert read_examples([write(name, text)], fields, truth=False) == ([example], 0)


def test_what_is_wrong_with_a_file_is_one_line_that_says_what_it_should_hold(write, message):
    path = write("a.tsv", "a\tx\nalone\n\ty\n")
    found = message(read_examples, [path], ("text", "label"))
    assert "line 2: found 1 columns" in found and found.endswith("(expected text, label: .tsv, .csv, .jsonl)")
    assert read_examples([path, path], ("text", "label"), skip_bad=True) == ([("a", "x")] * 2, 4)
    four = write("b.tsv", "a\tb\tc\td\n")
    assert "found 4 columns, expected 1" in message(read_examples, [four], ("text", "label"), truth=False)
    assert "one column 'ran'" in message(read_examples, [write("c", "A B-a\nran\n")], ("words", "tags"))
    assert "SQuAD 1.1 or 2.0" in message(read_examples, [path], ("context", "question", "answers"))


def test_scores_are_numbers(write, message):
    path = write("a.tsv", "a\tb\t2.5\n")
    assert read_examples([path], ("text_a", "text_b", "label"), numbers=True) == ([("a", "b", 2.5)], 0)
    unknown = read_examples([write("b.tsv", "a\tb\n")], ("text_a", "text_b", "label"), False, False, True)
    assert unknown == ([("a", "b", None)], 0)
    for label in ("high", "inf", "nan"):
        assert message(number, label, "b.tsv") == f"b.tsv: the label {label!r} is no number, as a score is"


def test_a_tenth_is_watched_where_nothing_else_is_given():
    given = [(f"text {i}", "xyz"[i % 3]) for i in range(40)]
    parts = cut(given, [], [], seed=0)
    assert list(map(len, parts)) == [36, 4, 4] and parts.test == parts.validation
    assert sorted(parts.train + parts.validation) == sorted(given), "an example is lost, or in both"
    assert cut(given, [], [("t", "x")], 1).validation != parts.validation, "the seed draws"
    assert cut(given, [("w", "z")], [("t", "x")], 0) == Parts(given, [("w", "z")], [("t", "x")])
    assert list(map(len, cut(given[:1], [], [], 0))) == [0, 1, 1]


def test_few_examples_are_drawn_by_the_seed_and_classes_take_turns(message):
    examples = [("a", "x")] * 40 + [("b", "y")] * 3 + [("c", "z")] * 20
    watched = [("w", "x")]

    def drawn(n, seed=1, given=examples, by_class=True):
        return cut(given, watched, [], seed, n, by_class).train

    assert sorted(label for _, label in drawn(9)) == ["x"] * 3 + ["y"] * 3 + ["z"] * 3
    assert drawn(500) == examples
    numbered = [(str(i), "xy"[i % 2]) for i in range(50)]
    for by_class in (True, False):
        one, other = (drawn(6, seed, numbered, by_class) for seed in (0, 1))
        assert len(set(one)) == 6 and one != other and one == drawn(6, 0, numbered, by_class)
    expected = "--n-examples 2: fewer examples than the 3 classes"
    assert message(cut, examples, watched, [], 1, 2, True) == expected


def test_parts_must_teach_something_and_ask_for_nothing_else(message):
    def truths(part):
        return [label for _, label in part]

    names, train = ("train.tsv", "watch.tsv", "test.tsv"), [("a", "sun"), ("b", "rain")]
    asked = [("x", "Rain"), ("y", "Rain"), ("z", "snow"), ("w", "sun")]
    check_parts(Parts(train, train, train), truths, "label", names, closed=True)
    check_parts(Parts(train, asked, asked), truths, "label", names, closed=False)
    found = message(check_parts, Parts(train, train, asked), truths, "label", names, closed=True)
    expected = "'Rain' (2 times), 'snow' (1 times) (did you mean 'rain'?)"
    assert found == f"test.tsv: label unknown to training: {expected}"
    assert message(check_parts, Parts(train, asked, train), truths, "tag", names, True).startswith(
        "watch.tsv: "
    )
    found = message(check_parts, Parts([("a", 1.5)] * 4, [], []), truths, "score", names, False)
    assert found == "train.tsv: of 4 examples to learn from all have the score 1.5; it takes two or more"
    assert "train.tsv: one example;" in message(
        check_parts, Parts([], train, train), truths, "x", names, False
    )

    def strict(part):
        return truths(part) if part != asked else number("high", "it")

    found = message(check_parts, Parts(train, train, asked), strict, "label", names, closed=False)
    assert found.startswith("test.tsv: it: the label 'high'"), "which file is it?"


def test_texts_in_an_example():
    assert texts_in(("a b", ["c", ("d", 3)], None, 2.5)) == ["a b", "c", "d"]


def test_rows_are_lines_whose_cells_are_one_line(tmp_path):
    write_rows(tmp_path / "a.tsv", [("text", "n"), ("a\tb\nc", 3), ("", 0.5)])
    assert (tmp_path / "a.tsv").read_text() == "text\tn\na b c\t3\n\t0.5\n"
