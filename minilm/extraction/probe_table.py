"""How much a probe reads out of a pre-trained model, beside what needs no pre-training.

Two baselines, since a probe learns much by itself: the same network with random weights, which mixes its
inputs but knows nothing, and a bag of words. The layer x pooling table says which vectors to take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..model.transformer import build
from ..plumbing.terminal import table
from ..tokenizer.rows import RaggedRows
from .feature_files import Examples, classes_of
from .features import LAST_4, POOLINGS, Reading, all_readings, extract, nearest
from .probe import bag_of_words, probe_accuracy, standardised

TABLE_TEXTS = 2000  # at most about so many texts of a part: all readings of all texts could fill the memory
RESULTS = ("probe_accuracy", "random_probe_accuracy", "bag_of_words_accuracy")
HEADER = ("labels a class", "pre-trained", "random weights", "bag of words", "chance")


@dataclass
class Vectors:
    """The vectors of the texts to learn from and of those to test on, (n, D) each, with one scale."""

    train: np.ndarray
    tests: list[np.ndarray]

    @classmethod
    def of(cls, vectors: np.ndarray, sizes: Sequence[int]) -> "Vectors":
        """Cut the vectors (N, D) of all texts into parts of these sizes, the first to learn from."""
        train, *tests = standardised(*np.split(vectors, np.cumsum(sizes)[:-1]))
        return cls(train, tests)


@dataclass
class Task:
    """Classes of the texts to learn from and of each set of texts to test on, and how labels are drawn."""

    train_y: np.ndarray  # (n,)
    tests_y: list[np.ndarray]
    n_draw: int
    seed: int

    def accuracy(self, vectors: Vectors, n_label: int | None, test: int = 0) -> float:
        """Return the accuracy on test set number `test`, with `n_label` labels a class (none: all)."""
        drawn = dict(n_label=n_label, n_draw=self.n_draw, seed=self.seed)
        return probe_accuracy(vectors.train, self.train_y, vectors.tests[test], self.tests_y[test], **drawn)

    def chance(self, test: int = 0) -> float:
        """Return how often the commonest class of a test set is right."""
        return float(np.bincount(self.tests_y[test]).max() / len(self.tests_y[test]))


def random_twin(model, seed: int) -> torch.nn.Module:
    """Return a model of the same shape with fresh weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(model.config).to(model.tokens.weight.device).eval()


def words_as_vectors(*parts: Sequence[str]) -> Vectors:
    """Return the bags of words of the texts to learn from and of each test set."""
    train, *tests = standardised(*bag_of_words(*parts))
    return Vectors(train, tests)


def label_table(task: Task, sides: Sequence[Vectors], labels: Sequence, test: int = 0) -> list[tuple]:
    """Return a row for each number of labels a class: that number, the accuracy of each side, chance.

    `labels`: numbers, or "all". `sides`: pre-trained, random weights, bag of words.
    """
    rows = []
    for n_label in labels:
        found = [task.accuracy(side, None if n_label == "all" else n_label, test) for side in sides]
        rows.append((str(n_label), *found, task.chance(test)))
    return rows


def usable_labels(task: Task, labels: Sequence) -> tuple[list, list]:
    """Return the numbers of labels that every class has, and those that are too many; "all" always is usable.

    Where none is usable it is "all".
    """
    fewest = int(np.bincount(task.train_y).min())
    usable = [n for n in labels if n == "all" or n <= fewest]
    return usable or ["all"], [n for n in labels if n not in usable]


def table_rows(y: np.ndarray, n_label) -> np.ndarray:
    """Return which examples the layer table is made from: as many of each class, about TABLE_TEXTS in all."""
    classes = np.unique(y)
    n_each = max(TABLE_TEXTS // len(classes), 1 if n_label == "all" else n_label)
    return np.concatenate([np.flatnonzero(y == c)[:n_each] for c in classes])


def layer_table(
    task: Task, ours: dict[Reading, Vectors], random: dict[Reading, Vectors], n_label
) -> tuple[tuple, list[tuple]]:
    """Return the header and the rows of the layer x pooling table: accuracy (that of random weights).

    The poolings of the last four layers stand below, in the column of the mean: that is how they pool.
    """
    columns = [pooling for pooling in POOLINGS if pooling not in LAST_4]
    number = None if n_label == "all" else n_label

    def cell(one: Reading) -> str:
        return f"{task.accuracy(ours[one], number):.3f} ({task.accuracy(random[one], number):.3f})"

    layers = sorted({one.layer for one in ours if one.pooling not in LAST_4})
    rows = [(str(layer), *(cell(Reading(layer, pooling)) for pooling in columns)) for layer in layers]
    for pooling in LAST_4:
        rows.append((pooling, *(cell(Reading(-1, pooling)) if c == "mean" else "" for c in columns)))
    return ("layer", *columns), rows


def compare_layers(
    model, twin, rows: RaggedRows, task: Task, n_label, how: dict
) -> tuple[tuple, list[tuple]]:
    """Return header and rows of the layer x pooling table, from every reading of some of the texts."""
    ys = [task.train_y, task.tests_y[0]]
    chosen = [table_rows(ys[0], n_label), table_rows(ys[1], 1)]
    sizes = [len(part) for part in chosen]
    numbers = np.concatenate([chosen[0], chosen[1] + len(ys[0])])
    n_first = None if rows.n_first is None else rows.n_first[numbers]
    some = RaggedRows([rows[i] for i in numbers], rows.pad_id, n_first=n_first)
    readings = all_readings(model.config)
    both = []
    for one in (model, twin):
        found = extract(one, some, readings, **how)
        both.append({name: Vectors.of(x, sizes) for name, x in zip(readings, found, strict=True)})
    smaller = Task(ys[0][chosen[0]], [ys[1][chosen[1]]], task.n_draw, task.seed)
    return layer_table(smaller, *both, n_label)


def report(
    model,
    rows: RaggedRows,
    parts: dict[str, Examples],
    headline: Reading,
    vectors: np.ndarray,
    settings,
    how: dict,
) -> dict:
    """Print the tables of the probe and two examples; return the figures for results.json.

    Args:
        rows, vectors: all texts, part after part, and their vectors (N, D) by the reading `headline`, which
            was chosen without the test texts: it is the flags'.
        parts: the texts to learn from, then the sets to test on.
        settings: `labels`, `draws` and `seed` are read.
    """
    examples, sizes = list(parts.values()), [len(part) for part in parts.values()]
    train_y, *tests_y = classes_of(*examples)[1]
    task = Task(train_y, tests_y, settings.draws, settings.seed)
    labels, too_many = usable_labels(task, settings.labels)
    if too_many:
        print(f"Labels a class: {', '.join(map(str, too_many))} left out, a class has fewer examples.")
    twin = random_twin(model, settings.seed)
    random = extract(twin, rows, [headline], **how)[0]
    sides = [Vectors.of(vectors, sizes), Vectors.of(random, sizes)]
    sides.append(words_as_vectors(*(part.texts for part in examples)))
    tables = [label_table(task, sides, labels, test) for test in range(len(tests_y))]
    layer = "" if headline.layer < 0 else f"layer {headline.layer}, "
    print(f"Accuracy of a linear probe on {layer}{headline.pooling}, the mean of {settings.draws} draws:\n")
    print(table(tables[0], HEADER) + "\n")
    results = dict(zip(RESULTS, tables[0][0][1:4], strict=True))
    if len(tables) > 1:
        print("The same probes, on texts whose things and verbs stand in no labelled text:\n")
        print(table(tables[1], HEADER) + "\n")
        results |= {f"unseen_{name}": value for name, value in zip(RESULTS, tables[1][0][1:4], strict=True)}
    header, body = compare_layers(model, twin, rows, task, labels[0], how)
    print(f"Layer x pooling (labels a class: {labels[0]}), in brackets with random weights:\n")
    print(table(body, header) + "\n")
    print_neighbours(examples, vectors, sizes)
    return results | dict(labels_a_class=labels[0])


def print_neighbours(examples: list[Examples], vectors: np.ndarray, sizes: list[int]) -> None:
    """Print two texts of the last test set, each with the text to learn from that is nearest to it."""
    train, *tests = np.split(vectors, np.cumsum(sizes)[:-1])
    print("Test texts, and the nearest text to learn from:\n")
    for i in range(min(2, len(tests[-1]))):
        ((j, cosine),) = nearest(train, tests[-1][i], 1)
        print(f"  {examples[-1].texts[i]}  ({examples[-1].labels[i]})")
        print(f"    {cosine:.3f}  {examples[0].texts[j]}  ({examples[0].labels[j]})")
    print()
