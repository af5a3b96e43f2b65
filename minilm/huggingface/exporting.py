"""A model of ours -> a folder that transformers opens, to compute exactly the numbers that ours computes.

    our model           post-norm, embedding norm       pre-norm, final norm
    encoder             bert, distilbert or roberta     megatron-bert
    decoder             -                               gpt2; with rope, rms and gate llama, qwen2 or qwen3
    encoder-decoder     bart                            blenderbot

A model that no transformers class computes is refused. A BPE becomes tokenizer.json, a WordPiece vocab.txt.
With an encoder, both put [CLS] and [SEP] around a text, as in training. The space before it you add yourself.
"""

import sys
from pathlib import Path

import torch

from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..plumbing.folders import CONFIG, WEIGHTS, atomic_write, make_folder, write_json
from ..plumbing.safetensors import write_tensors
from ..tokenizer.bpe import BPE, token_name
from ..tokenizer.wordpiece import WordPiece
from .configs import from_model_config
from .loading import GENERATION, MATRICES, SENTENCES
from .names import NAMES, their_name
from .tokenizers import BERT_ROLES, CUTS, SWITCHES


def export_model(model, tokenizer, folder: str | Path, name="the model", notes=()) -> list[str]:
    """Write a new folder for AutoModel and AutoTokenizer; return and print notes on what is left out."""
    folder, config, kind = Path(folder), model.config, target(model.config, tokenizer, name)
    tensors, notes = their_tensors(model, kind, notes)
    if not make_folder(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: choose another name")
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder, config)
        if kind == "qwen2" and getattr(tokenizer, "pattern", None) != "gpt4, digits apart":
            notes.append("AutoTokenizer would cut text as Qwen2 does: open it with PreTrainedTokenizerFast")
    ids = special_ids(tokenizer, kind, config)
    write_json(folder / CONFIG, from_model_config(config, kind) | ids)
    if tokenizer is not None and tokenizer.ends:
        write_json(folder / GENERATION, ids | {"eos_token_id": tokenizer.ends})
    write_tensors(folder / WEIGHTS, tensors)
    sys.stderr.writelines(f"{folder}: {note}\n" for note in notes)
    return notes


def target(config: ModelConfig, tokenizer, name: str) -> str:
    """Return the model type that computes what ours does; if none does, UserError names flags that help."""
    kind, post, d_head = config.kind, config.norm == "post", config.d_model / config.n_head
    rope = kind == "decoder" and config.positions == "rope"
    needed = {
        "--positions learned": config.positions not in ("learned", "sinusoidal") and not rope,
        "--norm-kind " + ("rms" if rope else "layer"): rope != (config.norm_kind == "rms"),
        "--gated" if rope else "--no-gated": rope != config.gated,
        "--biases " + ("none" if rope else "all"): rope == (config.biases == "all"),
        "--no-qk-norm": config.qk_norm and (not rope or config.biases != "none"),
        f"--n-kv-head {config.n_head}": not rope and config.n_kv_head not in (None, config.n_head),
        f"--d-head {int(d_head)}": not rope and config.d_head not in (None, d_head),
        "--embedding-norm": post and not config.embedding_norm and kind != "decoder",
        "--no-embedding-norm": not post and config.embedding_norm,
        "--final-norm": not post and not config.final_norm,
        "--no-final-norm": post and config.final_norm and kind != "decoder",
        "--norm pre --final-norm --no-embedding-norm": post and kind == "decoder",
        "--no-head-transform": config.head_transform and config.n_decoder_layer > 0,
        "--no-head-bias": config.head_bias and kind == "decoder",
        "--no-scale-embeddings": config.scale_embeddings and kind != "encoder-decoder",
        "--no-pooler --no-next-sentence": config.pooler and kind == "encoder-decoder",
        "--n-segments 0": config.n_segments > 0 and kind == "encoder-decoder",
        "--tie-embeddings": not config.tie_embeddings and kind == "encoder-decoder",
        "--norm-eps 1e-5": config.norm_eps != 1e-5 and kind == "encoder-decoder",
    }
    if flags := " ".join(flag for flag, needs in needed.items() if needs):
        raise UserError(f"{name}: transformers has no {kind} like it; one with {flags} can be exported")
    if rope:
        return "qwen3" if config.qk_norm else "qwen2" if config.biases == "qkv" else "llama"
    if kind != "encoder" or not post:
        return {"encoder": "megatron-bert", "decoder": "gpt2"}.get(kind, "bart" if post else "blenderbot")
    # The three post-norm encoders differ in positions, segments, heads and norm_eps alone.
    pad_id = optional_id(tokenizer, "[PAD]")
    counted_from_pad = config.position_offset > 0 and pad_id in (None, config.position_offset - 1)
    if counted_from_pad and not config.next_sentence and config.activation == "gelu":
        return "roberta"
    return "bert" if config.n_segments or config.pooler or config.norm_eps != 1e-12 else "distilbert"


def optional_id(tokenizer, name: str) -> int | None:
    """Return the id of a special token; None if there is no such token or no tokenizer."""
    known = tokenizer is not None and name in (*tokenizer.special_tokens, *tokenizer.aliases)
    return tokenizer.special_id(name) if known else None


def their_tensors(model, kind: str, notes=()) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the weights under transformers' names, and `notes` with more on what has no name there."""
    config, state = model.config, dict(model.state_dict())
    offset = {"bart": 2, "roberta": config.position_offset}.get(kind, 0)
    for side in ("encoder", "decoder"):
        if (stack := getattr(model, side)) is not None:
            name = f"{side}.embeddings.position.weight"
            rows = stack.embeddings.sinusoid if config.positions == "sinusoidal" else state.get(name)
            if rows is not None:  # rotary positions have no rows
                state[name] = torch.cat([torch.zeros(offset, config.d_model), rows[config.position_offset :]])
    notes, encoder = [*notes], config.kind == "encoder"
    if encoder and kind != "distilbert" and not config.n_segments:
        state["encoder.embeddings.segment.weight"] = torch.zeros(1, config.d_model)
    if encoder and not config.head_transform:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("vocabulary.")}
        notes.append("vocabulary head left out: only one trained with --head-transform can be exported")
    elif config.kind != "decoder":
        state.setdefault("vocabulary.bias", torch.zeros(config.vocab_size))
    if encoder and not config.pooler and kind in ("bert", "megatron-bert"):
        notes.append("it has no pooler: AutoModel draws one at random, so do not use pooler_output")
    names = {their_name(ours, NAMES[kind]): tensor for ours, tensor in state.items()}
    for copy, name in NAMES[kind].copies.items():
        if not config.tie_embeddings and copy.endswith(".bias") and name in names:
            names[copy] = names[name]  # in an untied head transformers adds this bias
    # The inverse of `loading.unpack`, except for the segments.
    for name in [name for name in names if ".c_attn.q." in name]:
        parts = [names.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        names[name.replace(".q.", ".")] = torch.cat(parts)
    for name in filter(MATRICES.fullmatch, list(names)):
        names[name] = names[name].T
    if "final_logits.bias" in names:
        names["final_logits_bias"] = names.pop("final_logits.bias")[None]
    return names, notes


def begin_and_end(tokenizer, config: ModelConfig) -> dict[str, str]:
    """Return our names of the tokens that begin and end a text of this model."""
    if config.kind != "decoder":
        return {"bos": "[CLS]", "eos": "[SEP]"}
    known, end = tokenizer.aliases.keys(), "<|endoftext|>"  # as in `rows.framed` and `rows.text_end`
    return {"bos": "[CLS]" if {"[CLS]", end} <= known else end, "eos": "[EOS]" if "[EOS]" in known else end}


def special_ids(tokenizer, kind: str, config: ModelConfig) -> dict:
    """Return the special tokens' ids for config.json: begin and end of a text, padding, decoder's start."""
    if tokenizer is None:
        return {"pad_token_id": config.position_offset - 1 if kind == "roberta" else None}
    names = begin_and_end(tokenizer, config) | {"pad": "[PAD]"}
    ids = {f"{role}_token_id": optional_id(tokenizer, name) for role, name in names.items()}
    if kind in ("bart", "blenderbot"):
        start = "[START]" if "[START]" in tokenizer.aliases else "[CLS]"
        ids |= dict(decoder_start_token_id=optional_id(tokenizer, start), forced_eos_token_id=None)
    return ids


def write_tokenizer(tokenizer: BPE | WordPiece, folder: Path, config: ModelConfig) -> None:
    """Write the tokenizer's files."""
    roles = BERT_ROLES | begin_and_end(tokenizer, config)
    called = tokenizer.aliases | {token: token for token in tokenizer.special_tokens}
    settings = {f"{role}_token": called[ours] for role, ours in roles.items() if ours in called}
    if isinstance(tokenizer, WordPiece):
        atomic_write(folder / "vocab.txt", "".join(token + "\n" for token in tokenizer.tokens))
        settings |= {key: getattr(tokenizer, ours) for ours, key, *_ in SWITCHES}
        settings["tokenizer_class"] = "BertTokenizer"
        write_json(folder / "added_tokens.json", {t: tokenizer.encode(t)[0] for t in tokenizer.added_tokens})
    else:
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        write_json(folder / "tokenizer.json", rust_tokenizer(tokenizer, config.n_encoder_layer > 0))
    inputs = ["input_ids", *(["token_type_ids"] if config.n_segments else []), "attention_mask"]
    settings |= {"model_max_length": tokenizer.longest or config.max_positions, "model_input_names": inputs}
    if tokenizer.longest:
        write_json(folder / SENTENCES, {"max_seq_length": tokenizer.longest})
    write_json(folder / "tokenizer_config.json", settings)


def rust_tokenizer(bpe: BPE, is_framed=False) -> dict:
    """Return the tokenizer.json of a BPE; its post-processor can frame one text or two as `rows.framed`."""
    whole = dict(sorted((bpe.encode(token)[0], token) for token in (*bpe.special_tokens, *bpe.added_tokens)))
    vocab = {whole.get(i) or token_name(token): i for i, token in sorted(bpe.vocab.items())}
    model = dict(type="BPE", vocab=vocab, merges=[[token_name(a), token_name(b)] for a, b in bpe.merges])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [dict(id=i, content=t, **flags, special=t in bpe.special_tokens) for i, t in whole.items()]
    before, behind = ([bpe.aliases.get(name, name)] * is_framed for name in ("[CLS]", "[SEP]"))
    part = lambda kind, names, segment: [{kind: {"id": name, "type_id": segment}} for name in names]
    single = part("SpecialToken", before, 0) + part("Sequence", ["A"], 0) + part("SpecialToken", behind, 0)
    pair = single + part("Sequence", ["B"], 1) + part("SpecialToken", behind, 1)
    tokens = {token: dict(id=token, ids=[bpe.special_id(token)], tokens=[token]) for token in before + behind}
    around = dict(type="TemplateProcessing", single=single, pair=pair, special_tokens=tokens)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    how = dict(Digits=lambda apart: dict(individual_digits=apart))
    how["Split"] = lambda regex: dict(pattern={"Regex": regex}, behavior="Isolated", invert=False)
    how["ByteLevel"] = lambda use: byte_level | dict(use_regex=use)
    cuts = next(cuts for cuts, name in CUTS.items() if name == bpe.pattern)
    cutters = [dict(type=kind) | how[kind](value) for kind, value in cuts]
    cutter = cutters[0] if len(cuts) == 1 else dict(type="Sequence", pretokenizers=cutters)
    steps = dict(pre_tokenizer=cutter, post_processor=around if tokens else None, decoder=byte_level)
    return dict(version="1.0", added_tokens=added, **steps, model=model)
