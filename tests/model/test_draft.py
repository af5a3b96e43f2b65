"""Grades model/draft.py: cached, padded, slid and reordered, a row has the logits of its text alone."""

import pytest
import torch

from minilm.model.config import ModelConfig
from minilm.model.draft import KEPT, Draft, pad
from minilm.model.transformer import build

V = 11
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5]]
STYLES = [
    dict(positions="learned", norm="pre", final_norm=True),
    dict(positions="alibi", norm="pre", position_offset=2),
    dict(positions="sinusoidal", norm="post", embedding_norm=True, scale_embeddings=True),
]


def model_of(kind: str, **fields):
    layers = dict(n_decoder_layer=2) if kind == "decoder" else dict(n_encoder_layer=1, n_decoder_layer=2)
    sizes = dict(vocab_size=V, d_model=12, n_head=3, d_ff=20, max_positions=16, dropout=0.0, init_std=0.3)
    return build(ModelConfig(**(sizes | layers | dict(attention_dropout=0.0) | fields))).eval()


def draft_of(kind: str, model, prompts, n_new: int, **options) -> Draft:
    if kind == "decoder":
        return Draft(model, prompts, n_new, **options)
    torch.manual_seed(1)
    encoder_ids, mask = torch.randint(V, (len(prompts), 7)), torch.ones(len(prompts), 7, dtype=torch.bool)
    mask[0, 4:] = False
    draft = Draft(
        model, prompts, n_new, memory=model.encode(encoder_ids, mask)[-1], memory_mask=mask, **options
    )
    draft.source = encoder_ids, mask
    return draft


def alone(model, text: list[int], source=None, row: int = 0) -> torch.Tensor:
    """The logits after one text, read on its own without a cache."""
    if source is None:
        return model(torch.tensor([text]))[0, -1]
    encoder_ids = source[0][row : row + 1, : source[1][row].sum()]
    return model(encoder_ids, decoder_input_ids=torch.tensor([text]))[0, -1]


def test_pad_fills_the_chosen_side():
    left, mask = pad([[1, 2, 3], [4]], 9, "left")
    assert left.tolist() == [[1, 2, 3], [9, 9, 4]] and mask.tolist() == [[True] * 3, [False, False, True]]
    right, mask = pad([[1, 2, 3], [4]], 9, "right")
    assert right.tolist() == [[1, 2, 3], [4, 9, 9]] and mask.tolist() == [[True] * 3, [True, False, False]]
    assert pad([[1, 2], [3, 4]], 9, "left")[1] is None, "without padding there is no mask to compute with"


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style["positions"])
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@torch.no_grad()
def test_cached_logits_are_those_of_each_text_alone_at_every_step(kind, style):
    model, texts = model_of(kind, **style), [list(prompt) for prompt in PROMPTS]
    draft = draft_of(kind, model, PROMPTS, 6)
    plain = draft_of(kind, model, PROMPTS, 6, use_cache=False)
    for step in range(6):
        cached, uncached = draft.next_logits(), plain.next_logits()
        assert cached.shape == (3, V)
        assert torch.allclose(cached, uncached, atol=1e-5), f"step {step}: the cache changes the logits"
        for row, text in enumerate(texts):
            want = alone(model, text, getattr(draft, "source", None), row)
            assert torch.allclose(cached[row], want, atol=1e-5), f"step {step}, row {row}: not as alone"
        token = torch.randint(V, (3,))
        for text, new in zip(texts, token.tolist(), strict=True):
            text.append(new)
        draft.append(token, torch.zeros(3))
        plain.append(token, torch.zeros(3))


@torch.no_grad()
def test_a_step_reads_one_token():
    model, widths = model_of("decoder"), []
    decode = model.decode
    model.decode = lambda ids, *rest: widths.append(ids.shape[1]) or decode(ids, *rest)
    draft = Draft(model, PROMPTS, 3)
    for _ in range(3):
        draft.next_logits()
        draft.append(torch.zeros(3, dtype=torch.long), torch.zeros(3))
    assert widths == [5, 1, 1], "the prompt is read once, then only the newest token"


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_a_text_that_outgrows_the_positions_keeps_its_newest_part(use_cache):
    model = model_of("decoder", max_positions=8)
    seen = [list(prompt) for prompt in PROMPTS]  # what each row should see, slid on its own
    draft = Draft(model, PROMPTS, 20, use_cache=use_cache)
    for step in range(20):
        logits = draft.next_logits()
        for row, text in enumerate(seen):
            if len(text) > 8:
                del text[: -int(KEPT * 8)]
            want = alone(model, text)
            assert torch.allclose(logits[row], want, atol=1e-5), f"step {step}, row {row}: not as alone"
        token = torch.randint(V, (3,))
        for text, new in zip(seen, token.tolist(), strict=True):
            text.append(new)
        draft.append(token, torch.zeros(3))


@torch.no_grad()
def test_append_records_tokens_and_log_probabilities():
    draft = Draft(model_of("decoder"), PROMPTS, 2, pad_id=7)
    assert draft.ids[1].tolist() == [7, 7, 7, 9, 2, 7, 7] and draft.length == 5
    draft.append(torch.tensor([1, 2, 3]), torch.tensor([-1.0, -2.0, -3.0]))
    assert draft.length == 6 and draft.ids[:, 5].tolist() == [1, 2, 3]
    assert draft.log_probs[:, 5].tolist() == [-1.0, -2.0, -3.0]
    assert draft.log_probs[:, :5].abs().sum() == 0, "the prompt was given, not drawn"


@torch.no_grad()
def test_tokens_seen_are_those_of_the_text():
    draft = Draft(model_of("decoder"), PROMPTS, 2, pad_id=7)
    draft.seen = draft.tokens_seen()
    have = [set(torch.nonzero(row)[:, 0].tolist()) for row in draft.seen]
    assert have == [{1, 3, 4, 5}, {2, 9}, {3, 5, 6}], "padding is not part of a text"
    draft.append(torch.tensor([8, 8, 0]), torch.zeros(3))
    draft.reorder(torch.tensor([2, 0, 0]))
    have = [set(torch.nonzero(row)[:, 0].tolist()) for row in draft.seen]
    assert have == [{0, 3, 5, 6}, {1, 3, 4, 5, 8}, {1, 3, 4, 5, 8}], "what is seen moves with its row"


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@torch.no_grad()
def test_rows_move_with_all_that_belongs_to_them(kind, use_cache):
    model = model_of(kind)
    draft = draft_of(kind, model, PROMPTS, 6, use_cache=use_cache)
    source = getattr(draft, "source", None)
    draft.next_logits()
    draft.reorder(torch.arange(3).repeat_interleave(2))  # two texts a prompt
    draft.append(torch.arange(6), -torch.arange(6.0))
    draft.next_logits()
    draft.reorder(torch.tensor([1, 0, 2, 2, 5, 5]))  # within each prompt
    draft.append(torch.arange(6) + 3, torch.zeros(6))
    texts = [PROMPTS[i // 2] + [first, i + 3] for i, first in enumerate([1, 0, 2, 2, 5, 5])]
    assert draft.log_probs[:, 5].tolist() == [-1.0, 0.0, -2.0, -2.0, -5.0, -5.0]
    for row, (text, logits) in enumerate(zip(texts, draft.next_logits(), strict=True)):
        want = alone(model, text, source, row // 2)
        assert torch.allclose(logits, want, atol=1e-5), f"row {row} does not continue its own text"
