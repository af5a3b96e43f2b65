"""What stands beside the steps of a run: what is told and kept of it, and how it is stopped."""

import math
import sys
import time
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

# `optimizer`: moments by the name of their weight; `stopping`: `EarlyStopping.state`; `objective`: its state.
STATE = dict(step=int, seconds=float, before=dict | None, model=dict, optimizer=dict, stopping=dict)
STATE["objective"] = float | None


class EarlyStopping:
    """Keeps the weights with the lowest validation loss, and stops where it rises.

    A model that learns from few examples soon knows them by heart: its loss on others rises while its own
    falls. After `patience` evaluations in a row without a new lowest loss it is time to stop; 0: never, and
    the last weights are kept. Source: Prechelt 1998, "Early Stopping - But When?".
    """

    def __init__(self, patience: int):
        self.patience, self.state = patience, dict(loss=None, n_worse=0, model=None)

    def note(self, metrics: dict[str, float], model: torch.nn.Module) -> None:
        """Take note of an evaluation."""
        best = self.state["loss"]
        if self.patience and (best is None or metrics["loss"] < best):
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            self.state = dict(loss=metrics["loss"], n_worse=0, model=weights)
        elif self.patience:
            self.state["n_worse"] += 1


class Progress:
    """Tells how training goes: a bar, lines for a person, log.jsonl.

    Reading a number makes a GPU wait for it, so the loss is read only when it is told, and one that is not
    finite is noted on the GPU, by its step. Without a folder the bar, with its `label`, is all that is seen.
    """

    def __init__(self, folder: Path | None, settings, start: int, earlier_seconds: float, label: str | None):
        self.folder, self.settings, self.n_token = folder, settings, 0
        self.began, self.earlier_seconds = time.perf_counter(), earlier_seconds
        self.first_bad: Tensor | None = None  # first step of a loss that is not finite
        quiet = True if process_rank() else None  # of several the first speaks; none: at a terminal only
        self.bar = tqdm(None, label, settings.steps, initial=start, disable=quiet, unit="step", ncols=100)

    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def tokens_per_second(self) -> float:
        """Tokens a second since the start, or since going on; evaluations take their share of the time."""
        return self.n_token / max(1e-9, time.perf_counter() - self.began)

    def step(self, step: int, metrics: dict, norm: Tensor | float, n_token: int, lr: float) -> None:
        """Take note of one step, in tensors or floats; tell it where it is the turn of a line of the log."""
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
        """Tell the metrics on the validation part; UserError where its loss is not finite."""
        append_log(self.folder, dict(step=step, split="validation") | metrics)
        self.say(step, metrics)
        if not math.isfinite(metrics["loss"]):
            raise self.failed(f"the loss on the validation part is not finite after step {step}", True)

    def say(self, step: int, metrics: dict[str, float]) -> None:
        """Print the metrics of a step for a person, above the bar."""
        told = "  ".join(f"{name} {float(value):.3f}" for name, value in metrics.items())
        if process_rank() == 0:
            self.bar.write(f"step {step:5d}  {told}", file=sys.stderr)

    def stop_if_not_finite(self) -> None:
        """Raise UserError where a loss or gradient so far was NaN or infinite."""
        if self.first_bad is not None and (step := float(self.first_bad)) != math.inf:
            raise self.failed(f"the loss or its gradient is not finite at step {step:.0f}", True)

    def failed(self, why: object, diverged: bool = False) -> UserError:
        """Return the error that ends the run, with what is left of it and the way out."""
        self.bar.close()
        is_kept = self.folder and (self.folder / TRAINER).exists()
        left = f"{self.folder} keeps the last checkpoint" if is_kept else "nothing has been saved"
        advice = f". Try a smaller --lr than {self.settings.lr:g}, or a longer --warmup" if diverged else ""
        return UserError(f"{why}; {left}{advice}")


class Run:
    """A model that is being trained, and what is told and kept of it; arguments as in `loop.train`."""

    def __init__(self, model, objective, optimizer, settings, folder, tokenizer, patience, label):
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.settings, self.folder, self.tokenizer = settings, folder, tokenizer
        self.kept, self.several = model, process_count() > 1 and objective.update is None
        if self.several:  # a step with an update of its own all do alike
            from .processes import share  # half a second of imports, which one process need not wait for

            self.model, self.objective = share(model, objective, optimizer, settings)
        self.best, self.before, seconds = EarlyStopping(patience), None, 0.0
        self.step, self.metrics = 0, {}  # how many steps are done, and the metrics of the last one
        looked_at = objective.batch(0, "validation") if folder and not objective.update else {}
        self.validation = crc32(b"".join(rows.numpy().tobytes() for _, rows in sorted(looked_at.items())))
        if folder and settings.resume:
            state = go_on_from(folder, self.model, optimizer, settings.steps)
            if tokenizer is not None and load_tokenizer(folder / TOKENIZER).vocab != tokenizer.vocab:
                raise UserError(f"{folder}: its start has other tokens now: give the start it began with")
            self.step, self.before, seconds = state["step"], state["before"], state["seconds"]
            self.best.state, objective.state = state["stopping"], state["objective"]
            if state.get("validation", self.validation) != self.validation:
                if process_rank() == 0:
                    print(f"{folder}: other validation rows now, compared from here on", file=sys.stderr)
                self.before, self.best = None, EarlyStopping(patience)
                trim_log(folder, lambda line: line["split"] == "train")
        elif folder:  # first of all: a run that is killed has all but its weights
            save_description(folder, model, tokenizer)
            trim_log(folder, lambda record: False)  # of a run that was killed before its first checkpoint
        self.progress = Progress(folder, settings, self.step, seconds, label)
        if self.before is None and objective.update is None:
            self.before = self.look()
        if folder and not settings.resume:
            self.save()  # from here on a run that is killed can be loaded, and goes on

    def look(self) -> dict:
        """Return, and tell, what is known after so many steps: the metrics on the validation part.

        Of an objective with an update of its own they are those of the last step, and it names those that are
        told. A quiet run is looked at only where its patience may end it.
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
        """Put the best weights back, look, and save: weights that give no finite loss are not to be kept."""
        # A run with patience saves its last weights, too: it may get more steps, and the moments are theirs.
        last = {n: w.clone() for n, w in self.model.state_dict().items()} if self.best.patience else None
        if self.best.patience:
            self.best.note(evaluate(self.model, self.objective, self.settings), self.model)
            self.model.load_state_dict(self.best.state["model"])
        if self.folder:  # once more, of the best weights or after --resume
            trim_log(self.folder, lambda line: line["split"] == "train" or line["step"] < self.step)
        after = self.look() if self.folder or self.objective.update else {}
        self.save(last)
        self.kept.to(next(self.model.parameters()).device)
        self.progress.bar.close()
        return after

    def save(self, last: dict | None = None) -> None:
        """Write what `go_on_from` reads, and the model to load; UserError for numbers that are not finite."""
        self.progress.stop_if_not_finite()
        state = dict(step=self.step, seconds=self.progress.seconds(), before=self.before)
        state |= dict(stopping=self.best.state, objective=self.objective.state, validation=self.validation)
        moments = {name: self.optimizer.state[p] for name, p in moving(self.model).items()}
        state = whole(state | dict(model=self.model.state_dict()))
        state["optimizer"] = whole(moments, process_rank() == 0)  # twice as large: one has room for them all
        self.kept.load_state_dict(state["model"])  # itself, unless each process trains a part of a copy
        if self.folder:
            (self.folder / RESULTS).unlink(missing_ok=True)  # of a finished run that goes on: of fewer steps
            save_trainer(self.folder, state | dict(model=whole(last)) if last else state)
            save_weights(self.folder, self.kept)

    def interrupted(self) -> KeyboardInterrupt:
        """Return how a run ends that somebody has stopped: with a message that says how to go on."""
        self.progress.bar.close()
        told = f"stopped after step {self.step} of {self.settings.steps}, saved; to go on: --resume "
        return KeyboardInterrupt(told + typed("out", self.folder) if self.folder else "")  # none: `exit_code`


def save_trainer(folder: str | Path, state: dict) -> None:
    """Write trainer.pt: `step`, `model` (the weights) and what else the loop needs: plain data, tensors."""
    path = Path(folder) / TRAINER
    atomic_write(path, lambda file: torch.save(state, file))
    if process_rank() == 0 and (refused := get_unsafe_globals_in_checkpoint(path)):
        raise ValueError(f"{path}: a trainer state holds plain data and tensors, not {', '.join(refused)}")


def load_trainer(folder: str | Path, steps: float = math.inf) -> dict:
    """Return what `save_trainer` wrote, on the CPU; UserError if it is missing, damaged or of more steps."""
    path, way_out = Path(folder) / TRAINER, "--overwrite starts the run anew"
    if not path.is_file():
        raise UserError(f"{folder}: no {TRAINER} to go on from; {way_out}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # a pickle that runs code is refused
    except Exception as error:  # noqa: BLE001 - of nearly any kind, by the place of the damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged, or more than plain data ({reason}); {way_out}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not the state of a training; {way_out}")
    if checked(path, state, dict(step=int, model=dict))["step"] > steps:
        raise UserError(f"{path}: has made {state['step']} steps: give --steps as many, or more")
    return checked(path, state, STATE, whole=False)


def moving(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def whole(value, is_kept: bool = True):
    """Return nested dictionaries in which tensors that several processes share out are whole, on the CPU."""
    if isinstance(value, dict):
        return type(value)({name: whole(inner, is_kept) for name, inner in value.items()})
    if not hasattr(value, "full_tensor"):
        return value
    tensor = value.full_tensor()  # all processes have to ask for it
    return tensor.cpu() if is_kept else None


def part(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as `like` is kept: on its device, where it is shared out this process's part."""
    if hasattr(like, "full_tensor") and value.shape == like.shape:  # not a count of steps
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)


def check_trainer(folder: str | Path, model: nn.Module, optimizer=None, steps: float = math.inf) -> dict:
    """Return what trainer.pt holds; UserError unless of such a model, moved alike (no optimizer: AdamW)."""
    path, trained = Path(folder) / TRAINER, moving(model)
    state = checked(path, load_trainer(folder, steps), STATE)
    check_state(path, state["model"], model.state_dict())
    moments = checked(path, state["optimizer"], dict.fromkeys(trained, dict), whole=False)
    for name in sorted(trained.keys() ^ moments.keys(), key=str):
        then, now = ("moved", "does not") if name in moments else ("did not move", "does")
        raise UserError(f"{path}: {name!r} {then} in this run, and {now} now: let the same weights move")
    groups = optimizer.param_groups if optimizer else []
    by_muon = {p for group in groups if group.get("by_muon") for p in group["params"]}
    for name, p in trained.items():
        if moments[name]:  # none: it rested
            ours = dict(momentum=p) if p in by_muon else dict(step=torch.empty(()), exp_avg=p, exp_avg_sq=p)
            check_state(f"{path}, {name!r}", moments[name], ours)
    best = checked(path, state["stopping"], dict(loss=float | None, n_worse=int, model=dict | None))["model"]
    if best is not None:
        check_state(path, best, model.state_dict())
    return state


def go_on_from(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps=math.inf) -> dict:
    """Put a checkpoint's weights and moments in place, drop what the log has after it; return its state."""
    state, here = check_trainer(folder, model, optimizer, steps), model.state_dict()
    for weights in filter(None, (state["model"], state["stopping"]["model"])):
        weights.update({name: part(value, here[name]) for name, value in weights.items()})
    model.load_state_dict(state["model"])
    # The moments are the checkpoint's; weight decay and the like are what the flags now say.
    fused = optimizer.defaults.get("fused")  # counts its steps on the GPU; any other reads them on the CPU
    for name, p in moving(model).items():
        if moments := state["optimizer"][name]:  # none: it rests still
            optimizer.state[p] = {k: part(v, p) if fused or k != "step" else v for k, v in moments.items()}
    trim_log(folder, lambda record: record["step"] <= state["step"])
    return state
