"""Run folders: what a run leaves on disk, how it goes on from there, and how its model is loaded.

    runs/NAME/
        config.json         the ModelConfig, and "format": "minilm"
        tokenizer.json      the tokenizer, where there is one: a BPE or a WordPiece
        model.safetensors   the weights, for whoever loads the model
        trainer.pt          what resuming needs: weights, optimizer and step, in one file
        settings.json       the resolved command
        log.jsonl           one JSON object per logged step
        results.json        the closing table; its presence says that the run is finished

A file is old or new and never half, but a process killed between two files leaves one of an earlier step.
That is why trainer.pt holds the weights too: resuming reads trainer.pt alone.
"""

from pathlib import Path

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from .huggingface import exporting, loading
from .model.config import ModelConfig
from .model.transformer import build
from .plumbing import folders
from .plumbing.errors import UserError
from .plumbing.folders import CONFIG, FORMAT, SETTINGS, TOKENIZER, TRAINER, WEIGHTS, read_json
from .plumbing.safetensors import check_state, read_tensors, write_tensors
from .plumbing.settings import checked
from .tokenizer.bpe import BPE
from .tokenizer.wordpiece import WordPiece

# What trainer.pt holds for resuming: the moments of each weight that moves, what patience and objective carry.
STATE = dict(step=int, seconds=float, before=dict | None, model=dict, optimizer=dict, stopping=dict)
STATE["objective"] = float | None


def load(path: str | Path, device: str = "cpu") -> tuple[nn.Module, BPE | WordPiece | None]:
    """Return (model in evaluation mode, tokenizer or None) of a run, a Hugging Face folder, or "hf:NAME"."""
    if is_published(path):
        return loading.load(path, device)
    folder, model = Path(path), build(load_config(path))
    load_weights(folder, model)
    tokenizer = load_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).exists() else None
    return model.to(device).eval(), tokenizer


def save(model: nn.Module, tokenizer, path: str | Path, overwrite: bool = False) -> None:
    """Write a model and its tokenizer (or None) into a new folder for `load`; `overwrite` replaces a run."""
    folder = Path(path)
    if folder.exists() and overwrite:
        folders.empty_run_folder(folder)
    elif not folders.make_folder(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: choose another name, or overwrite=True to replace it")
    save_model(folder, model, tokenizer)


def save_model(folder: Path, model: nn.Module, tokenizer=None) -> None:
    """Write config.json, tokenizer.json and model.safetensors, the weights last: with them it is a model."""
    save_description(folder, model, tokenizer)
    save_weights(folder, model)


def save_description(folder: Path, model: nn.Module, tokenizer=None) -> None:
    """Write config.json and tokenizer.json."""
    folders.write_json(folder / CONFIG, {"format": FORMAT, **model.config.to_dict()})
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)


def save_weights(folder: Path, model: nn.Module) -> None:
    """Write model.safetensors."""
    # Simpler weights than those that are trained: LoRA's thin matrices merged, PPO's value head left out.
    write_tensors(folder / WEIGHTS, getattr(model, "merged_state", model.state_dict)())


def export(run_folder: str | Path, folder: str | Path) -> list[str]:
    """Write a run folder as one that transformers opens; return notes on what could not go along."""
    objective = read_json(Path(run_folder) / SETTINGS, optional=True).get("objective")
    frame = (None if objective == "translation" else "[CLS]", "[SEP]")  # what stood around a text in training
    return exporting.export_model(*load(run_folder), folder, frame, str(run_folder))


def is_published(path: str | Path) -> bool:
    """Return whether this is a Hugging Face folder, or the name "hf:NAME" of a published model."""
    named = str(path).startswith(loading.PUBLISHED)
    return named or "model_type" in read_json(Path(path) / CONFIG, optional=True)


def load_tokenizer(path: str | Path) -> BPE | WordPiece:
    """Return the tokenizer that a file of ours holds, of either kind; UserError for any other file."""
    return (WordPiece if read_json(path).get("format") == WordPiece.FORMAT else BPE).load(path)


def load_config(folder: str | Path) -> ModelConfig:
    """Return the ModelConfig of a folder, ours or Hugging Face's; UserError where config.json is wrong."""
    if is_published(folder):
        return loading.read_folder(folder)[2]
    path = Path(folder) / CONFIG
    if not path.exists():
        what = f"no {CONFIG} in it" if Path(folder).is_dir() else "no such folder"
        raise UserError(f"{folder}: not a run folder of ours, {what}{folders.near_runs(Path(folder))}")
    values = read_json(path)
    if values.pop("format", None) != FORMAT:
        raise UserError(f'{path}: "format": "{FORMAT}" is missing, so it is not a config of ours')
    try:
        return ModelConfig.from_dict(checked(path, values, ModelConfig.__annotations__))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def load_weights(folder: str | Path, model: nn.Module) -> None:
    """Read model.safetensors into the model; UserError unless every name and every shape fits."""
    path = Path(folder) / WEIGHTS
    if not path.exists():
        raise UserError(f"{folder}: no {WEIGHTS} in it; was the run stopped before its first checkpoint?")
    expected = model.state_dict()
    # The head of a fine-tuned model is left out where the body alone is loaded.
    state = {name: t for name, t in read_tensors(path).items() if name in expected or name[:5] != "head."}
    check_state(path, state, expected)
    model.load_state_dict(state)


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
    if not isinstance(state, dict) or not {"step", "model"} <= set(state):
        raise UserError(f"{path}: not a trainer state of ours, 'step' and 'model' are missing")
    return checked(path, state, STATE)


def moving(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check_trainer(folder: str | Path, model: nn.Module) -> dict:
    """Return what trainer.pt holds; UserError unless it is of such a model, of which the same weights move."""
    state, path, trained = load_trainer(folder), Path(folder) / TRAINER, moving(model)
    if missing := STATE.keys() - state.keys():
        raise UserError(f"{path}: not the state of a training, {', '.join(sorted(missing))} is missing")
    check_state(path, state["model"], model.state_dict())
    moments, best = checked(path, state["optimizer"], dict.fromkeys(trained, dict)), state["stopping"]
    for name in sorted(trained.keys() ^ moments.keys()):
        then, now = ("moved", "does not") if name in moments else ("did not move", "does")
        way_out = "let the same weights move as before, or begin another run"
        raise UserError(f"{path}: {name!r} {then} in this run, and {now} now: {way_out}")
    found = {f"{key} of {name}": t for name, group in moments.items() for key, t in group.items()}
    rows = {name: dict(step=torch.empty(()), exp_avg=trained[name], exp_avg_sq=trained[name]) for name in moments}
    check_state(path, found, {f"{key} of {name}": t for name in rows if moments[name] for key, t in rows[name].items()})
    if checked(path, best, dict(n_worse=int, model=dict | None)).get("model") is not None:
        check_state(path, best["model"], model.state_dict())
    return state
