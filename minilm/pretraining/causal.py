"""GPT: predict each token from the tokens before it.

    input_ids <|endoftext|>   Ana _sold     _a _melon    . _She   _was _happy
    labels              Ana _sold    _a _melon      . _She _was _happy      .

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1.
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..model.generate import generate
from ..plumbing.errors import UserError
from ..plumbing.stored import token_rows
from ..texts.corpus import Corpus
from ..tokenizer.base import Tokenizer
from ..training.objective import IGNORED, SPLITS, Objective, tensors
from ..training.vocabulary_loss import vocabulary_loss


class Causal(Objective):
    """Windows of one stream, <|endoftext|> document <|endoftext|> ...; attention crosses document borders."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, context: int, batch_size: int, seed: int = 0):
        super().__init__(tokenizer, context, batch_size, seed)
        self.corpus, self.end = corpus, tokenizer.special_id("<|endoftext|>")
        self.streams = {split: token_stream(tokenizer, getattr(corpus, split), self.end) for split in SPLITS}
        if (n := len(self.streams["train"])) <= context:
            raise UserError(f"{corpus.name}: {n} training tokens are too few for --context {context}")

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return input_ids and labels (B, T), each label the next token, and counts n_label, n_byte (0-d).

        A training window starts anywhere. Validation windows overlap by half: each token of the validation
        text is a label exactly once, and from the second window on at least T / 2 tokens stand before it.
        """
        stream, T = self.streams[split], self.context
        if split == "train":
            starts = self.generator(step, split).integers(0, len(stream) - T, self.batch_size)  # (B,)
            windows = stream[starts[:, None] + np.arange(T + 1)]  # (B, T + 1)
            inputs, labels = windows[:, :-1], windows[:, 1:]  # (B, T): a label is one token later
        else:
            inputs, labels = overlapping_windows(stream, T)  # (N, T)
        counted = labels[labels != IGNORED]
        counts = dict(n_label=max(1, len(counted)), n_byte=max(1, self.token_bytes[counted].sum()))
        return tensors(dict(input_ids=inputs, labels=labels) | counts)

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the labels in nats; metrics: `loss`, `bits_per_byte`, `accuracy`."""
        hidden = model.hidden_states(batch["input_ids"])[-1]  # (B, T, D)
        total, right = vocabulary_loss(model, hidden, batch["labels"])  # sum of -log p in nats; (B, T)
        loss = total / batch["n_label"]
        return loss, {
            "loss": loss,
            "bits_per_byte": total / math.log(2) / batch["n_byte"],  # comparable between tokenizers
            "accuracy": right.sum() / batch["n_label"],
        }

    def floor(self) -> dict[str, float]:
        """Return `loss` and `bits_per_byte` of the grammar that wrote the validation text; {} without one.

        No model can do better on average, since the text was drawn from that grammar.
        """
        if self.corpus.floor is None:
            return {}
        nats = -sum(self.corpus.floor(document) for document in self.corpus.validation)
        batch = self.batch(0, "validation")
        n_label, n_byte = float(batch["n_label"]), float(batch["n_byte"])
        return dict(loss=nats / n_label, bits_per_byte=nats / math.log(2) / n_byte)

    def sample(self, model, n_token: int = 100, prompt: str = "") -> str:
        """Return `prompt` with a continuation that is sampled from the model at temperature 0.8."""
        how = dict(temperature=0.8, eos_id=self.end, seed=self.seed)
        how["forbidden_ids"] = self.tokenizer.never_written(model.config.vocab_size, self.end)
        out = generate(model, [[self.end, *self.tokenizer.encode(prompt)]], n_token, **how)[0]
        return self.tokenizer.decode([i for i in out if i != self.end])


def token_stream(tokenizer: Tokenizer, documents: Sequence[str], end: int) -> np.ndarray:
    """Return the ids of all documents in one array (n,), `end` before each document and after the last."""
    return token_rows(documents, tokenizer, ended, end, first=("",))[0]  # an empty one first: `end` alone


def ended(tokenizer: Tokenizer, document: str, end: int) -> list[list[int]]:
    """Return the ids of a document and `end`, as one row."""
    return [[*tokenizer.encode(document, allow_special=False), end]]


def overlapping_windows(stream: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and labels (N, T) of windows that start every T / 2 tokens and label each token once.

    A label is the next token; it is `IGNORED` where an earlier window has it, or where the stream has ended.
    """
    stride, n_label = max(1, T // 2), len(stream) - 1
    starts = np.arange(0, max(1, n_label - T + stride), stride)  # (N,), each half a window later
    where = starts[:, None] + np.arange(T)  # (N, T) places in the stream
    inputs = stream[np.minimum(where, n_label)]
    labels = stream[np.minimum(where + 1, n_label)].copy()
    labels[where >= n_label] = IGNORED  # the text has ended
    labels[1:, : T - stride] = IGNORED  # context only: an earlier window has these labels
    return inputs, labels
