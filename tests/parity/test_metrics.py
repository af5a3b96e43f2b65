"""The same figures as scikit-learn and SciPy, where installed."""

import random

import pytest

from minilm.training.metrics import accuracy, macro_f1, matthews, pearson, ranks, spearman


def random_classes(seed, n, n_class):
    rng = random.Random(seed)
    truth = [rng.randrange(n_class) for _ in range(n)]
    return truth, [t if rng.random() < 0.5 else rng.randrange(n_class) for t in truth]


@pytest.mark.parametrize("n, n_class", [(1, 3), (7, 9), (60, 2), (200, 6)])
def test_classification_equals_sklearn(n, n_class):
    theirs = pytest.importorskip("sklearn.metrics")
    for seed in range(20):
        truth, guess = random_classes(seed, n, n_class)
        assert accuracy(truth, guess) == pytest.approx(theirs.accuracy_score(truth, guess))
        assert matthews(truth, guess) == pytest.approx(theirs.matthews_corrcoef(truth, guess), abs=1e-12)
        expected = theirs.f1_score(truth, guess, average="macro", zero_division=0)
        assert macro_f1(truth, guess) == pytest.approx(expected)
        expected = theirs.f1_score(truth, guess, labels=[*{*truth}], average="macro", zero_division=0)
        assert macro_f1(truth, guess, {*truth}) == pytest.approx(expected), "of these labels alone"


@pytest.mark.parametrize("n, n_value", [(2, 100), (9, 4), (300, 6), (300, 10**6)])
def test_correlations_equal_scipy(n, n_value):
    stats = pytest.importorskip("scipy.stats")
    for seed in range(20):
        rng = random.Random(seed)
        x = [rng.randrange(n_value) / 7 for _ in range(n)]
        y = [a + rng.randrange(n_value) for a in x]
        assert ranks(x).tolist() == stats.rankdata(x).tolist()
        if len(set(x)) > 1 and len(set(y)) > 1:
            assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0])
            assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
