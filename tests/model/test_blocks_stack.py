"""Grades the stack of model/blocks.py: what it returns, what it sees, and its caches.

Sizes are unequal everywhere, so that a swapped axis fails.
"""

import pytest
import torch
from torch import nn

from minilm.model.attention import alibi_bias
from minilm.model.blocks import BlockCache, Stack, padding_bias
from minilm.model.config import ModelConfig
from minilm.plumbing.errors import UserError

B, T, S, D, H, D_FF = 2, 5, 7, 12, 3, 20
POSITIONS = ["learned", "sinusoidal", "alibi"]
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


def stack(kind: str, **fields) -> Stack:
    """An encoder, or a decoder with or without cross-attention, in float64."""
    causal, cross = kind != "encoder", kind == "cross"
    return randomise(Stack(config(**fields), 2, causal, cross)).double().eval()


@pytest.mark.parametrize("final_norm", [False, True])
def test_stack_returns_the_embeddings_and_every_block(final_norm):
    ours = stack("encoder", final_norm=final_norm)
    vectors = torch.randn(B, T, D, dtype=torch.float64)
    states = ours(vectors)
    assert [state.shape for state in states] == [(B, T, D)] * 3, "n_layer + 1 hidden states"
    assert torch.allclose(states[0], vectors + ours.embeddings.position.weight[:T]), (
        "the embeddings come first"
    )
    assert torch.allclose(states[1], ours.blocks[0](states[0], None, False))
    last = ours.blocks[1](states[1], None, False)
    assert torch.allclose(states[2], ours.norm(last) if final_norm else last), "only the last one is normed"


def test_every_norm_of_a_stack_has_the_epsilon_of_the_config():
    norms = [
        m for m in stack("cross", norm_eps=0.01, final_norm=True).modules() if isinstance(m, nn.LayerNorm)
    ]
    assert len(norms) == 2 * 3 + 1, "three in each block of a decoder, and the final one"
    assert all(norm.eps == 0.01 for norm in norms)


def test_stack_passes_segments_on():
    ours = stack("encoder", n_segments=2)
    vectors, b = torch.randn(B, T, D, dtype=torch.float64), torch.ones(B, T, dtype=torch.long)
    assert (ours(vectors, None, b)[-1] - ours(vectors, None, 0 * b)[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("positions", POSITIONS)
def test_attention_bias_is_padding_and_distance(positions, masked):
    ours, mask = stack("encoder", positions=positions), LEFT if masked else None
    bias = ours.attention_bias(mask, 2, T, torch.zeros(1, dtype=torch.float64))
    if positions != "alibi":
        assert bias is None if mask is None else torch.equal(bias, padding_bias(mask, torch.float64))
        return
    assert bias.dtype == torch.float64
    expected = alibi_bias(H, 2, T).double()[None]
    expected = expected + padding_bias(mask, torch.float64) if masked else expected
    assert torch.equal(bias, expected), "both count: distance, and padding on top"


@pytest.mark.parametrize("side", ["full", "left", "right"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_gradient_of_a_decoder_to_later_tokens_is_exactly_zero(positions, side):
    ours, mask = stack("decoder", positions=positions), dict(full=None, left=LEFT, right=RIGHT)[side]
    vectors = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    out = ours(vectors, mask)[-1]
    for b in range(B):
        for t in range(T):
            if mask is not None and not mask[b, t]:
                continue  # a padding token's numbers are nobody's
            (gradient,) = torch.autograd.grad(out[b, t].sum(), vectors, retain_graph=True)
            assert (gradient[b, t + 1 :] == 0).all(), f"position {t} sees the future"
            assert (gradient[1 - b] == 0).all(), "the rows of a batch mix"
            for s in range(t + 1):
                seen = mask is None or bool(mask[b, s])
                assert (gradient[b, s] != 0).any() == seen, (
                    f"position {t} must {'' if seen else 'not '}see {s}"
                )


@pytest.mark.parametrize("positions", POSITIONS)
def test_an_encoder_sees_all_real_tokens_and_no_padding(positions):
    ours = stack("encoder", positions=positions)
    vectors = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    out = ours(vectors, RIGHT)[-1]
    (gradient,) = torch.autograd.grad(out[0, 0].sum(), vectors)
    assert (gradient[0, 1:3] != 0).any(-1).all(), "an encoder's first token must see the later ones"
    assert (gradient[0, 3:] == 0).all(), "padding is seen"


def test_cross_attention_sees_the_memory_and_none_of_its_padding():
    ours = stack("cross")
    memory = torch.randn(B, S, D, dtype=torch.float64, requires_grad=True)
    memory_mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
    out = ours(torch.randn(B, T, D, dtype=torch.float64), RIGHT, None, memory, memory_mask)[-1]
    (gradient,) = torch.autograd.grad(out[0, 0].sum() + out[1, 0].sum(), memory)
    assert torch.equal((gradient != 0).any(-1), memory_mask.bool()), (
        "every real token of the memory, no padding"
    )


@pytest.mark.parametrize("portions", [[1] * T, [2, 1, 2], [T]], ids=str)
@pytest.mark.parametrize("kind", ["decoder", "cross"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_stack_with_caches_equals_without(positions, kind, portions):
    ours = stack(kind, positions=positions)
    vectors = torch.randn(B, T, D, dtype=torch.float64)
    memory = torch.randn(B, S, D, dtype=torch.float64) if kind == "cross" else None
    memory_mask = torch.tensor([[1] * 4 + [0] * 3, [1] * S]) if kind == "cross" else None
    whole = ours(vectors, LEFT, None, memory, memory_mask)
    caches, done = [BlockCache(9, S) for _ in ours.blocks], 0
    for piece in vectors.split(portions, 1):
        end = done + piece.shape[1]
        part = ours(piece, LEFT[:, :end], None, memory, memory_mask, caches)
        for ours_now, all_at_once in zip(part, whole, strict=True):
            difference = (ours_now - all_at_once[:, done:end]).abs()[LEFT[:, done:end] == 1]
            assert difference.numel() == 0 or difference.max() < 1e-10, f"tokens {done} to {end - 1} drift"
        done = end


@pytest.mark.parametrize("positions", POSITIONS)
def test_too_many_tokens_are_refused(positions):
    ours = stack("decoder", positions=positions)
    ours(torch.randn(B, 9, D, dtype=torch.float64))
    with pytest.raises(UserError, match="10 tokens.* 9 positions"):
        ours(torch.randn(B, 10, D, dtype=torch.float64))
    caches = [BlockCache(20) for _ in ours.blocks]
    ours(torch.randn(B, 7, D, dtype=torch.float64), caches=caches)
    with pytest.raises(UserError, match="10 tokens"):
        ours(torch.randn(B, 3, D, dtype=torch.float64), caches=caches)


def test_a_mask_of_another_length_is_refused():
    """(B, 1) would broadcast silently; with a cache the mask covers the past, too."""
    ours, vectors = stack("decoder"), torch.randn(B, T, D, dtype=torch.float64)
    for columns in (1, T - 1, T + 1):
        with pytest.raises(ValueError, match="attention_mask"):
            ours(vectors, torch.ones(B, columns))


def test_caches_need_all_positions():
    """The last block would keep nothing of the others, and the next token would see too little, silently."""
    ours, vectors = stack("decoder"), torch.randn(B, T, D, dtype=torch.float64)
    caches = [BlockCache(T) for _ in ours.blocks]
    with pytest.raises(ValueError, match="caches need all positions"):
        ours(vectors, caches=caches, wanted=slice(-1, None))


def test_alibi_knows_the_order():
    """Without its bias an encoder would give each token the same output wherever it stands."""
    ours, vectors = stack("encoder", positions="alibi"), torch.randn(B, T, D, dtype=torch.float64)
    turned = ours(vectors.flip(1))[-1].flip(1)
    assert torch.allclose(turned, ours(vectors)[-1]), "distance is the same in both directions"
    other = ours(vectors[:, [0, 2, 1, 3, 4]])[-1][:, [0, 2, 1, 3, 4]]
    assert not torch.allclose(other, ours(vectors)[-1], atol=1e-3), "the order of the tokens is lost"


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", ["decoder", "cross", "encoder"])
def test_the_last_positions_alone_are_what_they_are_among_all(kind, positions, norm):
    ours = stack(kind, positions=positions, norm=norm, final_norm=True)
    vectors = torch.randn(B, T, D, dtype=torch.float64)
    memory = torch.randn(B, S, D, dtype=torch.float64) if kind == "cross" else None
    for mask in (None, LEFT):
        whole = ours(vectors, mask, None, memory)
        for n in (1, 2, T):
            part = ours(vectors, mask, None, memory, wanted=slice(-n, None))
            assert part[-1].shape == (B, n, D) and part[-2].shape == (B, T, D)
            assert torch.allclose(part[-1], whole[-1][:, -n:]), (
                f"the last {n} positions must look at all {T}, with the bias of their own rows"
            )


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_first_positions_of_an_encoder_alone_are_what_they_are_among_all(positions, norm):
    ours = stack("encoder", positions=positions, norm=norm, final_norm=True)
    vectors = torch.randn(B, T, D, dtype=torch.float64)
    for mask in (None, LEFT):
        whole = ours(vectors, mask)
        for n in (1, 2, T):
            part = ours(vectors, mask, wanted=slice(n))
            assert part[-1].shape == (B, n, D) and part[-2].shape == (B, T, D)
            assert torch.allclose(part[-1], whole[-1][:, :n]), f"the first {n} must look at all {T}"
