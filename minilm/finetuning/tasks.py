"""What a fine-tuning task is: it turns examples into rows, rows into a loss, a model's output into a score.

A task knows nothing of training. `FineTuning` below makes an objective of a task and its examples, and the
one loop (`training/loop.py`) trains it; `comparison.py` trains it again from random weights, with a frozen
body and so on, and asks `score` each time.

An example is a tuple: what the model may see, then the truth, `(text, label)` or `(source, target)`. The
truth is None where it is not known (`--predict`).
"""

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from ..plumbing.errors import UserError, suggest
from ..tokenizer.rows import alike
from ..training.objective import Objective


@dataclass(frozen=True)
class Prediction:
    """What the model said about one example."""

    text: str  # what it read
    truth: Any  # as in the example, None where it is not known
    guess: Any  # of the same kind: a label, a number, a list of tags, a text
    probability: float | None = None  # that the model gave to its guess; none where it gives none


@dataclass
class Examples:
    """The examples of a task: to learn from, to watch while learning, and to measure on."""

    train: list[tuple]
    validation: list[tuple]
    test: list[tuple]
    name: str = "world"
    notes: tuple[str, ...] = ()  # lines worth printing

    def summary(self) -> str:
        """Return one line: name, and examples of each part."""
        return (
            f"{self.name}: {len(self.train):,} examples to learn from, {len(self.validation):,} to watch, "
            f"{len(self.test):,} to measure on"
        )


class Rows(ABC):
    """Examples as rows of ids with what the loss needs; there may be several rows an example (`span.py`)."""

    n_cut: int = 0  # rows that were cut to the context
    lengths: np.ndarray  # (N,) tokens of each row

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Return the chosen rows: input_ids (B, T) and so on, labels, and the loss's denominators (0-d)."""


class Task(ABC):
    """Base of all tasks; see `classification.py` for the shortest one.

    Args:
        known: what `learn` found in the training examples, such as the names of the labels.
        context: most tokens of a row.

    Raises:
        UserError: for a model of a kind that cannot do the task.
    """

    name: ClassVar[str]  # of --task
    metric: ClassVar[str]  # of the score: the first key of what `score` returns
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "encoder-decoder")  # of models that can do it
    start: ClassVar[str] = "masked"  # objective of the model to start from, where none is named
    pairs: ClassVar[str] = "together"  # in one row, where nothing else is asked; only of tasks on two texts
    columns: ClassVar[str]  # what a file of examples holds, for errors and the help

    def __init__(self, tokenizer, config: ModelConfig, context: int, known: dict | None = None):
        if config.kind not in self.kinds:
            raise UserError(
                f"--task {self.name} needs a model of kind {' or '.join(self.kinds)}, not {config.kind}"
            )
        self.tokenizer, self.config, self.context, self.known = tokenizer, config, context, known or {}
        self.options: dict[str, Any] = {}  # further arguments that a saved task needs to be made again

    @classmethod
    @abstractmethod
    def read(cls, path: str | Path, skip_bad: bool = False, truth: bool = True) -> tuple[list[tuple], int]:
        """Return (examples, n_skipped) of a file; without `truth` it holds none, and theirs is None."""

    @classmethod
    @abstractmethod
    def world(cls, n: int, seed: int, held_out: bool) -> list[tuple]:
        """Return n examples of the embedded world; with `held_out` their topic words have no label yet."""

    @classmethod
    def draw(cls, examples: list[tuple], n: int, seed: int) -> list[tuple]:
        """Return n of the examples, drawn by the seed."""
        return random.Random(f"examples {seed}").sample(examples, n)

    @classmethod
    def learn(cls, train: list[tuple]) -> dict:
        """Return what is to be known of the training examples, as JSON can write it: `known`.

        Raises UserError where nothing can be learnt from them, as from a single class.
        """
        return {}

    @classmethod  # noqa: B027 - most tasks have nothing to check
    def check(cls, known: dict, examples: list[tuple], name: str) -> None:
        """Raise UserError where examples do not fit what is known: a label that training did not have."""

    def head(self) -> nn.Module | None:
        """Return the fresh head of this task, or None where the model's own vocabulary head serves."""
        return None

    @abstractmethod
    def rows(self, examples: list[tuple]) -> Rows:
        """Return the examples as rows."""

    @abstractmethod
    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of (a part of) a batch, and metrics that add up over the parts; `loss` is one."""

    @abstractmethod
    def predict(self, model, examples: list[tuple], batch_size: int) -> list[Prediction]:
        """Return a prediction for each example, the model in evaluation mode."""

    @abstractmethod
    def score(self, predictions: list[Prediction]) -> dict[str, float]:
        """Return the figures by name, `metric` first; all predictions have a truth."""

    @classmethod
    @abstractmethod
    def trivial(cls, train: list[tuple], test: list[tuple]) -> tuple[str, list]:
        """Return what needs no model, in two or three words, and its guess for each test example.

        The commonest label of the training examples, for instance: "majority class".
        """

    def shown(self, prediction: Prediction) -> list[str]:
        """Return lines that show a prediction to a person."""
        sure = "" if prediction.probability is None else f" {prediction.probability:.2f}"
        truth = "" if prediction.truth is None else f"   (it is: {self.written(prediction.truth)})"
        return [prediction.text, f"    {self.written(prediction.guess)}{sure}{truth}"]

    def written(self, value) -> str:
        """Return a truth or a guess as one cell of predictions.tsv."""
        return " ".join(str(value).split())


class FineTuning(Objective):
    """A task and its examples as an objective: `batch` and `loss`, for `minilm.training.loop.train`.

    `batch` is a pure function of (seed, split, step), as in `minilm/training/objective.py`.
    """

    def __init__(self, task: Task, examples: Examples, batch_size: int, seed: int = 0):
        self.task, self.batch_size, self.seed = task, batch_size, seed  # of Objective's own it needs no more
        self.data = {"train": task.rows(examples.train), "validation": task.rows(examples.validation)}

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return the batch of a step of `train`, or the whole `validation` part whatever the step."""
        rows = self.data[split]
        return rows.batch(self.chosen(step, len(rows)) if split == "train" else range(len(rows)))

    def chosen(self, step: int, n_row: int) -> list[int]:
        """Return the rows of a step: every row once before any comes again, each epoch in a new order."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        orders = {epoch: self.order(epoch, n_row) for epoch in {place // n_row for place in places}}
        return [int(orders[place // n_row][place % n_row]) for place in places]

    def order(self, epoch: int, n_row: int) -> np.ndarray:
        """Return the order of the rows in an epoch, (n_row,)."""
        return np.random.default_rng([self.seed, epoch]).permutation(n_row)

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the task's loss and metrics."""
        return self.task.loss(model, batch)


def check_known(found: Iterable[str], known: Sequence[str], what: str, name: str) -> None:
    """Raise UserError where labels, or tags (`what`), of the examples `name` are none of those known."""
    unknown = Counter(label for label in found if label not in known)
    if unknown:
        told = ", ".join(f"{label!r} ({n:,} times)" for label, n in unknown.most_common(5))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        near = suggest(str(next(iter(unknown))), known)
        raise UserError(f"{name}: {what} that training does not have: {told}{more}{near}")


def in_parts(rows, batch_size: int, device) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield all rows as (indices, batch on the device), one batch at a time; rows of like length together."""
    for part in alike(rows.lengths, batch_size):
        yield part, {name: value.to(device) for name, value in rows.batch(part).items()}


def device_of(model) -> torch.device:
    """Return the device that a model's weights are on."""
    return next(model.parameters()).device
