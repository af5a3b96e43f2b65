"""Muon: each matrix moves by the same length in every direction.

Let U S V^T be the singular value decomposition of a matrix's momentum. Few values in S are large, and a step
along the momentum changes little but their directions. Muon steps along U V^T: all directions have length 1.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

import torch
from torch import Tensor

MOMENTUM = 0.95


def orthogonal(matrix: Tensor, n_step: int = 5) -> Tensor:
    """Return nearly U V^T of a matrix U S V^T, by matrix products alone (Newton-Schulz iteration).

    A step turns each singular value s, which is at most 1, into a s + b s^3 + c s^5; after five steps nearly
    all lie between 0.68 and 1.21, which serves as well as 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # steep at 0, where most s are, and never far from 1
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # (m, n), m <= n
    x = x / (x.norm() + 1e-7)  # no singular value is above the norm
    for _ in range(n_step):
        xx = x @ x.T  # (m, m) = U S^2 U^T
        x = a * x + (b * xx + c * xx @ xx) @ x  # U (a S + b S^3 + c S^5) V^T
    return x.T if is_tall else x


class Muon(torch.optim.AdamW):
    """AdamW, but the matrices of groups with `by_muon` take orthogonal steps.

    Differs from the source: a step is as long as one of AdamW, about 0.2 of the rate for each weight (root
    mean square; Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2), so one rate serves both.
    And the products are in float32 instead of bfloat16.
    """

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights that have a gradient."""
        for group in (group for group in self.param_groups if group["by_muon"]):
            for p in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(MOMENTUM).add_(p.grad)
                update = orthogonal(p.grad + MOMENTUM * momentum)  # looks one step ahead (Nesterov)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * 0.2 * max(p.shape) ** 0.5 * update)  # rms of U V^T: max(p.shape)^-0.5
                p.grad = None  # so that AdamW skips it
        super().step()
