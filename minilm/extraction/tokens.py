"""One vector a token, for tagging: of every token of a text, or of every word of a tagged sentence.

A word of several tokens is read at its first one, as in BERT's tagging (Devlin et al. 2019, section 5.3).
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..tokenizer.rows import RaggedRows, framed, rows_of, word_ids
from .features import hidden_batches


def word_rows(tokenizer, config: ModelConfig, sentences: Sequence[Sequence[str]]) -> tuple:
    """Return sentences, given as words, as rows, and for each the columns of the first token of each word.

    A row too long for the model is cut; words beyond the cut have no column. UserError for a word that the
    tokenizer drops altogether.
    """
    room = config.max_positions - len(framed(tokenizer, config, [])[0])
    rows, columns, n_cut = [], [], 0
    for words in sentences:
        pieces = word_ids(tokenizer, config, words)
        if [] in pieces:
            word = words[pieces.index([])]
            raise UserError(f"the word {word!r} has no token in this vocabulary: take it out")
        ids = [token for piece in pieces for token in piece]
        starts = accumulate([1, *map(len, pieces[:-1])])  # 1: [CLS], or the decoder's END
        n_cut += len(ids) > room
        rows.append(framed(tokenizer, config, ids[:room]))
        columns.append([start for start in starts if start <= room])
    return rows_of(tokenizer, config, rows, n_cut), columns


def extract_tokens(model, rows: RaggedRows, layer: int, **how) -> list[np.ndarray]:
    """Return the float32 vectors of each row's tokens, special ones included: n arrays (T, D).

    `layer` is 0 to n_layer or negative; `how`: the options of `hidden_batches`.
    """
    found = [np.empty(0)] * len(rows)
    for chosen, states, _ in hidden_batches(model, rows, **how):
        hidden = states[layer].float().cpu().numpy()  # (B, T, D)
        for i, vectors in zip(chosen, hidden, strict=True):
            found[i] = vectors[: rows.lengths[i]].copy()  # a view would keep the whole batch in memory
    return found
