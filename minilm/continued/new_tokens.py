"""New tokens for a trained model: words of the domain get new embedding rows; the old rows stay as they are.

The tokenizer is extended first (`BPE.extend`): old tokens keep their ids, and new ones follow them.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ..model.transformer import Transformer, build
from ..tokenizer.base import Tokenizer


def new_row(old: Tensor, how: str) -> Tensor:
    """Return the initial row (D,) of a new token, given the old rows (V, D): their mean, zeros, or random."""
    if how == "mean":  # an average logit: that of a random row may exceed all old ones (Hewitt 2021)
        return old.mean(0)
    if how == "zeros":
        return torch.zeros_like(old[0])
    return torch.randn_like(old[0]) * old.std()


def extend_vocabulary(model: Transformer, tokenizer: Tokenizer, n_old: int, how: str) -> Transformer:
    """Return a copy of the model with a `new_row` for each token of `tokenizer` from the id `n_old` on."""
    larger = build(replace(model.config, vocab_size=max(tokenizer.vocab_size, model.config.vocab_size)))
    state = larger.state_dict()  # no copy: writing here changes the model
    for name, old in model.state_dict().items():
        state[name][: len(old)] = old
        if name in ("tokens.weight", "vocabulary.bias", "vocabulary.output.weight"):
            for i in range(n_old, tokenizer.vocab_size):  # first the spare rows without a token, if any
                state[name][i] = new_row(old[:n_old], how)
    return larger.to(model.tokens.weight.device)
