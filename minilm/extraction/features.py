"""Regime 3, feature extraction: the hidden states of a trained model as vectors, its weights untouched.

    embed(model, tokenizer, texts)      -> (n, D), one vector a text

Which layer: 0 are the embeddings, n_layer is the last block, negative numbers count from the end. Which
states: a decoder's, an encoder's, of an encoder-decoder those of the encoder. Which tokens: see `Pooling`. No
pooling counts padding. All count the special tokens, [CLS] and [SEP] or <|endoftext|>: so do the published
sentence encoders, whose attention mask is 1 there (Reimers and Gurevych 2019, mean pooling).

Source: Devlin et al. 2019, section 5.3 and table 7, the feature-based approach with BERT.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..model.config import ModelConfig
from ..model.pooling import last_token, token_mean
from ..plumbing.devices import autocast
from ..plumbing.errors import UserError, suggest
from ..tokenizer.rows import RaggedRows, text_rows
from ..training.objective import to_device

# cls: the first token; last: the last one; mean, max: over all tokens, number by number.
# mean-last-4: the mean over all tokens of the mean of the last four hidden states (B, T, D).
# concat-last-4: the means over all tokens of the last four, side by side: 4 D numbers a text.
# The last four of a model with two blocks are the three there are. Differs from the paper: table 7 takes the
# vector of each token, we take their mean.
Pooling = Literal["cls", "mean", "max", "last", "mean-last-4", "concat-last-4"]
POOLINGS: tuple[str, ...] = Pooling.__args__
# Padding included. The hidden states of a small batch stay in a CPU's caches: a quarter faster than 4,096.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}
LAST_4 = ("mean-last-4", "concat-last-4")


class Reading(NamedTuple):
    """One way to read a vector out of a model."""

    layer: int  # 0 (embeddings) to n_layer; -1 for the poolings that read the last four
    pooling: str


def n_layer(config: ModelConfig) -> int:
    """Return the number of blocks of the stack that is read: the encoder's where there is one."""
    return config.n_encoder_layer or config.n_decoder_layer


def reading(config: ModelConfig, layer: int = -1, pooling: str = "mean") -> Reading:
    """Return the reading with its layer counted from 0.

    Raises:
        UserError: for a pooling that does not exist, a layer that the model does not have, and a layer beside
            a pooling that reads the last four.
    """
    if pooling not in POOLINGS:
        raise UserError(
            f"--pooling {pooling}: must be one of {', '.join(POOLINGS)}{suggest(pooling, POOLINGS)}"
        )
    if pooling in LAST_4:
        if layer != -1:
            raise UserError(f"--layer {layer}: --pooling {pooling} reads the last four; leave --layer out")
        return Reading(-1, pooling)
    n = n_layer(config)
    if not -n - 1 <= layer <= n:
        raise UserError(
            f"--layer {layer}: the model has 0 (embeddings) to {n}, or -1 (the last) to {-n - 1}; "
            "all is every one of them"
        )
    return Reading(layer % (n + 1), pooling)


def all_readings(config: ModelConfig) -> list[Reading]:
    """Return every layer with every pooling of one layer, then the poolings of the last four."""
    one_layer = [pooling for pooling in POOLINGS if pooling not in LAST_4]
    table = [Reading(layer, pooling) for layer in range(n_layer(config) + 1) for pooling in one_layer]
    return table + [Reading(-1, pooling) for pooling in LAST_4]


def pool(states: Sequence[Tensor], real: Tensor | None, how: Reading) -> Tensor:
    """Hidden states, n_layer + 1 of (B, T, D), and which tokens are real, (B, T) -> vectors (B, D).

    `real` none: all are. `concat-last-4` gives (B, 4 D).
    """
    if how.pooling == "concat-last-4":
        return torch.cat([token_mean(state, real) for state in states[-4:]], dim=1)
    if how.pooling == "mean-last-4":
        return token_mean(torch.stack(tuple(states[-4:])).mean(0), real)
    hidden = states[how.layer]  # (B, T, D)
    if how.pooling == "cls":
        return hidden[:, 0]
    if how.pooling == "mean":
        return token_mean(hidden, real)
    if how.pooling == "max":
        return (hidden if real is None else hidden.masked_fill(~real[..., None], -torch.inf)).amax(1)
    return last_token(hidden, real)


def checked_rows(tokenizer, config: ModelConfig, texts: Sequence[str]) -> RaggedRows:
    """Return the texts as rows (`tokenizer/rows.py`), and say how many were cut to the model's positions.

    Raises:
        UserError: without a tokenizer, and for an empty text.
    """
    if tokenizer is None:
        raise UserError("the model has no tokenizer: its folder holds none, and text cannot be read without")
    if isinstance(texts, str):
        raise UserError(f"one text {texts[:40]!r} where a list of texts is expected: put it into [ ]")
    for i, text in enumerate(texts):
        if not text.strip():
            raise UserError(f"text {i} (counted from 0) is empty: there is nothing to read a vector from")
    return tell_cut(text_rows(tokenizer, config, texts), config)


def tell_cut(rows: RaggedRows, config: ModelConfig) -> RaggedRows:
    """Return the rows, having said how many of their texts did not fit into the model's positions."""
    if rows.n_cut:
        longest = config.max_positions
        print(f"{rows.n_cut} of {len(rows)} texts are longer than {longest} tokens: cut.", file=sys.stderr)
    return rows


def batches_of(lengths: Sequence[int], tokens_per_batch: int) -> list[np.ndarray]:
    """Return the rows as batches, the longest first, of at most so many tokens with padding (or one row).

    Rows of like length come together, so little is padding; the longest first, so that what does not fit into
    the memory fails at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        n_row = max(1, tokens_per_batch // max(1, lengths[order[start]]))
        batches.append(order[start : start + n_row])
        start += n_row
    return batches


def hidden_batches(
    model,
    rows: RaggedRows,
    tokens_per_batch: int | None = None,
    precision: str = "fp32",
    progress: bool = False,
) -> Iterator[tuple[np.ndarray, tuple[Tensor, ...], Tensor | None]]:
    """Yield (rows of the batch, hidden states n_layer + 1 of (B, T, D), real tokens (B, T) or none).

    None where no token is padding. `tokens_per_batch` none: `TOKENS_PER_BATCH` of the device. The model is in
    evaluation mode meanwhile, and no gradient is kept.
    """
    device = model.tokens.weight.device
    tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cuda"])
    trains = model.training
    model.eval()
    hidden = None if progress else True  # none: shown at a terminal only
    try:
        with tqdm(total=len(rows), desc="reading", unit="text", ncols=100, disable=hidden) as bar:
            for chosen in batches_of(rows.lengths, tokens_per_batch):
                batch = rows.batch(chosen.tolist())
                mask = batch.pop("attention_mask")
                padded = bool((mask == 0).any())
                batch, mask = to_device(batch, device), mask.to(device) if padded else None
                # A decoder's real tokens see nothing of what is padded behind them: no mask, a faster path.
                given = None if model.config.kind == "decoder" else mask
                with torch.inference_mode(), autocast(precision, device):
                    states = model.hidden_states(**batch, attention_mask=given)
                yield chosen, states, None if mask is None else mask.bool()
                bar.update(len(chosen))
    finally:
        model.train(trains)


def extract(model, rows: RaggedRows, readings: Sequence[Reading], **how) -> list[np.ndarray]:
    """Return for each reading float32 vectors (n, D), row i that of `rows[i]`, in one pass.

    `how`: the options of `hidden_batches`.
    """
    found: list[np.ndarray | None] = [None] * len(readings)
    for chosen, states, real in hidden_batches(model, rows, **how):
        for k, one in enumerate(readings):
            vectors = pool(states, real, one).float().cpu().numpy()  # (B, D)
            if found[k] is None:
                found[k] = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
            found[k][chosen] = vectors
    width = model.config.d_model
    return [np.empty((0, width), dtype=np.float32) if vectors is None else vectors for vectors in found]


def embed(model, tokenizer, texts: Sequence[str], layer: int = -1, pooling: str = "mean") -> np.ndarray:
    """Return one float32 vector a text, (n, D) (4 D with `concat-last-4`), in the order of the texts.

    A text longer than the model's positions is cut at its end; how many are is said on standard error.

    Raises:
        UserError: for an unknown pooling, a layer that is not there, an empty text, and without tokenizer.
    """
    one = reading(model.config, layer, pooling)
    return extract(model, checked_rows(tokenizer, model.config, texts), [one])[0]


def nearest(vectors: np.ndarray, query: np.ndarray, n: int = 5) -> list[tuple[int, float]]:
    """Return (row, cosine) of the n rows of `vectors` (N, D) nearest in angle to `query` (D,), best first."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    cosine = unit @ (query / max(1e-12, np.linalg.norm(query)))  # (N,)
    best = np.argsort(-cosine, kind="stable")[:n]
    return [(int(i), float(cosine[i])) for i in best]
