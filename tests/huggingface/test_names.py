"""Grades huggingface/names.py: every weight of ours has one name there."""

from dataclasses import replace

import pytest

from minilm.huggingface.configs import LAYOUTS
from minilm.huggingface.names import BUFFERS, NAMES, Names, columns, their_name
from minilm.model.transformer import build

SIZES = dict(vocab_size=7, d_model=4, n_head=2, d_ff=6, max_positions=5)


@pytest.mark.parametrize("kind", NAMES)
def test_each_weight_has_a_name_of_its_own(kind):
    default = LAYOUTS[kind].default
    # BART's kind has a bias at the end and always ties; elsewhere an untied head has one weight more
    other = dict(head_bias=True) if default.kind == "encoder-decoder" else dict(tie_embeddings=False)
    ours = list(build(replace(default, **SIZES, **other)).state_dict())
    theirs = [their_name(name, NAMES[kind]) for name in ours]
    assert None not in theirs and len(set(theirs)) == len(theirs)
    assert set(NAMES[kind].copies.values()) <= {*theirs} | {"cls.predictions.bias"}


def test_names_by_hand():
    expected = """
        bert encoder.blocks.11.self_attention.k.bias bert.encoder.layer.11.attention.self.key.bias
        bert pooler.weight bert.pooler.dense.weight
        megatron-bert encoder.blocks.0.feed_forward_norm.bias bert.encoder.layer.0.ln.bias
        roberta encoder.blocks.3.feed_forward.down.weight roberta.encoder.layer.3.output.dense.weight
        roberta vocabulary.bias lm_head.bias
        distilbert encoder.blocks.1.feed_forward.up.weight distilbert.transformer.layer.1.ffn.lin1.weight
        gpt2 decoder.blocks.1.feed_forward.up.weight transformer.h.1.mlp.c_fc.weight
        gpt2 tokens.weight transformer.wte.weight
        bart decoder.blocks.2.cross_attention.v.weight model.decoder.layers.2.encoder_attn.v_proj.weight
        blenderbot decoder.norm.bias model.decoder.layer_norm.bias
        llama decoder.blocks.10.feed_forward.gate.weight model.layers.10.mlp.gate_proj.weight
        llama decoder.norm.weight model.norm.weight
        qwen2 decoder.blocks.0.self_attention.k.bias model.layers.0.self_attn.k_proj.bias
        qwen3 decoder.blocks.1.self_attention.k_norm.weight model.layers.1.self_attn.k_norm.weight
    """
    for line in expected.strip().splitlines():
        kind, ours, theirs = line.split()
        assert their_name(ours, NAMES[kind]) == theirs
    assert their_name("pooler.weight", NAMES["gpt2"]) is None


def test_tables():
    assert columns("a x -\nb.c y.z w\n") == [{"a": "x", "b.c": "y.z"}, {"b.c": "w"}]
    tables = {"tokens": "t"}, {"encoder": "layers"}, {"q": "query"}, {"head": "cls"}
    made = Names("p.", *tables, "a", "b.decoder")
    table = {"tokens": "p.t", "encoder.blocks.{i}.q": "p.layers.{i}.query", "head": "cls"}
    copies = {"a.weight": "p.t.weight", "b.decoder.weight": "p.t.weight", "b.decoder.bias": "b.bias"}
    assert (made.table, made.prefix, made.copies) == (table, "p.", copies)


def test_buffers():
    for name in ("h.0.attn.bias", "transformer.h.11.attn.masked_bias", "model.encoder.version"):
        assert BUFFERS.fullmatch(name), name
    assert BUFFERS.fullmatch("model.layers.3.self_attn.rotary_emb.inv_freq")
    for name in ("h.0.attn.c_attn.bias", "decoder.layers.0.self_attn.q_proj.bias", "lm_head.bias"):
        assert not BUFFERS.fullmatch(name), name
