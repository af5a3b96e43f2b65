"""A model whose answers are known, for the figures at the end of a run."""

import re

import torch
from torch import nn

from minilm import world


class Oracle(nn.Module):
    """A model whose scores are what a function says of a row with a blank: text -> {token: score}."""

    def __init__(self, bpe, answer):
        super().__init__()
        self.bpe, self.answer = bpe, answer
        self.weight = nn.Parameter(torch.zeros(1))  # a device to be on
        self.n_row, self.n_blank = [], []

    def hidden_states(self, input_ids, attention_mask=None, token_type_ids=None):
        B, T = input_ids.shape
        self.n_row.append(B)
        scores = torch.full((B, T, len(self.bpe.vocab)), -1e9)
        for b, ids in enumerate(input_ids.tolist()):
            blanks = [t for t, i in enumerate(ids) if i == self.bpe.special_id("[MASK]")]
            self.n_blank.append(len(blanks))
            for t in blanks:
                for token, score in self.answer(self.bpe.decode(ids)).items():
                    scores[b, t, self.bpe.encode(token)[0]] = score
        return (scores,)

    def vocabulary_logits(self, hidden):
        return hidden


def place_in(text: str) -> str:
    return next(place for place in world.PLACES if re.search(rf"\b{place}\b", text))
