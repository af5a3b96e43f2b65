"""Grades extraction/layers.py: what is compared with what, on which texts, with how many labels."""

from functools import partial

import numpy as np
import pytest
import small
import torch

from minilm.extraction import layers
from minilm.extraction.features import Reading, checked_rows, extract, extract_tokens, nearest
from minilm.extraction.layers import RESULTS, Probe, compare_layers, probe_tables, random_twin, table_rows
from minilm.extraction.probe import bag_of_words, standardised, tf_idf
from minilm.tokenizer.rows import word_rows

TOKENIZER, MODEL = small.tokenizer(), small.model("masked", seed=4)
SEEN, UNSEEN = ("bread", "a lamp"), ("pens", "hats")


def texts(n: int, words: tuple[str, str], seed: int) -> list[str]:
    """n texts; one of two words, in turn, tells the class of each."""
    names = np.random.default_rng(seed).choice(["Ana", "Rui", "Eva"], n)
    return [f"{name} sells {words[i % 2]}." for i, name in enumerate(names)]


PARTS = [texts(20, SEEN, 0), texts(8, SEEN, 1), texts(8, UNSEEN, 2)]
ROWS = checked_rows(TOKENIZER, MODEL.config, [text for part in PARTS for text in part])
Y = [np.arange(n) % 2 for n in (20, 8, 8)]
PROBE = Probe(Y, n_draw=3, seed=0)
BAGS = tf_idf(*bag_of_words(*PARTS))


def fingerprint(x, y, test_x, test_y, n_label=None, n_draw=1, seed=0) -> float:
    """A number from 0 to 1 that depends on all arguments, in place of an accuracy."""
    parts = [np.abs(side).sum(1) @ (1 + classes) for side, classes in ((x, y), (test_x, test_y))]
    return float(parts[0] + 3 * parts[1] + 0.37 * (n_label or 0) + 0.11 * n_draw + 0.07 * seed) % 1


near = partial(pytest.approx, abs=2e-3)  # vectors of other batches differ in their last digits


@pytest.fixture
def fingerprints(monkeypatch):
    """No probe is trained."""
    monkeypatch.setattr(layers, "probe_accuracy", fingerprint)


def test_vectors_are_cut_into_parts_of_one_scale():
    x = np.random.default_rng(0).normal(5, 3, (36, 2))
    found = PROBE.parts(x)
    assert [len(part) for part in found] == [20, 8, 8], "np.split takes the places of the cuts: 20 and 28"
    expected = (x - x[:20].mean(0)) / x[:20].std(0)
    told = "all parts on the scale of the first: its mean and deviation"
    assert np.concatenate(found) == pytest.approx(expected, rel=1e-4, abs=1e-5), told


def test_a_probe_measures_the_part_that_is_asked_for():
    assert PROBE.accuracy(BAGS, "all") == 1, "the word tells the label"
    assert PROBE.accuracy(BAGS, "all", 2) == pytest.approx(0.5, abs=0.3), "words never seen tell nothing"


def test_a_probe_learns_from_so_many_labels_of_each_class(fingerprints):
    ask = lambda n_label: fingerprint(BAGS[0], Y[0], BAGS[1], Y[1], n_label, 3, 0)
    assert PROBE.accuracy(BAGS, 2) == ask(2) != ask(None) == PROBE.accuracy(BAGS, "all")


def test_the_twin_has_other_weights_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    twins = [random_twin(MODEL, seed).tokens.weight for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state), "torch's generator must be left as it was: fork_rng"
    assert torch.equal(twins[0], twins[1]) and not torch.equal(twins[0], twins[2])
    assert twins[0].shape == MODEL.tokens.weight.shape
    assert not torch.equal(twins[0], MODEL.tokens.weight), "the twin has weights of its own"
    assert not random_twin(MODEL, 1).training, "a twin in training mode would read with dropout"


def test_the_layer_table_takes_as_many_texts_of_each_class(monkeypatch):
    assert layers.TABLE_TEXTS == 2000
    monkeypatch.setattr(layers, "TABLE_TEXTS", 6)
    y = np.array([0] * 10 + [1] * 2 + [2] * 10)
    for n_label in (1, "all"):
        told = "TABLE_TEXTS, here 6, are shared by the classes"
        assert table_rows(y, n_label).tolist() == [0, 1, 10, 11, 12, 13], told
    assert np.bincount(y[table_rows(y, 5)]).tolist() == [5, 2, 5], "as many as there are labels to draw"
    monkeypatch.setattr(layers, "TABLE_TEXTS", 2)
    assert table_rows(y, "all").tolist() == [0, 10, 12], "one of each class at least"


def test_layers_are_compared_on_the_vectors_of_their_own_texts(fingerprints, monkeypatch):
    monkeypatch.setattr(layers, "TABLE_TEXTS", 8)
    twin = random_twin(MODEL, 0)
    header, rows, by_pooling = compare_layers(MODEL, twin, ROWS, PROBE, 2, dict(tokens_per_batch=64))
    assert header == ("layer", "cls", "mean", "max", "last")
    assert [row[0] for row in rows] == ["0", "1", "mean-last-4", "concat-last-4"]
    assert all(row[1] == row[3] == row[4] == "" for row in rows[2:]), "the last four stand under the mean"
    train, test = table_rows(Y[0], 2), table_rows(Y[1], 1)
    assert len(train) == len(test) == 8
    some = checked_rows(TOKENIZER, MODEL.config, [(PARTS[0] + PARTS[1])[i] for i in [*train, *(test + 20)]])
    smaller = Probe([Y[0][train], Y[1][test]], 3, 0)
    places = {Reading(0, "max"): (0, 3), Reading(1, "mean"): (1, 2), Reading(-1, "concat-last-4"): (3, 2)}
    for one, (row, column) in places.items():
        vectors = [extract(model, some, [one])[0] for model in (MODEL, twin)]
        ours, fresh = (smaller.accuracy(smaller.parts(x), 2) for x in vectors)
        assert [float(word.strip("()")) for word in rows[row][column].split()] == near([ours, fresh]), one
        if one.layer >= 0:
            assert by_pooling[one.pooling][one.layer] == near(ours) and len(by_pooling[one.pooling]) == 2


STORIES = {
    name: [(f"{who} sells {words[i % 2]}.", "xy"[i % 2]) for i, who in enumerate(["Ana", "Rui", "Eva"] * n)]
    for name, n, words in (("train", 6, SEEN), ("test", 2, SEEN), ("unseen", 2, UNSEEN))
}
LAST = Reading(1, "mean")


def tables_of(parts, asked, n_draw=1, seed=0, one=LAST) -> tuple:
    """Return the vectors of the texts, and the figures and the lines that `probe_tables` makes of them."""
    rows = checked_rows(TOKENIZER, MODEL.config, [text for part in parts.values() for text, _ in part])
    (vectors,) = extract(MODEL, rows, [one])
    how = dict(tokens_per_batch=64)
    return vectors, *probe_tables(MODEL, rows, parts, one, vectors, asked, n_draw, seed, how)


def test_the_tables_name_their_figures(fingerprints):
    vectors, found, lines = tables_of(STORIES, (1, 50, 9), 3, 7)
    texts = [[text for text, _ in part] for part in STORIES.values()]
    probe = Probe([np.array(["xy".index(label) for _, label in part]) for part in STORIES.values()], 3, 7)
    rows = checked_rows(TOKENIZER, MODEL.config, [text for part in texts for text in part])
    (random,) = extract(random_twin(MODEL, 7), rows, [LAST])
    sides = [probe.parts(vectors), probe.parts(random), tf_idf(*bag_of_words(*texts))]
    for name, side in zip(RESULTS, sides, strict=True):
        assert found[name] == near(probe.accuracy(side, 1)), name
        assert found[f"unseen_{name}"] == near(probe.accuracy(side, 1, 2)), name
    assert found["labels_a_class"] == 1
    assert "Labels per class: 50 left out" in lines[0]
    expected = ["Test texts, each with the nearest training text:", ""]
    for (text, label), vector in zip(STORIES["unseen"][:2], vectors[-6:], strict=False):
        ((i, cosine),) = nearest(vectors[:18], vector, 1)
        learnt, its_label = STORIES["train"][i]
        expected += [f"  {text}  ({label})", f"    {cosine:.3f}  {learnt}  ({its_label})"]
    assert lines[-7:] == [*expected, ""], "two texts to test on, each with the nearest to learn from"
    out = "\n".join(lines)
    assert "layer 1, mean pooling; mean of 3 draws" in out
    tables = [[line.split() for line in lines[i].splitlines()[-2:]] for i in (4, 8)]
    for test, rows in enumerate(tables, start=1):
        for n, row in zip((1, 9), rows, strict=True):
            accuracies = [probe.accuracy(side, n, test) for side in sides]
            assert row[0] == str(n) and row[-1] == "0.500", "labels per class, majority class"
            assert [float(word) for word in row[1:-1]] == near(accuracies), "each side"
    _, few, told = tables_of(STORIES, (50, 16))
    assert few["labels_a_class"] == "all" and "50, 16 left out" in told[0], "a class has nine examples"
    assert "are in no labelled text" in out and "Layer x pooling (labels per class: 1)" in out


def test_classes_of_unequal_size_have_their_commonest_and_their_rarest(fingerprints):
    parts = dict(train=STORIES["train"][:-1], test=[*STORIES["test"], *STORIES["test"][::2]])
    *_, lines = tables_of(parts, (1, 9))
    assert "Labels per class: 9 left out" in lines[0], "the rarest class must have as many: here one has 8"
    share = max(np.bincount(["xy".index(label) for _, label in parts["test"]])) / len(parts["test"])
    assert lines[4].splitlines()[-1].endswith(f"{share:.3f}"), "always the commonest class: its share"


SENTENCES = [text.replace(".", " .").split() for text in small.documents(12, seed=3)]
WORD_ROWS, PLACES = word_rows(TOKENIZER, MODEL.config, SENTENCES, 24)
WORDS = [word for one, at in zip(SENTENCES, PLACES, strict=True) for word in one[: len(at)]]
TAGS = ["who" if word in ("Ana", "Rui", "baker") else "what" for word in WORDS]
IS_TEST = np.arange(len(WORDS)) >= 100


def control_table(monkeypatch, words=WORDS, tags=TAGS, seed=5, layer=1) -> tuple:
    """Return what is made of fingerprints, and the classes that the probes were given."""
    seen = []

    def probed(x, y, test_x, test_y):
        seen.append([*y.tolist(), *test_y.tolist()])
        return fingerprint(x, y, test_x, test_y)

    monkeypatch.setattr(layers, "probe_accuracy", probed)
    how = dict(tokens_per_batch=64)
    return layers.control_table(MODEL, WORD_ROWS, PLACES, layer, words, tags, IS_TEST, seed, how), seen


def test_a_control_label_is_drawn_once_for_each_spelling(monkeypatch):
    _, (tags, control, *others) = control_table(monkeypatch)
    assert tags == [int(tag == "who") for tag in TAGS] and others == [tags, control] * 3, "one task for all"
    label = dict(zip(WORDS, control, strict=True))
    assert control == [label[word] for word in WORDS], "its spelling decides the label, its place must not"
    assert {*control} == {0, 1} and control != tags
    assert control == control_table(monkeypatch)[1][1] != control_table(monkeypatch, seed=6)[1][1]
    names = [str(i) for i in range(len(WORDS))]  # each word another one: a draw each
    n, share = len(WORDS), TAGS.count("who") / len(WORDS)
    n_who = sum(sum(control_table(monkeypatch, names, seed=seed)[1][1]) for seed in range(3))
    assert small.within_5_sigma(n_who, 3 * n, share), "as often as the tags occur, no tag as often as any"
    assert abs(share - 0.5) > 0.2, "a test that cannot tell"


def test_the_control_table_probes_each_layer_on_words_that_were_put_aside(monkeypatch):
    (figures, lines), (tags, control, *_) = control_table(monkeypatch)
    assert control_table(monkeypatch, layer=0)[0][0] != figures, "not those of the layer asked for"
    for number, line in enumerate(lines[2].splitlines()[2:]):
        expected = []
        for y in map(np.array, (tags, control)):
            for side in (MODEL, random_twin(MODEL, 5)):
                states = extract_tokens(side, WORD_ROWS, number, tokens_per_batch=64)
                x = np.array([states[i][place] for i, at in enumerate(PLACES) for place in at])
                x, test_x = standardised(x[:100], x[100:])
                expected.append(fingerprint(x, y[:100], test_x, y[100:]))
        a, fresh_a, b, fresh_b = expected
        cells = [(a, fresh_a), (b, fresh_b), (a - b, fresh_a - fresh_b)]
        expected = [str(number), *(cell for c, d in cells for cell in (f"{c:.3f}", f"({d:.3f})"))]
        told = "tags, control task, selectivity = tags - control; in brackets the twin"
        assert line.split() == expected, told
    assert number == 1 and figures == dict(probe_accuracy=a, control_accuracy=b, selectivity=a - b)
    share = TAGS[100:].count("what") / len(TAGS[100:])
    assert f"on {len(TAGS[100:])} words (majority class: {share:.3f})" in lines[0]


@pytest.mark.parametrize(
    "one, told", [(Reading(0, "max"), "layer 0, max"), (Reading(-1, "mean-last-4"), "mean-last-4")]
)
def test_a_table_says_what_it_was_read_from_and_has_a_part_for_each_to_test_on(one, told, fingerprints):
    parts = {name: STORIES[name] for name in ("train", "test")}
    _, found, lines = tables_of(parts, (1,), n_draw=2, one=one)
    assert f"probe, {told} pooling; mean of 2 draws (all: 1), 6 texts:" in lines[0]
    assert set(found) == {*RESULTS, "layers", "labels_a_class"}, "no words were kept from labels here"


def test_of_few_texts_the_layer_table_learns_from_all_labels_and_tests_one_a_class(fingerprints, monkeypatch):
    seen, plain = [], layers.extract
    monkeypatch.setattr(layers, "TABLE_TEXTS", 1)
    monkeypatch.setattr(layers, "extract", lambda *given: seen.append(len(given[1])) or plain(*given))
    compare_layers(MODEL, random_twin(MODEL, 0), ROWS, PROBE, 3, {})
    assert seen == [2 * 3 + 2 * 1] * 2
