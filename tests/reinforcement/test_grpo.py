"""Grades reinforcement/grpo.py: advantages within a group (whole steps: test_ppo.py, test_rounds.py)."""

import pytest
import torch
from mistakes import assert_right, unchanged

from minilm.reinforcement.grpo import group_advantages


@pytest.mark.parametrize("group_size", [2, 3, 6])
def test_an_advantage_is_what_an_answer_earned_less_the_mean_of_its_group(group_size):
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 4, 2, 5])[:, None]
    rewards = torch.randn(6, 5) * mask
    earned = rewards.sum(1, keepdim=True)  # (B, 1)

    def mean_of(group):
        """Return (B, 1): the mean of what the answers with the same group(row) earned."""
        groups = [[other for other in range(6) if group(other) == group(row)] for row in range(6)]
        return torch.stack([earned[rows].mean(0) for rows in groups])

    mean = mean_of(lambda row: row // group_size)  # neighbours are a group
    other_mean = mean_of(lambda row: row % (6 // group_size))
    deviation = earned.view(-1, group_size).std(1).repeat_interleave(group_size)[:, None]
    right = (earned - mean) * mask
    mistakes = {
        "it is divided by the standard deviation of the group": right / deviation,
        "the mean is that of all answers, not of the group": (earned - earned.mean()) * mask,
        "a group is every n-th row: the answers to a prompt are neighbours": (earned - other_mean) * mask,
        "the mean of the group is not subtracted": earned * mask,
        "padding gets the advantage too": (earned - mean).expand(6, 5),
        "each token has its own reward, not the sum over its answer": (rewards - mean) * mask,
        "the sign is wrong": -right,
        "the advantage is divided by the number of tokens": right / mask.sum(1, keepdim=True),
    }
    found = unchanged(group_advantages, rewards, mask, group_size)
    assert_right(found, right, mistakes, rtol=1e-4, axes=("row", "token"))
