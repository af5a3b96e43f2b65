"""Run folders: what a run leaves on disk, how it goes on from there, and how its model is loaded.

    runs/NAME/
        config.json         the ModelConfig, and "format": "minilm"
        tokenizer.json      the tokenizer, where there is one: a BPE or a WordPiece
        model.safetensors   the weights, for whoever loads the model
        trainer.pt          what resuming needs: weights, optimizer and step, in one file
        settings.json       the resolved command
        log.jsonl           one JSON object per logged step
        results.json        the closing table; its presence says that the run is finished

Each file is written beside and then renamed, so a file is old or new and never half (`plumbing/folders.py`).
Two files cannot be renamed at once: a process killed between them leaves one of an earlier step. That is why
trainer.pt holds the weights too. Resuming reads trainer.pt alone, loading reads model.safetensors alone, and
neither can mix two steps.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import get_args, get_type_hints

import torch
from torch import Tensor, nn

from .huggingface import loading
from .huggingface.downloading import PUBLISHED
from .model.config import ModelConfig
from .model.transformer import build
from .plumbing.errors import UserError
from .plumbing.folders import (
    CONFIG,
    FORMAT,
    TOKENIZER,
    TRAINER,
    WEIGHTS,
    atomic_write,
    empty_run_folder,
    make_folder,
    near_runs,
    read_json,
    write_json,
)
from .plumbing.safetensors import check_state, read_tensors, write_tensors
from .plumbing.settings import kind_of
from .tokenizer.bpe import BPE
from .tokenizer.wordpiece import WordPiece

ZIP = b"PK\x03\x04"  # how the files of torch.save begin; they have been zip files since PyTorch 1.6
# What `torch.load` raises for damaged files, by the place of the damage.
DAMAGE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, OSError)


def load(path: str | Path, device: str = "cpu") -> tuple[nn.Module, BPE | WordPiece | None]:
    """Return (model, tokenizer) of a run folder, the model in evaluation mode.

    A Hugging Face folder, or the name of a published model, "hf:NAME", is read by `huggingface.loading`. The
    tokenizer is None where the folder has none. UserError names the file that is missing or wrong.
    """
    if is_published(path):
        return loading.load(path, device)
    folder = Path(path)
    model = build(load_config(folder))
    load_weights(folder, model)
    tokenizer = load_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).exists() else None
    return model.to(device).eval(), tokenizer


def is_published(path: str | Path) -> bool:
    """Return whether this is a Hugging Face folder, or the name "hf:NAME" of a published model."""
    if str(path).startswith(PUBLISHED):
        return True
    config = Path(path) / CONFIG
    return config.exists() and "model_type" in read_json(config)


def load_tokenizer(path: str | Path) -> BPE | WordPiece:
    """Return the tokenizer that a file of ours holds, of either kind; UserError for any other file."""
    kind = WordPiece if read_json(path).get("format") == WordPiece.FORMAT else BPE
    return kind.load(path)


def save(model: nn.Module, tokenizer, path: str | Path, overwrite: bool = False) -> None:
    """Write a model and its tokenizer (or None) into a folder that `load` reads.

    UserError where the folder holds anything already, unless `overwrite`, which replaces a run folder.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise UserError(f"{folder} exists already: choose another name, or overwrite=True to replace it")
        empty_run_folder(folder)
    make_folder(folder)
    save_model(folder, state_to_load(model), model.config.to_dict(), tokenizer)


def state_to_load(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that a model is loaded from, which may be simpler than the one that is trained.

    LoRA's thin matrices are merged (`finetuning/lora.py`), PPO's value head is left out.
    """
    return model.merged_state() if hasattr(model, "merged_state") else model.state_dict()


def save_model(folder: str | Path, model_state: dict[str, Tensor], config: dict, tokenizer=None) -> None:
    """Write config.json, tokenizer.json and model.safetensors, the weights last: with them it is a model."""
    folder = Path(folder)
    write_json(folder / CONFIG, {"format": FORMAT, **config})
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)
    write_tensors(folder / WEIGHTS, model_state)


def load_config(folder: str | Path) -> ModelConfig:
    """Return the ModelConfig of a run folder, or of a Hugging Face one.

    UserError where config.json is missing, foreign or wrong.
    """
    if is_published(folder):
        return loading.load_config(folder)
    path = Path(folder) / CONFIG
    if not path.exists():
        what = f"no {CONFIG} in it" if path.parent.is_dir() else "no such folder"
        raise UserError(f"{folder}: not a run folder of ours, {what}{near_runs(Path(folder))}")
    values = read_json(path)
    if values.pop("format", None) != FORMAT:
        raise UserError(f'{path}: "format": "{FORMAT}" is missing, so it is not a config of ours')
    for name, hint in get_type_hints(ModelConfig).items():
        if name in values and not fits(values[name], hint):
            raise UserError(f"{path}: {name!r} is {values[name]!r}, expected {kind_of(hint)}")
    try:
        return ModelConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def fits(value, hint) -> bool:
    """Say whether a value read from JSON is of a field's type: a class, or a union or Literal."""
    if hint is float:
        return type(value) in (int, float)
    if isinstance(hint, type):
        return type(value) is hint  # not isinstance(): to Python true is an int
    return any(fits(value, part) if isinstance(part, type) else value == part for part in get_args(hint))


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
    """Write trainer.pt: everything from which training goes on, in one file, so of one step.

    `state` has `step`, `model` (the weights) and whatever else the loop needs, made of dictionaries, lists,
    tuples, tensors, texts, numbers and None. Raises ValueError otherwise: `load_trainer` could not read it.
    """
    if not {"step", "model"} <= set(state):
        raise ValueError("a trainer state needs 'step' and 'model': resuming must not mix two files")
    check_plain(state, "state")
    atomic_write(Path(folder) / TRAINER, lambda file: torch.save(state, file))


def check_plain(value, where: str) -> None:
    """Raise ValueError, saying where, for what `torch.load(weights_only=True)` would refuse."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            check_plain(item, f"{where}[{i}]")
    elif type(value) not in (str, int, float, bool, type(None), Tensor, nn.Parameter):
        raise ValueError(f"{where} is of type {type(value).__name__}, which a trainer state cannot hold")


def load_trainer(folder: str | Path, device: str = "cpu") -> dict:
    """Return what `save_trainer` wrote, its tensors on `device`.

    UserError where there is none, where it is cut off, or where it holds more than plain data: a pickle that
    would run code is refused and not run.
    """
    path = Path(folder) / TRAINER
    if not path.is_file():
        raise UserError(f"{folder}: no {TRAINER} to go on from; --overwrite starts the run anew")
    with open(path, "rb") as file:
        if file.read(len(ZIP)) != ZIP:
            raise UserError(f"{path}: cut off, or not a file of torch.save; --overwrite starts the run anew")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused, it holds more than plain data, and that could run code") from None
    except DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged ({reason}); --overwrite starts the run anew") from None
    if not isinstance(state, dict) or not {"step", "model"} <= set(state):
        raise UserError(f"{path}: not a trainer state of ours, 'step' and 'model' are missing")
    return state


def check_trainer(folder: str | Path, model: nn.Module) -> None:
    """Raise UserError unless the weights in trainer.pt are those of such a model.

    Asked before anything is written: flags that do not fit must leave the run as it was.
    """
    check_state(Path(folder) / TRAINER, load_trainer(folder)["model"], model.state_dict())
