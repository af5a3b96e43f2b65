"""The loss of labels that are tokens: plain, or in chunks, with the logits of a few positions at a time.

The plain form holds three tensors with a number for each position and each token of the vocabulary: logits,
softmax and gradient; with gpt2's vocabulary 1.6 GB each for 8 rows of 1,024 tokens. But the gradient of a
position's loss with respect to its logits, softmax - one-hot, does not depend on other positions. So it is
computed at once, multiplied with both factors of the logits (which gives their gradients), and discarded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .objective import IGNORED, summed_cross_entropy

SMALL = 2**21  # logits; up to this many the plain form is fast and small enough
ROWS = 512  # positions in a chunk: few logits, but matrix products large enough to be fast


def vocabulary_loss(model, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of -log p(label) in nats, without IGNORED ones, and which labels are the likeliest.

    `hidden` (..., D): the model's last states, or some of them; labels (...). The results are 0-d and (...).
    """
    if labels.numel() * len(model.tokens.weight) <= SMALL:
        logits = model.vocabulary_logits(hidden)  # (..., V)
        return summed_cross_entropy(logits, labels), logits.argmax(-1) == labels
    hidden, weight, bias = model.vocabulary.factors(hidden, model.tokens.weight)
    given = hidden.flatten(0, -2), weight, bias, labels.flatten(), torch.is_grad_enabled()
    total, right = ChunkedCrossEntropy.apply(*given)
    return total, right.view_as(labels)


class ChunkedCrossEntropy(torch.autograd.Function):
    """The loss in chunks, with gradients computed in the forward pass; the plain form but for rounding."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, learns: bool) -> tuple[Tensor, Tensor]:
        """Map hidden (n, D), weight (V, D), bias (V,) or none, labels (n,) to sum (0-d), likeliest (n,)."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        x, w = hidden.to(dtype), weight.to(dtype)
        wanted = [learns and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
        grad_x = torch.empty_like(hidden) if wanted[0] else None
        grad_w = torch.zeros_like(weight) if wanted[1] else None
        grad_b = torch.zeros_like(bias) if wanted[2] else None
        total, right = hidden.new_zeros((), dtype=torch.float32), torch.empty_like(labels, dtype=torch.bool)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(x), ROWS):
                rows = slice(start, start + ROWS)
                logits = F.linear(x[rows], w, None if bias is None else bias.to(dtype)).float()  # (c, V)
                real, label = labels[rows] != IGNORED, labels[rows].clamp(min=0)[:, None]  # (c,), (c, 1)
                own = logits.gather(1, label)[:, 0]  # (c,)
                top, likeliest = logits.max(1)
                right[rows] = likeliest == labels[rows]
                p = logits.sub_(top[:, None]).exp_()  # (c, V), in place; the softmax's numerators
                z = p.sum(1)  # (c,), the softmax's denominator
                total += ((z.log() + top - own) * real).sum()  # -log p = log sum exp(logits) - the label's
                if any(wanted):
                    p.mul_((real / z)[:, None]).scatter_add_(1, label, -real.float()[:, None])
                    d = p.to(dtype)  # (c, V): softmax - one-hot, the loss's gradient at the logits
                    if wanted[0]:
                        grad_x[rows] = d @ w
                    if wanted[1]:
                        grad_w += d.T @ x[rows]
                    if wanted[2]:
                        grad_b += p.sum(0)
        ctx.grads = grad_x, grad_w, grad_b
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    def backward(ctx, grad: Tensor, _) -> tuple:
        """Multiply the stored gradients by `grad`, the final loss's gradient by the sum (chain rule)."""
        (grads, ctx.grads) = ctx.grads, None  # not kept: they are as large as the weights
        return (*(None if g is None else g.mul_(grad) for g in grads), None, None)
