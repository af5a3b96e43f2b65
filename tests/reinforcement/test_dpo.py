"""Grades reinforcement/dpo.py against the formula of Rafailov et al. 2023, equation 7."""

import copy
import math

import pytest
import small
import torch
from mistakes import assert_right

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

    def each(first=0, last=None, prompt=True):
        """Log-probabilities (B, 2) of the answers from `first` tokens after the prompt on."""
        both = [(two, n) for *two, n in rows(batch)]
        start = lambda n: n + first if prompt else 1
        found = [[plain_log_probability(gpt, ids[:last], start(n)) for ids in two] for two, n in both]
        return torch.tensor(found)

    n_token = torch.tensor([[len(ids) - n for ids in two] for *two, n in rows(batch)])
    mistakes = {
        "the answer's first token is left out": each(first=1),
        "the prompt's last token is counted too": each(first=-1),
        "the whole prompt is counted": each(prompt=False),
        "the answer's last token, its end, is left out": each(last=-1),
        "it is a mean over the tokens, not a sum": each() / n_token,
        "the sign is wrong": -each(),
    }
    found = answer_log_probabilities(gpt, batch)
    assert found.requires_grad, "the policy cannot learn: no gradient reaches it"
    assert_right(found, each(), mistakes, rtol=1e-4, atol=1e-4, axes=("pair", "answer"))


def test_the_loss_equals_the_formula(gpt, moved, objective):
    batch = objective.batch(0, "train")
    ours, before = (
        torch.tensor([[plain_log_probability(m, ids, n) for ids in two] for *two, n in rows(batch)])
        for m in (moved, gpt)
    )
    right, how = 0.3 * (ours - before), dict(rtol=1e-4, atol=1e-4)
    mistakes = {
        "beta is missing": ours - before,
        "the reference is missing": 0.3 * ours,
        "the sign is wrong: log reference - log pi": -right,
        "it is divided by beta": (ours - before) / 0.3,
        "only log pi is multiplied by beta": 0.3 * ours - before,
        "policy and reference are multiplied": 0.3 * ours * before,
    }
    found = objective.rewards(moved, batch)
    assert_right(found, right, mistakes, axes=("pair", "answer"), **how)
    assert found.requires_grad, "the policy cannot learn: no gradient reaches it"
    loss, metrics = objective.loss(moved, batch)
    margins = (right[:, 0] - right[:, 1]).tolist()
    losses = [-math.log(1 / (1 + math.exp(-margin))) for margin in margins]
    assert loss.item() == pytest.approx(sum(losses) / 5, rel=1e-4)
    assert metrics["margin"].item() == pytest.approx(sum(margins) / 5, abs=1e-4)
    assert metrics["chosen_reward"].item() == pytest.approx(float(right[:, 0].mean()), abs=1e-4)
    assert metrics["accuracy"].item() == pytest.approx(sum(margin > 0 for margin in margins) / 5)


def test_before_the_first_update_the_loss_is_log_2_with_dropout_too(make_gpt, env, preferences):
    gpt = make_gpt(dropout=0.5, attention_dropout=0.5)
    env.reference = copy.deepcopy(gpt).eval().requires_grad_(False)
    objective = DirectPreference(preferences, env, 5)
    assert objective.beta == 0.1, "the paper's, where none is given"
    small.assert_equal(
        objective.batch(2, "train"), DirectPreference(preferences, env, 5, 0).batch(2, "train")
    )
    loss, metrics = objective.loss(gpt.train(), objective.batch(0, "train"))
    assert loss == torch.tensor(2.0).log(), "the policy must run without dropout too"
    assert metrics["margin"] == 0 and metrics["chosen_reward"] == 0


def test_the_reference_gets_no_gradient_and_does_not_move(gpt, objective, tmp_path):
    before = copy.deepcopy(objective.reference.state_dict())
    outcome = train(gpt, objective, small.settings(steps=15, batch_size=5, lr=1e-2), tmp_path, TOKENIZER)
    small.assert_equal(objective.reference.state_dict(), before)
    assert outcome["after"]["accuracy"] == 1 and outcome["after"]["loss"] < outcome["before"]["loss"]


def test_parts_of_a_batch_add_up(moved, objective, assert_parts_add_up):
    assert_parts_add_up(objective, moved, objective.batch(0, "train"), 3)
