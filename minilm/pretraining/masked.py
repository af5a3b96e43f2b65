"""BERT: predict hidden tokens from the text on both sides, and whether text B follows text A.

    input_ids         [CLS] _Ana _sold _a [MASK]  . [SEP] _She _was [MASK]  . [SEP] [PAD]
    attention_mask        1    1     1  1      1  1     1    1    1      1  1     1     0
    masked_labels         -    -     -  - _melon  -     -    -    - _happy  -     -     -

Source: Devlin et al. 2019, "BERT", section 3.1, task 1, and appendix A.1. The hidden tokens are drawn anew
each time a text is seen ("dynamic masking", Liu et al. 2019, section 4.1; in BERT, only ten times).
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..texts.corpus import Corpus
from ..tokenizer.base import Tokenizer
from ..training.objective import IGNORED, SPLITS, Objective, count_correct, notes_on_cuts, tensors, to_device
from ..training.vocabulary_loss import vocabulary_loss
from .next_sentence import SentencePairs, SentenceRuns
from .ngrams import MOST_SINGLE


class Masked(Objective):
    """Predict masked tokens, and also the next sentence (BERT) or not (RoBERTa)."""

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, context: int, batch_size: int, seed: int = 0,
        next_sentence: bool = True, mask_share: float = 0.15, whole_word: bool = False,
    ):  # fmt: skip
        super().__init__(tokenizer, context, batch_size, seed)
        self.corpus, self.next_sentence = corpus, next_sentence
        self.mask_share, self.whole_word = mask_share, whole_word
        packed = partial(SentenceRuns, across_documents=True)  # without pairs: as in RoBERTa
        make = partial(SentencePairs, name=corpus.name) if next_sentence else packed
        self.texts = {split: make(getattr(corpus, split), tokenizer, context) for split in SPLITS}
        self.notes = notes_on_cuts(sum(t.n_cut for t in self.texts.values()), "split {:,} sentences", context)
        self.mask = tokenizer.special_id("[MASK]")
        special_ids = [tokenizer.special_id(token) for token in tokenizer.special_tokens]
        self.is_special = np.isin(np.arange(len(self.token_bytes)), special_ids)  # (V,)
        self.ordinary_ids = np.flatnonzero(~self.is_special)
        tokens = (tokenizer.vocab.get(i, b"") for i in range(tokenizer.vocab_size))
        self.begins_word = np.array([*map(begins_word, tokens)])  # (V,)

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return rows of `next_sentence.py` with some tokens hidden.

        input_ids, attention_mask (B, T); for pairs also token_type_ids (B, T) and next_sentence_labels (B,);
        masked_positions, masked_labels (B, P), `IGNORED` where a row hides fewer than P tokens; n_masked,
        n_byte, n_row (0-d), the denominators of the losses and metrics.
        """
        rng = self.generator(step, split)
        rows = self.rows(split, rng, self.batch_size)
        ids = rows["input_ids"]  # (B, T)
        starts_word = self.begins_word[ids] if self.whole_word else None
        positions, counted = choose_positions(~self.is_special[ids], self.mask_share, rng, starts_word)
        labels = np.where(counted, np.take_along_axis(ids, positions, 1), IGNORED)  # (B, P), the tokens there
        hidden = self.hide(ids, positions, counted, rng)
        rows |= dict(input_ids=hidden, masked_positions=positions, masked_labels=labels, n_row=len(ids))
        n_byte = self.token_bytes[labels[counted]].sum()
        return tensors(rows | dict(n_masked=max(1, counted.sum()), n_byte=max(1, n_byte)))

    def rows(self, split: str, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        """Return n training rows, or all validation rows, before anything is hidden."""
        texts = self.texts[split]
        chosen = rng.integers(0, len(texts), n) if split == "train" else np.arange(len(texts))
        return texts.rows(chosen, rng if self.next_sentence else None)

    def hide(self, ids: np.ndarray, positions: np.ndarray, counted: np.ndarray, rng) -> np.ndarray:
        """Replace chosen tokens: 80 % by [MASK], 10 % by a random ordinary one, 10 % stay; (B, T) -> (B, T).

        `positions` (B, P): their columns in `ids`; places where `counted` (B, P) is False are not chosen.
        Later tasks have no [MASK]; and since any token may be wrong, or asked for, none can be ignored (A.1).
        """
        fate = rng.random(positions.shape)  # (B, P), one draw for each token decides: 80 + 10 + 10 %
        random = self.ordinary_ids[rng.integers(0, len(self.ordinary_ids), positions.shape)]
        original = np.take_along_axis(ids, positions, 1)
        replacement = np.where(fate < 0.8, self.mask, np.where(fate < 0.9, random, original))
        row, place = np.nonzero(counted)  # (n,) each: all hidden tokens of the batch
        hidden = ids.copy()
        hidden[row, positions[row, place]] = replacement[row, place]
        return hidden

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the two losses, each a mean in nats, and the metrics of each."""
        hidden, at_masked = masked_states(model, batch)  # (B, T, D), (B, P, D)
        total, right = vocabulary_loss(model, at_masked, batch["masked_labels"])  # sum of -log p; (B, P)
        masked_loss = total / batch["n_masked"]
        metrics = {
            "loss": masked_loss,
            "masked_loss": masked_loss,
            "masked_accuracy": right.sum() / batch["n_masked"],
            "bits_per_byte": total / math.log(2) / batch["n_byte"],
        }
        if self.next_sentence:  # task 2
            labels = batch["next_sentence_labels"]
            logits = model.next_sentence_logits(hidden)  # (B, 2), read at [CLS]
            metrics["next_sentence_loss"] = F.cross_entropy(logits, labels, reduction="sum") / batch["n_row"]
            metrics["next_sentence_accuracy"] = count_correct(logits, labels) / batch["n_row"]
            metrics["loss"] = masked_loss + metrics["next_sentence_loss"]
        return metrics["loss"], metrics


def masked_states(model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the last hidden states (B, T, D), and the ones at `masked_positions` (B, P, D)."""
    # A student of `distillation.py` ignores token_type_ids: it has no segment embeddings.
    hidden = model.hidden_states(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))[-1]
    at = batch["masked_positions"][:, :, None].expand(-1, -1, hidden.shape[-1])  # (B, P, D)
    return hidden, hidden.gather(1, at)


@torch.no_grad()
def predict_masked(model, batch: dict[str, Tensor]) -> Tensor:
    """Return the probabilities (B, P, V) of each token at `masked_positions`."""
    batch = to_device(batch, next(model.parameters()).device)
    return model.vocabulary_logits(masked_states(model, batch)[1]).softmax(-1).cpu()


def fill_examples(objective: Masked, model, n: int = 3) -> list[str]:
    """Return lines that show n validation texts with one word hidden, and the model's three best guesses.

    If the word has several tokens, all are hidden, and there is one guess: the likeliest token at each place.
    """
    texts, tokenizer = objective.texts["validation"], objective.tokenizer
    rng = np.random.default_rng(objective.seed)
    rows = texts.rows(rng.choice(len(texts), min(n, len(texts)), replace=False))
    ids = rows["input_ids"]  # (n, T)
    count = np.bincount(objective.texts["train"].ids[:MOST_SINGLE], minlength=len(objective.token_bytes))
    is_rare = (count < 0.02 * count.sum()) & (objective.token_bytes > 2)  # hide a word worth guessing
    special = objective.is_special[ids]  # (n, T)
    fits = (is_rare[ids] | ~is_rare[ids].any(1, keepdims=True)) & ~special
    word = (objective.begins_word[ids] | special).cumsum(1)  # (n, T), number of each token's word in its row
    lines = []
    for b, place in enumerate((rng.random(ids.shape) * fits).argmax(1)):  # a random one that fits
        hidden = np.flatnonzero((word[b] == word[b, place]) & ~special[b])  # (P,)
        parts = np.split(ids[b], [hidden[0], hidden[-1] + 1])
        before, truth, behind = (tokenizer.decode(part[~objective.is_special[part]]) for part in parts)
        ids[b, hidden] = objective.mask
        row = {name: value[[b]] for name, value in rows.items()} | dict(masked_positions=hidden[None])
        p_token = predict_masked(model, tensors(row))[0, :, : tokenizer.vocab_size]  # (P, V)
        chances, best = p_token.topk(3 if len(hidden) == 1 else 1)  # (P, k) each, for k guesses
        guesses = zip(best.T.tolist(), chances.prod(0).tolist(), strict=True)
        told = [f"{tokenizer.decode(guess).strip()} {p:.2f}" for guess, p in guesses]
        lines.append(f"{before}{' ____' if truth.startswith(' ') else '____'}{behind}".strip())
        lines.append(f"    {'   '.join(told)}   (it was: {truth.strip()})")
    return lines


def choose_positions(may_hide: np.ndarray, share: float, rng: np.random.Generator, starts_word=None) -> tuple:
    """Draw the tokens to hide: a `share` of the tokens that each row may hide, rounded, but at least one.

    `may_hide` (B, T) is False for special tokens and padding. If `starts_word` (B, T) is given, True where a
    word starts, words are hidden whole, up to the same number of tokens ("whole word masking", from a later
    release by BERT's authors). Returns positions (B, P) and counted (B, P), False where a row hides fewer.
    """
    column, n_may = np.arange(may_hide.shape[1]), may_hide.sum(1)  # (T,), (B,)
    draws = rng.random(may_hide.shape)  # (B, T); the tokens with the lowest draws are hidden
    if starts_word is not None:  # all tokens of a word get the draw of its first token
        first = np.maximum.accumulate(np.where(starts_word | ~may_hide, column, 0), axis=1)  # its column
        draws = np.take_along_axis(draws, first, 1)
    draws[~may_hide] = 2.0  # never among the lowest
    order = draws.argsort(1, kind="stable")  # (B, T); the tokens of a word stay side by side
    n_hidden = np.rint(share * n_may).clip(1, n_may)  # (B,)
    if starts_word is not None:
        taken = whole_words(np.take_along_axis(draws, order, 1), n_hidden)
        order = np.take_along_axis(order, (~taken).argsort(1, kind="stable"), 1)  # taken tokens first
        n_hidden = taken.sum(1)
    counted = column < n_hidden[:, None]
    P = max(1, counted.sum(1).max())
    return order[:, :P], counted[:, :P]


def whole_words(draws: np.ndarray, n_hidden: np.ndarray) -> np.ndarray:
    """Return which tokens to hide (B, T), given their sorted `draws` (B, T), where equal draws are one word.

    Draws of 1 or more are never hidden. Words are tried in order; one that fits into what is left of n_hidden
    (B,) is hidden. Differs from the authors' code: if none fits, the first is hidden; each row needs a label.
    """
    B, T = draws.shape
    word = (np.diff(draws, prepend=draws[:, :1]) != 0).cumsum(1)  # (B, T), number of each token's word
    length = np.bincount((word + T * np.arange(B)[:, None]).ravel(), draws.ravel() < 1, B * T).reshape(B, T)
    taken, left = np.zeros((B, T), dtype=bool), n_hidden  # taken[b, i]: is word i, of length[b, i], hidden?
    for i in range(T):  # word i of each row
        taken[:, i] = (length[:, i] > 0) & (length[:, i] <= left)
        left = left - length[:, i] * taken[:, i]
        if not left.any():
            break
    taken[:, 0] |= ~taken.any(1)
    return np.take_along_axis(taken, word, 1) & (draws < 1)


def begins_word(token: bytes) -> bool:
    """Return whether the token begins a word: " cat" and "," do; "s" and a part of a letter continue one."""
    text = token.decode(errors="ignore")
    return text != "" and not text[0].isalnum()
