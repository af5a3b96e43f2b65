"""One text or two, and a head that gives each class a score (`classification`, `pair`).

Source: Devlin et al. 2019, section 4.1 and figure 4 (a) and (b): softmax(C W^T), C the vector of [CLS]. A
decoder and an encoder-decoder give their last token's vector instead (`heads.py`).
"""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import world
from ..plumbing.errors import UserError
from ..texts.tables import read_table
from ..tokenizer.rows import RaggedRows, text_rows
from ..training import metrics
from .heads import Head
from .tasks import Prediction, Rows, Task, check_known, device_of, in_parts


class TextsWithTruth(Rows):
    """Texts, each with a label (a class's number, or a number) and a weight; or pairs, two rows each."""

    def __init__(self, texts: RaggedRows, labels: Sequence, weights: Sequence[float]):
        self.texts, self.n_cut, apart = texts, texts.n_cut, len(texts) > len(labels)
        self.row = np.arange(len(texts)).reshape((-1, 2) if apart else -1)  # (N,), of pairs (N, 2)
        self.lengths = texts.lengths.reshape(len(labels), -1).sum(1)
        self.labels, self.weights = torch.tensor(labels), torch.tensor(weights)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Return the batch of the texts, labels and weights (B,), the denominators n_row, n_weight."""
        chosen = list(chosen)
        weights = self.weights[chosen]
        rows = self.texts.batch(self.row[chosen]) | dict(labels=self.labels[chosen], weights=weights)
        return rows | dict(n_row=torch.tensor(float(len(chosen))), n_weight=weights.sum())


class TextTask(Task):
    """What the tasks on whole texts share.

    `pairs`: where two texts meet, "together" in one row of the model, or "apart", each in a row of its own,
    so that the head alone compares them.
    """

    n_text = 1
    fields: tuple[str, ...]

    def __init__(self, tokenizer, config, context, known=None, pairs: str = "together"):
        super().__init__(tokenizer, config, context, known)
        self.apart = self.n_text == 2 and pairs == "apart"
        self.options = dict(pairs=pairs) if self.n_text == 2 else {}

    @classmethod
    def read(cls, path, skip_bad=False, truth=True):
        """Return (examples, n_skipped) of a table (`tables.read_table`).

        Where no truth is asked for, a table without a header may hold one, in its last column.
        """
        if truth:
            return read_table(path, cls.fields, skip_bad)
        try:
            rows, n_skipped = read_table(path, cls.fields[:-1], skip_bad)
        except UserError as error:
            try:
                rows, n_skipped = read_table(path, cls.fields, skip_bad)
            except UserError:
                raise error from None
        return [(*row[: cls.n_text], None) for row in rows], n_skipped

    def head_for(self, n_output: int) -> Head:
        """Return a linear layer on the one vector of a text, or on the two vectors of a pair."""
        return Head(self.config, n_output, on="apart" if self.apart else "text")

    def text_rows(self, examples: list[tuple]) -> RaggedRows:
        """Return the texts, or pairs of texts, as rows of the model; of pairs apart, both rows in turn."""
        sides = list(zip(*(example[: self.n_text] for example in examples), strict=True))
        if self.apart:
            sides = [[text for pair in zip(*sides, strict=True) for text in pair]]
        return text_rows(self.tokenizer, self.config, *sides, longest=self.context)

    def outputs(self, model, examples: list[tuple], batch_size: int) -> Tensor:
        """Return the head's output for each example, (N, n_output)."""
        rows = TextsWithTruth(self.text_rows(examples), [0] * len(examples), [1.0] * len(examples))
        found = torch.zeros(len(examples), model.head.linear.out_features)
        with torch.no_grad():
            for part, batch in in_parts(rows, batch_size, device_of(model)):
                found[part] = model.output(batch).float().cpu()
        return found


class Classification(TextTask):
    """One text, one of C classes.

    `balanced`: an example of class c weighs n / (C n_c), so that rare classes count as much as frequent ones.
    """

    name, metric, fields = "classification", "accuracy", ("text", "label")
    columns = "text and label (.tsv, .csv, .jsonl)"

    def __init__(self, tokenizer, config, context, known=None, pairs="together", balanced: bool = False):
        super().__init__(tokenizer, config, context, known, pairs)
        self.labels, counts = self.known["labels"], self.known["counts"]
        mean = sum(counts) / len(counts)
        self.weights = [mean / count if balanced else 1.0 for count in counts]

    @classmethod
    def world(cls, n, seed, held_out):
        """Return sentences 2 to 4 of stories and their place, which no sentence names."""
        return world.labelled(n, seed, "place", held_out)

    @classmethod
    def draw(cls, examples, n, seed):
        """Return n examples drawn by the seed, the classes taking turns as long as they have any."""
        shuffled = random.Random(f"examples {seed}").sample(examples, len(examples))
        turns, seen = [], Counter()
        for example in shuffled:
            turns.append(seen[example[-1]])
            seen[example[-1]] += 1
        if n < len(seen):
            raise UserError(f"--n-examples {n}: fewer examples than the {len(seen)} classes")
        order = sorted(range(len(examples)), key=turns.__getitem__)[:n]
        return [shuffled[i] for i in sorted(order)]

    @classmethod
    def learn(cls, train):
        """Return the labels in alphabetical order, and how many examples have each."""
        counts = Counter(example[-1] for example in train)
        if len(counts) < 2:
            raise UserError(
                f"all {len(train)} examples have the label {train[0][-1]!r}: there is nothing to tell apart"
            )
        return dict(labels=sorted(counts), counts=[counts[label] for label in sorted(counts)])

    @classmethod
    def check(cls, known, examples, name):
        """Raise UserError for labels that no training example has."""
        check_known((example[-1] for example in examples), known["labels"], "labels", name)

    def head(self):
        """Return a linear layer to C scores."""
        return self.head_for(len(self.labels))

    def rows(self, examples):
        """Return the texts with the numbers of their labels."""
        labels = [self.labels.index(example[-1]) for example in examples]
        return TextsWithTruth(self.text_rows(examples), labels, [self.weights[label] for label in labels])

    def loss(self, model, batch):
        """Return the (weighted) mean cross-entropy in nats; metrics `loss`, the same, and `accuracy`."""
        logits = model.output(batch)  # (B, C)
        each = F.cross_entropy(logits.float(), batch["labels"], reduction="none")  # (B,)
        loss = (each * batch["weights"]).sum() / batch["n_weight"]
        right = (logits.argmax(-1) == batch["labels"]).sum() / batch["n_row"]
        return loss, dict(loss=loss, accuracy=right)

    def predict(self, model, examples, batch_size):
        """Return the likeliest class of each text, with its probability."""
        best, index = self.outputs(model, examples, batch_size).softmax(-1).max(-1)
        return [
            Prediction(" | ".join(example[: self.n_text]), example[-1], self.labels[i], p)
            for example, i, p in zip(examples, index.tolist(), best.tolist(), strict=True)
        ]

    def score(self, predictions):
        """Return accuracy and macro F1."""
        truth, guess = [p.truth for p in predictions], [p.guess for p in predictions]
        return dict(accuracy=metrics.accuracy(truth, guess), macro_f1=metrics.macro_f1(truth, guess))

    @classmethod
    def trivial(cls, train, test):
        """Guess the commonest class every time."""
        ((commonest, _),) = Counter(example[-1] for example in train).most_common(1)
        return "majority class", [commonest] * len(test)


class Pair(Classification):
    """Two texts, one of C classes: do they say the same, does one follow from the other?"""

    name, n_text, fields = "pair", 2, ("text_a", "text_b", "label")
    columns = "text_a, text_b and label (.tsv, .csv, .jsonl)"

    @classmethod
    def world(cls, n, seed, held_out):
        """Return sentences 2 and 3 of two stories, and whether both happen at the same place."""
        return world.text_pairs(n, seed, held_out, short=True)
