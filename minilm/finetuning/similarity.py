"""Similarity: a number says how alike two texts are (`similarity`).

    together    [CLS] text A [SEP] text B [SEP] -> the vector of [CLS] -> number
    apart       text A -> u, text B -> v; u, v, |u - v|, u * v -> number

    input_ids [CLS]  _Ana   _sold  _a _melon     . [SEP]      text A, a row of its own
    input_ids [CLS] _Hugo _bought _it      . [SEP] [PAD]      text B
    labels  -0.71    in standard deviations from the mean

Sources: together, Devlin et al. 2019, STS-B in table 1; apart, Reimers and Gurevych 2019, section 3, for u
and v, and Conneau et al. 2017 for the input of the head (`heads.Head`). Differs from Reimers and Gurevych,
who use the cosine of u and v to predict a number, and u, v, |u - v| to predict classes.

Apart is the default here and differs from the BERT paper. To see whether two texts name the same person, a
model has to compare them. A small model does not learn that on its way to [CLS]; of |u - v| a weighted sum
is enough. Each text also gets a vector of its own: `extract.py --similar` with the fine-tuned folder uses it.
"""

from typing import ClassVar

import torch

from .. import world
from ..training import metrics
from .tasks import HeadTask, Prediction, shared_rare_words


class Similarity(HeadTask):
    """The model learns the number in standard deviations from the mean."""

    name, metric, baseline, n_output = "similarity", "spearman", "shared rare words", 1
    learnt: ClassVar = dict(mean=float, deviation=float)
    fields, least_context, is_number = ("text_a", "text_b", "label"), 6, True
    recipe: ClassVar = dict(n_examples=3000, steps=1000, batch_size=32, rate=3e-3)
    world = staticmethod(world.similarity)  # 0 to 5: do two stories share place, person and ending?

    @classmethod
    def learn(cls, train, tokenizer=None):
        """Return the mean and the standard deviation of the numbers."""
        values = torch.tensor(cls.truths(train), dtype=torch.float64)
        return dict(mean=float(values.mean()), deviation=float(values.std()))

    def rows(self, examples):
        """Return the pairs as rows, with their numbers in standard deviations from the mean."""
        # A head whose outputs start near 0 is then right on average, whatever the unit of the numbers.
        labels = [(number - self.known["mean"]) / self.known["deviation"] for *_, number in examples]
        return self.text_rows(examples, torch.tensor(labels))

    def loss(self, model, batch):
        """Return the mean squared error; always guessing the mean gives about 1."""
        error = model.output(batch)[:, 0].float() - batch["labels"]  # (B, 1) -> (B,)
        loss = (error**2).sum() / batch["n_row"]
        return loss, dict(loss=loss)

    def predict(self, model, examples, batch_size):
        """Return the predicted number of each pair, without a probability."""
        rows, found = self.text_rows(examples, torch.zeros(len(examples))), []  # labels that are not used
        for (a, b, truth), number in zip(examples, self.outputs(model, rows, batch_size), strict=True):
            guess = number.item() * self.known["deviation"] + self.known["mean"]
            found.append(Prediction(f"{a} | {b}", truth, guess))
        return found

    def score(self, truth, guess):
        """Return Spearman's and Pearson's correlation of guess and truth."""
        return dict(spearman=metrics.spearman(truth, guess), pearson=metrics.pearson(truth, guess))

    @classmethod
    def trivial(cls, train, test):
        """Return the share of rare words that both texts have."""
        return shared_rare_words(train, test)

    def written(self, value, text=None):
        """Return the number with seven digits: with fewer, close numbers would become equal in rank."""
        return f"{value:.7g}"
