"""Grades huggingface/configs.py: config.json in both directions, and what we cannot express."""

from dataclasses import replace

import pytest

from minilm.huggingface.configs import LAYOUTS, check_value, choice, from_model_config, to_model_config
from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError


def test_what_is_missing_is_as_in_the_published_model():
    names = dict(bert="bert-base", distilbert="distilbert", gpt2="gpt2", bart="bart-large")
    for kind, name in names.items():
        changes = dict(attention_dropout=0.0) if kind == "bart" else {}
        assert to_model_config({"model_type": kind}, "x") == replace(PRESETS[name], **changes)


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
    config = replace(config, d_model=24, n_head=3, d_ff=50, dropout=0.25, init_std=0.5)
    assert to_model_config(from_model_config(config, kind), "x") == config
    assert from_model_config(config, kind)["architectures"] == [LAYOUTS[kind].architecture]
    tanh = replace(config, activation="gelu_tanh")
    if kind != "roberta":
        assert to_model_config(from_model_config(tanh, kind), "x") == tanh


def test_a_deviation_that_the_width_sets_is_written_out():
    config = replace(PRESETS["gpt2"], init_std=None, d_model=64, n_head=2)
    assert from_model_config(config, "gpt2")["initializer_range"] == pytest.approx(0.55 / 8)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("llama", {}, r"model_type 'llama' is none of ours.*: bert, roberta, megatron-bert, .*bart"),
        ("brt", {}, r"did you mean 'bert'"),
        (None, {}, "model_type None"),
        ("bert", dict(hidden_act="silu"), "hidden_act 'silu' is none of ours.*: relu, gelu"),
        ("bert", dict(hidden_act=None), "hidden_act None"),
        ("bert", dict(position_embedding_type="relative_key"), "position_embedding_type is 'relative_key'"),
        ("bert", dict(is_decoder=True), "is_decoder is True, and only False"),
        ("bert", dict(hidden_size="768"), "'hidden_size' is '768', expected integer"),
        ("bert", dict(num_hidden_layers=True), "'num_hidden_layers' is True"),
        ("bert", dict(num_attention_heads=7), "x: --d-model 768 is not divisible by --n-head 7"),
        ("roberta", dict(hidden_act="relu"), "RoBERTa's head always has gelu"),
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", dict(n_inner=3.5), "'n_inner' is 3.5"),
        ("gpt2", dict(n_embd=None), "'n_embd' is None, expected integer"),
        ("bart", dict(normalize_before=True), "normalize_before is True, and only False"),
        ("bart", dict(tie_word_embeddings=False), "tie_word_embeddings is False"),
        ("bart", dict(encoder_ffn_dim=8, decoder_ffn_dim=9), "coder_ffn_dim is 9 and encoder_ffn_dim is not"),
    ],
)
def test_what_cannot_be_expressed_is_named(kind, values, message):
    with pytest.raises(UserError, match=message):
        to_model_config({"model_type": kind} | values, "x")


def test_parts():
    assert choice({"a": 1}, "key", "a", "x") == 1
    with pytest.raises(UserError, match=r"x: key 'aab' is none of ours \(did you mean 'aaa'\?\): aaa, c"):
        choice({"aaa": 1, "c": 2}, "key", "aab", "x")
    assert check_value("x", "hidden_act", "activation", "gelu_new") == "gelu_tanh"
    assert check_value("x", "dropout", "dropout", 0) == 0, "a whole number is a fine share"
