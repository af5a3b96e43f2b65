"""Grades extraction/token_features.py: one vector a token, one vector a word."""

import numpy as np
import pytest
import small
import torch

from minilm import world
from minilm.extraction import token_features
from minilm.extraction.token_features import extract_tokens, read_tokens, token_columns, word_rows
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


def test_columns_of_a_conll_file(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("Ana B-person\nlikes O\nbread O\n\nRui B-person\nsat O\n", encoding="utf-8")
    model = MODELS["masked"]
    tokens = read_tokens(str(path), TOKENIZER, model.config, 0)
    found = token_columns(model, tokens, -1)
    assert found["tokens"] == ["Ana", "likes", "bread", "Rui", "sat"]
    assert found["labels"] == ["B-person", "O", "O", "B-person", "O"]
    assert found["text_of"].tolist() == [0, 0, 0, 1, 1]
    states = extract_tokens(model, tokens.rows, -1)
    np.testing.assert_array_equal(found["embeddings"][3], states[1][1])
    np.testing.assert_array_equal(found["embeddings"][1], states[0][tokens.columns[0][1]])


def test_columns_of_a_text_are_all_its_tokens(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Ana sat.\n\nRui", encoding="utf-8")
    model = MODELS["masked"]
    tokens = read_tokens(str(path), TOKENIZER, model.config, 0)
    found = token_columns(model, tokens, 0)
    assert found["labels"] is None
    assert "".join(found["tokens"]) == "[CLS] Ana sat.[SEP][CLS] Rui[SEP]"
    assert len(found["embeddings"]) == len(found["tokens"]) == tokens.rows.lengths.sum()


def test_the_world_has_tagged_words(monkeypatch):
    monkeypatch.setattr(token_features, "WORLD_SENTENCES", 3)
    config = small.model("masked").config
    tokens = read_tokens("world", TOKENIZER, config, 5)
    for words, tags, expected in zip(tokens.names, tokens.tags, world.tagging(3, 5), strict=True):
        assert len(words) == len(tags) < len(expected[0]), "cut at 24 tokens"
        assert (words, tags) == (expected[0][: len(words)], expected[1][: len(words)])
