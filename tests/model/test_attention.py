"""Grades model/attention.py against a triple loop over the formula. The layer: test_attention_layer.py.

Sizes are unequal everywhere, so that a swapped axis fails.
"""

import math

import pytest
import torch

from minilm.model.attention import (
    ALIBI_SLOPES,
    BLOCKED,
    alibi_bias,
    causal_mask,
    explicit_attention,
    fast_attention,
)

B, H, D_HEAD = 2, 3, 4


def qkv(T: int, S: int, dtype=torch.float32) -> tuple:
    q = torch.randn(B, H, T, D_HEAD, dtype=dtype)
    k, v = torch.randn(2, B, H, S, D_HEAD, dtype=dtype)
    return q, k, v


def padding(S: int, side: str, dtype=torch.float32) -> torch.Tensor:
    """A bias (B, 1, 1, S): the first row is padded by two positions, the second is full."""
    blocked = torch.zeros(B, 1, 1, S, dtype=torch.bool)
    blocked[0, ..., : 2 if side == "left" else 0] = True
    blocked[0, ..., S - 2 if side == "right" else S :] = True
    return blocked * torch.tensor(BLOCKED, dtype=dtype)


# name -> (T, S, causal, side of the padding, alibi). A cache makes T smaller than S.
MASKS = {
    "none": (5, 5, False, None, False),
    "causal": (5, 5, True, None, False),
    "padding right": (5, 5, False, "right", False),
    "padding left": (5, 5, False, "left", False),
    "alibi": (5, 5, False, None, True),
    "causal, alibi": (5, 5, True, None, True),
    "causal, padding right": (5, 5, True, "right", False),
    "causal, padding left": (5, 5, True, "left", False),
    "causal, padding right, alibi": (5, 5, True, "right", True),
    "causal, padding left, alibi": (5, 5, True, "left", True),
    "causal, cache": (3, 7, True, None, False),
    "causal, cache, padding left, alibi": (3, 7, True, "left", True),
    "one new token, cache, padding left": (1, 7, False, "left", False),
    "cross-attention to a longer text": (3, 7, False, "right", False),
    "cross-attention to a shorter text": (7, 3, False, "right", False),
}


def case(name: str, dtype=torch.float32) -> tuple:
    """The (q, k, v), bias and causal of one mask."""
    T, S, causal, side, alibi = MASKS[name]
    bias = padding(S, side, dtype) if side else None
    if alibi:
        penalty = alibi_bias(H, T, S).to(dtype)[None]
        bias = penalty if bias is None else bias + penalty
    return qkv(T, S, dtype), bias, causal


def allowed(name: str) -> torch.Tensor:
    """(B, T, S): may query t look at key s? Written from the words, position by position."""
    T, S, causal, side, _ = MASKS[name]
    may = torch.ones(B, T, S, dtype=torch.bool)
    for t in range(T):
        for s in range(S):
            if causal and s > S - T + t:
                may[:, t, s] = False
            if (side == "left" and s < 2) or (side == "right" and s >= S - 2):
                may[0, t, s] = False
    return may


def slow_attention(q, k, v, name: str) -> torch.Tensor:
    """softmax(q k / sqrt(d_head)) v in plain loops; a query that may look at nothing gives NaN."""
    T, S, _, _, alibi = MASKS[name]
    may = allowed(name)
    out = torch.full_like(q, math.nan)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                seen = [s for s in range(S) if may[b, t, s]]
                scores = [
                    sum(a * c for a, c in zip(q[b, h, t].tolist(), k[b, h, s].tolist(), strict=True))
                    for s in seen
                ]
                scores = [score / math.sqrt(D_HEAD) for score in scores]
                if alibi:
                    far = [abs(S - T + t - s) for s in seen]
                    scores = [a - ALIBI_SLOPES[h] * distance for a, distance in zip(scores, far, strict=True)]
                total = sum(math.exp(score) for score in scores)
                if seen:
                    out[b, h, t] = sum(
                        math.exp(a) / total * v[b, h, s] for a, s in zip(scores, seen, strict=True)
                    )
    return out


def test_causal_mask_is_a_lower_triangle():
    assert causal_mask(3, 3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_causal_mask_with_a_past():
    """With a cache the queries are the last T of S positions, not the first."""
    assert causal_mask(2, 5).tolist() == [[True] * 4 + [False], [True] * 5]
    assert causal_mask(1, 4).tolist() == [[True] * 4], "the newest token sees everything"


def test_alibi_bias_is_minus_slope_times_distance():
    T, S, n_head = 3, 7, 6
    bias = alibi_bias(n_head, T, S)
    assert bias.shape == (n_head, T, S)
    for h in range(n_head):
        for t in range(T):
            for s in range(S):
                expected = -ALIBI_SLOPES[h % 4] * abs((S - T + t) - s)
                assert bias[h, t, s].item() == pytest.approx(expected), (h, t, s)
    assert bias[0, 0, 4] == 0 and bias[0, 0, 0] == -6, "query 0 of 3 stands at position 4 of 7"


@pytest.mark.parametrize("name", MASKS)
def test_explicit_equals_the_loops(name):
    (q, k, v), bias, causal = case(name, torch.float64)
    expected = slow_attention(q, k, v, name)
    read = ~expected.isnan()
    out, _ = explicit_attention(q, k, v, bias, causal)
    tolerance = 1e-8 if MASKS[name][4] else 1e-10  # the slopes are float32
    assert (out - expected)[read].abs().max() < tolerance, (
        "softmax(q k^T / sqrt(d_head)) v, over the keys only"
    )


@pytest.mark.parametrize("name", MASKS)
def test_fast_equals_explicit(name):
    """Also where a query may look at nothing: both paths must give the same ordinary numbers."""
    (q, k, v), bias, causal = case(name)
    difference = (fast_attention(q, k, v, bias, causal) - explicit_attention(q, k, v, bias, causal)[0]).abs()
    assert difference.max() < 1e-5, f"{name}: the two paths mask differently"


@pytest.mark.parametrize("name", MASKS)
def test_fast_and_explicit_have_the_same_gradient(name):
    """For a loss that, as every loss does, reads no query that may look at nothing."""
    tensors, bias, causal = case(name)
    read = allowed(name).any(-1)[:, None, :, None]  # (B, 1, T, 1)
    gradients = []
    for path in (fast_attention, lambda *a: explicit_attention(*a)[0]):
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = path(*leaves, bias, causal)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape) * read).sum().backward()
        gradients.append([x.grad for x in leaves])
    for what, fast, explicit in zip("qkv", *gradients, strict=True):
        assert fast.isfinite().all(), f"the gradient of {what} must stay finite"
        assert (fast - explicit).abs().max() < 1e-5, what


@pytest.mark.parametrize("name", MASKS)
def test_weights_sum_to_one_and_blocked_keys_get_exactly_none(name):
    (q, k, v), bias, causal = case(name)
    _, weights = explicit_attention(q, k, v, bias, causal)
    may = allowed(name)[:, None].expand(B, H, -1, -1)  # (B, H, T, S)
    assert weights.shape == may.shape
    assert (weights.sum(-1) - 1).abs().max() < 1e-6, "softmax runs over the keys"
    reads = may.any(-1, keepdim=True)  # queries that may look at something
    assert (weights[reads & ~may] == 0).all(), "a blocked key must get weight exactly 0, not merely little"
    assert (weights[may] > 0).all(), "an open key must count"


@pytest.mark.parametrize(
    "path", [fast_attention, lambda *a: explicit_attention(*a)[0]], ids=["fast", "explicit"]
)
@pytest.mark.parametrize("name", [name for name in MASKS if MASKS[name][3]])
def test_what_padding_holds_does_not_matter(name, path):
    (q, k, v), bias, causal = case(name)
    padded = (padding(k.shape[2], MASKS[name][3]) != 0).view(B, -1)  # (B, S)
    other_k, other_v = k.clone(), v.clone()
    other_k.transpose(1, 2)[padded] = 30.0
    other_v.transpose(1, 2)[padded] = -1e4
    reads = allowed(name).any(-1)[:, None].expand(B, H, -1)  # (B, H, T)
    before, after = path(q, k, v, bias, causal), path(q, other_k, other_v, bias, causal)
    assert (before - after)[reads].abs().max() < 1e-6, "a padded key or value leaks"


@pytest.mark.parametrize(
    "path", [fast_attention, lambda *a: explicit_attention(*a)[0]], ids=["fast", "explicit"]
)
def test_a_query_that_may_look_at_nothing_stays_finite(path):
    leaves = [x.requires_grad_() for x in qkv(4, 4)]
    out = path(*leaves, torch.full((B, 1, 1, 4), BLOCKED), True)
    out.square().sum().backward()
    assert out.isfinite().all(), "-inf minus -inf is NaN: block with a large finite number"
    assert all(x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize("name", MASKS)
def test_bfloat16_stays_near(name):
    (q, k, v), bias, causal = case(name)
    exact, _ = explicit_attention(q, k, v, bias, causal)
    half = [x.bfloat16() for x in (q, k, v)]
    small = None if bias is None else bias.bfloat16()
    read = allowed(name).any(-1)[:, None].expand(B, H, -1)
    for out in (fast_attention(*half, small, causal), explicit_attention(*half, small, causal)[0]):
        assert out.dtype == torch.bfloat16, "a mask of another precision changes that of the result"
        assert out.isfinite().all()
        assert (out.float() - exact)[read].abs().max() < 0.1


def dropped_weights(path: str, share: float) -> torch.Tensor:
    """The weights after dropout: with equal scores and v = identity, the output shows them."""
    S = 40
    q = k = torch.zeros(B, H, S, S)
    v = torch.eye(S).expand(B, H, S, S)
    return (fast_attention if path == "fast" else lambda *a: explicit_attention(*a)[1])(
        q, k, v, None, False, share
    )


@pytest.mark.parametrize("path", ["fast", "explicit"])
def test_dropout_takes_its_share_of_the_weights(path):
    share, S = 0.3, 40
    weights = dropped_weights(path, share)
    zeros, n = (weights == 0).sum().item(), weights.numel()
    assert abs(zeros - share * n) < 5 * math.sqrt(n * share * (1 - share)), (
        f"{zeros / n:.3f} dropped, not {share}"
    )
    kept = weights[weights != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / S / (1 - share))), (
        "what stays is divided by 1 - share"
    )
    assert (dropped_weights(path, 0.0) != 0).all()
