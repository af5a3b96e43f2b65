"""What a fine-tuning task is: it turns examples into rows, rows into a loss, a model's output into a score.

A task knows nothing about training. `FineTuning` below makes an objective from a task and its examples, for
the one training loop (`training/loop.py`); `comparison.py` also trains in other ways and compares `score`.

    Type I    `HeadTask`: the answer is the output of a head on top of the model (`heads.py`)
    Type II   no new head: the model writes the answer (`text_to_text.py`)

An example is a tuple: the model's input, then the truth, as in `(text, label)` or `(source, target)`. The
truth is None where it is not known (`--predict`).
"""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from ..plumbing.script import with_bar
from ..tokenizer.rows import RaggedRows, batches_by_length, text_rows
from ..training.machine import quick_products
from ..training.metrics import WORD
from ..training.objective import IGNORED, Objective, to_device
from .examples import Parts
from .heads import Head


class Prediction(NamedTuple):
    """What the model predicts for one example."""

    text: str  # what the model read
    truth: Any  # as in the example, None where it is not known
    guess: Any  # of the same kind: a label, a number, a list of tags, a text
    probability: float | None = None  # of the guess, by the model; None where it gives none


class LabelledRows:
    """Examples as rows of ids, with their labels and any other columns of a batch.

    `n_row`: rows of each example. It is 2 if two texts are apart: example i then has rows 2 i and 2 i + 1.
    """

    def __init__(self, texts: RaggedRows, labels: RaggedRows | Tensor, n_row: int = 1, **columns):
        self.texts, self.columns = texts, dict(labels=labels) | columns
        self.numbers = np.arange(len(texts)).reshape(-1 if n_row == 1 else (-1, n_row))  # (N,) or (N, 2)
        self.lengths = texts.lengths.reshape(-1, n_row).sum(1)  # tokens of each example, (N,)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Return the chosen examples as a batch, padded to the longest of them.

        Its tensors: input_ids, attention_mask, with segments token_type_ids, (B, T), or (B, 2, T) for texts
        apart; labels, others (B, ...), (B, T) if one a token; n_row = B; n_label: labels not `IGNORED`.
        """
        chosen = np.asarray(chosen)
        batch = self.texts.batch(self.numbers[chosen])
        for name, column in self.columns.items():
            ragged = isinstance(column, RaggedRows)
            batch[name] = torch.from_numpy(column.padded(chosen)[0]).long() if ragged else column[chosen]
        # At least 1: if there is no label, the loss is 0 and not NaN.
        n_label = (batch["labels"] != IGNORED).sum().clamp(min=1).float()
        return batch | dict(n_row=torch.tensor(float(len(chosen))), n_label=n_label)


class Task(ABC):
    """Base class of all tasks; `classification.py` has the simplest one.

    `known`: what `learn` found in the training examples, such as the names of the labels. `context`: longest
    row, in tokens. `pairs`: two texts are read "together" in one row, or "apart" and compared by the head.
    """

    name: ClassVar[str]  # its name for --task
    metric: ClassVar[str]  # the main one of its scores, the first key that `score` returns
    baseline: ClassVar[str]  # what `trivial` does, in two or three words
    fields: ClassVar[tuple[str, ...]]  # parts of an example, the truth last: columns of a file
    files: ClassVar[str] = "table"  # how users store its examples: a key of `examples.FILES`
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "encoder-decoder")  # models that can do it
    start: ClassVar[str] = "masked"  # default --model: that of this pre-training objective
    least_context: ClassVar[int] = 3  # smallest --context
    closed: ClassVar[bool] = False  # every truth must occur in training; examples are drawn label by label
    is_number: ClassVar[bool] = False  # the truth is a number
    has_truth: ClassVar[bool] = True  # do training examples have one? test examples always do
    n_cut = 0  # rows that the last call of `predict` had to cut
    has_head: ClassVar[bool] = False  # a new head on top, which may be trained alone
    learnt: ClassVar[dict]  # what `learn` returns: names and types
    recipe: ClassVar[dict]  # settings for a small model on the world; n_run: seeds; rate: instead of SMALL
    # (n, seed, held_out, domain) -> n examples of the world; held_out: with topic words unseen in training
    world: ClassVar[Callable[..., list[tuple]]]

    def __init__(self, tokenizer, config: ModelConfig, context: int, known: dict, pairs=None):
        self.tokenizer, self.config, self.context, self.known = tokenizer, config, context, known
        self.pairs, self.labels = pairs, known.get("labels", known.get("tags", ()))  # names of the classes

    @classmethod
    def learn(cls, train: list[tuple], tokenizer=None) -> dict:
        """Return `known`, what a task must know of the examples, as JSON can store it: here the labels."""
        return {name: sorted(set(cls.truths(train))) for name in cls.learnt}  # in alphabetical order

    @classmethod
    def truths(cls, examples: list[tuple]) -> list:
        """Return the truths of all examples, one after the other: the labels, or the tags of all words."""
        return [example[-1] for example in examples]

    def head(self) -> nn.Module | None:
        """Return a new head for this task, or None if it uses the model's own vocabulary head."""
        return None

    @abstractmethod
    def rows(self, examples: list[tuple]) -> LabelledRows:
        """Return the examples as rows."""

    @abstractmethod
    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of (a part of) a batch, and metrics that add up over the parts, `loss` included."""

    @abstractmethod
    def predict(self, model, examples: list[tuple], batch_size: int) -> list[Prediction]:
        """Return a prediction for each example; the model must be in evaluation mode."""

    @abstractmethod
    def score(self, truth: list, guess: list) -> dict[str, float]:
        """Return the scores by name, `metric` first."""

    def figures(self, predictions: list[Prediction]) -> dict[str, float]:
        """Return the `score` of the predictions; a task may add other figures."""
        return self.score([p.truth for p in predictions], [p.guess for p in predictions])

    @classmethod
    def trivial(cls, train: list[tuple], test: list[tuple]) -> list:
        """Return a guess without a model for each test example: here always the commonest training truth."""
        return [Counter(truth for *_, truth in train).most_common(1)[0][0]] * len(test)

    def written(self, value, text: str | None = None) -> str:
        """Return a truth or a guess as a cell of predictions.tsv, or, with its text, for a person to read."""
        return " ".join(str(value).split())


class HeadTask(Task):
    """Type I: a head gives a score for each class, or one number, for a text or for each position."""

    has_head = True
    on = "text"  # what the head reads, "text" or "position" (`heads.py`)
    n_output: int | None = None  # outputs of the head; None: one for each label

    def head(self):
        """Return a new head that reads `on`, or texts apart, and has `n_output` outputs."""
        on = "apart" if self.pairs == "apart" else self.on
        return Head(self.config, self.n_output or len(self.labels), on)

    def text_rows(self, examples: list[tuple], labels: Tensor) -> LabelledRows:
        """Return the text of each example, or both texts, as one row; texts apart as two rows."""
        texts, n_row = [example[:-1] for example in examples], 1
        if self.pairs == "apart":
            texts, n_row = [(text,) for pair in texts for text in pair], 2
        rows = text_rows(self.tokenizer, self.config, *zip(*texts, strict=True), longest=self.context)
        return LabelledRows(rows, labels, n_row)

    @torch.no_grad()
    def outputs(self, model, rows: LabelledRows, batch_size: int) -> list[Tensor]:
        """Return the head's output for each example: (n_output,), or (T, n_output) for its T real tokens."""
        found, self.n_cut = [torch.empty(0)] * len(rows), rows.texts.n_cut
        device = model.tokens.weight.device
        for chosen in with_bar(batches_by_length(rows.lengths, batch_size), "answers"):
            batch = to_device(rows.batch(chosen), device)
            with quick_products("fp32", device):
                outputs = model.output(batch).float().cpu()
            for i, output in zip(chosen, outputs, strict=True):
                found[i] = output[: rows.lengths[i]] if self.on == "position" else output
        return found


class FineTuning(Objective):
    """A task and its examples as an objective; a batch depends only on seed, split and step."""

    def __init__(self, task: Task, parts: Parts, batch_size: int, seed: int = 0):
        self.task, self.parts, self.batch_size, self.seed = task, parts, batch_size, seed
        self.rows = dict(train=task.rows(parts.train), validation=task.rows(parts.validation))

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        rows = self.rows[split]
        return rows.batch(self.chosen(step, len(rows)) if split == "train" else range(len(rows)))

    def chosen(self, step: int, n: int) -> list[int]:
        """Return the rows of a step: each epoch takes all n rows once, in a new order."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = {place // n for place in places}
        orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(n) for epoch in epochs}
        return [int(orders[place // n][place % n]) for place in places]

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.task.loss(model, batch)


def shared_rare_words(train: list[tuple], test: list[tuple]) -> list[float]:
    """Return for each test pair the weight of the words in both texts / in either.

    A word weighs 1 / (1 + the training texts that have it): rare words tell more of what a text is about.
    """
    words = [[set(WORD.findall(text.lower())) for text in pair] for *pair, _ in (*train, *test)]
    known = Counter(word for pair in words[: len(train)] for text in pair for word in text)
    weight = lambda some: sum(1 / (1 + known[word]) for word in some)
    return [weight(a & b) / max(1e-9, weight(a | b)) for a, b in words[len(train) :]]


def commonest(pairs: Iterable[tuple]) -> dict:
    """Return for each key its most frequent value among the pairs (key, value)."""
    counts = defaultdict(Counter)
    for key, value in pairs:
        counts[key][value] += 1
    return {key: found.most_common(1)[0][0] for key, found in counts.items()}
