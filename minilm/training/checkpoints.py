"""What stands beside the steps of a run: evaluations, checkpoints that it goes on from, the best weights."""

import math
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import load_trainer, save_model, save_trainer
from ..plumbing.devices import autocast, process_count, process_rank
from ..plumbing.errors import UserError
from ..plumbing.folders import TRAINER, trim_log
from ..plumbing.progress import Interrupted, Progress
from ..plumbing.safetensors import check_state
from .objective import Objective, add_metrics, micro_batches, to_device


@torch.no_grad()
def evaluate(model: torch.nn.Module, objective: Objective, settings) -> dict[str, float]:
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


class EarlyStopping:
    """Keeps the weights with the lowest validation loss, and stops where it rises.

    A model that learns from few examples soon knows them by heart; its loss on others then rises, however
    long its own goes on falling. After `patience` evaluations in a row without a new lowest loss it is time
    to stop; 0: never, and the last weights are kept. Source: Prechelt 1998, "Early Stopping - But When?".
    """

    def __init__(self, patience: int):
        self.patience, self.state = patience, dict(loss=math.inf, n_worse=0, model=None)

    def note(self, metrics: dict[str, float], model: torch.nn.Module) -> None:
        """Take note of an evaluation."""
        if self.patience and metrics["loss"] < self.state["loss"]:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            self.state = dict(loss=metrics["loss"], n_worse=0, model=weights)
        elif self.patience:
            self.state["n_worse"] += 1

    def is_time(self) -> bool:
        """Say whether to stop."""
        return 0 < self.patience <= self.state["n_worse"]

    def put_back(self, model: torch.nn.Module) -> None:
        """Give the model the weights that were kept, if any."""
        if self.state["model"] is not None:
            model.load_state_dict(self.state["model"])


class Run:
    """A model that is being trained, and what is told and kept of it; arguments as in `loop.train`.

    `step` counts the steps that are done, `metrics` are those of the last one.
    """

    def __init__(self, model, objective, optimizer, settings, folder, tokenizer, patience, label):
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.settings, self.folder, self.tokenizer = settings, folder, tokenizer
        self.best, self.step, self.metrics, self.before, seconds = EarlyStopping(patience), 0, {}, None, 0.0
        if folder and settings.resume:
            state = go_on_from(folder, model, optimizer)
            self.step, self.before, seconds = state["step"], state["before"], state["seconds"]
            self.best.state = state.get("stopping", self.best.state)
            objective.state = state.get("objective")
        self.progress = Progress(folder, settings, self.step, seconds, label)
        if self.before is None and objective.update is None:
            self.before = self.look()

    def look(self) -> dict:
        """Return, and tell, what is known after so many steps: the metrics on the validation part.

        Of an objective with an update of its own they are those of the last step, and it names those that are
        told. A quiet run is looked at only where its patience may end it. Of several processes the first
        looks, and the others wait for it in the next step, unless the patience of all may end.
        """
        self.progress.stop_if_not_finite()
        if self.objective.update:
            shown = {name: self.metrics[name] for name in self.objective.shown if name in self.metrics}
            if shown:
                self.progress.say(self.step, shown)
            return self.metrics
        metrics, patience = {}, self.best.patience > 0
        if patience or (self.folder and process_rank() == 0):
            metrics = evaluate(self.model, self.objective, self.settings)
        if self.folder and process_rank() == 0:
            self.progress.evaluation(self.step, metrics)
        return metrics

    def finish(self) -> dict:
        """Put the best weights back, look, and save: weights that give no finite loss are not to be kept."""
        if self.best.patience:
            self.best.note(evaluate(self.model, self.objective, self.settings), self.model)
            self.best.put_back(self.model)
        after = self.look() if self.folder or self.objective.update else {}
        self.save()
        self.progress.bar.close()
        return after

    def save(self) -> None:
        """Write what `go_on_from` reads, and the model to load; UserError for numbers that are not finite."""
        self.progress.stop_if_not_finite()
        if self.folder is None or process_rank():
            return
        state = dict(step=self.step, seconds=self.progress.seconds(), before=self.before)
        state |= dict(stopping=self.best.state, objective=self.objective.state)
        state |= dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict())
        save_trainer(self.folder, state)
        save_model(self.folder, self.model, self.tokenizer)

    def interrupted(self) -> Interrupted:
        """Return how a run ends that somebody has stopped."""
        self.progress.bar.close()
        kept = (
            f", saved; to go on: --resume --out {self.folder}" if self.folder else ": nothing was being saved"
        )
        return Interrupted(f"stopped after step {self.step} of {self.settings.steps}{kept}")


def go_on_from(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Put weights and moments of a checkpoint in place, drop what the log has after it; return its state.

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
