"""Grades model/attention.py against plain loops, PyTorch's own layer, and itself without a cache."""

import math

import pytest
import torch
from mistakes import assert_learns, assert_right, unchanged
from small import within_5_sigma
from unequal import randomise

from minilm.model import attention
from minilm.model.attention import KeyValueCache, MultiHeadAttention, causal_mask, explicit_attention
from minilm.training import machine

B, H, D_HEAD = 2, 3, 4  # unequal, so that a swapped axis fails
D = H * D_HEAD
PATHS = {"fast": attention.fast_attention, "explicit": lambda *a: explicit_attention(*a)[0]}
both_paths = pytest.mark.parametrize("path", PATHS)


def qkv(T: int, S: int, dtype=torch.float32) -> tuple:
    q = torch.randn(B, H, T, D_HEAD, dtype=dtype)
    k, v = torch.randn(2, B, H, S, D_HEAD, dtype=dtype)
    return q, k, v


def padding(S: int, side: str | None, dtype=torch.float32) -> torch.Tensor | None:
    """A bias (B, 1, 1, S): the first row is padded by two positions, the second is full."""
    if side is None:
        return None
    blocked = torch.zeros(B, 1, 1, S, dtype=torch.bool)
    blocked[0, ..., slice(2) if side == "left" else slice(S - 2, S)] = True
    return blocked * torch.tensor(attention.BLOCKED, dtype=dtype)


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
every_mask = pytest.mark.parametrize("name", MASKS)


def case(name: str, dtype=torch.float32) -> tuple:
    """The (q, k, v), bias and causal of one mask."""
    T, S, causal, side, alibi = MASKS[name]
    bias = padding(S, side, dtype)
    if alibi:
        penalty = attention.alibi_bias(H, T, S).to(dtype)[None]
        bias = penalty if bias is None else bias + penalty
    return qkv(T, S, dtype), bias, causal


def allowed(name: str) -> torch.Tensor:
    """(B, T, S): may query t look at key s? Decided for each pair of positions."""
    T, S, causal, side, _ = MASKS[name]
    may = torch.ones(B, T, S, dtype=torch.bool)
    for t in range(T):
        for s in range(S):
            if causal and s > S - T + t:
                may[:, t, s] = False
            if (side == "left" and s < 2) or (side == "right" and s >= S - 2):
                may[0, t, s] = False
    return may


def reads(name: str) -> torch.Tensor:
    """(B, H, T): may a query look at anything?"""
    return allowed(name).any(-1)[:, None].expand(B, H, -1)


def slow_attention(q, k, v, name: str) -> torch.Tensor:
    """softmax(q k / sqrt(d_head)) v in plain loops; a query that may look at nothing gives NaN."""
    T, S, _, _, alibi = MASKS[name]
    may = allowed(name)
    out = torch.full_like(q, math.nan)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                total, mixed = 0.0, torch.zeros(D_HEAD, dtype=q.dtype)
                for s in range(S):
                    if may[b, t, s]:
                        score = sum(q[b, h, t] * k[b, h, s]).item() / math.sqrt(D_HEAD)
                        score -= attention.ALIBI_SLOPES[h] * abs(S - T + t - s) if alibi else 0
                        total += math.exp(score)
                        mixed += math.exp(score) * v[b, h, s]
                if total:
                    out[b, h, t] = mixed / total
    return out


@pytest.mark.parametrize(("T", "S"), [(3, 3), (2, 5), (1, 4)])
def test_causal_mask_is_a_lower_triangle_whose_queries_come_last(T, S):
    query, key = torch.arange(S - T, S)[:, None], torch.arange(S)
    mistakes = {
        "a query may not look at itself": key < query,
        "a query looks at the later keys, not at the earlier ones": key >= query,
        "a query looks at the later keys, not at itself and the earlier ones": key > query,
        "the queries are treated as the first T of the S positions": key <= query - (S - T),
        "rows and columns are swapped: the rows are the queries": (key <= query).T,
    }
    mask = causal_mask(T, S)
    right = [[s <= S - T + t for s in range(S)] for t in range(T)]
    assert_right(mask, right, mistakes, axes=("query", "key"))
    assert mask.dtype == torch.bool, f"the mask must be boolean, not {mask.dtype}"


def test_alibi_bias_is_minus_slope_times_distance():
    T, S, n_head = 3, 7, 6
    each = [1.5, 0.5, 0.1, 0.0, 1.5, 0.5]  # the READMEs' figures are made with these
    right = [[[-slope * abs(S - T + t - s) for s in range(S)] for t in range(T)] for slope in each]
    slopes = torch.tensor(each)[:, None, None]
    ahead = torch.arange(S) - torch.arange(S - T, S)[:, None]  # (T, S): how far a key stands behind the query
    paper, paired = 2.0 ** (-8 * torch.arange(1, 7) / 6), torch.tensor([1.5, 1.5, 0.5, 0.1, 0.1, 0.0])
    mistakes = {
        "the minus is missing, so that far keys win": slopes * ahead.abs(),
        "the distance keeps its sign, so that earlier keys win": -slopes * ahead,
        "the distance keeps its sign, so that later keys win": slopes * ahead,
        "the distance of later keys counts as 0": -slopes * (-ahead).clamp(min=0),
        "the queries are treated as the first T of the S positions": -slopes * (ahead + S - T).abs(),
        "the slopes are those of the paper, 2^(-8h/H)": -paper[:, None, None] * ahead.abs(),
        "every head has the same slope, the first": -slopes[0] * ahead.abs().expand(n_head, T, S),
        "the slopes are in reverse order": -slopes.flip(0) * ahead.abs(),
        "neighbouring heads share a slope: head h has slope h % 4": -paired[:, None, None] * ahead.abs(),
    }
    assert_right(attention.alibi_bias(n_head, T, S), right, mistakes, axes=("head", "query", "key"))


def mixed(q, k, v, bias, causal, scale=D_HEAD**-0.5, over=-1, factor=False, earlier=False) -> torch.Tensor:
    """Attention in tensors; options for mistakes in the scale, the axis of the softmax, bias and mask."""
    scores = q @ k.transpose(-2, -1) * scale
    if bias is not None:
        scores = scores * bias if factor else scores + bias
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + k.shape[-2] - q.shape[-2])
        scores = scores.masked_fill(~later if earlier else later, attention.BLOCKED)
    return scores.softmax(over) @ v


@every_mask
def test_explicit_equals_the_loops(name):
    (q, k, v), bias, causal = case(name, torch.float64)
    expected = slow_attention(q, k, v, name)
    given, read = (q, k, v, bias, causal), ~expected.isnan()
    mistakes = {
        "the scores are not divided by sqrt(d_head)": mixed(*given, scale=1),
        "the scores are divided by d_head, not by sqrt(d_head)": mixed(*given, scale=1 / D_HEAD),
        "the scores are multiplied by sqrt(d_head)": mixed(*given, scale=D_HEAD**0.5),
        "the scores are divided by sqrt(d_model), the width of all heads": mixed(*given, scale=D**-0.5),
        "the softmax is over the queries, not over the keys": mixed(*given, over=-2),
        "the bias is left out": mixed(q, k, v, None, causal),
        "the scores are multiplied by the bias: add it": mixed(*given, factor=True),
        "later keys are not blocked": mixed(q, k, v, bias, False),
        "earlier keys are blocked, not later ones": mixed(*given, earlier=True),
        "every weight is dropped: F.dropout takes the share to drop, here 0": torch.zeros_like(q),
        "there is no softmax": (q @ k.transpose(-2, -1) * D_HEAD**-0.5) @ v,
    }
    result = explicit_attention(q, k, v, bias, causal)
    assert isinstance(result, tuple) and len(result) == 2, "return two things: `weights @ v` and the weights"
    known = {words: value * read for words, value in mistakes.items() if value.shape == q.shape}
    tolerance = 1e-8 if MASKS[name][4] else 1e-10  # the slopes are float32
    axes = ("row", "head", "query", "feature")
    if result[0].shape == q.shape:
        result = (torch.where(read, result[0], 0.0), result[1])
    assert_right(result[0], expected.nan_to_num(), known, 0, tolerance, axes, f"mask {name!r}")


def test_explicit_equals_heads_that_stand_as_often_as_they_are_used():
    q, k, v = torch.randn(B, 6, 5, D_HEAD), *torch.randn(2, B, 2, 5, D_HEAD)  # 3 heads of q to one of k and v
    each = [k[:, [0, 0, 0, 1, 1, 1]], v[:, [0, 0, 0, 1, 1, 1]]]
    wrong = mixed(q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1), None, False)
    mistakes = {"the heads of k and v are repeated as 0 1 0 1 0 1, not as 0 0 0 1 1 1": wrong}
    axes = ("row", "head", "query", "feature")
    assert_right(explicit_attention(q, k, v)[0], mixed(q, *each, None, False), mistakes, axes=axes)


@every_mask
def test_fast_equals_explicit_and_has_the_same_gradient(name):
    """The values also where a query may look at nothing; no loss reads those, so their gradients are left."""
    tensors, bias, causal = case(name)
    results, gradients = [], []
    for path in PATHS.values():
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = path(*leaves, bias, causal)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape) * reads(name)[..., None]).sum().backward()
        results.append(out)
        gradients.append([x.grad for x in leaves])
        reached = [name for name, x in zip("qkv", leaves, strict=True) if x.grad is not None]
        assert reached == ["q", "k", "v"], f"of q, k and v, a gradient reaches only {reached}"
    difference = (results[0] - results[1]).abs()
    assert difference.max() < 1e-5, f"{name}: the two paths mask differently, or give NaN (-inf minus -inf)"
    for what, fast, explicit in zip("qkv", *gradients, strict=True):
        assert fast.isfinite().all() and explicit.isfinite().all(), f"the gradient of {what} must stay finite"
        assert (fast - explicit).abs().max() < 1e-5, f"the gradient of {what} is wrong"


@pytest.mark.parametrize(
    ("library", "T", "S", "is_fused"),
    [("ieee", 5, 5, True), ("bf16", 1, 128, False), ("bf16", 1, 129, True), ("bf16", 129, 5, True)],
)
def test_short_texts_are_written_out_for_onednn(library, T, S, is_fused, monkeypatch):
    """Fused, its many small products take longer than all the rest of a step."""
    calls, plain = [], torch.nn.functional.scaled_dot_product_attention
    fused = lambda *a, **how: calls.append(1) or plain(*a, **how)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    (q, k, v), bias = qkv(T, S), padding(S, "right")
    monkeypatch.setattr(machine, "fastest_library", lambda: library)
    with machine.quick_products("fp32", q.device):
        found = attention.fast_attention(q, k, v, bias, T <= S)
    assert (found - explicit_attention(q, k, v, bias, T <= S)[0]).abs().max() < 1e-5
    assert bool(calls) == is_fused, "long texts: weights would fill the memory; MKL is good at small products"


@every_mask
def test_weights_sum_to_one_and_blocked_keys_get_exactly_none(name):
    (q, k, v), bias, causal = case(name)
    _, weights = explicit_attention(q, k, v, bias, causal)
    may = allowed(name)[:, None].expand(B, H, -1, -1)  # (B, H, T, S)
    assert weights.shape == may.shape, f"weights {tuple(weights.shape)}: one for each query and key"
    assert (weights.sum(-1) - 1).abs().max() < 1e-6, "the softmax is over the keys"
    blocked = reads(name)[..., None] & ~may
    assert (weights[blocked] == 0).all(), "the weight of a blocked key must be 0, not just small"
    assert (weights[may] > 0).all(), "the weight of an open key must not be 0"


@every_mask
def test_bfloat16_stays_near(name):
    (q, k, v), bias, causal = case(name)
    exact, _ = explicit_attention(q, k, v, bias, causal)
    half = [x.bfloat16() for x in (q, k, v)]
    small = None if bias is None else bias.bfloat16()
    for path in PATHS.values():
        out = path(*half, small, causal)
        assert out.dtype == torch.bfloat16, "the mask must not change the precision of the result"
        assert out.isfinite().all()
        assert (out.float() - exact)[reads(name)].abs().max() < 0.1


@both_paths
def test_dropout_takes_its_share_of_the_weights(path):
    share, S = 0.3, 40
    q = k = torch.zeros(B, H, S, S)  # equal scores and v = identity: the output shows the weights
    weights = PATHS[path](q, k, torch.eye(S).expand(B, H, S, S), None, False, share)
    zeros, n = (weights == 0).sum().item(), weights.numel()
    assert zeros, "no weight is dropped"
    assert within_5_sigma(zeros, n, share), f"{zeros / n:.3f} are dropped, not {share}"
    kept = weights[weights != 0]
    assert torch.allclose(kept, torch.tensor(1 / S / (1 - share))), "divide what stays by 1 - dropout"
    mixed = PATHS[path](q, k, torch.ones(B, H, S, 2), None, False, share)
    assert (mixed != 0).all(), "dropout is applied to `weights @ v`, not to the weights"
    if path == "explicit":
        mixed, weights = explicit_attention(q, k, torch.eye(S).expand(B, H, S, S), None, False, share)
        assert torch.equal(mixed, weights), "the weights are returned as they were before dropout"


# The cache


def cache_of(*lengths: int, max_length: int = 6) -> tuple:
    """A cache that was filled in portions, all keys and values, and the last result."""
    k, v = torch.randn(2, B, H, sum(lengths), D_HEAD)
    cache = KeyValueCache(max_length)
    for portion in zip(k.split(lengths, 2), v.split(lengths, 2), strict=True):
        returned = cache.append(*portion)
    return cache, k, v, returned


@pytest.mark.parametrize("lengths", [(2, 1, 3), (2, 1)])
def test_cache_returns_all_positions_so_far(lengths):
    cache, k, v, returned = cache_of(*lengths)
    assert isinstance(returned, tuple), "return a tuple: the keys and values of all positions so far"
    told = f"`length` is {cache.length} after {lengths} positions: add T each time"
    assert cache.length == sum(lengths), told
    for what, (all_k, all_v) in {"append": returned, "contents()": cache.contents()}.items():
        for name, found, right, other in (("keys", all_k, k, v), ("values", all_v, v, k)):
            new, n = right[:, :, -lengths[-1] :], sum(lengths)
            mistakes = {
                "keys and values are swapped": other,
                "only the new positions are returned": new,
                "the new positions overwrite the first": torch.cat([new, found[:, :, new.shape[2] :]], 2),
            }
            if n < cache.max_length:
                mistakes["the unused room is returned too"] = getattr(cache, name[0])
            axes = ("row", "head", "position", "feature")
            assert_right(found, right, mistakes, axes=axes, what=f"{name} from {what}")


def test_cache_overflow_is_an_error_and_harms_nothing():
    cache, k, v, _ = cache_of(3, 2)
    with pytest.raises(RuntimeError, match="exceeds dimension size"):
        cache.append(k[:, :, :2], v[:, :, :2])
    assert torch.equal(cache.append(k[:, :, :1], v[:, :, :1])[0], torch.cat([k, k[:, :, :1]], dim=2))


def test_reorder_moves_drops_and_doubles_rows():
    cache, k, v, _ = cache_of(2, 2)
    cache.reorder(torch.tensor([1, 1, 0]))
    new = torch.randn(3, H, 1, D_HEAD)
    keys, values = cache.append(new, new)
    assert torch.equal(keys, torch.cat([k[[1, 1, 0]], new], 2)), "row i must hold what row rows[i] held"
    assert torch.equal(values, torch.cat([v[[1, 1, 0]], new], 2)), "the values move with the keys"
    empty = KeyValueCache(3)
    empty.reorder(torch.tensor([1, 0]))
    assert empty.length == 0


def test_a_row_is_repeated_with_room_for_more():
    """What stands before several texts is read once; each then goes on by itself."""
    one, (k, v) = KeyValueCache(5), torch.randn(2, 1, H, 3, D_HEAD)
    one.append(k, v)
    copy = one.repeated(4, n_more=2)
    assert copy.k.shape == (4, H, 5, D_HEAD) and copy.length == 3
    more = torch.randn(2, 4, H, 2, D_HEAD)
    keys, values = copy.append(*more)
    assert torch.equal(keys, torch.cat([k.expand(4, -1, -1, -1), more[0]], 2)), "3 old keys, then 2 new"
    assert torch.equal(values, torch.cat([v.expand(4, -1, -1, -1), more[1]], 2))
    assert one.length == 3 and torch.equal(one.contents()[0], k), "the first is left as it was"


# The layer


def with_torch_layer() -> tuple[MultiHeadAttention, torch.nn.MultiheadAttention]:
    """Our layer and PyTorch's, with the same weights, in float64."""
    ours = MultiHeadAttention(D, H).double()
    theirs = randomise(torch.nn.MultiheadAttention(D, H, batch_first=True).double())
    for i, layer in enumerate((ours.q, ours.k, ours.v)):
        layer.weight.data = theirs.in_proj_weight.data[i * D : (i + 1) * D]
        layer.bias.data = theirs.in_proj_bias.data[i * D : (i + 1) * D]
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


@both_paths
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("kind", ["self", "cross", "causal"])
def test_layer_equals_pytorch(side, kind, path):
    if (kind, side) == ("causal", "left"):
        return  # the first query may look at nothing: NaN in PyTorch
    ours, theirs = with_torch_layer()
    if path == "explicit":
        ours.explicit = True
    S, T = 6, 4
    memory = torch.randn(B, S, D, dtype=torch.float64)
    x = torch.randn(B, T, D, dtype=torch.float64) if kind == "cross" else memory
    bias = padding(S, side, torch.float64)
    masks = dict(key_padding_mask=None if bias is None else (bias != 0).view(B, S))
    masks |= dict(attn_mask=torch.ones(S, S, dtype=torch.bool).triu(1)) if kind == "causal" else {}
    expected, weights = theirs(x, memory, memory, **masks, average_attn_weights=False)
    out = ours(x, memory if kind == "cross" else None, bias, causal=kind == "causal")
    assert (out - expected).abs().max() < 1e-10, "head h takes the numbers h * d_head to (h + 1) * d_head"
    assert ours.weights is None or (ours.weights - weights).abs().max() < 1e-10
    assert (ours.weights is None) == (path == "fast"), "a new layer must not hold (B, H, T, S) weights"


def test_split_heads_gives_each_head_its_own_numbers_of_a_position():
    layer, T = MultiHeadAttention(D, H, n_kv_head=1), 5
    for n_head in (H, 1, 2):  # as many as are there: keys and values may have fewer
        x = torch.randn(B, T, n_head * D_HEAD)
        right = torch.stack([x[..., h * D_HEAD : (h + 1) * D_HEAD] for h in range(n_head)], dim=1)
        at_once, every_hth = x.reshape(B, n_head, T, D_HEAD), x.unflatten(2, (D_HEAD, n_head))
        mistakes = {
            "(B, T, D) is reshaped to (B, H, T, d_head) at once, which mixes positions": at_once,
            "the heads still come after the positions, (B, T, H, d_head)": x.unflatten(2, (n_head, D_HEAD)),
            "a head takes every H-th feature, not d_head neighbours": every_hth.permute(0, 3, 1, 2),
            "positions and features are swapped, (B, H, d_head, T)": right.transpose(2, 3),
            "the heads come before the rows, (H, B, T, d_head)": right.transpose(0, 1),
        }
        axes = ("row", "head", "position", "feature")
        assert_right(layer.split_heads(x), right, mistakes, axes=axes, what=f"{n_head} heads")


def test_cross_attention_reads_the_memory_once():
    """The encoder's text does not change, so its keys and values are computed at the first call only."""
    layer, cache = MultiHeadAttention(D, H), KeyValueCache(20)  # with room to spare, which must not be read
    memory, first, second = torch.randn(B, 7, D), torch.randn(B, 2, D), torch.randn(B, 1, D)
    assert torch.allclose(layer(first, memory, cache=cache), layer(first, memory), atol=1e-6)
    calls = []
    layer.k.register_forward_hook(lambda *_: calls.append("k"))
    assert torch.allclose(layer(second, memory, cache=cache), layer(second, memory), atol=1e-6)
    assert calls == ["k"], "the cached call must not compute the keys again (the other call does)"
    assert cache.length == 7


@both_paths
def test_layer_drops_weights_in_training_only(path):
    layer, x = MultiHeadAttention(D, H, dropout=0.5), torch.randn(B, 5, D)
    layer.explicit = path == "explicit"
    plain = MultiHeadAttention(D, H)
    plain.load_state_dict(layer.state_dict())
    assert not torch.equal(layer(x), layer(x)), "no dropout while training"
    assert torch.allclose(layer.eval()(x), plain(x), atol=1e-6), "dropout must stop outside training"


# Rotation, and heads that share keys and values


@pytest.mark.parametrize("theta", [10000.0, 7.0])
def test_a_pair_is_turned_by_the_angle_of_its_position(theta):
    positions, leaf = torch.tensor([0, 1, 5]), torch.randn(B, H, 3, 6, requires_grad=True)
    x, right = leaf.detach(), torch.empty(B, H, 3, 6)
    for t, position in enumerate(positions.tolist()):
        for i in range(3):
            angle = position * theta ** (-2 * i / 6)
            a, b = leaf[:, :, t, i], leaf[:, :, t, i + 3]
            right[:, :, t, i] = math.cos(angle) * a - math.sin(angle) * b
            right[:, :, t, i + 3] = math.cos(angle) * b + math.sin(angle) * a
    (a, b), (even, odd) = x.chunk(2, -1), (x[..., 0::2], x[..., 1::2])

    def angles(exponents):
        angle = positions[:, None] * theta**exponents
        return angle.cos(), angle.sin()

    def side_by_side(first, second):
        return torch.cat([first, second], -1)

    def turned(cos, sin):
        return side_by_side(a * cos - b * sin, b * cos + a * sin)

    pair = torch.arange(3)
    cos, sin = angles(-2 * pair / 6)
    pairs = even * cos - odd * sin, odd * cos + even * sin
    new_a, new_b = a * cos - b * sin, b * cos + a * sin
    mistakes = {
        "the rate is theta^(2i / d_head): `rotary_cos_sin` needs the inverse": turned(*angles(2 * pair / 6)),
        "the exponent is i / d_head: `rotary_cos_sin` needs 2i / d_head": turned(*angles(-pair / 6)),
        "neighbours are paired, not x_i and x_{i + d_head / 2}": torch.stack(pairs, -1).flatten(-2),
        "neighbours are paired, and then the halves concatenated": side_by_side(*pairs),
        "the rotation has the wrong direction: the sines have the wrong sign": turned(cos, -sin),
        "both halves have a minus": side_by_side(new_a, b * cos - a * sin),
        "both halves have a plus": side_by_side(a * cos + b * sin, new_b),
        "cosine and sine are swapped": turned(sin, cos),
        "the two halves of the result are swapped": side_by_side(new_b, new_a),
        "the second half is computed from the rotated a": side_by_side(new_a, b * cos + new_a * sin),
    }
    found = unchanged(attention.rotate, x, attention.rotary_cos_sin(positions, 6, theta))
    assert_right(found, right, mistakes, 0, 1e-5, ("row", "head", "position", "feature"))
    assert_learns(attention.rotate(leaf, attention.rotary_cos_sin(positions, 6, theta)), right, leaf)


def test_positions_of_each_row_turn_that_row():
    x, positions = torch.randn(B, H, 3, 4), torch.tensor([[0, 0, 1], [4, 5, 6]])
    angles = attention.rotary_cos_sin(positions, 4, 100.0)
    assert angles.shape == (2, B, 1, 3, 2), "of positions (B, T): (2, B, 1, T, d_head / 2), heads are alike"
    both = attention.rotate(x, angles)
    for row in range(B):
        alone = attention.rotate(x[row : row + 1], attention.rotary_cos_sin(positions[row], 4, 100.0))
        assert torch.allclose(both[row], alone[0], atol=1e-6), "rotate each row by its own positions"


@both_paths
def test_only_the_distance_counts_after_a_rotation(path):
    """Moved by 9 positions, all scores stay: the product depends on how far apart two tokens stand."""
    layer, x = MultiHeadAttention(D, H).double(), torch.randn(B, 5, D, dtype=torch.float64)
    layer.explicit = path == "explicit"
    here = attention.rotary_cos_sin(torch.arange(5), D_HEAD, 50.0).double()
    there = attention.rotary_cos_sin(torch.arange(5) + 9, D_HEAD, 50.0).double()
    told = "queries and keys must both be turned, each by its own position"
    assert torch.allclose(layer(x, cos_sin=here), layer(x, cos_sin=there), atol=1e-5), told
    assert not torch.allclose(layer(x, cos_sin=here), layer(x), atol=1e-3), "the order must matter"


@both_paths
def test_chosen_queries_keep_their_own_turns(path):
    layer, x = MultiHeadAttention(D, H), torch.randn(B, 5, D)
    layer.explicit, cos_sin = path == "explicit", attention.rotary_cos_sin(torch.arange(5), D_HEAD, 50.0)
    for chosen in (slice(-2, None), slice(1)):
        expected = layer(x, cos_sin=cos_sin)[:, chosen]
        assert torch.allclose(layer(x, cos_sin=cos_sin, chosen=chosen), expected, atol=1e-6)


@both_paths
@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_groups_of_heads_share_keys_and_values(n_kv_head, path):
    """The same as a layer of 4 heads where each head of keys and values stands as often as it is used."""
    shared, whole = (MultiHeadAttention(D, 4, n_kv_head=n, d_head=5) for n in (n_kv_head, None))
    shared.explicit = whole.explicit = path == "explicit"
    whole.q, whole.out = shared.q, shared.out
    for name in "kv":
        layers = getattr(whole, name), getattr(shared, name)
        for all_heads, few in zip(*(layer.parameters() for layer in layers), strict=True):
            each = few.data.unflatten(0, (n_kv_head, 5))
            all_heads.data = each.repeat_interleave(4 // n_kv_head, dim=0).flatten(0, 1)
    x, cache = torch.randn(B, 6, D), KeyValueCache(6)
    assert torch.allclose(shared(x, causal=True), whole(x, causal=True), atol=1e-6)
    pieces = [shared(piece, causal=True, cache=cache) for piece in x.split([3, 1, 2], 1)]
    assert torch.allclose(torch.cat(pieces, 1), whole(x, causal=True), atol=1e-6)
    assert cache.k.shape == (B, n_kv_head, 6, 5), "the cache holds each key and value once"


@both_paths
@pytest.mark.parametrize("portions", [[1] * 7, [2, 1, 4], [7]], ids=str)
def test_queries_and_keys_of_one_size_turn_afterwards(portions, path):
    """Each head's q and k are divided by the root of their mean square, then turned, then compared."""
    T, norms = 7, [torch.nn.RMSNorm(D_HEAD, 1e-12) for _ in "qk"]
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    layer = MultiHeadAttention(D, H, norms=norms)
    layer.explicit = path == "explicit"
    x, cos_sin = torch.randn(B, T, D), attention.rotary_cos_sin(torch.arange(T), D_HEAD, 100.0)

    def turned(part: str, norm: torch.nn.RMSNorm) -> torch.Tensor:
        heads = layer.split_heads(getattr(layer, part)(x))
        size = heads.square().mean(-1, keepdim=True).sqrt()
        return attention.rotate(heads / size * norm.weight, cos_sin)

    q, k, v = turned("q", norms[0]), turned("k", norms[1]), layer.split_heads(layer.v(x))
    expected = layer.out(explicit_attention(q, k, v, causal=True)[0].transpose(1, 2).flatten(2))
    cache, found = KeyValueCache(T), []
    for part, turns in zip(x.split(portions, 1), cos_sin.split(portions, 1), strict=True):
        found.append(layer(part, causal=True, cache=cache, cos_sin=turns))
    found = torch.cat(found, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg="norm, turn, cache: in this order?")
