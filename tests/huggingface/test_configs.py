"""Grades huggingface/configs.py: config.json in both directions, and what we cannot express."""

from dataclasses import asdict, replace

import pytest

from minilm.huggingface.configs import LAYOUTS, check_value, from_model_config, to_model_config
from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError

PRE = dict(norm="pre", embedding_norm=False, final_norm=True)
LLAMA = dict(vocab_size=32000, n_decoder_layer=32, d_model=4096, n_head=32, n_kv_head=None, d_ff=11008)
LLAMA |= dict(max_positions=2048, rope_theta=10000, norm_eps=1e-6, tie_embeddings=False)
BLENDERBOT = dict(vocab_size=8008, n_encoder_layer=2, n_decoder_layer=24, d_model=2560, n_head=32, d_ff=10240)
PUBLISHED = {
    "bert": asdict(PRESETS["bert-base"]),
    "roberta": dict(vocab_size=50265),
    "megatron-bert": dict(vocab_size=29056, d_model=1024) | PRE,
    "distilbert": asdict(PRESETS["distilbert"]),
    "gpt2": asdict(PRESETS["gpt2"]),
    "bart": asdict(PRESETS["bart-large"]) | dict(attention_dropout=0.0),
    "blenderbot": BLENDERBOT | PRE | dict(max_positions=128, position_offset=0),
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA | dict(biases="qkv"),
    "qwen3": LLAMA | dict(qk_norm=True, d_head=128),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_is_missing_is_as_in_the_published_model(kind):
    found = asdict(to_model_config({"model_type": kind}, "x"))
    assert {field: found[field] for field in PUBLISHED[kind]} == PUBLISHED[kind]


def test_roberta_counts_positions_from_the_padding():
    values = {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1}
    config = to_model_config(values, "x")
    assert (config.position_offset, config.max_positions, config.n_segments) == (2, 512, 0)
    assert not config.pooler and not config.next_sentence
    assert to_model_config(values | {"pad_token_id": 5}, "x").max_positions == 508
    assert to_model_config(values, "x", {"pooler"}).pooler


def test_what_the_weights_tell():
    assert to_model_config({"model_type": "bart"}, "x", {"final_logits_bias"}).head_bias
    assert not to_model_config({"model_type": "bart"}, "x").head_bias
    assert to_model_config({"model_type": "gpt2", "n_embd": 24}, "x").d_ff == 96, "no n_inner: four times"


@pytest.mark.parametrize("kind", LAYOUTS)
def test_there_and_back(kind):
    values = {"model_type": kind} | ({"n_inner": 3072} if kind == "gpt2" else {})
    config = to_model_config(values, "x")
    config = replace(config, d_model=24, n_head=3, d_ff=50, attention_dropout=0.25, init_std=0.5)
    if "dropout" in LAYOUTS[kind].keys:
        config = replace(config, dropout=0.125)
    if kind in ("llama", "mistral", "qwen2", "qwen3"):
        config = replace(config, n_kv_head=1, d_head=10, rope_theta=7.0)
        plain = from_model_config(replace(config, n_kv_head=None, d_head=None), kind)
        assert (plain["num_key_value_heads"], plain["head_dim"]) == (3, 8), "none is no number there"
    assert to_model_config(from_model_config(config, kind), "x") == config
    tanh = replace(config, activation="gelu_tanh")
    if kind != "roberta":
        assert to_model_config(from_model_config(tanh, kind), "x") == tanh


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_has_no_field_of_ours_is_written_too(kind):
    config = replace(to_model_config({"model_type": kind}, "x"), n_segments=0, dropout=0.25)
    written = from_model_config(config, kind)
    more = {key: value for key, value in written.items() if key not in LAYOUTS[kind].keys.values()}
    expected = dict(model_type=kind, architectures=[LAYOUTS[kind].architecture], dtype="float32")
    if kind == "gpt2":
        expected |= dict(embd_pdrop=0.25)
    if kind in ("bart", "blenderbot"):
        names = dict(decoder_attention_heads=config.n_head, decoder_ffn_dim=config.d_ff)
        expected |= names | dict(is_encoder_decoder=True)
    assert more == expected
    if kind in ("bert", "roberta", "megatron-bert"):
        assert written["type_vocab_size"] == 1, "without segments there is one, of zeros"
        assert written["max_position_embeddings"] == config.max_positions + config.position_offset


def test_a_deviation_that_the_width_sets_is_written_out():
    config = replace(PRESETS["gpt2"], init_std=None, d_model=64, n_head=2)
    assert from_model_config(config, "gpt2")["initializer_range"] == pytest.approx(0.55 / 8)


@pytest.mark.parametrize(("kind", "values", "message"), [
    ("opt", {}, r"model_type 'opt' is not supported.*; expected bert, roberta, megatron-bert, .*bart"),
    ("llama", dict(rope_scaling=dict(rope_type="llama3", factor=8.0)), "rope_type is 'llama3', and only"),
    ("llama", dict(rope_scaling=dict(type="linear", factor=2.0)), "type is 'linear', and only 'default'"),
    ("llama", dict(rope_parameters=dict(partial_rotary_factor=0.5)), "partial_rotary_factor is 0.5"),
    ("llama", dict(rope_scaling="llama3"), "'rope_scaling' is 'llama3', expected"),
    ("llama", dict(attention_bias=True), "attention_bias is True, and only False"),
    ("llama", dict(quantization_config=dict(bits=4)), "quantization_config is {'bits': 4}"),
    ("mistral", dict(sliding_window=4096), "sliding_window is 4096, and only None"),
    ("qwen2", dict(use_sliding_window=True), "use_sliding_window is True, and only False"),
    ("qwen2", dict(num_key_value_heads=5), "x: --n-kv-head 5 does not divide --n-head 32"),
    ("brt", {}, r"x: model_type 'brt' is not supported \(did you mean 'bert'\?\); expected bert, "),
    (None, {}, "model_type None"),
    ("bert", dict(hidden_act="swish2"), "hidden_act 'swish2' is not supported.*; expected relu, gelu"),
    ("bert", dict(hidden_act=None), "hidden_act None"),
    ("bert", dict(position_embedding_type="relative_key"), "position_embedding_type is 'relative_key'"),
    ("bert", dict(is_decoder=True), "is_decoder is True, and only False"),
    ("bert", dict(hidden_size="768"), "'hidden_size' is '768', expected integer"),
    ("bert", dict(num_hidden_layers=True), "'num_hidden_layers' is True"),
    ("bert", dict(num_attention_heads=7), "x: --d-model 768 is no multiple of --n-head 7: try .* 770"),
    ("roberta", dict(hidden_act="relu"), "RoBERTa's head always has gelu"),
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", dict(n_inner=3.5), "'n_inner' is 3.5"),
    ("gpt2", dict(n_embd=None), "'n_embd' is None, expected integer"),
    ("bart", dict(tie_word_embeddings=False), "tie_word_embeddings is False"),
    ("bart", dict(encoder_ffn_dim=8, decoder_ffn_dim=9), "coder_ffn_dim is 9 and encoder_ffn_dim is not"),
])  # fmt: skip
def test_what_cannot_be_expressed_is_named(kind, values, message):
    with pytest.raises(UserError, match=message):
        to_model_config({"model_type": kind} | values, "x")


@pytest.mark.parametrize("key", ["rope_theta", "rope_parameters", "rope_scaling"])
def test_how_fast_a_rotation_turns_stands_in_several_places(key):
    theta = {"rope_theta": 5e5}
    values = {"model_type": "llama"} | (theta if key == "rope_theta" else {key: theta})
    assert to_model_config(values, "x").rope_theta == 5e5


def test_a_value_becomes_that_of_our_field():
    assert check_value("x", "hidden_act", "activation", "gelu_new") == "gelu_tanh"
    assert check_value("x", "dropout", "dropout", 0) == 0, "a whole number is a fine share"


WRITTEN = dict(
    bert=dict(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    | dict(pruned_heads={}),
    distilbert=dict(pruned_heads={}),
    gpt2=dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False),
    bart=dict(tie_word_embeddings=True, is_decoder=False, add_bias_logits=False, normalize_before=False)
    | dict(normalize_embedding=True, add_final_layer_norm=False, static_position_embeddings=False)
    | dict(extra_pos_embeddings=2),
    blenderbot=dict(tie_word_embeddings=True, is_decoder=False, normalize_before=True)
    | dict(normalize_embedding=False, add_final_layer_norm=True),
    llama=dict(rope_scaling=dict(rope_type="default", type="default", partial_rotary_factor=1.0))
    | dict(attention_bias=False, mlp_bias=False, quantization_config=None),
    mistral=dict(sliding_window=None),
    qwen2=dict(use_sliding_window=False, sliding_window=4096),
)


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_transformers_writes_by_itself_is_no_obstacle(kind):
    plain = to_model_config({"model_type": kind}, "x")
    assert to_model_config({"model_type": kind} | WRITTEN[kind], "x") == plain
