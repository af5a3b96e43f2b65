"""Several processes that train one model with PyTorch's own engines: each has its own rows of a batch.

    torchrun --nproc-per-node 8 train.py ...            each keeps all weights: DistributedDataParallel
    torchrun --nproc-per-node 8 train.py --shard ...    each keeps an eighth of them: fully_shard (FSDP2)

Both engines add up the gradients of all processes while the backward pass is still running (Li et al. 2020,
"PyTorch Distributed", section 3.2; Zhao et al. 2023, "PyTorch FSDP").
"""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from ..model.blocks import Block
from ..plumbing.script import added_up, process_count, process_rank
from .loop import rehearse
from .objective import Objective, micro_batches


class LossOf(nn.Module):
    """A module whose forward pass is the loss: the engines can wrap only modules."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, part: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = self.objective.loss(self.model, part)
        return loss, {name: value.detach() for name, value in metrics.items()}


class Together:
    """An objective as one of several processes uses it: its own rows, the gradient of the whole batch."""

    update = state = None

    def __init__(self, objective: Objective, engine: nn.Module, settings):
        self.objective, self.engine, self.settings = objective, engine, settings

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return this process's rows of the batch of a step, or the whole validation set."""
        batch, self.n_left = self.objective.batch(step, split), self.settings.accumulate
        return micro_batches(batch, process_count())[process_rank()] if split == "train" else batch

    def loss(self, model, part: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch and its metrics."""
        self.n_left -= 1
        # DistributedDataParallel sends gradients once a step; fully_shard, which keeps none whole, each time.
        self.engine.require_backward_grad_sync = self.n_left == 0
        loss, metrics = self.engine(part)
        if self.settings.shard and not torch.is_grad_enabled():
            self.engine.reshard()  # a backward pass does this by itself
        # The engines average over the processes. Our losses divide by counts of the whole batch: they add up.
        return loss * process_count(), metrics

    def total(self, metrics: dict[str, Tensor], norm: Tensor, n_token: int, lr: float) -> tuple:
        """Return for the whole batch what `loop.train_step` returned for this process's rows."""
        norm = norm.full_tensor() if self.settings.shard else norm
        return added_up(metrics), norm, n_token * process_count(), lr


def share(model: nn.Module, objective: Objective, optimizer, settings) -> tuple[nn.Module, Together]:
    """Return the model that each of several processes trains, and its objective.

    With `settings.shard` it is a copy, of which each process has a part; the original stays on the CPU.
    """
    if not settings.shard:  # the engine waits for all gradients: a reward model's vocabulary head gets none
        unused = not rehearse(model, objective, settings)
        engine = DistributedDataParallel(LossOf(model, objective), find_unused_parameters=unused)
        return model, Together(objective, engine, settings)
    mesh = init_device_mesh(next(model.parameters()).device.type, (process_count(),))
    twin = copy.deepcopy(model.cpu())
    for block in (module for module in twin.modules() if isinstance(module, Block)):
        fully_shard(block, mesh=mesh)  # a block's weights are whole only while it computes
        register_fsdp_forward_method(block, "forward_at")
    engine = fully_shard(LossOf(twin, objective), mesh=mesh)
    part_of = dict(zip(model.parameters(), twin.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [part_of[p] for p in group["params"]]
    return twin, Together(objective, engine, settings)
