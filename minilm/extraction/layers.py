"""How much a probe reads out of a pre-trained model, beside what needs no pre-training.

Two baselines, since a probe learns much by itself: the same network with random weights, which mixes its
inputs but knows nothing, and a bag of words. The layer x pooling table says which vectors to take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..model.transformer import build
from ..tokenizer.rows import RaggedRows
from .features import LAST_4, POOLINGS, Reading, all_readings, extract
from .probe import bag_of_words, probe_accuracy, standardised

TABLE_TEXTS = 2000  # at most about so many texts of a part: all readings of all texts could fill the memory
HEADER = ("labels a class", "pre-trained", "random weights", "bag of words", "chance")


@dataclass
class Probe:
    """A probe to be trained on the first part of the texts and tested on the others, with few labels or all.

    Vectors are lists of parts, (n, D) each, `standardised` by the first.
    """

    classes: list[np.ndarray]  # of each part, (n,)
    n_draw: int
    seed: int

    def parts(self, vectors: np.ndarray) -> list[np.ndarray]:
        """Cut the vectors (N, D) of all texts into those of each part, in one scale."""
        edges = np.cumsum([len(y) for y in self.classes])[:-1]
        return standardised(*np.split(vectors, edges))

    def accuracy(self, vectors: list[np.ndarray], n_label, test: int = 1) -> float:
        """Return the accuracy on a part, with `n_label` labels a class of the first ("all": all of them)."""
        sides = vectors[0], self.classes[0], vectors[test], self.classes[test]
        return probe_accuracy(*sides, None if n_label == "all" else n_label, self.n_draw, self.seed)

    def chance(self, test: int = 1) -> float:
        """Return how often the commonest class of a part is right."""
        return float(np.bincount(self.classes[test]).max() / len(self.classes[test]))

    def usable_labels(self, labels: Sequence) -> tuple[list, list]:
        """Return the numbers of labels that every class has ("all" where none is), and those too many."""
        fewest = int(np.bincount(self.classes[0]).min())
        usable = [n for n in labels if n == "all" or n <= fewest]
        return usable or ["all"], [n for n in labels if n not in usable]

    def label_table(self, sides: Sequence[list[np.ndarray]], labels: Sequence, test: int) -> list[tuple]:
        """Return a row under HEADER for each number of labels; `sides` are the vectors of its columns."""
        return [
            (str(n), *(self.accuracy(side, n, test) for side in sides), self.chance(test)) for n in labels
        ]


def random_twin(model, seed: int) -> torch.nn.Module:
    """Return a model of the same shape with fresh weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(model.config).to(model.tokens.weight.device).eval()


def words_as_vectors(*parts: Sequence[str]) -> list[np.ndarray]:
    """Return the bags of words of the texts to learn from and of each test set."""
    return standardised(*bag_of_words(*parts))


def table_rows(y: np.ndarray, n_label) -> np.ndarray:
    """Return which examples the layer table is made from: as many of each class, about TABLE_TEXTS in all."""
    classes = np.unique(y)
    n_each = max(TABLE_TEXTS // len(classes), 1 if n_label == "all" else n_label)
    return np.concatenate([np.flatnonzero(y == c)[:n_each] for c in classes])


def compare_layers(
    model, twin, rows: RaggedRows, probe: Probe, n_label, how: dict
) -> tuple[tuple, list[tuple]]:
    """Return header and rows of the layer x pooling table, from every reading of some of the texts.

    `rows`: of all texts, part after part. `how`: the options of `extract`.
    """
    ys = probe.classes[:2]
    chosen = [table_rows(ys[0], n_label), table_rows(ys[1], 1)]
    numbers = np.concatenate([chosen[0], chosen[1] + len(ys[0])])
    n_first = None if rows.n_first is None else rows.n_first[numbers]
    some = RaggedRows([rows[i] for i in numbers], rows.pad_id, n_first=n_first)
    smaller = Probe([y[part] for y, part in zip(ys, chosen, strict=True)], probe.n_draw, probe.seed)
    readings, accuracy = all_readings(model.config), {}
    for side in (model, twin):
        for one, vectors in zip(readings, extract(side, some, readings, **how), strict=True):
            accuracy.setdefault(one, []).append(smaller.accuracy(smaller.parts(vectors), n_label))
    return layer_table(accuracy)


def layer_table(accuracy: dict[Reading, list[float]]) -> tuple[tuple, list[tuple]]:
    """Return header and rows: of each reading its accuracy, in brackets that of random weights.

    The poolings of the last four layers stand below, in the column of the mean: that is how they pool.
    """
    columns = [pooling for pooling in POOLINGS if pooling not in LAST_4]
    cell = {one: "{:.3f} ({:.3f})".format(*both) for one, both in accuracy.items()}
    layers = sorted({one.layer for one in accuracy if one.pooling not in LAST_4})
    rows = [(str(layer), *(cell[Reading(layer, pooling)] for pooling in columns)) for layer in layers]
    for pooling in LAST_4:
        rows.append((pooling, *(cell[Reading(-1, pooling)] if c == "mean" else "" for c in columns)))
    return ("layer", *columns), rows
