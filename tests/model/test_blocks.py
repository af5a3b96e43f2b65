"""Grades the parts of model/blocks.py against the papers' formulas and PyTorch's own layers.

The stack: test_transformer_stack.py.

Sizes are unequal everywhere, so that a swapped axis fails.
"""

import math

import pytest
import torch
from torch import nn

from minilm.model.attention import BLOCKED
from minilm.model.blocks import (
    ACTIVATIONS,
    Block,
    BlockCache,
    Embeddings,
    FeedForward,
    Stack,
    padding_bias,
    sinusoidal_positions,
    token_positions,
)
from minilm.model.config import ModelConfig

B, T, S, D, H, D_FF = 2, 5, 7, 12, 3, 20
LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = LEFT.flip(1)


def config(**fields) -> ModelConfig:
    small = dict(vocab_size=30, n_encoder_layer=2, n_decoder_layer=2, d_model=D, n_head=H, d_ff=D_FF)
    return ModelConfig(**(small | dict(max_positions=9, dropout=0.0, attention_dropout=0.0) | fields))


def randomise(module: nn.Module) -> nn.Module:
    """Give every parameter a value of its own: a norm or bias that is left out must show."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module


@pytest.mark.parametrize("d_model", [6, 7])
def test_sinusoids_follow_the_formula_of_the_paper(d_model):
    table = sinusoidal_positions(11, d_model)
    assert table.shape == (11, d_model) and table.dtype == torch.float32
    for position in range(11):
        for column in range(d_model):
            i = column // 2
            angle = position / 10000 ** (2 * i / d_model)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6), (position, column)


@pytest.mark.parametrize("row", [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [1] * 6])
@pytest.mark.parametrize("n_query", [6, 2, 1])
def test_positions_count_the_real_tokens(row, n_query):
    mask = torch.tensor([row, [1] * 6])
    found = token_positions(mask, n_query, 6 - n_query, mask.device)
    assert found.shape == (2, n_query)
    assert (found >= 0).all(), "no row of the table comes before row 0"
    for s in range(6 - n_query, 6):
        assert found[1, s - 6] == s
        if row[s]:
            assert found[0, s - 6] == sum(row[:s]), (
                "a token's position is the number of real tokens before it"
            )


def test_positions_without_a_mask_go_on_after_the_past():
    assert token_positions(None, 3, 4, "cpu").tolist() == [4, 5, 6]


def embed(part: Embeddings, positions: list, segments=None) -> tuple[torch.Tensor, torch.Tensor]:
    """The token vectors that went in and what came out."""
    vectors = torch.randn(B, len(positions), D)
    return vectors, part(vectors, torch.tensor(positions), segments)


@pytest.mark.parametrize("offset", [0, 2])
def test_learned_positions_are_rows_of_the_table(offset):
    part = Embeddings(config(position_offset=offset))
    vectors, x = embed(part, [0, 3, 8])
    assert part.position.weight.shape == (9 + offset, D), "max_positions rows, and the unused ones before"
    assert torch.allclose(x, vectors + part.position.weight[[offset, 3 + offset, 8 + offset]])


@pytest.mark.parametrize("offset", [0, 2])
def test_sinusoidal_positions_are_rows_of_the_table(offset):
    part = Embeddings(config(positions="sinusoidal", position_offset=offset))
    vectors, x = embed(part, [0, 3, 8])
    assert torch.allclose(x, vectors + sinusoidal_positions(20, D)[[offset, 3 + offset, 8 + offset]])
    assert not list(part.parameters()) and not part.state_dict(), "the table is computed: nothing to save"


def test_alibi_adds_nothing_to_the_embeddings():
    vectors, x = embed(Embeddings(config(positions="alibi")), [0, 1, 2])
    assert torch.equal(x, vectors)


def test_each_row_has_its_own_positions():
    part = Embeddings(config())
    vectors, positions = torch.randn(B, 3, D), torch.tensor([[0, 0, 1], [4, 5, 6]])
    assert torch.allclose(part(vectors, positions, None), vectors + part.position.weight[positions])


def test_scale_is_the_root_of_the_width_and_touches_the_tokens_only():
    part = Embeddings(config(scale_embeddings=True))
    vectors, x = embed(part, [1, 2])
    assert torch.allclose(x, vectors * math.sqrt(D) + part.position.weight[[1, 2]])


def test_segments_are_added_and_default_to_text_a():
    part = Embeddings(config(positions="alibi", n_segments=2))
    segments = torch.tensor([[0, 0, 1], [0, 1, 1]])
    vectors, x = embed(part, [0, 1, 2], segments)
    assert torch.allclose(x, vectors + part.segment.weight[segments])
    vectors, x = embed(part, [0, 1, 2])
    assert torch.allclose(x, vectors + part.segment.weight[0]), "a single text is text A"


def test_norm_comes_last_and_is_the_layer_norm():
    part = randomise(Embeddings(config(embedding_norm=True, n_segments=2, norm_eps=0.3)))
    vectors, x = embed(part, [0, 1])
    plain = vectors + part.position.weight[:2] + part.segment.weight[0]
    centred = plain - plain.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.3).sqrt()
    assert torch.allclose(x, expected * part.norm.weight + part.norm.bias, atol=1e-5)


def share_of_zeros(x: torch.Tensor, share: float) -> bool:
    """Is the share of zeros in x within five standard deviations of `share`?"""
    return abs((x == 0).sum().item() - share * x.numel()) < 5 * math.sqrt(x.numel() * share * (1 - share))


def test_embeddings_drop_their_share_in_training_only():
    part, ones = Embeddings(config(positions="alibi", dropout=0.3)), torch.ones(20, 40, D)
    x = part(ones, torch.arange(40), None)
    assert share_of_zeros(x, 0.3), f"{(x == 0).float().mean():.3f} dropped, not 0.3"
    assert torch.allclose(x[x != 0], torch.tensor(1 / 0.7)), "what stays is divided by 1 - share"
    assert torch.equal(part.eval()(ones, torch.arange(40), None), ones)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_follow_their_formulas(name):
    formula = {
        "relu": lambda x: max(0.0, x),
        "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    }[name]
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    expected = torch.tensor([formula(value) for value in x.tolist()], dtype=torch.float64)
    assert (ACTIVATIONS[name](x) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_is_two_layers_with_a_bend(activation):
    part = randomise(FeedForward(config(activation=activation)))
    assert part.up.weight.shape == (D_FF, D) and part.down.weight.shape == (D, D_FF)
    x = torch.randn(B, T, D)
    inner = ACTIVATIONS[activation](x @ part.up.weight.T + part.up.bias)
    assert torch.allclose(part(x), inner @ part.down.weight.T + part.down.bias, atol=1e-5)


def test_norm_stands_where_the_papers_put_it():
    x, norm, part = torch.randn(B, T, D), randomise(nn.LayerNorm(D)), nn.Linear(D, D)
    post, pre = (Block(config(norm=kind), cross=False) for kind in ("post", "pre"))
    assert torch.allclose(post.add(x, part, norm), norm(x + part(x))), (
        "Vaswani et al. 2017: LayerNorm(x + part(x))"
    )
    assert torch.allclose(pre.add(x, part, norm), x + part(norm(x))), (
        "Radford et al. 2019: x + part(LayerNorm(x))"
    )


def test_dropout_falls_on_the_part_and_not_on_the_stream():
    x, one = torch.full((20, 40, D), 3.0), torch.ones(20, 40, D)
    block = Block(config(norm="pre", dropout=0.3), cross=False)
    added = block.add(x, lambda h: one, nn.Identity()) - x
    assert share_of_zeros(added, 0.3)
    assert torch.allclose(added[added != 0], torch.tensor(1 / 0.7))
    assert torch.equal(block.eval().add(x, lambda h: one, nn.Identity()), x + one)


def copy_attention(ours, theirs) -> None:
    for layer, weight, bias in zip(
        (ours.q, ours.k, ours.v), theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True
    ):
        layer.weight.data.copy_(weight.data)
        layer.bias.data.copy_(bias.data)
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def copy_block(ours: Block, theirs) -> None:
    """Copy a torch.nn.Transformer{Encoder,Decoder}Layer's weights into our block."""
    copy_attention(ours.self_attention, theirs.self_attn)
    norms = [ours.self_attention_norm, ours.cross_attention_norm, ours.feed_forward_norm]
    if ours.cross_attention is not None:
        copy_attention(ours.cross_attention, theirs.multihead_attn)
    for i, norm in enumerate([norm for norm in norms if norm is not None], start=1):
        norm.load_state_dict(getattr(theirs, f"norm{i}").state_dict())
    ours.feed_forward.up.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down.load_state_dict(theirs.linear2.state_dict())


def torch_layer(kind: type, norm: str, activation: str) -> nn.Module:
    options = dict(dropout=0.0, activation=activation, batch_first=True, norm_first=norm == "pre")
    return randomise(kind(D, H, D_FF, dtype=torch.float64, **options))


@pytest.mark.parametrize("mask", [None, LEFT, RIGHT], ids=["full", "left", "right"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_encoder_block_equals_pytorch(norm, activation, mask):
    theirs = torch_layer(nn.TransformerEncoderLayer, norm, activation)
    ours = Block(config(norm=norm, activation=activation), cross=False).double()
    copy_block(ours, theirs)
    x = torch.randn(B, T, D, dtype=torch.float64)
    expected = theirs(x, src_key_padding_mask=None if mask is None else mask == 0)
    assert (ours(x, padding_bias(mask, x.dtype), causal=False) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("mask", [None, RIGHT], ids=["full", "right"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_decoder_block_equals_pytorch(norm, activation, mask):
    theirs = torch_layer(nn.TransformerDecoderLayer, norm, activation)
    ours = Block(config(norm=norm, activation=activation), cross=True).double()
    copy_block(ours, theirs)
    x, memory = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, S, D, dtype=torch.float64)
    memory_mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1]])
    padded = None if mask is None else mask == 0
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    expected = theirs(
        x, memory, tgt_mask=later, tgt_key_padding_mask=padded, memory_key_padding_mask=memory_mask == 0
    )
    out = ours(x, padding_bias(mask, x.dtype), True, memory, padding_bias(memory_mask, x.dtype))
    assert (out - expected).abs().max() < 1e-10


def test_padding_bias():
    bias = padding_bias(LEFT, torch.float32)
    assert bias.shape == (B, 1, 1, T), "(B, 1, 1, S): the same for every head and query"
    assert bias[:, 0, 0].tolist() == [[BLOCKED, BLOCKED, 0, 0, 0], [0] * 5]
    assert padding_bias(LEFT.bool(), torch.float64).dtype == torch.float64, "a mask of booleans is good, too"
    assert padding_bias(None, torch.float32) is None


def test_block_cache_reorders_both_parts():
    cache = BlockCache(4, 3)
    for part in (cache.self_attention, cache.cross_attention):
        part.append(*torch.randn(2, B, H, 3, 4))
    before = [part.contents()[0].clone() for part in (cache.self_attention, cache.cross_attention)]
    cache.reorder(torch.tensor([1, 1]))
    for part, k in zip((cache.self_attention, cache.cross_attention), before, strict=True):
        assert torch.equal(part.contents()[0], k[[1, 1]])


@pytest.mark.parametrize("kind", ["encoder", "cross"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_stack_equals_pytorch(norm, kind):
    causal = kind == "cross"
    ours = Stack(config(norm=norm, final_norm=True), 2, causal, cross=causal).double()
    layer = torch_layer(
        nn.TransformerDecoderLayer if ours.causal else nn.TransformerEncoderLayer, norm, "gelu"
    )
    norm = nn.LayerNorm(D, dtype=torch.float64)
    if ours.causal:
        theirs = randomise(nn.TransformerDecoder(layer, 2, norm))
    else:
        theirs = randomise(nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False))
    for block, other in zip(ours.blocks, theirs.layers, strict=True):
        copy_block(block, other)
    ours.norm.load_state_dict(theirs.norm.state_dict())
    vectors, memory = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, S, D, dtype=torch.float64)
    if ours.causal:
        memory_mask = torch.tensor([[1, 1, 0, 1, 1, 1, 0], [1] * S])
        states = ours(vectors, RIGHT, memory=memory, memory_mask=memory_mask)
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        masks = dict(tgt_key_padding_mask=RIGHT == 0, memory_key_padding_mask=memory_mask == 0)
        expected = theirs(states[0], memory, tgt_mask=later, **masks)
    else:
        states = ours(vectors, RIGHT)
        expected = theirs(states[0], src_key_padding_mask=RIGHT == 0)
    assert (states[-1] - expected).abs().max() < 1e-10
