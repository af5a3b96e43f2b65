"""BART's five noises: how the text is damaged that the encoder reads and the decoder rebuilds.

    the text        A b c. D e f g.
    permutation     D e f g. A b c.      sentences change places
    rotation        e f g. A b c. D      the text begins at a random token
    masking         A _ c. D e f _       tokens become [MASK]
    deletion        A c. D f g.          tokens are removed, and nothing shows where
    infilling       A b _ e f _ g.       each span of Poisson(3) tokens becomes one [MASK], an empty span too

Source: Lewis et al. 2020, "BART", section 2.2; the share of 30 % and the mixture of infilling and permutation
are from section 5.1. The paper gives no share for masking and deletion; here it is the same.

A noise takes the *places* (indices) of the tokens and returns places, with `MASK` where a [MASK] belongs. So
the noised text is `ids[places]`, and a token has survived if its place is still there. Noise never touches
special tokens: [CLS] and [SEP] are added afterwards.
"""

import numpy as np

from ..plumbing.errors import UserError, suggest

NOISES = ("masking", "deletion", "infilling", "permutation", "rotation")
MASK = -1  # stands for [MASK] among the places
SHARE = 0.3  # share of the tokens that masking, deletion and infilling remove
MEAN_SPAN = 3.0  # tokens in a span of infilling, on average


def corrupt(sentences: list[np.ndarray], noises: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Apply the named noises to a text, given as the places of each sentence; return its new places (m,).

    The order of the noises is fixed, however they are listed: first those that move tokens, while it is
    known where sentences end, then those that remove tokens.
    """
    places = permutation(sentences, rng) if "permutation" in noises else np.concatenate(sentences)
    for noise in (rotation, masking, deletion, infilling):
        if noise.__name__ in noises:
            places = noise(places, rng)
    return places


def permutation(sentences: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return the sentences (one array each) in a random order, joined into one array (n,)."""
    return np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])


def rotation(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let the text begin at a random token, and move the tokens before it to the end; (n,) -> (n,)."""
    return np.roll(tokens, -int(rng.random() * len(tokens)))


def masking(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace each token by `MASK` with probability `SHARE`; (n,) -> (n,)."""
    return np.where(rng.random(len(tokens)) < SHARE, MASK, tokens)


def deletion(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Remove each token with probability `SHARE`; (n,) -> (m,)."""
    return tokens[rng.random(len(tokens)) >= SHARE]


def infilling(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace random spans, `SHARE` of the tokens on average, by one `MASK` each; (n,) -> (m,).

    First the number of spans is fixed, rounded at random; then their lengths are drawn (Poisson with mean
    `MEAN_SPAN`): drawing until the share is reached would make the last one too long or too short. Each span
    gets a random gap between the tokens that stay: spans do not overlap, but touch if they get the same gap.
    """
    n_kept = len(tokens)
    n_span = int(SHARE * n_kept / MEAN_SPAN + rng.random())  # rounded at random, so that the mean is right
    lengths = []
    for length in rng.poisson(MEAN_SPAN, n_span).tolist():
        lengths.append(min(length, n_kept))  # no longer than what is left
        n_kept -= lengths[-1]
    gaps = sorted(rng.integers(0, n_kept + 1, n_span).tolist())  # number of kept tokens before each span
    out = tokens.tolist()
    for i, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        start = gap + i  # each span before this one is one MASK by now
        out[start : start + length] = [MASK]  # a length of 0 inserts
    return np.array(out, dtype=tokens.dtype)


def noise_names(noise: str) -> tuple[str, ...]:
    """Return the names in a list such as "infilling,permutation"; UserError for one not in `NOISES`."""
    names = tuple(name.strip() for name in noise.split(","))
    if wrong := [name for name in names if name not in NOISES]:
        raise UserError(f"--noise {wrong[0]}: expected {', '.join(NOISES)}{suggest(wrong[0], NOISES)}")
    return names
