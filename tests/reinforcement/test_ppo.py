"""Grades reinforcement/ppo.py: each detail against a plain loop written from its formula."""

import copy

import pytest
import torch

from minilm.reinforcement.ppo import (
    adapted,
    advantages,
    learning_rate,
    make_batch,
    masked_mean,
    ppo_loss,
    token_rewards,
    update,
    whiten,
)
from minilm.reinforcement.rollout import Policy, draw_answers, score_answers


def random_batch(n_row: int = 4, n: int = 6):
    """Return rewards, values and a mask (B, n) whose rows have 6, 1, 3 and 4 real tokens."""
    mask = torch.arange(n) < torch.tensor([n, 1, 3, 4])[:, None]
    return torch.randn(n_row, n) * mask, torch.randn(n_row, n) * mask, mask


def plain_gae(rewards, values, gamma, gae_lambda) -> list[float]:
    """Return the advantages of one text: the sum over the future of (gamma lambda)^k delta, term by term."""
    n = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(n)]
    return [sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


@pytest.mark.parametrize("gamma, gae_lambda", [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0), (0.8, 0.0)])
def test_6_advantages_equal_the_sum_written_out(gamma, gae_lambda):
    rewards, values, mask = random_batch()
    found = advantages(rewards, values, mask, gamma, gae_lambda)
    for row in range(4):
        n = int(mask[row].sum())
        expected = plain_gae(rewards[row, :n].tolist(), values[row, :n].tolist(), gamma, gae_lambda)
        torch.testing.assert_close(
            found[row, :n], torch.tensor(expected), msg=f"row {row}: is the value after the end 0?"
        )
        assert (found[row, n:] == 0).all(), "padding has no advantage"


def test_6_advantages_do_not_read_padding():
    rewards, values, mask = random_batch()
    found = advantages(rewards, values, mask, 1.0, 0.95)
    assert torch.equal(found, advantages(rewards, values + 7.0 * ~mask, mask, 1.0, 0.95))


def test_6_with_lambda_1_the_value_of_the_future_is_what_came():
    rewards, values, mask = random_batch()
    found = advantages(rewards, values, mask, 1.0, 1.0)
    to_come = rewards.flip(1).cumsum(1).flip(1)  # rewards of padding are 0
    torch.testing.assert_close(found, (to_come - values) * mask)


def test_2_and_4_the_reward_is_the_score_at_the_last_token_and_a_price_for_each(rollout, settings):
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25])
    found = token_rewards(rollout, scores, 0.3, settings(missing_end_score=None))
    for row in range(len(scores)):
        n = int(rollout.lengths[row])
        for t in range(found.shape[1]):
            kl = float(rollout.log_probs[row, t] - rollout.reference_log_probs[row, t])
            expected = (-0.3 * kl if t < n else 0.0) + (float(scores[row]) if t == n - 1 else 0.0)
            assert found[row, t] == pytest.approx(expected, abs=1e-6), (
                f"row {row}, token {t} of {n}: the score belongs to the last real token, -kl (log pi - log "
                "reference) to every one"
            )


def test_2_the_kl_can_be_paid_at_the_end(rollout, settings):
    scores = torch.zeros(5)
    each = token_rewards(rollout, scores, 0.3, settings(missing_end_score=None))
    end = token_rewards(rollout, scores, 0.3, settings(missing_end_score=None, kl_per_token=False))
    torch.testing.assert_close(end.sum(1), each.sum(1))
    last = rollout.lengths - 1
    assert (end != 0).sum(1).tolist() == [1] * 5
    torch.testing.assert_close(end[torch.arange(5), last], -0.3 * rollout.kl())


def test_2_without_a_coefficient_the_reference_does_not_matter(rollout, settings):
    scores = torch.ones(5)
    found = token_rewards(rollout, scores, 0.0, settings(missing_end_score=None))
    assert torch.equal(found.sum(1), scores) and ((found != 0).sum(1) == 1).all()


def test_3_the_coefficient_follows_its_target(settings):
    adaptive = settings(adaptive_kl=True, kl_target=2.0)
    assert adapted(0.5, 2.0, adaptive) == 0.5
    assert adapted(0.5, 2.2, adaptive) == pytest.approx(0.5 * (1 + 0.1 * 0.1)), "0.1 (kl - target) / target"
    assert adapted(0.5, 90.0, adaptive) == pytest.approx(0.5 * 1.02), "the error is clipped to 0.2"
    assert adapted(0.5, -90.0, adaptive) == pytest.approx(0.5 * 0.98)
    assert adapted(0.5, 90.0, settings()) == 0.5, "fixed unless --adaptive-kl"


def test_4_the_score_can_be_shared_by_all_tokens(rollout, settings):
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25])
    found = token_rewards(rollout, scores, 0.0, settings(missing_end_score=None, reward_at_end=False))
    torch.testing.assert_close(found.sum(1), scores)
    for row in range(5):
        n = int(rollout.lengths[row])
        torch.testing.assert_close(found[row, :n], (scores[row] / n).expand(n))
        assert (found[row, n:] == 0).all(), "padding earns nothing"


def test_5_an_answer_without_its_end_gets_the_fixed_score(rollout, settings):
    scores = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.25])
    found = token_rewards(rollout, scores, 0.0, settings(missing_end_score=-1.5)).sum(1)
    assert found.tolist() == [-1.5, -1.5, 0.5, -1.5, -1.5]
    assert (
        token_rewards(rollout, scores, 0.0, settings(missing_end_score=None)).sum(1).tolist()
        == scores.tolist()
    )


@pytest.mark.parametrize("shift_mean", [True, False])
def test_7_whitening_counts_real_tokens_only(shift_mean):
    x, _, mask = random_batch()
    x = 3 * x + 5 * mask
    found = whiten(x, mask, shift_mean)
    real, whitened = x[mask], found[mask]
    assert whitened.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert whitened.mean() == pytest.approx(0 if shift_mean else float(real.mean()), abs=1e-4)
    assert (found[~mask] == 0).all(), "padding stays 0"
    torch.testing.assert_close(found, whiten(x + 100.0 * ~mask, mask, shift_mean), msg="padding was counted")


def test_7_whitening_equal_numbers_gives_numbers():
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert whiten(torch.full((2, 3), 4.0), mask).abs().max() < 1e-3


def test_masked_mean_of_nothing_is_0():
    assert masked_mean(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_the_batch_is_made_of_these_parts(rollout, settings):
    scores, off = torch.randn(5), dict(whiten_rewards=False, whiten_advantages=False)
    plain = make_batch(rollout, scores, 0.2, settings(**off))
    rewards = token_rewards(rollout, scores, 0.2, settings())
    raw = advantages(rewards, rollout.values, rollout.answer_mask, 1.0, 0.95)
    torch.testing.assert_close(plain["advantages"], raw)
    torch.testing.assert_close(plain["returns"], raw + rollout.values, msg="returns = advantages + values")
    both = make_batch(rollout, scores, 0.2, settings())
    real = rollout.answer_mask
    assert both["advantages"][real].mean() == pytest.approx(0, abs=1e-5)
    white = advantages(whiten(rewards, real, False), rollout.values, real, 1.0, 0.95)
    torch.testing.assert_close(both["returns"], white + rollout.values)
    assert both["ids"] is rollout.ids and both["log_probs"] is rollout.log_probs


def plain_loss(batch, log_probs, values, settings) -> float:
    """Return the loss of Schulman et al. 2017 token by token."""
    n_prompt = batch["ids"].shape[1] - log_probs.shape[1]
    gains, errors = [], []
    for row, mask in enumerate(batch["mask"][:, n_prompt:].tolist()):
        for t in [t for t, real in enumerate(mask) if real]:
            ratio = float((log_probs[row, t] - batch["log_probs"][row, t]).exp())
            advantage, old = float(batch["advantages"][row, t]), float(batch["values"][row, t])
            value, target = float(values[row, t]), float(batch["returns"][row, t])
            cut, near = ratio, value
            if settings.clip_ratio:
                cut = min(max(ratio, 1 - settings.clip_ratio), 1 + settings.clip_ratio)
            if settings.clip_value:
                near = old + min(max(value - old, -settings.clip_value), settings.clip_value)
            gains.append(min(ratio * advantage, cut * advantage))
            errors.append(max((value - target) ** 2, (near - target) ** 2) / 2)
    return -sum(gains) / len(gains) + settings.value_weight * sum(errors) / len(errors)


@pytest.mark.parametrize("clips", [(0.2, 0.2), (0.0, 0.2), (0.05, 0.0), (0.0, 0.0)])
def test_8_the_loss_equals_a_plain_loop(rollout, settings, gpt, rule, clips):
    changed = settings(clip_ratio=clips[0], clip_value=clips[1], value_weight=0.7)
    batch = make_batch(rollout, torch.randn(5), 0.2, changed)
    policy = Policy(gpt, zero_value_head=False).eval()
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    log_probs, values = (x.detach() for x in policy(rollout.ids, rollout.mask, rollout.n_prompt, rule))
    loss, metrics = ppo_loss(policy, batch, rule, changed)
    assert loss.item() == pytest.approx(plain_loss(batch, log_probs, values, changed), rel=1e-4)
    assert metrics["step_kl"] > 0
    ratio = (log_probs - batch["log_probs"]).exp()[rollout.answer_mask]
    assert metrics["ratio"] == pytest.approx(float(ratio.mean()), rel=1e-5)
    cut = ((ratio - 1).abs() > clips[0]).float().mean() if clips[0] else 0.0
    assert metrics["clipped"] == pytest.approx(float(cut), abs=1e-6)
    assert metrics["clipped"] > 0 or not clips[0], "the test is to move ratios beyond the bound"


def test_8_a_clipped_ratio_earns_no_more(rollout, settings, gpt, rule):
    batch = make_batch(rollout, torch.randn(5), 0.0, settings())
    batch["advantages"] = torch.ones_like(batch["advantages"]) * rollout.answer_mask
    batch["log_probs"] = batch["log_probs"] - 1.0  # as if every token had become e times as likely
    policy = Policy(gpt).eval()
    only_gain = settings(value_weight=0.0)
    ppo_loss(policy, batch, rule, only_gain)[0].backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in policy.model.parameters())
    ppo_loss(policy, batch, rule, settings(value_weight=0.0, clip_ratio=0.0))[0].backward()
    assert any(p.grad.abs().max() > 0 for p in policy.model.parameters() if p.grad is not None)


def test_12_before_the_first_update_each_ratio_is_1_and_each_kl_0(gpt, task, rule, settings):
    policy = Policy(gpt).eval()
    rollout = draw_answers(gpt, task.prompts, rule, 7, seed=0)
    score_answers(rollout, policy, task.reference, rule)
    assert torch.equal(rollout.log_probs, rollout.reference_log_probs), (
        "KL is not exactly 0: scored in two ways"
    )
    log_probs, _ = policy(rollout.ids, rollout.mask, rollout.n_prompt, rule)
    assert torch.equal((log_probs - rollout.log_probs).exp(), torch.ones_like(log_probs)), "a ratio is not 1"
    _, metrics = ppo_loss(policy, make_batch(rollout, torch.randn(5), 0.1, settings()), rule, settings())
    assert (metrics["ratio"], metrics["clipped"], metrics["step_kl"]) == (1, 0, 0)


class Watched(torch.nn.Module):
    """A policy that notes the rows of each minibatch."""

    def __init__(self, policy):
        super().__init__()
        self.policy, self.seen = policy, []

    def forward(self, ids, mask, n_prompt, rule):
        self.seen.append(ids.tolist())
        return self.policy(ids, mask, n_prompt, rule)


def seen_by_update(rollout, gpt, rule, changed, step=1):
    policy = Watched(Policy(copy.deepcopy(gpt)).eval())
    optimizer = torch.optim.Adam(policy.parameters(), lr=changed.lr)
    batch = make_batch(rollout, torch.randn(5), 0.1, changed)
    return policy.seen, update(policy, optimizer, batch, rule, changed, step), optimizer


def test_9_each_pass_sees_every_answer_once(rollout, settings, gpt, rule):
    seen, _, _ = seen_by_update(rollout, gpt, rule, settings(epochs=3, minibatches=2))
    assert [len(rows) for rows in seen] == [3, 2] * 3, "two minibatches a pass, as equal as possible"
    passes = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(rows) == sorted(rollout.ids.tolist()) for rows in passes), "a pass has each answer once"
    assert len({str(rows) for rows in passes}) > 1, "the answers are dealt anew in each pass"


def test_9_without_shuffling_the_order_stays(rollout, settings, gpt, rule):
    seen, _, _ = seen_by_update(rollout, gpt, rule, settings(epochs=2, minibatches=2, shuffle=False))
    assert seen[0] + seen[1] == seen[2] + seen[3] == rollout.ids.tolist()


def test_9_one_pass_and_one_minibatch(rollout, settings, gpt, rule):
    seen, metrics, _ = seen_by_update(rollout, gpt, rule, settings(epochs=1, minibatches=1))
    assert [len(rows) for rows in seen] == [5]
    assert metrics["ratio"] == pytest.approx(1, abs=1e-5), "a single update starts from the drawn policy"


@pytest.mark.parametrize(
    "step, anneal, share", [(0, True, 1.0), (1, True, 0.75), (3, True, 0.25), (3, False, 1.0)]
)
def test_10_the_learning_rate_falls_in_a_line(rollout, settings, gpt, rule, step, anneal, share):
    changed = settings(steps=4, anneal=anneal)
    _, metrics, optimizer = seen_by_update(rollout, gpt, rule, changed, step)
    assert metrics["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(changed.lr * share)


def test_10_the_learning_rate_rises_first(settings):
    changed = settings(steps=10, warmup=4, lr=1.0)
    found = [learning_rate(step, changed) for step in range(10)]
    assert found == pytest.approx([0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert learning_rate(0, settings(steps=10, warmup=1, lr=1.0)) == 1


def test_an_update_makes_good_answers_likelier(rollout, settings, gpt, rule):
    policy = Policy(gpt).eval()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    scores = torch.tensor([2.0, -2.0, 2.0, -2.0, -2.0])
    rollout.values.zero_()
    batch = make_batch(rollout, scores, 0.0, settings(missing_end_score=None))
    metrics = update(policy, optimizer, batch, rule, settings(lr=1e-2, anneal=False), 0)
    gain = (policy(rollout.ids, rollout.mask, rollout.n_prompt, rule)[0] - rollout.log_probs).sum(1)
    assert gain[scores > 0].min() > 0 > gain[scores < 0].max(), "the gradient goes the wrong way"
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
    assert metrics["gradient_norm"] > 0


def test_the_gradient_is_clipped(rollout, settings, gpt, rule):
    start = copy.deepcopy(gpt).requires_grad_(False)
    moved = []
    for clip in (1e-4, 0.0):
        policy = Policy(copy.deepcopy(gpt)).eval()
        optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
        changed = settings(clip=clip, epochs=1, minibatches=1, lr=1.0, anneal=False)
        update(policy, optimizer, make_batch(rollout, torch.randn(5), 0.1, changed), rule, changed, 0)
        pairs = zip(policy.model.parameters(), start.parameters(), strict=True)
        moved.append(float(sum(((a.detach() - b) ** 2).sum() for a, b in pairs)) ** 0.5)
    assert moved[0] <= 1.01e-4 < moved[1], "clip 0 means no clipping, and a small clip a small step"
