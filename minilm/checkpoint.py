"""Run folders: what a run saves, from what it resumes, and how its model is loaded.

    runs/NAME/
        config.json         the ModelConfig, and "format": "minilm"
        tokenizer.json      the tokenizer, where there is one: a BPE or a WordPiece
        model.safetensors   the weights, for `load`
        trainer.pt          what resuming needs: weights, optimizer and step, in one file
        settings.json       the resolved command
        log.jsonl           one JSON object per logged step
        lock                there while a process writes into the folder
        results.json        the final table; if it is there, the run is finished

All files but the log are replaced as a whole; a process killed between two leaves one of an earlier step.
That is why trainer.pt holds the weights, too: resuming reads trainer.pt alone.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from .huggingface import exporting, loading
from .model.config import ModelConfig
from .model.transformer import build_for_weights
from .plumbing import folders
from .plumbing.errors import UserError, suggest
from .plumbing.folders import CONFIG, FORMAT, TOKENIZER, WEIGHTS, read_json
from .plumbing.safetensors import check_state, read_tensors, write_tensors
from .plumbing.settings import checked
from .tokenizer.base import Tokenizer
from .tokenizer.bpe import BPE
from .tokenizer.wordpiece import WordPiece


def load(path: str | Path, device: str = "cpu", dtype=torch.float32) -> tuple[nn.Module, Tokenizer | None]:
    """Return (model in evaluation mode, tokenizer or None) of a run, a Hugging Face folder, or "hf:NAME"."""
    if is_published(path):
        return loading.load(path, device, dtype)
    folder, config = Path(path), load_config(path)
    tensors = read_weights(folder)
    model = build_for_weights(config, tensors, folder / CONFIG)
    load_weights(folder, model, tensors)
    tokenizer = load_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).exists() else None
    if tokenizer is not None and (n := tokenizer.vocab_size) > config.vocab_size:
        raise UserError(f"{folder / TOKENIZER}: {n} ids, but the model has {config.vocab_size}: another's?")
    return model.to(device, dtype).eval(), tokenizer


def save(model: nn.Module, tokenizer, path: str | Path, overwrite: bool = False) -> None:
    """Write a model and its tokenizer (or None) into a new folder for `load`; `overwrite` replaces a run."""
    folder = Path(path)
    if folder.exists() and overwrite:
        folders.empty_run_folder(folder)
    elif not folders.make_folder(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: choose another name, or overwrite=True to replace it")
    save_description(folder, model, tokenizer)
    save_weights(folder, model)  # last: only with the weights is the folder complete


def save_description(folder: Path, model: nn.Module, tokenizer=None) -> None:
    """Write config.json and tokenizer.json."""
    folders.write_json(folder / CONFIG, {"format": FORMAT, **asdict(model.config)})
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)


def save_weights(folder: Path, model: nn.Module) -> None:
    """Write model.safetensors."""
    model = getattr(model, "_orig_mod", model)  # without the wrapper of torch.compile
    # Not always the weights as trained: LoRA's matrices are merged, PPO's value head is left out.
    write_tensors(folder / WEIGHTS, getattr(model, "merged_state", model.state_dict)())


def export(run_folder: str | Path, folder: str | Path) -> list[str]:
    """Convert a run folder to one that transformers opens; return notes on what had to be left out."""
    weights = Path(run_folder) / WEIGHTS
    has_head = weights.exists() and any(name[:5] == "head." for name in read_tensors(weights))
    notes = ["the fine-tuned head is left out: transformers has no name for it"] if has_head else []
    return exporting.export_model(*load(run_folder), folder, str(run_folder), notes)


def is_published(path: str | Path) -> bool:
    """Return whether this is a Hugging Face folder, or the name "hf:NAME" of a published model."""
    named = str(path).startswith(loading.PUBLISHED)
    return named or "model_type" in read_json(Path(path) / CONFIG, optional=True)


def load_tokenizer(path: str | Path) -> BPE | WordPiece:
    """Return the tokenizer, BPE or WordPiece, that a file of ours holds; UserError for any other file."""
    return (WordPiece if read_json(path).get("format") == WordPiece.FORMAT else BPE).load(path)


def load_config(folder: str | Path) -> ModelConfig:
    """Return the ModelConfig of a folder, ours or Hugging Face's; UserError if config.json is wrong."""
    if is_published(folder):
        return loading.read_folder(folder)[2]
    if not (path := Path(folder) / CONFIG).exists():
        what = f"no {CONFIG} in it" if Path(folder).is_dir() else "no such folder"
        raise UserError(f"{folder}: not a run folder of minilm, {what}{folders.near_runs(Path(folder))}")
    values = read_json(path)
    if values.pop("format", None) != FORMAT:
        raise UserError(f'{path}: "format": "{FORMAT}" is missing, so it is not a config of minilm')
    types = ModelConfig.__annotations__
    for name in values.keys() - types.keys():
        raise UserError(f"{path}: unknown model field {name!r}{suggest(name, types)}")
    checked(path, values, types, whole=False)
    try:
        return ModelConfig(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Return the tensors of model.safetensors; UserError if it is missing or damaged."""
    if not (path := Path(folder) / WEIGHTS).exists():
        raise UserError(f"{folder}: no {WEIGHTS} in it; was the run stopped before its first checkpoint?")
    return read_tensors(path)


def load_weights(folder: str | Path, model: nn.Module, tensors: dict | None = None) -> None:
    """Load `tensors`, by default those of model.safetensors, into the model; UserError if they do not fit."""
    expected, tensors = model.state_dict(), tensors or read_weights(folder)
    if "trunk.tokens.weight" in tensors.keys() - expected.keys():
        raise UserError(f"{folder}: a reward model, which only reinforce.py --reward takes")
    # The head of a fine-tuned model is left out if only the body is loaded.
    state = {name: t for name, t in tensors.items() if name in expected or name[:5] != "head."}
    check_state(Path(folder) / WEIGHTS, state, expected)
    model.load_state_dict(state)
