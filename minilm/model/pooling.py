"""One vector for a text, out of the last hidden states of all its tokens; the first one's is hidden[:, 0]."""

import torch
from torch import Tensor


def token_mean(hidden: Tensor, real: Tensor | None) -> Tensor:
    """Return the mean over the real tokens: (B, T, D), (B, T) -> (B, D); no mask: all are real."""
    if real is None:
        return hidden.mean(1)
    weight = real.to(hidden.dtype) / real.sum(1, keepdim=True).clamp(min=1)  # (B, T), rows sum to 1
    return (weight[:, None] @ hidden)[:, 0]  # (B, 1, T) @ (B, T, D) -> (B, 1, D) -> (B, D)


def last_token(hidden: Tensor, real: Tensor | None) -> Tensor:
    """Return the state of the last real token, whichever side is padded: (B, T, D), (B, T) -> (B, D)."""
    if real is None:
        return hidden[:, -1]
    last = (real * torch.arange(real.shape[1], device=real.device)).argmax(1)  # (B,)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
