"""Grades reinforcement/ppo.py: each detail against a plain loop written from its formula, and whole runs."""

import copy
import inspect
import math
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from mistakes import assert_right, unchanged

import minilm
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.reinforcement import ppo
from minilm.reinforcement.rollout import Policy, Rollout, draw_answers, score_answers
from minilm.reinforcement.settings import ReinforceSettings
from minilm.training.checkpoints import load_trainer

SCORES = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25])


def details(**changes) -> ppo.PPODetails:
    return ppo.PPODetails(**dict(missing_end_score=None) | changes)


def training(**changes):
    """Return settings of a short run: each step is logged, every second one told and saved."""
    short = dict(steps=4, batch_size=6, warmup=0, log_every=1, eval_every=2, save_every=2)
    return small.settings(**short | changes)


def random_batch(n_row: int = 4, n: int = 6):
    """Return rewards, values and a mask (B, n) whose rows have 6, 1, 3 and 4 real tokens."""
    mask = torch.arange(n) < torch.tensor([n, 1, 3, 4])[:, None]
    return torch.randn(n_row, n) * mask, torch.randn(n_row, n) * mask, mask


def plain_gae(rewards, values, gamma, gae_lambda, later=None, following=1.0, own=1.0) -> list[float]:
    """Return the advantages of one text: the sum over the future of (gamma lambda)^k delta, term by term.

    Wrong ones with another factor `later` between the terms, or factors for the next and the own value.
    """
    n, after = len(rewards), [*values[1:], 0.0]
    later = gamma * gae_lambda if later is None else later
    deltas = [rewards[t] + gamma * following * after[t] - own * values[t] for t in range(n)]
    return [sum(later ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


@pytest.mark.parametrize("gamma, gae_lambda", [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0), (0.8, 0.0)])
def test_6_advantages_equal_the_sum_written_out(gamma, gae_lambda):
    rewards, values, mask = random_batch()

    def written_out(step=1, **wrong):
        result = torch.zeros(mask.shape)
        for row, n in enumerate(mask.sum(1).tolist()):
            given = (x[row, :n].tolist()[::step] for x in (rewards, values))
            factors = dict(gamma=gamma, gae_lambda=gae_lambda) | wrong
            result[row, :n] = torch.tensor(plain_gae(*given, **factors)[::step])
        return result

    right, how = written_out(), dict(rtol=1e-4, atol=1e-5, axes=("row", "token"))
    mistakes = {
        "lambda is missing: the advantage of the next token is multiplied by gamma only": dict(gae_lambda=1),
        "gamma is missing, in delta and beside lambda": dict(gamma=1),
        "V of the next token is not multiplied by gamma": dict(following=1 / gamma),
        "gamma is missing beside lambda": dict(later=gae_lambda),
        "V of the next token is missing in delta": dict(following=0),
        "V of the next token is multiplied by lambda too": dict(following=gae_lambda),
        "V of the token itself is not subtracted": dict(own=0),
        "no advantage of a later token is added": dict(later=0),
        "the loop goes forwards, but A of the next token must be known first": dict(step=-1),
    }
    mistakes = {name: written_out(**wrong) for name, wrong in mistakes.items()}
    mistakes["V is added to A, which gives the return"] = right + values
    found = unchanged(ppo.advantages, rewards, values, mask, gamma, gae_lambda)
    assert_right(found, right, mistakes, **how)
    noise = 7.0 * ~mask  # what stands in the padding
    found = ppo.advantages(rewards, values + noise, mask, gamma, gae_lambda)
    assert_right(found, right, what="V must be 0 after the end, whatever the padding holds", **how)
    found = ppo.advantages(rewards + noise, values, mask, gamma, gae_lambda)
    assert_right(found, right, what="A must be 0 in the padding, whatever it holds", **how)


def test_2_and_4_the_reward_is_the_score_at_the_last_token_and_a_price_for_each(rollout):
    logs, reference = (x.tolist() for x in (rollout.log_probs, rollout.reference_log_probs))
    lengths, width = rollout.lengths.tolist(), rollout.answer_mask.shape[1]

    def written_out(kl=0.3, at=lambda t, n: t == n - 1, before=reference):
        rows = [[0.0] * width for _ in lengths]
        for row, n in enumerate(lengths):
            for t in range(width):
                price = kl * (logs[row][t] - before[row][t]) if t < n else 0.0
                rows[row][t] = float(SCORES[row]) * at(t, n) - price
        return torch.tensor(rows)

    mistakes = {
        "the KL has the wrong sign: it must be subtracted": dict(kl=-0.3),
        "`kl_coefficient` is missing": dict(kl=1.0),
        "there is no KL": dict(kl=0.0),
        "the reference is missing in the KL": dict(before=torch.zeros(len(lengths), width).tolist()),
        "each token gets the whole score": dict(at=lambda t, n: t < n),
        "the score is in the last column, padding in most rows": dict(at=lambda t, n: t == width - 1),
        "the score is one place after the last token": dict(at=lambda t, n: t == n),
        "no token gets the score": dict(at=lambda t, n: False),
    }
    mistakes = {name: written_out(**wrong) for name, wrong in mistakes.items()}
    found = unchanged(ppo.token_rewards, rollout, SCORES, 0.3, details())
    assert_right(found, written_out(), mistakes, axes=("row", "token"))


def test_2_the_kl_can_be_paid_at_the_end(rollout):
    each = ppo.token_rewards(rollout, torch.zeros(5), 0.3, details())
    end = ppo.token_rewards(rollout, torch.zeros(5), 0.3, details(kl_per_token=False))
    right = torch.zeros_like(each)
    right[torch.arange(5), rollout.lengths - 1] = -0.3 * rollout.kl()
    mistakes = {"each token pays its own KL: `kl_per_token` is ignored": each}
    assert_right(end, right, mistakes, axes=("row", "token"), what="kl_per_token=False")


@pytest.mark.parametrize(
    ("kl", "factor", "what"),
    [
        (2.0, 1.0, "it stays at the target"),
        (2.2, 1 + 0.1 * 0.1, "0.1 (kl - target) / target"),
        (90.0, 1.02, "the error is clipped to 0.2"),
        (0.0, 0.98, "the error is clipped to -0.2"),
    ],
)
def test_3_the_coefficient_follows_its_target(kl, factor, what, gpt, env, monkeypatch):
    monkeypatch.setattr(Rollout, "kl", lambda rollout: torch.full((len(rollout.ids),), kl))
    objective = ppo.PPO(env, details(kl=0.5, adaptive_kl=True, kl_target=2.0))
    train_step(objective, gpt, step=0)
    assert objective.state == pytest.approx(0.5 * factor), what


@pytest.mark.parametrize(("adaptive", "used", "next_one"), [(True, 0.3, 0.3 * 0.98), (False, 0.5, 0.5)])
def test_3_the_coefficient_of_a_step_is_the_state_of_the_objective(gpt, env, adaptive, used, next_one):
    objective = ppo.PPO(env, details(kl=0.5, adaptive_kl=adaptive, kl_target=2.0))
    assert objective.state == 0.5
    objective.state = 0.3  # what a checkpoint says
    metrics = train_step(objective, gpt, step=1)[0]  # its KL is 0
    assert float(metrics["kl_coefficient"]) == used, "--resume with another --kl"
    assert objective.state == pytest.approx(next_one)


def test_4_the_score_can_be_shared_by_all_tokens(rollout):
    found = ppo.token_rewards(rollout, SCORES, 0.0, details(reward_at_end=False))
    mask, n = rollout.answer_mask, rollout.lengths[:, None]
    at_end = ppo.token_rewards(rollout, SCORES, 0.0, details())
    mistakes = {
        "the last token gets the whole score: `reward_at_end` is ignored": at_end,
        "each token gets the whole score": SCORES[:, None] * mask,
        "padding gets a share": (SCORES[:, None] / n).expand(mask.shape),
    }
    what = "reward_at_end=False"
    assert_right(found, SCORES[:, None] / n * mask, mistakes, axes=("row", "token"), what=what)


def test_5_an_answer_without_its_end_gets_the_fixed_score(rollout):
    found = ppo.token_rewards(rollout, SCORES, 0.0, details(missing_end_score=-1.5)).sum(1)
    mistakes = {
        "`missing_end_score` is ignored": SCORES,
        "the answer with an end gets it, and the others do not": [1.0, -2.0, -1.5, 3.0, 0.25],
        "all answers get it": [-1.5] * 5,
        "it is added to the score, but must replace it": torch.where(rollout.ended, SCORES, SCORES - 1.5),
    }
    what = "only row 2 has an end; the others get `missing_end_score`"
    assert_right(found, [-1.5, -1.5, 0.5, -1.5, -1.5], mistakes, axes=("row",), what=what)
    found = ppo.token_rewards(rollout, SCORES, 0.0, details()).sum(1)
    assert_right(found, SCORES, axes=("row",), what="missing_end_score=None, all scores stay")


@pytest.mark.parametrize("shift_mean", [True, False])
def test_7_whitening_counts_real_tokens_only(shift_mean):
    x, _, mask = random_batch()
    x = 3 * x + 5 * mask
    mean, deviation = x[mask].mean(), x[mask].std(correction=0)
    white, back = (x - mean) / deviation, 0.0 if shift_mean else mean
    off, off_back = x - x.mean(), 0.0 if shift_mean else x.mean()  # with padding in the mean
    mistakes = {
        "padding is counted in mean and standard deviation": off / x.std(correction=0) + off_back,
        "padding is counted in the mean": off / off[mask].square().mean().sqrt() + off_back,
        "it is divided by the variance, not by its square root": (x - mean) / deviation**2 + back,
        "it is not divided by the standard deviation": x - mean + back,
        "the variance is divided by n - 1, not by n": (x - mean) / x[mask].std() + back,
        "the mean is not subtracted": x / deviation,
        "the mean is added again, although `shift_mean` is True": white + mean,
        "the mean is not added again, although `shift_mean` is False": white,
    }
    mistakes = {name: wrong * mask for name, wrong in mistakes.items()}
    mistakes["padding does not stay 0"] = white + back
    found, how = ppo.whiten(x, mask, shift_mean), dict(rtol=1e-4, atol=1e-5, axes=("row", "token"))
    assert_right(found, (white + back) * mask, mistakes, **how)
    found = ppo.whiten(x + 100.0 * ~mask, mask, shift_mean)
    told = "with numbers in the padding, which must not count"
    assert_right(found, (white + back) * mask, what=told, **how)


def test_7_whitening_of_little_gives_numbers():
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert ppo.whiten(torch.full((2, 3), 4.0), mask).abs().max() < 1e-3, "add 1e-8: the variance may be 0"
    assert ppo.masked_mean(torch.ones(2, 3), ~mask) == 0
    told = "mean of one token"
    assert ppo.masked_mean(torch.tensor([[3.0, 5.0]]), torch.tensor([[True, False]])) == 3, told


def test_the_batch_is_made_of_these_parts(rollout):
    how, real = dict(gamma=0.9, gae_lambda=0.7), rollout.answer_mask
    rewards = ppo.token_rewards(rollout, SCORES, 0.2, details())
    raw = ppo.advantages(rewards, rollout.values, real, **how)
    plain = ppo.make_batch(rollout, SCORES, 0.2, details(whiten_advantages=False, **how))
    torch.testing.assert_close(plain["advantages"], raw)
    torch.testing.assert_close(plain["returns"], raw + rollout.values, msg="returns = advantages + values")
    white = ppo.advantages(ppo.whiten(rewards, real, False), rollout.values, real, **how)
    both = ppo.make_batch(rollout, SCORES, 0.2, details(whiten_rewards=True, **how))
    torch.testing.assert_close(both["advantages"], ppo.whiten(white, real))
    told = "returns = advantages, not whitened, + values"
    torch.testing.assert_close(both["returns"], white + rollout.values, msg=told)
    assert both["ids"] is rollout.ids and both["log_probs"] is rollout.log_probs


def test_two_answers_are_a_group_that_pays_for_its_kl(rollout):
    four = Rollout(*(part[:4] if torch.is_tensor(part) else part for part in vars(rollout).values()))
    batch = ppo.make_batch(four, SCORES[:4], 0.2, details(group_size=2, whiten_advantages=False))
    assert batch["returns"] is four.values, "there is no value to learn"
    earned = (SCORES[:4] - 0.2 * four.kl()).view(2, 2)
    right = (earned - earned.mean(1, keepdim=True)).view(4, 1) * four.answer_mask
    torch.testing.assert_close(batch["advantages"], right, msg="the score less the mean of both")


def plain_losses(batch, log_probs, values, details, gain=min, error=max) -> tuple:
    """Return the policy's and the value's loss of Schulman et al. 2017, token by token."""
    gains, errors = [], []
    for row, t in batch["mask"][:, -log_probs.shape[1] :].nonzero().tolist():  # the real new tokens
        ratio = cut = (log_probs[row, t] - batch["log_probs"][row, t]).exp()
        value = near = values[row, t]
        advantage, old, target = (batch[name][row, t] for name in ("advantages", "values", "returns"))
        if details.clip_ratio:
            cut = min(max(ratio, 1 - details.clip_ratio), 1 + details.clip_ratio)
        if details.clip_value:
            near = old + min(max(value - old, -details.clip_value), details.clip_value)
        gains.append(gain(ratio * advantage, cut * advantage))
        errors.append(error((value - target) ** 2, (near - target) ** 2) / 2)
    return -sum(gains) / len(gains), sum(errors) / len(errors)


def wrong_losses(batch, log_probs, values, details) -> tuple[dict, dict]:
    """Return what typical mistakes in the policy's loss give, and those in the value's."""

    def losses(changed=details, **wrong):
        return plain_losses(batch, log_probs, values, changed, **wrong)

    policy, value = losses()
    n_token = int(batch["mask"][:, -log_probs.shape[1] :].sum())
    swapped, _ = plain_losses(batch | dict(log_probs=log_probs), batch["log_probs"], values, details)
    return {
        "the sign is wrong: the loss is minus the mean": -policy,
        "the larger of the two products is taken, not the smaller": losses(gain=max)[0],
        "the ratio is not clipped": losses(replace(details, clip_ratio=0.0))[0],
        "only the clipped product is taken, not the smaller one": losses(gain=lambda plain, cut: cut)[0],
        "the ratio is old / new, not new / old": swapped,
        "padding counts in the mean": policy * n_token / log_probs.numel(),
        "it is a sum over the tokens, not a mean": policy * n_token,
    }, {
        "the smaller of the two errors is taken, not the larger": losses(error=min)[1],
        "the value is not clipped": losses(replace(details, clip_value=0.0))[1],
        "only the clipped value is used, not the larger error": losses(error=lambda plain, near: near)[1],
        "the factor 1/2 is missing": 2 * value,
        "the sign is wrong": -value,
        "padding counts in the mean": value * n_token / values.numel(),
        "it is a sum over the tokens, not a mean": value * n_token,
    }


@pytest.mark.parametrize("clips", [(0.2, 0.2), (0.0, 0.2), (0.05, 0.0), (0.0, 0.0)])
def test_8_the_loss_equals_a_plain_loop(rollout, moved, rule, clips):
    changed = details(clip_ratio=clips[0], clip_value=clips[1], value_weight=0.7)
    batch = ppo.make_batch(rollout, SCORES, 0.2, changed)
    policy = Policy(moved, zero_value_head=False)
    log_probs, values = (x.detach() for x in policy(rollout.ids, rollout.mask, rollout.n_prompt, rule))
    loss, metrics = ppo.ppo_loss(policy, batch, rule, changed)
    given = batch, log_probs, values, changed
    policy_loss, value_loss = plain_losses(*given)
    of_policy, of_value = wrong_losses(*given)
    what = f"clip_ratio {clips[0]}, clip_value {clips[1]}"
    assert_right(metrics["policy_loss"], policy_loss, of_policy, rtol=1e-4, what=f"policy_loss, {what}")
    assert_right(metrics["value_loss"], value_loss, of_value, rtol=1e-4, what=f"value_loss, {what}")
    mistakes = {
        "`value_weight` is missing": policy_loss + value_loss,
        "the value loss is left out": policy_loss,
        "the value loss is subtracted": policy_loss - 0.7 * value_loss,
    }
    assert_right(loss, policy_loss + 0.7 * value_loss, mistakes, rtol=1e-4, what="the loss")
    ratio = (log_probs - batch["log_probs"]).exp()[rollout.answer_mask]
    assert_right(metrics["ratio"], ratio.mean(), what="the mean ratio")
    cut = ((ratio - 1).abs() > clips[0]).float().mean() if clips[0] else 0.0
    assert_right(metrics["clipped"], cut, what="the share of the tokens whose ratio was clipped")
    assert metrics["clipped"] > 0 or not clips[0], "the test must move ratios beyond the bound"
    step_kl = (ratio - 1 - ratio.log()).mean()
    assert_right(metrics["step_kl"], step_kl, what="the mean of ratio - 1 - log ratio")


def test_8_the_loss_moves_each_token_as_far_as_the_bounds_let_it(rollout, moved, rule):
    changed, real = details(clip_ratio=0.05, clip_value=0.6, value_weight=0.7), rollout.answer_mask
    batch = ppo.make_batch(rollout, SCORES, 0.2, changed)
    found = Policy(moved, zero_value_head=False)(rollout.ids, rollout.mask, rollout.n_prompt, rule)
    log_probs, values = leaves = [x.detach().requires_grad_() for x in found]
    ppo.ppo_loss(lambda *given: leaves, batch, rule, changed)[0].backward()
    assert log_probs.grad is not None, "the policy cannot learn: no gradient reaches its log-probabilities"
    assert values.grad is not None, "the value head cannot learn: no gradient reaches the values"

    def pull(details=changed, **wrong):
        policy_loss, value_loss = plain_losses(batch, *leaves, details, **wrong)
        return torch.autograd.grad(policy_loss + 0.7 * value_loss, leaves)

    of_log_probs, of_values = pull()
    for right in (of_log_probs, of_values):
        rests = right[real] == 0
        assert rests.any() and not rests.all(), "the test needs tokens within and beyond both bounds"
    mistakes = {
        "ratios are clipped too that moved against A": pull(gain=lambda plain, cut: cut)[0],
        "no ratio is clipped": pull(replace(changed, clip_ratio=0.0))[0],
    }
    what, axes = "gradient of the log-probabilities", ("row", "token")
    assert_right(log_probs.grad, of_log_probs, mistakes, axes=axes, what=what)
    assert_right(values.grad, of_values, axes=axes, what="gradient of the values")


def test_12_before_the_first_update_each_ratio_is_1_and_each_kl_0(make_gpt, env, rule):
    gpt = make_gpt(dropout=0.5, attention_dropout=0.5)
    policy, env.reference = Policy(gpt.eval()), copy.deepcopy(gpt)
    rollout = score_answers(draw_answers(gpt, env, env.prompts, seed=0), policy, env)
    message = "KL is not exactly 0: scored in two ways"
    assert torch.equal(rollout.log_probs, rollout.reference_log_probs), message
    log_probs, _ = policy(rollout.ids, rollout.mask, rollout.n_prompt, rule)
    assert torch.equal((log_probs - rollout.log_probs).exp(), torch.ones_like(log_probs)), "a ratio is not 1"
    _, metrics = ppo.ppo_loss(policy, ppo.make_batch(rollout, SCORES, 0.1, details()), rule, details())
    assert (metrics["ratio"], metrics["clipped"], metrics["step_kl"]) == (1, 0, 0)
    once = details(epochs=1, minibatches=1)
    after = ppo.train_ppo(make_gpt(dropout=0.5), env, once, training(steps=1))["after"]
    assert (after["ratio"], after["step_kl"]) == (1, 0), "the policy must train without dropout"


def seen_by_update(rollout, gpt, env, changed, step=1, **changes):
    """Return the rows of each minibatch of an update, its metrics and its optimiser."""
    policy, seen = Policy(copy.deepcopy(gpt)), []
    policy.register_forward_pre_hook(lambda module, args: seen.append(args[0].tolist()))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1.0)
    batch = ppo.make_batch(rollout, SCORES, 0.1, changed)
    metrics = ppo.PPO(env, changed).learn(policy, optimizer, batch, training(**changes), step, 2e-3)
    return seen, metrics, optimizer


def test_9_each_pass_sees_every_answer_once(rollout, gpt, env):
    rows, two = rollout.ids.tolist(), dict(epochs=3, minibatches=2)
    seen, _, optimizer = seen_by_update(rollout, gpt, env, details(**two), step=3, seed=4)
    assert [len(part) for part in seen] == [3, 2] * 3, "two minibatches a pass, as equal as possible"
    passes = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(each) == sorted(rows) for each in passes), "a pass has each answer once"
    assert len({str(each) for each in passes}) > 1, "each pass must draw new minibatches"
    random = np.random.default_rng([4, 3, 2])
    drawn = [[rows[i] for i in random.permutation(5)] for _ in range(3)]
    assert passes == drawn, "not drawn from seed and step, as for the READMEs' figures"
    assert optimizer.param_groups[0]["lr"] == 2e-3
    seen, _, _ = seen_by_update(rollout, gpt, env, details(**two, shuffle=False))
    assert seen[0] + seen[1] == seen[2] + seen[3] == rows, "without shuffling the order stays"


def test_10_the_learning_rate_rises_and_falls_in_a_line():
    found = [ppo.learning_rate(step, training(steps=10, warmup=4, lr=1.0), True) for step in range(10)]
    told = "(step + 1) / warmup, at most 1, times 1 - step / steps"
    want = [0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert found == pytest.approx(want), told
    assert ppo.learning_rate(0, training(steps=10, warmup=1, lr=1.0), True) == 1
    short = [ppo.learning_rate(step, training(steps=5, warmup=10, lr=1.0), False) for step in range(5)]
    told = "a short run reaches its rate: it warms up in at most half of its steps"
    assert short == [0.5, 1, 1, 1, 1], told
    assert ppo.learning_rate(0, training(steps=1, warmup=10, lr=1.0), False) == 1
    assert [ppo.learning_rate(step, training(lr=1.0), False) for step in range(4)] == [1.0] * 4


def test_the_metrics_of_an_update_are_the_means_of_its_parts(rollout, gpt, env, monkeypatch):
    losses, plain = [], ppo.ppo_loss

    def spy(*given):
        loss, metrics = plain(*given)
        losses.append(float(loss.detach()))
        return loss, metrics

    monkeypatch.setattr(ppo, "ppo_loss", spy)
    _, metrics, _ = seen_by_update(rollout, gpt, env, details(epochs=3, minibatches=2))
    assert len(losses) == 6 and metrics["loss"] == pytest.approx(sum(losses) / 6, rel=1e-5)


def test_the_gradient_is_clipped(rollout, gpt, env):
    moved = []
    for clip in (1e-4, 0.0):
        policy, changed = Policy(copy.deepcopy(gpt)), details(epochs=1, minibatches=1)
        optimizer = torch.optim.SGD(policy.parameters())
        batch = ppo.make_batch(rollout, SCORES, 0.1, changed)
        ppo.PPO(env, changed).learn(policy, optimizer, batch, training(clip=clip), 0, 1.0)
        both = zip(policy.model.parameters(), gpt.parameters(), strict=True)
        moved.append(float(sum(((a - b).detach() ** 2).sum() for a, b in both)) ** 0.5)
    assert moved[0] <= 1.01e-4 < moved[1], "clip 0 means no clipping, and a small clip a small step"


def train_step(objective, gpt, step, **changes):
    """Return what one update returns, of a policy with a random value head."""
    policy = Policy(gpt, zero_value_head=False)
    return objective.update(policy, torch.optim.Adam(policy.parameters()), training(**changes), step)


def watch(env, act):
    """Return the environment with a reward that first calls `act(number of the call)`, and adds it."""
    env, inner, calls = copy.copy(env), env.reward, []

    class Watched:
        def scores(self, rollout, texts):
            calls.append((rollout, texts))
            return inner.scores(rollout, texts) + (act(len(calls)) or 0.0)

    env.reward = Watched()
    return env, calls


def test_the_metrics_of_answers_are_what_their_names_say(rollout, env):
    rollout.values = torch.zeros_like(rollout.values)
    objective, texts = ppo.PPO(env, details(kl=0.25)), [("Eva", " e")] * 2 + [("prompt", " a")] * 3
    batch = ppo.make_batch(rollout, SCORES, 0.1, details())
    found, n_new = objective.describe(rollout, SCORES, texts, batch), int(rollout.lengths.sum())
    assert n_new < rollout.log_probs.numel(), "a test without padding"
    expected = dict(
        reward=float(SCORES.mean()),
        kl=float(rollout.kl().mean()),
        entropy=-float(rollout.log_probs.sum()) / n_new,  # nats a real token
        length=n_new / 5,
        ended=1 / 5,
        value_error=1,  # for values of 0: the mean error is subtracted before squaring
        judge=2 / 5,
        kl_coefficient=0.25,
    )
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), f"{name}: see the docstring of `describe`"
    assert set(found) == set(expected)


def test_an_update_returns_its_metrics_the_norm_the_tokens_and_the_rate(moved, env):
    watched, calls = watch(env, lambda call: 0.0)
    metrics, norm, n_token, lr = train_step(ppo.PPO(watched, details()), moved, step=1, lr=1e-3)
    ((rollout, texts),) = calls
    explained = ppo.PPO.describe.__doc__ + ppo.ppo_loss.__doc__
    for name in set(metrics) - {"loss"}:
        assert f"{name}:" in explained or f"`{name}`" in explained, f"explain {name} in a docstring"
    assert metrics["reward"] == pytest.approx(float(env.reward.scores(rollout, texts).mean()))
    assert metrics["kl"] == pytest.approx(float(rollout.kl().mean())) and metrics["kl"] != 0
    assert metrics["judge"] == sum("e" in prompt + answer for prompt, answer in texts) / 6
    assert (n_token, lr) == (rollout.ids.numel(), 1e-3 * 3 / 4) and norm > 0


def test_a_single_token_has_a_finite_variance_and_no_judge_no_metric(gpt, env):
    env.judge, env.max_new_tokens = None, 1
    metrics = train_step(ppo.PPO(env, details(minibatches=1)), gpt, step=0, batch_size=1)[0]
    assert all(map(math.isfinite, metrics.values())), "over n - 1 the variance of one token is NaN"
    assert "judge" not in metrics


@pytest.mark.parametrize("group_size", [1, 3])
def test_the_policy_learns_what_is_rewarded(gpt, env, group_size):
    wanted, before = 200, copy.deepcopy(gpt)
    env.reward.scores = lambda rollout, texts: (rollout.ids[:, rollout.n_prompt :] == wanted).float().sum(1)
    short = training(steps=30, batch_size=15, lr=1e-2)
    outcome = ppo.train_ppo(gpt, env, details(kl=0.02, group_size=group_size), short)
    ids = torch.tensor(env.prompts[:1])
    after, start = (model(ids)[0, -1].softmax(-1)[wanted].item() for model in (gpt, before))
    assert after > 5 * start, "not learnt: do the answers of each step differ?"
    assert outcome["seconds"] > 0


def test_a_run_leaves_a_log_and_a_model_that_loads(gpt, env, tmp_path, capsys):
    ppo.train_ppo(gpt, env, details(), training(steps=5), tmp_path)
    log = read_log(tmp_path)
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5]
    assert set(log[0]) >= {"kl_coefficient", "policy_loss", "lr", "gradient_norm", "judge", "split"}
    assert log[0]["kl"] == 0, "before the first update policy and reference are the same"
    model, tokenizer = minilm.load(tmp_path)
    small.assert_equal(model.state_dict(), gpt.state_dict())
    assert tokenizer.vocab == env.tokenizer.vocab
    told = [line.split() for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert [words[1] for words in told] == ["2", "4", "5"]
    assert told[0][2::2] == ["reward", "kl", "entropy", "length", "judge"]


@pytest.mark.parametrize(
    "changes", [{}, dict(adaptive_kl=True, kl_target=0.01, anneal=False, epochs=1), dict(group_size=3)]
)
@pytest.mark.parametrize("by_ctrl_c", [True, False])
def test_resuming_is_exact(make_gpt, env, tmp_path, changes, by_ctrl_c):
    whole, part, fresh = make_gpt(), make_gpt(), make_gpt(seed=5)  # fresh weights: the checkpoint's count
    folders = tmp_path / "whole", tmp_path / "part"
    for folder in folders:
        folder.mkdir()
    ppo.train_ppo(whole, env, details(**changes), training(), folders[0])

    def stop(call):
        if call == 3 and by_ctrl_c:
            os.kill(os.getpid(), signal.SIGINT)
        elif call == 3:
            raise UserError("stopped by the test")

    told = "after step 3 of 4, saved|step 3: stopped by the test"
    with pytest.raises(KeyboardInterrupt if by_ctrl_c else UserError, match=told):
        ppo.train_ppo(part, watch(env, stop)[0], details(**changes), training(), folders[1])
    assert load_trainer(folders[1])["step"] == (3 if by_ctrl_c else 2)
    ppo.train_ppo(fresh, env, details(**changes), training(resume=True), folders[1])
    small.assert_equal(fresh.state_dict(), whole.state_dict())
    states, logs = [load_trainer(folder) for folder in folders], [read_log(folder) for folder in folders]
    for state, log in zip(states, logs, strict=True):
        assert state.pop("seconds") > 0 and all(record.pop("tokens_per_second") for record in log)
    small.assert_equal(*states)
    small.assert_equal(*logs)


def test_numbers_that_are_not_finite_are_never_saved(gpt, env, tmp_path):
    env, _ = watch(env, lambda call: float("nan") if call == 3 else 0.0)
    with pytest.raises(UserError, match="not finite at step 3; .* keeps the last checkpoint. Try .*--lr"):
        ppo.train_ppo(gpt, env, details(), training(save_every=1), tmp_path)
    assert load_trainer(tmp_path)["step"] == 2


def test_kl_warns_once_at_one_bound_and_stops_at_another(env, capsys):
    objective = ppo.PPO(env, details(warn_kl=3.0, stop_kl=8.0, kl=0.07))
    objective.watch(3.0, 0, 0.01)
    assert capsys.readouterr().err == ""
    objective.watch(3.1, 1, 0.01)
    assert "step 2: KL 3.1 nats a sequence, above --warn-kl 3" in (told := capsys.readouterr().err)
    assert "--kl" in told and "--lr" in told, "say which flag helps"
    objective.watch(8.0, 2, 0.01)
    assert capsys.readouterr().err == "", "one warning is enough"
    with pytest.raises(UserError, match="KL 8.1 .*above --stop-kl 8: .*--kl above 0.07 or lower --lr 0.01"):
        objective.watch(8.1, 3, 0.01)


def test_an_exploding_run_stops_before_it_is_saved(gpt, env, tmp_path):
    wild = details(kl=0.0, clip_ratio=0.0, stop_kl=2.0)
    with pytest.raises(UserError, match="above --stop-kl 2: .* keeps the last checkpoint"):
        ppo.train_ppo(gpt, env, wild, training(lr=0.5, clip=0.0, save_every=1), tmp_path)
    assert all(record["kl"] <= 2 for record in read_log(tmp_path))


def test_the_run_depends_on_its_seed_alone(make_gpt, env, tmp_path):
    found = []
    for noise, seed in ((1, 0), (2, 0), (1, 9)):
        policy, folder = make_gpt(), tmp_path if noise == 2 else None  # logging and saving change nothing
        torch.manual_seed(noise)
        changed = training(steps=2, seed=seed, save_every=noise)
        ppo.train_ppo(policy, env, details(zero_value_head=False), changed, folder)
        found.append(policy.state_dict())
    small.assert_equal(found[0], found[1])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_each_detail_has_a_row_that_switches_it_and_no_other(settings):
    source, defaults = inspect.getsource(ppo.PPODetails), ReinforceSettings.__dataclass_fields__
    numbers = dict(re.findall(r"^    (\w+): .*?# (\d+):", source, re.MULTILINE)) | dict(warmup=10)
    switched = {number for number, *_ in ppo.SWITCHES}
    assert switched == {0, *map(int, numbers.values())} == {*range(12)}, "0 is all, 1 to 11 a detail"
    for number, name, changes in ppo.SWITCHES:
        told = f"{name}: another detail's number"
        assert {int(numbers[field]) for field in changes} == {number} - {0}, told
        assert all(defaults[field].default != value for field, value in changes.items()), f"{name}: the same"
        settings(**changes)


def test_the_defaults_are_those_of_the_figures_in_the_readmes():
    told = dict(zero_value_head=True, kl=0.1, kl_per_token=True, adaptive_kl=False, kl_target=3.0)
    told |= dict(reward_at_end=True, missing_end_score=-1.0, gamma=1.0, gae_lambda=0.95, whiten_rewards=False)
    told |= dict(whiten_advantages=True, clip_ratio=0.2, clip_value=0.2, value_weight=0.01, epochs=3)
    told |= dict(minibatches=2, shuffle=True, anneal=True, normalise_reward=True, group_size=1)
    assert vars(ppo.PPODetails()) == told | dict(warn_kl=10.0, stop_kl=200.0)
    changed = [changes for _, _, changes in ppo.SWITCHES if changes]
    off = dict(zero_value_head=False, value_weight=1.0, kl=0.0, kl_per_token=False, adaptive_kl=True)
    off |= dict(reward_at_end=False, missing_end_score=None, gae_lambda=0.0, whiten_rewards=True)
    off |= dict(whiten_advantages=False, clip_ratio=0.0, clip_value=0.0, epochs=1, minibatches=1)
    off |= dict(shuffle=False, warmup=0, anneal=False, normalise_reward=False)
    assert {field: value for row in changed for field, value in row.items()} == off, "what `--ablate` tries"
    assert dict(gae_lambda=1.0) in changed and len(changed) == len(off) + 1


def test_the_metrics_of_one_update_are_its_own(rollout, gpt, env):
    _, one, _ = seen_by_update(rollout, gpt, env, details(epochs=1, minibatches=1))
    policy = Policy(copy.deepcopy(gpt))
    batch = ppo.make_batch(rollout, SCORES, 0.1, details())
    loss, metrics = ppo.ppo_loss(policy, batch, env.rule, details(epochs=1, minibatches=1))
    assert one["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for name, value in metrics.items():
        assert one[name] == pytest.approx(float(value), rel=1e-3, abs=1e-6), name


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(ppo.PPODetails(), by_name=True)


@pytest.mark.parametrize("group_size", [1, 3])
def test_prompts_and_answers_of_a_step_depend_on_seed_and_step_alone(group_size, env, gpt, monkeypatch):
    """So a resumed run draws what it would have drawn."""
    seen = []
    monkeypatch.setattr(ppo, "draw_answers", lambda model, env, *given: seen.append(given) or 1 / 0)
    objective = ppo.PPO(env, details(group_size=group_size))
    with pytest.raises(ZeroDivisionError):
        train_step(objective, gpt, step=2, batch_size=6, seed=4)
    ((prompts, seed),) = seen
    drawn = np.random.default_rng([4, 2, 0]).integers(0, len(env.prompts), 6 // group_size)
    assert prompts == [env.prompts[i] for i in drawn for _ in range(group_size)]
    assert seed == np.random.default_rng([4, 2, 1]).integers(2**62)


def test_the_optimizer_is_adam_with_a_larger_eps(env, gpt, monkeypatch):
    seen = []
    monkeypatch.setattr(ppo, "train", lambda *given: seen.append(given))
    for group_size in (1, 2):
        ppo.train_ppo(gpt, env, details(group_size=group_size), training(lr=0.25))
    for (policy, *_, optimizer), has_values in zip(seen, (True, False), strict=True):
        assert (optimizer.defaults["eps"], optimizer.defaults["lr"]) == (1e-5, 0.25)
        assert (policy.value_head is not None) == has_values, "a group needs none"
