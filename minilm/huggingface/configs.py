"""config.json of transformers <-> ModelConfig: which key is which field, and what we cannot express.

A key that is not here says nothing about the numbers that a model computes.
"""

from typing import NamedTuple

from ..model.config import ModelConfig
from ..plumbing.errors import UserError, suggest

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


class Layout(NamedTuple):
    """What the config.json of a model type says."""

    keys: dict[str, tuple]  # key -> our field, and its value where the key is missing
    fixed: dict[str, object]  # our fields that are the same in all models of this type
    only: dict[str, object]  # key -> the one value that we can express; it is also the default
    architecture: str  # the class of transformers with all heads of pre-training


_ALWAYS = {
    "tie_word_embeddings": ("tie_embeddings", True),
    "initializer_range": ("init_std", 0.02),
}
_BERT_KEYS = _ALWAYS | {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("d_model", 768),
    "num_hidden_layers": ("n_encoder_layer", 12),
    "num_attention_heads": ("n_head", 12),
    "intermediate_size": ("d_ff", 3072),
    "max_position_embeddings": ("max_positions", 512),
    "type_vocab_size": ("n_segments", 2),
    "hidden_act": ("activation", "gelu"),
    "hidden_dropout_prob": ("dropout", 0.1),
    "attention_probs_dropout_prob": ("attention_dropout", 0.1),
    "layer_norm_eps": ("norm_eps", 1e-12),
}
_NO_DECODER = {"is_decoder": False, "add_cross_attention": False}
_BERT_ONLY = {"position_embedding_type": "absolute", "pruned_heads": {}} | _NO_DECODER
_POST = dict(norm="post", embedding_norm=True, final_norm=False)
_PRE = dict(norm="pre", embedding_norm=False, final_norm=True)
_MASKED = dict(head_transform=True, head_bias=True)
_PAIRS = dict(pooler=True, next_sentence=True)
_DISTILBERT_KEYS = _ALWAYS | {
    "vocab_size": ("vocab_size", 30522),
    "dim": ("d_model", 768),
    "n_layers": ("n_encoder_layer", 6),
    "n_heads": ("n_head", 12),
    "hidden_dim": ("d_ff", 3072),
    "max_position_embeddings": ("max_positions", 512),
    "activation": ("activation", "gelu"),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
}
_GPT2_KEYS = _ALWAYS | {
    "vocab_size": ("vocab_size", 50257),
    "n_embd": ("d_model", 768),
    "n_layer": ("n_decoder_layer", 12),
    "n_head": ("n_head", 12),
    "n_inner": ("d_ff", None),  # none: 4 * n_embd
    "n_positions": ("max_positions", 1024),
    "activation_function": ("activation", "gelu_new"),
    "resid_pdrop": ("dropout", 0.1),
    "attn_pdrop": ("attention_dropout", 0.1),
    "layer_norm_epsilon": ("norm_eps", 1e-5),
}
_GPT2_ONLY = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}
_BART_KEYS = {
    "vocab_size": ("vocab_size", 50265),
    "d_model": ("d_model", 1024),
    "encoder_layers": ("n_encoder_layer", 12),
    "decoder_layers": ("n_decoder_layer", 12),
    "encoder_attention_heads": ("n_head", 16),
    "encoder_ffn_dim": ("d_ff", 4096),
    "max_position_embeddings": ("max_positions", 1024),
    "activation_function": ("activation", "gelu"),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.0),
    "init_std": ("init_std", 0.02),
    "scale_embedding": ("scale_embeddings", False),
}
_BLENDERBOT_KEYS = _BART_KEYS | {
    "vocab_size": ("vocab_size", 8008),
    "d_model": ("d_model", 2560),
    "encoder_layers": ("n_encoder_layer", 2),
    "decoder_layers": ("n_decoder_layer", 24),
    "encoder_attention_heads": ("n_head", 32),
    "encoder_ffn_dim": ("d_ff", 10240),
    "max_position_embeddings": ("max_positions", 128),
}
# Both stacks look alike in ours; the keys on the right must say what those on the left say.
_BOTH = {"decoder_attention_heads": "encoder_attention_heads", "decoder_ffn_dim": "encoder_ffn_dim"}
_BART_ONLY = {"tie_word_embeddings": True, "is_decoder": False, "static_position_embeddings": False}
_BART_ONLY |= {"add_bias_logits": False}

LAYOUTS: dict[str, Layout] = {
    "bert": Layout(_BERT_KEYS, _POST | _MASKED | _PAIRS, _BERT_ONLY, "BertForPreTraining"),
    # positions count from pad_token_id + 1, and the table has that many rows more
    "roberta": Layout(
        _BERT_KEYS | {"vocab_size": ("vocab_size", 50265)},
        _POST | _MASKED | dict(next_sentence=False),
        _BERT_ONLY,
        "RobertaForMaskedLM",
    ),
    "megatron-bert": Layout(
        _BERT_KEYS
        | {
            "vocab_size": ("vocab_size", 29056),
            "hidden_size": ("d_model", 1024),
            "num_hidden_layers": ("n_encoder_layer", 24),
            "num_attention_heads": ("n_head", 16),
            "intermediate_size": ("d_ff", 4096),
        },
        _PRE | _MASKED | _PAIRS,
        _BERT_ONLY,
        "MegatronBertForPreTraining",
    ),
    "distilbert": Layout(
        _DISTILBERT_KEYS,
        _POST | _MASKED | dict(norm_eps=1e-12, n_segments=0, pooler=False, next_sentence=False),
        {"pruned_heads": {}},
        "DistilBertForMaskedLM",
    ),
    "gpt2": Layout(
        _GPT2_KEYS, _PRE | dict(head_transform=False, head_bias=False), _GPT2_ONLY, "GPT2LMHeadModel"
    ),
    "bart": Layout(
        _BART_KEYS,
        _POST | dict(norm_eps=1e-5, position_offset=2, head_transform=False),
        _BART_ONLY
        | {"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False}
        | {"extra_pos_embeddings": 2},
        "BartForConditionalGeneration",
    ),
    "blenderbot": Layout(
        _BLENDERBOT_KEYS,
        _PRE | dict(norm_eps=1e-5, head_transform=False),
        _BART_ONLY | {"normalize_before": True, "normalize_embedding": False, "add_final_layer_norm": True},
        "BlenderbotForConditionalGeneration",
    ),
}


def layout_of(values: dict, where: str) -> Layout:
    """Return the layout of a config.json; UserError, with those that we know, for another model type."""
    kind = values.get("model_type")
    if kind not in LAYOUTS:
        near = suggest(str(kind), LAYOUTS)
        raise UserError(f"{where}: model_type {kind!r} is none of ours{near}: {', '.join(LAYOUTS)}")
    return LAYOUTS[kind]


def to_model_config(values: dict, where: str, modules: set[str] = frozenset()) -> ModelConfig:
    """Return the ModelConfig that a config.json describes.

    Args:
        values: the config.json.
        where: the file, for messages.
        modules: of `pooler` and `final_logits_bias`, which config.json does not tell, those in the weights.

    Raises:
        UserError: for a value that we cannot express; the message names the key.
    """
    kind, layout = values.get("model_type"), layout_of(values, where)
    for key, value in layout.only.items():
        if values.get(key, value) != value:
            raise UserError(f"{where}: {key} is {values[key]!r}, and only {value!r} can be expressed here")
    found = {}
    for key, (field, default) in layout.keys.items():
        value = values.get(key, default)
        found[field] = check_value(where, key, field, value)
    for key, other in _BOTH.items():
        if values.get(key, values.get(other)) != values.get(other):
            raise UserError(
                f"{where}: {key} is {values[key]!r} and {other} is not: both stacks are alike here"
            )
    if kind == "gpt2" and found["d_ff"] is None:
        found["d_ff"] = 4 * found["d_model"]
    if found.get("n_segments") == 1:  # the one row is the same for every token: folded into the positions
        found["n_segments"] = 0
    if kind == "roberta":
        offset = check_value(where, "pad_token_id", "position_offset", values.get("pad_token_id", 1)) + 1
        found |= dict(position_offset=offset, max_positions=found["max_positions"] - offset)
        found |= dict(pooler="pooler" in modules)
        if found["activation"] != "gelu":
            raise UserError(f"{where}: hidden_act {values['hidden_act']!r}: RoBERTa's head always has gelu")
    if kind in ("bart", "blenderbot"):
        found["head_bias"] = "final_logits_bias" in modules
    try:
        return ModelConfig(**found | layout.fixed)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_value(where: str, key: str, field: str, value):
    """Return a value of config.json as our field has it; UserError for one of another type, or unknown."""
    if field == "activation":
        if value not in ACTIVATIONS:
            near = suggest(str(value), ACTIVATIONS)
            raise UserError(f"{where}: {key} {value!r} is none of ours{near}: {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]
    expected = ModelConfig.__annotations__[field]
    kinds = {int: (int,), bool: (bool,)}.get(expected, (int, float))
    if type(value) not in kinds and not (key == "n_inner" and value is None):
        raise UserError(f"{where}: {key} is {value!r}, expected {kinds[-1].__name__}")
    return value


def from_model_config(config: ModelConfig, kind: str) -> dict:
    """Return the config.json of a model that `exporting.target` found to be of this kind."""
    layout = LAYOUTS[kind]
    values = {"model_type": kind, "architectures": [layout.architecture], "dtype": "float32"}
    values |= {key: getattr(config, field) for key, (field, _) in layout.keys.items()}
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items()) if theirs != "gelu_python"}
    names["gelu_tanh"] = "gelu_new"
    for key in ("hidden_act", "activation", "activation_function"):
        if key in values:
            values[key] = names[config.activation]
    for std in ("initializer_range", "init_std"):
        if std in values and config.init_std is None:
            values[std] = 0.55 * config.d_model**-0.5
    if "type_vocab_size" in values:
        values["type_vocab_size"] = config.n_segments or 1
    if kind == "roberta":
        values["max_position_embeddings"] += config.position_offset
    if kind == "gpt2":
        values["embd_pdrop"] = config.dropout
    if kind in ("bart", "blenderbot"):
        values |= {key: values[other] for key, other in _BOTH.items()}
        values["is_encoder_decoder"] = True
    return values
