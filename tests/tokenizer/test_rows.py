"""Grades tokenizer/rows.py: a text becomes the row that the model was trained on."""

from types import SimpleNamespace

import pytest
import small
import torch

from minilm.model.config import ModelConfig
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import (
    decoder_begin,
    framed,
    pair_rows,
    prompt_ids,
    room_of,
    starts_of,
    text_ids,
    text_rows,
    word_ids,
)

TOKENIZER = small.tokenizer()
PAD, CLS, SEP, END = map(TOKENIZER.special_id, ("[PAD]", "[CLS]", "[SEP]", "<|endoftext|>"))
ENCODER = ModelConfig(n_encoder_layer=1, n_segments=2, max_positions=30)
DECODER = ModelConfig(n_decoder_layer=1, max_positions=30)
BOTH = ModelConfig(n_encoder_layer=1, n_decoder_layer=1, max_positions=30)
A, B = "Rui sells bread.", "Ana found a lamp on Monday."


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_a_text_is_framed_as_in_pre_training():
    assert text_rows(TOKENIZER, ENCODER, [A]).ids == [[CLS, *ids(" " + A), SEP]], "a space before the text"
    assert text_rows(TOKENIZER, BOTH, [A]).ids == [[CLS, *ids(" " + A), SEP]]
    assert text_rows(TOKENIZER, DECODER, [A]).ids == [[END, *ids(A), END]], "a GPT reads no space there"


def test_a_prompt_is_a_text_that_has_begun():
    assert prompt_ids(TOKENIZER, DECODER, A) == [END, *ids(A)], "with its end no decoder would go on"
    assert prompt_ids(TOKENIZER, BOTH, A) == [CLS, *ids(" " + A), SEP], "the encoder reads a whole text"


def test_a_decoder_begins_with_cls_and_that_of_a_published_bart_with_its_start_before_it():
    assert decoder_begin(TOKENIZER) == [CLS]
    bart = SimpleNamespace(aliases={"[START]": "</s>"}, special_id={"[START]": 2, "[CLS]": 0}.get)
    assert decoder_begin(bart) == [2, 0], "BART's labels are shifted by </s>: </s> <s> text"


def test_special_tokens_in_a_text_are_text():
    assert SEP not in text_ids(TOKENIZER, ENCODER, "one [SEP] two")


@pytest.mark.parametrize("config", [ENCODER, DECODER, BOTH])
def test_words_are_cut_as_in_a_text(config):
    words = ["Rui", "sells", "quinces", ".", "Ana", ",", "too", "!"]
    pieces = word_ids(TOKENIZER, config, words)
    flat = [token for piece in pieces for token in piece]
    assert flat == text_ids(TOKENIZER, config, "Rui sells quinces. Ana, too!"), "not as in pre-training"
    assert len(pieces) == len(words) and starts_of([[5, 6], [7], [8, 9, 9], [1]]) == [0, 2, 3, 6]


def test_a_pair_has_a_separator_and_two_segments():
    rows = text_rows(TOKENIZER, ENCODER, [A], [B])
    a, b = ids(" " + A), ids(" " + B)
    assert rows.ids == [[CLS, *a, SEP, *b, SEP]]
    assert rows.segments == [[0] * (len(a) + 2) + [1] * (len(b) + 1)]
    assert text_rows(TOKENIZER, BOTH, [A], [B]).segments is None, "this model has no segments"
    assert text_rows(TOKENIZER, DECODER, [A], [B]).ids == [[END, *ids(A), END, *ids(B), END]]


def test_published_vocabularies_with_s_have_two_separators_between_texts():
    class Published:
        special_tokens = ("<s>", "</s>")

        def special_id(self, token):
            return {"[CLS]": 0, "[SEP]": 2}[token]

    assert framed(Published(), ENCODER, [7], [8, 9]) == ([0, 7, 2, 2, 8, 9, 2], [0, 0, 0, 0, 1, 1, 1])
    assert framed(Published(), ENCODER, [7]) == ([0, 7, 2], [0, 0, 0])


def test_a_batch_is_padded_on_the_right():
    rows = text_rows(TOKENIZER, ENCODER, [A, B, A], [B, A, A])
    batch = rows.batch([2, 0])
    n = [len(rows.ids[2]), len(rows.ids[0])]
    assert batch["input_ids"].shape == (2, max(n))
    for row, (i, length) in enumerate(zip([2, 0], n, strict=True)):
        assert batch["input_ids"][row, :length].tolist() == rows.ids[i]
        assert (batch["input_ids"][row, length:] == PAD).all()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (max(n) - length)
        assert batch["token_type_ids"][row, :length].tolist() == rows.segments[i]
    assert all(value.dtype == torch.int64 for value in batch.values())
    assert batch["attention_mask"].shape == (2, max(n))
    assert "token_type_ids" not in text_rows(TOKENIZER, BOTH, [A]).batch([0])
    assert len(rows) == 3


def slow_room(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """The published loop: one token at a time off the longer text, off the second where both are equal."""
    while n_first + n_second > room:
        if n_first > n_second:
            n_first -= 1
        else:
            n_second -= 1
    return n_first, n_second


@pytest.mark.parametrize("room", [1, 2, 5, 6, 11])
def test_the_longer_text_is_cut_first(room):
    for a in range(9):
        for b in range(9):
            assert room_of(a, b, room) == slow_room(a, b, room), f"{a} and {b} tokens into {room}"


def test_what_is_cut_is_counted_and_fits():
    rows = text_rows(TOKENIZER, ENCODER, [A, A * 9, A], [A, A, B * 9], longest=21)
    assert rows.n_cut == 2
    assert [len(row) for row in rows.ids[1:]] == [21, 21] and all(row[-1] == SEP for row in rows.ids)
    assert len(text_rows(TOKENIZER, ENCODER, [A * 9]).ids[0]) == ENCODER.max_positions


def test_a_length_without_room_is_named():
    for longest, seconds in ((2, None), (4, [B]), (31, None)):
        with pytest.raises(UserError, match=f"--context {longest}: a row must have from . to 30 tokens"):
            text_rows(TOKENIZER, ENCODER, [A], seconds, longest=longest)


def test_a_pair_apart_is_two_rows_as_of_one_text_each():
    rows = pair_rows(TOKENIZER, ENCODER, [A, B, A], [B, A, A])
    alone = text_rows(TOKENIZER, ENCODER, [A, B])
    a, b = alone.ids
    assert len(rows) == 3 and rows.ids == [a + b, b + a, a + a] and rows.n_cut == 0
    batch = rows.batch([2, 0])
    n = max(len(a), len(b))
    assert batch["input_ids"].shape == (2, 2, n), "(B, 2, T)"
    for pair, sides in zip(batch["input_ids"].tolist(), [(a, a), (a, b)], strict=True):
        for row, ids in zip(pair, sides, strict=True):
            assert row == ids + [PAD] * (n - len(ids))
    assert batch["attention_mask"].sum(-1).tolist() == [[len(a), len(a)], [len(a), len(b)]]
    assert not batch["token_type_ids"].any(), "each text is the first of its row"
    cut = pair_rows(TOKENIZER, DECODER, [A, "Ana."], [B, "Ana."], longest=6)
    assert cut.n_cut == 2 and {len(ids) for ids in cut.rows.ids[:2]} == {6}
    with pytest.raises(ValueError, match="zip"):
        pair_rows(TOKENIZER, ENCODER, [A], [])
