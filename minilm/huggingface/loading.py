"""A Hugging Face folder -> our model and tokenizer.

What is in the file and has no place in the model is an error, as is what the model needs and the file lacks.
The heads of pre-training alone may be missing, as they are in many published files: they are drawn at random,
and that is said.
"""

import sys
from pathlib import Path

from torch import Tensor, nn

from ..model.config import ModelConfig
from ..model.transformer import build
from ..plumbing.errors import UserError
from ..plumbing.folders import read_json
from ..plumbing.safetensors import check_state
from .configs import layout_of, to_model_config
from .downloading import cached
from .names import NAMES, Names, table_names, their_name
from .tokenizers import read_tokenizer
from .weights import read_weights, unpack

HEADS = ("vocabulary", "pooler", "next_sentence")


def load(path: str | Path, device: str = "cpu") -> tuple[nn.Module, object]:
    """Return (model, tokenizer) of a Hugging Face folder or of "hf:NAME", the model in evaluation mode.

    The tokenizer is None where the folder has none. What is missing and drawn at random, and what the folder
    says that has no meaning here, goes to stderr.

    Raises:
        UserError: for an unknown model type, a value that we cannot express, and weights that are missing,
            unexpected, damaged or of another shape; the message names them.
    """
    folder = cached(path)
    values = read_json(folder / "config.json")
    layout_of(values, str(folder / "config.json"))  # before gigabytes are read
    tensors = named_weights(folder, values)
    model = build(config_of(folder, values, tensors))
    notes = fill(model, tensors, values["model_type"], folder)
    tokenizer, more = read_tokenizer(folder, values)
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        rows = f"{tokenizer.vocab_size} ids, and the model rows for {model.config.vocab_size}"
        raise UserError(f"{folder}: the vocabulary has {rows}")
    for note in notes + more:
        print(f"{folder}: {note}", file=sys.stderr)
    return model.to(device).eval(), tokenizer


def load_config(path: str | Path) -> ModelConfig:
    """Return the ModelConfig of a Hugging Face folder or of "hf:NAME"; UserError as `load`."""
    folder = cached(path)
    values = read_json(folder / "config.json")
    layout_of(values, str(folder / "config.json"))
    return config_of(folder, values, named_weights(folder, values))


def config_of(folder: Path, values: dict, tensors: dict[str, Tensor]) -> ModelConfig:
    """Return the ModelConfig that config.json and the names of the weights describe."""
    modules = {name for name in ("pooler", "final_logits_bias") if any(name in found for found in tensors)}
    return to_model_config(values, str(folder / "config.json"), modules)


def named_weights(folder: Path, values: dict) -> dict[str, Tensor]:
    """Return the weights of a folder under the names of the tables, without buffers."""
    tensors, found = {}, read_weights(folder)
    for name, new in table_names(found, NAMES[values["model_type"]]).items():
        if new in tensors:
            raise UserError(f"{folder}: {new} stands there twice, once as {name}")
        tensors[new] = found[name]
    return tensors


def fill(model: nn.Module, tensors: dict[str, Tensor], kind: str, folder: Path) -> list[str]:
    """Copy the weights into the model; return notes on what is drawn at random, or was left out.

    UserError unless every name and every shape fits.
    """
    names, state = NAMES[kind], model.state_dict()
    theirs = {their_name(ours, names): ours for ours in state}
    found = unpack(without_copies(tensors, names, set(theirs)), kind, model.config)
    absent = [name for name in theirs if name not in found and theirs[name].split(".")[0] in HEADS]
    check_state(folder, found, {name: state[ours] for name, ours in theirs.items() if name not in absent})
    model.load_state_dict({theirs[name]: tensor for name, tensor in found.items()}, strict=False)
    heads = {name.rpartition(".")[0] for name in absent}
    return [f"not in it, so drawn at random: {', '.join(sorted(heads))}"] if heads else []


def without_copies(tensors: dict[str, Tensor], names: Names, wanted: set[str]) -> dict[str, Tensor]:
    """Leave out the second names of tied weights; where a file has only the second name, use that.

    Of an untied head the bias inside the matrix is the one that transformers adds.
    """
    tensors = dict(tensors)
    for copy, name in names.copies.items():
        if copy in tensors and copy not in wanted:
            untied = copy.replace(".bias", ".weight") in wanted
            tensors[name] = tensors[copy] if untied else tensors.get(name, tensors[copy])
            del tensors[copy]
    return tensors
