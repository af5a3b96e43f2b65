"""Grades that a model of model/transformer.py is what its config says: fields, sizes, first weights."""

import dataclasses
import math

import pytest
import torch
from mistakes import assert_right
from torch import nn
from unequal import config, inputs

from minilm.model.attention import MultiHeadAttention
from minilm.model.blocks import RMSNorm
from minilm.model.config import PRESETS, ModelConfig
from minilm.model.transformer import build, build_for_weights
from minilm.plumbing.errors import UserError

BASE = config("encoder-decoder", pooler=True, norm="post", init_std=0.3, final_norm=False)
# what of the model must change -> field -> another value of it
CHANGED = {
    "shapes": dict(vocab_size=33, n_encoder_layer=2, n_decoder_layer=1, d_model=15, d_ff=21, max_positions=12)
    | dict(n_segments=2, positions="sinusoidal", position_offset=2, embedding_norm=True, final_norm=True)
    | dict(tie_embeddings=False, head_transform=True, head_bias=True, pooler=False, next_sentence=True)
    | dict(n_kv_head=1, d_head=6, norm_kind="rms", gated=True, biases="qkv", qk_norm=True),
    "first weights": dict(init_std=None),
    "outputs": dict(n_head=4, norm="pre", activation="relu", scale_embeddings=True, norm_eps=0.5)
    | dict(rope_theta=3.0),
    "outputs in training": dict(dropout=0.4, attention_dropout=0.4),
}


def aspects(made: ModelConfig) -> dict:
    """What can be seen of a model: shapes, first weights, and outputs with weights that depend on nothing."""
    torch.manual_seed(1)
    m = build(made)
    seen = {"shapes": {name: p.shape for name, p in m.named_parameters()}}
    seen["first weights"] = torch.cat([p.detach().flatten() for p in m.parameters()])
    for p in m.parameters():
        p.data = torch.cos(torch.arange(p.numel(), dtype=torch.float32) ** 1.5).view(p.shape) / 2
    given = dict(input_ids=torch.arange(14).view(2, 7), decoder_input_ids=torch.arange(10).view(2, 5))
    seen["outputs"] = m.eval()(**given).detach()
    torch.manual_seed(2)
    seen["outputs in training"] = m.train()(**given).detach()
    return seen


def differs(one, other) -> bool:
    """Whether two aspects of a model differ."""
    if isinstance(one, dict):
        return one != other
    return one.shape != other.shape or not torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ModelConfig)])
def test_every_field_of_the_config_changes_the_model(field):
    what = next((what for what, fields in CHANGED.items() if field in fields), None)
    assert what, f"a new field: say in CHANGED what of the model {field!r} must change"
    value = CHANGED[what][field]
    base = dataclasses.replace(BASE, positions="rope") if field == "rope_theta" else BASE
    assert getattr(base, field) != value
    before, after = aspects(base), aspects(dataclasses.replace(base, **{field: value}))
    assert differs(before[what], after[what]), f"no line of the model reads {field!r}"
    if what == "outputs in training":
        assert not differs(before["outputs"], after["outputs"]), f"{field!r} must act in training only"


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_every_norm_and_dropout_takes_its_number_from_the_config(kind):
    fields = dict(embedding_norm=True, final_norm=True, head_transform=True, norm_eps=0.01, norm_kind=kind)
    m = build(config("encoder-decoder", **fields, dropout=0.2, attention_dropout=0.3))
    for name, module in m.named_modules():
        if name.endswith("norm") and name[-6:] not in ("q_norm", "k_norm"):  # which qk_norm asks for
            assert type(module) is {"layer": nn.LayerNorm, "rms": RMSNorm}[kind], f"{name}: norm_kind"
            assert module.eps == 0.01, f"{name}: norm_eps"
        elif isinstance(module, nn.Dropout):
            assert module.p == 0.2, f"{name}: dropout"
        elif isinstance(module, MultiHeadAttention):
            assert module.dropout == 0.3, f"{name}: attention_dropout"


def test_the_aspects_of_a_model_do_not_change_by_themselves():
    before, after = aspects(BASE), aspects(BASE)
    assert not any(differs(before[what], after[what]) for what in before)


# Parameters with the pre-training heads, and without them (the pooler stays).
PARAMETERS = {
    "bert-base": (110_106_428, 109_482_240),
    "bert-large": (336_226_108, 335_141_888),
    "distilbert": (66_985_530, 66_362_880),
    "gpt2": (124_439_808, 124_439_808),
    "gpt2-medium": (354_823_168, 354_823_168),
    "gpt2-large": (774_030_080, 774_030_080),
    "gpt2-xl": (1_557_611_200, 1_557_611_200),
    "bart-base": (139_420_416, 139_420_416),
    "bart-large": (406_291_456, 406_291_456),
    # The paper prints 65 and 213 million, without saying what it counts; these follow from its sizes.
    "transformer-base": (63_082_496, 63_082_496),
    "transformer-big": (214_245_376, 214_245_376),
    "smollm2-135m": (134_515_008, 134_515_008),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_have_the_published_number_of_parameters(name):
    with torch.device("meta"):  # shapes without memory
        m = build(PRESETS[name])
    heads = ("vocabulary.", "next_sentence.")
    body = sum(p.numel() for name, p in m.named_parameters() if not name.startswith(heads))
    assert (m.n_parameters(), body) == PARAMETERS[name]


@pytest.mark.parametrize(("biases", "expected"), [("all", "qkvoudg"), ("qkv", "qkv"), ("none", "")])
def test_which_layers_of_a_block_have_a_bias(biases, expected):
    m = build(config("decoder", biases=biases, gated=True, norm_kind="rms"))
    found = {name.split(".")[-2][0] for name, _ in m.decoder.blocks.named_parameters() if "bias" in name}
    assert found == {*expected}, "q, k, v, out, up, down, gate"


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_residual_outputs_are_divided_by_the_root_of_the_additions(kind):
    m = build(config(kind, norm="pre", n_decoder_layer=3))
    for p in m.parameters():
        nn.init.ones_(p)
    m.shrink_residual_outputs()
    parts = dict(encoder=2, decoder=2 if kind == "decoder" else 3)
    blocks = {stack: len(getattr(m, stack).blocks) for stack in parts if getattr(m, stack)}
    for name, p in m.named_parameters():
        stack, adds = name.split(".")[0], name.endswith(("attention.out.weight", "down.weight"))
        n_part, n_block = parts.get(stack, 1), blocks.get(stack, 1)
        n = n_part * n_block
        mistakes = {
            "it is not changed: attention and feed-forward both add to the stream": 1.0,
            "it is divided by the number of additions, not by its square root": 1 / n,
            "the additions of one block are counted, not those of the whole stack": n_part**-0.5,
            "the blocks are counted, not their additions: each block has several": n_block**-0.5,
            "the feed-forward part is not counted": (max(1, n_part - 1) * n_block) ** -0.5,
            "both stacks are counted together": sum(parts[each] * n for each, n in blocks.items()) ** -0.5,
            "the blocks of both stacks are counted together": (n_part * sum(blocks.values())) ** -0.5,
            "a block's cross-attention is not counted": (2 * n_block) ** -0.5,
            "it is multiplied by the square root": n**0.5,
        }
        if not adds:
            mistakes = {"it is divided too, but adds nothing to the stream": p.flatten()[0].item()}
        right = n**-0.5 if adds else 1.0
        assert_right(p.flatten()[0].item(), right, mistakes, what=name)
    m = build(config(kind, norm="post"))
    before = [p.clone() for p in m.parameters()]
    m.shrink_residual_outputs()
    assert all(map(torch.equal, before, m.parameters())), "a post-norm model must not be changed"


@pytest.mark.parametrize(("init_std", "expected"), [(0.02, 0.02), (None, 0.55 / math.sqrt(96)), (0.3, 0.3)])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_first_weights_have_their_deviation(norm, init_std, expected):
    """What a pre-norm block adds starts smaller, by the root of the number of additions (GPT-2's rule)."""
    fields = dict(d_model=96, d_ff=200, vocab_size=500, max_positions=80, pooler=True, n_segments=2)
    m = build(config("encoder-decoder", **fields, tie_embeddings=False, norm=norm, init_std=init_std))
    n_additions = {"encoder": 2 * 1, "decoder": 3 * 2}  # parts of a block times blocks
    for name, p in m.named_parameters():
        if p.dim() == 1:
            assert (p == ("norm" in name and name.endswith("weight"))).all(), f"{name}: biases 0, norms 1"
            continue
        std = expected
        if norm == "pre" and name.endswith(("attention.out.weight", "down.weight")):
            std = expected / math.sqrt(n_additions[name.split(".")[0]])
        error = 5 * std / math.sqrt(2 * p.numel())  # of the deviation of so many draws
        assert abs(p.std().item() - std) < error, f"{name}: deviation {p.std():.4f}, not {std:.4f}"
        assert abs(p.mean().item()) < 5 * std / math.sqrt(p.numel()), f"{name}: mean {p.mean():.4f}, not 0"


def test_a_model_that_gets_its_numbers_from_a_file_draws_none():
    small = config("encoder-decoder", positions="sinusoidal", n_segments=2)
    given = build(small).state_dict()
    state = torch.get_rng_state()
    empty = build_for_weights(small, given, "x")
    assert torch.equal(state, torch.get_rng_state()), "do not draw weights that are replaced at once"
    empty.load_state_dict(given)
    drawn, asked = build(small), inputs("encoder-decoder")
    assert not torch.equal(drawn.tokens.weight, empty.tokens.weight), "others draw"
    drawn.load_state_dict(given)
    told = "what no file has is computed all the same"
    assert torch.equal(empty.eval()(**asked), drawn.eval()(**asked)), told


@pytest.mark.parametrize(
    "field", ["n_decoder_layer", "d_ff", "vocab_size", "max_positions", "position_offset"]
)
def test_a_model_far_larger_than_its_weights_is_refused_before_it_is_made(field):
    given = build(config("decoder")).state_dict()
    huge = config("decoder", **dict(positions="sinusoidal") | {field: 10**9})
    with pytest.raises(UserError, match="x: describes a model far larger than the weights beside it"):
        build_for_weights(huge, given, "x")


# the vocabulary with which a model of 8 positions, 2 blocks, D 6, H 3, F 5 has 1,000,020 weights and no more
@pytest.mark.parametrize(
    ("fields", "most"),
    [(dict(), 166_618), (dict(d_head=4), 166_594), (dict(positions="sinusoidal"), 166_626)],
)
def test_a_million_numbers_more_than_twice_the_weights_are_made(fields, most):
    """Heads and older parts may be missing: a small model is made whatever stands beside it."""
    sizes = dict(n_decoder_layer=2, d_model=6, n_head=3, d_ff=5, max_positions=8) | fields
    given = {"a": torch.zeros(7), "b": torch.zeros(3)}
    made = build_for_weights(ModelConfig(**sizes, vocab_size=most), given, "x")
    assert made.tokens.weight.shape == (most, 6), "vectors of tokens and positions, q, out, up and down"
    with pytest.raises(UserError, match="far larger"):
        build_for_weights(ModelConfig(**sizes, vocab_size=most + 1), given, "x")
