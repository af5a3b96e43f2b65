"""Grades model/draft.py: cached, padded, slid and reordered, a row has the logits of its text alone."""

import pytest
import torch
from unequal import PROMPTS, writer

from minilm.model.draft import Draft, pad
from minilm.plumbing.errors import UserError

V = 11
KINDS = ["decoder", "encoder-decoder"]
STYLES = [
    dict(positions="learned", norm="pre", final_norm=True),
    dict(positions="alibi", norm="pre", position_offset=2),
    dict(positions="sinusoidal", norm="post", embedding_norm=True, scale_embeddings=True),
]


def draft_of(model, n_new: int) -> Draft:
    """A draft of PROMPTS; that of an encoder-decoder keeps what its encoder read as `source`."""
    if model.encoder is None:
        return Draft(model, PROMPTS, n_new)
    encoder_ids, mask = torch.randint(V, (len(PROMPTS), 7)), torch.ones(len(PROMPTS), 7, dtype=torch.bool)
    mask[0, 4:] = False
    draft = Draft(model, PROMPTS, n_new, 0, model.encode(encoder_ids, mask)[-1], mask)
    draft.source = encoder_ids, mask
    return draft


def alone(draft: Draft, text: list[int], row: int) -> torch.Tensor:
    """The logits after one text, read on its own without a cache."""
    if draft.model.encoder is None:
        return draft.model(torch.tensor([text]))[0, -1]
    encoder_ids, mask = draft.source
    own, text = encoder_ids[row : row + 1, : mask[row].sum()], torch.tensor([text])
    return draft.model(own, decoder_input_ids=text)[0, -1]


def test_pad_fills_the_chosen_side():
    left, mask = pad([[1, 2, 3], [4], []], 9, "left")
    assert left.tolist() == [[1, 2, 3], [9, 9, 4], [9, 9, 9]] and left.dtype == torch.long
    assert mask.tolist() == [[True] * 3, [False, False, True], [False] * 3]
    right, mask = pad([[1, 2, 3], [4]], 9, "right")
    assert right.tolist() == [[1, 2, 3], [4, 9, 9]] and mask.tolist() == [[True] * 3, [True, False, False]]
    assert pad([[1, 2], [3, 4]], 9, "left")[1] is None, "without padding there is no mask to compute with"


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style["positions"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cached_logits_are_those_of_each_text_alone_at_every_step(kind, style):
    """Also where a text outgrows the positions: it goes on as if it had begun with its newest part."""
    draft = draft_of(writer(kind, **style, max_positions=8), 20)
    seen = [list(prompt) for prompt in PROMPTS]  # what each row should see, slid on its own
    for step in range(20):
        logits = draft.next_logits()
        assert logits.shape == (3, V)
        for row, text in enumerate(seen):
            if len(text) > 8:
                del text[:-6]  # the oldest quarter is forgotten
            want = alone(draft, text, row)
            assert torch.allclose(logits[row], want, atol=1e-5), f"step {step}, row {row}: not as alone"
        token = torch.randint(V, (3,))
        for text, new in zip(seen, token.tolist(), strict=True):
            text.append(new)
        draft.append(token)


@pytest.mark.parametrize(
    ("prompts", "expected"), [(PROMPTS, [5, 1, 1, 1, 8]), ([[3] * 8], [8, 6, 1, 1, 6])], ids=["short", "long"]
)
@torch.no_grad()
def test_a_step_reads_one_token(prompts, expected):
    model, widths = writer(max_positions=8), []
    decode = model.decode
    model.decode = lambda ids, *rest: widths.append(ids.shape[1]) or decode(ids, *rest)
    draft = Draft(model, prompts, 5)
    for _ in range(5):
        draft.next_logits()
        draft.append(torch.full((len(prompts),), 2))
    told = "the prompt once, then the newest token; where a text is cut, at nine tokens, all are read anew"
    assert widths == expected, told


def test_a_draft_takes_no_more_than_it_needs():
    draft = Draft(writer(max_positions=8), [[1, 2, 3], [4, 5, 6]], 2)
    assert draft.mask is None, "where nothing is padded no mask is computed with"
    assert draft.caches[0][0].max_length == 5, "3 tokens and 2 more"
    draft = Draft(writer(max_positions=8), [[3] * 8], 1)
    draft.append(torch.tensor([2]))
    draft.next_logits()
    assert draft.caches[0][0].max_length == 6, "of 9 columns the first 3 are forgotten"
    for kind, n_read in (("decoder", 0), ("encoder-decoder", 7)):
        assert {past.max_length for _, past in draft_of(writer(kind), 2).caches} == {n_read}


def test_a_model_without_numbers_is_told_at_its_first_step():
    model = writer()
    torch.nn.init.constant_(model.tokens.weight, float("nan"))
    with pytest.raises(UserError, match="logits are NaN"):
        draft_of(model, 2).next_logits()


def test_a_draft_has_room_that_is_filled_up():
    assert Draft(writer(), [[3], [4, 5]], 2).ids.tolist() == [[0, 3, 0, 0], [4, 5, 0, 0]], "filled up with 0"
    draft = Draft(writer(), [[3], [4, 5]], 2, pad_id=7)
    draft.append(torch.tensor([1, 2]))
    assert draft.ids.tolist() == [[7, 3, 1, 7], [4, 5, 2, 7]] and draft.length == 3


@torch.no_grad()
def test_of_one_position_the_newest_token_stays():
    draft = Draft(writer(max_positions=1), [[3]], 1)
    draft.append(torch.tensor([7]))
    assert torch.allclose(draft.next_logits()[0], draft.model(torch.tensor([[7]]))[0, -1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_move_with_all_that_belongs_to_them(kind):
    draft = draft_of(writer(kind), 6)
    draft.next_logits()
    draft.reorder(torch.arange(3).repeat_interleave(2))  # two texts a prompt
    draft.append(torch.arange(6))
    draft.next_logits()
    draft.reorder(torch.tensor([1, 0, 2, 2, 5, 5]))  # within each prompt
    draft.append(torch.arange(6) + 3)
    texts = [PROMPTS[i // 2] + [first, i + 3] for i, first in enumerate([1, 0, 2, 2, 5, 5])]
    assert draft.ids[:, 5].tolist() == [1, 0, 2, 2, 5, 5]
    assert draft.first == [0, 0, 3, 3, 1, 1], "the columns where texts begin move with their rows"
    for row, (text, logits) in enumerate(zip(texts, draft.next_logits(), strict=True)):
        want = alone(draft, text, row // 2)
        assert torch.allclose(logits, want, atol=1e-5), f"row {row} does not continue its own text"
