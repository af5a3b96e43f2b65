"""The Transformer of 2017: an encoder reads a text, a decoder writes its translation, learnt from pairs.

Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3 and 5. While it learns, the decoder reads
the right words so far, not its own ("teacher forcing"); its causal mask hides those to come.

    input_ids          _Ana   _sold      _a _melon      . [SEP]      the encoder reads
    decoder_input_ids [CLS]    _Ana _vendeu    _um _melão     .      the decoder reads
    labels             _Ana _vendeu     _um _melão      . [SEP]      and must say
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from torch import Tensor

from ..model.generate import generate
from ..plumbing.errors import UserError
from ..plumbing.script import with_bar
from ..texts.pairs import Pairs
from ..tokenizer.rows import RaggedRows, alike
from ..training.objective import IGNORED, SPLITS, Objective, count_correct, notes_on_cuts, tensors


class Translation(Objective):
    """Rows are pairs, in training batches of similar length; UserError for a wrong `label_smoothing`."""

    def __init__(self, corpus: Pairs, tokenizer, context, batch_size, seed=0, label_smoothing=0.1):
        super().__init__(tokenizer, context, batch_size, seed)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"--label-smoothing {label_smoothing}: must be from 0 to below 1 (paper: 0.1)")
        self.corpus, self.label_smoothing = corpus, label_smoothing
        # [CLS] and [SEP] are this project's one pair of tokens for begin and end.
        self.begin, self.end, self.pad = map(tokenizer.special_id, ("[CLS]", "[SEP]", "[PAD]"))
        self.sources, self.decoder_inputs, self.labels = {}, {}, {}
        for split in SPLITS:
            pairs = getattr(corpus, split)
            self.sources[split] = self.encoded([source for source, _ in pairs], self.pad)
            labels = self.labels[split] = self.encoded([target for _, target in pairs], IGNORED)
            self.decoder_inputs[split] = RaggedRows(([self.begin, *row[:-1]] for row in labels), self.pad)
        n_cut = sum(rows.n_cut for side in (self.sources, self.labels) for rows in side.values())
        self.notes = notes_on_cuts(n_cut, "cut {:,} texts", context)
        self.n_bucket = max(1, len(corpus.train) // batch_size)  # batches an epoch
        self.buckets_of = lru_cache(1)(self.buckets_of)  # an epoch's are kept until the next one begins

    def encoded(self, texts: Sequence[str], pad_id: int) -> RaggedRows:
        """Return each text as ids with [SEP] at its end; one that is cut has none: it did not end there.

        A text is encoded with a space before it, so that a word is the same token wherever it stands.
        """
        ids = ([*self.tokenizer.encode(" " + text, allow_special=False), self.end] for text in texts)
        return RaggedRows(ids, pad_id, longest=self.context)

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return pairs padded to the longest of them, and the denominators n_label, n_byte (0-d).

        input_ids, attention_mask (B, S) are the encoder's; decoder_input_ids, labels (B, T) the decoder's.
        """
        epoch, turn = divmod(step, self.n_bucket)
        chosen = self.buckets_of(epoch)[turn] if split == "train" else np.arange(len(self.corpus.validation))
        sources, real = self.sources[split].padded(chosen)  # (B, S)
        decoder_inputs, _ = self.decoder_inputs[split].padded(chosen)  # (B, T)
        labels, counted = self.labels[split].padded(chosen)
        rows = dict(input_ids=sources, attention_mask=real, decoder_input_ids=decoder_inputs, labels=labels)
        n_byte = self.token_bytes[labels[counted]].sum()  # of the targets and the space before each, in UTF-8
        return tensors(rows | dict(n_label=counted.sum(), n_byte=max(1, n_byte)))

    def buckets_of(self, epoch: int) -> np.ndarray:
        """Return the training pairs in buckets (n_bucket, B) of similar length, each pair once at most.

        Padding is computed for nothing, and there is little of it among rows of one length (section 5.1).
        Differs from the paper: a batch is so many pairs, not so many tokens. A remainder too small for a
        bucket waits for another epoch; fewer pairs than rows are repeated.
        """
        rng, n = self.generator(epoch, "train"), len(self.corpus.train)
        order = np.resize(rng.permutation(n), self.n_bucket * self.batch_size)
        longest = np.maximum(self.sources["train"].lengths, self.labels["train"].lengths)
        order = order[np.argsort(longest[order], kind="stable")]  # equal lengths in a new order each epoch
        return rng.permutation(order.reshape(self.n_bucket, self.batch_size))  # shuffles the buckets

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the smoothed loss, a mean over the labels in nats.

        Metrics: `loss`, the same; `plain_loss`, without smoothing; `bits_per_byte` of the target and
        `accuracy`, a token at a time, the right ones before it given.
        """
        # The decoder needs no padding mask: padding stands after all labels, where the causal mask hides it.
        given = batch["input_ids"], batch["attention_mask"], None, batch["decoder_input_ids"]
        logits = model.vocabulary_logits(model.hidden_states(*given)[-1])  # (B, T, D) -> (B, T, V)
        smoothed, plain = smoothed_cross_entropy(logits, batch["labels"], self.label_smoothing)
        loss = smoothed / batch["n_label"]
        return loss, {
            "loss": loss,
            "plain_loss": plain / batch["n_label"],
            "bits_per_byte": plain / math.log(2) / batch["n_byte"],
            "accuracy": count_correct(logits, batch["labels"]) / batch["n_label"],
        }

    def translate(self, model, texts: Sequence[str], n_beam: int = 1) -> list[str]:
        """Return a translation of each text: the likeliest token each time, or a beam search.

        Texts beyond the context are cut. Texts of similar length are written together.
        """
        sources = self.encoded(texts, self.pad)
        never = self.tokenizer.never_written(model.config.vocab_size, self.end)
        options = dict(temperature=0, n_beam=n_beam, eos_id=self.end, forbidden_ids=never)
        options |= dict(decoder_start_id=self.begin, pad_id=self.pad, overflow="stop")
        translations = [""] * len(texts)
        for chosen in with_bar(alike(sources.lengths, 4 * self.batch_size), "translations"):
            written = generate(model, [sources[i] for i in chosen], max_new_tokens=self.context, **options)
            for i, ids in zip(chosen, written, strict=True):
                translations[i] = self.tokenizer.decode([t for t in ids[1:] if t != self.end]).strip()
        return translations


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return two sums in nats over the labels: the smoothed cross-entropy, and the plain one.

    The target is no longer the right token alone, but 1 - smoothing of it and smoothing of the uniform
    distribution over all V tokens (Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4): a model
    that is never rewarded for being certain stays able to change its mind. Labels (...) may be `IGNORED`.
    """
    log_probs = logits.float().log_softmax(-1)  # (..., V); bf16's two to three digits are too few
    counted = labels != IGNORED
    right = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (...), of the labels
    plain = -(right * counted).sum()
    uniform = -(log_probs.mean(-1) * counted).sum()  # against 1 / V for each token
    return (1 - smoothing) * plain + smoothing * uniform, plain  # the cross-entropy is linear in its target
