"""Two texts, and how alike they are: a number (`similarity`).

    together    [CLS] text A [SEP] text B [SEP] -> the vector of [CLS] -> number
    apart       text A -> u, text B -> v; u, v, |u - v|, u * v -> number

Sources: together, Devlin et al. 2019, STS-B in table 1; apart, Reimers and Gurevych 2019, section 3, for u
and v, and Conneau et al. 2017 for what the head is told of them (`heads.compared`). Differs from Reimers and
Gurevych, who take the cosine of u and v for a number, and u, v, |u - v| for classes.

Apart is the default here and differs from the BERT paper. Whether two texts name the same person is no sum of
what each says, and a small model does not learn it on its way to [CLS]; in |u - v| it is one. What is learnt
is then also a vector of every text by itself: `extract.py --similar` with the fine-tuned folder.
"""

import math
import re

import torch

from .. import world
from ..plumbing.errors import UserError
from ..training import metrics
from .classification import TextsWithTruth, TextTask
from .tasks import Prediction

WORD = re.compile(r"\w+")  # without the mark that stands close to it


class Similarity(TextTask):
    """The model learns the number in deviations from the mean."""

    name, metric, n_text, fields = "similarity", "spearman", 2, ("text_a", "text_b", "label")
    pairs = "apart"
    columns = "text_a, text_b and a number as label (.tsv, .csv, .jsonl)"

    @classmethod
    def read(cls, path, skip_bad=False, truth=True):
        """Return (examples, n_skipped) of a table whose label is a number."""
        examples, n_skipped = super().read(path, skip_bad, truth)
        return [(a, b, None if label is None else number(label, path)) for a, b, label in examples], n_skipped

    @classmethod
    def world(cls, n, seed, held_out):
        """Return two stories, and how many of place, person and ending they share, from 0 to 5."""
        return world.similarity(n, seed, held_out)

    @classmethod
    def learn(cls, train):
        """Return the mean and the deviation of the numbers."""
        values = torch.tensor([example[-1] for example in train])
        if values.min() == values.max():
            raise UserError(
                f"all {len(train)} examples have the score {values[0]:g}: there is nothing to learn"
            )
        return dict(mean=float(values.mean()), deviation=float(values.std()))

    def head(self):
        """Return a linear layer to one number."""
        return self.head_for(1)

    def rows(self, examples):
        """Return the pairs with their numbers, in deviations from the mean."""
        mean, deviation = self.known["mean"], self.known["deviation"]
        labels = [(example[-1] - mean) / deviation for example in examples]
        return TextsWithTruth(self.text_rows(examples), labels, [1.0] * len(examples))

    def loss(self, model, batch):
        """Return the mean squared error; 1 is what guessing the mean gives."""
        error = model.output(batch)[:, 0].float() - batch["labels"]  # (B,)
        loss = (error**2).sum() / batch["n_row"]
        return loss, dict(loss=loss)

    def predict(self, model, examples, batch_size):
        """Return the number of each pair; there is no probability to give."""
        found = self.outputs(model, examples, batch_size)[:, 0] * self.known["deviation"] + self.known["mean"]
        return [
            Prediction(f"{a} | {b}", truth, value)
            for (a, b, truth), value in zip(examples, found.tolist(), strict=True)
        ]

    def score(self, predictions):
        """Return both correlations with the truth."""
        truth, guess = [p.truth for p in predictions], [p.guess for p in predictions]
        return dict(spearman=metrics.spearman(truth, guess), pearson=metrics.pearson(truth, guess))

    @classmethod
    def trivial(cls, train, test):
        """Guess by the share of words that both texts have: of all those in either."""
        guesses = []
        for a, b, _ in test:
            first, second = (set(WORD.findall(text.lower())) for text in (a, b))
            guesses.append(len(first & second) / max(1, len(first | second)))
        return "shared words", guesses

    def written(self, value):
        """Return the number with three digits."""
        return f"{value:.3f}"


def number(label: str, path) -> float:
    """Return a label as a number; UserError where it is none."""
    try:
        value = float(label)
    except ValueError:
        value = float("nan")
    if not math.isfinite(value):
        raise UserError(f"{path}: the label {label!r} is no number; --task similarity learns scores")
    return value
