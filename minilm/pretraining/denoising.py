"""BART: spoil a text, and let the decoder rebuild it from what the encoder reads.

Source: Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training", section 2.2. The noises are in
`noise.py`. They are drawn anew each time a text is seen.
"""

import copy
import math

import numpy as np
from torch import Tensor

from ..plumbing.errors import UserError
from ..texts.corpus import Corpus
from ..tokenizer.bpe import BPE
from ..tokenizer.rows import decoder_begin
from ..training.objective import IGNORED, SPLITS, Objective, notes_on_cuts, summed_cross_entropy, tensors
from .next_sentence import EncodedSentences, width_of
from .noise import MASK, corrupt_rows, noise_names


class Denoising(Objective):
    """Rows are runs of whole sentences of one document.

    The encoder reads [CLS] noised text [SEP]. The decoder reads [CLS] text and writes text [SEP]: [CLS] and
    [SEP] begin and end a text here, as <s> and </s> do in the paper. The decoder of a published BART reads
    one token more before them (`inputs.decoder_begin`), for which there is no label.

    Raises:
        UserError: for an unknown noise, a context without room for a token, or a corpus without text.
    """

    name = "denoising"

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: BPE,
        context: int,
        batch_size: int,
        seed: int = 0,
        noise: str = "infilling,permutation",
    ):
        super().__init__(tokenizer, context, batch_size, seed)
        if context < 3:
            raise UserError(f"--context {context}: a row is [CLS], tokens and [SEP], so 3 is the least")
        self.corpus, self.noises = corpus, noise_names(noise)
        self.begin = decoder_begin(tokenizer)
        documents = dict(zip(SPLITS, (corpus.train, corpus.validation), strict=True))
        self.texts = {s: SentenceRuns(d, tokenizer, context - 2) for s, d in documents.items()}
        n_cut = sum(texts.n_cut for texts in self.texts.values())
        self.notes = notes_on_cuts(n_cut, "sentences", context)
        for split, texts in self.texts.items():
            if not len(texts):
                raise UserError(f"{corpus.name}: no text in the {split} part")

    def with_noise(self, noise: str) -> "Denoising":
        """Return the same objective on the same texts under another noise."""
        other = copy.copy(self)
        other.noises = noise_names(noise)
        return other

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return `rows` of texts drawn at random, or of all validation texts, and their denominators.

        Returns:
            the tensors of `rows`; n_label, n_byte, n_kept and n_lost (0-d).
        """
        rng, texts = self.generator(step, split), self.texts[split]
        everything = np.arange(len(texts))
        chosen = rng.integers(0, len(texts), self.batch_size) if split == "train" else everything
        rows = self.rows(texts, chosen, rng)
        counted = rows["labels"][rows["labels"] != IGNORED]
        denominators = dict(
            n_label=len(counted),
            n_byte=self.token_bytes[counted].sum(),
            n_kept=(rows["survived"] == 1).sum(),
            n_lost=(rows["survived"] == 0).sum(),
        )
        return tensors(rows | {name: max(1, n) for name, n in denominators.items()})

    def rows(
        self, texts: "SentenceRuns", chosen: np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Spoil the chosen texts and lay them out.

        Returns:
            input_ids and attention_mask (B, S) of the encoder; decoder_input_ids and labels (B, T);
            survived (B, T): 1 where the noised text still holds the label's token, 0 where it does not,
            `IGNORED` for [SEP] and padding.
        """
        ids, sentence, row = texts.flat(chosen)  # (n,) each
        places, place_row = corrupt_rows(self.noises, row, sentence, rng)  # (m,)
        # Inserted masks may make a row too long. What is cut off then has not survived.
        fits = place_in_row(place_row) < self.context - 2
        places, place_row = places[fits], place_row[fits]
        noised = np.where(places == MASK, self.tokenizer.special_id("[MASK]"), ids[places])
        survived = np.zeros_like(ids)
        survived[places[places != MASK]] = 1

        B = len(chosen)
        encoder_ids = self.framed(noised, place_row, B)  # (B, S)
        decoder_ids = self.framed(ids, row, B)  # (B, T + 1)
        pad = self.tokenizer.special_id("[PAD]")
        labels = np.where(decoder_ids == pad, IGNORED, decoder_ids)[:, 1:]
        survived = lay_out(survived, row, labels.shape, 0, IGNORED)

        def behind(start: list[int], columns: np.ndarray) -> np.ndarray:
            return np.concatenate([np.tile(start, (B, 1)).astype(np.int64), columns], axis=1)

        start = self.begin[:-1]  # the last one is the [CLS] of `framed`
        return {
            "input_ids": encoder_ids,
            "attention_mask": (encoder_ids != pad).astype(np.int64),
            "decoder_input_ids": behind(start, decoder_ids[:, :-1]),
            "labels": behind([IGNORED] * len(start), labels),
            "survived": behind([IGNORED] * len(start), survived),
        }

    def framed(self, ids: np.ndarray, row: np.ndarray, n_row: int) -> np.ndarray:
        """Lay out [CLS] text [SEP] [PAD] ..., (B, width), of the ids (n,) of the rows (n,)."""
        cls, sep, pad = (self.tokenizer.special_id(f"[{name}]") for name in ("CLS", "SEP", "PAD"))
        n = np.bincount(row, minlength=n_row)  # (B,)
        out = lay_out(ids, row, (n_row, width_of(n + 2, self.context)), 1, pad)
        out[:, 0] = cls
        out[np.arange(n_row), n + 1] = sep
        return out

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over the original's tokens and its [SEP], in nats.

        Metrics: `loss`; `bits_per_byte` of the original; `copy_accuracy` and `rebuilt_accuracy`, the shares
        of the surviving and of the lost tokens that have the highest logit, given the true tokens before.
        """
        # The decoder needs no mask: padding comes after the text, where no token of the text looks.
        logits = model(batch["input_ids"], batch["attention_mask"], None, batch["decoder_input_ids"])
        total = summed_cross_entropy(logits, batch["labels"])  # logits (B, T, V)
        right = logits.argmax(-1) == batch["labels"]  # (B, T)
        loss = total / batch["n_label"]
        return loss, {
            "loss": loss,
            "bits_per_byte": total / math.log(2) / batch["n_byte"],
            "copy_accuracy": (right & (batch["survived"] == 1)).sum() / batch["n_kept"],
            "rebuilt_accuracy": (right & (batch["survived"] == 0)).sum() / batch["n_lost"],
        }


class SentenceRuns:
    """Runs of whole sentences of one document, of up to `longest` tokens; a longer sentence is cut."""

    def __init__(self, documents: list[str], tokenizer: BPE, longest: int):
        encoded = EncodedSentences(documents, tokenizer, longest)
        first, last = encoded.windows(budget=longest).T
        self.ids, self.start, self.end = encoded.ids, encoded.edges[first], encoded.edges[last]  # (n,), (N,)
        self.n_cut = encoded.n_cut
        self.sentence_of = np.repeat(np.arange(len(encoded.edges) - 1), np.diff(encoded.edges))  # (n,)

    def __len__(self) -> int:
        return len(self.start)

    def flat(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids, sentence and row (n,) of all tokens of the chosen runs, one run behind the other."""
        row = np.repeat(np.arange(len(chosen)), (self.end - self.start)[chosen])
        where = self.start[chosen][row] + place_in_row(row)
        return self.ids[where], self.sentence_of[where], row


def place_in_row(row: np.ndarray) -> np.ndarray:
    """Count the tokens of each row from 0; `row` (n,) is ascending."""
    return np.arange(len(row)) - np.searchsorted(row, row)


def lay_out(
    values: np.ndarray, row: np.ndarray, shape: tuple[int, int], column: int, filling: int
) -> np.ndarray:
    """Write the values (n,) of each row into an array of `shape`, from `column` on; `filling` elsewhere."""
    out = np.full(shape, filling, dtype=np.int64)
    out[row, column + place_in_row(row)] = values
    return out
