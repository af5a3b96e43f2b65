"""What an objective is: it turns text into batches, and a batch into a loss; `evaluate` computes its metrics.

`batch` is a pure function of (seed, split, step), so a resumed run needs no state of its data, and evaluation
cannot disturb training. A batch holds the denominators of its loss as 0-d tensors, counts of the whole batch.
So the losses and metrics of micro-batches, or of processes, add up to those of the whole batch.
"""

import math
from abc import ABC, abstractmethod
from inspect import signature
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.generate import evaluation_mode
from ..plumbing.script import added_up, process_count, process_rank, with_bar
from ..tokenizer.base import Tokenizer
from .machine import quick_products

IGNORED = -100  # label of a position that the loss leaves out
SPLITS = ("train", "validation")
ENCODER = {"input_ids", "attention_mask", "token_type_ids"}  # (B, S), beside a decoder's (B, T)


class Objective(ABC):
    """The base class of all objectives; see `pretraining/causal.py` for the shortest one.

    One whose step is not batch, loss, backward has a method `update(model, optimizer, settings, step)`, which
    updates the weights and returns what `loop.train_step` returns (PPO: `reinforcement/ppo.py`).
    """

    notes: tuple[str, ...] = ()  # lines worth printing, such as how many texts were cut
    update = None
    shown: tuple[str, ...] = ()  # metrics of such an update to print during training
    state: float | None = None  # what it carries from step to step, saved in each checkpoint
    head: nn.Module | None = None  # weights of its own, which `loss` finds as `model.head`
    patience = 0  # in pre-training, see `checkpoints.EarlyStopping`

    @classmethod
    def options(cls, settings: dict) -> dict:
        """Return those of the settings that are arguments of the class, by name."""
        taken = signature(cls).parameters.keys() - {"corpus", "tokenizer", "teacher"}
        return {name: value for name, value in settings.items() if name in taken}

    def __init__(self, tokenizer: Tokenizer, context: int, batch_size: int, seed: int = 0):
        self.tokenizer, self.context, self.batch_size, self.seed = tokenizer, context, batch_size, seed
        # UTF-8 bytes that each token stands for, (V,); a special token stands for none
        self.token_bytes = np.array([len(tokenizer.vocab.get(i, b"")) for i in range(tokenizer.vocab_size)])
        self.token_bytes[[tokenizer.special_id(token) for token in tokenizer.special_tokens]] = 0

    @abstractmethod
    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return the batch of a step of `train`, or the whole `validation` set whatever the step."""

    @abstractmethod
    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of (a part of) a batch, and metrics that add up over the parts."""

    def generator(self, step: int, split: str) -> np.random.Generator:
        """Return the random generator of one batch; the validation set is the same at every step."""
        return np.random.default_rng([self.seed, SPLITS.index(split), step if split == "train" else 0])


def micro_batches(batch: dict[str, Tensor], n: int) -> list[dict[str, Tensor]]:
    """Cut a batch into n parts by rows; each part gets all 0-d tensors, the denominators of the loss."""
    n_row = next(value.shape[0] for value in batch.values() if value.dim())
    edges = [i * n_row // n for i in range(n + 1)]
    return [
        {name: value[start:end] if value.dim() else value for name, value in batch.items()}
        for start, end in pairwise(edges)
        if end > start
    ]


def trimmed(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a part of a batch without its last columns that are padding in all rows."""
    real, part, needed = part.get("attention_mask", torch.ones(())), dict(part), {}
    if real.dim() == 2:
        needed = {name: real for name, value in part.items() if value.shape[1:] == real.shape[1:]}
    if "decoder_input_ids" in part:  # (B, S) are the encoder's, all other columns, (B, T), the decoder's
        own = {name for name, value in part.items() if value.dim() == 2} - ENCODER
        needed |= dict.fromkeys(own, part["labels"] != IGNORED)
    for name, columns in needed.items():
        if not name.startswith("masked"):  # (B, P): masked places and their tokens
            n = max(columns.any(0).nonzero().flatten().tolist(), default=0) + 1
            part[name] = part[name][:, :n]  # (B, T) -> (B, n)
    if "masked_positions" in part:  # unused ones, without a label, may lie in the padding
        part["masked_positions"] = part["masked_positions"].clamp(max=part["input_ids"].shape[1] - 1)
    return part


def by_length(batch: dict[str, Tensor], n: int) -> list[dict[str, Tensor]]:
    """Cut a batch into n parts of rows of similar length, the shortest first: this leaves little padding."""
    real = batch.get("attention_mask", torch.ones(()))  # (B, T); of pairs of rows (B, 2, T)
    if real.dim() == 2:
        order = real.sum(1).argsort(stable=True)  # (B,)
        batch = {name: value[order] if value.dim() else value for name, value in batch.items()}
    return [trimmed(part) for part in micro_batches(batch, n)]


def add_metrics(totals: dict[str, Tensor], metrics: dict[str, Tensor]) -> None:
    """Add the metrics of one part of a batch to those of the parts before it."""
    for name, value in metrics.items():
        totals[name] = totals.get(name, 0) + value.detach().float()


def tensors(arrays: dict) -> dict[str, Tensor]:
    """Turn arrays of whole numbers into int64 tensors, and plain numbers into 0-d float32 tensors."""
    return {
        name: torch.from_numpy(value.astype(np.int64)) if np.ndim(value) else torch.tensor(float(value))
        for name, value in arrays.items()
    }


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to the device; to a GPU from pinned memory, so that the CPU need not wait for the copy."""
    if device.type == "cuda":
        return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}
    return {name: value.to(device) for name, value in batch.items()}


def autocast(precision: str, device: torch.device):
    """Return a context in which matrix products run in bfloat16 if `precision` is bf16 (weights: fp32)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of -log softmax(logits)[label] in nats, without IGNORED ones; (..., V), (...) -> 0-d."""
    # A sum: the caller divides it by at least 1. Without any label the loss is then 0; a mean would be NaN.
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels are the token with the highest logit; logits (..., V), labels (...)."""
    return (logits.argmax(-1) == labels).sum()  # IGNORED is no token's id, so it is never counted


def perplexity(loss: float) -> float:
    """Return exp(loss), for a mean loss in nats a token."""
    return math.exp(min(loss, 700))  # no float holds exp(710), and a diverged model gets its table, too


def notes_on_cuts(n_cut: int, what: str, context: int) -> tuple[str, ...]:
    """Return a line that says how many texts did not fit a row, as `what` words it; no line if n_cut is 0."""
    return (f"{what.format(n_cut)} to fit --context {context} tokens",) if n_cut else ()


@torch.no_grad()
def evaluate(model: torch.nn.Module, objective: Objective, settings) -> dict[str, float]:
    """Return the metrics on the whole validation set; each process adds its part. Training is unaffected."""
    device = next(model.parameters()).device
    batch = objective.batch(0, "validation")
    n, totals = process_count(), {}
    rows_that_fit = max(1, settings.batch_size // (settings.accumulate * n))
    jump = 1 if settings.shard else n  # with --shard every pass needs all processes: each evaluates all rows
    parts = by_length(batch, -(-len(batch["input_ids"]) // rows_that_fit))
    how = settings.precision, device
    with evaluation_mode(model), autocast(*how), quick_products(*how):
        for i in with_bar(range(process_rank() % jump, -(-len(parts) // jump) * jump, jump), "evaluation"):
            metrics = objective.loss(model, to_device(parts[i % len(parts)], device))[1]
            # A process without a last part adds zeros: it needs the names of the metrics all the same.
            add_metrics(totals, metrics if i < len(parts) else {m: 0 * v for m, v in metrics.items()})
    return {name: float(value) / (n // jump) for name, value in added_up(totals).items()}
