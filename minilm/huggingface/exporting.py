"""A run folder of ours -> a folder that transformers opens, with exactly the numbers that our model computes.

    our model                                       there
    encoder, post-norm, embedding norm              bert, distilbert or roberta
    encoder, pre-norm, final norm                   megatron-bert
    decoder, pre-norm, final norm                   gpt2
    encoder-decoder, post-norm, embedding norm      bart
    encoder-decoder, pre-norm, final norm           blenderbot

Sinusoids are written as a table of positions, which they are. What no class of transformers computes is
refused, with the flags that make a model which can be exported.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import load
from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..plumbing.folders import SETTINGS, make_folder, read_json, write_json
from ..plumbing.safetensors import write_tensors
from .configs import from_model_config
from .names import NAMES, their_name
from .vocabulary_files import write_tokenizer
from .weights import SAFE, pack


def export(run_folder: str | Path, folder: str | Path) -> list[str]:
    """Write a run folder as one that `transformers.AutoModel...from_pretrained` and `AutoTokenizer` open.

    Returns:
        notes on what could not go along, which also go to stderr.

    Raises:
        UserError: where `folder` holds anything, or transformers has no model like this one.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: choose another name")
    model, tokenizer = load(run_folder)
    kind = target(model.config, tokenizer, str(run_folder))
    tensors, notes = their_tensors(model, kind)
    make_folder(folder)
    values = from_model_config(model.config, kind) | special_ids(tokenizer, kind, model.config)
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder, frame(model.config, Path(run_folder)), model.config.max_positions)
    write_json(folder / "config.json", values)
    write_tensors(folder / SAFE, tensors)
    for note in notes:
        print(f"{folder}: {note}", file=sys.stderr)
    return notes


def target(config: ModelConfig, tokenizer, where: str) -> str:
    """Return the model type that computes what our model does.

    UserError, with the flags to train with instead, where there is none.
    """
    flags = {
        "--positions learned": config.positions == "alibi",
        "--embedding-norm": config.norm == "post" and not config.embedding_norm,
        "--no-embedding-norm": config.norm == "pre" and config.embedding_norm,
        "--final-norm": config.norm == "pre" and not config.final_norm,
        "--no-final-norm": config.norm == "post" and config.final_norm,
        "--norm pre --final-norm --no-embedding-norm": config.kind == "decoder" and config.norm == "post",
        "--no-head-transform": config.head_transform and config.n_decoder_layer > 0,
        "--no-head-bias": config.head_bias and config.kind == "decoder",
        "--no-scale-embeddings": config.scale_embeddings and config.kind != "encoder-decoder",
        "--tie-embeddings": not config.tie_embeddings and config.kind == "encoder-decoder",
        "--norm-eps 1e-5": config.norm_eps != 1e-5 and config.kind == "encoder-decoder",
    }
    needed = [flag for flag, needs in flags.items() if needs]
    if config.kind == "decoder" and config.norm == "post":
        needed = [flag for flag in needed if flag not in ("--embedding-norm", "--no-final-norm")]
    if needed:
        raise UserError(
            f"{where}: transformers has no {config.kind} that computes what this one does; one trained with "
            f"{' '.join(needed)} can be exported"
        )
    if config.kind == "decoder":
        return "gpt2"
    if config.kind == "encoder-decoder":
        return "bart" if config.norm == "post" else "blenderbot"
    if config.norm == "pre":
        return "megatron-bert"
    return encoder_kind(config, tokenizer)


def encoder_kind(config: ModelConfig, tokenizer) -> str:
    """Return which post-norm encoder this is: the three differ in their positions and heads alone."""
    pad_id = optional_id(tokenizer, "[PAD]")
    counted_from_pad = config.position_offset > 0 and pad_id in (None, config.position_offset - 1)
    if counted_from_pad and not config.next_sentence and config.activation == "gelu":
        return "roberta"
    if not (config.n_segments or config.pooler) and config.norm_eps == 1e-12:
        return "distilbert"
    return "bert"


def optional_id(tokenizer, name: str) -> int | None:
    """Return the id of a special token, None where there is no such token or no tokenizer."""
    try:
        return None if tokenizer is None else tokenizer.special_id(name)
    except UserError:
        return None


def their_tensors(model, kind: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights under their names, and notes on what has no name there."""
    config, state = model.config, dict(model.state_dict())
    offset = {"bart": 2, "roberta": config.position_offset}.get(kind, 0)
    for side in ("encoder", "decoder"):
        if (stack := getattr(model, side)) is not None:
            rows = stack.embeddings.sinusoid if config.positions == "sinusoidal" else None
            rows = state[f"{side}.embeddings.position.weight"] if rows is None else rows
            unused = torch.zeros(offset, config.d_model)
            rows = torch.cat([unused, rows[config.position_offset :]])
            state[f"{side}.embeddings.position.weight"] = rows
    notes, encoder = [], config.kind == "encoder"
    if encoder and kind != "distilbert" and not config.n_segments:
        state["encoder.embeddings.segment.weight"] = torch.zeros(1, config.d_model)
    if encoder and not config.head_transform:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("vocabulary.")}
        notes.append(
            "without its vocabulary head: there it has a dense layer, which --head-transform trains; "
            "the encoder is whole"
        )
    elif kind != "gpt2":
        state.setdefault("vocabulary.bias", torch.zeros(config.vocab_size))
    if encoder and not config.pooler and kind in ("bert", "megatron-bert"):
        notes.append("it has no pooler: there AutoModel draws one at random; leave pooler_output alone")
    names = {their_name(ours, NAMES[kind]): tensor for ours, tensor in state.items()}
    for copy, name in NAMES[kind].copies.items():
        if not config.tie_embeddings and copy.endswith(".bias") and name in names:
            names[copy] = names[name]  # of an untied head they add this one
    return pack(names, kind), notes


def special_ids(tokenizer, kind: str, config: ModelConfig) -> dict:
    """Return what config.json says of special tokens: with which a text begins and ends, and the padding."""
    if tokenizer is None:
        return {"pad_token_id": config.position_offset - 1} if kind == "roberta" else {"pad_token_id": None}

    def number(name: str) -> int | None:
        return optional_id(tokenizer, name)

    if kind == "gpt2":
        end = number("<|endoftext|>")
        return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": number("[PAD]")}
    ids = {"bos_token_id": number("[CLS]"), "eos_token_id": number("[SEP]"), "pad_token_id": number("[PAD]")}
    if kind in ("bart", "blenderbot"):
        start = number("[START]" if "[START]" in tokenizer.aliases else "[CLS]")
        ids |= {"decoder_start_token_id": start, "forced_eos_token_id": None}
    return ids


def frame(config: ModelConfig, run_folder: Path) -> tuple[str | None, str | None]:
    """Return what stands before and after a text that the model reads: [CLS] and [SEP], as in training."""
    if config.kind == "decoder":
        return None, None
    settings = run_folder / SETTINGS
    translates = settings.exists() and read_json(settings).get("objective") == "translation"
    return (None if translates else "[CLS]"), "[SEP]"
