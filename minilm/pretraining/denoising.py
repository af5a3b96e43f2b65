"""BART: the encoder reads a text with noise, and the decoder rebuilds the original.

    input_ids         [CLS]  _She  _was _happy      . _Ana [MASK] _melon      . [SEP]
    decoder_input_ids [CLS]  _Ana _sold     _a _melon    .   _She   _was _happy     .
    labels             _Ana _sold    _a _melon      . _She   _was _happy      . [SEP]
    survived              1     0     0      1      1    1      1      1      1     -

Source: Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training", section 2.2. The noise (see
`noise.py`) is drawn anew each time a text is seen. [CLS] and [SEP] are the paper's <s> and </s>.
"""

import copy
import math
from itertools import pairwise

import numpy as np
from torch import Tensor

from ..model.generate import generate
from ..texts.corpus import Corpus
from ..tokenizer.rows import decoder_begin
from ..training.objective import IGNORED, SPLITS, Objective, notes_on_cuts, tensors
from ..training.vocabulary_loss import vocabulary_loss
from .next_sentence import SentenceRuns, padded
from .noise import MASK, corrupt, noise_names


class Denoising(Objective):
    """Rows are runs of whole sentences of one document. UserError for an unknown noise.

    The decoder of a published BART reads one more token before [CLS] (`rows.decoder_begin`), without a label.
    """

    def __init__(self, corpus: Corpus, tokenizer, context, batch_size, seed=0, noise="infilling,permutation"):
        super().__init__(tokenizer, context, batch_size, seed)
        self.corpus, self.noises = corpus, noise_names(noise)
        self.begin, self.mask = decoder_begin(tokenizer), tokenizer.special_id("[MASK]")
        self.texts = {split: SentenceRuns(getattr(corpus, split), tokenizer, context) for split in SPLITS}
        self.notes = notes_on_cuts(sum(t.n_cut for t in self.texts.values()), "split {:,} sentences", context)

    def with_noise(self, noise: str) -> "Denoising":
        """Return the same objective on the same texts with another noise."""
        other = copy.copy(self)
        other.noises = noise_names(noise)
        return other

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return `rows` of random texts, or all validation texts; n_label, n_byte, n_kept, n_lost (0-d)."""
        rng, texts = self.generator(step, split), self.texts[split]
        chosen = rng.integers(0, len(texts), self.batch_size) if split == "train" else np.arange(len(texts))
        rows = self.rows(texts, chosen, rng)
        counted = rows["labels"][rows["labels"] != IGNORED]
        counts = dict(n_label=len(counted), n_byte=self.token_bytes[counted].sum())
        counts |= dict(n_kept=(rows["survived"] == 1).sum(), n_lost=(rows["survived"] == 0).sum())
        return tensors(rows | {name: max(1, n) for name, n in counts.items()})

    def rows(self, texts: SentenceRuns, chosen: np.ndarray, rng) -> dict[str, np.ndarray]:
        """Return the noised texts: input_ids, attention_mask (B, S); decoder_input_ids, labels (B, T).

        And survived (B, T): 1 where the noised text still holds the label's token, 0 where it does not,
        `IGNORED` for [SEP] and padding.
        """
        encoder, survived = [], []
        unasked = [IGNORED] * (len(self.begin) - 1)  # a published BART is given [CLS], it does not predict it
        for first, last in texts.runs[chosen]:
            edges = texts.edges[first : last + 1].tolist()  # where its sentences begin and the last one ends
            places = corrupt([np.arange(i, j) for i, j in pairwise(edges)], self.noises, rng)
            places = places[: self.context - 2]  # an empty span adds a [MASK]: it may be too long
            noised = np.where(places == MASK, self.mask, texts.ids[places])
            encoder.append([texts.cls, *noised.tolist(), texts.sep])
            kept = np.zeros(edges[-1] - edges[0], dtype=int)
            kept[places[places != MASK] - edges[0]] = 1
            survived.append([*unasked, *kept.tolist(), IGNORED])
        encoder = padded(encoder, texts.pad, self.context)
        decoder = texts.framed(chosen, self.begin, [], texts.pad)
        labels = texts.framed(chosen, unasked, [texts.sep], IGNORED)
        rows = dict(input_ids=encoder, attention_mask=encoder != texts.pad, decoder_input_ids=decoder)
        return rows | dict(labels=labels, survived=padded(survived, IGNORED, self.context))

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the original's tokens and its [SEP], in nats, and the metrics.

        Metrics: `loss`; `bits_per_byte` of the original; `copy_accuracy` and `rebuilt_accuracy`, the share of
        surviving and of lost tokens that have the highest logit (the decoder reads the true tokens before).
        """
        # The decoder needs no padding mask: padding comes after the text, and the causal mask hides it.
        given = batch["input_ids"], batch["attention_mask"], None, batch["decoder_input_ids"]
        hidden = model.hidden_states(*given)[-1]  # (B, T, D)
        total, right = vocabulary_loss(model, hidden, batch["labels"])  # sum of -log p in nats; (B, T)
        loss = total / batch["n_label"]
        return loss, {
            "loss": loss,
            "bits_per_byte": total / math.log(2) / batch["n_byte"],  # comparable between tokenizers
            "copy_accuracy": (right & (batch["survived"] == 1)).sum() / batch["n_kept"],
            "rebuilt_accuracy": (right & (batch["survived"] == 0)).sum() / batch["n_lost"],
        }


def rebuilt_examples(objective: Denoising, model, n: int = 3) -> list[str]:
    """Return lines that show n validation texts: noised, as rebuilt by the model alone, and the original."""
    tokenizer, texts = objective.tokenizer, objective.texts["validation"]
    rng = np.random.default_rng(objective.seed)
    rows = objective.rows(texts, rng.choice(len(texts), min(n, len(texts)), replace=False), rng)
    noised = [ids[ids != texts.pad].tolist() for ids in rows["input_ids"]]
    how = dict(temperature=0, eos_id=texts.sep, decoder_start_id=objective.begin)
    how["forbidden_ids"] = tokenizer.never_written(model.config.vocab_size, texts.sep)
    rebuilt = generate(model, noised, objective.context - 1, **how)
    mask, lines = tokenizer.decode([objective.mask]), []
    for three in zip(noised, rebuilt, rows["decoder_input_ids"], strict=True):
        for name, ids in zip(("noised:  ", "rebuilt: ", "original:"), three, strict=True):
            text = tokenizer.decode([i for i in ids if i not in (texts.cls, texts.sep, texts.pad)])
            lines.append(f"{name} {text.replace(mask, ' ____').strip()}".rstrip())
        lines.append("")
    return lines[:-1]
