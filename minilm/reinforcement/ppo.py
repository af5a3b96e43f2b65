"""Proximal policy optimisation of a GPT: sample -> score -> advantage -> update.

Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; for text, Ziegler et al. 2019,
"Fine-Tuning Language Models from Human Preferences" (below by its sections), and Stiennon et al. 2020. The
details that make it work, each with its flag; `python reinforce.py --ablate` measures a run without each:

     1  the value head begins at 0                                             --no-zero-value-head
     2  each token pays for leaving the frozen reference: -kl (log pi - log ref)   --kl 0, --no-kl-per-token
     3  the coefficient `kl` is fixed, or follows a target (section 2.2)         --adaptive-kl
     4  the reward arrives at the last token only                              --no-reward-at-end
     5  an answer without its end token gets a fixed low reward                --missing-end-score none
     6  advantages by GAE (Schulman et al. 2016), gamma 1, lambda 0.95         --gae-lambda 1
     7  rewards whitened without their mean, advantages with it, real tokens only
                                              --no-whiten-rewards, --no-whiten-advantages
     8  clipped ratio, clipped value                                           --clip-ratio 0, --clip-value 0
     9  several passes over shuffled minibatches                  --epochs 1, --minibatches 1, --no-shuffle
    10  the learning rate rises over a few steps and falls to 0 in a line      --warmup 0, --no-anneal
    11  the reward has mean 0 and deviation 1 on the reference's samples       --no-normalise-reward
    12  one function draws and scores, at one temperature, without dropout: before the first update each ratio
        is exactly 1 and each KL exactly 0                                     (no switch: it would be a bug)
"""

import numpy as np
import torch
from torch import Tensor

from ..model.sampling import SamplingRule
from ..plumbing.devices import autocast
from .rollout import Policy, Rollout
from .settings import PPOSettings


def token_rewards(rollout: Rollout, scores: Tensor, kl_coefficient: float, settings: PPOSettings) -> Tensor:
    """Return what each new token earns, (B, n): its share of the score (B,) minus its price in KL.

    Source: Ziegler et al. 2019, equation 2, spread over the tokens as in their code.
    """
    mask = rollout.answer_mask  # (B, n)
    last = torch.arange(mask.shape[1], device=mask.device) == rollout.lengths[:, None] - 1  # (B, n)
    if settings.missing_end_score is not None:
        scores = torch.where(rollout.ended, scores, settings.missing_end_score)
    kl = rollout.log_probs - rollout.reference_log_probs  # (B, n), 0 after the end
    if not settings.kl_per_token:
        kl = kl.sum(1, keepdim=True) * last
    share = last if settings.reward_at_end else mask / rollout.lengths[:, None].clamp(min=1)
    return scores[:, None] * share - kl_coefficient * kl


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return by how much each token turned out better than its value said, (B, n).

    A_t = delta_t + gamma lambda A_(t+1) with delta_t = r_t + gamma V_(t+1) - V_t, and nothing after the end.
    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using GAE", equation 16.

    Args:
        rewards, values: (B, n); values of padding do not matter.
        mask: (B, n), true for real tokens, which stand at the left.
    """
    values = values * mask
    result = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * gae_lambda * next_advantage) * mask[:, t]
        result[:, t], next_value = next_advantage, values[:, t]
    return result


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x over the real tokens; both (B, n)."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale x (B, n) to deviation 1 over the real tokens, and shift it to mean 0 or let its mean stay."""
    mean = masked_mean(x, mask)
    deviation = (masked_mean((x - mean) ** 2, mask) + 1e-8).sqrt()
    return ((x - mean) / deviation + (0.0 if shift_mean else mean)) * mask


def make_batch(rollout: Rollout, scores: Tensor, kl_coefficient: float, settings: PPOSettings) -> dict:
    """Return what the update learns from: the rollout's tensors, `advantages` and `returns`, rows first."""
    mask = rollout.answer_mask
    rewards = token_rewards(rollout, scores, kl_coefficient, settings)
    if settings.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    raw = advantages(rewards, rollout.values, mask, settings.gamma, settings.gae_lambda)
    returns = raw + rollout.values  # what the values should have been
    return dict(
        ids=rollout.ids,
        mask=rollout.mask,
        log_probs=rollout.log_probs,
        values=rollout.values,
        advantages=whiten(raw, mask) if settings.whiten_advantages else raw,
        returns=returns,
    )


def ppo_loss(policy: Policy, batch: dict, rule: SamplingRule, settings: PPOSettings) -> tuple[Tensor, dict]:
    """Return the loss of a minibatch and its metrics; Schulman et al. 2017, equations 7 and 9.

    Metrics: `policy_loss`; `value_loss`; `ratio`, the mean of new / old probability, near 1 when all is well;
    `clipped`, the share of the tokens whose ratio was cut, 0.05 to 0.3 in a lively run; `step_kl`, the mean
    KL from the policy that drew the tokens to the one that learns, in nats a token.
    """
    n_prompt = batch["ids"].shape[1] - batch["log_probs"].shape[1]
    log_probs, values = policy(batch["ids"], batch["mask"], n_prompt, rule)
    mask = batch["mask"][:, n_prompt:]  # (B, n)
    ratio = (log_probs - batch["log_probs"]).exp()  # (B, n)
    bound = settings.clip_ratio or float("inf")
    gain = torch.minimum(ratio * batch["advantages"], ratio.clamp(1 - bound, 1 + bound) * batch["advantages"])
    policy_loss = -masked_mean(gain, mask)
    bound = settings.clip_value or float("inf")
    near = batch["values"] + (values - batch["values"]).clamp(-bound, bound)
    errors = torch.maximum((values - batch["returns"]) ** 2, (near - batch["returns"]) ** 2)
    value_loss = 0.5 * masked_mean(errors, mask)
    loss = policy_loss + settings.value_weight * value_loss
    cut = (ratio - 1).abs() > (settings.clip_ratio or float("inf"))
    with torch.no_grad():
        log_ratio = log_probs - batch["log_probs"]
        return loss, dict(
            policy_loss=policy_loss.detach(),
            value_loss=value_loss.detach(),
            ratio=masked_mean(ratio.detach(), mask),
            clipped=masked_mean(cut.float(), mask),
            # Schulman 2020, "Approximating KL divergence": never negative, and of low variance
            step_kl=masked_mean(log_ratio.exp() - 1 - log_ratio, mask),
        )


def update(
    policy: Policy, optimizer, batch: dict, rule: SamplingRule, settings: PPOSettings, step: int
) -> dict[str, float]:
    """Learn from a batch of answers in `epochs` passes of `minibatches` updates; return the mean metrics."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, settings)
    n_row, totals = len(batch["ids"]), {}
    random = np.random.default_rng([settings.seed, step, 2])
    for _ in range(settings.epochs):
        order = random.permutation(n_row) if settings.shuffle else np.arange(n_row)
        for rows in np.array_split(order, settings.minibatches):
            part = {name: value[rows] for name, value in batch.items()}
            with autocast(settings.precision, batch["ids"].device):
                loss, metrics = ppo_loss(policy, part, rule, settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.clip or float("inf"))
            optimizer.step()
            for name, value in (metrics | dict(loss=loss.detach(), gradient_norm=norm)).items():
                totals[name] = totals.get(name, 0) + value
    n = settings.epochs * settings.minibatches
    return {name: float(value) / n for name, value in totals.items()} | dict(lr=learning_rate(step, settings))


def learning_rate(step: int, settings: PPOSettings) -> float:
    """Return the learning rate of a step, counted from 0: it rises over `warmup` steps, then falls to 0.

    Differs from Ziegler et al. 2019, who do not warm up: Adam's first updates are as large as `lr` whatever
    the gradient, and on a small model that is enough to leave the language before anything is learnt.
    """
    rise = min(1.0, (step + 1) / (settings.warmup or 1))
    return settings.lr * rise * (1 - step / settings.steps if settings.anneal else 1.0)


def adapted(kl_coefficient: float, kl: float, settings: PPOSettings) -> float:
    """Return the KL coefficient of the next step: larger where the KL (nats a sequence) is above its target.

    Source: Ziegler et al. 2019, section 2.2, with K = 0.1.
    """
    if not settings.adaptive_kl:
        return kl_coefficient
    error = min(max((kl - settings.kl_target) / settings.kl_target, -0.2), 0.2)
    return kl_coefficient * (1 + 0.1 * error)
