"""Grades reinforcement/grpo.py: advantages within a group, and a policy that learns without a value head."""

import copy

import pytest
import small
import torch
from mistakes import assert_right, unchanged

from minilm.reinforcement import ppo
from minilm.reinforcement.grpo import group_advantages
from minilm.reinforcement.rollout import Policy, draw_answers, score_answers
from minilm.training.checkpoints import load_trainer


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
    earned = rewards.sum(1)  # (B,)

    def less(mean, what=earned):
        return (what - torch.tensor(mean))[:, None] * mask

    def mean_of(group):
        return [
            float(earned[[other for other in range(6) if group(other) == group(row)]].mean())
            for row in range(6)
        ]

    means = mean_of(lambda row: row // group_size)  # neighbours are a group
    deviation = earned.view(-1, group_size).std(1).repeat_interleave(group_size)[:, None]
    mistakes = {
        "it is divided by the standard deviation of the group": less(means) / deviation,
        "the mean is that of all answers, not of the group": less(mean_of(lambda row: 0)),
        "a group is every n-th row: the answers to a prompt are neighbours": less(
            mean_of(lambda row: row % (6 // group_size))
        ),
        "the mean of the group is not subtracted": less([0.0] * 6),
        "padding gets the advantage too": less(means) + (earned - torch.tensor(means))[:, None] * ~mask,
        "each token has its own reward, not the sum over its answer": (rewards - torch.tensor(means)[:, None])
        * mask,
        "the sign is wrong": -less(means),
        "the advantage is divided by the number of tokens": less(means) / mask.sum(1, keepdim=True),
    }
    found = unchanged(group_advantages, rewards, mask, group_size)
    assert_right(found, less(means), mistakes, rtol=1e-4, axes=("row", "token"))


def test_the_batch_has_no_values_and_the_group_pays_for_its_kl(grouped):
    scores = torch.tensor([1.0, 2.0, 6.0, 0.5, 0.5, 0.5])
    batch = ppo.make_batch(grouped, scores, 0.2, details(whiten_advantages=False))
    earned = (scores - 0.2 * grouped.kl()).view(2, 3)
    expected = (earned - earned.mean(1, keepdim=True)).view(6)
    torch.testing.assert_close(batch["advantages"], expected[:, None] * grouped.answer_mask)
    assert (batch["values"] == 0).all() and (batch["returns"] == 0).all(), "there is no value to learn"
    white = ppo.make_batch(grouped, scores, 0.2, details())["advantages"]
    torch.testing.assert_close(white, ppo.whiten(batch["advantages"], grouped.answer_mask))


def test_the_loss_is_ppo_s_without_the_value_s(grouped, gpt, rule):
    batch = ppo.make_batch(grouped, torch.arange(6.0), 0.2, details())
    loss, metrics = ppo.ppo_loss(without_values(gpt), batch, rule, details(value_weight=9.0))
    assert loss == metrics["policy_loss"] and metrics["value_loss"] == 0 < metrics["clipped"]
    expected, _ = ppo.ppo_loss(Policy(gpt), batch, rule, details(value_weight=0.0))
    torch.testing.assert_close(loss, expected)


def test_each_prompt_of_a_step_is_answered_by_a_group(gpt, env):
    policy, asked, inner = without_values(gpt), [], env.reward.scores
    env.reward.scores = lambda rollout, texts: asked.append(texts) or inner(rollout, texts)
    settings = small.settings(steps=4, batch_size=6, warmup=0)
    metrics, *_ = ppo.PPO(env, details()).update(policy, torch.optim.Adam(gpt.parameters()), settings, 1)
    prompts, answers = zip(*asked[0], strict=True)
    assert len(asked[0]) == 6, "the batch size counts answers"
    assert prompts == (prompts[0],) * 3 + (prompts[3],) * 3 and prompts[0] != prompts[3]
    assert len(set(answers)) > 2, "draw each answer of a group on its own"
    assert metrics["value_error"] == metrics["value_loss"] == 0 < metrics["ratio"]


def test_the_policy_learns_what_is_rewarded_by_its_own_weights_alone(gpt, env, tmp_path):
    wanted, before = 200, copy.deepcopy(gpt)
    env.reward.scores = lambda rollout, texts: (rollout.ids[:, rollout.n_prompt :] == wanted).float().sum(1)
    settings = small.settings(steps=20, batch_size=15, warmup=0, lr=1e-2)
    ppo.train_ppo(gpt, env, details(kl=0.02), settings, tmp_path)
    ids = torch.tensor(env.prompts[:1])
    after, start = (model(ids)[0, -1].softmax(-1)[wanted].item() for model in (gpt, before))
    assert after > 5 * start
    assert not [name for name in load_trainer(tmp_path)["optimizer"] if "value_head" in name]
