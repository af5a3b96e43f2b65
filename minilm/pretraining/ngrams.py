"""N-grams: the next token by counting what followed the last n - 1. Language models before networks.

    p(w | h) = (c(h w) + d(h) p(w | h')) / (c(h) + d(h))

c(h w): how often w came after the tokens h in training; c(h): how often anything did; d(h): how many
different tokens did. h' is h without its first token; below the 1-grams all tokens are alike. Where many
different tokens have followed, others still will: there the shorter context counts for more.

Source: Witten and Bell 1991, "The Zero-Frequency Problem", method C; interpolated as in Chen and Goodman
1998, section 2.5.
"""

import math

import numpy as np

MOST = 2_000_000  # tokens of training that are counted, the last ones: a second or two
MOST_SINGLE = 2**24  # for 1-grams alone, the first ones: of text beyond memory they tell


def ngram_losses(train: np.ndarray, labels: np.ndarray, V: int, longest: int = 5) -> list[float]:
    """Return the loss, in nats a label, of all V tokens alike and of the n-grams of 1 to `longest` tokens.

    The labels (L,) are the tokens that come after the training ids: each is predicted from those before it.
    """
    train = train[-MOST:]
    n, ids = len(train), np.concatenate([train, labels])  # (n + L,)
    h = np.zeros(len(ids), dtype=np.int64)  # (n + L,) number of each token's context, at first empty
    p, losses = np.full(len(labels), 1 / V), [math.log(V)]
    for _ in range(longest):
        grams, hw = np.unique(h * V + ids, return_inverse=True)  # (n + L,) number of context and token
        c_hw = np.bincount(hw[:n], minlength=len(grams))  # counted in training
        c_h = np.bincount(h[:n], minlength=h.max() + 1)
        d_h = np.bincount(grams[c_hw > 0] // V, minlength=len(c_h))  # a gram is h V + w, so // V is its h
        d = np.maximum(1, d_h)[h[n:]]  # (L,); an unseen context, 0 / 0, leaves p as it is
        p = (c_hw[hw[n:]] + d * p) / (c_h[h[n:]] + d)
        losses.append(float(-np.log(p).mean()))
        h = np.concatenate([[0], hw[:-1] + 1])  # the gram before a token is its longer context; 0: none
    return losses
