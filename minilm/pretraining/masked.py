"""BERT: hide some tokens and predict them from both sides, and say whether text B follows text A.

Source: Devlin et al. 2019, "BERT", section 3.1, task 1, and appendix A.1. The tokens to hide are drawn anew
each time a text is seen ("dynamic masking", Liu et al. 2019, section 4.1; the paper drew them once).
"""

import math

import numpy as np
import torch
from torch import Tensor

from ..plumbing.errors import UserError
from ..texts.corpus import Corpus
from ..tokenizer.bpe import BPE
from ..training.objective import (
    IGNORED,
    SPLITS,
    Objective,
    count_correct,
    notes_on_cuts,
    summed_cross_entropy,
    tensors,
)
from .next_sentence import PackedSentences, SentencePairs


class Masked(Objective):
    """Masked tokens, with next sentence (BERT) or without (RoBERTa).

    Raises:
        UserError: for a `mask_share` outside 0 to 1, or a text too short for pairs.
    """

    name = "masked"

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: BPE,
        context: int,
        batch_size: int,
        seed: int = 0,
        next_sentence: bool = True,
        mask_share: float = 0.15,
        whole_word: bool = False,
    ):
        super().__init__(tokenizer, context, batch_size, seed)
        if not 0 <= mask_share <= 1:
            raise UserError(f"--mask-share {mask_share}: a share of the tokens, from 0 to 1 (BERT: 0.15)")
        self.corpus, self.next_sentence = corpus, next_sentence
        self.mask_share, self.whole_word = mask_share, whole_word
        documents = dict(zip(SPLITS, (corpus.train, corpus.validation), strict=True))
        if next_sentence:
            self.texts = {s: SentencePairs(d, tokenizer, context, corpus.name) for s, d in documents.items()}
        else:
            self.texts = {s: PackedSentences(d, tokenizer, context) for s, d in documents.items()}
        n_cut = sum(texts.n_cut for texts in self.texts.values())
        self.notes = notes_on_cuts(n_cut, "sentences", context)
        self.special_ids = np.array([tokenizer.special_id(token) for token in tokenizer.special_tokens])
        self.is_special = np.isin(np.arange(len(self.token_bytes)), self.special_ids)  # (V,)
        self.ordinary_ids = np.flatnonzero(~self.is_special)
        self.begins_word = np.array([begins_word(token) for _, token in sorted(tokenizer.vocab.items())])

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return the rows of `next_sentence` with some tokens hidden.

        Returns:
            input_ids, attention_mask and, for pairs, token_type_ids (B, T); next_sentence_labels (B,);
            masked_positions (B, P) and masked_labels (B, P), `IGNORED` in rows that hide fewer than P tokens;
            the denominators n_masked, n_byte, n_row (0-d).
        """
        rng = self.generator(step, split)
        rows = self.rows(split, rng, self.batch_size)
        ids = rows["input_ids"]
        may_hide = ~self.is_special[ids]
        positions, counted = choose_positions(
            may_hide, self.mask_share, rng, self.begins_word[ids] if self.whole_word else None
        )
        labels = np.where(counted, np.take_along_axis(ids, positions, 1), IGNORED)  # (B, P)
        rows["input_ids"] = self.hide(ids, positions, counted, rng)
        n_byte = self.token_bytes[labels[counted]].sum()
        denominators = dict(n_masked=max(1, counted.sum()), n_byte=max(1, n_byte), n_row=len(ids))
        return tensors(rows | dict(masked_positions=positions, masked_labels=labels) | denominators)

    def rows(self, split: str, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        """Return n training rows, or all validation rows, before anything is hidden."""
        texts = self.texts[split]
        return texts.rows(rng.integers(0, len(texts), n) if split == "train" else np.arange(len(texts)), rng)

    def hide(
        self, ids: np.ndarray, positions: np.ndarray, counted: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Replace chosen tokens: 80 % by [MASK], 10 % by a random token, 10 % stay; (B, T) -> (B, T).

        Some stay or change so that the model cannot rely on a token just because it is not [MASK].
        """
        original = np.take_along_axis(ids, positions, 1)  # (B, P)
        fate = rng.random(positions.shape)
        random = self.ordinary_ids[rng.integers(0, len(self.ordinary_ids), positions.shape)]
        replacement = np.where(fate < 0.8, self.tokenizer.special_id("[MASK]"), random)
        replacement = np.where(fate < 0.9, replacement, original)
        hidden = ids.copy()
        row, column = np.nonzero(counted)
        hidden[row, positions[row, column]] = replacement[row, column]
        return hidden

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both losses, each a mean in nats; metrics of each."""
        states = model.hidden_states(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        logits = masked_logits(model, states[-1], batch["masked_positions"])  # (B, P, V)
        total = summed_cross_entropy(logits, batch["masked_labels"])
        masked_loss = total / batch["n_masked"]
        metrics = {
            "loss": masked_loss,
            "masked_loss": masked_loss,
            "masked_accuracy": count_correct(logits, batch["masked_labels"]) / batch["n_masked"],
            "bits_per_byte": total / math.log(2) / batch["n_byte"],
        }
        if self.next_sentence:
            labels = batch["next_sentence_labels"]
            logits = model.next_sentence_logits(states[-1])  # (B, 2)
            metrics["next_sentence_loss"] = summed_cross_entropy(logits, labels) / batch["n_row"]
            metrics["next_sentence_accuracy"] = count_correct(logits, labels) / batch["n_row"]
            metrics["loss"] = masked_loss + metrics["next_sentence_loss"]
        return metrics["loss"], metrics


def begins_word(token: bytes) -> bool:
    """Return whether a word begins with this token, as " cat" and "," do; "s" and part of a letter go on."""
    text = token.decode(errors="ignore")
    return text != "" and not text[0].isalnum()


def masked_logits(model, hidden: Tensor, positions: Tensor) -> Tensor:
    """Return logits (B, P, V) at positions (B, P) of hidden states (B, T, D), and at no other."""
    at = positions[:, :, None].expand(-1, -1, hidden.shape[-1])  # (B, P, D)
    return model.vocabulary_logits(hidden.gather(1, at))


def choose_positions(
    may_hide: np.ndarray, share: float, rng: np.random.Generator, starts_word: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the tokens to hide: `share` of those a row may hide, rounded, at least one.

    Args:
        may_hide: (B, T), False for special tokens and padding.
        starts_word: (B, T), where a word starts; given, whole words are drawn: all of a word or nothing
            ("whole word masking", a later release of the authors of BERT), up to the same number of tokens.

    Returns:
        positions (B, P) and counted (B, P), which is False on the places that a row with fewer leaves empty.
    """
    n_hidden = np.maximum(1, np.rint(share * may_hide.sum(1)).astype(np.int64))  # (B,)
    n_hidden = np.minimum(n_hidden, may_hide.sum(1))
    lot = rng.random(may_hide.shape)
    if starts_word is not None:  # all tokens of a word draw the lot of its first token
        column = np.arange(may_hide.shape[1])
        first = np.maximum.accumulate(np.where(starts_word | ~may_hide, column, 0), axis=1)
        lot = np.take_along_axis(lot, first, 1)
    lot[~may_hide] = 2.0  # never among the first
    order = lot.argsort(1, kind="stable")  # (B, T); the tokens of a word stay side by side
    counted = np.arange(may_hide.shape[1]) < n_hidden[:, None]
    if starts_word is not None:
        counted = whole_words(np.take_along_axis(lot, order, 1), counted)
    P = max(1, int(counted.sum(1).max()))
    return order[:, :P], counted[:, :P]


def whole_words(lot: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Shorten each row of `counted` (B, T) to whole words; equal neighbours in `lot` (B, T) are one word.

    A row whose first word alone is longer than its share keeps that word.
    """
    ends_word = np.append(lot[:, 1:] != lot[:, :-1], np.ones((len(lot), 1), dtype=bool), axis=1)
    column = np.arange(lot.shape[1])
    last = np.where(ends_word & counted, column + 1, 0).max(1)  # tokens up to the last whole word that fits
    first_word = ends_word.argmax(1) + 1
    n = np.where(counted.any(1), np.maximum(last, first_word), 0)
    return column < n[:, None]


@torch.no_grad()
def predict_masked(model, batch: dict[str, Tensor]) -> Tensor:
    """Return the probabilities (B, P, V) of each token at `masked_positions`."""
    device = next(model.parameters()).device
    names = ("input_ids", "attention_mask", "token_type_ids", "masked_positions")
    ids, mask, types, positions = (batch[n].to(device) if n in batch else None for n in names)
    return masked_logits(model, model.hidden_states(ids, mask, types)[-1], positions).softmax(-1).cpu()
