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


def written_out(model, batch, first=0, last=None, prompt=False) -> torch.Tensor:
    """Return log p(answer | prompt), (B, 2), of one text at a time, without padding.

    Wrong ones from `first` tokens after the prompt on, up to the token `last`, or with the `prompt`.
    """
    result = torch.zeros(len(batch["input_ids"]), 2)
    for row, n_prompt in enumerate(batch["n_prompt"].tolist()):
        for i in (0, 1):
            ids = batch["input_ids"][row, i][batch["attention_mask"][row, i].bool()][:last]
            log_probs = model(ids[None])[0].detach().log_softmax(-1)
            begin = 1 if prompt else n_prompt + first
            result[row, i] = sum(log_probs[t - 1, ids[t]] for t in range(begin, len(ids)))
    return result


def test_only_the_answer_counts(gpt, objective):
    batch = objective.batch(0, "train")
    right, n_token = written_out(gpt, batch), batch["attention_mask"].sum(2) - batch["n_prompt"][:, None]
    mistakes = {
        "the answer's first token is left out": written_out(gpt, batch, first=1),
        "the prompt's last token is counted too": written_out(gpt, batch, first=-1),
        "the whole prompt is counted": written_out(gpt, batch, prompt=True),
        "the answer's last token, its end, is left out": written_out(gpt, batch, last=-1),
        "it is a mean over the tokens, not a sum": right / n_token,
        "the sign is wrong": -right,
    }
    found = answer_log_probabilities(gpt, batch)
    assert found.requires_grad, "the policy cannot learn: no gradient reaches it"
    assert_right(found, right, mistakes, rtol=1e-4, atol=1e-4, axes=("pair", "answer"))


def test_the_loss_equals_the_formula(gpt, moved, objective):
    batch = objective.batch(0, "train")
    ours, before = written_out(moved, batch), written_out(gpt, batch)
    right = 0.3 * (ours - before)
    mistakes = {
        "beta is missing": ours - before,
        "the reference is missing": 0.3 * ours,
        "the sign is wrong: log reference - log pi": -right,
        "it is divided by beta": (ours - before) / 0.3,
        "only log pi is multiplied by beta": 0.3 * ours - before,
        "policy and reference are multiplied": 0.3 * ours * before,
    }
    found = objective.rewards(moved, batch)
    assert_right(found, right, mistakes, rtol=1e-4, atol=1e-4, axes=("pair", "answer"))
    assert found.requires_grad, "the policy cannot learn: no gradient reaches it"
    losses = [-math.log(1 / (1 + math.exp(-margin))) for margin in (right[:, 0] - right[:, 1]).tolist()]
    assert objective.loss(moved, batch)[0].item() == pytest.approx(sum(losses) / 5, rel=1e-4)


def test_before_the_first_update_the_loss_is_log_2_with_dropout_too(make_gpt, env, preferences):
    gpt = make_gpt(dropout=0.5, attention_dropout=0.5)
    env.reference = copy.deepcopy(gpt).eval().requires_grad_(False)
    objective = DirectPreference(preferences, env, 5)
    assert objective.beta == 0.1, "the paper's, where none is given"
    zero = DirectPreference(preferences, env, 5, seed=0)
    small.assert_equal(objective.batch(2, "train"), zero.batch(2, "train"))
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
