"""Grades reinforcement/dpo.py against the formula of Rafailov et al. 2023, equation 7."""

import copy
import math

import pytest
import small
import torch

from minilm.reinforcement.dpo import DirectPreference, answer_log_probabilities
from minilm.training.loop import train

TOKENIZER = small.tokenizer()


@pytest.fixture
def objective(env, preferences):
    return DirectPreference(preferences, env, 5, seed=1, beta=0.3)


def plain_log_probability(model, ids: list[int], n_prompt: int) -> float:
    logits = model(torch.tensor([ids]))[0].detach().log_softmax(-1)
    return sum(float(logits[t - 1, ids[t]]) for t in range(n_prompt, len(ids)))


def rows(batch):
    """Yield (ids of the chosen, ids of the rejected, tokens of the prompt) of each pair."""
    for row in range(len(batch["input_ids"])):
        two = [batch["input_ids"][row, i][batch["attention_mask"][row, i].bool()].tolist() for i in (0, 1)]
        yield *two, int(batch["n_prompt"][row])


def test_only_the_answer_counts(gpt, objective):
    batch = objective.batch(0, "train")
    found = answer_log_probabilities(gpt, batch).detach()
    assert found.shape == (5, 2)
    for row, (chosen, rejected, n) in enumerate(rows(batch)):
        expected = [plain_log_probability(gpt, ids, n) for ids in (chosen, rejected)]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-4), "prompt, padding or end slipped in"


def test_the_loss_equals_the_formula(gpt, moved, objective):
    batch = objective.batch(0, "train")
    loss, metrics = objective.loss(moved, batch)
    losses, margins, chosen_rewards = [], [], []
    for chosen, rejected, n in rows(batch):
        logs = [[plain_log_probability(m, ids, n) for m in (moved, gpt)] for ids in (chosen, rejected)]
        rewards = [0.3 * (ours - before) for ours, before in logs]
        margins.append(rewards[0] - rewards[1])
        losses.append(-math.log(1 / (1 + math.exp(-margins[-1]))))
        chosen_rewards.append(rewards[0])
    assert loss.item() == pytest.approx(sum(losses) / 5, rel=1e-4)
    assert metrics["margin"].item() == pytest.approx(sum(margins) / 5, abs=1e-4)
    assert metrics["chosen_reward"].item() == pytest.approx(sum(chosen_rewards) / 5, abs=1e-4)
    assert metrics["accuracy"].item() == pytest.approx(sum(margin > 0 for margin in margins) / 5)


def test_before_the_first_update_the_loss_is_log_2_with_dropout_too(make_gpt, env, preferences):
    gpt = make_gpt(dropout=0.5, attention_dropout=0.5)
    env.reference = copy.deepcopy(gpt).eval().requires_grad_(False)
    objective = DirectPreference(preferences, env, 5)
    loss, metrics = objective.loss(gpt.train(), objective.batch(0, "train"))
    assert loss == torch.tensor(2.0).log(), "the policy drops out and its reference does not"
    assert metrics["margin"] == 0 and metrics["chosen_reward"] == 0


def test_the_reference_gets_no_gradient_and_does_not_move(gpt, objective, tmp_path):
    before = copy.deepcopy(objective.reference.state_dict())
    outcome = train(gpt, objective, small.settings(steps=15, batch_size=5, lr=1e-2), tmp_path, TOKENIZER)
    small.assert_equal(objective.reference.state_dict(), before)
    assert outcome["after"]["accuracy"] == 1 and outcome["after"]["loss"] < outcome["before"]["loss"]


def test_parts_of_a_batch_add_up(moved, objective, assert_parts_add_up):
    assert_parts_add_up(objective, moved, objective.batch(0, "train"), 3)
