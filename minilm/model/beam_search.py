"""Beam search: several continuations are written side by side, and the likeliest whole text wins."""

import torch
from torch import Tensor

from .draft import Draft
from .sampling import NEVER, SamplingRule


def length_normaliser(n_token: Tensor, length_penalty: float) -> Tensor:
    """Return the divisor of the log-probability of n new tokens: lp of Wu et al. 2016, equation 14."""
    # Each token makes a text less probable: with penalty 0, short texts win. Vaswani et al. 2017 have 0.6.
    return ((5.0 + n_token) / 6.0) ** length_penalty


class Beam:
    """The K = n_beam texts kept for each of B prompts, and the greedy one: R = K + 1 rows a prompt.

    At each step every text is continued by every token, and the K with the best scores are kept; a score is
    log-probability / `length_normaliser`. An ended text keeps its score and stays until better ones push it
    out; the best ended text is remembered even then. Differs from the usual search: the greedy text is
    written beside the beam and competes at the end, as a beam can drop it and then find only worse ones.
    """

    def __init__(self, draft: Draft, rule: SamplingRule, limits, n_beam, length_penalty, pad_id):
        """Start from the B prompts of `draft`; `limits` (B,): most new tokens; `pad_id` follows an end."""
        B, R, device = len(limits), n_beam + 1, limits.device
        self.draft, self.rule, self.limits, self.length_penalty = draft, rule, limits, length_penalty
        self.first_row = torch.arange(B, device=device)[:, None] * R  # (B, 1)
        self.copies = torch.arange(B, device=device).repeat_interleave(R)  # (B * R,)
        self.total = torch.full((B, R), NEVER, device=device)  # log-probability of the new tokens
        self.total[:, [0, -1]] = 0.0  # the K texts begin equal: only one may be continued at first
        self.length = torch.zeros(B, R, dtype=torch.long, device=device)  # new tokens
        self.ended = (limits <= 0)[:, None].expand(B, R)
        self.pad_id, self.new = pad_id, slice(draft.length, None)  # the columns of the new tokens
        self.best_score = torch.full((B,), NEVER, device=device)
        self.best_ids = torch.full_like(draft.ids[:, self.new], pad_id)  # (B, n)
        self.best_length = torch.zeros_like(limits)

    def search(self) -> tuple[Tensor, Tensor]:
        """Return the new tokens (B, n) of each prompt's best text, and how many there are (B,)."""
        logits = self.draft.next_logits()[self.copies]  # the prompt is read once; each text gets a copy
        self.draft.reorder(self.copies)
        for t in range(int(self.limits.max())):
            self.advance(self.draft.next_logits() if t else logits)
            if self.is_settled():
                break
        return self.best_ids, self.best_length

    def advance(self, logits: Tensor) -> None:
        """Continue every text by every token and keep the K best; logits (B * R, V)."""
        B, R, V = *self.total.shape, logits.shape[1]
        log_probs = self.rule.log_probabilities(logits).view(B, R, V)
        padding = torch.full_like(log_probs[0, 0], NEVER)  # (V,)
        padding[self.pad_id] = 0.0  # an ended text is continued by padding, at no cost
        log_probs = torch.where(self.ended[..., None], padding, log_probs)
        total = self.total[..., None] + log_probs  # (B, R, 1) + (B, R, V) -> (B, R, V)
        length = self.length + ~self.ended  # (B, R)
        scores = total / length_normaliser(length, self.length_penalty)[..., None]
        best = scores[:, :-1].flatten(1).topk(R - 1).indices  # (B, K) out of (B, K * V): all texts compete
        greedy = scores[:, -1:].argmax(2) + (R - 1) * V  # (B, 1), continues its own row only
        index = torch.cat([best, greedy], dim=1)  # (B, R) into (B, R * V)
        parent, token = index // V, index % V
        self.draft.reorder((self.first_row + parent).flatten())
        self.draft.append(token.flatten())
        self.total, self.length = total.flatten(1).gather(1, index), length.gather(1, parent)
        self.ended = self.ended.gather(1, parent) | (self.length >= self.limits[:, None])
        if self.rule.eos_id is not None:
            self.ended = self.ended | (token == self.rule.eos_id)
        self.remember(scores.flatten(1).gather(1, index))

    def remember(self, score: Tensor) -> None:
        """Store each prompt's best ended text, by scores (B, R), if it beats the one stored before."""
        score, winner = score.masked_fill(~self.ended, NEVER).max(1)  # (B,)
        better, row = score > self.best_score, self.first_row[:, 0] + winner
        self.best_score = torch.where(better, score, self.best_score)
        self.best_ids = torch.where(better[:, None], self.draft.ids[row, self.new], self.best_ids)
        self.best_length = torch.where(better, self.length.flatten()[row], self.best_length)

    def is_settled(self) -> bool:
        """Return whether no text of any beam can still beat the best ended one of its prompt."""
        alive = self.total.masked_fill(self.ended, NEVER).amax(1)  # (B,)
        # More tokens never raise a log-probability: divided by the largest divisor it is the best score left.
        return bool((alive / length_normaliser(self.limits, self.length_penalty) <= self.best_score).all())
