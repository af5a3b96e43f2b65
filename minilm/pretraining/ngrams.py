"""N-grams, the language models before neural networks: count which token followed the last n - 1 tokens.

    p(w | h) = (c(h w) + d(h) p(w | h')) / (c(h) + d(h))

c(h w): how often w followed the tokens h in training; c(h): how often any token did; d(h): how many different
tokens did. h' is h without its first token; below the 1-grams all tokens are equally likely. If many
different tokens have followed h, a new one is likely to follow too: then the shorter context counts for more.

Source: Witten and Bell 1991, "The Zero-Frequency Problem", method C; Chen and Goodman 1998, section 2.5.
"""

import math

import numpy as np

MOST = 2_000_000  # how many training tokens are counted, the last ones: this takes a second or two
MOST_SINGLE = 2**24  # the same for 1-grams alone, but the first ones: enough for text larger than the memory


def ngram_losses(train: np.ndarray, labels: np.ndarray, V: int, longest: int = 5) -> list[float]:
    """Return losses, in nats per label: of V equally likely tokens, then of n-grams for n = 1 to `longest`.

    The labels (L,) follow the training ids `train` (n,): each is predicted from the tokens before it.
    """
    train = train[-MOST:]
    n, ids = len(train), np.concatenate([train, labels])  # (n + L,)
    h = np.zeros(len(ids), dtype=np.int64)  # (n + L,) number of each token's context, first the empty one
    p, losses = np.full(len(labels), 1 / V), [math.log(V)]
    for _ in range(longest):
        grams, hw = np.unique(h * V + ids, return_inverse=True)  # hw (n + L,): number of context + token
        c_hw = np.bincount(hw[:n], minlength=len(grams))  # counted in training
        c_h = np.bincount(h[:n], minlength=h.max() + 1)
        d_h = np.bincount(grams[c_hw > 0] // V, minlength=len(c_h))  # a gram is h V + w, so // V is its h
        d = np.maximum(1, d_h)[h[n:]]  # (L,); 1 for an unseen context: it leaves p as it is
        p = (c_hw[hw[n:]] + d * p) / (c_h[h[n:]] + d)
        losses.append(float(-np.log(p).mean()))
        h = np.concatenate([[0], hw[:-1] + 1])  # the gram before a token is its longer context (0: no gram)
    return losses
