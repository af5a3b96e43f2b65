"""A linear probe: what a softmax regression can read out of frozen vectors, with a few labels or all of them.

    loss = mean of -log softmax(x W + b)[label] + l2 / 2 * |W|^2

It is scikit-learn's `LogisticRegression` with C = 1 / (l2 N), for two classes 2 / (l2 N). Many problems are
solved at once: R draws of the labels, each in P variants (folds of the labels, strengths of the penalty).

Sources: Alain and Bengio 2016 (linear probes); Nocedal and Wright 2006, chapter 7 (L-BFGS).
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..texts.files import one_line
from ..training.metrics import WORD

L2_CHOICES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strengths of the penalty to choose from
L2_WITHOUT_CHOICE = 1e-1  # if there is one label per class, and so none to choose with
N_FOLD = 4
MANY_LABELS = 1000  # above this, one fold is enough
MOST_WORDS = 5000  # columns of a bag of words


def fit(x: Tensor, y: Tensor, n_class: int, l2: Tensor, weight: Tensor | None = None, steps=300) -> tuple:
    """Return the weights (R, P, D, C) and biases (R, P, 1, C) that minimise the loss of each problem.

    x: (R, N, D) vectors; y: (R, N) classes, from 0 to C - 1; l2: (R, P) or (P,), the penalty of each problem;
    weight: (P, N), how much each example counts in a variant (None: 1); steps: the most iterations of L-BFGS.
    """
    R, N, D = x.shape
    P = l2.shape[-1]
    l2 = l2.to(x).expand(R, P)
    weight = x.new_ones(P, N) if weight is None else weight.to(x)
    weight = weight / weight.sum(1, keepdim=True)  # (P, N), each row sums to 1: a weighted mean
    # At 0 all classes are equally likely. The loss has one minimum, so the starting point does not matter.
    W = x.new_zeros(R, P, D, n_class).requires_grad_()
    b = x.new_zeros(R, P, 1, n_class).requires_grad_()
    # L-BFGS: a probe must be at its minimum, or its accuracy would depend on a learning rate. The loss is
    # smooth and takes all examples, so the last 20 gradients give its curvature: no rate, tens of steps. Each
    # problem's loss is about 1: a line search must not look for changes below the rounding of their sum.
    until = dict(max_iter=steps, tolerance_grad=1e-6, tolerance_change=R * P * torch.finfo(x.dtype).eps)
    optimizer = torch.optim.LBFGS([W, b], **until, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        """Compute the gradients and return the sum of all losses; LBFGS calls this many times."""
        optimizer.zero_grad()
        # R P problems at once: one matrix product for all costs little more than one for a small problem.
        # They share no weights, so the sum is at its minimum when each problem is.
        data = (nats(x, y, W, b) * weight).sum()  # mean of -log softmax(x W + b)[label], summed over R and P
        penalty = 0.5 * (l2 * W.square().sum((2, 3))).sum()  # l2 / 2 |W|^2; none on b
        loss = data + penalty
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return W.detach(), b.detach()


def nats(x: Tensor, y: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return -log p(label) of each example in each problem: x (R, N, D), y (R, N) -> (R, P, N)."""
    logits = x[:, None] @ W + b  # (R, 1, N, D) @ (R, P, D, C) -> (R, P, N, C)
    labels = y[:, None].expand(logits.shape[:3])  # (R, P, N)
    return F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view(labels.shape)


def folds_of(y: np.ndarray) -> np.ndarray:
    """Return folds (N,) of sorted labels: up to N_FOLD, in turn within a class; all 0 if a class has one."""
    _, first, count = np.unique(y, return_index=True, return_counts=True)  # (C,) each
    return (np.arange(len(y)) - first.repeat(count)) % min(N_FOLD, count.min())


def choose_l2(x: Tensor, y: Tensor, n_class: int) -> Tensor:
    """Return for each draw the penalty (R, 1) with the lowest loss on held-out labels: cross-validation.

    It uses no labels but those of the draw. With one per class there is no choice: `L2_WITHOUT_CHOICE`.
    """
    R, N, _ = x.shape
    fold = folds_of(y[0].numpy())  # the same for every draw: labels come in the order of the classes
    n_fold = int(fold.max()) + 1
    if n_fold == 1:
        return torch.full((R, 1), L2_WITHOUT_CHOICE)
    n_used, choices = 1 if N > MANY_LABELS else n_fold, torch.tensor(L2_CHOICES)
    # One variant of the problem for each held-out fold and each strength: P = n_used * 5.
    aside = torch.from_numpy(fold == np.arange(n_used)[:, None])  # (n_used, N)
    aside = aside.repeat_interleave(len(choices), 0)  # (P, N)
    W, b = fit(x, y, n_class, choices.repeat(n_used), ~aside, steps=60)  # close enough to compare
    loss = (nats(x, y, W, b) * aside).sum(-1).view(R, n_used, len(choices)).sum(1)  # (R, P) -> (R, 5)
    return choices[loss.argmin(-1)][:, None]


def in_few_directions(x: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (R, N, D) and test (n, D) as (R, N, N) and (R, n, N) if N < D: smaller, the same probe."""
    if x.shape[1] >= x.shape[2]:
        return x, test.expand(len(x), *test.shape)
    # N vectors span at most N directions. In all others the penalty makes the best weights 0, so an
    # orthonormal basis Q of the span is enough: x = (x Q) Q^T, and x W = (x Q) (Q^T W).
    Q = torch.linalg.qr(x.transpose(1, 2)).Q  # (R, D, N)
    return x @ Q, test @ Q


def draw_labels(y: np.ndarray, n_label: int | None, n_draw: int, seed: int) -> np.ndarray:
    """Return (R, N) rows to label: in R draws, `n_label` of each class, class by class (None: all, once)."""
    if n_label is None:
        return np.argsort(y, kind="stable")[None]
    rng, rows = np.random.default_rng(seed), [np.flatnonzero(y == c) for c in np.unique(y)]
    draws = [[rng.choice(row, n_label, replace=False) for row in rows] for _ in range(n_draw)]
    return np.array(draws).reshape(n_draw, -1)


def split(examples: Sequence[tuple], n: int, seed, labels_of: Callable | None = None) -> tuple[list, list]:
    """Return (training examples, about n held-out examples), each in order; no text is on both sides.

    The text is an example's first field (of a question, its context), or if all share that, all but the last.
    Of each label (`labels_of` an example), at least one stays in training, so there may be none to hold out.
    """
    labels_of, groups = labels_of or (lambda example: ()), {}
    n_field = 1 if len({one_line(str(first)) for first, *_ in examples}) > 1 else -1
    for i, example in enumerate(examples):
        groups.setdefault(one_line(" ".join(map(str, example[:n_field]))), []).append(i)
    held, smallest = set(), min(map(len, groups.values()), default=0)
    left = Counter(label for example in examples for label in labels_of(example))
    for text in random.Random(seed).sample(sorted(groups), len(groups)):
        room, own = n - len(held), Counter(label for i in groups[text] for label in labels_of(examples[i]))
        if room > 0 and len(groups[text]) <= max(room, smallest) and all(left[y] > own[y] for y in own):
            held.update(groups[text])
            left.subtract(own)
    return [e for i, e in enumerate(examples) if i not in held], [examples[i] for i in sorted(held)]


def standardised(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Return the arrays (n, D) scaled so that each column of `train` has mean 0 and deviation 1."""
    mean, deviation = train.mean(0), train.std(0)
    # a column that is constant up to rounding stays near 0 and is not blown up
    scale = np.where(deviation > 1e-5 * (1 + np.abs(mean)), deviation, 1)
    return [((x - mean) / scale).astype(np.float32) for x in (train, *others)]


@torch.autocast("cpu", enabled=False)  # float32, whatever the precision of the model
def probe_accuracy(train, train_y, test, test_y, n_label=None, n_draw: int = 10, seed: int = 0) -> float:
    """Return the accuracy of a probe on the test vectors, the mean of `n_draw` draws of the labels.

    train, test: arrays (n, D), `standardised`; train_y, test_y: (n,) classes from 0; n_label: labels per
    class (None: all, in one draw).
    """
    rows = draw_labels(train_y, n_label, n_draw, seed)  # (R, N)
    x, y = torch.from_numpy(train[rows]), torch.from_numpy(train_y[rows])  # (R, N, D), (R, N)
    x, test_x = in_few_directions(x, torch.from_numpy(test))
    n_class = int(max(train_y.max(), test_y.max())) + 1
    W, b = fit(x, y, n_class, choose_l2(x, y, n_class))
    logits = test_x @ W[:, 0] + b[:, 0]  # (R, n, D) @ (R, D, C) -> (R, n, C)
    return float((logits.argmax(-1) == torch.from_numpy(test_y)).double().mean())


def bag_of_words(train: Sequence[str], *others: Sequence[str]) -> list[np.ndarray]:
    """Return word counts (n, n_word) for each list of texts; words: the first list's MOST_WORDS commonest."""
    parts = [[WORD.findall(text.lower()) for text in texts] for texts in (train, *others)]
    commonest = Counter(word for text in parts[0] for word in text).most_common(MOST_WORDS)
    column = {word: i for i, (word, _) in enumerate(commonest)}
    places = ([[column[word] for word in text if word in column] for text in part] for part in parts)
    return [np.array([np.bincount(p, minlength=len(column)) for p in part], np.float32) for part in places]


def tf_idf(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Turn counts (n, n_word) into vectors of length 1 in which rare words have larger weights.

    By scikit-learn's formula: count * (1 + ln((1 + n) / (1 + in how many of the n texts of `train` it is))).
    """
    weight = 1 + np.log((1 + len(train)) / (1 + (train > 0).sum(0)))  # (n_word,)
    bags = [counts * weight for counts in (train, *others)]
    return [(bag / np.linalg.norm(bag, axis=1, keepdims=True).clip(1e-9)).astype(np.float32) for bag in bags]
