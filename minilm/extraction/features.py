"""Regime 3, feature extraction: the hidden states of a trained model as vectors; its weights are frozen.

Layer 0 is the embeddings, layer n_layer the last block; of an encoder-decoder, the encoder is read. Pooling
(see `pool`) leaves out padding, but not special tokens, as the published sentence encoders do
(Reimers and Gurevych 2019). Source: Devlin et al. 2019, section 5.3 and table 7, the feature-based approach.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..model.config import ModelConfig
from ..model.generate import evaluation_mode
from ..model.pooling import last_token, token_mean
from ..plumbing.errors import UserError, suggest
from ..plumbing.script import with_bar
from ..tokenizer.rows import RaggedRows, text_rows
from ..training.machine import quick_products
from ..training.objective import autocast, to_device

ONE_LAYER = {  # pooling: states of one layer (B, T, D), real tokens (B, T) or None for all -> vectors (B, D)
    "cls": lambda x, real: x[:, 0],  # an encoder's [CLS] sees all; a decoder's first token itself
    # No single state has to hold a whole text: each describes the words around it, the mean what they share.
    "mean": token_mean,
    "max": lambda x, real: (x if real is None else x.masked_fill(~real[..., None], -torch.inf)).amax(1),
    "last": last_token,  # a decoder's last token is the only one that sees the whole text
}
LAST_4 = {  # the same of the states of the last four layers, or of all if a model has only three
    "mean-last-4": lambda states, real: token_mean(torch.stack(tuple(states)).mean(0), real),
    "concat-last-4": lambda states, real: torch.cat([token_mean(state, real) for state in states], dim=1),
}
POOLINGS = (*ONE_LAYER, *LAST_4)
Pooling = Literal[POOLINGS]
# Padding included. The hidden states of small batches fit into a CPU's caches: a quarter faster than 4,096.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}


class Reading(NamedTuple):
    """One way to read a vector out of a model."""

    layer: int  # 0 (embeddings) to n_layer; -1 for the poolings that read the last four
    pooling: str


def n_layer(config: ModelConfig) -> int:
    """Return the number of blocks of the stack that is read: the encoder, or without one the decoder."""
    return config.n_encoder_layer or config.n_decoder_layer


def reading(config: ModelConfig, layer: int = -1, pooling: str = "mean") -> Reading:
    """Return the reading, its layer counted from 0; UserError for a layer or pooling that does not exist."""
    if pooling not in POOLINGS:
        hint = suggest(pooling, POOLINGS)
        raise UserError(f"--pooling {pooling}: must be one of {', '.join(POOLINGS)}{hint}")
    if pooling in LAST_4 and layer != -1:
        raise UserError(f"--pooling {pooling} reads the last four layers: leave --layer out")
    n = n_layer(config)
    if not -n - 1 <= layer <= n:
        there = f"layers 0 (embeddings) to {n}, or -1 (the last) to {-n - 1}; all takes every layer"
        raise UserError(f"--layer {layer}: the model has {there}")
    return Reading(-1 if pooling in LAST_4 else layer % (n + 1), pooling)


def pool(states: Sequence[Tensor], real: Tensor | None, how: Reading) -> Tensor:
    """Return one vector per text (B, D) from n_layer + 1 hidden states (B, T, D) and the real tokens (B, T).

    `real` None: all are real. `concat-last-4` gives (B, 4 D), or (B, 3 D) for a model of two blocks (three
    states). Differs from the paper: table 7 takes the vector of each token, we take their mean.
    """
    # Padding does not count: the vector of a text does not depend on the length of the others in its batch.
    if how.pooling in LAST_4:
        return LAST_4[how.pooling](states[-4:], real)
    return ONE_LAYER[how.pooling](states[how.layer], real)


def checked_rows(tokenizer, config: ModelConfig, texts: Iterable[str]) -> RaggedRows:
    """Return the texts as rows, cut to `tokenizer.longest` or the positions; UserError for an empty text."""
    if tokenizer is None:
        raise UserError("the model has no tokenizer in its folder, and text cannot be read without one")
    if isinstance(texts, str):
        raise UserError(f"expected a list of texts, found a single text {texts[:40]!r}: put it into [ ]")
    for i, text in enumerate(texts := list(texts)):
        if not text.strip():
            raise UserError(f"text {i} (counted from 0) is empty: there is nothing to read a vector from")
    return text_rows(tokenizer, config, texts, longest=tokenizer.longest)


def cut_note(rows: RaggedRows) -> str:
    """Return a note that says how many texts were too long for the model."""
    return f"{rows.n_cut} of {len(rows)} texts are longer than {max(rows.lengths)} tokens and were cut"


def batches_of(lengths: Sequence[int], tokens_per_batch: int) -> list[np.ndarray]:
    """Return batches of row numbers: of at most so many tokens, padding included, or of one row."""
    # Rows of similar length need little padding; the longest come first, to show a lack of memory at once.
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        n_row = max(1, tokens_per_batch // max(1, lengths[order[start]]))
        batches.append(order[start : start + n_row])
        start += n_row
    return batches


def hidden_batches(model, rows: RaggedRows, tokens_per_batch=None, precision="fp32") -> Iterator[tuple]:
    """Yield (row numbers, n_layer + 1 hidden states (B, T, D), real tokens (B, T) or None if all are)."""
    device = model.tokens.weight.device
    tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cuda"])
    with evaluation_mode(model):  # with dropout the vectors would change each time
        for chosen in with_bar(batches_of(rows.lengths, tokens_per_batch), "reading"):
            batch = rows.batch(chosen.tolist())
            real = batch.pop("attention_mask").bool()  # (B, T)
            real = None if real.all() else real.to(device)
            # A decoder's real tokens cannot see the padding after them: without a mask it is faster.
            mask = None if model.config.kind == "decoder" else real
            with torch.inference_mode(), autocast(precision, device), quick_products(precision, device):
                states = model.hidden_states(**to_device(batch, device), attention_mask=mask)
            if not states[-1].isfinite().all():
                raise UserError("the model's states are NaN or infinite: its weights are damaged; get others")
            yield chosen, states, real


def extract(model, rows: RaggedRows, readings: Sequence[Reading], **how) -> list[np.ndarray]:
    """Return float32 vectors (n, D) for each reading, all in one pass; `how`: options of `hidden_batches`."""
    D, n_state = model.config.d_model, n_layer(model.config) + 1
    widths = [D * min(4, n_state) if one.pooling == "concat-last-4" else D for one in readings]
    found = [np.empty((len(rows), width), dtype=np.float32) for width in widths]
    for chosen, states, real in hidden_batches(model, rows, **how):
        for vectors, one in zip(found, readings, strict=True):
            vectors[chosen] = pool(states, real, one).float().cpu().numpy()  # (B, D)
    return found


def extract_tokens(model, rows: RaggedRows, layer: int, **how) -> list[np.ndarray]:
    """Return the float32 vectors of each row's tokens, special tokens included: n arrays (T, D)."""
    found = [np.empty(0)] * len(rows)
    for chosen, states, _ in hidden_batches(model, rows, **how):
        for i, vectors in zip(chosen, states[layer].float().cpu().numpy(), strict=True):  # (T, D) each
            found[i] = vectors[: rows.lengths[i]].copy()  # a view would keep the whole batch in memory
    return found


def embed(model, tokenizer, texts: Iterable[str], layer: int = -1, pooling: str = "mean") -> np.ndarray:
    """Return one float32 vector per text, (n, D) (`concat-last-4`: up to 4 D), in the order of the texts.

    A text that is too long is cut, with a warning. UserError for an unknown layer or pooling, an empty text.
    """
    rows, one = checked_rows(tokenizer, model.config, texts), reading(model.config, layer, pooling)
    if rows.n_cut:
        warnings.warn(cut_note(rows), stacklevel=2)
    return extract(model, rows, [one])[0]


def nearest(vectors: np.ndarray, query: np.ndarray, n: int = 5) -> list[tuple[int, float]]:
    """Return (row, cosine) of the n rows of `vectors` (N, D) nearest in angle to `query` (D,), best first."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    cosine = unit @ (query / max(1e-12, np.linalg.norm(query)))  # (N,)
    return [(int(i), float(cosine[i])) for i in np.argsort(-cosine, kind="stable")[:n]]
