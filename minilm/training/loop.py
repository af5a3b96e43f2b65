"""The one loop that trains every model: batch, loss, backward, clip, step.

An objective defines what a batch is and what its loss is (`objective.py`). Everything here is the same for
all objectives: optimizer, warm-up and decay of the learning rate, clipping, micro-batches, several processes.
Logs and checkpoints are in `checkpoints.py`.
"""

import math
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor

from ..model.blocks import Stack
from ..plumbing.errors import UserError
from ..plumbing.script import added_up, process_count, process_rank
from ..plumbing.settings import CommonSettings
from .checkpoints import Run
from .machine import keep_memory, quick_products, settle_threads, settled_precision
from .muon import Muon
from .objective import Objective, add_metrics, autocast, by_length, micro_batches, to_device

BETAS = (0.9, 0.98)  # of AdamW: Vaswani et al. 2017, section 5.3; other papers': `pretraining/recipes.py`


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(CommonSettings):
    """How long and how fast a model learns; none: the value in the recipe of the model or the task."""

    steps: int | None = None  # optimizer steps
    batch_size: int | None = None  # rows per step, over all micro-batches and processes
    lr: float | None = None  # highest learning rate; none: from the recipe, or by which weights are trained
    warmup: int | None = None  # steps in which the learning rate rises from 0
    schedule: Literal["linear", "cosine", "inverse-sqrt", "constant"] | None = None  # rate after the warm-up
    weight_decay: float | None = None  # the optimizer's weight decay, on matrices only
    accumulate: int = 1  # micro-batches that a step is cut into, to save memory; the gradient stays the same
    clip: float = 1.0  # largest norm of the gradient; 0: no clipping
    eval_every: int | None = None  # steps between evaluations; none: eight evaluations in a run
    save_every: int = 1000  # steps between checkpoints
    log_every: int = 50  # steps between lines of the log
    resume: bool = False  # continue the run in --out, or the newest one that was interrupted
    shard: bool = False  # each process keeps only a part of the weights, for large models (torchrun)
    show_batch: int = 0  # print this many rows of the first batch as tokens, and end without training
    optimizer = "adamw"  # without a type it is no flag: `PretrainingSettings` makes it one

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict.fromkeys(("seed", "lr", "warmup", "weight_decay", "clip", "show_batch"), 0))
        self.check_least(dict(steps=1, batch_size=1, accumulate=1, eval_every=1, save_every=1, log_every=1))
        parts = self.accumulate * process_count()
        if self.batch_size is not None and self.batch_size < parts:
            raise UserError(f"--batch-size {self.batch_size}: at least {parts}, processes times --accumulate")
        self.refuse(self.shard, ("compile", "optimizer"), "needs whole matrices: not with --shard")


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly to `lr` over `warmup` steps (at least one), then follows the schedule: `linear` (Devlin
    et al. 2019, appendix A.2) and `cosine` (Loshchilov and Hutter 2017, equation 5) fall to 0 one step after
    the last; `inverse-sqrt` is Vaswani et al. 2017, equation 3, with peak `lr`; `constant` stays at `lr`.
    """
    warmup = max(1, settings.warmup)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup + 1) / (settings.steps - warmup + 1)  # 0 as the warm-up ends, 1 after the last step
    share = {
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        # differs from the paper: the peak is `lr`, where the paper has (d_model * warmup)^-0.5.
        "inverse-sqrt": math.sqrt(warmup / (step + 1)),
        "constant": 1.0,
    }
    return settings.lr * share[settings.schedule]


def make_optimizer(model, weight_decay: float, share_and_start=lambda name: (1.0, 0), which: str = "adamw"):
    """Return AdamW (Loshchilov and Hutter 2019) with weight decay on matrices, not on biases and norms.

    Differs from the paper as PyTorch does: the rate, not its schedule alone, scales the decay. Weights
    without `requires_grad` are left out. `share_and_start` maps a weight's name to its group's `share` of the
    rate and `first_step` (`finetuning/moving.py`). For `which` "muon", matrices in blocks are `by_muon`.
    """
    # Decay keeps matrices small. Vectors are spared: biases, and scales of norms, whose neutral value is 1.
    groups: dict[tuple, list] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            by_muon = which == "muon" and ".blocks." in name and p.dim() == 2
            groups.setdefault((*share_and_start(name), p.dim() < 2, by_muon), []).append(p)
    rows = []
    for (share, start, is_vector, by_muon), weights in sorted(groups.items(), key=lambda item: item[0]):
        decay = 0.0 if is_vector else weight_decay
        rows.append(dict(params=weights, weight_decay=decay, share=share, first_step=start, by_muon=by_muon))
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return dict(adamw=torch.optim.AdamW, muon=Muon)[which](rows, lr=0.0, betas=BETAS, fused=fused)


def train_step(model, objective: Objective, optimizer, settings: TrainingSettings, step: int) -> tuple:
    """Update the weights once; if the objective has an `update` of its own, let that do it.

    Returns the batch's metrics, the norm of its gradient before clipping, its number of tokens (padding
    included), and the learning rate. Each of several processes has its own rows (`processes.Together`).
    """
    if objective.update:
        return objective.update(model, optimizer, settings, step)
    device = next(model.parameters()).device
    # Dropout depends on the step, not on earlier random numbers, so a resumed run needs no random state.
    torch.manual_seed(hash((settings.seed, step, process_rank())) % 2**63)
    lr = learning_rate(step, settings)
    batch = objective.batch(step, "train")
    totals: dict[str, Tensor] = {}
    for part in by_length(batch, settings.accumulate) if settings.accumulate > 1 else [batch]:
        with autocast(settings.precision, device):
            loss, metrics = objective.loss(model, to_device(part, device))
        # Each part divides by counts of the whole batch, so losses, and gradients in p.grad, simply add up.
        loss.backward()
        add_metrics(totals, metrics)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("share", 1.0)
        if step < group.get("first_step", 0):
            for p in group["params"]:
                p.grad = None  # it does not move yet: no decay, no moments, no part in the gradient's norm
    moving = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # One odd batch could throw the weights far off: a gradient that is too long is scaled down to `clip`.
    norm = torch.nn.utils.clip_grad_norm_(moving, settings.clip or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return totals, norm, batch["input_ids"].numel(), lr


def rehearse(model, objective: Objective, settings: TrainingSettings) -> bool:
    """Compute one micro-batch's gradients, and drop them; return whether each trained weight got one."""
    device = next(model.parameters()).device
    part = micro_batches(objective.batch(0, "train"), settings.accumulate * process_count())[0]
    with quick_products(settings.precision, device), autocast(settings.precision, device):
        objective.loss(model, to_device(part, device))[0].backward()
    has_all = all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    return has_all


def in_any_process(value: bool) -> bool:
    """Return whether `value` is true in any process; each process waits here for all others."""
    return bool(added_up(dict(value=torch.tensor(float(value))))["value"])  # on the CPU: no wait for a GPU


def train(
    model: torch.nn.Module, objective: Objective, settings: TrainingSettings,
    folder: Path | None = None, tokenizer=None, optimizer: torch.optim.Optimizer | None = None,
    patience: int = 0, label: str | None = None,
) -> dict:  # fmt: skip
    """Train `model` with `objective`, and save it in `folder` with its `tokenizer`.

    Without a folder nothing is saved, and only a bar with the `label` is shown (runs to compare with). The
    optimizer is by default that of `make_optimizer`. `patience`: as in `EarlyStopping`.

    Returns `before` and `after` (the metrics of `evaluate`), `seconds`, `tokens_per_second`, `steps` taken.
    UserError if the loss turns NaN or infinite, or a step fails: then the last checkpoint stays as it was.
    KeyboardInterrupt on Ctrl-C, after a checkpoint.
    """
    optimizer = optimizer or make_optimizer(model, settings.weight_decay, which=settings.optimizer)
    device = next(model.parameters()).device
    settings = replace(settings, precision=settled_precision(settings.precision, model))
    model.train()
    keep_memory()
    if folder and objective.update is None and device.type == "cpu":
        settle_threads(model, partial(rehearse, model, objective, settings))
    if settings.compile:
        torch.compiler.reset()  # PyTorch keeps only eight graphs of a function, of all models together
        for stack in (module for module in model.modules() if isinstance(module, Stack)):
            stack.compile()
    run = Run(model, objective, optimizer, settings, folder, tokenizer, patience, label)
    with quick_products(settings.precision, device), stop_requests() as request:
        for step in range(run.step, settings.steps):
            if 0 < patience <= run.best.state["n_worse"]:
                break
            try:
                run.metrics, *rest = train_step(run.model, run.objective, optimizer, settings, step)
            except UserError as error:
                raise run.progress.failed(f"step {step + 1}: {error}") from None
            run.step = step + 1
            if run.several:
                run.metrics, *rest = run.objective.total(run.metrics, *rest)
            run.progress.step(run.step, run.metrics, *rest)
            if run.step == settings.steps:
                break  # evaluated and saved below
            if run.step % (settings.eval_every or math.ceil(settings.steps / 8)) == 0:
                run.best.note(run.evaluate(), run.model)
            stop = in_any_process(request.stop)
            if run.step % settings.save_every == 0 or stop:
                run.save()
            if stop:
                in_any_process(stop)  # wait: one that leaves while the first saves would end it
                raise run.interrupted()
        after = run.finish()
        if in_any_process(request.stop):  # the script must not go on after training
            raise run.interrupted()
    model.eval()
    figures = dict(seconds=run.progress.seconds(), tokens_per_second=run.progress.tokens_per_second())
    return dict(before=run.before, after=after, steps=run.step) | figures


@contextmanager
def stop_requests():
    """Turn the first Ctrl-C, SIGTERM (of a cluster) or SIGHUP (a closed terminal) into `request.stop`.

    No step is cut in half. A second Ctrl-C ends at once. Outside the main thread signals are left alone.
    """
    request = SimpleNamespace(stop=False)

    def handle(signum, frame):
        if request.stop and signum in (signal.SIGINT, signal.SIGTERM):  # shells send SIGHUP twice
            raise KeyboardInterrupt
        request.stop = True

    earlier = {}
    with suppress(ValueError):  # not the main thread; `nohup` ignores SIGHUP, Windows has none
        closed = [n for n in signal.Signals if n.name == "SIGHUP" and signal.getsignal(n) != signal.SIG_IGN]
        earlier = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM, *closed)}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
