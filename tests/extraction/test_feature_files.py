"""Grades extraction/feature_files.py: which texts and labels are read, how they are split and written."""

from collections import Counter

import numpy as np
import pytest

from minilm import world
from minilm.extraction import feature_files
from minilm.extraction.feature_files import (
    Examples,
    classes_of,
    jsonl_texts,
    read_examples,
    read_parts,
    save_features,
    save_texts,
    split_examples,
    world_examples,
)
from minilm.plumbing.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(feature_files, "WORLD_TRAIN", 24)
    monkeypatch.setattr(feature_files, "WORLD_TEST", 18)


def write(name: str, text: str) -> str:
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)
    return name


def test_the_world_tests_on_other_stories_and_on_words_without_a_label():
    train, test, unseen = world_examples(0)
    assert (len(train), len(test), len(unseen)) == (24, 18, 18)
    for part in (train, test, unseen):
        assert len(set(Counter(part.labels).values())) == 1 and set(part.labels) == set(world.PLACES)
    assert not set(train.texts) & set(test.texts)
    in_training = {text for text, _ in world.labelled(24, 0)}
    assert not in_training & set(train.texts), "not the stories of pre-training"
    words = [
        {w for w in " ".join(part.texts).replace(".", "").split() if world.place_of(w)}
        for part in (train, unseen)
    ]
    assert words[0] and words[1] and not words[0] & words[1]
    assert world_examples(1)[0].texts != train.texts


def test_tables_have_labels_and_documents_none():
    rows = [("Ana sat.", "calm"), ("Rui ran.", "fast")]
    made = [
        write("a.tsv", "".join(f"{text}\t{label}\n" for text, label in rows)),
        write("a.csv", "label,text\n" + "".join(f"{label},{text}\n" for text, label in rows)),
        write("a.jsonl", "".join(f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows)),
    ]
    for name in made:
        found = read_examples(name)
        assert (found.source, found.texts, found.labels) == (
            name,
            ["Ana sat.", "Rui ran."],
            ["calm", "fast"],
        )
    for name in (
        write("b.txt", "Ana sat.\n\nRui ran.\n"),
        write("b.jsonl", '{"text": "Ana sat."}\n\n{"text": "Rui ran."}\n'),
    ):
        found = read_examples(name)
        assert (found.texts, found.labels) == (["Ana sat.", "Rui ran."], None)
    assert len(read_examples(".").texts) == 6, "a folder is its .txt and .jsonl files"


def test_an_empty_text_or_label_is_named_by_its_line():
    with pytest.raises(UserError, match="a.tsv, line 2: nothing in 'text'"):
        read_examples(write("a.tsv", "Ana\tx\n \ty\n"))
    with pytest.raises(UserError, match="a.jsonl, line 2: an empty text"):
        read_examples(write("a.jsonl", '{"text": "Ana"}\n{"text": " "}\n'))
    with pytest.raises(UserError, match="a.jsonl, line 2: no field 'label'"):
        read_examples(write("a.jsonl", '{"text": "Ana", "label": "x"}\n{"text": "Rui"}\n'))
    with pytest.raises(UserError, match="e.txt: no text"):
        read_examples(write("e.txt", " \n\n"))
    with pytest.raises(UserError, match="e.jsonl: no text"):
        jsonl_texts(write("e.jsonl", "\n"))
    with pytest.raises(UserError, match="did you mean 'a.tsv'"):
        read_examples("b.tsv")


def test_a_quarter_of_each_class_is_for_testing():
    labels = ["x"] * 8 + ["y"] * 2 + ["z"] * 5
    examples = Examples("f", [f"t{i}" for i in range(15)], labels)
    train, test = split_examples(examples, seed=3)
    assert Counter(test.labels) == dict(x=2, y=1, z=1)
    assert sorted(train.texts + test.texts) == sorted(examples.texts), "each text in one part"
    assert all(labels[int(t[1:])] == label for t, label in zip(train.texts, train.labels, strict=True))
    assert split_examples(examples, 3)[1].texts == test.texts != split_examples(examples, 4)[1].texts
    with pytest.raises(UserError, match="f: the label 'y' has one example"):
        split_examples(Examples("f", ["a", "b", "c"], ["x", "y", "x"]), 0)


def test_classes_are_the_sorted_labels_of_the_training_part():
    train = Examples("f", list("abc"), ["pear", "fig", "pear"])
    names, (train_y, test_y) = classes_of(train, Examples("g", ["d"], ["pear"]))
    assert names == ["fig", "pear"] and train_y.tolist() == [1, 0, 1] and test_y.tolist() == [1]
    with pytest.raises(UserError, match="g: the label 'kiwi' is in no example of f"):
        classes_of(train, Examples("g", ["d"], ["kiwi"]))
    with pytest.raises(UserError, match="--probe: g has no labels"):
        classes_of(train, Examples("g", ["d"]))
    with pytest.raises(UserError, match="--probe: h has the single label 'fig'"):
        classes_of(Examples("h", ["a", "b"], ["fig", "fig"]))
    assert train.part([2, 1]) == Examples("f", ["c", "b"], ["pear", "fig"])


def test_the_parts_of_a_command():
    labelled = write("a.tsv", "".join(f"text {i}\t{i % 2}\n" for i in range(8)))
    plain, other = write("b.txt", "Ana sat."), write("c.tsv", "one\t0\n")
    sizes = lambda *given: {name: len(part) for name, part in read_parts(*given, seed=0).items()}
    assert sizes("world", None, None) == dict(train=24, test=18, unseen=18)
    assert sizes(labelled, None, None) == sizes(labelled, None, True) == dict(train=6, test=2)
    assert sizes(labelled, None, False) == dict(train=8)
    assert sizes(labelled, other, None) == dict(train=8, test=1)
    assert sizes("world", write("d.tsv", "x\tbeach\n"), None) == dict(train=24, test=1)
    assert sizes(plain, None, None) == sizes(plain, None, False) == dict(train=1)
    for given in ((plain, None, True), (plain, other, None), (labelled, plain, None)):
        with pytest.raises(UserError, match="b.txt has no labels; give a .tsv"):
            read_parts(*given, seed=0)
    single = write("s.tsv", "one\t0\ntwo\t0\n")
    with pytest.raises(UserError, match="single label '0'"):
        read_parts(single, None, None, 0)


def test_the_file_has_a_row_a_text_and_needs_no_pickle():
    parts = dict(train=Examples("f", ["é", "bb"], ["x", "yy"]), test=Examples("f", ["c"], ["x"]))
    vectors = np.arange(6.0).reshape(3, 2)
    save_texts("v.npz", vectors, parts)
    with np.load("v.npz", allow_pickle=False) as found:
        assert found["embeddings"].dtype == np.float32 and (found["embeddings"] == vectors).all()
        assert found["texts"].tolist() == ["é", "bb", "c"]
        assert found["labels"].tolist() == ["x", "yy", "x"]
        assert found["split"].tolist() == ["train", "train", "test"]
    save_texts("v.npz", vectors[:1], dict(train=Examples("f", ["c"])))
    with np.load("v.npz") as found:
        assert set(found.files) == {"embeddings", "texts", "split"}, "no labels, no column"
    with pytest.raises(UserError, match="cannot be written"):
        save_features("nowhere/v.npz", vectors)
