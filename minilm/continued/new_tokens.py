"""New tokens for a trained model: words of its domain get rows of their own; the old rows stay as they are.

The tokenizer is extended first (`BPE.extend`): old tokens keep their ids, and new ones follow them.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ..model.transformer import Transformer, build
from ..tokenizer.bpe import BPE


def new_row(old: Tensor, how: str) -> Tensor:
    """Return a new token's first row (D,), from the old rows (V, D): their mean, zeros, or a random draw."""
    if how == "mean":  # the logit of an average token, where a random row may beat all old ones (Hewitt 2021)
        return old.mean(0)
    if how == "zeros":
        return torch.zeros_like(old[0])
    return torch.randn_like(old[0]) * old.std()


def extend_vocabulary(model: Transformer, tokenizer: BPE, how: str) -> Transformer:
    """Return a copy of the model with rows for the tokens of `tokenizer`; the old rows stay."""
    larger = build(replace(model.config, vocab_size=max(tokenizer.vocab_size, model.config.vocab_size)))
    state = model.state_dict()
    for name, new in larger.state_dict().items():
        old = state[name]
        if old.shape != new.shape:  # a matrix (V, D), or the bias (V,) of the vocabulary head
            rows = old.view(len(old), -1)  # (V, D) or (V, 1)
            added = torch.stack([new_row(rows, how) for _ in range(len(new) - len(old))])
            state[name] = torch.cat([old, added.view(-1, *old.shape[1:])])
    larger.load_state_dict(state)  # which copies
    return larger.to(model.tokens.weight.device)
