"""Rolling out: the policy answers prompts, and everything that the update needs to know is written down.

One function, `sampling.token_log_probabilities`, scores what `generation.sample` draws, for the policy and
the reference alike. A policy that samples under one distribution and is scored under another learns from
wrong ratios and shows a negative KL.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..model.generate import sample
from ..model.sampling import SamplingRule, token_log_probabilities
from ..model.transformer import Transformer
from ..plumbing.devices import autocast


class Policy(nn.Module):
    """A GPT and a value head on its last hidden states: what reward is still to come, token by token."""

    def __init__(self, model: Transformer, zero_value_head: bool = True):
        super().__init__()
        self.model = model
        D = model.config.d_model
        self.value_head = nn.Linear(D, 1)
        nn.init.zeros_(self.value_head.bias)
        if zero_value_head:
            nn.init.zeros_(self.value_head.weight)
        else:
            nn.init.normal_(self.value_head.weight, std=(D + 1) ** -0.5)

    def forward(self, ids: Tensor, mask: Tensor, n_prompt: int, rule: SamplingRule) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities and the values of the new tokens, each (B, n); 0 after the end.

        The value of a token is judged before it is drawn, from the hidden state that it is drawn from.
        """
        n = ids.shape[1] - n_prompt
        hidden = self.model.decode(ids[:, :-1], mask[:, :-1], n_last=n)[-1]  # (B, n, D)
        log_probs = token_log_probabilities(
            self.model, ids, mask, rule=rule, n_prompt=n_prompt, hidden=hidden
        )  # (B, n)
        values = self.value_head(hidden)[..., 0].float()  # (B, n)
        return log_probs, values.masked_fill(~mask[:, n_prompt:], 0.0)


@dataclass
class Rollout:
    """Answers to a batch of prompts: S columns of prompts, padded on the left, then n of new tokens."""

    ids: Tensor  # (B, S + n)
    mask: Tensor  # (B, S + n), true for real tokens
    n_prompt: int  # S
    ended: Tensor  # (B,), whether the end token came
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


def frozen_copy(model: Transformer) -> Transformer:
    """Return the reference: a copy that shares no storage with the model and never learns."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def draw_answers(
    model: Transformer,
    prompts: list[list[int]],
    rule: SamplingRule,
    max_new_tokens: int,
    seed: int,
    precision: str = "fp32",
) -> Rollout:
    """Let the model answer the prompts, lists of ids; the rollout has no scores yet."""
    with autocast(precision, model.tokens.weight.device):  # drawn in the precision in which it is scored
        written = sample(model, prompts, max_new_tokens, rule, seed, overflow="stop")
    new = written.ids[:, written.n_prompt :]
    ended = ((new == rule.eos_id) & written.mask[:, written.n_prompt :]).any(1)
    return Rollout(written.ids, written.mask, written.n_prompt, ended)


@torch.no_grad()
def score_answers(
    rollout: Rollout, policy: Policy, reference: Transformer, rule: SamplingRule, precision: str = "fp32"
) -> Rollout:
    """Fill in the log-probabilities of both models and the values, with one pass of each over the texts.

    The policy is scored again although `sample` knows its log-probabilities: with the cache they differ in
    the last digits, and the ratio of the first update is to be exactly 1.
    """
    args = rollout.ids, rollout.mask
    with autocast(precision, rollout.ids.device):
        rollout.log_probs, rollout.values = policy(*args, rollout.n_prompt, rule)
        rollout.reference_log_probs = token_log_probabilities(
            reference, *args, rule=rule, n_prompt=rollout.n_prompt
        )
    return rollout


def prompts_of_step(prompts: list[list[int]], batch_size: int, seed: int, step: int) -> list[list[int]]:
    """Return the prompts of a step, a pure function of seed and step, so that resuming needs no state."""
    chosen = np.random.default_rng([seed, step, 0]).integers(0, len(prompts), batch_size)
    return [prompts[i] for i in chosen]


def sampling_seed(seed: int, step: int) -> int:
    """Return the seed with which the answers of a step are drawn."""
    return int(np.random.default_rng([seed, step, 1]).integers(2**62))


def texts_of(rollout: Rollout, tokenizer, end_id: int) -> list[tuple[str, str]]:
    """Return the (prompt, answer) of each row as texts without the end token; prompt + answer is the whole.

    So the answer keeps the space with which it begins.
    """
    texts = []
    for ids, mask in zip(rollout.ids, rollout.mask, strict=True):
        S = rollout.n_prompt
        parts = (ids[:S], mask[:S]), (ids[S:], mask[S:])
        words = ([i for i in part[real].tolist() if i != end_id] for part, real in parts)
        prompt, answer = (tokenizer.decode(ids) for ids in words)
        texts.append((prompt.strip(), answer))
    return texts
