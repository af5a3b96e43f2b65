"""Grades in_context/prompt_files.py: questions from a user's files, one line for mistakes."""

from pathlib import Path

import pytest

from minilm.in_context.prompt_files import FileQuestions, named
from minilm.plumbing.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"text {i}\t{'good' if i < 12 else 'bad'}" for i in range(20)]  # sorted by label
    Path("train.tsv").write_text("\n".join(rows), encoding="utf-8")
    Path("test.tsv").write_text("label\ttext\nbad\tx\ngood\ty\nbad\tz\n", encoding="utf-8")


def read(
    test: str | None = "test.tsv", n_test: int = 99, words=(), template="{text} {label}", separator="\\n"
):
    return FileQuestions("train.tsv", test, n_test, words, template, separator)


def test_the_examples_and_the_texts_come_from_their_files():
    files = read()
    asked = files.questions(3, seed=0)
    assert [(q.text, q.label) for q in asked] == [("x", "bad"), ("y", "good"), ("z", "bad")]
    assert all(text.startswith("text ") for text, _ in asked[0].examples) and len(asked[0].examples) == 3
    assert files.questions(3, seed=1)[0].examples != asked[0].examples
    assert files.format.labels == ["bad", "good"] and files.format.separator == "\n", "backslash n is typed"
    assert files.majority() == pytest.approx(1 / 3), "the commonest label of the examples, not of the tests"


def test_few_texts_are_asked_where_few_are_wanted():
    files = read(n_test=2)
    assert len(files.questions(0, 0)) == 2
    assert [q.text for q in files.questions(0, 0)] == [q.text for q in read(n_test=2).questions(1, 5)]


def test_without_a_test_file_some_rows_are_held_back():
    files = read(test=None)
    asked = {q.text for q in files.questions(0, 0)}
    assert len(asked) == 4 and len(files.examples) == 16
    assert not asked & {text for text, _ in files.examples}, "a text to ask must be no example"
    assert {label for _, label in files.examples} == {"good", "bad"}, "a sorted file was cut at its end"
    Path("train.tsv").write_text("a\t0\nb\t1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.tsv: 2 rows.*--test"):
        read(test=None)


def test_labels_get_their_words():
    assert named(["0", "1"], ()) == {"0": "0", "1": "1"}
    assert named(["0", "1"], ["1=good=fine"]) == {"0": "0", "1": "good=fine"}
    assert read(words=["bad=poor"]).format.words == {"bad": "poor", "good": "good"}
    for wrong in ("good", "gud=x", "=x"):
        with pytest.raises(UserError, match=f"--label-words {wrong}.*bad, good"):
            read(words=[wrong])


def test_a_label_of_the_test_file_alone_is_named():
    Path("test.tsv").write_text("x\tgood\ny\tmixed\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"test\.tsv, row 2.*'mixed'.*train\.tsv \(bad, good\)"):
        read()


def test_more_examples_than_there_are_is_named():
    assert len(read().questions(20, 0)[0].examples) == 20
    with pytest.raises(UserError, match=r"--shots 21: train\.tsv has 20 examples"):
        read().questions(21, 0)
