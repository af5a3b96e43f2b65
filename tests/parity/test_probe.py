"""The probe finds the weights that scikit-learn's LogisticRegression finds."""

import numpy as np
import pytest
import torch

from minilm.extraction.probe import fit

linear_model = pytest.importorskip("sklearn.linear_model")


@pytest.mark.parametrize("C", [2, 4])
@pytest.mark.parametrize("l2", [1e-3, 0.1, 2.0])
def test_the_same_minimum_as_scikit_learn(l2, C):
    rng = np.random.default_rng(0)
    N, D = 60, 7
    y = np.arange(N) % C
    x = rng.normal(size=(C, D))[y] + rng.normal(size=(N, D))
    strength = (2 if C == 2 else 1) / (l2 * N)
    theirs = linear_model.LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x, y)
    W, b = fit(torch.from_numpy(x)[None], torch.from_numpy(y)[None], C, torch.tensor([l2]), steps=3000)
    p = (torch.from_numpy(x) @ W[0, 0] + b[0, 0]).softmax(-1).numpy()
    np.testing.assert_allclose(p, theirs.predict_proba(x), atol=1e-4)
    ours = W[0, 0, :, 1:] - W[0, 0, :, :1] if C == 2 else W[0, 0]  # of two classes it has one vector
    np.testing.assert_allclose(ours.T.numpy(), theirs.coef_, atol=1e-3)
