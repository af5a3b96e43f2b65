"""Grades extraction/probe_table.py: what is compared with what, on which texts, with how many labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch

from minilm.extraction import probe_table
from minilm.extraction.feature_files import Examples
from minilm.extraction.features import POOLINGS, Reading, all_readings, checked_rows, extract
from minilm.extraction.probe import probe_accuracy
from minilm.extraction.probe_table import (
    RESULTS,
    Task,
    Vectors,
    compare_layers,
    label_table,
    layer_table,
    print_neighbours,
    random_twin,
    report,
    table_rows,
    usable_labels,
    words_as_vectors,
)

TOKENIZER, MODEL = small.tokenizer(), small.model("masked", seed=4)
SEEN, UNSEEN = ("bread", "a lamp"), ("pens", "hats")


def examples(n: int, words: tuple[str, str], seed: int) -> Examples:
    """n texts that tell their label by one of two words."""
    names = np.random.default_rng(seed).choice(["Ana", "Rui", "Eva"], n)
    return Examples(
        "f",
        [f"{name} sells {words[i % 2]}." for i, name in enumerate(names)],
        ["xy"[i % 2] for i in range(n)],
    )


PARTS = dict(train=examples(20, SEEN, 0), test=examples(8, SEEN, 1), unseen=examples(8, UNSEEN, 2))
ROWS = checked_rows(TOKENIZER, MODEL.config, [text for part in PARTS.values() for text in part.texts])
SIZES = [20, 8, 8]
Y = [np.arange(n) % 2 for n in SIZES]


def task() -> Task:
    return Task(Y[0], Y[1:], n_draw=3, seed=0)


def test_vectors_are_cut_into_parts_of_one_scale():
    x = np.random.default_rng(0).normal(5, 3, (36, 2))
    found = Vectors.of(x, SIZES)
    assert [len(part) for part in (found.train, *found.tests)] == SIZES
    mean, deviation = x[:20].mean(0), x[:20].std(0)
    np.testing.assert_allclose(found.train, (x[:20] - mean) / deviation, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.tests[1], (x[28:] - mean) / deviation, rtol=1e-4, atol=1e-5)


def test_a_task_measures_the_test_set_that_is_asked_for():
    vectors = words_as_vectors(*(part.texts for part in PARTS.values()))
    assert task().accuracy(vectors, None) == 1, "the word tells the label"
    assert task().accuracy(vectors, None, 1) == pytest.approx(0.5, abs=0.3), "words never seen tell nothing"
    expected = probe_accuracy(vectors.train, Y[0], vectors.tests[0], Y[1], 2, 3, 0)
    assert task().accuracy(vectors, 2) == expected
    assert Task(Y[0], [np.array([1, 1, 0, 1])], 1, 0).chance() == 0.75


def test_the_twin_has_other_weights_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    twins = [random_twin(MODEL, seed).tokens.weight for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(twins[0], twins[1]) and not torch.equal(twins[0], twins[2])
    assert twins[0].shape == MODEL.tokens.weight.shape and not torch.equal(twins[0], MODEL.tokens.weight)
    assert not random_twin(MODEL, 1).training


def test_numbers_of_labels_that_a_class_lacks_are_left_out():
    few = Task(np.array([0, 0, 0, 1, 1]), [], 1, 0)
    assert usable_labels(few, (1, 2, 3, "all")) == ([1, 2, "all"], [3])
    assert usable_labels(few, (4, 16)) == (["all"], [4, 16])


def test_a_row_for_each_number_of_labels():
    vectors = words_as_vectors(*(part.texts for part in PARTS.values()))
    noise = Vectors(vectors.train * 0, [x * 0 for x in vectors.tests])
    rows = label_table(task(), [vectors, noise], [2, "all"])
    assert rows == [
        ("2", task().accuracy(vectors, 2), 0.5, 0.5),
        ("all", task().accuracy(vectors, None), 0.5, 0.5),
    ]
    assert label_table(task(), [vectors], ["all"], test=1)[0][1] == task().accuracy(vectors, None, 1)


def test_the_layer_table_takes_as_many_texts_of_each_class(monkeypatch):
    monkeypatch.setattr(probe_table, "TABLE_TEXTS", 6)
    y = np.array([0] * 10 + [1] * 2 + [2] * 10)
    assert table_rows(y, 1).tolist() == [0, 1, 10, 11, 12, 13]
    assert table_rows(y, "all").tolist() == [0, 1, 10, 11, 12, 13]
    assert np.bincount(y[table_rows(y, 5)]).tolist() == [5, 2, 5], "as many as there are labels to draw"


def test_each_cell_of_the_layer_table_is_its_readings():
    readings = all_readings(MODEL.config)
    names = list(readings)

    def fake(n_good: int) -> dict:
        """Vectors that tell the class in the first n readings, and nothing in the others."""
        made = {}
        for i, name in enumerate(names):
            x = (2.0 * np.concatenate(Y) - 1)[:, None] * (i < n_good) + np.zeros((36, 1))
            made[name] = Vectors.of(x, SIZES)
        return made

    header, rows = layer_table(task(), fake(5), fake(1), "all")
    assert header == ("layer", *POOLINGS[:4])
    good, bad = "1.000 (0.500)", "0.500 (0.500)"
    assert rows == [
        ("0", "1.000 (1.000)", good, good, good),
        ("1", good, bad, bad, bad),
        ("mean-last-4", "", bad, "", ""),
        ("concat-last-4", "", bad, "", ""),
    ]


def test_layers_are_compared_on_the_vectors_of_their_own_texts(monkeypatch):
    monkeypatch.setattr(probe_table, "TABLE_TEXTS", 8)
    twin = random_twin(MODEL, 0)
    _, rows = compare_layers(MODEL, twin, ROWS, task(), 2, dict(tokens_per_batch=64))
    train, test = table_rows(Y[0], 2), table_rows(Y[1], 1)
    assert len(train) == len(test) == 8
    numbers = [*train, *(test + 20)]
    some = checked_rows(
        TOKENIZER, MODEL.config, [(PARTS["train"].texts + PARTS["test"].texts)[i] for i in numbers]
    )
    smaller = Task(Y[0][train], [Y[1][test]], 3, 0)
    cells = []
    for model in (MODEL, twin):
        (x,) = extract(model, some, [Reading(1, "mean")])
        cells.append(smaller.accuracy(Vectors.of(x, [8, 8]), 2))
    assert rows[1][2] == f"{cells[0]:.3f} ({cells[1]:.3f})"


def test_the_report_names_its_figures(capsys):
    (vectors,) = extract(MODEL, ROWS, [Reading(1, "mean")])
    settings = SimpleNamespace(labels=(1, 50, "all"), draws=3, seed=7)
    how = dict(tokens_per_batch=64)
    found = report(MODEL, ROWS, PARTS, Reading(1, "mean"), vectors, settings, how)
    seven = Task(Y[0], Y[1:], 3, 7)
    (random,) = extract(random_twin(MODEL, 7), ROWS, [Reading(1, "mean")])
    sides = [Vectors.of(vectors, SIZES), Vectors.of(random, SIZES)]
    sides.append(words_as_vectors(*(part.texts for part in PARTS.values())))
    for name, side in zip(RESULTS, sides, strict=True):
        assert found[name] == seven.accuracy(side, 1), name
        assert found[f"unseen_{name}"] == seven.accuracy(side, 1, 1), name
    assert found["labels_a_class"] == 1
    out = capsys.readouterr().out
    assert "Labels a class: 50 left out" in out and "layer 1, mean, the mean of 3 draws" in out
    assert "stand in no labelled text" in out and "Layer x pooling (labels a class: 1)" in out


def test_neighbours_are_texts_to_learn_from(capsys):
    train, test = Examples("f", ["aa", "bb"], ["x", "y"]), Examples("f", ["cc"], ["y"])
    vectors = np.array([[1.0, 0], [0, 1], [0.1, 1]])
    print_neighbours([train, test], vectors, [2, 1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["  cc  (y)", "    0.995  bb  (y)"]
