"""From logits to a distribution over the next token, and from the distribution to a token.

One `SamplingRule` serves both generation, which draws tokens, and scoring, which says how likely they were: a
policy that is sampled from one distribution and scored under another learns from wrong ratios.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..plumbing.errors import UserError

NEVER = float("-inf")  # the log-probability of a token that must not be drawn


@dataclass(frozen=True)
class SamplingRule:
    """What is done to logits before a draw: other_ends, then this order; UserError for a bad value."""

    forbidden_ids: tuple[int, ...] = ()  # tokens that are never drawn, such as [PAD] and [MASK]
    temperature: float = 1.0  # below 1: the likely become likelier; 0: always the likeliest token (greedy)
    top_k: int | None = None  # only the k likeliest tokens
    top_p: float | None = None  # only the likeliest tokens whose probabilities together reach top_p
    eos_id: int | None = None  # the token that ends a text; none: texts end at their greatest length
    other_ends: tuple[int, ...] = ()  # more tokens that end a text: their probability is added to eos_id's

    def __post_init__(self):
        if self.temperature != 0 and not self.temperature >= 1e-6:  # 1e-38 would make NaN
            raise UserError(f"temperature {self.temperature}: must be 0 (the likeliest), or 1e-6 or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k {self.top_k}: must be 1 or more; leave it out to draw from all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p}: must lie in (0, 1]; 1 draws from all tokens")

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits (..., V) into log-probabilities (..., V) of the next token under this rule."""
        logits = self.with_one_end(logits)
        if self.forbidden_ids:
            logits = logits.index_fill(-1, torch.tensor(self.forbidden_ids, device=logits.device), NEVER)
        if self.temperature == 0:  # the limit of what follows: the likeliest is certain, log 1 = 0
            return torch.full_like(logits, NEVER).scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
        if self.temperature != 1:  # p_i^(1/temperature), rescaled: below 1 likely tokens gain
            logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None and self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        return logits.log_softmax(-1)  # the probabilities that are left sum to 1 again

    def with_one_end(self, logits: Tensor) -> Tensor:
        """Return the logits (..., V) with `eos_id` as likely as all ends together, the other ends NEVER."""
        if not (others := {*self.other_ends} - {self.eos_id}):
            return logits
        ends, T = torch.tensor([self.eos_id, *others], device=logits.device), self.temperature
        each = logits[..., ends]  # (..., n_end); at temperature T their shares e^(logit / T) add up
        joint = each.amax(-1, True) if T == 0 else T * (each / T).logsumexp(-1, True)
        return logits.index_fill(-1, ends, NEVER).index_copy(-1, ends[:1], joint)


PLAIN = SamplingRule()  # the model's own distribution


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k greatest logits (..., V) and ties with the k-th; others: NEVER (Fan et al. 2018, 5.4)."""
    kth = logits.topk(min(k, logits.shape[-1])).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < kth, NEVER)


def keep_top_p(logits: Tensor, p: float) -> Tensor:  # (..., V) -> (..., V), NEVER for tokens not kept
    """Keep the likeliest tokens that reach p together, and ties (Holtzman et al. 2020, section 3.1)."""
    # Sorted, the likeliest come first, and as many stay as are needed to reach p: one where the model is
    # sure, hundreds where it is not; top-k keeps k in both cases.
    ranked = logits.sort(dim=-1, descending=True).values  # (..., V)
    probability = ranked.softmax(-1)
    before = probability.cumsum(-1) - probability  # the sum of the likelier tokens
    n_kept = (before < p).sum(-1, keepdim=True).clamp(min=1)  # (..., 1)
    # By value, not by rank: tokens as likely as the last one kept are kept, too.
    return logits.masked_fill(logits < ranked.gather(-1, n_kept - 1), NEVER)


def uniform_numbers(seed: int | Sequence[int], n_row: int, n_step: int, device=None) -> Tensor:
    """Draw (n_row, n_step) numbers in (0, 1]: row i is stream i of a single seed, or stream 0 of seed[i]."""
    one = isinstance(seed, (int, np.integer))
    streams = [(int(seed), row) for row in range(n_row)] if one else [(int(s), 0) for s in seed]
    if len(streams) != n_row:
        raise UserError(f"{len(streams)} seeds for {n_row} prompts: give one for each, or a single one")
    if any(start < 0 for start, _ in streams):
        raise UserError(f"seed {min(streams)[0]}: must be 0 or more")
    # numpy gives the same numbers for every device, and leaves torch's generator, which training uses, alone
    sequences = [np.random.SeedSequence(start, spawn_key=(row,)) for start, row in streams]
    numbers = np.array([np.random.default_rng(sequence).random(n_step) for sequence in sequences])
    return torch.tensor(1 - numbers.reshape(n_row, n_step), dtype=torch.float32, device=device)


def draw(log_probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw a token (B,) for each row of log-probabilities (B, V), by one number in (0, 1] per row, (B,)."""
    # Take the first token at which the running sum of probabilities reaches the number (the inverse of the
    # cumulative distribution). As the number is never 0, a token of probability 0 is never drawn.
    running = log_probabilities.exp().cumsum(1)  # (B, V)
    target = uniform[:, None] * running[:, -1:]  # rounding leaves the last sum a little off 1
    return torch.searchsorted(running, target)[:, 0].clamp(max=running.shape[1] - 1)


def next_token_distributions(
    model, ids, mask=None, encoder_ids=None, encoder_mask=None, rule=PLAIN, n_prompt=1, hidden=None
) -> Tensor:
    """Return the log-probabilities (B, n, V) of all tokens; arguments as in `token_log_probabilities`."""
    n = ids.shape[1] - n_prompt
    if hidden is None:
        memory = None if encoder_ids is None else model.encode(encoder_ids, encoder_mask)[-1]
        seen = None if mask is None else mask[:, :-1]
        # column t is predicted from the state of column t - 1: that of the last column is not needed
        hidden = model.decode(ids[:, :-1], seen, memory, encoder_mask, n_last=n or None)[-1]
    hidden = hidden[:, hidden.shape[1] - n :]  # (B, n, D)
    return rule.log_probabilities(model.vocabulary_logits(hidden).float())  # (B, n, V)


def token_log_probabilities(
    model, ids, mask=None, encoder_ids=None, encoder_mask=None, rule=PLAIN, n_prompt=1, hidden=None
) -> Tensor:
    """Return the log-probability in nats, (B, n), of each of the n = T - n_prompt new tokens; gradients flow.

    These are the probabilities by which `generate.sample` drew a text, if the rule is the same and T columns
    fit into the model's positions. The model keeps its mode: call `model.eval()` to score without dropout. A
    token outside top-k or top-p has minus infinity: for ratios of two models, as in PPO, leave both off.

    Args:
        ids, mask: (B, T), the decoder's; padding, where the mask is 0, gets the log-probability 0.
        encoder_ids, encoder_mask: (B, S), the text that an encoder-decoder reads.
        n_prompt: columns of `ids` that were given, padding included; the tokens after them are scored.
        hidden: (B, n, D), the states that predict the new tokens, if they are known already.
    """
    log_probs = next_token_distributions(model, ids, mask, encoder_ids, encoder_mask, rule, n_prompt, hidden)
    chosen = log_probs.gather(2, ids[:, n_prompt:, None])[..., 0]  # (B, n, V) -> (B, n)
    return chosen if mask is None else chosen.masked_fill(mask[:, n_prompt:] == 0, 0.0)
