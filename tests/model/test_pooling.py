"""Grades model/pooling.py."""

import pytest
import torch
from mistakes import assert_learns, assert_right

from minilm.model.pooling import last_token, token_mean

REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]])


@pytest.mark.parametrize("real", [REAL, REAL.bool()], ids=["numbers", "booleans"])
def test_pooling_reads_the_real_tokens_whichever_side_is_padded(real):
    hidden = torch.randn(4, 5, 3, requires_grad=True)
    last = torch.stack([hidden[0, 4], hidden[1, 1], hidden[2, 4], hidden[3, 0]])
    assert torch.equal(last_token(hidden, real), last), "counted real tokens, not found their end?"
    mean = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0), hidden[2, 2:].mean(0), hidden[3, 0]])
    summed = (hidden * real[..., None]).sum(1)
    mistakes = {
        "padding is included": hidden.mean(1),
        "the sum of the real tokens is divided by T, which includes padding": summed / 5,
        "the sum is not divided by the number of real tokens": summed,
        "only the first place is read": hidden[:, 0],
        "only the last real token is read": last,
        "padding is included in the sum, but not in the token count": hidden.sum(1) / real.sum(1)[:, None],
        "the mean is over the features of a token, not over the tokens": hidden.mean(2),
    }
    assert_right(token_mean(hidden, real), mean, mistakes, axes=("row", "feature"))
    assert_learns(token_mean(hidden, real), mean, hidden)


def test_without_a_mask_all_are_real():
    hidden = torch.randn(4, 5, 3)
    assert torch.equal(last_token(hidden, None), hidden[:, 4])
    assert_right(token_mean(hidden, None), hidden.sum(1) / 5, what="without a mask all tokens are real")
