"""Grades what the models of model/transformer.py see: no padding, nothing later, the same with a cache."""

import pytest
import torch
from unequal import KINDS, PAD, POSITIONS, B, S, T, V, config, ids, inputs, model

from minilm.model.transformer import build

both_paths = pytest.mark.parametrize("explicit", [False, True], ids=["fast", "explicit"])
every_position = pytest.mark.parametrize("positions", POSITIONS)
every_kind = pytest.mark.parametrize("kind", KINDS)
SEGMENTS = {"encoder": 2, "decoder": 0, "encoder-decoder": 2}


def padded(kind: str, side: str) -> tuple[dict, dict, torch.Tensor]:
    """Arguments of a batch with padding, of its short row alone, and where that row has its logits."""
    mask, given = PAD[side], dict(input_ids=ids(B, S), attention_mask=PAD[side])
    real = mask[0].bool()
    alone = dict(input_ids=given["input_ids"][:1, real])
    if SEGMENTS[kind]:
        given |= dict(token_type_ids=torch.randint(2, (B, S)))
        alone |= dict(token_type_ids=given["token_type_ids"][:1, real])
    if kind == "encoder-decoder":
        decoder_mask = PAD["right"][:, 2:] if side == "right" else PAD["left"][:, :-2]
        given |= dict(decoder_input_ids=ids(B, T), decoder_attention_mask=decoder_mask)
        real = decoder_mask[0].bool()
        alone |= dict(decoder_input_ids=given["decoder_input_ids"][:1, real])
    return given, alone, real


@both_paths
@pytest.mark.parametrize("side", PAD)
@every_position
@every_kind
def test_a_sentence_alone_equals_the_same_in_a_padded_batch(kind, positions, side, explicit):
    m = model(kind, positions=positions, n_segments=SEGMENTS[kind]).use_explicit_attention(explicit)
    given, alone, real = padded(kind, side)
    difference = m(**given)[0, real] - m(**alone)[0]
    assert difference.abs().max() < 1e-5, "padding is seen, or shifts the positions"


@both_paths
@every_position
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_changing_a_token_changes_no_logit_before_it(kind, positions, explicit):
    m, given = model(kind, positions=positions).use_explicit_attention(explicit), inputs(kind)
    name = "input_ids" if kind == "decoder" else "decoder_input_ids"
    before = m(**given)
    for t in range(T):
        changed = given[name].clone()
        changed[:, t] = (changed[:, t] + 1) % V
        difference = (m(**(given | {name: changed})) - before).abs().amax(-1)  # (B, T)
        assert (difference[:, :t] < 1e-6).all(), f"logits before position {t} see it"
        assert (difference[:, t:] > 1e-4).all(), f"logits from position {t} on must see it"


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_every_logit_sees_every_token_of_the_encoder(kind):
    m, given = model(kind), inputs(kind)
    before = m(**given)
    for s in range(S):
        changed = given["input_ids"].clone()
        changed[:, s] = (changed[:, s] + 1) % V
        difference = (m(**(given | dict(input_ids=changed))) - before).abs().amax(-1)
        assert (difference > 1e-5).all(), f"some position does not see token {s} of the encoder"


@both_paths
@pytest.mark.parametrize("portions", [[1] * T, [3, 2], [2, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("mask", [None, PAD["left"][:, :-2]], ids=["full", "left"])
@every_position
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_cached_equals_uncached_at_each_step(kind, positions, mask, portions, explicit):
    m, tokens = model(kind, positions=positions).use_explicit_attention(explicit), ids(B, T)
    memory = memory_mask = None
    if kind == "encoder-decoder":
        memory_mask = PAD["right"]
        memory = m.encode(ids(B, S), memory_mask)[-1]
    whole = m.vocabulary_logits(m.decode(tokens, mask, memory, memory_mask)[-1])
    caches, done, logits = m.new_caches(T, S), 0, []
    for piece in tokens.split(portions, 1):
        done += piece.shape[1]
        seen = None if mask is None else mask[:, :done]
        logits.append(m.vocabulary_logits(m.decode(piece, seen, memory, memory_mask, caches)[-1]))
    real = torch.ones(B, T, dtype=torch.bool) if mask is None else mask.bool()
    assert (torch.cat(logits, 1) - whole)[real].abs().max() < 1e-5, "are positions, mask or keys wrong?"


def test_new_caches_are_one_per_decoder_block_and_overflow_is_an_error():
    m = model("decoder")
    caches = m.new_caches(3)
    assert [(own.max_length, cross.max_length) for own, cross in caches] == [(3, 0)] * 2
    m.decode(ids(B, 3), caches=caches)
    with pytest.raises(RuntimeError, match="exceeds dimension size"):
        m.decode(ids(B, 1), caches=caches)


@both_paths
@pytest.mark.parametrize("side", PAD)
@every_position
@every_kind
def test_bfloat16_stays_finite_and_near(kind, positions, side, explicit):
    """Under autocast, and with the weights themselves in bfloat16."""
    m = build(config(kind, positions=positions, n_segments=SEGMENTS[kind])).eval()
    m.use_explicit_attention(explicit)
    given, _, real = padded(kind, side)
    exact = m(**given)[0, real]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = m(**given)
        mixed.float().logsumexp(-1).sum().backward()
    assert all(p.grad.isfinite().all() for p in m.parameters())
    half = m.bfloat16()(**given)
    assert half.dtype == torch.bfloat16
    for out in (mixed, half):
        assert out.isfinite().all()
        assert (out.float()[0, real] - exact).abs().max() < 0.05
