"""Grades extraction/tokens.py: one vector a token, one vector a word."""

import numpy as np
import pytest
import small
import torch

from minilm.extraction.tokens import extract_tokens, word_rows
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import text_rows

TOKENIZER = small.tokenizer()
WORDS = [["Ana", "likes", "Wollongong"], ["Rui", "sat", "."]]
MODELS = {kind: small.model(kind) for kind in ("masked", "causal")}


@pytest.mark.parametrize("kind", MODELS)
def test_a_word_is_read_at_its_first_token(kind):
    config = MODELS[kind].config
    rows, columns = word_rows(TOKENIZER, config, WORDS)
    joined = text_rows(TOKENIZER, config, ["Ana likes Wollongong", "Rui sat."])
    assert list(rows) == list(joined), "a space before each word, none before a full stop"
    assert (rows.pad_id, rows.n_cut) == (joined.pad_id, 0)
    for ids, words, found in zip(rows, WORDS, columns, strict=True):
        assert len(found) == len(words)
        for word, start, end in zip(words, found, [*found[1:], len(ids) - 1], strict=True):
            assert TOKENIZER.decode(ids[start:end]).strip() == word


def test_words_beyond_the_cut_have_no_column():
    config = MODELS["masked"].config
    rows, (columns, short) = word_rows(TOKENIZER, config, [["Ana", "sat"] * 30, ["Ana"]])
    assert rows.n_cut == 1 and rows.lengths[0] == config.max_positions
    assert 1 < len(columns) < 60 and max(columns) < config.max_positions - 1 and short == [1]
    with pytest.raises(UserError, match="the word '' has no token"):

        class Empty(type(TOKENIZER)):
            def encode(self, text, allow_special=True):
                return []

        word_rows(Empty(TOKENIZER.vocab, TOKENIZER.merges, TOKENIZER.special_tokens), config, [[""]])


@pytest.mark.parametrize("kind", MODELS)
def test_tokens_are_those_of_the_row_alone(kind):
    model = MODELS[kind]
    rows, _ = word_rows(TOKENIZER, model.config, WORDS)
    for ids, found in zip(rows, extract_tokens(model, rows, 1, tokens_per_batch=100), strict=True):
        expected = model.hidden_states(torch.tensor([ids]))[1][0].detach()
        assert found.dtype == np.float32 and found.base is None
        np.testing.assert_allclose(found, expected, atol=1e-5)
