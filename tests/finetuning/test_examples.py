"""Grades finetuning/examples.py: what is learnt from, watched and measured on, all different."""

from pathlib import Path

import pytest
import tuned

from minilm.finetuning import examples
from minilm.finetuning.classification import Classification
from minilm.finetuning.examples import (
    file_examples,
    load_examples,
    looks_like_header,
    read_file,
    world_examples,
)
from minilm.finetuning.registry import TASKS
from minilm.plumbing.errors import UserError
from minilm.world import HELD_OUT_THINGS, SINGULAR_OF


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with a few files; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examples, "WORLD_VALIDATION", 12)
    monkeypatch.setattr(examples, "WORLD_TEST", 18)
    write("train.tsv", [f"text {i}\t{'xyz'[i % 3]}" for i in range(40)])
    write("test.tsv", ["other\tx", "more\ty"])


def write(name: str, lines: list[str]) -> None:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def files(**changes):
    return load_examples(tuned.settings(data=("train.tsv",), test="test.tsv", **changes))


def test_no_topic_word_of_the_worlds_test_examples_has_had_a_label():
    found = load_examples(tuned.settings(n_examples=24))
    assert (len(found.train), len(found.validation), len(found.test)) == (24, 12, 18)

    def things(part):
        words = {word.strip(".,") for text, _ in part for word in text.split()}
        return {SINGULAR_OF[word] for word in words if word in SINGULAR_OF}

    held = {thing for place in HELD_OUT_THINGS.values() for thing in place}
    assert things(found.test) <= held and not things(found.train + found.validation) & held
    assert {text for text, _ in found.train}.isdisjoint(text for text, _ in found.validation)
    other = world_examples(Classification, 24, seed=1)
    assert other.test == found.test and other.train != found.train, "seeds draw what is learnt from alone"


def test_a_tenth_of_the_users_examples_is_watched():
    found = files()
    assert (len(found.train), len(found.validation), len(found.test)) == (36, 4, 2)
    assert set(found.train).isdisjoint(found.validation)
    assert found.test == [("other", "x"), ("more", "y")] and found.name == "train.tsv"
    assert files(seed=1).validation != found.validation
    assert set(found.train + found.validation) == {(f"text {i}", "xyz"[i % 3]) for i in range(40)}
    write("train.tsv", ["alone\tx"])
    with pytest.raises(UserError, match="train.tsv: 1 example; needs at least two"):
        files()


def test_files_of_their_own_are_watched_and_measured_on():
    write("watch.tsv", ["w\tz"])
    found = files(validation="watch.tsv")
    assert len(found.train) == 40 and found.validation == [("w", "z")]
    found = load_examples(tuned.settings(data=("train.tsv", "test.tsv")))
    assert len(found.train) + len(found.validation) == 42 and found.test == found.validation
    assert found.name == "train.tsv and test.tsv"


def test_few_examples_are_drawn_by_the_seed_with_all_classes():
    found = files(n_examples=6)
    assert sorted(label for _, label in found.train) == ["x", "x", "y", "y", "z", "z"]
    assert files(n_examples=6, seed=1).train != found.train
    assert len(files(n_examples=500).train) == 36
    with pytest.raises(UserError, match="--n-examples 2: fewer examples than the 3 classes"):
        files(n_examples=2)


def test_what_is_wrong_with_a_file_is_one_line():
    write("test.tsv", ["a\tX", "b\tX", "c\ty"])
    with pytest.raises(UserError, match=r"test.tsv: labels that training does not have: 'X' \(2 times\)"):
        files()
    write("test.tsv", ["a\tx", "alone", "\ty"])
    with pytest.raises(UserError, match="test.tsv, line 2: found 1 columns, expected 2"):
        files()
    assert files(skip_bad=True).notes == ("left out 2 examples (--skip-bad)",)
    write("train.tsv", ["a\tx", "b\tx", "c\tx"])
    with pytest.raises(UserError, match="all 2 examples have the label 'x'"):
        file_examples(Classification, tuned.settings(data=("train.tsv",)))
    with pytest.raises(UserError, match="--test t.tsv: needs --data"):
        load_examples(tuned.settings(test="t.tsv"))
    with pytest.raises(UserError, match="no such file"):
        load_examples(tuned.settings(data=("absent.tsv",)))


def test_an_error_says_what_the_files_of_a_task_hold():
    write("a.txt", ["some text"])
    with pytest.raises(UserError, match=r"expected .tsv, .*\(--task classification reads text and label"):
        read_file(Classification, "a.txt")
    assert read_file(Classification, "test.tsv")[0] == [("other", "x"), ("more", "y")]


def test_a_header_with_other_names_is_pointed_out():
    write("train.tsv", ["review\tsentiment"] + [f"text {i}\t{'xyz'[i % 3]}" for i in range(40)])
    assert any("labelled 'sentiment'" in note and "text and label" in note for note in files_or_notes())
    write("train.tsv", ["a\tx"] + [f"text {i}\t{'xyz'[i % 3]}" for i in range(40)])
    assert files_or_notes() == (), "an ordinary first line"
    assert looks_like_header(Classification, [("a", "x"), ("b", "y")], "t") == [], "one example a class"
    assert looks_like_header(TASKS["text-to-text"], [("a", "x"), ("b", "y"), ("c", "y")], "t") == []


def files_or_notes() -> tuple[str, ...]:
    """Return the notes on train.tsv, all of whose labels are known from what is learnt."""
    train = Classification.read("train.tsv")[0]
    write("watched.tsv", [f"{text}\t{label}" for text, label in train])
    made = tuned.settings(data=("train.tsv",), validation="watched.tsv", test="test.tsv")
    return load_examples(made).notes
