"""Grades tokenizer/rows.py: a text becomes the row that the model was trained on, rows become batches."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch

from minilm.model.config import ModelConfig
from minilm.plumbing.errors import UserError
from minilm.tokenizer import rows as module
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.rows import RaggedRows, chat_ids, framed, prompt_ids, text_ids, text_rows

TOKENIZER = small.tokenizer()
END_NAME = "<|endoftext|>"
PAD, CLS, SEP, END = map(TOKENIZER.special_id, ("[PAD]", "[CLS]", "[SEP]", END_NAME))
ENCODER = ModelConfig(n_encoder_layer=1, n_segments=2, max_positions=30)
DECODER = ModelConfig(n_decoder_layer=1, max_positions=30)
BOTH = ModelConfig(n_encoder_layer=1, n_decoder_layer=1, max_positions=30)
A, B = "Rui sells bread.", "Ana found a lamp on Monday."


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_rows_come_back_and_what_is_too_long_is_counted():
    lists = [[5, 6, 7], [], [8], [9] * 4]
    rows = RaggedRows(iter(lists), longest=3, n_cut=2)
    assert list(rows) == [[5, 6, 7], [], [8], [9] * 3] and rows.n_cut == 3 and len(rows) == 4
    assert rows.lengths.tolist() == [3, 0, 1, 3] and rows.edges.tolist() == [0, 3, 3, 4, 7]
    assert rows.ids.tolist() == [5, 6, 7, 8, 9, 9, 9] and rows[-1] == [9] * 3
    assert list(RaggedRows(lists)) == lists and RaggedRows(lists).n_cut == 0
    assert len(RaggedRows([])) == 0


def test_a_batch_is_padded_on_the_right():
    lists = [[5, 6, 7, 8], [-100], [8, 9], []]
    rows = RaggedRows(lists, pad_id=3, n_first=[2, 1, 2, 0])
    padded, real = rows.padded([2, 0, 1])
    assert padded.tolist() == [[8, 9, 3, 3], [5, 6, 7, 8], [-100, 3, 3, 3]], "on the right, by pad_id, here 3"
    assert real.sum(1).tolist() == [2, 4, 1] and real[:, 0].all()
    batch = rows.batch([2, 0, 1])
    assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(batch, torch.int64)
    assert (batch["input_ids"].numpy() == padded).all() and (batch["attention_mask"].numpy() == real).all()
    assert batch["token_type_ids"].tolist() == [[0] * 4, [0, 0, 1, 1], [0] * 4], "padding is of text A"
    assert "token_type_ids" not in RaggedRows(lists).batch([0]), "this model has no segments"
    assert rows.padded([3])[0].shape == (1, 0)
    assert RaggedRows([[5], []]).padded([0, 1])[0].tolist() == [[5], [0]], "padding reads behind the last id"


def test_two_rows_a_text_have_their_segments_each():
    rows = RaggedRows([[1, 2, 3, 4, 5], [6, 7], [8, 9, 1]], n_first=[2, 1, 3])
    batch = rows.batch([[0, 1], [2, 0], [1, 1]])
    assert batch["input_ids"].shape == (3, 2, 5), "(B, 2, T)"
    assert batch["input_ids"][0].tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    segments = [[[0, 0, 1, 1, 1], [0, 1, 0, 0, 0]], [[0] * 5, [0, 0, 1, 1, 1]]]
    assert batch["token_type_ids"][:2].tolist() == segments


def test_rows_of_similar_length_stand_together():
    lengths = random.Random(0).choices(range(9), k=23)
    parts = module.batches_by_length(lengths, 4)
    assert [len(part) for part in parts] == [4] * 5 + [3], "cut behind every `batch_size` rows, not at 0"
    order = np.concatenate(parts).tolist()
    assert order == sorted(range(23), key=lengths.__getitem__), "shortest first; equal ones keep their order"
    assert module.batches_by_length([], 4) == []


def test_a_text_is_framed_as_in_pre_training():
    assert list(text_rows(TOKENIZER, ENCODER, [A])) == [[CLS, *ids(" " + A), SEP]], "a space before the text"
    assert list(text_rows(TOKENIZER, BOTH, [A])) == [[CLS, *ids(" " + A), SEP]]
    assert list(text_rows(TOKENIZER, DECODER, [A])) == [[END, *ids(A), END]], "a GPT reads no space there"
    assert SEP not in text_ids(TOKENIZER, ENCODER, "one [SEP] two"), "special tokens in a text are text"
    found, places = module.located_ids(TOKENIZER, ENCODER, A)
    assert found == text_ids(TOKENIZER, ENCODER, A)
    told = "places are of the text as it was given, without the space before it"
    assert places[0][0] == 0 and places[-1][1] == len(A), told


def test_a_prompt_is_a_text_that_has_begun():
    assert prompt_ids(TOKENIZER, DECODER, A) == [END, *ids(A)], "a decoder does not go on after an end"
    assert prompt_ids(TOKENIZER, BOTH, A) == [CLS, *ids(" " + A), SEP], "the encoder reads a whole text"


def vocabulary(special_tokens: tuple, aliases: dict) -> BPE:
    """The small vocabulary with other special tokens."""
    return BPE(TOKENIZER.vocab, TOKENIZER.merges, special_tokens, aliases=aliases)


def test_a_vocabulary_may_have_a_token_to_begin_a_text_with():
    other = vocabulary(("<begin>", "<end>"), {"[CLS]": "<begin>", "[PAD]": "<end>", END_NAME: "<end>"})
    begin, end = map(other.special_id, ("<begin>", "<end>"))
    assert framed(other, DECODER, [7, 8]) == ([begin, 7, 8, end], 4)
    assert prompt_ids(other, DECODER, A)[0] == begin
    for tokenizer in (
        vocabulary((*TOKENIZER.special_tokens, "<begin>"), {"[EOS]": "<begin>"}),
        vocabulary(("<end>",), {END_NAME: "<end>"}),
        vocabulary((END_NAME, "<begin>"), {"[CLS]": "<begin>"}),  # which begins a turn of a conversation
    ):
        told = "one token for both, where it is there"
        assert framed(tokenizer, DECODER, [7])[0][0] == tokenizer.special_id(END_NAME), told


def test_where_a_model_talks_in_turns_a_text_ends_as_a_turn():
    talker = vocabulary((*TOKENIZER.special_tokens, "<|im_start|>", "<|im_end|>"), {"[EOS]": "<|im_end|>"})
    start, end = map(talker.special_id, ("<|im_start|>", "<|im_end|>"))
    assert (module.text_end(TOKENIZER), module.text_end(talker)) == (END, end)
    told = "all tokens of a single text come before a text B"
    assert framed(talker, DECODER, [7, 8]) == ([END, 7, 8, end], 4), told
    ids, encode = chat_ids(talker, [("user", "Ana"), ("assistant", "<|im_end|>")]), TOKENIZER.encode
    assert ids[: len(encode("user\nAna")) + 2] == [start, *encode("user\nAna"), end]
    assert ids[-len(encode("assistant\n")) - 1 :] == [start, *encode("assistant\n")]
    assert (ids.count(start), ids.count(end)) == (3, 2), "what is typed cannot end a turn"


def test_a_decoder_begins_with_cls_and_that_of_a_published_bart_with_its_start_before_it():
    assert module.decoder_begin(TOKENIZER) == [CLS]
    bart = SimpleNamespace(aliases={"[START]": "</s>"}, special_id={"[START]": 2, "[CLS]": 0}.get)
    assert module.decoder_begin(bart) == [2, 0], "BART's labels are shifted by </s>: </s> <s> text"


@pytest.mark.parametrize("config", [ENCODER, DECODER, BOTH])
def test_words_are_cut_as_in_a_text(config):
    words = ["Rui", "sells", "quinces", ".", "Ana", ",", "too", "!"]
    pieces = module.word_ids(TOKENIZER, config, words)
    flat = [token for piece in pieces for token in piece]
    assert flat == text_ids(TOKENIZER, config, "Rui sells quinces. Ana, too!"), "not as in pre-training"
    first, second = module.word_ids(TOKENIZER, config, ["[SEP]", "[SEP]"])
    assert SEP not in first + second, "special tokens in a text are text"
    assert len(pieces) == len(words)


def test_a_pair_has_a_separator_and_two_segments():
    a, b = ids(" " + A), ids(" " + B)
    rows = text_rows(TOKENIZER, ENCODER, [A, B], [B, A])
    assert rows[0] == [CLS, *a, SEP, *b, SEP] and rows.n_cut == 0
    told = "[CLS], A and the first [SEP] are 0, B and the last [SEP] are 1"
    assert rows.batch([0])["token_type_ids"].tolist() == [[0] * (len(a) + 2) + [1] * (len(b) + 1)], told
    assert rows.batch([1, 0])["input_ids"][0].tolist() == [CLS, *b, SEP, *a, SEP]
    assert text_rows(TOKENIZER, BOTH, [A], [B]).n_first is None, "this model has no segments"
    assert text_rows(TOKENIZER, DECODER, [A], [B])[0] == [END, *ids(A), END, *ids(B), END]
    assert not text_rows(TOKENIZER, ENCODER, [A]).batch([0])["token_type_ids"].any()


def test_published_vocabularies_with_s_have_two_separators_between_texts():
    ids = {"[CLS]": 0, "[SEP]": 2}
    published = SimpleNamespace(special_tokens=("<s>", "</s>"), aliases={}, special_id=ids.get)
    assert framed(published, ENCODER, [7], [8, 9]) == ([0, 7, 2, 2, 8, 9, 2], 4)
    assert framed(published, ENCODER, [7]) == ([0, 7, 2], 3)


def test_rows_have_the_padding_and_the_segments_of_their_model():
    made = [([1, 2, 3], 2), ([4], 1)]
    rows = module.rows_of(TOKENIZER, ENCODER, made, n_cut=5)
    assert list(rows) == [[1, 2, 3], [4]] and rows.n_first.tolist() == [2, 1] and rows.n_cut == 5
    padding = [module.rows_of(TOKENIZER, config, made).pad_id for config in (ENCODER, BOTH, DECODER)]
    assert padding == [PAD, PAD, END]
    assert module.rows_of(TOKENIZER, BOTH, made).n_cut == 0


def slow_room(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """The published loop: one token at a time off the longer text, off the second where both are equal."""
    while n_first + n_second > room:
        if n_first > n_second:
            n_first -= 1
        else:
            n_second -= 1
    return n_first, n_second


@pytest.mark.parametrize("room", [2, 3, 5, 6, 11])
def test_the_longer_text_is_cut_first(room):
    sizes = [(a, b) for a in range(9) for b in range(9)]
    letters = SimpleNamespace(encode=lambda text, **_: [*map(ord, text)], special_tokens=(), special_id=len)
    letters.aliases = {}
    firsts, seconds = ["a" * a for a, _ in sizes], ["b" * b for _, b in sizes]
    rows = text_rows(letters, DECODER, firsts, seconds, longest=room + 3)
    for row, (a, b) in zip(rows, sizes, strict=True):
        found = row.count(ord("a")), row.count(ord("b"))
        assert found == slow_room(a, b, room), f"{a} and {b} tokens into {room}"
    assert rows.n_cut == sum(a + b > room for a, b in sizes)


def test_what_is_cut_is_counted_and_fits():
    rows = text_rows(TOKENIZER, ENCODER, [A, A * 9, A], [A, A, B * 9], longest=21)
    assert rows.n_cut == 2 and rows.lengths[1:].tolist() == [21, 21] and all(row[-1] == SEP for row in rows)
    assert text_rows(TOKENIZER, ENCODER, [A * 9]).lengths[0] == ENCODER.max_positions
    for longest, seconds in ((2, None), (4, [B]), (31, None)):
        with pytest.raises(UserError, match=f"--context {longest}: must be . to 30$"):
            text_rows(TOKENIZER, ENCODER, [A], seconds, longest=longest)


@pytest.mark.parametrize("config", [ENCODER, DECODER])
def test_a_word_is_read_at_its_first_token(config):
    sentences = [["Ana", "likes", "Wollongong"], ["Rui", "sat", "."]]
    rows, columns = module.word_rows(TOKENIZER, config, sentences, config.max_positions)
    joined = text_rows(TOKENIZER, config, ["Ana likes Wollongong", "Rui sat."])
    assert list(rows) == list(joined), "a space before each word, none before a full stop"
    assert (rows.pad_id, rows.n_cut) == (joined.pad_id, 0)
    for row, words, found in zip(rows, sentences, columns, strict=True):
        assert len(found) == len(words)
        for word, start, end in zip(words, found, [*found[1:], len(row) - 1], strict=True):
            read = TOKENIZER.decode(row[start:end]).strip()
            assert read == word, f"from its column on, {word!r} reads {read!r}: is it one column off?"


def test_words_beyond_the_cut_have_no_column():
    rows, (columns, short) = module.word_rows(TOKENIZER, ENCODER, [["Ana", "sat"] * 30, ["Ana"]], 20)
    assert rows.n_cut == 1 and rows.lengths[0] == 20
    assert 1 < len(columns) < 60 and max(columns) < 19 and short == [1]
    longest = len(ids(" Ana sat")) + 2
    rows, ((_, last),) = module.word_rows(TOKENIZER, ENCODER, [["Ana", "sat"]], longest)
    assert rows.n_cut == 0 and last < longest - 1, "a row that just fits is whole"
    longest = len(ids(" Ana.")) + 2
    _, ((_, last),) = module.word_rows(TOKENIZER, ENCODER, [["Ana", "."]], longest)
    assert last == longest - 2, "a word whose first token is the last of the row is read"


def test_a_word_of_which_nothing_is_left_is_unknown():
    class Empty(type(TOKENIZER)):
        def encode(self, text, allow_special=True):
            return []

    empty = Empty(TOKENIZER.vocab, TOKENIZER.merges, TOKENIZER.special_tokens)
    unknown = TOKENIZER.special_id("[UNK]")
    assert module.word_ids(empty, ENCODER, ["", "x"]) == [[unknown], [unknown]]
