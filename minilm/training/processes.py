"""Several processes that train one model, by PyTorch's own engine: each learns from its own rows.

    torchrun --nproc-per-node 8 train.py ...

It adds up all gradients while the backward pass is still on its way (Li et al. 2020, "PyTorch Distributed",
section 3.2).
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..plumbing.script import process_count, process_rank
from .objective import Objective, micro_batches


class LossOf(nn.Module):
    """A loss as the forward pass of a module, which is what the engine knows how to wrap."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, part: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = self.objective.loss(self.model, part)
        return loss, {name: value.detach() for name, value in metrics.items()}


class Together:
    """An objective as one of several processes sees it: its own rows, and the gradient of the whole batch."""

    update = state = None

    def __init__(self, model: nn.Module, objective: Objective, settings):
        self.objective, self.settings = objective, settings
        # unused parameters: a reward model has no use for the biases of a vocabulary head
        self.engine = DistributedDataParallel(LossOf(model, objective), find_unused_parameters=True)

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return this process's rows of the batch of a step, or the whole validation set."""
        batch, self.n_left = self.objective.batch(step, split), self.settings.accumulate
        return micro_batches(batch, process_count())[process_rank()] if split == "train" else batch

    def loss(self, model, part: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch and its metrics."""
        self.n_left -= 1
        self.engine.require_backward_grad_sync = self.n_left == 0  # gradients are sent once a step
        loss, metrics = self.engine(part)
        # The engine takes the mean over the processes. Ours divide by counts of the whole batch: they add up.
        return loss * process_count(), metrics

    def total(self, metrics: dict[str, Tensor], norm: Tensor, n_token: int, lr: float) -> tuple:
        """Return of all processes what `loop.train_step` returned of this one's rows."""
        values = torch.stack(list(metrics.values()))
        dist.all_reduce(values)
        return dict(zip(metrics, values, strict=True)), norm, n_token * process_count(), lr
