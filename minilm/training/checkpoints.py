"""All that surrounds the steps of a run: its log, its checkpoints, early stopping, interruption."""

import math
import sys
import time
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint
from tqdm import tqdm

from ..checkpoint import load_tokenizer, save_description, save_weights
from ..plumbing.errors import UserError
from ..plumbing.folders import RESULTS, TOKENIZER, TRAINER, append_log, atomic_write, trim_log
from ..plumbing.safetensors import check_state
from ..plumbing.script import process_count, process_rank
from ..plumbing.settings import checked, typed
from .objective import evaluate

# Types in trainer.pt. `optimizer`: moments by weight name; `stopping`, `objective`: the `state` of these.
STATE = dict(step=int, seconds=float, before=dict | None, model=dict, optimizer=dict, stopping=dict)
STATE["objective"] = float | None


class EarlyStopping:
    """Keep the weights with the lowest validation loss, and count the evaluations since.

    A model that learns from few examples soon knows them by heart: the validation loss rises while the
    training loss falls. Training stops after `patience` evaluations in a row without a new lowest loss; 0:
    never, and the last weights are kept. Source: Prechelt 1998, "Early Stopping - But When?".
    """

    def __init__(self, patience: int):
        self.patience, self.state = patience, dict(loss=None, n_worse=0, model=None)

    def note(self, metrics: dict[str, float], model: torch.nn.Module) -> None:
        """Record an evaluation, and the weights if its loss is the lowest so far."""
        best = self.state["loss"]
        if self.patience and (best is None or metrics["loss"] < best):
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            self.state = dict(loss=metrics["loss"], n_worse=0, model=weights)
        elif self.patience:
            self.state["n_worse"] += 1


class Progress:
    """Report how training goes: a progress bar, printed lines, log.jsonl.

    To read a number, the CPU must wait for the GPU. So the loss is read only when it is logged, and the first
    step whose loss is not finite is recorded on the GPU. Without a folder only the bar and `label` are shown.
    """

    def __init__(self, folder: Path | None, settings, start: int, earlier_seconds: float, label: str | None):
        self.folder, self.settings, self.n_token = folder, settings, 0
        self.began, self.earlier_seconds = time.perf_counter(), earlier_seconds
        self.first_bad: Tensor | None = None  # first step with a loss or gradient that is not finite
        quiet = True if process_rank() else None  # only the first process has a bar; None: at a terminal
        self.bar = tqdm(None, label, settings.steps, initial=start, disable=quiet, unit="step", ncols=100)

    def seconds(self) -> float:
        """Return the seconds of training so far, including those before an interruption."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def tokens_per_second(self) -> float:
        """Return the tokens per second since the start or --resume; the time includes evaluations."""
        return self.n_token / max(1e-9, time.perf_counter() - self.began)

    def step(self, step: int, metrics: dict, norm: Tensor | float, n_token: int, lr: float) -> None:
        """Record one step, in tensors or floats; log it every `log_every` steps and at the last step."""
        self.n_token += n_token
        self.bar.update()
        good = torch.isfinite(torch.as_tensor(metrics["loss"])) & torch.isfinite(torch.as_tensor(norm))
        bad_step = torch.where(good, torch.inf, float(step))
        self.first_bad = bad_step if self.first_bad is None else torch.minimum(self.first_bad, bad_step)
        told = step % self.settings.log_every == 0 or step == self.settings.steps
        if told or good.device.type == "cpu":
            self.stop_if_not_finite()
        if told and self.folder:
            values, speed = {name: float(value) for name, value in metrics.items()}, self.tokens_per_second()
            self.bar.set_postfix(loss=f"{values['loss']:.3f}", tokens_s=f"{speed:,.0f}", refresh=False)
            line = dict(lr=lr, gradient_norm=float(norm), tokens_per_second=round(speed))
            append_log(self.folder, dict(step=step, split="train") | values | line)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Log and print the metrics on the validation set; UserError if its loss is not finite."""
        append_log(self.folder, dict(step=step, split="validation") | metrics)
        self.say(step, metrics)
        if not math.isfinite(metrics["loss"]):
            raise self.failed(f"the loss on the validation set is not finite after step {step}", True)

    def say(self, step: int, metrics: dict[str, float]) -> None:
        """Print the metrics of a step above the bar."""
        told = "  ".join(f"{name} {float(value):.3f}" for name, value in metrics.items())
        with suppress(OSError):  # where its terminal is closed, the run goes on
            if process_rank() == 0:
                self.bar.write(f"step {step:5d}  {told}", file=sys.stderr)

    def stop_if_not_finite(self) -> None:
        """Raise UserError if any loss or gradient so far was NaN or infinite."""
        if self.first_bad is not None and (step := float(self.first_bad)) != math.inf:
            raise self.failed(f"the loss or its gradient is not finite at step {step:.0f}", True)

    def failed(self, why: object, diverged: bool = False) -> UserError:
        """Return the error that ends the run; it says why, what is saved, and what to try."""
        self.bar.close()
        is_kept = self.folder and (self.folder / TRAINER).exists()
        left = f"{self.folder} keeps the last checkpoint" if is_kept else "nothing has been saved"
        advice = f". Try a smaller --lr than {self.settings.lr:g}, or a longer --warmup" if diverged else ""
        return UserError(f"{why}; {left}{advice}")


class Run:
    """A model in training, with its log and its checkpoints; arguments as in `loop.train`."""

    def __init__(self, model, objective, optimizer, settings, folder, tokenizer, patience, label):
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.settings, self.folder, self.tokenizer = settings, folder, tokenizer
        self.kept, self.several = model, process_count() > 1 and objective.update is None
        if self.several:  # an objective with its own `update` does the same in each process
            from .processes import share  # half a second of imports, which a single process is spared

            self.model, self.objective = share(model, objective, optimizer, settings)
        self.best, self.before, seconds = EarlyStopping(patience), None, 0.0
        self.step, self.metrics = 0, {}  # steps done, and the metrics of the last one
        looked_at = objective.batch(0, "validation") if folder and not objective.update else {}
        self.validation = crc32(b"".join(rows.numpy().tobytes() for _, rows in sorted(looked_at.items())))
        if folder and settings.resume:
            state = resume_from(folder, self.model, optimizer, settings.steps)
            if tokenizer is not None and load_tokenizer(folder / TOKENIZER).vocab != tokenizer.vocab:
                raise UserError(f"{folder}: the tokenizer has changed: give the model that it began with")
            self.step, self.before, seconds = state["step"], state["before"], state["seconds"]
            self.best.state, objective.state = state["stopping"], state["objective"]
            if state.get("validation", self.validation) != self.validation:
                if process_rank() == 0:
                    print(f"{folder}: new validation set, so 'before' is step {self.step}", file=sys.stderr)
                self.before, self.best = None, EarlyStopping(patience)
                trim_log(folder, lambda line: line["split"] == "train")
        elif folder:  # first of all: a run that is killed now lacks only its weights
            save_description(folder, model, tokenizer)
            trim_log(folder, lambda record: False)  # left by a run killed before its first checkpoint
        self.progress = Progress(folder, settings, self.step, seconds, label)
        if self.before is None and objective.update is None:
            self.before = self.evaluate()
        if folder and not settings.resume:
            self.save()  # from here on a run that is killed can be loaded and resumed

    def evaluate(self) -> dict:
        """Evaluate after the steps so far; return the metrics on the validation set, log and print them.

        For an objective with its own `update`: return the last step's metrics, and print those named in its
        `shown`. Without a folder, evaluate only if there is patience (early stopping); else return {}.
        """
        self.progress.stop_if_not_finite()
        if self.objective.update:
            if told := {name: self.metrics[name] for name in self.objective.shown if name in self.metrics}:
                self.progress.say(self.step, told)
            return self.metrics
        is_asked = self.best.patience or self.folder
        metrics = evaluate(self.model, self.objective, self.settings) if is_asked else {}
        if self.folder:
            self.progress.evaluation(self.step, metrics)
        return metrics

    def finish(self) -> dict:
        """Restore the best weights, evaluate, then save: weights whose loss is not finite are never saved."""
        # With patience, also save the last weights: a resumed run goes on from them, the moments are theirs.
        last = {n: w.clone() for n, w in self.model.state_dict().items()} if self.best.patience else None
        if self.best.patience:
            self.best.note(evaluate(self.model, self.objective, self.settings), self.model)
            self.model.load_state_dict(self.best.state["model"])
        if self.folder:  # `evaluate` logs this step anew: with the best weights, or after --resume
            trim_log(self.folder, lambda line: line["split"] == "train" or line["step"] < self.step)
        after = self.evaluate() if self.folder or self.objective.update else {}
        self.save(last)
        self.kept.to(next(self.model.parameters()).device)
        self.progress.bar.close()
        return after

    def save(self, last: dict | None = None) -> None:
        """Write trainer.pt, to resume from, and the weights; UserError if loss or gradient is not finite."""
        self.progress.stop_if_not_finite()
        state = dict(step=self.step, seconds=self.progress.seconds(), before=self.before)
        state |= dict(stopping=self.best.state, objective=self.objective.state, validation=self.validation)
        moments = {name: self.optimizer.state[p] for name, p in trained_weights(self.model).items()}
        state = gathered(state | dict(model=self.model.state_dict()))
        state["optimizer"] = gathered(moments, process_rank() == 0)  # twice the weights: rank 0 has room
        self.kept.load_state_dict(state["model"])  # its own weights, unless --shard trains a copy
        if self.folder:
            (self.folder / RESULTS).unlink(missing_ok=True)  # of the same run with fewer steps, if any
            save_trainer(self.folder, state | dict(model=gathered(last)) if last else state)
            save_weights(self.folder, self.kept)

    def interrupted(self) -> KeyboardInterrupt:
        """Return the exception that ends a stopped run; its message says how to resume."""
        self.progress.bar.close()
        told = f"stopped after step {self.step} of {self.settings.steps}, saved; to go on: --resume "
        return KeyboardInterrupt(told + typed("out", self.folder) if self.folder else "")  # "": `exit_code`


def save_trainer(folder: str | Path, state: dict) -> None:
    """Write trainer.pt: `step`, `model` (the weights), all else the loop needs; plain data and tensors."""
    path = Path(folder) / TRAINER
    atomic_write(path, lambda file: torch.save(state, file))
    if process_rank() == 0 and (refused := get_unsafe_globals_in_checkpoint(path)):
        raise ValueError(f"{path}: a trainer state holds plain data and tensors, not {', '.join(refused)}")


def load_trainer(folder: str | Path, steps: float = math.inf) -> dict:
    """Return what `save_trainer` wrote, on the CPU; UserError if missing, damaged or past `steps`."""
    path, way_out = Path(folder) / TRAINER, "--overwrite without --resume starts over"
    if not path.is_file():
        raise UserError(f"{folder}: no {TRAINER} to resume from; {way_out}")
    path.open("rb").close()  # one that may not be read is not damaged
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # a pickle that runs code is refused
    except Exception as error:  # noqa: BLE001 - of nearly any kind, depending on the damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged, or holds more than plain data ({reason}); {way_out}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not the state of a training run; {way_out}")
    if (n := checked(path, state, dict(step=int, model=dict))["step"]) > steps:
        raise UserError(f"{path}: has made {n} steps, more than the {steps} asked for: give {n} or more")
    return checked(path, state, STATE, whole=False)


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gathered(value, is_kept: bool = True):
    """Return a copy of nested dictionaries with sharded tensors gathered, on the CPU (None if not kept)."""
    if isinstance(value, dict):
        return type(value)({name: gathered(inner, is_kept) for name, inner in value.items()})
    if not hasattr(value, "full_tensor"):
        return value
    tensor = value.full_tensor()  # all processes must take part
    return tensor.cpu() if is_kept else None


def placed(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor placed as `like` is: on its device, and if `like` is sharded, as shards."""
    if hasattr(like, "full_tensor") and value.shape == like.shape:  # else a 0-d count of steps
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)


def check_trainer(folder: str | Path, model: nn.Module, optimizer=None, steps: float = math.inf) -> dict:
    """Return what trainer.pt holds; UserError unless model, trained weights, optimizer (None: AdamW) fit."""
    path, trained = Path(folder) / TRAINER, trained_weights(model)
    state = checked(path, load_trainer(folder, steps), STATE)
    check_state(path, state["model"], model.state_dict())
    moments = checked(path, state["optimizer"], dict.fromkeys(trained, dict), whole=False)
    for name in sorted(trained.keys() ^ moments.keys(), key=str):
        then, now = ("was", "is not") if name in moments else ("was not", "is")
        raise UserError(f"{path}: {name!r} {then} trained in this run, and {now} now: train the same weights")
    groups = optimizer.param_groups if optimizer else []
    by_muon = {p for group in groups if group.get("by_muon") for p in group["params"]}
    for name, p in trained.items():
        if moments[name]:  # empty: not moved yet
            ours = dict(momentum=p) if p in by_muon else dict(step=torch.empty(()), exp_avg=p, exp_avg_sq=p)
            check_state(f"{path}, {name!r}", moments[name], ours)
    best = checked(path, state["stopping"], dict(loss=float | None, n_worse=int, model=dict | None))["model"]
    if best is not None:
        check_state(path, best, model.state_dict())
    return state


def resume_from(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps=math.inf) -> dict:
    """Load a checkpoint's weights and moments, drop later lines of the log; return the checkpoint's state."""
    state, here = check_trainer(folder, model, optimizer, steps), model.state_dict()
    for weights in filter(None, (state["model"], state["stopping"]["model"])):
        weights.update({name: placed(value, here[name]) for name, value in weights.items()})
    model.load_state_dict(state["model"])
    # The moments come from the checkpoint; weight decay and the like come from the flags of this command.
    fused = optimizer.defaults.get("fused")  # fused: its count of steps is on the weights' device, else CPU
    for name, p in trained_weights(model).items():
        if moments := state["optimizer"][name]:  # empty: not moved yet
            optimizer.state[p] = {k: placed(v, p) if fused or k != "step" else v for k, v in moments.items()}
    trim_log(folder, lambda record: record["step"] <= state["step"])
    return state
