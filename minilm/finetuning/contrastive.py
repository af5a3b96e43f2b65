"""Contrastive learning from pairs of texts: which text of the batch is the partner? (`contrastive`)

    u_i, v_i    text A and text B of pair i, each read alone: the mean over its tokens, scaled to length 1
    s_ij        u_i . v_j / temperature, (B, B);  loss = - 1/B sum over i of log softmax(s_i)[i]

There is no new head: `minilm.embed` and `extract.py --similar` give the learnt vectors (not for BART, where
they are the decoder's). Differs from the supervised model of Gao et al.: the data has no hard negatives.
Sources: Henderson et al. 2017 (in-batch negatives: the partners of the other pairs are the wrong answers);
Gao et al. 2021, equation 1; Reimers and Gurevych 2019 (the mean).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F

from .. import world
from .similarity import Similarity

TEMPERATURE = 0.2  # cosines differ too little for a softmax; differs from Gao et al.: 0.05, see README


class NoHead(torch.nn.Identity):
    """No head: it returns the vectors of both texts unchanged, (B, 2, D)."""

    on = "apart"


class Contrastive(Similarity):
    """Training pairs have no number; the cosine is tested on the numbered pairs of `similarity`."""

    name, has_truth, has_head, head = "contrastive", False, False, NoHead
    recipe: ClassVar = dict(n_examples=3000, steps=300, batch_size=32)

    @staticmethod
    def world(n, seed, held_out, domain="stories"):
        """Return pairs of stories of one place, half also of one person; held out: those of `similarity`."""
        if held_out:
            return world.similarity(n, seed, held_out, domain)
        examples = []
        for i, first in enumerate(world.draw(n, seed, domain, held_out=False)):
            shared = dict(place=first.place) | (dict(person=first.person) if i % 2 else {})
            examples.append((first.text, type(first)(seed, n + i, False, **shared).text, None))
        return examples

    @classmethod
    def learn(cls, train, tokenizer=None):
        """Return a mean and a deviation that leave the cosine unchanged."""
        return dict(mean=0.0, deviation=1.0)

    def rows(self, examples):
        """Return the pairs as rows; as labels (N, 2), the number of each text: equal texts, equal numbers."""
        numbers: dict[str, int] = {}
        labels = [[numbers.setdefault(text, len(numbers)) for text in pair] for *pair, _ in examples]
        return self.text_rows(examples, torch.tensor(labels))

    def loss(self, model, batch):
        """Return the mean cross-entropy in nats; metrics: `loss`, `accuracy` (share of partners found)."""
        u, v = F.normalize(model.output(batch).float(), dim=-1).unbind(1)  # (B, 2, D) -> (B, D) each
        scores, right = u @ v.T / TEMPERATURE, torch.arange(len(u), device=u.device)  # (B, B), (B,)
        # A pair that shares a text with pair i is no wrong answer for it: masked. Other pairs of its place
        # stay, as often as they occur: s_ij tends to log (p(j | i) / p(j)) + c_i (van den Oord et al. 2018).
        a, b = batch["labels"][:, None, :, None], batch["labels"][None, :, None, :]
        again = (a == b).flatten(2).any(2).fill_diagonal_(False)  # (B, B, 2, 2) -> (B, B)
        scores = scores.masked_fill(again, -torch.inf)
        loss = F.cross_entropy(scores, right, reduction="sum") / batch["n_row"]
        return loss, dict(loss=loss, accuracy=(scores.argmax(1) == right).sum() / batch["n_row"])

    def outputs(self, model, rows, batch_size):
        """Return the cosine of each pair."""
        return [F.cosine_similarity(*pair, dim=0) for pair in super().outputs(model, rows, batch_size)]
