"""How much a probe reads out of a pre-trained model, compared with what needs no pre-training.

There are two baselines, since a probe learns much by itself: the same network with random weights, which
mixes its inputs but knows nothing, and a bag of words. The layer x pooling table shows which vectors to take.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..model.transformer import build
from ..plumbing.script import table
from ..tokenizer.rows import RaggedRows
from .features import LAST_4, ONE_LAYER, Reading, extract, extract_tokens, n_layer, nearest
from .probe import bag_of_words, probe_accuracy, standardised, tf_idf

TABLE_TEXTS = 2000  # at most about so many texts per part: all readings of all texts may not fit into memory
RESULTS = ("probe_accuracy", "random_probe_accuracy", "bag_of_words_accuracy")
CONTROL = ("probe_accuracy", "control_accuracy", "selectivity")
HEADER = ("labels per class", "pre-trained", "random weights", "bag of words", "majority class")


@dataclass
class Probe:
    """A probe that is trained on the first part; vectors are a list, (n, D) for each part, on one scale."""

    classes: list[np.ndarray]  # (n,) for each part
    n_draw: int
    seed: int

    def parts(self, vectors: np.ndarray) -> list[np.ndarray]:
        """Split the vectors (N, D) of all texts into parts, standardised by the first one."""
        return standardised(*np.split(vectors, np.cumsum([len(y) for y in self.classes])[:-1]))

    def accuracy(self, vectors: list[np.ndarray], n_label, test: int = 1) -> float:
        """Return the accuracy on part `test` of a probe with `n_label` ("all": all) labels per class."""
        sides = vectors[0], self.classes[0], vectors[test], self.classes[test]
        return probe_accuracy(*sides, None if n_label == "all" else n_label, self.n_draw, self.seed)


def random_twin(model, seed: int) -> torch.nn.Module:
    """Return a model of the same shape with fresh weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(model.config).to(model.tokens.weight.device).eval()


def table_rows(y: np.ndarray, n_label) -> np.ndarray:
    """Return the examples that the layer table uses: equally many of each class, about TABLE_TEXTS in all."""
    classes = np.unique(y)
    n_each = max(TABLE_TEXTS // len(classes), 1 if n_label == "all" else n_label)
    return np.concatenate([np.flatnonzero(y == c)[:n_each] for c in classes])


def compare_layers(model, twin, rows: RaggedRows, probe: Probe, n_label, how: dict) -> tuple:
    """Return header and rows of a table (random weights in brackets), and the accuracies by pooling."""
    train, test = probe.classes[:2]
    chosen = [table_rows(train, n_label), table_rows(test, 1)]
    some = RaggedRows([rows[i] for i in (*chosen[0], *(chosen[1] + len(train)))], rows.pad_id)
    smaller = replace(probe, classes=[train[chosen[0]], test[chosen[1]]])
    layers = range(n_layer(model.config) + 1)
    readings = [Reading(layer, pooling) for layer in layers for pooling in ONE_LAYER]
    readings += [Reading(-1, pooling) for pooling in LAST_4]
    vectors = (extract(side, some, readings, **how) for side in (model, twin))
    ours, fresh = ([smaller.accuracy(smaller.parts(one), n_label) for one in side] for side in vectors)
    cell = {one: f"{a:.3f} ({b:.3f})" for one, a, b in zip(readings, ours, fresh, strict=True)}
    body = [(str(layer), *(cell[layer, pooling] for pooling in ONE_LAYER)) for layer in layers]
    for pooling in LAST_4:  # in the column of the mean, which they take over tokens
        body.append((pooling, *(cell[-1, pooling] if column == "mean" else "" for column in ONE_LAYER)))
    accuracy = dict(zip(readings, ours, strict=True))
    by_pooling = {pooling: [accuracy[layer, pooling] for layer in layers] for pooling in ONE_LAYER}
    return ("layer", *ONE_LAYER), body, by_pooling


def probe_tables(model, rows, parts, headline, vectors, asked, n_draw, seed, how) -> tuple[dict, list]:
    """Return figures, and tables as lines; `parts`: name -> [(text, label)]; `vectors`: of all texts."""
    names = sorted({label for _, label in parts["train"]})
    classes = [np.array([names.index(label) for _, label in part]) for part in parts.values()]
    probe = Probe(classes, n_draw, seed)
    labels = [n for n in asked if n == "all" or n <= np.bincount(classes[0]).min()]  # if each class has n
    left_out, labels = ", ".join(str(n) for n in asked if n not in labels), labels or ["all"]
    twin = random_twin(model, seed)
    sides = [probe.parts(side) for side in (vectors, extract(twin, rows, [headline], **how)[0])]
    sides.append(tf_idf(*bag_of_words(*([text for text, _ in part] for part in parts.values()))))
    layer = "" if headline.layer < 0 else f"layer {headline.layer}, "
    title = f"Accuracy of a linear probe, {layer}{headline.pooling} pooling; mean of {n_draw} draws (all: 1)"
    told = [f"Labels per class: {left_out} left out, as a class has fewer examples.", ""]
    results, lines = {}, told if left_out else []
    for test, unseen in enumerate(["", "unseen_"][: len(parts) - 1], start=1):
        y = classes[test]
        chance = float(np.bincount(y).max() / len(y))  # accuracy of always the commonest class
        found = [(str(n), *(probe.accuracy(side, n, test) for side in sides), chance) for n in labels]
        lines += [f"{title}, {len(y):,} texts:", "", table(found, HEADER), ""]
        title = "The same probes, on texts whose things and verbs are in no labelled text"
        results |= {unseen + name: value for name, value in zip(RESULTS, found[0][1:4], strict=True)}
    header, body, results["layers"] = compare_layers(model, twin, rows, probe, labels[0], how)
    lines += [f"Layer x pooling (labels per class: {labels[0]}), in brackets with random weights:", ""]
    lines += [table(body, header), "", "Test texts, each with the nearest training text:", ""]
    train, *_, test = parts.values()
    for (text, label), vector in zip(test[:2], vectors[-len(test) :], strict=False):
        ((j, cosine),) = nearest(vectors[: len(train)], vector, 1)
        lines += [f"  {text[:300]}  ({label})", f"    {cosine:.3f}  {train[j][0][:300]}  ({train[j][1]})"]
    return results | dict(labels_a_class=labels[0]), [*lines, ""]


def control_table(model, rows, places, layer: int, words, tags, is_test: np.ndarray, seed: int, how) -> tuple:
    """Return figures of one layer, and a table of all layers as lines; `words`, `tags`, `is_test`: per word.

    A probe may just learn words by heart. A control task with one random tag per spelling shows how well:
    selectivity = accuracy on the tags - accuracy in that task. Source: Hewitt and Liang 2019, section 2.
    """
    y = np.unique(tags, return_inverse=True)[1]  # (n_word,), the tags as numbers
    types, type_of = np.unique(words, return_inverse=True)  # all spellings; (n_word,) that of each word
    control_y = np.random.default_rng(seed).choice(y, len(types))[type_of]  # (n_word,), one tag a spelling
    ours, body, twin = [], [], random_twin(model, seed)
    for number in range(n_layer(model.config) + 1):
        found = []
        for side in (model, twin):
            states = zip(extract_tokens(side, rows, number, **how), places, strict=True)
            vectors = np.concatenate([hidden[at] for hidden, at in states])  # (n_word, D)
            x, test_x = standardised(vectors[~is_test], vectors[is_test])
            right, control = (probe_accuracy(x, t[~is_test], test_x, t[is_test]) for t in (y, control_y))
            found.append((right, control, right - control))
        body.append((str(number), *(f"{a:.3f} ({b:.3f})" for a, b in zip(*found, strict=True))))
        ours.append(dict(zip(CONTROL, found[0], strict=True)))
    chance = np.bincount(y[is_test]).max() / is_test.sum()  # accuracy of always the commonest tag
    title = f"Accuracy on {is_test.sum():,} words (majority class: {chance:.3f}), in brackets random weights:"
    return ours[layer], [title, "", table(body, ("layer", "tags", "control task", "selectivity")), ""]
