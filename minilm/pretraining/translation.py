"""The Transformer of 2017: an encoder reads a text, a decoder writes its translation, learnt from pairs.

Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3 and 5. In training, the decoder reads the
correct words so far, not its own ("teacher forcing"); its causal mask hides the later ones.

    input_ids         [CLS] _Ana   _sold   _a _melon      . [SEP]      the encoder reads
    decoder_input_ids [CLS] _Ana _vendeu  _um _melão      .            the decoder reads
    labels             _Ana _vendeu  _um _melão    . [SEP]             and must predict
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
from ..tokenizer.rows import RaggedRows, batches_by_length
from ..training.objective import IGNORED, SPLITS, Objective, count_correct, notes_on_cuts, tensors


class Translation(Objective):
    """Pairs of texts, in training batches of similar length; UserError for a wrong `label_smoothing`."""

    def __init__(self, corpus: Pairs, tokenizer, context, batch_size, seed=0, label_smoothing=0.1):
        super().__init__(tokenizer, context, batch_size, seed)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"--label-smoothing {label_smoothing}: must be at least 0, below 1 (paper: 0.1)")
        self.corpus, self.label_smoothing = corpus, label_smoothing
        # [CLS] and [SEP] also serve as the begin and the end token of a text.
        self.begin, self.end, self.pad = map(tokenizer.special_id, ("[CLS]", "[SEP]", "[PAD]"))
        self.sources, self.decoder_inputs, self.labels, n_cut = {}, {}, {}, 0
        for split in SPLITS:
            sources, targets = map(self.encoded, zip(*getattr(corpus, split), strict=True))
            self.sources[split], n_cut = sources, n_cut + sources.n_cut + targets.n_cut
            self.decoder_inputs[split] = RaggedRows((row[:-1] for row in targets), self.pad)
            self.labels[split] = RaggedRows((row[1:] for row in targets), IGNORED)
        self.notes = notes_on_cuts(n_cut, "cut {:,} texts", context)
        self.n_bucket = max(1, len(corpus.train) // batch_size)  # batches per epoch
        self.buckets_of = lru_cache(1)(self.buckets_of)  # keeps the buckets of the current epoch

    def encoded(self, texts: Sequence[str]) -> RaggedRows:
        """Return each text as [CLS] text [SEP]; a text that is cut has no [SEP]: it did not end there.

        A text is encoded with a space before it, so that a word is the same token wherever it stands.
        """
        ids = (self.tokenizer.encode(" " + text, allow_special=False) for text in texts)
        return RaggedRows(([self.begin, *row, self.end] for row in ids), self.pad, longest=self.context)

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return a batch of pairs, padded to the longest, and the denominators n_label, n_byte (0-d).

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
        """Return the training pairs in buckets (n_bucket, B) of similar length, each pair at most once.

        Rows of similar length need little padding, which is computed for nothing (section 5.1). Differs from
        the paper: a batch has so many pairs, not so many tokens. Pairs that do not fill a bucket wait for
        another epoch; if there are fewer pairs than rows in a batch, they are repeated.
        """
        rng, n = self.generator(epoch, "train"), len(self.corpus.train)
        order = np.resize(rng.permutation(n), self.n_bucket * self.batch_size)
        longest = np.maximum(self.sources["train"].lengths, self.labels["train"].lengths)
        order = order[np.argsort(longest[order], kind="stable")]  # equal lengths in a new order each epoch
        return rng.permutation(order.reshape(self.n_bucket, self.batch_size))  # shuffles the buckets

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean smoothed loss over the labels, in nats, and the metrics.

        Metrics: `loss`, the same; `plain_loss`, without smoothing; `bits_per_byte` of the target; `accuracy`
        of the next token, given the correct tokens before it.
        """
        # The decoder needs no padding mask: padding comes after all labels, where the causal mask hides it.
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
        """Return a translation of each text: greedy, or with `n_beam` above 1 by beam search.

        Texts longer than the context are cut. Texts of similar length are translated together.
        """
        sources = self.encoded(texts)
        never = self.tokenizer.never_written(model.config.vocab_size, self.end)
        options = dict(temperature=0, n_beam=n_beam, eos_id=self.end, forbidden_ids=never)
        options |= dict(decoder_start_id=self.begin, pad_id=self.pad, overflow="stop")
        translations = [""] * len(texts)
        for chosen in with_bar(batches_by_length(sources.lengths, 4 * self.batch_size), "translations"):
            written = generate(model, [sources[i] for i in chosen], max_new_tokens=self.context, **options)
            for i, ids in zip(chosen, written, strict=True):
                translations[i] = self.tokenizer.decode([t for t in ids[1:] if t != self.end]).strip()
        return translations


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the smoothed and the plain cross-entropy, each summed over the labels, in nats.

    The smoothed target is (1 - smoothing) * one-hot(label) + smoothing / V for each of the V tokens (Szegedy
    et al. 2016, section 7; Vaswani et al. 2017, section 5.4): a model that is never rewarded for being
    certain can still change its mind. Logits are (..., V), labels (...); a label may be `IGNORED`.
    """
    log_probs = logits.float().log_softmax(-1)  # (..., V); bf16's two to three digits are too few
    counted = labels != IGNORED
    right = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (...), log p(label)
    plain = -(right * counted).sum()
    uniform = -(log_probs.mean(-1) * counted).sum()  # for a target of 1 / V each
    return (1 - smoothing) * plain + smoothing * uniform, plain  # the cross-entropy is linear in its target
