"""One vector for a text, from the last hidden states of its tokens (that of the first is hidden[:, 0])."""

import torch
from torch import Tensor


def token_mean(hidden: Tensor, real: Tensor | None) -> Tensor:
    """Return the mean (B, D) of hidden states (B, T, D) over real tokens, 1 in `real` (B, T); None: all."""
    if real is None:
        return hidden.mean(1)
    weight = real.to(hidden.dtype) / real.sum(1, keepdim=True).clamp(min=1)  # (B, T), rows sum to 1
    return (weight[:, None] @ hidden)[:, 0]  # (B, 1, T) @ (B, T, D) -> (B, 1, D) -> (B, D)


def last_token(hidden: Tensor, real: Tensor | None) -> Tensor:
    """Return the last real token's state (B, D), whichever side is padded; arguments as in `token_mean`."""
    if real is None:
        return hidden[:, -1]
    last = (real * torch.arange(real.shape[1], device=real.device)).argmax(1)  # (B,)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
