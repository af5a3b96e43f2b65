"""Grades extraction/features.py: one vector a token."""

import numpy as np
import pytest
import small
import torch

from minilm.extraction.features import extract_tokens
from minilm.tokenizer.rows import word_rows

TOKENIZER = small.tokenizer()
WORDS = [["Ana", "likes", "Wollongong"], ["Rui", "sat", "."]]
MODELS = {kind: small.model(kind) for kind in ("masked", "causal")}


@pytest.mark.parametrize("kind", MODELS)
def test_tokens_are_those_of_the_row_alone(kind):
    model = MODELS[kind]
    rows, _ = word_rows(TOKENIZER, model.config, WORDS, 24)
    for ids, found in zip(rows, extract_tokens(model, rows, 1, tokens_per_batch=100), strict=True):
        expected = model.hidden_states(torch.tensor([ids]))[1][0].detach()
        assert found.dtype == np.float32 and found.base is None
        np.testing.assert_allclose(found, expected, atol=1e-5)
