"""What a run goes on from: trainer.pt, with the weights, their moments, and what else a run carries."""

from pathlib import Path

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from ..plumbing import folders
from ..plumbing.errors import UserError
from ..plumbing.folders import TRAINER
from ..plumbing.safetensors import check_state
from ..plumbing.script import process_rank
from ..plumbing.settings import checked

# The moments stand by the name of their weight; `stopping` is that of patience, `objective` its own.
STATE = dict(step=int, seconds=float, before=dict | None, model=dict, optimizer=dict, stopping=dict)
STATE["objective"] = float | None


def save_trainer(folder: str | Path, state: dict) -> None:
    """Write trainer.pt: `step`, `model` (the weights) and what else the loop needs: plain data, tensors."""
    path = Path(folder) / TRAINER
    folders.atomic_write(path, lambda file: torch.save(state, file))
    if refused := get_unsafe_globals_in_checkpoint(path):
        raise ValueError(f"{path}: a trainer state holds plain data and tensors, not {', '.join(refused)}")


def load_trainer(folder: str | Path, device: str = "cpu") -> dict:
    """Return what `save_trainer` wrote, its tensors on `device`; UserError where it is missing or damaged."""
    path, way_out = Path(folder) / TRAINER, "--overwrite starts the run anew"
    if not path.is_file():
        raise UserError(f"{folder}: no {TRAINER} to go on from; {way_out}")
    try:
        state = torch.load(path, map_location=device, weights_only=True)  # a pickle that runs code is refused
    except Exception as error:  # noqa: BLE001 - of nearly any kind, by the place of the damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged, or more than plain data ({reason}); {way_out}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not the state of a training; {way_out}")
    checked(path, state, dict(step=int, model=dict))
    return checked(path, state, STATE, whole=False)


def moving(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check_trainer(folder: str | Path, model: nn.Module) -> dict:
    """Return what trainer.pt holds; UserError unless it is of such a model, whose weights move alike."""
    path, trained = Path(folder) / TRAINER, moving(model)
    state = checked(path, load_trainer(folder), STATE)
    check_state(path, state["model"], model.state_dict())
    moments = checked(path, state["optimizer"], dict.fromkeys(trained, dict), whole=False)
    for name in sorted(trained.keys() ^ moments.keys()):
        then, now = ("moved", "does not") if name in moments else ("did not move", "does")
        way_out = "let the same weights move as before, or begin another run"
        raise UserError(f"{path}: {name!r} {then} in this run, and {now} now: {way_out}")
    for name, p in trained.items():
        if moments[name]:  # none: it rested
            ours = dict(step=torch.empty(()), exp_avg=p, exp_avg_sq=p)
            check_state(f"{path}, {name!r}", moments[name], ours)
    best = checked(path, state["stopping"], dict(loss=float | None, n_worse=int, model=dict | None))["model"]
    if best is not None:
        check_state(path, best, model.state_dict())
    return state


def go_on_from(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Put a checkpoint's weights and moments in place, drop what the log has after it; return its state."""
    state = check_trainer(folder, model)
    model.load_state_dict(state["model"])
    # The moments are the checkpoint's; weight decay and the like are what the flags now say.
    for name, p in moving(model).items():
        if moments := state["optimizer"][name]:  # none: it rests still
            optimizer.state[p] = {key: value.to(p) for key, value in moments.items()}
    if process_rank() == 0:
        folders.trim_log(folder, lambda record: record["step"] <= state["step"])
    return state
