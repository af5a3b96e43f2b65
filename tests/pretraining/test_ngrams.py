"""Grades pretraining/ngrams.py: n-grams against dictionaries of counts, and their place beside the model."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from minilm.pretraining import ngrams
from minilm.pretraining.ngrams import ngram_losses


def counted_losses(train: list[int], labels: list[int], V: int, longest: int) -> list[float]:
    """The same from the formula, a token at a time: after each context, a Counter of what followed."""
    followers = defaultdict(Counter)
    for t, token in enumerate(train):
        for n in range(min(longest, t + 1)):
            followers[tuple(train[t - n : t])][token] += 1

    def p(token: int, h: tuple) -> float:
        shorter = p(token, h[1:]) if h else 1 / V
        found = followers[h]
        if not found:
            return shorter
        return (found[token] + len(found) * shorter) / (found.total() + len(found))

    text, losses = train + labels, [math.log(V)]
    for n in range(longest):
        nats = [-math.log(p(text[t], tuple(text[max(0, t - n) : t]))) for t in range(len(train), len(text))]
        losses.append(sum(nats) / len(nats))
    return losses


def drawn(n: int, V: int, seed: int) -> np.ndarray:
    """Tokens that mostly go on counting, so that contexts of each length are met again, and some are not."""
    rng, ids = np.random.default_rng(seed), [0]
    while len(ids) < n:
        ids.append(int(rng.integers(V)) if rng.random() < 0.2 else (ids[-1] + 1) % V)
    return np.array(ids)


@pytest.mark.parametrize("n_train, longest", [(200, 5), (37, 3), (4, 6)])
def test_ngrams_equal_counters(n_train, longest):
    train, labels = drawn(n_train, 9, 0), drawn(50, 11, 1)  # 9 and 10 never occur in training
    found = ngram_losses(train, labels, 11, longest)
    expected = counted_losses(train.tolist(), labels.tolist(), 11, longest)
    assert len(found) == longest + 1, "V equally likely tokens, then n-grams for n = 1 to `longest`"
    for n, (ours, right) in enumerate(zip(found, expected, strict=True)):
        told = f"{n}-grams: {ours:.4f}, not {right:.4f}. c and d count training alone; d: different tokens"
        assert ours == pytest.approx(right, rel=1e-9), f"{told} after h; after an unseen h, p(w | h') stays"


def test_the_probabilities_of_all_tokens_add_up_to_1():
    train, V = drawn(80, 7, 2), 8
    for context in ([], [3, 4], [7, 7]):  # the last was never seen
        last = [ngram_losses(np.append(train, context).astype(int), np.array([w]), V, 3) for w in range(V)]
        assert np.exp(-np.array(last)).sum(0) == pytest.approx(1.0), f"after {context}, for each n"


def test_of_a_long_text_the_last_tokens_are_counted(monkeypatch):
    train, labels = drawn(300, 9, 3), drawn(40, 9, 4)
    expected = ngram_losses(train[-100:], labels, 9)
    assert ngram_losses(train, labels, 9) != expected
    monkeypatch.setattr(ngrams, "MOST", 100)
    assert ngram_losses(train, labels, 9) == expected


def test_the_longest_are_5_grams_of_2_million_tokens():
    assert len(ngram_losses(drawn(90, 9, 0), drawn(9, 9, 1), 9)) == 1 + 5 and ngrams.MOST == 2_000_000
