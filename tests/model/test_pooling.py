"""Grades model/pooling.py."""

import pytest
import torch

from minilm.model.pooling import last_token, token_mean

REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]])


@pytest.mark.parametrize("real", [REAL, REAL.bool()], ids=["numbers", "booleans"])
def test_pooling_reads_the_real_tokens_whichever_side_is_padded(real):
    hidden = torch.randn(4, 5, 3)
    last = torch.stack([hidden[0, 4], hidden[1, 1], hidden[2, 4], hidden[3, 0]])
    assert torch.equal(last_token(hidden, real), last), "counted real tokens, not found their end?"
    mean = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0), hidden[2, 2:].mean(0), hidden[3, 0]])
    assert torch.allclose(token_mean(hidden, real), mean, atol=1e-6), "padding counts"


def test_without_a_mask_all_are_real():
    hidden = torch.randn(4, 5, 3)
    assert torch.equal(last_token(hidden, None), hidden[:, 4])
    assert torch.allclose(token_mean(hidden, None), hidden.sum(1) / 5)
