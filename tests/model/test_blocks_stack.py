"""Grades the stack of model/blocks.py: what it returns, sees and keeps, and chosen positions alone."""

import pytest
import torch
from unequal import POSITIONS, B, D, S, T, config, randomise

from minilm.model.attention import KeyValueCache
from minilm.model.blocks import FeedForward, Stack, real_indices
from minilm.plumbing.errors import UserError

LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = LEFT.flip(1)
MEMORY_MASK = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
every_position = pytest.mark.parametrize("positions", POSITIONS)


def stack(kind: str, n_layer: int = 2, **fields) -> Stack:
    """An encoder, or a decoder with or without cross-attention, in float64."""
    causal, cross = kind != "encoder", kind == "cross"
    return randomise(Stack(config(**dict(max_positions=9) | fields), n_layer, causal, cross)).double().eval()


def random(length: int = T) -> torch.Tensor:
    return torch.randn(B, length, D, dtype=torch.float64)


def caches_of(ours: Stack, max_length: int) -> list:
    return [(KeyValueCache(max_length), KeyValueCache(S)) for _ in ours.blocks]


@pytest.mark.parametrize("final_norm", [False, True])
def test_stack_returns_the_embeddings_and_every_block(final_norm):
    ours, vectors = stack("encoder", final_norm=final_norm), random()
    states = ours(vectors)
    assert [state.shape for state in states] == [(B, T, D)] * 3, "n_layer + 1 hidden states"
    assert torch.allclose(states[0], vectors + ours.embeddings.position.weight[:T]), "embeddings come first"
    assert torch.allclose(states[1], ours.blocks[0](states[0], None, False))
    last = ours.blocks[1](states[1], None, False)
    assert torch.allclose(states[2], ours.norm(last) if final_norm else last), "normalise only the last one"


def test_stack_passes_segments_on():
    ours, vectors, b = stack("encoder", n_segments=2), random(), torch.ones(B, T, dtype=torch.long)
    assert (ours(vectors, None, b)[-1] - ours(vectors, None, 0 * b)[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("side", ["full", "left", "right"])
@every_position
def test_gradient_of_a_decoder_to_later_tokens_is_exactly_zero(positions, side):
    ours, mask = stack("decoder", positions=positions), dict(full=None, left=LEFT, right=RIGHT)[side]
    vectors = random().requires_grad_()
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
                assert (gradient[b, s] != 0).any() == seen, f"position {t} sees {s}: must be {seen}"


@every_position
def test_an_encoder_sees_all_real_tokens_and_no_padding(positions):
    ours, vectors = stack("encoder", positions=positions), random().requires_grad_()
    (gradient,) = torch.autograd.grad(ours(vectors, RIGHT)[-1][0, 0].sum(), vectors)
    assert (gradient[0, 1:3] != 0).any(-1).all(), "an encoder's first token must see the later ones"
    assert (gradient[0, 3:] == 0).all(), "padding is seen"


def test_cross_attention_sees_the_memory_and_none_of_its_padding():
    memory = random(S).requires_grad_()
    out = stack("cross")(random(), RIGHT, None, memory, MEMORY_MASK)[-1]
    (gradient,) = torch.autograd.grad(out[0, 0].sum() + out[1, 0].sum(), memory)
    assert torch.equal((gradient != 0).any(-1), MEMORY_MASK.bool()), "every real token, no padding"


@every_position
def test_too_many_tokens_are_refused(positions):
    ours = stack("decoder", positions=positions)
    ours(random(9))
    with pytest.raises(UserError, match="10 tokens.* 9 positions"):
        ours(random(10))
    caches = caches_of(ours, 20)
    ours(random(7), caches=caches)
    with pytest.raises(UserError, match="10 tokens"):
        ours(random(3), caches=caches)


@pytest.mark.parametrize("mask", [None, LEFT], ids=["full", "left"])
@every_position
@pytest.mark.parametrize("kind", ["decoder", "cross"])
def test_a_text_read_in_portions_is_what_it_is_at_once(kind, positions, mask):
    ours, vectors = stack(kind, positions=positions), random()
    memory = (random(S), MEMORY_MASK) if kind == "cross" else (None, None)
    whole = ours(vectors, mask, None, *memory)[-1]
    caches, done = caches_of(ours, T), 0
    for piece in vectors.split([2, 1, 2], 1):
        n, done = done, done + piece.shape[1]
        found = ours(piece, None if mask is None else mask[:, :done], None, *memory, caches)[-1]
        read = torch.ones(B, done - n).bool() if mask is None else mask[:, n:done].bool()
        assert torch.allclose(found[read], whole[:, n:done][read]), f"tokens {n} to {done - 1}"
    if mask is None:
        assert torch.allclose(ours(vectors[:, :2], None, None, *memory)[-1], whole[:, :2]), "two tokens alone"


def test_one_token_alone_needs_no_mask():
    masked = [stack("decoder").prepare(random(n))[2] for n in (1, 2)]
    assert masked == [False, True], "the newest token looks at all there is: a mask would only cost time"


def test_a_mask_of_another_length_is_refused():
    """(B, 1) would broadcast silently; with a cache the mask covers the past, too."""
    for columns in (1, T - 1, T + 1):
        with pytest.raises(ValueError, match="attention_mask"):
            stack("decoder")(random(), torch.ones(B, columns))


def test_alibi_knows_the_order():
    """Without its bias an encoder would give each token the same output wherever it stands."""
    ours, vectors = stack("encoder", positions="alibi"), random()
    turned = ours(vectors.flip(1))[-1].flip(1)
    assert torch.allclose(turned, ours(vectors)[-1]), "distance is the same in both directions"
    other = ours(vectors[:, [0, 2, 1, 3, 4]])[-1][:, [0, 2, 1, 3, 4]]
    assert not torch.allclose(other, ours(vectors)[-1], atol=1e-3), "the order of the tokens is lost"


@every_position
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_padded_text_is_what_it_is_alone(kind, positions):
    ours, vectors = stack(kind, positions=positions), random()
    alone = ours(vectors[:1, 2:])[-1]
    assert torch.allclose(ours(vectors, LEFT)[-1][0, 2:], alone[0]), "padding changed its order, or was seen"


@pytest.mark.parametrize(("norm", "n_layer"), [("post", 1), ("pre", 3)])
@every_position
@pytest.mark.parametrize("kind", ["decoder", "cross", "encoder"])
def test_chosen_positions_alone_are_what_they_are_among_all(kind, positions, norm, n_layer):
    ours = stack(kind, n_layer, positions=positions, norm=norm, final_norm=True)
    vectors, memory = random(), (random(S), MEMORY_MASK) if kind == "cross" else ()
    some = [slice(-1, None), slice(-2, None), slice(-T, None)]
    some += [slice(1), slice(2), slice(T), slice(1, 2)] if kind == "encoder" else []
    for length, mask in ((T, None), (T, LEFT), (2, None), (2, LEFT[:, -2:])):
        given = vectors[:, -length:], mask, None, *memory
        whole = ours(*given)
        for chosen in some:
            *before, last = ours.forward_at(chosen, *given)
            assert all(map(torch.equal, before, whole[:-1])), "the blocks before compute every position"
            assert last.shape == whole[-1][:, chosen].shape, f"{chosen}: one row of bias may serve all"
            assert torch.allclose(last, whole[-1][:, chosen]), f"{chosen} must look at all, with its own bias"


FEW = torch.tensor([[0, 0, 0, 1, 1], [1, 0, 0, 0, 0]])  # 7 of 10 are padding, on both sides


def test_the_feed_forward_part_adds_nothing_at_padding():
    part, x, real = FeedForward(config()), torch.randn(3, 4, D), torch.tensor([1, 6])
    found, plain = part.forward_unpadded(x, real).flatten(0, 1), part(x).flatten(0, 1)
    torch.testing.assert_close(found[real], plain[real])
    assert found.abs().sum(1).nonzero()[:, 0].tolist() == [1, 6], "0 in the place of padding"


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("kind", ["decoder", "cross", "encoder"])
def test_where_most_is_padding_the_real_tokens_are_what_they_are_with_it(kind, norm, monkeypatch):
    ours = stack(kind, norm=norm, final_norm=True)
    vectors, memory = random().requires_grad_(), random(S) if kind == "cross" else None
    seen = []
    ours.blocks[0].feed_forward.up.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    found, weight = {}, torch.randn(3, D, dtype=torch.float64)
    for way in ("few", "all"):
        if way == "all":
            monkeypatch.setattr("minilm.model.blocks.real_indices", lambda mask: None)
        last = ours(vectors, FEW, None, memory, None if memory is None else MEMORY_MASK)[-1]
        ours.zero_grad()
        (gradient,) = torch.autograd.grad((last[FEW == 1] * weight).sum(), vectors, retain_graph=True)
        (last[FEW == 1] * weight).sum().backward()
        found[way] = [last[FEW == 1], gradient, *(p.grad.clone() for p in ours.blocks.parameters())]
    assert seen == [(3, D), (B, T, D)], "the feed-forward part must read only the 3 real tokens"
    for few, whole in zip(found["few"], found["all"], strict=True):
        torch.testing.assert_close(few, whole, msg="each token's result has to come back to its own place")


def test_real_indices_tokens_are_found_where_two_fifths_and_more_are_padding(monkeypatch):
    assert real_indices(FEW).tolist() == [3, 4, 5]
    assert real_indices(torch.tensor([[1, 1, 1, 0, 0]])).tolist() == [0, 1, 2]
    assert real_indices(torch.cat([FEW, FEW])).tolist() == [3, 4, 5, 13, 14, 15]
    assert real_indices(torch.tensor([[1, 1, 1, 1, 0, 0]])) is None
    assert real_indices(RIGHT) is real_indices(None) is None
    assert real_indices(FEW.to("meta")) is None, "a GPU would have to wait for their number"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert real_indices(FEW) is None


def test_with_real_indices_tokens_the_feed_forward_part_keeps_the_type_of_autocast():
    ours = stack("encoder").float()
    with torch.autocast("cpu", torch.bfloat16):
        last = ours(random().float(), FEW)[-1]
    assert last.dtype == torch.float32 and last.isfinite().all()
