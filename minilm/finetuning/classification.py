"""Classification of one text or of two: a head gives each class a score (`classification`, `pair`).

    input_ids        [CLS] _Ana _sold _a _melon  . [SEP]
    labels  market

    input_ids        [CLS] _Ana _sold _a _melon  . [SEP] _Hugo _bought _it  . [SEP]
    token_type_ids       0    0     0  0      0  0     0     1       1   1  1     1
    labels  same

Source: Devlin et al. 2019, section 4.1 and figure 4 (a) and (b): softmax(C W^T), C the vector of [CLS]. A
decoder and an encoder-decoder give their last token's vector instead (`heads.py`).
"""

from collections import Counter
from typing import ClassVar

import torch
import torch.nn.functional as F

from .. import world
from ..training import metrics
from .tasks import HeadTask, Prediction, shared_rare_words


class Classification(HeadTask):
    """One text, one of C classes."""

    name, metric, baseline, closed = "classification", "accuracy", "majority class", True
    fields, learnt = ("text", "label"), dict(labels=tuple[str, ...])
    recipe: ClassVar = dict(n_examples=24, steps=100, batch_size=24, n_run=10)
    world = staticmethod(world.labelled)  # sentences 2 to 4 of a story, which do not name its place

    def rows(self, examples):
        """Return the texts as rows, each with the index of its label."""
        return self.text_rows(examples, torch.tensor([self.labels.index(label) for *_, label in examples]))

    def loss(self, model, batch):
        """Return the mean cross-entropy in nats; metrics: `loss` (the same) and `accuracy`."""
        logits = model.output(batch)  # (B, C)
        loss = F.cross_entropy(logits.float(), batch["labels"], reduction="sum") / batch["n_row"]
        return loss, dict(loss=loss, accuracy=(logits.argmax(-1) == batch["labels"]).sum() / batch["n_row"])

    def predict(self, model, examples, batch_size):
        """Return the likeliest class of each text, with its probability."""
        rows, found = self.text_rows(examples, torch.zeros(len(examples))), []  # labels that are not used
        for (*texts, truth), scores in zip(examples, self.outputs(model, rows, batch_size), strict=True):
            probability, best = scores.softmax(-1).max(-1)  # (C,) -> one number each
            found.append(Prediction(" | ".join(texts), truth, self.labels[best], float(probability)))
        return found

    def score(self, truth, guess):
        """Return accuracy, macro F1 and Matthews' correlation."""
        return {f.__name__: f(truth, guess) for f in (metrics.accuracy, metrics.macro_f1, metrics.matthews)}

    def figures(self, predictions):
        """Return the `score`, and as `calibration_error` how far the probabilities are from the accuracy."""
        right = [p.truth == p.guess for p in predictions]
        error = metrics.calibration_error(right, [p.probability for p in predictions])
        return super().figures(predictions) | dict(calibration_error=error)


class Pair(Classification):
    """Two texts, one of C classes: do they mean the same, or does one follow from the other?"""

    name, baseline = "pair", "shared rare words"
    fields, least_context = ("text_a", "text_b", "label"), 6
    recipe: ClassVar = dict(n_examples=300, steps=300, batch_size=32)
    world = staticmethod(world.text_pairs)  # do both happen at the same place?

    @classmethod
    def trivial(cls, train, test):
        """Return one label for pairs that share few rare words, one for the others: the best on `train`."""
        below, above, borders = Counter(), Counter(cls.truths(train)), {}
        for share, label in sorted(zip(shared_rare_words(train, train), cls.truths(train), strict=True)):
            below[label] += 1
            above[label] -= 1
            (low, n_low), (high, n_high) = below.most_common(1)[0], above.most_common(1)[0]
            borders[share] = n_low + n_high, low, high  # of equal shares the last counts: all lie below it
        border, (_, low, high) = max(borders.items(), key=lambda item: item[1][0])  # the most often right
        return [low if share <= border else high for share in shared_rare_words(train, test)]
