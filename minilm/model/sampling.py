"""From logits to a distribution over the next token, and from the distribution to a token.

One rule serves the generator, which draws, and the scorer, which says how likely a draw was. A policy that is
sampled under one distribution and scored under another learns from wrong ratios, so there is no second one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..plumbing.errors import UserError

NEVER = float("-inf")  # the log-probability of a token that must not come


@dataclass(frozen=True)
class SamplingRule:
    """What is done to the logits before a token is drawn, in the order of the fields.

    Raises:
        UserError: for a value outside its range.
    """

    repetition_penalty: float = 1.0  # above 1: tokens that the text has already become less likely
    forbidden_ids: tuple[int, ...] = ()  # tokens that never come, such as [PAD] and [MASK]
    min_new_tokens: int = 0  # the end token cannot come before this many others
    eos_id: int | None = None  # the token that ends a text; none: only the length does
    temperature: float = 1.0  # below 1: nearer to the likeliest token; 0: that token, always (greedy)
    top_k: int | None = None  # only the k likeliest tokens
    top_p: float | None = None  # only the likeliest tokens that have this much probability together

    def __post_init__(self):
        if not self.temperature >= 0:
            raise UserError(f"temperature {self.temperature}: must be 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k {self.top_k}: must be 1 or more; leave it out to draw from all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p}: must lie in (0, 1]; 1 draws from all tokens")
        if not self.repetition_penalty > 0:
            raise UserError(
                f"repetition penalty {self.repetition_penalty}: must be above 0; 1 changes nothing"
            )
        if self.min_new_tokens < 0:
            raise UserError(f"min-new-tokens {self.min_new_tokens}: must be 0 or more")

    def check_ids(self, vocab_size: int) -> None:
        """Raise UserError where an id of the rule is not in the vocabulary, or no token is left."""
        for name, ids in (("eos_id", [self.eos_id]), ("forbidden_ids", self.forbidden_ids)):
            for token in ids:
                if token is not None and not 0 <= token < vocab_size:
                    raise UserError(f"{name} {token}: the vocabulary has the ids 0 to {vocab_size - 1}")
        if len({*self.forbidden_ids, self.eos_id} - {None}) == vocab_size:
            raise UserError("forbidden_ids: no token of the vocabulary is left; allow one or more")

    def log_probabilities(
        self, logits: Tensor, seen: Tensor | None = None, n_new: int | Tensor = 0
    ) -> Tensor:
        """Return the log-probabilities (..., V) of the distribution that the next token is drawn from.

        Args:
            logits: (..., V), the model's scores.
            seen: boolean (..., V), the tokens that the text has; read by the repetition penalty alone.
            n_new: tokens generated before this one, a number or (...), for `min_new_tokens`.

        At temperature 0 the likeliest token gets 0 (certainty) and all others minus infinity.
        """
        if self.repetition_penalty != 1:
            logits = penalise_repetition(logits, seen, self.repetition_penalty)
        if self.forbidden_ids:
            forbidden = torch.tensor(self.forbidden_ids, device=logits.device)
            logits = logits.index_fill(-1, forbidden, NEVER)
        if self.min_new_tokens and self.eos_id is not None:
            too_early = torch.as_tensor(n_new, device=logits.device) < self.min_new_tokens
            is_end = torch.arange(logits.shape[-1], device=logits.device) == self.eos_id  # (V,)
            logits = logits.masked_fill(too_early[..., None] & is_end, NEVER)
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.full_like(logits, NEVER).scatter(-1, best, 0.0)
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None and self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        return logits.log_softmax(-1)


PLAIN = SamplingRule()  # the model's own distribution


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide the logits (..., V) of the tokens in `seen` (..., V) by the penalty.

    Source: Keskar et al. 2019, "CTRL", section 4.1. Differs from the paper: a logit below 0 is multiplied,
    as dividing it would make the token more likely.
    """
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Forbid all but the k greatest logits (..., V), and those equal to the k-th (Fan et al. 2018, 5.4)."""
    kth = logits.topk(min(k, logits.shape[-1])).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < kth, NEVER)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Forbid all but the nucleus: the fewest likeliest tokens with probability p or more together.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1. Tokens as
    likely as the last one kept are kept too. Logits (..., V) -> (..., V).
    """
    ranked = logits.sort(dim=-1, descending=True).values
    probability = ranked.softmax(-1)
    before = probability.cumsum(-1) - probability  # what the likelier tokens have together
    n_kept = (before < p).sum(-1, keepdim=True).clamp(min=1)  # (..., 1)
    return logits.masked_fill(logits < ranked.gather(-1, n_kept - 1), NEVER)


def uniform_numbers(seed: int | Sequence[int], n_row: int, n_step: int, device=None) -> Tensor:
    """Return (n_row, n_step) numbers in (0, 1], a row of them from a generator of its own.

    With one seed, row i draws from stream i of that seed, so equal prompts in a batch get different texts.
    With a seed for each row, row i draws from stream 0 of seed i: what it would get alone, in any batch. The
    numbers come from numpy, so they are the same on every device, and torch's own generators do not move.

    Raises:
        UserError: for a negative seed, or a list of seeds of another length than the batch.
    """
    one = isinstance(seed, (int, np.integer))
    streams = [(int(seed), row) for row in range(n_row)] if one else [(int(s), 0) for s in seed]
    if len(streams) != n_row:
        raise UserError(f"{len(streams)} seeds for {n_row} prompts: give one for each, or a single one")
    if any(start < 0 for start, _ in streams):
        raise UserError(f"seed {min(streams)[0]}: must be 0 or more")
    sequences = [np.random.SeedSequence(start, spawn_key=(row,)) for start, row in streams]
    numbers = np.array([np.random.default_rng(sequence).random(n_step) for sequence in sequences])
    return torch.tensor(1 - numbers.reshape(n_row, n_step), dtype=torch.float32, device=device)


def draw(log_probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw a token for each row of (B, V) with one number in (0, 1] a row, (B,); return (B,).

    The token is the first at which the running sum of the probabilities reaches the number (inverse of the
    cumulative distribution). As the number is never 0, a token of probability 0 is never drawn.
    """
    running = log_probabilities.exp().cumsum(-1)  # (B, V)
    target = uniform[:, None] * running[:, -1:]  # rounding leaves the last sum a little off 1
    return torch.searchsorted(running, target)[:, 0].clamp(max=running.shape[-1] - 1)


def next_token_distributions(
    model,
    ids: Tensor,
    mask: Tensor | None = None,
    encoder_ids: Tensor | None = None,
    encoder_mask: Tensor | None = None,
    rule: SamplingRule = PLAIN,
    n_prompt: int = 1,
    hidden: Tensor | None = None,
) -> Tensor:
    """Return the log-probabilities (B, T - n_prompt, V) of every token at each new position, under `rule`.

    Arguments as in `token_log_probabilities`.
    """
    B, T = ids.shape
    n = T - n_prompt  # new tokens
    if hidden is None:
        memory = None if encoder_ids is None else model.encode(encoder_ids, encoder_mask)[-1]
        seen_mask = None if mask is None else mask[:, :-1]
        hidden = model.decode(ids[:, :-1], seen_mask, memory, encoder_mask, n_last=n or None)[-1]
    if hidden.shape[1] != n:
        hidden = hidden[:, n_prompt - 1 : T - 1]  # (B, T - n_prompt, D)
    logits = model.vocabulary_logits(hidden).float()  # (B, T - n_prompt, V)
    seen = None
    if rule.repetition_penalty != 1:
        count = torch.zeros(B, T, logits.shape[-1], device=ids.device)
        real = torch.ones_like(ids) if mask is None else mask
        count.scatter_(2, ids[..., None], real[..., None].to(count.dtype))
        seen = count.cumsum(1)[:, n_prompt - 1 : T - 1] > 0  # (B, T - n_prompt, V)
    return rule.log_probabilities(logits, seen, torch.arange(T - n_prompt, device=ids.device))


def token_log_probabilities(
    model,
    ids: Tensor,
    mask: Tensor | None = None,
    encoder_ids: Tensor | None = None,
    encoder_mask: Tensor | None = None,
    rule: SamplingRule = PLAIN,
    n_prompt: int = 1,
    hidden: Tensor | None = None,
) -> Tensor:
    """Return how likely each new token was, (B, T - n_prompt), in nats; gradients flow.

    For a text that `generation.sample` wrote under the same rule this is its `log_probs`, as long as the text
    fits into the model's positions. The model runs as it is: call `model.eval()` to score without dropout.
    A token outside the rule's top-k or top-p has minus infinity, and weights that move can push a token out;
    for ratios of two models, as in PPO, leave both off.

    Args:
        ids: (B, T) texts, of the decoder where there is an encoder too.
        mask: (B, T), 1 for a real token and 0 for padding; padding gets the log-probability 0.
        encoder_ids, encoder_mask: (B, S), the text that an encoder-decoder reads.
        rule: the distribution under which the tokens count.
        n_prompt: columns of `ids` that were given, padding included; the tokens after them are scored.
        hidden: (B, T or T - 1, D), the decoder's last hidden states where they are known already; or those
            from which the new tokens are drawn, (B, T - n_prompt, D).
    """
    log_probs = next_token_distributions(model, ids, mask, encoder_ids, encoder_mask, rule, n_prompt, hidden)
    chosen = log_probs.gather(2, ids[:, n_prompt:, None])[..., 0]  # (B, T - n_prompt)
    return chosen if mask is None else chosen.masked_fill(mask[:, n_prompt:] == 0, 0.0)
