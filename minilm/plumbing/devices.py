"""Where the arithmetic runs: device, precision, and how many processes share a step.

`torchrun --nproc-per-node 8 train.py ...` starts eight processes that find each other by the variables RANK,
WORLD_SIZE and LOCAL_RANK. Without them there is one process, and the functions below do nothing.
"""

import os
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device called `name` (auto: CUDA's GPU, else the CPU); UserError where it is not there."""
    is_there = dict(cpu=True, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    if name == "auto":
        name = "cuda" if is_there["cuda"] else "cpu"  # Apple's only on request: its results differ a little
    if not is_there[name]:
        raise UserError(f"--device {name}: PyTorch finds no such GPU here; use --device cpu (or auto)")
    if name == "cuda" and process_count() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def autocast(precision: str, device: torch.device):
    """Return a context in which `precision` bf16 runs matrix products in bfloat16 (weights stay fp32)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes share a step."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device):
    """Join the other processes for the length of a `with` block."""
    if several := process_count() > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # else each process would also take memory of the first GPU
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        if several:
            dist.destroy_process_group()


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Replace each tensor, in place and in one message, by its sum over all processes."""
    if process_count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))
