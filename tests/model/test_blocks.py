"""Grades the parts of model/blocks.py against the papers' formulas and PyTorch's own layers.

The stack: test_blocks_stack.py. Sizes are unequal everywhere, so that a swapped axis fails.
"""

import math
import pickle

import pytest
import torch
from mistakes import assert_learns, assert_right, unchanged
from small import within_5_sigma
from torch import nn
from unequal import POSITIONS, B, D, F, H, S, T, config, randomise

from minilm.model import blocks
from minilm.model.attention import BLOCKED
from minilm.model.config import ModelConfig
from minilm.model.transformer import build

LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = LEFT.flip(1)
LATER = torch.ones(T, T, dtype=torch.bool).triu(1)
MEMORY_MASK = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize("d_model", [6, 7])
def test_sinusoids_follow_the_formula_of_the_paper(d_model):
    table = blocks.sinusoidal_positions(11, d_model)
    right = torch.zeros(11, d_model)
    for position in range(11):
        for column in range(d_model):
            i = column // 2
            angle = position / 10000 ** (2 * i / d_model)
            right[position, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)

    def wrong(power=2.0, base=10000.0, sine=torch.sin, cosine=torch.cos, first=0):
        pair = torch.arange((d_model + 1) // 2, dtype=torch.float64)
        angle = (torch.arange(11) + first)[:, None] * base ** (-power * pair / d_model)
        return torch.stack([sine(angle), cosine(angle)], -1).flatten(1)[:, :d_model]

    each_its_own = right.clone()
    for column in range(1, d_model, 2):
        each_its_own[:, column] = torch.cos(torch.arange(11) / 10000 ** (column / d_model))
    mistakes = {
        "sines and cosines are swapped": wrong(sine=torch.cos, cosine=torch.sin),
        "all sines come before all cosines": torch.cat([right[:, 0::2], right[:, 1::2]], 1),
        "every column holds a sine": wrong(cosine=torch.sin),
        "the exponent is i / D, not 2i / D": wrong(power=1.0),
        "the exponent is 4i / D: an even column has the number 2i, not i": wrong(power=4.0),
        "each column has its own angle: columns 2i and 2i + 1 must share one": each_its_own,
        "the wavelengths shrink from column to column: the exponent's minus is missing": wrong(power=-2.0),
        "the first position is 1, not 0": wrong(first=1),
        "the base is 1000, not 10000": wrong(base=1000.0),
    }
    assert_right(table, right, mistakes, 0, 1e-5, ("position", "column"))
    assert table.dtype == torch.float32, f"the table is {table.dtype}, not torch.float32"


@pytest.mark.parametrize("row", [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [1] * 6])
@pytest.mark.parametrize("n_query", [6, 2, 1])
def test_positions_count_the_real_tokens(row, n_query):
    mask = torch.tensor([row, [1] * 6])
    found = blocks.token_positions(mask, n_query, 6 - n_query, mask.device)
    assert found.shape == (2, n_query)
    assert (found >= 0).all(), "no row of the table comes before row 0"
    for s in range(6 - n_query, 6):
        assert found[1, s - 6] == s, "where nothing is padded, positions count from 0"
        if row[s]:
            assert found[0, s - 6] == sum(row[:s]), "a position is the number of real tokens before it"
    assert blocks.token_positions(None, 3, 4, "cpu").tolist() == [4, 5, 6], "without a mask: after the past"


def test_padding_bias():
    bias = blocks.padding_bias(LEFT, torch.float32)
    assert bias.shape == (B, 1, 1, T), "(B, 1, 1, S): the same for every head and query"
    told = "0 for a real token, BLOCKED for padding"
    assert bias[:, 0, 0].tolist() == [[BLOCKED, BLOCKED, 0, 0, 0], [0] * 5], told
    assert blocks.padding_bias(LEFT.bool(), torch.float64).dtype == torch.float64, "booleans are allowed too"
    assert blocks.padding_bias(None, torch.float32) is None


def embed(part: blocks.InputRepresentation, positions: list, segments=None) -> tuple:
    """The token vectors that went in and what came out."""
    vectors = torch.randn(B, len(positions), D)
    return vectors, part(vectors, torch.tensor(positions), segments)


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("positions", POSITIONS)
def test_positions_are_rows_of_the_table(positions, offset):
    part = blocks.InputRepresentation(config(positions=positions, position_offset=offset))
    vectors, x = embed(part, [0, 3, 8])
    if positions == "learned":
        assert part.position.weight.shape == (10 + offset, D), "max_positions rows, unused ones before"
        table = part.position.weight
        each = torch.tensor([[0, 0, 1], [4, 5, 6]])
        told = "add row position + offset of the table, for each row of the batch its own positions"
        assert torch.allclose(part(vectors, each, None), vectors + table[each + offset]), told
    else:
        assert not part.state_dict(), "nothing to save: the table is computed, or there is none"
        table = blocks.sinusoidal_positions(20, D) * (positions == "sinusoidal")  # ALiBi adds nothing here
    told = "add row position + offset of the table; with ALiBi or a rotation, nothing"
    assert torch.allclose(x, vectors + table[[offset, 3 + offset, 8 + offset]]), told


@pytest.mark.parametrize("width", [1, 4, D])
def test_scale_is_the_root_of_the_width_and_touches_the_tokens_only(width):
    part = blocks.InputRepresentation(config(scale_embeddings=True, d_model=width, n_head=1))
    vectors = torch.randn(B, 2, width)
    expected = vectors * math.sqrt(width) + part.position.weight[[1, 2]]
    told = "token vectors * sqrt(D) + positions: only the tokens are scaled"
    assert torch.allclose(part(vectors, torch.tensor([1, 2]), None), expected), told


def test_segments_are_added_and_default_to_text_a():
    part = blocks.InputRepresentation(config(positions="alibi", n_segments=2))
    segments = torch.tensor([[0, 0, 1], [0, 1, 1]])
    vectors, x = embed(part, [0, 1, 2], segments)
    assert torch.allclose(x, vectors + part.segment.weight[segments])
    vectors, x = embed(part, [0, 1, 2])
    assert torch.allclose(x, vectors + part.segment.weight[0]), "a single text is text A"


def test_norm_comes_last_and_is_the_layer_norm():
    part = randomise(blocks.InputRepresentation(config(embedding_norm=True, n_segments=2, norm_eps=0.3)))
    vectors, x = embed(part, [0, 1])
    plain = vectors + part.position.weight[:2] + part.segment.weight[0]
    centred = plain - plain.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.3).sqrt()
    assert torch.allclose(x, expected * part.norm.weight + part.norm.bias, atol=1e-5)


def drops(x: torch.Tensor, share: float, kept: float) -> bool:
    """Is the share of zeros as asked, and the rest divided by 1 - share?"""
    near = within_5_sigma((x == 0).sum().item(), x.numel(), share)
    return near and torch.allclose(x[x != 0], torch.tensor(kept / (1 - share)))


def test_the_input_drops_its_share_in_training_only():
    part, ones = blocks.InputRepresentation(config(positions="alibi", dropout=0.3)), torch.ones(20, 40, D)
    assert drops(part(ones, torch.arange(40), None), 0.3, 1.0)
    assert torch.equal(part.eval()(ones, torch.arange(40), None), ones)


FORMULAS = {
    "relu": lambda x: max(0.0, x),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_and_feed_forward_follow_their_formulas(name):
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](value) for value in x.tolist()], dtype=torch.float64)
    assert (blocks.ACTIVATIONS[name](x) - expected).abs().max() < 1e-12
    part, x = randomise(blocks.FeedForward(config(activation=name))), torch.randn(B, T, D)
    assert part.up.weight.shape == (F, D) and part.down.weight.shape == (D, F)
    inner = blocks.ACTIVATIONS[name](x @ part.up.weight.T + part.up.bias)
    assert torch.allclose(part(x), inner @ part.down.weight.T + part.down.bias, atol=1e-5)
    gated = randomise(blocks.FeedForward(config(activation=name, gated=True, biases="none")))
    inner = blocks.ACTIVATIONS[name](x @ gated.gate.weight.T) * (x @ gated.up.weight.T)
    assert torch.allclose(gated(x), inner @ gated.down.weight.T, atol=1e-5), "the gate is activated"


def test_rms_norm_divides_by_the_root_of_the_mean_square():
    made = ModelConfig(n_encoder_layer=1, d_model=D, n_head=1, norm_kind="rms", norm_eps=0.25)
    norm, x = randomise(blocks.new_norm(made)), 3 + torch.randn(B, T, D)
    row = x[1, 2].tolist()
    root = math.sqrt(sum(number**2 for number in row) / D + 0.25)
    expected = [w * number / root for w, number in zip(norm.weight.tolist(), row, strict=True)]
    assert norm(x)[1, 2].tolist() == pytest.approx(expected, abs=1e-5), "subtract no mean; eps is in the root"
    low = (x * 40).bfloat16()
    half, weight = norm.bfloat16()(low), norm.weight.clone()
    assert half.dtype == torch.bfloat16
    norm.weight.data.fill_(1)
    exact = low.double() / (low.double().square().mean(-1, keepdim=True) + 0.25).sqrt()
    told = "it is rounded to 8 bits once, at the end: a mean of squares in bfloat16 has two to three digits"
    assert ((norm(low) - exact) / exact).abs().max() <= 2**-7.99, told
    assert torch.equal(half, weight * norm(low)), "rounded before the weight, as in LLaMA"


def test_norm_stands_where_the_papers_put_it():
    x, norm, part = torch.randn(B, T, D), randomise(nn.LayerNorm(D)), nn.Linear(D, D)
    leaf = x.clone().requires_grad_()
    post, pre = (blocks.Block(config(norm=kind), cross=False) for kind in ("post", "pre"))
    post_norm, pre_norm = norm(leaf + part(leaf)), leaf + part(norm(leaf))
    mistakes = {
        "the output of `part` is normalised, x + norm(part(x))": x + norm(part(x)),
        "the norm of x is added, not x: norm(x) + part(norm(x))": norm(x) + part(norm(x)),
        "x is not added to the output of `part`, part(norm(x))": part(norm(x)),
        "x is not added to the output of `part`, norm(part(x))": norm(part(x)),
        "the norm is missing, x + part(x)": x + part(x),
        "there are two norms, norm(x + part(norm(x)))": norm(x + part(norm(x))),
    }
    axes = ("row", "position", "feature")
    swapped = {"a pre-norm block works as a post-norm one, norm(x + part(x))": post_norm}
    found = unchanged(pre.add, x, part, norm)
    assert_right(found, pre_norm, mistakes | swapped, axes=axes, what="pre-norm")
    assert_learns(pre.add(leaf, part, norm), pre_norm, leaf, what="pre-norm: ")
    swapped = {"a post-norm block works as a pre-norm one, x + part(norm(x))": pre_norm}
    found = post.add(leaf, part, norm)
    assert_right(found, post_norm, mistakes | swapped, axes=axes, what="post-norm")
    assert_learns(found, post_norm, leaf, what="post-norm: ")
    with_more = lambda h, factor, plus=0: factor * h + plus
    found = pre.add(x, with_more, nn.Identity(), 3, plus=7)
    assert_right(found, 4 * x + 7, axes=axes, what="a `part` with more arguments")


def test_dropout_falls_on_the_part_and_not_on_the_stream():
    x, one = torch.full((20, 40, D), 3.0), torch.ones(20, 40, D)
    block = blocks.Block(config(norm="pre", dropout=0.3), cross=False)
    out = block.add(x, lambda h: one, nn.Identity())
    assert not (out == 4).all(), "there is no dropout in training"
    assert not ((out == 0) | (out == 1)).any(), "x itself is dropped: apply dropout to the output of `part`"
    assert drops(out - x, 0.3, 1.0), "with dropout 0.3, add 0 at 30 % of the places and 1 / 0.7 at 70 %"
    assert_right(block.eval().add(x, lambda h: one, nn.Identity()), x + one, what="outside training")


# Against PyTorch


def copy_attention(ours, theirs) -> None:
    parts = zip(theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True)
    for layer, (weight, bias) in zip((ours.q, ours.k, ours.v), parts, strict=True):
        layer.weight.data.copy_(weight.data)
        layer.bias.data.copy_(bias.data)
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def copy_block(ours: blocks.Block, theirs) -> None:
    """Copy a torch.nn.Transformer{Encoder,Decoder}Layer's weights into our block."""
    copy_attention(ours.self_attention, theirs.self_attn)
    norms = [ours.self_attention_norm, ours.cross_attention_norm, ours.feed_forward_norm]
    if ours.cross_attention is not None:
        copy_attention(ours.cross_attention, theirs.multihead_attn)
    for i, norm in enumerate([norm for norm in norms if norm is not None], start=1):
        norm.load_state_dict(getattr(theirs, f"norm{i}").state_dict())
    ours.feed_forward.up.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down.load_state_dict(theirs.linear2.state_dict())


@pytest.mark.parametrize("mask", [None, LEFT, RIGHT], ids=["full", "left", "right"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("cross", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_block_equals_pytorch(norm, cross, activation, mask):
    kind = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    options = dict(dropout=0.0, activation=activation, batch_first=True, norm_first=norm == "pre")
    theirs = randomise(kind(D, H, F, dtype=torch.float64, **options))
    ours = blocks.Block(config(norm=norm, activation=activation), cross).double()
    copy_block(ours, theirs)
    x, memory = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, S, D, dtype=torch.float64)
    padded, bias = None if mask is None else mask == 0, blocks.padding_bias(mask, x.dtype)
    if cross:
        masks = dict(tgt_key_padding_mask=padded, memory_key_padding_mask=MEMORY_MASK == 0)
        expected = theirs(x, memory, tgt_mask=LATER, **masks)
        out = ours(x, bias, True, memory, blocks.padding_bias(MEMORY_MASK, x.dtype))
    else:
        expected, out = theirs(x, src_key_padding_mask=padded), ours(x, bias, False)
    read = torch.ones(B, T, dtype=torch.bool) if mask is None else mask.bool()
    told = "self-attention gets `bias` and `causal`"
    told += ", cross-attention `memory` with `memory_bias`" if cross else ""
    assert (out - expected)[read].abs().max() < 1e-10, f"{told}; then comes the feed-forward part"


@pytest.mark.parametrize("cross", [False, True], ids=["encoder", "decoder"])
def test_chosen_positions_have_the_dropout_of_all(cross):
    block, x = randomise(blocks.Block(config(norm="pre"), cross)), torch.randn(B, T, D)
    block.dropout.p = 1.0
    part = block.forward_at(slice(-2, None), x, None, cross, torch.randn(B, S, D) if cross else None, None)
    assert_right(part, x[:, -2:], what="chosen positions, all that is added to them dropped")


@pytest.mark.parametrize("activation", blocks.ACTIVATIONS)
def test_a_model_can_be_pickled_whole(activation):
    model = build(ModelConfig(n_decoder_layer=1, d_model=8, n_head=2, d_ff=12, activation=activation))
    again = pickle.loads(pickle.dumps(model))
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(again.eval()(ids), model.eval()(ids))
