"""The texts of a batch while they are generated, with caches: each step computes one new token per text."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..plumbing.errors import UserError

# A text longer than the model's positions keeps its newest tokens: this share of the positions. To drop one
# token at a time would keep more, but each drop shifts all positions, so each step would refill the caches.
KEPT = 0.75


def pad(texts: list[list[int]], pad_id: int, side: str, device=None) -> tuple[Tensor, Tensor | None]:
    """Return ids (B, T), padded on the "left" or "right", and their mask, or None if nothing is padded."""
    rows = [torch.tensor(text, dtype=torch.long) for text in texts]
    real = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], True, False, side)
    return pad_sequence(rows, True, pad_id, side).to(device), None if real.all() else real.to(device)


class Draft:
    """The texts of a batch while they are generated, and the caches of their keys and values.

    All texts end in the same column of `ids`, and a step writes one column. Row i begins in column first[i],
    after padding or dropped tokens. Its positions count from there, so it gets the logits it would get alone.
    """

    def __init__(self, model, prompts, n_new, pad_id=0, memory=None, memory_mask=None):
        self.model, self.memory, self.memory_mask = model, memory, memory_mask  # of (B, S_encoder) tokens
        prompt_ids, _ = pad(prompts, pad_id, "left", model.tokens.weight.device)
        self.length = prompt_ids.shape[1]  # columns that are written
        self.ids = F.pad(prompt_ids, (0, n_new), value=pad_id)  # (B, S + n_new)
        self.first = [self.length - len(prompt) for prompt in prompts]
        self.begin()

    def begin(self) -> None:
        """Empty the caches, to read again from the first column that any row uses."""
        self.start = self.n_read = min(self.first)
        self.mask = None  # (B, columns from start)
        if max(self.first) > self.start:
            column = torch.arange(self.start, self.ids.shape[1], device=self.ids.device)
            self.mask = column >= torch.tensor(self.first, device=self.ids.device)[:, None]
        room = min(self.model.config.max_positions, self.ids.shape[1] - self.start)
        self.caches = self.model.new_caches(room, 0 if self.memory is None else self.memory.shape[1])

    def next_logits(self) -> Tensor:
        """Return the logits (B, V) for the token after each text; UserError if they are NaN."""
        limit = self.model.config.max_positions
        if self.length - self.start > limit:
            kept = max(1, int(KEPT * limit))
            self.first = [f if self.length - f <= limit else self.length - kept for f in self.first]
            self.begin()
        unread = self.ids[:, self.n_read : self.length]  # one column, or all if the caches are empty
        mask = None if self.mask is None else self.mask[:, : self.length - self.start]
        hidden = self.model.decode(unread, mask, self.memory, self.memory_mask, self.caches)[-1]
        logits = self.model.vocabulary_logits(hidden[:, -1]).float()  # (B, D) -> (B, V)
        if self.n_read == self.start and logits.isnan().any():
            raise UserError("the model's logits are NaN: its training went wrong; take an earlier checkpoint")
        self.n_read = self.length
        return logits

    def append(self, token: Tensor) -> None:
        """Add a token (B,) to each text."""
        self.ids[:, self.length] = token
        self.length += 1

    def reorder(self, rows: Tensor) -> None:
        """Put the text of row `rows[i]` into row i; the texts of one prompt stay next to each other."""
        grows = len(rows) != len(self.ids)
        self.first = [self.first[row] for row in rows.tolist()]
        self.ids = self.ids[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        for own, cross in self.caches:
            own.reorder(rows)
            if grows:  # later rows move only within their prompt, and so share its encoder text
                cross.reorder(rows)
        if grows and self.memory is not None:
            self.memory = self.memory[rows]
            self.memory_mask = None if self.memory_mask is None else self.memory_mask[rows]
