"""config.json of transformers <-> ModelConfig: which key is which field; other keys change no output."""

from dataclasses import replace
from typing import NamedTuple

from ..model.config import PRESETS, ModelConfig
from ..plumbing.errors import UserError, suggest
from ..plumbing.settings import checked
from .names import columns

# Their name -> ours; where several of theirs are the same, an export has the first.
ACTIVATIONS = dict(relu="relu", gelu="gelu", gelu_new="gelu_tanh", gelu_python="gelu", silu="silu")
ACTIVATIONS["gelu_pytorch_tanh"] = "gelu_tanh"
# Our field, and its key in the config.json of each family.
_BERT, _DISTILBERT, _GPT2, _BART = columns("""
vocab_size        vocab_size               vocab_size              vocab_size          vocab_size
d_model           hidden_size              dim                     n_embd              d_model
n_encoder_layer   num_hidden_layers        n_layers                -                   encoder_layers
n_decoder_layer   -                        -                       n_layer             decoder_layers
n_head            num_attention_heads      n_heads                 n_head              encoder_attention_heads
d_ff              intermediate_size        hidden_dim              n_inner             encoder_ffn_dim
max_positions     max_position_embeddings  max_position_embeddings n_positions         max_position_embeddings
n_segments        type_vocab_size          -                       -                   -
activation        hidden_act               activation              activation_function activation_function
dropout           hidden_dropout_prob      dropout                 resid_pdrop         dropout
attention_dropout attention_probs_dropout_prob  attention_dropout  attn_pdrop          attention_dropout
norm_eps          layer_norm_eps           -                       layer_norm_epsilon  -
init_std          initializer_range        initializer_range       initializer_range   init_std
tie_embeddings    tie_word_embeddings      tie_word_embeddings     tie_word_embeddings -
scale_embeddings  -                        -                       -                   scale_embedding
""")
(_LLAMA,) = columns("""
vocab_size     vocab_size              | d_model    hidden_size       | n_decoder_layer   num_hidden_layers
max_positions  max_position_embeddings | d_ff       intermediate_size | n_kv_head         num_key_value_heads
n_head         num_attention_heads     | d_head     head_dim          | attention_dropout attention_dropout
tie_embeddings tie_word_embeddings     | activation hidden_act        | norm_eps          rms_norm_eps
rope_theta     rope_theta              | init_std   initializer_range
""")


class Layout(NamedTuple):
    """How the config.json of a model type maps to a ModelConfig."""

    keys: dict[str, str]  # our field -> key
    default: ModelConfig  # for missing keys; a field without a key is the same in all models of this type
    only: dict[str, object]  # key -> the one value that we can express; it is also the default
    architecture: str  # the class of transformers with all heads of pre-training


_PRE = dict(norm="pre", embedding_norm=False, final_norm=True)
_ROBERTA = replace(PRESETS["bert-base"], vocab_size=50265, next_sentence=False)
_MEGATRON = replace(PRESETS["bert-large"], vocab_size=29056, **_PRE)
_BART_LARGE = replace(PRESETS["bart-large"], attention_dropout=0.0)
_BLENDERBOT = dict(vocab_size=8008, d_model=2560, n_encoder_layer=2, n_decoder_layer=24, n_head=32)
_BLENDERBOT = replace(_BART_LARGE, **_PRE, **_BLENDERBOT, d_ff=10240, max_positions=128, position_offset=0)
_WHOLE = {"pruned_heads": {}}
_BERT_ONLY = dict(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False) | _WHOLE
_GPT2_ONLY = dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
_BART_ONLY = dict(tie_word_embeddings=True, is_decoder=False)
_LLAMA_7B = dict(vocab_size=32000, n_decoder_layer=32, d_model=4096, n_head=32, n_kv_head=None, d_ff=11008)
_LLAMA_7B |= dict(max_positions=2048, rope_theta=1e4, norm_eps=1e-6, tie_embeddings=False)
_LLAMA_7B = replace(PRESETS["smollm2-135m"], **_LLAMA_7B)
_LLAMA_ONLY = dict(rope_type="default", type="default", partial_rotary_factor=1.0, quantization_config=None)
_LLAMA_ONLY |= dict(attention_bias=False, mlp_bias=False, sliding_window=None)
_QWEN_ONLY = {k: v for k, v in _LLAMA_ONLY.items() if k != "sliding_window"} | dict(use_sliding_window=False)
# Both stacks of our models are alike: a key on the left must have the value of the one on the right.
_BOTH = {"decoder_attention_heads": "encoder_attention_heads", "decoder_ffn_dim": "encoder_ffn_dim"}

LAYOUTS: dict[str, Layout] = {
    "bert": Layout(_BERT, PRESETS["bert-base"], _BERT_ONLY, "BertForPreTraining"),
    # positions count from pad_token_id + 1, so the table has that many more rows
    "roberta": Layout(_BERT, _ROBERTA, _BERT_ONLY, "RobertaForMaskedLM"),
    "megatron-bert": Layout(_BERT, _MEGATRON, _BERT_ONLY, "MegatronBertForPreTraining"),
    "distilbert": Layout(_DISTILBERT, PRESETS["distilbert"], _WHOLE, "DistilBertForMaskedLM"),
    "gpt2": Layout(_GPT2, PRESETS["gpt2"], _GPT2_ONLY | _WHOLE, "GPT2LMHeadModel"),
    "bart": Layout(_BART, _BART_LARGE, _BART_ONLY, "BartForConditionalGeneration"),
    "blenderbot": Layout(_BART, _BLENDERBOT, _BART_ONLY, "BlenderbotForConditionalGeneration"),
    "llama": Layout(_LLAMA, _LLAMA_7B, _LLAMA_ONLY, "LlamaForCausalLM"),
    "mistral": Layout(_LLAMA, _LLAMA_7B, _LLAMA_ONLY, "MistralForCausalLM"),
    "qwen2": Layout(_LLAMA, replace(_LLAMA_7B, biases="qkv"), _QWEN_ONLY, "Qwen2ForCausalLM"),
    "qwen3": Layout(_LLAMA, replace(_LLAMA_7B, qk_norm=True, d_head=128), _QWEN_ONLY, "Qwen3ForCausalLM"),
}


def choice(table: dict, key: str, value, where: str):
    """Return the table's entry for a value in config.json; UserError, with the nearest, if it has none."""
    if not isinstance(value, str) or value not in table:
        near = suggest(str(value), table)
        raise UserError(f"{where}: {key} {value!r} is not supported{near}; expected {', '.join(table)}")
    return table[value]


def to_model_config(values: dict, where: str, modules: set[str] = frozenset()) -> ModelConfig:
    """Return the ModelConfig of a config.json; `modules`: "pooler", "final_logits_bias" if in the weights."""
    kind = values.get("model_type")
    layout = choice(LAYOUTS, "model_type", kind, where)
    for key in ("rope_parameters", "rope_scaling"):  # of rotary positions, in newer and in older files
        values = values | (checked(where, values, {key: dict | None}, whole=False).get(key) or {})
    for key, value in layout.only.items():
        if values.get(key, value) != value:
            raise UserError(f"{where}: {key} is {values[key]!r}, and only {value!r} is supported")
    for key, other in _BOTH.items():
        if values.get(key, values.get(other)) != values.get(other):
            raise UserError(f"{where}: {key} is {values[key]!r} and {other} is not; both must be equal")
    values = {key: value for key, value in values.items() if (key, value) != ("n_inner", None)}
    given = {field: key for field, key in layout.keys.items() if key in values}
    found = {field: check_value(where, key, field, values[key]) for field, key in given.items()}
    if kind == "gpt2" and "d_ff" not in found:
        found["d_ff"] = 4 * found.get("d_model", layout.default.d_model)
    if found.get("n_segments") == 1:  # its one row is added to every token: `unpack` adds it to the positions
        found["n_segments"] = 0
    if kind == "roberta":
        offset = check_value(where, "pad_token_id", "position_offset", values.get("pad_token_id", 1)) + 1
        n_row = found.get("max_positions", layout.default.max_positions)
        found |= dict(position_offset=offset, max_positions=n_row - offset, pooler="pooler" in modules)
        if found.get("activation", "gelu") != "gelu":
            raise UserError(f"{where}: hidden_act {values['hidden_act']!r}: RoBERTa's head always has gelu")
    if kind in ("bart", "blenderbot"):
        found["head_bias"] = "final_logits_bias" in modules
    try:
        return replace(layout.default, **found)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_value(where: str, key: str, field: str, value):
    """Return a value in config.json as our field has it; UserError if its type is wrong or it is unknown."""
    if field == "activation":
        return choice(ACTIVATIONS, key, value, where)
    return checked(where, {key: value}, {key: ModelConfig.__annotations__[field]})[key]


def from_model_config(config: ModelConfig, kind: str) -> dict:
    """Return the config.json of a model whose type is `kind`, as `exporting.target` found."""
    layout = LAYOUTS[kind]
    values = {key: getattr(config, field) for field, key in layout.keys.items()}
    values[layout.keys["activation"]] = next(a for a, b in ACTIVATIONS.items() if b == config.activation)
    if config.init_std is None:
        values[layout.keys["init_std"]] = 0.55 * config.d_model**-0.5
    if "type_vocab_size" in values:
        values["type_vocab_size"] = config.n_segments or 1
    if kind == "roberta":
        values["max_position_embeddings"] += config.position_offset
    if "head_dim" in values:
        values["head_dim"] = config.d_head or config.d_model // config.n_head
        values["num_key_value_heads"] = config.n_kv_head or config.n_head
    if kind == "gpt2":
        values["embd_pdrop"] = config.dropout
    if kind in ("bart", "blenderbot"):
        values |= {key: values[other] for key, other in _BOTH.items()} | {"is_encoder_decoder": True}
    return {"model_type": kind, "architectures": [layout.architecture], "dtype": "float32"} | values
