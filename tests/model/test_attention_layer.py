"""Grades the layer and the cache of model/attention.py, against PyTorch's own layer and without a cache.

Sizes are unequal everywhere, so that a swapped axis fails.
"""

import pytest
import torch

from minilm.model.attention import BLOCKED, KeyValueCache, MultiHeadAttention

B, H, D_HEAD = 2, 3, 4
D = H * D_HEAD


def padding(S: int, side: str, dtype=torch.float32) -> torch.Tensor:
    """A bias (B, 1, 1, S): the first row is padded by two positions, the second is full."""
    blocked = torch.zeros(B, 1, 1, S, dtype=torch.bool)
    blocked[0, ..., : 2 if side == "left" else 0] = True
    blocked[0, ..., S - 2 if side == "right" else S :] = True
    return blocked * torch.tensor(BLOCKED, dtype=dtype)


def cache_of(*lengths: int, max_length: int = 6) -> tuple:
    """A cache that was filled in portions, and all that went in."""
    k, v = torch.randn(2, B, H, sum(lengths), D_HEAD)
    cache = KeyValueCache(max_length)
    for portion in zip(k.split(lengths, 2), v.split(lengths, 2), strict=True):
        returned = cache.append(*portion)
    return cache, k, v, returned


def test_cache_returns_all_positions_so_far():
    cache, k, v, (all_k, all_v) = cache_of(2, 1, 3)
    assert torch.equal(all_k, k) and torch.equal(all_v, v), "old positions first, k and v not exchanged"
    assert cache.length == 6
    assert [x.shape for x in cache.contents()] == [k.shape, v.shape]


def test_cache_holds_no_more_than_it_was_given():
    cache, _, _, (all_k, _) = cache_of(2, 1)
    assert all_k.shape[2] == cache.contents()[0].shape[2] == 3, "unused room must not be looked at"


def test_cache_overflow_is_an_error_and_harms_nothing():
    cache, k, v, _ = cache_of(3, 2)
    with pytest.raises(ValueError, match="6 positions, not 7"):
        cache.append(k[:, :, :2], v[:, :, :2])
    assert cache.length == 5
    all_k, _ = cache.append(k[:, :, :1], v[:, :, :1])
    assert torch.equal(all_k, torch.cat([k, k[:, :, :1]], dim=2))


def test_reorder_moves_drops_and_doubles_rows():
    cache, k, v, _ = cache_of(2, 2)
    cache.reorder(torch.tensor([1, 1, 0]))
    held_k, held_v = cache.contents()
    assert torch.equal(held_k, k[[1, 1, 0]]), "row i must hold what row rows[i] held"
    assert torch.equal(held_v, v[[1, 1, 0]])
    new = torch.randn(3, H, 1, D_HEAD)
    assert torch.equal(cache.append(new, new)[0], torch.cat([k[[1, 1, 0]], new], dim=2)), (
        "it goes on from there"
    )


def test_reorder_of_an_empty_cache_does_nothing():
    cache = KeyValueCache(3)
    cache.reorder(torch.tensor([1, 0]))
    assert cache.length == 0


def test_heads_are_neighbouring_numbers():
    """Head h of a position takes the numbers h * d_head to (h + 1) * d_head of it."""
    T = 5
    x = torch.arange(B * T * D).view(B, T, D)
    heads = MultiHeadAttention(D, H).split_heads(x)
    assert heads.shape == (B, H, T, D_HEAD), "(B, H, T, d_head), not (B, T, H, d_head)"
    for h in range(H):
        assert torch.equal(heads[:, h], x[:, :, h * D_HEAD : (h + 1) * D_HEAD]), (
            "a reshape mixes positions and heads"
        )


def with_torch_layer() -> tuple[MultiHeadAttention, torch.nn.MultiheadAttention]:
    """Our layer and PyTorch's, with the same weights, in float64."""
    ours = MultiHeadAttention(D, H).double()
    theirs = torch.nn.MultiheadAttention(D, H, batch_first=True).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.5)  # biases too
    with torch.no_grad():
        for i, layer in enumerate((ours.q, ours.k, ours.v)):
            layer.weight.copy_(theirs.in_proj_weight[i * D : (i + 1) * D])
            layer.bias.copy_(theirs.in_proj_bias[i * D : (i + 1) * D])
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


@pytest.mark.parametrize("explicit", [False, True], ids=["fast", "explicit"])
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("T", [None, 4], ids=["self", "cross"])
def test_layer_equals_pytorch(side, T, explicit):
    ours, theirs = with_torch_layer()
    ours.explicit = explicit
    S = 6
    memory = torch.randn(B, S, D, dtype=torch.float64)
    x = memory if T is None else torch.randn(B, T, D, dtype=torch.float64)
    bias = padding(S, side, torch.float64) if side else None
    ignored = None if bias is None else (bias != 0).view(B, S)
    expected, weights = theirs(x, memory, memory, key_padding_mask=ignored, average_attn_weights=False)
    out = ours(x, None if T is None else memory, bias)
    assert (out - expected).abs().max() < 1e-10
    if explicit:
        assert (ours.weights - weights).abs().max() < 1e-10


@pytest.mark.parametrize("side", [None, "right"])
def test_causal_layer_equals_pytorch(side):
    ours, theirs = with_torch_layer()
    T = 6
    x = torch.randn(B, T, D, dtype=torch.float64)
    bias = padding(T, side, torch.float64) if side else None
    ignored = None if bias is None else (bias != 0).view(B, T)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, key_padding_mask=ignored, attn_mask=later)
    assert (ours(x, bias=bias, causal=True) - expected).abs().max() < 1e-10


def test_explicit_keeps_the_weights_and_changes_nothing():
    layer, x, memory = MultiHeadAttention(D, H), torch.randn(B, 5, D), torch.randn(B, 7, D)
    fast = layer(x, memory)
    assert layer.weights is None, "the fast path has no weights to keep"
    layer.explicit = True
    assert torch.allclose(layer(x, memory), fast, atol=1e-6)
    assert layer.weights.shape == (B, H, 5, 7), "(B, H, T, S)"


@pytest.mark.parametrize("explicit", [False, True], ids=["fast", "explicit"])
@pytest.mark.parametrize("portions", [[1] * 7, [3, 1, 2, 1], [7]], ids=str)
def test_layer_with_cache_equals_without(portions, explicit):
    layer, x = MultiHeadAttention(D, H).double(), torch.randn(B, 7, D, dtype=torch.float64)
    layer.explicit = explicit
    cache = KeyValueCache(9)
    pieces = [layer(piece, causal=True, cache=cache) for piece in x.split(portions, 1)]
    assert (torch.cat(pieces, 1) - layer(x, causal=True)).abs().max() < 1e-12


def test_cross_attention_reads_the_memory_once():
    """The encoder's text does not change, so its keys and values are computed at the first call only."""
    layer, cache = MultiHeadAttention(D, H), KeyValueCache(9)  # with room to spare, which must not be read
    memory, first, second = torch.randn(B, 7, D), torch.randn(B, 2, D), torch.randn(B, 1, D)
    assert torch.allclose(layer(first, memory, cache=cache), layer(first, memory), atol=1e-6)
    calls = []
    layer.k.register_forward_hook(lambda *_: calls.append("k"))
    assert torch.allclose(layer(second, memory, cache=cache), layer(second, memory), atol=1e-6)
    assert calls == ["k"], "the cached call must not compute the keys again (the other call does)"
    assert cache.length == 7


@pytest.mark.parametrize("explicit", [False, True], ids=["fast", "explicit"])
def test_layer_drops_weights_in_training_only(explicit):
    layer, x = MultiHeadAttention(D, H, dropout=0.5), torch.randn(B, 5, D)
    layer.explicit = explicit
    plain = MultiHeadAttention(D, H)
    plain.load_state_dict(layer.state_dict())
    assert not torch.equal(layer(x), layer(x)), "no dropout while training"
    assert torch.allclose(layer.eval()(x), plain(x), atol=1e-6), "dropout must stop outside training"
