"""BART's five noises: what the encoder reads instead of the text that the decoder rebuilds.

    the text        A b c. D e f g.
    permutation     D e f g. A b c.      sentences change places
    rotation        e f g. A b c. D      the text begins anywhere
    masking         A _ c. D e f _       tokens become [MASK]
    deletion        A c. D f g.          tokens go, and nothing says where
    infilling       A b _ e f _ g.       spans of Poisson(3) tokens become one [MASK], spans of none too

Source: Lewis et al. 2020, "BART", section 2.2; the share of 30 % and the mixture of infilling and permutation
are of section 5.1. The paper gives no share for masking and deletion; here it is the same.

A noise works on the *places* of the tokens and returns places, with `MASK` where a [MASK] is to stand. So the
noised text is `ids[places]`, and a token has survived if its place is still there. No special token is among
them: [CLS] and [SEP] are set around a text when its noise is done.
"""

import numpy as np

from ..plumbing.errors import UserError, suggest

NOISES = ("masking", "deletion", "infilling", "permutation", "rotation")
MASK = -1  # stands for [MASK] among the places
SHARE = 0.3  # of the tokens that masking, deletion and infilling take away
MEAN_SPAN = 3.0  # tokens in a span of infilling, on average


def corrupt(sentences: list[np.ndarray], noises: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Return the places (m,) that are left of the places of each sentence, in their new order.

    The order of the noises is the same however they are named: first those that move tokens, while it is
    known where sentences end, then those that take tokens away.
    """
    places = permutation(sentences, rng) if "permutation" in noises else np.concatenate(sentences)
    for noise in (rotation, masking, deletion, infilling):
        if noise.__name__ in noises:
            places = noise(places, rng)
    return places


def permutation(sentences: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Put the sentences, an array each, in a random order, one behind the other (n,)."""
    return np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])


def rotation(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let the text begin at a random token, and put what stood before that at the end; (n,) -> (n,)."""
    first = int(rng.random() * len(tokens))
    return np.concatenate([tokens[first:], tokens[:first]])


def masking(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace each token by `MASK` with a chance of `SHARE`; (n,) -> (n,)."""
    return np.where(rng.random(len(tokens)) < SHARE, MASK, tokens)


def deletion(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take each token out with a chance of `SHARE`; (n,) -> (m,)."""
    return tokens[rng.random(len(tokens)) >= SHARE]


def infilling(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace spans, together `SHARE` of the tokens on average, by one `MASK` each; (n,) -> (m,).

    The number of spans is fixed first and their lengths are drawn after that: drawing until the share is
    reached would make the last one too long or too short. Spans do not overlap, and touch where they fall on
    the same gap between tokens that stay.
    """
    n_kept = len(tokens)
    n_span = int(SHARE * n_kept / MEAN_SPAN + rng.random())  # rounded at random, so that the mean is right
    lengths = []
    for length in rng.poisson(MEAN_SPAN, n_span).tolist():
        lengths.append(min(length, n_kept))  # no longer than what is left
        n_kept -= lengths[-1]
    gaps = sorted(rng.integers(0, n_kept + 1, n_span).tolist())  # kept tokens before each span
    out = tokens.tolist()
    for i, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        start = gap + i  # each span before this one is one MASK by now
        out[start : start + length] = [MASK]  # where the length is 0, this inserts
    return np.array(out, dtype=tokens.dtype)


def noise_names(noise: str) -> tuple[str, ...]:
    """Return the names in a list such as "infilling,permutation"; UserError for one not in `NOISES`."""
    names = tuple(name.strip() for name in noise.split(","))
    if wrong := [name for name in names if name not in NOISES]:
        raise UserError(f"--noise {wrong[0]}: expected {', '.join(NOISES)}{suggest(wrong[0], NOISES)}")
    return names
