"""Rollouts: the policy answers prompts, and everything that the update needs is recorded.

One function, `sampling.token_log_probabilities`, scores what `generate.sample` draws, for both models alike.
If sampling and scoring used different distributions, the ratios would be wrong and the KL would be negative.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..model.generate import Sample, sample
from ..model.sampling import SamplingRule, token_log_probabilities
from ..model.transformer import Transformer
from ..tokenizer.rows import END
from ..training.objective import autocast, perplexity


class Policy(nn.Module):
    """A GPT with a value head on its last hidden states: it predicts at each token the reward to come."""

    def __init__(self, model: Transformer, zero_value_head: bool = True):
        super().__init__()
        self.model, self.config = model, model.config
        D = model.config.d_model
        self.value_head = nn.Linear(D, 1)  # may be set to None, as for GRPO: then all values are 0
        nn.init.zeros_(self.value_head.bias)
        nn.init.normal_(self.value_head.weight, std=0.0 if zero_value_head else (D + 1) ** -0.5)
        self.to(model.tokens.weight.device)

    def merged_state(self) -> dict[str, Tensor]:
        """Return the state dict that is saved: that of the GPT, without the value head."""
        return self.model.state_dict()

    def forward(self, ids: Tensor, mask: Tensor, n_prompt: int, rule: SamplingRule) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and values of the new tokens, (B, n) each; 0 after the end."""
        # (B, n, D), the state that each token is drawn from: a value is predicted before its token is known
        hidden = self.model.decode(ids[:, :-1], mask[:, :-1], n_last=ids.shape[1] - n_prompt)[-1]
        known = dict(rule=rule, n_prompt=n_prompt, hidden=hidden)
        log_probs = token_log_probabilities(self.model, ids, mask, **known)  # (B, n)
        if self.value_head is None:
            return log_probs, torch.zeros_like(log_probs)
        values = self.value_head(hidden)[..., 0].float()  # (B, n)
        return log_probs, values.masked_fill(~mask[:, n_prompt:], 0.0)


@dataclass
class Rollout(Sample):
    """Answers to a batch of prompts: `ids`, `mask` (B, S + n) and `n_prompt`, S, as `sample` wrote them."""

    ended: Tensor  # (B,), whether the answer has its end token
    log_probs: Tensor | None = None  # (B, n), under the policy that drew the tokens
    reference_log_probs: Tensor | None = None  # (B, n), under the frozen reference
    values: Tensor | None = None  # (B, n)

    @property
    def answer_mask(self) -> Tensor:
        """True for the real new tokens, (B, n)."""
        return self.mask[:, self.n_prompt :]

    @property
    def lengths(self) -> Tensor:
        """New tokens of each answer, the end token included, (B,)."""
        return self.answer_mask.sum(1)

    def kl(self) -> Tensor:
        """Return log pi(answer) - log reference(answer) in nats, (B,); its mean estimates the KL."""
        return (self.log_probs - self.reference_log_probs).sum(1)


@dataclass
class Environment:
    """What all algorithms share: prompts, reward, and the reference that the policy should stay near."""

    tokenizer: object
    reference: Transformer  # frozen: the policy before training
    rule: SamplingRule  # under which answers are drawn and scored
    max_new_tokens: int
    prompts: list[list[int]]
    test_prompts: list[list[int]]
    judge: Callable[[str], bool] | None = None  # the true preference for a whole text, if it is known
    reward: object = None  # its scores(rollout, texts) are (B,), see `reward.py`
    precision: str = "fp32"  # of sampling, scoring and updates; `measure` scores in fp32

    def texts(self, rollout: Rollout) -> list[tuple[str, str]]:
        """Return each row as texts (prompt, answer) without end tokens; an answer keeps its first space."""
        texts, S, ends = [], rollout.n_prompt, (self.rule.eos_id, self.tokenizer.special_id(END))
        for ids, mask in zip(rollout.ids.cpu(), rollout.mask.cpu(), strict=True):
            parts = ids[:S][mask[:S]], ids[S:][mask[S:]]
            prompt, answer = (self.tokenizer.decode([i for i in p.tolist() if i not in ends]) for p in parts)
            texts.append((prompt.strip(), answer))
        return texts

    def judged(self, texts: list[tuple[str, str]]) -> list[bool] | None:
        """Return for each text whether it meets the true preference; None if that is unknown."""
        return None if self.judge is None else [self.judge(prompt + answer) for prompt, answer in texts]


def draw_answers(model, env: Environment, prompts: list[list[int]], seed: int) -> Rollout:
    """Return the model's answers to the prompts (lists of ids), without log-probabilities and values."""
    with autocast(env.precision, model.tokens.weight.device):
        written = sample(model, prompts, env.max_new_tokens, env.rule, seed, overflow="stop")
    new, real = written.ids[:, written.n_prompt :], written.mask[:, written.n_prompt :]  # (B, n)
    return Rollout(**vars(written), ended=((new == env.rule.eos_id) & real).any(1))


@torch.no_grad()
def score_answers(rollout: Rollout, policy: Policy, env: Environment) -> Rollout:
    """Fill in the log-probabilities of both models, and the values; each model reads the texts once."""
    # Computed anew: the cache in `sample` changes the last digits, and the first ratio must be exactly 1.
    args, how = (rollout.ids, rollout.mask), dict(rule=env.rule, n_prompt=rollout.n_prompt)
    with autocast(env.precision, rollout.ids.device):
        rollout.log_probs, rollout.values = policy(*args, **how)
        rollout.reference_log_probs = token_log_probabilities(env.reference, *args, **how)
    return rollout


@dataclass
class Measured:
    """Answers to the test prompts, and what was measured on them."""

    texts: list[tuple[str, str]]  # prompt, answer
    scores: Tensor  # (B,), by the reward that was optimised, high for success and for hacking alike
    judged: list[bool] | None  # by the true preference, which PPO never sees
    figures: dict[str, float]  # see `measure`


@torch.no_grad()
def measure(model, env: Environment, seed: int, start: Measured | None = None, best_of=1) -> Measured:
    """Return a model's answers to the test prompts (the best of `best_of` each), compared with `start`.

    reward: mean score. judge: share of the texts that meet the true preference.
    win_rate: of the prompts for which the judge likes exactly one of two answers (the model's and the one at
        the start), the share for which it likes the model's; 0.5 if there is no such prompt.
    reward_win_rate: share of the prompts for which the reward is higher than at the start; a tie counts 0.5.
    kl: mean of log pi - log reference over whole answers, in nats; for the reference's best of n at most
        log n - (n - 1) / n (Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy").
    perplexity: of the answers under the reference, at the sampling temperature: how unlikely it finds them.
    distinct: number of different answers / number of answers. length: mean number of tokens of an answer.
    """
    rollout = draw_answers(model, env, [prompt for prompt in env.test_prompts for _ in range(best_of)], seed)
    scores, best = env.reward.scores(rollout, env.texts(rollout)).view(-1, best_of).max(1)  # (B,)
    rows = best + best_of * torch.arange(len(best), device=best.device)  # (B,), among the B best_of drawn
    rollout = replace(rollout, ids=rollout.ids[rows], mask=rollout.mask[rows], ended=rollout.ended[rows])
    texts, known = env.texts(rollout), dict(rule=env.rule, n_prompt=rollout.n_prompt)
    judged, n = env.judged(texts), len(texts)
    own = token_log_probabilities(model, rollout.ids, rollout.mask, **known)  # (B, n)
    reference = token_log_probabilities(env.reference, rollout.ids, rollout.mask, **known)
    figures = dict(
        reward=float(scores.mean()),
        kl=float((own - reference).sum() / n) + math.log(best_of) - (best_of - 1) / best_of,
        perplexity=perplexity(float(-reference.sum() / rollout.lengths.sum())),
        distinct=len({answer for _, answer in texts}) / n,
        length=float(rollout.lengths.float().mean()),
    )
    if judged is not None:
        figures["judge"] = sum(judged) / n
    if start is not None:
        figures["reward_win_rate"] = float(((scores - start.scores).sign() / 2 + 0.5).mean())
    if start is not None and judged is not None:
        both = list(zip(judged, start.judged, strict=True))
        wins, losses = both.count((True, False)), both.count((False, True))
        figures["win_rate"] = wins / (wins + losses) if wins + losses else 0.5
    return Measured(texts, scores, judged, figures)
