"""Grades tokenizer/rows.py: sentences given as words, each read at its first token."""

import pytest
import small

from minilm.tokenizer.rows import text_rows, word_ids, word_rows

TOKENIZER = small.tokenizer()
WORDS = [["Ana", "likes", "Wollongong"], ["Rui", "sat", "."]]
MODELS = {kind: small.model(kind) for kind in ("masked", "causal")}


@pytest.mark.parametrize("kind", MODELS)
def test_a_word_is_read_at_its_first_token(kind):
    config = MODELS[kind].config
    rows, columns = word_rows(TOKENIZER, config, WORDS, config.max_positions)
    joined = text_rows(TOKENIZER, config, ["Ana likes Wollongong", "Rui sat."])
    assert list(rows) == list(joined), "a space before each word, none before a full stop"
    assert (rows.pad_id, rows.n_cut) == (joined.pad_id, 0)
    for ids, words, found in zip(rows, WORDS, columns, strict=True):
        assert len(found) == len(words)
        for word, start, end in zip(words, found, [*found[1:], len(ids) - 1], strict=True):
            assert TOKENIZER.decode(ids[start:end]).strip() == word


def test_words_beyond_the_cut_have_no_column():
    config = MODELS["masked"].config
    rows, (columns, short) = word_rows(TOKENIZER, config, [["Ana", "sat"] * 30, ["Ana"]], 20)
    assert rows.n_cut == 1 and rows.lengths[0] == 20
    assert 1 < len(columns) < 60 and max(columns) < 19 and short == [1]


def test_a_word_of_which_nothing_is_left_is_unknown():
    class Empty(type(TOKENIZER)):
        def encode(self, text, allow_special=True):
            return []

    empty = Empty(TOKENIZER.vocab, TOKENIZER.merges, TOKENIZER.special_tokens)
    unknown = TOKENIZER.special_id("[UNK]")
    assert word_ids(empty, MODELS["masked"].config, ["", "x"]) == [[unknown], [unknown]]
