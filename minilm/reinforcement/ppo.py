"""Proximal policy optimisation of a GPT: sample -> score -> advantage -> update, in `PPO.update`.

Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; for text, Ziegler et al. 2019,
"Fine-Tuning Language Models from Human Preferences" (below by its sections), and Stiennon et al. 2020. The
details that make it work are numbered in `PPODetails`; `python reinforce.py --ablate` measures a run without
each. One has no switch, because PPO is wrong without it: answers are drawn and scored by one rule, at one
temperature, without dropout. So before the first update each ratio is exactly 1 and each KL exactly 0.

Differs from the papers: Ziegler et al.'s code also whitens rewards (7), which adds the same penalty or bonus
to each token. As in their code, the value head reads the policy's last hidden states, so its loss moves them:
a large weight (1) ruins a weak policy. Stiennon et al. use a separate value network. The learning rate warms
up (10), gradients are clipped. Losses are means over tokens: a long answer counts more than a short one.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..plumbing.errors import UserError
from ..training.loop import TrainingSettings, train
from ..training.objective import autocast
from .grpo import group_advantages
from .rollout import Environment, Policy, Rollout, draw_answers, score_answers


@dataclass(frozen=True, kw_only=True)
class PPODetails:
    """The details of PPO, by number."""

    zero_value_head: bool = True  # 1: the value head begins at 0
    value_weight: float = 0.01  # 1: weight of the value loss beside the policy loss (Ziegler et al.: 0.1)
    kl: float = 0.1  # 2: a token's penalty for leaving the reference is kl (log pi - log reference); 0: none
    kl_per_token: bool = True  # 2: each token gets its own KL penalty; no: the last one gets the sum
    adaptive_kl: bool = False  # 3: move `kl` so that the KL approaches --kl-target (Ziegler et al., 2.2)
    kl_target: float = 3.0  # 3: in nats a sequence (Ziegler et al.: 6)
    reward_at_end: bool = True  # 4: the last token gets the reward; no: all tokens share it equally
    missing_end_score: float | None = -1.0  # 5: reward of an answer without end token; none: as any other
    gamma: float = 1.0  # 6: of GAE (Schulman et al. 2016): how much a reward one token later counts
    gae_lambda: float = 0.95  # 6: of GAE: 1 takes all later rewards, 0 the token's own and the next value
    whiten_rewards: bool = False  # 7: scale rewards to deviation 1, keep their mean
    whiten_advantages: bool = True  # 7: scale advantages to mean 0 and deviation 1
    clip_ratio: float = 0.2  # 8: clip the ratio to 1 - this ... 1 + this; 0: no clipping
    clip_value: float = 0.2  # 8: how far a value may move in one step; 0: no clipping
    epochs: int = 3  # 9: passes over the answers of a step (Ziegler et al.: 4)
    minibatches: int = 2  # 9: updates a pass (Ziegler et al.: 1)
    shuffle: bool = True  # 9: draw new minibatches in each pass
    anneal: bool = True  # 10: the learning rate falls linearly to 0 over the run; no: it stays
    normalise_reward: bool = True  # 11: scale the reward to mean 0, deviation 1 on samples of the reference
    group_size: int = 1  # answers to a prompt; above 1 their mean replaces the value head: `grpo.py`
    warn_kl: float = 10.0  # KL (nats a sequence) above which a warning is printed
    stop_kl: float = 200.0  # KL (nats a sequence) above which the run stops


SWITCHES = (  # number of the detail, what is switched off in an ablation, and how
    (0, "nothing", {}), (1, "value head begins at random", dict(zero_value_head=False)),
    (1, "value loss weighs 1", dict(value_weight=1.0)),
    (2, "no KL", dict(kl=0.0)), (2, "KL paid at the end", dict(kl_per_token=False)),
    (3, "KL coefficient adapts", dict(adaptive_kl=True)),
    (4, "reward spread over the tokens", dict(reward_at_end=False)),
    (5, "no penalty without an end", dict(missing_end_score=None)),
    (6, "lambda 1: no values in the future", dict(gae_lambda=1.0)),
    (6, "lambda 0: one token ahead", dict(gae_lambda=0.0)),
    (7, "rewards whitened", dict(whiten_rewards=True)),
    (7, "advantages as they are", dict(whiten_advantages=False)),
    (8, "ratio not clipped", dict(clip_ratio=0.0)), (8, "value not clipped", dict(clip_value=0.0)),
    (9, "one pass", dict(epochs=1)), (9, "one minibatch", dict(minibatches=1)),
    (9, "minibatches not shuffled", dict(shuffle=False)), (10, "no warm-up", dict(warmup=0)),
    (10, "learning rate stays", dict(anneal=False)),
    (11, "reward not normalised", dict(normalise_reward=False)),
)  # fmt: skip


def train_ppo(model, env: Environment, details: PPODetails, settings: TrainingSettings, folder=None) -> dict:
    """Train the model in place by `training.loop.train`, and return what that returns."""
    torch.manual_seed(settings.seed)  # for a value head that begins at random
    policy = Policy(model, details.zero_value_head)
    if details.group_size > 1:
        policy.value_head = None
    # eps larger than usual: Huang et al. 2022, "The 37 Implementation Details of PPO", detail 3
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.lr, eps=1e-5)
    return train(policy, PPO(env, details), settings, folder, env.tokenizer, optimizer)


class PPO:
    """An objective with an update of its own; checkpoints keep its `state`, the coefficient of the KL."""

    shown = ("reward", "kl", "entropy", "length", "judge")  # metrics that are printed

    def __init__(self, env: Environment, details: PPODetails):
        self.env, self.details, self.state, self.warned = env, details, details.kl, False

    def update(self, policy: Policy, optimizer, settings: TrainingSettings, step: int) -> tuple:
        """Sample, score, compute advantages, update; return metrics, gradient norm, tokens, learning rate."""
        env, details, seed = self.env, self.details, settings.seed
        self.state = self.state if details.adaptive_kl else details.kl  # --resume may give another --kl
        policy.eval()  # with dropout the ratios of the first update would not be 1
        # Sample. Prompts and answers depend on seed and step alone, so a resumed run draws the same ones.
        n_prompt = settings.batch_size // details.group_size
        chosen = np.random.default_rng([seed, step, 0]).integers(0, len(env.prompts), n_prompt)
        seed_of_answers = int(np.random.default_rng([seed, step, 1]).integers(2**62))
        prompts = [env.prompts[i] for i in chosen.repeat(details.group_size)]
        rollout = draw_answers(policy.model, env, prompts, seed_of_answers)
        # Score: each token by policy, reference and value head, each whole text by the reward.
        score_answers(rollout, policy, env)
        texts = env.texts(rollout)
        scores = env.reward.scores(rollout, texts)  # (B,)
        # Advantage: how much better each token turned out than its value predicted.
        batch = make_batch(rollout, scores, self.state, details)
        metrics = self.describe(rollout, scores, texts, batch)
        self.watch(metrics["kl"], step, settings.lr)
        # Update, in several passes over the same answers: they are too expensive to be used only once.
        lr = learning_rate(step, settings, details.anneal)
        learnt = self.learn(policy, optimizer, batch, settings, step, lr)
        if details.adaptive_kl:  # larger where the KL is above its target (section 2.2)
            error = (metrics["kl"] - details.kl_target) / details.kl_target
            self.state *= 1 + 0.1 * min(max(error, -0.2), 0.2)
        norm = learnt.pop("gradient_norm")
        return metrics | learnt, norm, rollout.ids.numel(), lr

    def describe(self, rollout: Rollout, scores: Tensor, texts: list, batch: dict) -> dict[str, float]:
        """Return the metrics of the answers of a step; those of the update are in `ppo_loss`.

        reward: mean score of the answers, in deviations of the reference's scores (without the KL penalty).
        kl: mean of log pi - log reference over whole answers, nats a sequence; 0 in the first step. If it
            rises and the reward does not, the policy forgets its language. Far below 0: scoring is wrong.
        entropy: minus the mean log-probability of the drawn tokens, nats. Near 0: one answer to everything.
        length: tokens of an answer, the end token included. ended: share of the answers with an end token.
        value_error: variance of (return - value) / that of returns. Below 1 the value head helps; no head: 0.
        judge: share of the answers that meet the true preference, if it is known. PPO never sees it.
        kl_coefficient: the weight of the KL penalty in this step.
        """
        real = rollout.answer_mask
        returns, errors = batch["returns"][real], (batch["returns"] - batch["values"])[real]
        metrics = dict(
            reward=float(scores.mean()),
            kl=float(rollout.kl().mean()),
            entropy=-float(rollout.log_probs.sum() / real.sum()),
            length=float(rollout.lengths.float().mean()),
            ended=float(rollout.ended.float().mean()),
            value_error=float(errors.var(correction=0) / returns.var(correction=0).clamp(min=1e-8)),
            kl_coefficient=self.state,
        )
        judged = self.env.judged(texts)
        return metrics if judged is None else metrics | dict(judge=sum(judged) / len(judged))

    def watch(self, kl: float, step: int, lr: float) -> None:
        """Warn, once, if the KL is above `warn_kl`; raise UserError if it is above `stop_kl`."""
        told, details = f"KL {kl:.1f} nats a sequence, above", self.details
        if kl > details.stop_kl:
            told = f"{told} --stop-kl {details.stop_kl:g}: the policy is too far from the reference"
            raise UserError(f"{told}; raise --kl above {details.kl:g} or lower --lr {lr:g}")
        if kl > details.warn_kl and not self.warned:
            self.warned, told = True, f"warning: step {step + 1}: {told} --warn-kl {details.warn_kl:g}"
            print(f"{told}: a larger --kl or a smaller --lr keeps it lower", file=sys.stderr)

    def learn(self, policy, optimizer, batch: dict, settings: TrainingSettings, step: int, lr: float) -> dict:
        """Update the policy on a batch, in `epochs` passes of `minibatches` updates; return mean metrics."""
        for group in optimizer.param_groups:
            group["lr"] = lr
        n_row, details, taken = len(batch["ids"]), self.details, []
        random = np.random.default_rng([settings.seed, step, 2])
        for _ in range(details.epochs):
            order = random.permutation(n_row) if details.shuffle else np.arange(n_row)
            order = torch.from_numpy(order).to(batch["ids"].device)  # copied once, not for each tensor
            for rows in order.tensor_split(details.minibatches):
                part = {name: value[rows] for name, value in batch.items()}
                with autocast(self.env.precision, batch["ids"].device):
                    loss, metrics = ppo_loss(policy, part, self.env.rule, details)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.clip or np.inf)
                optimizer.step()
                taken.append(metrics | dict(loss=loss.detach(), gradient_norm=norm))
        return {name: float(sum(one[name] for one in taken)) / len(taken) for name in taken[0]}


def token_rewards(rollout: Rollout, scores: Tensor, kl_coefficient: float, details: PPODetails) -> Tensor:
    """Return the reward of each new token, (B, n): its share of the score (B,) minus its KL penalty.

    r_t = [t is the last token] score - kl_coefficient (log pi(token_t) - log ref(token_t)). Details 2, 4 and
    5 may change that. Source: Ziegler et al. 2019, equation 2, spread over the tokens as in their code.
    """
    mask = rollout.answer_mask  # (B, n)
    last = torch.arange(mask.shape[1], device=mask.device) == rollout.lengths[:, None] - 1  # (B, n)
    if details.missing_end_score is not None:
        scores = torch.where(rollout.ended, scores, details.missing_end_score)
    kl = rollout.log_probs - rollout.reference_log_probs  # (B, n), 0 after the end
    if not details.kl_per_token:
        kl = kl.sum(1, keepdim=True) * last
    share = last if details.reward_at_end else mask / rollout.lengths[:, None].clamp(min=1)
    return scores[:, None] * share - kl_coefficient * kl


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return how much better each token turned out than its value predicted; all (B, n), padded on the right.

    A_t = delta_t + gamma lambda A_(t+1) with delta_t = r_t + gamma V_(t+1) - V_t; V, A are 0 after the end.
    Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using GAE", equation 16.
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
    """Scale x (B, n) to deviation 1 over real tokens; `shift_mean`: mean 0, else its own mean; padding: 0."""
    mean = masked_mean(x, mask)
    deviation = (masked_mean((x - mean) ** 2, mask) + 1e-8).sqrt()
    return ((x - mean) / deviation + (0.0 if shift_mean else mean)) * mask


def make_batch(rollout: Rollout, scores: Tensor, kl_coefficient: float, details: PPODetails) -> dict:
    """Return what the update needs, (B, ...) each: tensors of the rollout, `advantages` and `returns`."""
    mask, values = rollout.answer_mask, rollout.values
    rewards = token_rewards(rollout, scores, kl_coefficient, details)
    if details.whiten_rewards:
        # As in Ziegler et al.'s code: a reward of 0 becomes mean - mean / deviation, for each token.
        rewards = whiten(rewards, mask, shift_mean=False)
    batch = dict(ids=rollout.ids, mask=rollout.mask, log_probs=rollout.log_probs, values=values)
    if details.group_size > 1:  # no value head: values and returns are 0, and so is their loss
        raw, batch["returns"] = group_advantages(rewards, mask, details.group_size), values
    else:
        raw = advantages(rewards, values, mask, details.gamma, details.gae_lambda)
        batch["returns"] = raw + values  # targets of the values
    return batch | dict(advantages=whiten(raw, mask) if details.whiten_advantages else raw)


def ppo_loss(policy: Policy, batch: dict, rule, details: PPODetails) -> tuple[Tensor, dict]:
    """Return the loss of a minibatch and its metrics; Schulman et al. 2017, equations 7 and 9.

    loss = -mean over the tokens of min(ratio A, clip(ratio, 1 - e, 1 + e) A) + value_weight * value loss
    with ratio = pi(token) / pi_old(token). So a good token (A > 0) gains nothing more once it is 1 + e times
    as likely, a bad one once it is 1 - e times as likely; but a ratio that moved the wrong way can come back.
    The value loss is half the mean of the larger of (V - return)^2 and (V' - return)^2; V' is V, but at most
    `clip_value` from the old value: further away V gains nothing by nearing its return, but loses by leaving
    it (Huang et al. 2022, detail 9). Differs from equation 9: no entropy bonus, as in Ziegler et al.'s code.

    Metrics: `policy_loss`; `value_loss`; `ratio`, the mean of new / old probability, near 1 when all is well;
    `clipped`, the share of tokens whose ratio was clipped, 0.05 to 0.3 in a healthy run; `step_kl`, the mean
    of ratio - 1 - log ratio: the KL from the policy that drew the tokens to the one in training, in nats.
    """
    n_prompt = batch["ids"].shape[1] - batch["log_probs"].shape[1]
    log_probs, values = policy(batch["ids"], batch["mask"], n_prompt, rule)
    mask = batch["mask"][:, n_prompt:]  # (B, n)
    log_ratio = log_probs - batch["log_probs"]  # (B, n)
    ratio, e = log_ratio.exp(), details.clip_ratio or np.inf
    gain = torch.minimum(ratio * batch["advantages"], ratio.clamp(1 - e, 1 + e) * batch["advantages"])
    policy_loss = -masked_mean(gain, mask)
    bound = details.clip_value or np.inf
    clipped_values = batch["values"] + (values - batch["values"]).clamp(-bound, bound)
    errors = torch.maximum((values - batch["returns"]) ** 2, (clipped_values - batch["returns"]) ** 2)
    value_loss = 0.5 * masked_mean(errors, mask)
    metrics = dict(policy_loss=policy_loss, value_loss=value_loss, ratio=masked_mean(ratio, mask))
    metrics["clipped"] = masked_mean(((ratio - 1).abs() > e).float(), mask)
    # Schulman 2020, "Approximating KL divergence": never negative, and of low variance
    metrics["step_kl"] = masked_mean(ratio - 1 - log_ratio, mask)
    loss = policy_loss + details.value_weight * value_loss
    return loss, {name: value.detach() for name, value in metrics.items()}


def learning_rate(step: int, settings: TrainingSettings, anneal: bool) -> float:
    """Return a step's rate (counted from 0): rising in `warmup` steps, at most half, then falling (`anneal`).

    Differs from Ziegler et al. 2019, who do not warm up: Adam's first updates are as large as `lr` whatever
    the gradient, which is enough for a small model to lose its language before it has learnt anything.
    """
    rise = min(1.0, (step + 1) / (min(settings.warmup, settings.steps // 2) or 1))
    return settings.lr * rise * (1 - step / settings.steps if anneal else 1.0)
