"""BART's five noises: what the encoder reads instead of the text that the decoder rebuilds.

    the text        A b c. D e f g.
    masking         A _ c. D e f _       tokens become [MASK]
    deletion        A c. D f g.          tokens go, and nothing says where
    infilling       A b _ e f _ g.       spans of Poisson(3) tokens become one [MASK], spans of none too
    permutation     D e f g. A b c.      sentences change places
    rotation        e f g. A b c. D      the text begins anywhere

Source: Lewis et al. 2020, "BART", section 2.2; the share of 30 % and the mixture of infilling and permutation
are of section 5.1. The paper gives no share for masking and deletion; here it is the same.

A noise works on the *places* of the tokens, 0 ... n - 1 for a text of n tokens, and returns the places in
their new order, with `MASK` where a [MASK] is to stand. So the noised text is `ids[places]`, and a token has
survived if its place is still there. The functions work on ids too, as long as `MASK` is none of them. No
special token is among them: [CLS] and [SEP] are set around a text when its noise is done.

The noises stand here twice: for one text, to be read, and for all rows of a batch at once, to be used. Given
one row, the second draw the same numbers from the generator, and give the same result.
"""

import numpy as np

from ..plumbing.errors import UserError, suggest

NOISES = ("masking", "deletion", "infilling", "permutation", "rotation")
MASK = -1  # stands for [MASK] among the places
SHARE = 0.3  # of the tokens that masking, deletion and infilling take away
MEAN_SPAN = 3.0  # tokens in a span of infilling, on average


def noise_names(noise: str) -> tuple[str, ...]:
    """Return the names in a list such as "infilling,permutation", each once.

    Raises:
        UserError: for a name that is none of `NOISES`, or a list without a name.
    """
    names = [name.strip() for name in noise.split(",")]
    for name in names:
        if name not in NOISES:
            raise UserError(f"--noise {noise}: no noise called {name!r}{suggest(name, NOISES)}; {_CHOICES}")
    return tuple(dict.fromkeys(names))


_CHOICES = f"choose one or more of {', '.join(NOISES)}, with commas between"


def masking(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace each token by `MASK` with a chance of `SHARE`; (n,) -> (n,)."""
    return np.where(rng.random(len(tokens)) < SHARE, MASK, tokens)


def deletion(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take each token out with a chance of `SHARE`; (n,) -> (m,)."""
    return tokens[rng.random(len(tokens)) >= SHARE]


def infilling(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace spans, together `SHARE` of the tokens on average, by one `MASK` each; (n,) -> (m,).

    The number of spans is fixed first and their lengths are drawn after that: drawing until the share is
    reached would make the last one too long or too short. Only a span beyond the end of the text is cut.
    A span of no token inserts a `MASK`. Spans do not overlap, and touch where they fall on the same gap.
    """
    n = len(tokens)
    n_span = int(SHARE * n / MEAN_SPAN + rng.random())  # rounded at random, so that the mean is right
    lengths = rng.poisson(MEAN_SPAN, n_span)
    lengths = np.clip(n - (np.cumsum(lengths) - lengths), 0, lengths)  # no longer than what is left
    n_kept = n - lengths.sum()
    gaps = (np.sort(rng.random(n_span)) * (n_kept + 1)).astype(np.int64)  # kept tokens before each span
    pieces, end = [], 0
    for start, length in zip(gaps + np.cumsum(lengths) - lengths, lengths, strict=True):
        pieces += [tokens[end:start], [MASK]]
        end = start + length
    return np.concatenate([*pieces, tokens[end:]]).astype(tokens.dtype)


def permutation(tokens: np.ndarray, starts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put the sentences in a random order; (n,) -> (n,). `starts`: where each begins, 0 first."""
    sentences = np.split(tokens, starts[1:])
    return np.concatenate([sentences[i] for i in np.argsort(rng.random(len(starts)))] or [tokens])


def rotation(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let the text begin at a random token, and put what stood before that at the end; (n,) -> (n,)."""
    return np.roll(tokens, -int(rng.random() * len(tokens)))


def corrupt_rows(
    noises: tuple[str, ...], row: np.ndarray, sentence: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Apply noises to all rows of a batch, whose tokens stand one behind the other in one array.

    The order is the same however the noises are named: first those that move tokens, while it is known where
    sentences end, then those that take tokens away.

    Args:
        row: (n,) the row that each token is in, ascending.
        sentence: (n,) a number that changes where a new sentence begins.

    Returns:
        places (m,) and their rows (m,): which of the n tokens, or `MASK`, stand in the noised rows.
    """
    places = np.arange(len(row))
    if "permutation" in noises:
        places = permutation_rows(places, row, sentence, rng)
    if "rotation" in noises:
        places = rotation_rows(places, row, rng)
    if "masking" in noises:
        places = masking(places, rng)  # each token for itself: rows make no difference
    if "deletion" in noises:
        places, row = deletion_rows(places, row, rng)
    if "infilling" in noises:
        places, row = infilling_rows(places, row, rng)
    return places, row


def deletion_rows(
    tokens: np.ndarray, row: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`deletion` for tokens (n,) of many rows (n,); returns tokens and rows (m,)."""
    stays = rng.random(len(tokens)) >= SHARE
    return tokens[stays], row[stays]


def infilling_rows(
    tokens: np.ndarray, row: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`infilling` for tokens (n,) of many rows (n,); returns tokens and rows (m,)."""
    n = np.bincount(row)  # (B,) tokens of each row
    n_span = (SHARE * n / MEAN_SPAN + rng.random(len(n))).astype(np.int64)  # (B,)
    of = np.repeat(np.arange(len(n)), n_span)  # (P,) the row of each span
    lengths = rng.poisson(MEAN_SPAN, len(of))
    lengths = np.clip(n[of] - sum_before(lengths, of), 0, lengths)
    n_kept = n - np.bincount(of, lengths, len(n)).astype(np.int64)
    lot = rng.random(len(of))
    gaps = (lot[np.argsort(of + lot)] * (n_kept[of] + 1)).astype(np.int64)
    starts = (np.cumsum(n) - n)[of] + gaps + sum_before(lengths, of)  # where in `tokens` each span begins
    edges = np.zeros(len(row) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths, -1)
    stays = np.insert(np.cumsum(edges)[:-1] == 0, starts, True)
    return np.insert(tokens, starts, MASK)[stays], np.insert(row, starts, of)[stays]


def permutation_rows(
    tokens: np.ndarray, row: np.ndarray, sentence: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """`permutation` for tokens (n,) of many rows (n,); `sentence` (n,) changes where a new one begins."""
    begins = (np.diff(sentence, prepend=-1) != 0) | (np.diff(row, prepend=-1) != 0)
    lot = rng.random(begins.sum())[np.cumsum(begins) - 1]  # (n,) one for all tokens of a sentence
    return tokens[np.argsort(row + lot, kind="stable")]


def rotation_rows(tokens: np.ndarray, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`rotation` for tokens (n,) of many rows (n,)."""
    n = np.bincount(row)  # (B,) tokens of each row
    first = (np.cumsum(n) - n)[row]  # (n,) where the row of each token begins
    shift = (rng.random(len(n)) * n).astype(np.int64)  # (B,)
    return tokens[first + (np.arange(len(row)) - first + shift[row]) % n[row]]


def sum_before(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return for each value (n,) the sum of those before it in its row (n,)."""
    before = np.cumsum(values) - values
    return before - before[np.searchsorted(row, row)]
