"""Grades reinforcement/grpo.py: advantages within a group, a loss without values (its steps: test_ppo.py)."""

import pytest
import torch
from mistakes import assert_right, unchanged

from minilm.reinforcement import ppo
from minilm.reinforcement.grpo import group_advantages
from minilm.reinforcement.rollout import Policy, draw_answers, score_answers


def without_values(model) -> Policy:
    policy = Policy(model)
    policy.value_head = None
    return policy


def details(**changes) -> ppo.PPODetails:
    return ppo.PPODetails(**dict(missing_end_score=None, group_size=3) | changes)


@pytest.fixture
def grouped(moved, env):
    """Scored answers to two prompts, three each, of unequal lengths, by a policy without a value head."""
    prompts = [prompt for prompt in env.prompts[:2] for _ in range(3)]
    rollout = draw_answers(moved, env, prompts, seed=4)
    for row, length in enumerate([7, 2, 4, 1, 6, 3]):
        rollout.mask[row, rollout.n_prompt + length :] = False
    return score_answers(rollout, without_values(moved), env)


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


def test_the_loss_is_ppo_s_without_the_value_s(grouped, gpt, rule):
    batch = ppo.make_batch(grouped, torch.arange(6.0), 0.2, details())
    assert (batch["values"] == 0).all() and (batch["returns"] == 0).all(), "there is no value to learn"
    loss, metrics = ppo.ppo_loss(without_values(gpt), batch, rule, details(value_weight=9.0))
    assert loss == metrics["policy_loss"] and metrics["value_loss"] == 0 < metrics["clipped"]
    expected, _ = ppo.ppo_loss(Policy(gpt), batch, rule, details(value_weight=0.0))
    torch.testing.assert_close(loss, expected)
