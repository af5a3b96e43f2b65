"""What transformers calls the weights that we have: one table an architecture, ours -> theirs.

`{i}` is the number of a block; weight and bias are copied of each. The names are those of the class with all
heads of pre-training (`BertForPreTraining` and so on).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Names(NamedTuple):
    """How an architecture names its weights."""

    table: dict[str, str]  # our module -> theirs
    prefix: str  # what a checkpoint without heads leaves out of the names
    copies: dict[str, str]  # second names of a weight -> its name in the table


def blocks(ours: str, theirs: str, parts: dict[str, str]) -> dict[str, str]:
    """Return the rows of all parts of a block."""
    return {f"{ours}.{{i}}.{a}": f"{theirs}.{{i}}.{b}" for a, b in parts.items()}


# Old files repeat the token embedding as the head's matrix, and the head's bias inside that matrix.
_BERT_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_BERT_ATTENTION = {
    "self_attention.q": "attention.self.query",
    "self_attention.k": "attention.self.key",
    "self_attention.v": "attention.self.value",
    "self_attention.out": "attention.output.dense",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
}
_BERT_BLOCK = _BERT_ATTENTION | {
    "self_attention_norm": "attention.output.LayerNorm",
    "feed_forward_norm": "output.LayerNorm",
}
_BERT_EMBEDDINGS = {
    "tokens": "bert.embeddings.word_embeddings",
    "encoder.embeddings.position": "bert.embeddings.position_embeddings",
    "encoder.embeddings.segment": "bert.embeddings.token_type_embeddings",
}
_BERT_HEADS = {
    "pooler": "bert.pooler.dense",
    "next_sentence": "cls.seq_relationship",
    "vocabulary.dense": "cls.predictions.transform.dense",
    "vocabulary.norm": "cls.predictions.transform.LayerNorm",
    "vocabulary": "cls.predictions",  # its bias
    "vocabulary.output": "cls.predictions.decoder",
}
_BERT = {
    **_BERT_EMBEDDINGS,
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
    **blocks("encoder.blocks", "bert.encoder.layer", _BERT_BLOCK),
    **_BERT_HEADS,
}
# BERT with the norms before the parts (Shoeybi et al. 2019, "Megatron-LM"): our pre-norm encoders.
_MEGATRON_BERT = {
    **_BERT_EMBEDDINGS,
    **blocks(
        "encoder.blocks",
        "bert.encoder.layer",
        _BERT_ATTENTION | {"self_attention_norm": "attention.ln", "feed_forward_norm": "ln"},
    ),
    "encoder.norm": "bert.encoder.ln",
    **_BERT_HEADS,
}
_ROBERTA_HEADS = {
    "vocabulary.dense": "lm_head.dense",
    "vocabulary.norm": "lm_head.layer_norm",
    "vocabulary": "lm_head",  # its bias
    "vocabulary.output": "lm_head.decoder",
}
_ROBERTA = {
    ours: theirs.replace("bert.", "roberta.", 1)
    for ours, theirs in _BERT.items()
    if not theirs.startswith("cls.")
} | _ROBERTA_HEADS
_DISTILBERT_BLOCK = {
    "self_attention.q": "attention.q_lin",
    "self_attention.k": "attention.k_lin",
    "self_attention.v": "attention.v_lin",
    "self_attention.out": "attention.out_lin",
    "self_attention_norm": "sa_layer_norm",
    "feed_forward.up": "ffn.lin1",
    "feed_forward.down": "ffn.lin2",
    "feed_forward_norm": "output_layer_norm",
}
_DISTILBERT = {
    "tokens": "distilbert.embeddings.word_embeddings",
    "encoder.embeddings.position": "distilbert.embeddings.position_embeddings",
    "encoder.embeddings.norm": "distilbert.embeddings.LayerNorm",
    **blocks("encoder.blocks", "distilbert.transformer.layer", _DISTILBERT_BLOCK),
    "vocabulary.dense": "vocab_transform",
    "vocabulary.norm": "vocab_layer_norm",
    "vocabulary": "vocab_projector",  # its bias
    "vocabulary.output": "vocab_projector",
}
# GPT-2 keeps q, k and v in one matrix, and every matrix turned: `weights.py` cuts and turns them.
_GPT2_BLOCK = {
    "self_attention.q": "attn.c_attn.q",
    "self_attention.k": "attn.c_attn.k",
    "self_attention.v": "attn.c_attn.v",
    "self_attention.out": "attn.c_proj",
    "self_attention_norm": "ln_1",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
    "feed_forward_norm": "ln_2",
}
_GPT2 = {
    "tokens": "transformer.wte",
    "decoder.embeddings.position": "transformer.wpe",
    **blocks("decoder.blocks", "transformer.h", _GPT2_BLOCK),
    "decoder.norm": "transformer.ln_f",
    "vocabulary.output": "lm_head",
}
_BART_BLOCK = {
    "self_attention.q": "self_attn.q_proj",
    "self_attention.k": "self_attn.k_proj",
    "self_attention.v": "self_attn.v_proj",
    "self_attention.out": "self_attn.out_proj",
    "self_attention_norm": "self_attn_layer_norm",
    "feed_forward.up": "fc1",
    "feed_forward.down": "fc2",
    "feed_forward_norm": "final_layer_norm",
}
_BART_CROSS = {
    "cross_attention.q": "encoder_attn.q_proj",
    "cross_attention.k": "encoder_attn.k_proj",
    "cross_attention.v": "encoder_attn.v_proj",
    "cross_attention.out": "encoder_attn.out_proj",
    "cross_attention_norm": "encoder_attn_layer_norm",
}
_BART = {
    "tokens": "model.shared",
    "encoder.embeddings.position": "model.encoder.embed_positions",
    "encoder.embeddings.norm": "model.encoder.layernorm_embedding",
    "decoder.embeddings.position": "model.decoder.embed_positions",
    "decoder.embeddings.norm": "model.decoder.layernorm_embedding",
    **blocks("encoder.blocks", "model.encoder.layers", _BART_BLOCK),
    **blocks("decoder.blocks", "model.decoder.layers", _BART_BLOCK | _BART_CROSS),
    "vocabulary": "final_logits",  # its bias, final_logits_bias
}
_BART_COPIES = {
    "model.encoder.embed_tokens.weight": "model.shared.weight",
    "model.decoder.embed_tokens.weight": "model.shared.weight",
    "lm_head.weight": "model.shared.weight",
}
# A BART with the norms before the parts (Roller et al. 2021): our pre-norm encoder-decoders.
_BLENDERBOT = {ours: theirs for ours, theirs in _BART.items() if "layernorm_embedding" not in theirs} | {
    "encoder.norm": "model.encoder.layer_norm",
    "decoder.norm": "model.decoder.layer_norm",
}

NAMES: dict[str, Names] = {
    "bert": Names(_BERT, "bert.", _BERT_COPIES),
    "megatron-bert": Names(_MEGATRON_BERT, "bert.", _BERT_COPIES),
    "roberta": Names(
        _ROBERTA,
        "roberta.",
        {
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
    "distilbert": Names(
        _DISTILBERT,
        "distilbert.",
        {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ),
    "gpt2": Names(_GPT2, "transformer.", {"lm_head.weight": "transformer.wte.weight"}),
    "bart": Names(_BART, "model.", _BART_COPIES),
    "blenderbot": Names(_BLENDERBOT, "model.", _BART_COPIES),
}

# Numbers that are no weights: the positions 0, 1, 2, ..., GPT-2's causal mask, BART's number of a version.
BUFFERS = re.compile(r"(.*\.)?(position_ids|version)|(.*\.)?attn\.(bias|masked_bias)")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def their_name(ours: str, names: Names) -> str | None:
    """Return what the architecture calls one of our weights; None where it has nothing like it."""
    module, _, what = ours.rpartition(".")
    number = NUMBER.search(module + ".")
    theirs = names.table.get(NUMBER.sub("{i}", module + ".").removesuffix("."))
    if theirs is None:
        return None
    return f"{theirs.replace('{i}', number[0]) if number else theirs}.{what}"


def table_names(found: Iterable[str], names: Names) -> dict[str, str]:
    """Return for each name in a file the one in the table, buffers left out.

    A checkpoint without heads has no prefix. The norms of the first BERT have `gamma` and `beta`, today's
    have `weight` and `bias`.
    """
    kept = [name for name in found if not BUFFERS.fullmatch(name)]
    prefix = "" if any(name.startswith(names.prefix) for name in kept) else names.prefix
    modern = {name: re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)) for name in kept}
    return {name: prefix + new for name, new in modern.items()}
