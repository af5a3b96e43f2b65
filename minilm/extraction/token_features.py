"""One vector a token, for tagging: of every token of a text, or of every word of a CoNLL file.

A word of several tokens is read at its first one, as in BERT's tagging (Devlin et al. 2019, section 5.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from .. import world
from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..texts.tables import read_conll
from ..tokenizer.rows import RaggedRows, framed, rows_of, word_ids
from .feature_files import read_examples
from .features import checked_rows, hidden_batches, tell_cut

WORLD_SENTENCES = 384


@dataclass
class Tokens:
    """Rows, and what is wanted of row i: its columns `columns[i]`, called `names[i]`, tagged `tags[i]`."""

    rows: RaggedRows
    columns: list[list[int]]
    names: list[list[str]]
    tags: list[list[str]] | None


def read_tokens(data: str, tokenizer, config: ModelConfig, seed: int) -> Tokens:
    """Return the words of a .conll file or of the world's tagged stories; of other files all tokens."""
    if data != "world" and not data.lower().endswith(".conll"):
        rows = checked_rows(tokenizer, config, read_examples(data).texts)
        names = [[tokenizer.decode([i]) for i in ids] for ids in rows]
        return Tokens(rows, [list(range(n)) for n in rows.lengths], names, None)
    sentences = world.tagging(WORLD_SENTENCES, seed) if data == "world" else read_conll(data)[0]
    rows, columns = word_rows(tokenizer, config, [words for words, _ in sentences])
    tell_cut(rows, config)
    kept = [len(found) for found in columns]
    words, tags = (
        [side[:n] for side, n in zip(sides, kept, strict=True)] for sides in zip(*sentences, strict=True)
    )
    return Tokens(rows, columns, words, tags)


def word_rows(
    tokenizer, config: ModelConfig, sentences: Sequence[Sequence[str]]
) -> tuple[RaggedRows, list[list[int]]]:
    """Return sentences, given as words, as rows, and for each the column of the first token of each word.

    A row too long for the model is cut; words beyond the cut have no column.

    Raises:
        UserError: for a word that the tokenizer drops altogether.
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


def token_columns(model, tokens: Tokens, layer: int, **how) -> dict:
    """Return the columns of the .npz, one entry a token: `embeddings` (N, D), `tokens`, `text_of`, `labels`.

    `text_of` is the number of the text that a token belongs to, from 0.
    """
    states = extract_tokens(model, tokens.rows, layer, **how)
    vectors = [hidden[columns] for hidden, columns in zip(states, tokens.columns, strict=True)]
    flat = dict(embeddings=np.concatenate(vectors), tokens=[name for names in tokens.names for name in names])
    flat["text_of"] = np.repeat(np.arange(len(vectors)), [len(part) for part in vectors])
    flat["labels"] = None if tokens.tags is None else [tag for tags in tokens.tags for tag in tags]
    return flat
