"""The one loop that trains every model: batch, loss, gradient, step.

An objective says what a batch is and what its loss is (`minilm.training.loop.objective`). Everything here is
the same for all of them: AdamW, warm-up and decay of the learning rate, clipping, micro-batches, several
processes, evaluation, the log, checkpoints, Ctrl-C.

    torchrun --nproc-per-node 8 train.py ...    the same step on eight processes, one gradient
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..checkpoint import check_state, load_trainer, save_model, save_trainer, state_to_load
from ..plumbing.ctrl_c import ctrl_c_as_a_wish
from ..plumbing.devices import autocast, process_count, process_rank, sum_over_processes, to_device
from ..plumbing.errors import UserError
from ..plumbing.folders import TRAINER, trim_log
from ..plumbing.progress import Report
from ..plumbing.settings import CommonSettings
from .early_stopping import EarlyStopping

BETAS = (0.9, 0.98)  # of AdamW: Vaswani et al. 2017, section 5.3
Pace = Callable[[str], tuple[float, int]]  # name of a weight -> share of the learning rate, first step


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(CommonSettings):
    """How long and how fast a model learns."""

    steps: int | None = None  # optimiser steps
    batch_size: int | None = None  # rows a step, over all micro-batches and processes
    lr: float | None = None  # highest learning rate
    warmup: int | None = None  # steps in which the learning rate rises from 0
    schedule: Literal["linear", "cosine", "inverse-sqrt", "constant"] | None = None  # after the warm-up
    weight_decay: float | None = None  # AdamW's pull to zero, on matrices only
    accumulate: int = 1  # micro-batches a step is cut into, to save memory; the gradient stays the same
    clip: float = 1.0  # longest gradient; 0: no clipping
    eval_every: int | None = None  # steps between evaluations; none: eight in a run
    save_every: int = 1000  # steps between checkpoints
    log_every: int = 50  # steps between lines of the log
    resume: bool = False  # continue the run in --out, or the newest one that was interrupted

    def __post_init__(self):
        super().__post_init__()
        lowest = dict.fromkeys(("seed", "lr", "warmup", "weight_decay", "clip"), 0)
        lowest |= dict.fromkeys(("steps", "batch_size", "accumulate"), 1)
        lowest |= dict.fromkeys(("eval_every", "save_every", "log_every"), 1)
        self.check_least(lowest)
        parts = self.accumulate * process_count()
        if self.batch_size is not None and self.batch_size < parts:
            raise UserError(
                f"--batch-size {self.batch_size} cannot be cut into --accumulate {self.accumulate} times "
                f"{process_count()} processes: give at least --batch-size {parts}"
            )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the checkpoint was saved; the message says how to go on."""

    @classmethod
    def after(cls, step: int, n_step: int, folder: Path) -> "Interrupted":
        """Return that of a run that was stopped after so many of its steps."""
        return cls(f"stopped after step {step} of {n_step}, saved; to go on: --resume --out {folder}")


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises in a line to `lr` over `warmup` steps, then follows the schedule: `linear` (Devlin et al. 2019,
    appendix A.2) and `cosine` (Loshchilov and Hutter 2017, equation 5) would be 0 one step after the last,
    `inverse-sqrt` is Vaswani et al. 2017, equation 3, `constant` stays.
    """
    warmup = max(1, settings.warmup)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup + 1) / (settings.steps - warmup + 1)  # 0 at the end of the warm-up, 1 at the end
    share = {
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        # Differs from the paper: the peak is `lr`, where the paper has (d_model * warmup)^-0.5.
        "inverse-sqrt": math.sqrt(warmup / (step + 1)),
        "constant": 1.0,
    }
    return settings.lr * share[settings.schedule]


def make_optimizer(
    model: torch.nn.Module, weight_decay: float, pace: Pace | None = None
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with weight decay on matrices, not on biases and norms.

    Weights with `requires_grad` off are left out: which weights move is the regime's choice. `pace` gives a
    weight, by its name, a share of the learning rate and the step from which it moves; none: (1, 0) for all.
    """
    groups: dict[tuple, list] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            share, first_step = pace(name) if pace else (1.0, 0)
            groups.setdefault((share, first_step, p.dim() < 2), []).append(p)
    rows = [
        dict(
            params=params, weight_decay=0.0 if is_vector else weight_decay, share=share, first_step=first_step
        )
        for (share, first_step, is_vector), params in sorted(groups.items(), key=lambda item: item[0])
    ]
    fused = rows[0]["params"][0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(rows, lr=0.0, betas=BETAS, fused=fused)


def micro_batches(batch: dict[str, Tensor], n: int) -> list[dict[str, Tensor]]:
    """Cut a batch into n parts by rows; 0-d tensors, the denominators of the loss, go whole to each part.

    The losses of the parts therefore add up to the loss of the batch, however unequal the parts are.
    """
    n_row = next(value.shape[0] for value in batch.values() if value.dim())
    edges = [i * n_row // n for i in range(n + 1)]
    return [
        {name: value[start:end] if value.dim() else value for name, value in batch.items()}
        for start, end in pairwise(edges)
        if end > start
    ]


def add_metrics(totals: dict[str, Tensor], metrics: dict[str, Tensor]) -> None:
    """Add the metrics of one part of a batch to those of the parts before it."""
    for name, value in metrics.items():
        totals[name] = totals.get(name, 0) + value.detach().float()


@torch.no_grad()
def evaluate(model: torch.nn.Module, objective, settings: TrainingSettings) -> dict[str, float]:
    """Return the metrics over the whole validation batch. Training goes on as if this had not run."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    batch = objective.batch(0, "validation")
    n_row = next(value.shape[0] for value in batch.values() if value.dim())
    rows_that_fit = max(1, settings.batch_size // (settings.accumulate * process_count()))
    totals: dict[str, Tensor] = {}
    for part in micro_batches(batch, -(-n_row // rows_that_fit)):
        with autocast(settings.precision, device):
            add_metrics(totals, objective.loss(model, to_device(part, device))[1])
    model.train(was_training)
    return {name: float(value) for name, value in totals.items()}


def is_turn(done: int, settings: TrainingSettings) -> bool:
    """Say whether to evaluate after so many steps; of the last one that is decided elsewhere."""
    return done < settings.steps and done % (settings.eval_every or -(-settings.steps // 8)) == 0


def evaluate_and_tell(
    model: torch.nn.Module, objective, settings: TrainingSettings, report: Report, by_all: bool, step: int
) -> dict[str, float]:
    """Return the metrics of `evaluate` after so many steps, and tell them.

    `by_all`: every process evaluates. Else the first does, and the others wait for it in the next step.
    """
    report.stop_if_not_finite()
    if process_rank() and not by_all:
        return {}
    metrics = evaluate(model, objective, settings)
    if process_rank() == 0:
        report.evaluation(step, metrics)
    return metrics


def train_step(model, objective, optimizer, settings: TrainingSettings, step: int) -> tuple:
    """Move the weights once.

    Returns:
        The batch's metrics, the length of its gradient before clipping, and its tokens, padding included.
    """
    device, rank, n_process = next(model.parameters()).device, process_rank(), process_count()
    # Dropout depends on the step and not on what was drawn before, so a resumed run needs no random state.
    torch.manual_seed(hash((settings.seed, step, rank)) % 2**63)
    for group in optimizer.param_groups:
        # At a rate of 0 a weight stays: AdamW's decay is multiplied by the rate too.
        rests = step < group.get("first_step", 0)
        group["lr"] = 0.0 if rests else learning_rate(step, settings) * group.get("share", 1.0)
    batch = objective.batch(step, "train")
    totals: dict[str, Tensor] = {}
    for part in micro_batches(batch, settings.accumulate * n_process)[rank::n_process]:
        with autocast(settings.precision, device):
            loss, metrics = objective.loss(model, to_device(part, device))
        loss.backward()
        add_metrics(totals, metrics)
    moving = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    sum_over_processes([p.grad for p in moving])
    sum_over_processes(list(totals.values()))
    norm = torch.nn.utils.clip_grad_norm_(moving, settings.clip or float("inf"))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return totals, norm, batch["input_ids"].numel()


def save_checkpoint(folder: Path, model, optimizer: torch.optim.Optimizer, tokenizer, **rest) -> None:
    """Write what `go_on_from` reads (`rest`: its `step`, `seconds` and `before`), and the model to load."""
    state = rest | dict(model=model.state_dict(), optimizer=optimizer.state_dict())
    save_trainer(folder, state)
    save_model(folder, state_to_load(model), model.config.to_dict(), tokenizer)


def go_on_from(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Put the weights and the moments of a checkpoint in place, and drop what the log has after it.

    Returns:
        `step`, the steps done; `seconds`, the time they took; `before`, the first evaluation.

    Raises:
        UserError: where the checkpoint is damaged, or of another model or program.
    """
    state, path = load_trainer(folder), folder / TRAINER
    missing = {"optimizer", "seconds", "before"} - set(state)
    if missing:
        raise UserError(f"{path}: not a trainer state of this loop, {', '.join(sorted(missing))} is missing")
    check_state(path, state["model"], model.state_dict())
    model.load_state_dict(state["model"])
    # The moments are the checkpoint's; weight decay and the like are what the flags now say.
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(dict(state=state["optimizer"]["state"], param_groups=groups))
    if process_rank() == 0:
        trim_log(folder, state["step"])
    return state


def begin(model, settings: TrainingSettings, folder: Path, pace: Pace | None, patience: int) -> tuple:
    """Return (optimizer, stopping, state): those of a new run, or of the one in `folder` that goes on."""
    optimizer, stopping = make_optimizer(model, settings.weight_decay, pace), EarlyStopping(patience)
    state = dict(step=0, seconds=0.0, before=None)
    if settings.resume:
        state = go_on_from(folder, model, optimizer)
        stopping.state = state.get("stopping", stopping.state)
    if settings.compile:
        for stack in filter(None, (model.encoder, model.decoder)):
            stack.compile()
    return optimizer, stopping, state


def train(
    model, objective, settings: TrainingSettings, folder: Path, tokenizer=None, pace=None, patience: int = 0
) -> dict:
    """Train `model` with `objective` and keep it in `folder`.

    Args:
        pace: as in `make_optimizer`. patience: as in `EarlyStopping`.

    Returns:
        `before` and `after` (the metrics of `evaluate`), `seconds`, `tokens_per_second`, `steps` taken.

    Raises:
        UserError: where the loss turns NaN or infinite; the last checkpoint stays as it was.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    optimizer, stopping, earlier = begin(model, settings, folder, pace, patience)
    report = Report(folder, settings, earlier["step"], earlier["seconds"])

    def checkpoint(step: int) -> None:
        """Save the run, unless it has come to numbers that are none."""
        report.stop_if_not_finite()
        if process_rank() == 0:
            rest = dict(step=step, seconds=report.seconds(), before=before, stopping=stopping.state)
            save_checkpoint(folder, model, optimizer, tokenizer, **rest)

    look = partial(evaluate_and_tell, model, objective, settings, report, patience > 0)
    before, done = earlier["before"] or look(0), earlier["step"]
    model.train()
    with ctrl_c_as_a_wish() as wish:
        for step in range(earlier["step"], settings.steps):
            if stopping.is_time():
                break
            taken = train_step(model, objective, optimizer, settings, step)
            report.step(step + 1, *taken, learning_rate(step, settings))
            done = step + 1
            if done == settings.steps:
                break  # looked at and saved below
            if is_turn(done, settings):
                stopping.look(look(done), model)
            if done % settings.save_every == 0 or wish.stop:
                checkpoint(done)
            if wish.stop:
                report.close()
                raise Interrupted.after(done, settings.steps, folder)
        if patience:
            stopping.finish(evaluate(model, objective, settings), model)
        after = look(done)  # before saving: weights that give no finite loss are not to be kept
        checkpoint(done)
    report.close()
    model.eval()
    return dict(before=before, after=after, steps=done) | report.figures()
