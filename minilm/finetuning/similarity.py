"""Two texts, and how alike they are: a number (`similarity`).

    together    [CLS] text A [SEP] text B [SEP] -> the vector of [CLS] -> number
    apart       text A -> u, text B -> v; u, v, |u - v|, u * v -> number

    input_ids [CLS]  _Ana   _sold  _a _melon     . [SEP]      text A, a row of its own
    input_ids [CLS] _Hugo _bought _it      . [SEP] [PAD]      text B
    labels  -0.71    in deviations from the mean

Sources: together, Devlin et al. 2019, STS-B in table 1; apart, Reimers and Gurevych 2019, section 3, for u
and v, and Conneau et al. 2017 for what the head is told of them (`heads.Head`). Differs from Reimers and
Gurevych, who take the cosine of u and v for a number, and u, v, |u - v| for classes.

Apart is the default here and differs from the BERT paper. Whether two texts name the same person is no sum of
what each says, and a small model does not learn it on its way to [CLS]; in |u - v| it is one. What is learnt
is then also a vector of every text by itself: `extract.py --similar` with the fine-tuned folder.
"""

from typing import ClassVar

import torch

from .. import world
from ..training import metrics
from .tasks import HeadTask, Prediction


class Similarity(HeadTask):
    """The model learns the number in deviations from the mean."""

    name, metric, baseline, n_output = "similarity", "spearman", "shared words", 1
    learnt: ClassVar = dict(mean=float, deviation=float)
    fields, least_context, is_number = ("text_a", "text_b", "label"), 6, True
    recipe: ClassVar = dict(n_examples=3000, steps=1000, batch_size=32, rate=3e-3)
    world = staticmethod(world.similarity)  # 0 to 5: how much of place, person and ending two stories share

    @classmethod
    def learn(cls, train, tokenizer=None):
        """Return the mean and the deviation of the numbers."""
        values = torch.tensor(cls.truths(train), dtype=torch.float64)
        return dict(mean=float(values.mean()), deviation=float(values.std()))

    def rows(self, examples):
        """Return the pairs with their numbers, in deviations from the mean."""
        # A head that starts near 0 is then right on average, whatever the unit of the numbers.
        labels = [(number - self.known["mean"]) / self.known["deviation"] for *_, number in examples]
        return self.text_rows(examples, torch.tensor(labels))

    def loss(self, model, batch):
        """Return the mean squared error; 1 is what guessing the mean gives."""
        error = model.output(batch)[:, 0].float() - batch["labels"]  # (B, 1) -> (B,)
        loss = (error**2).sum() / batch["n_row"]
        return loss, dict(loss=loss)

    def predict(self, model, examples, batch_size):
        """Return the number of each pair; there is no probability to give."""
        rows, found = self.text_rows(examples, torch.zeros(len(examples))), []  # labels that nobody reads
        for (a, b, truth), number in zip(examples, self.outputs(model, rows, batch_size), strict=True):
            guess = number.item() * self.known["deviation"] + self.known["mean"]
            found.append(Prediction(f"{a} | {b}", truth, guess))
        return found

    def score(self, truth, guess):
        """Return both correlations with the truth."""
        return dict(spearman=metrics.spearman(truth, guess), pearson=metrics.pearson(truth, guess))

    @classmethod
    def trivial(cls, train, test):
        """Guess by the share of words that both texts have: of all those in either."""
        words = [[set(metrics.WORD.findall(text.lower())) for text in pair] for *pair, _ in test]
        return [len(a & b) / max(1, len(a | b)) for a, b in words]

    def written(self, value, text=None):
        """Return the number, in seven digits: with fewer, ranks of numbers close together would be lost."""
        return f"{value:.7g}"
