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

from dataclasses import fields
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
from .plumbing.settings import kind_of, parts_of
from .tokenizer.bpe import BPE
from .tokenizer.wordpiece import WordPiece


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
    folders.write_json(folder / CONFIG, {"format": FORMAT, **model.config.to_dict()})
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
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
    for field in fields(ModelConfig):
        kinds = {part if isinstance(part, type) else type(part) for part in parts_of(field.type).values()}
        kinds |= {int} if float in kinds else set()
        found = values.get(field.name, field.default)
        if type(found) not in kinds:  # type() and not isinstance(): to Python true is an int
            raise UserError(f"{path}: {field.name!r} is {found!r}, expected {kind_of(field.type)}")
    try:
        return ModelConfig.from_dict(values)
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
    return state


def check_trainer(folder: str | Path, model: nn.Module) -> None:
    """Raise UserError unless trainer.pt is of such a model, before anything of the run is written."""
    check_state(Path(folder) / TRAINER, load_trainer(folder)["model"], model.state_dict())
