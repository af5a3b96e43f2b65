"""Grades extraction/probe.py: the softmax regression, how its labels are drawn, and the bag of words."""

import math
from operator import itemgetter

import numpy as np
import pytest
import torch
from small import fingerprint

from minilm.extraction import probe

R, N, D, C = 3, 14, 5, 4  # unequal sizes


def problem(seed: int = 0, noise: float = 1.0, n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (R, n, D), shifted by their classes, and the classes (R, n), in order."""
    rng = np.random.default_rng(seed)
    y = np.sort(np.arange(n) % C)
    centre = rng.normal(size=(C, D)) * 2
    x = centre[y] + noise * rng.normal(size=(R, n, D))
    return torch.from_numpy(x), torch.from_numpy(y).expand(R, n)


def test_each_problem_is_at_its_own_minimum():
    x, y = problem()
    l2, weight = torch.tensor([0.01, 0.3]), torch.ones(2, N)
    weight[1, 5:9] = 0
    W, b = probe.fit(x, y, C, l2, weight)
    assert W.shape == (R, 2, D, C) and b.shape == (R, 2, 1, C), "W is (R, P, D, C), b is (R, P, 1, C)"
    for r in range(R):
        for p in range(2):
            rows = weight[p].bool()
            w, c = W[r, p].clone().requires_grad_(), b[r, p].clone().requires_grad_()
            each = torch.nn.functional.cross_entropy(x[r] @ w + c, y[r], reduction="none")  # (N,)
            data, penalty = each[rows].mean(), l2[p] / 2 * (w**2).sum()

            def slope(loss, at=(w, c)):
                """Return the largest absolute value in the gradient, 0 at a minimum."""
                return max(float(g.abs().max()) for g in torch.autograd.grad(loss, at, retain_graph=True))

            mistakes = {
                "there is no penalty": data,
                "the biases are penalised too": data + penalty + l2[p] / 2 * (c**2).sum(),
                "the factor 1/2 before the penalty is missing": data + 2 * penalty,
                "the losses of the examples are summed, not averaged": each[rows].sum() + penalty,
                "the examples of weight 0 are included": each.mean() + penalty,
                "the sum is divided by N, not by that of the weights": data * weight[p].mean() + penalty,
                "every problem has the penalty of the first one": data + penalty / l2[p] * l2[0],
                "the penalty is |W|, without the square": data + l2[p] / 2 * (w**2).sum() ** 0.5,
            }
            told = f"draw {r}, problem {p}: not at its loss's minimum (are gradients zeroed? enough steps?)"
            named = [name for name, loss in mistakes.items() if slope(loss) < 1e-4]
            told += f"; this is what comes out when {', or when '.join(named)}" if named else ""
            assert slope(data + penalty) < 1e-4, told


def test_folds_deal_out_each_class():
    y = np.array([0] * 5 + [1] * 8 + [2] * 4)
    fold = probe.folds_of(y)
    for c in range(3):
        assert set(fold[y == c]) == {0, 1, 2, 3}
        assert np.ptp(np.bincount(fold[y == c])) <= 1
    assert set(probe.folds_of(np.array([0, 0, 0, 1, 1]))) == {0, 1}, "each fold needs a label of each class"
    assert set(probe.folds_of(np.array([0, 1, 1, 1]))) == {0}


def slow_l2(x: torch.Tensor, y: torch.Tensor) -> float:
    """One draw: a separate fit for each strength and fold; the strength with the least held-out loss."""
    fold = torch.from_numpy(probe.folds_of(y.numpy()))
    total = []
    for l2 in probe.L2_CHOICES:
        loss = 0.0
        for k in range(int(fold.max()) + 1):
            inside = fold != k
            W, b = probe.fit(x[None, inside], y[None, inside], C, torch.tensor([l2]))  # each to its end
            loss += probe.nats(x[None, ~inside], y[None, ~inside], W, b).sum().item()
        total.append(loss)
    return probe.L2_CHOICES[int(np.argmin(total))]


def test_the_penalty_is_chosen_on_labels_put_aside():
    draws = [problem(1, noise, n=12) for noise in (0.5, 2.0)]
    x, y = torch.cat([x[:1] for x, _ in draws]), torch.cat([y[:1] for _, y in draws])
    found = probe.choose_l2(x, y, C)
    assert found.shape == (2, 1)
    told = "fit without the fold that is put aside; the least loss on that fold, over all folds, chooses"
    assert found[:, 0].tolist() == pytest.approx([slow_l2(x[r], y[r]) for r in range(2)]), told
    assert found[0] < found[1], "noise asks for a penalty"
    one = probe.choose_l2(x[:, ::3], y[:, ::3], C)
    assert one[:, 0].tolist() == pytest.approx([probe.L2_WITHOUT_CHOICE] * 2), "one label: none to put aside"


def test_labels_are_drawn_by_class():
    y = np.array([2, 0, 1] * 10 + [0] * 5)
    rows = probe.draw_labels(y, 4, 6, seed=1)
    assert rows.shape == (6, 12)
    assert (y[rows] == np.repeat([0, 1, 2], 4)).all()
    assert all(len(set(row)) == 12 for row in rows), "an example is drawn twice: draw without replacement"
    assert len({tuple(row) for row in rows}) == 6, "each draw takes others"
    assert (probe.draw_labels(y, 4, 6, 1) == rows).all() and (probe.draw_labels(y, 4, 6, 2) != rows).any()
    everything = probe.draw_labels(y, None, 6, 1)
    assert everything.shape == (1, 35) and sorted(everything[0]) == list(range(35))


@pytest.mark.parametrize("seed", range(9))
def test_no_text_is_on_both_sides_and_no_last_label_is_held_out(seed):
    first = [(f"text {i // 10}", "xy"[i // 10 % 2]) for i in range(300)]
    asked = [(f"story {i // 5}", f"question {i}", [(f"answer {i}", 3)]) for i in range(100)]
    for examples, labels_of in ((first, itemgetter(1)), (asked, None)):
        train, held = probe.split(examples, 40, seed, labels_of)
        assert {text for text, *_ in train}.isdisjoint(text for text, *_ in held), "tested on what was learnt"
        assert len(held) == 40 and len(train) + len(held) == len(examples), "an example is lost, or in both"
        assert held == sorted(held, key=examples.index) == probe.split(examples, 40, seed, labels_of)[1]
    assert probe.split(asked, 40, seed)[1] != probe.split(asked, 40, seed + 1)[1]
    rare = [(f"text {i}", "xy"[i % 2]) for i in range(4)] + [("alone", "z")]
    train, held = probe.split(rare, 2, seed, itemgetter(1))
    assert ("alone", "z") in train and len(held) == 2, "a label is tested, but never learnt"
    one_story = [("story", f"question {i // 2}", i) for i in range(20)]
    train, held = probe.split(one_story, 4, seed)
    told = "where all share the text, all that is asked tells examples apart"
    assert len(held) == 4 and not {asked for _, asked, _ in train} & {asked for _, asked, _ in held}, told
    few = [("a  b", "x"), ("a b", "x"), ("a\nb", "x"), ("c", "x"), ("c", "x")]
    assert len(probe.split(few, 1, seed)[1]) in (2, 3), "white space must not matter"
    groups = [("a", 1)] * 3 + [("b", 1)] * 3
    assert len(probe.split(groups, 1, seed)[1]) == 3, "none smaller: one is held out"
    assert len(probe.split([*groups, ("c", 1)], 1, seed)[1]) == 1, "too large for what is left: it waits"
    assert probe.split(groups, 0, seed)[1] == []


def test_vectors_are_scaled_by_the_training_part_alone():
    rng = np.random.default_rng(0)
    train, test = rng.normal(3, 5, (50, 3)), rng.normal(7, 5, (20, 3))
    train[:, 1] = 4 + 1e-9 * rng.normal(size=50)
    a, b = probe.standardised(train, test)
    assert a.dtype == b.dtype == np.float32
    assert a.mean(0) == pytest.approx(np.zeros(3), abs=1e-5), "mean and deviation are those of `train` alone"
    np.testing.assert_allclose(a.std(0)[[0, 2]], 1, atol=1e-5)
    assert abs(a[:, 1]).max() < 1e-3, "a constant column is blown up"
    np.testing.assert_allclose(b[:, 0], (test[:, 0] - train[:, 0].mean()) / train[:, 0].std(), rtol=1e-4)


def test_the_probe_learns_what_can_be_read_and_no_more():
    x, y = problem(2, noise=0.3, n=80)
    train, test = (part.numpy().astype(np.float32) for part in x[:2])
    labels = y[0].numpy()
    told = "training and test vectors must be read in the same directions, with weights and biases"
    assert probe.probe_accuracy(train, labels, test, labels, 1) > 0.9, told
    assert probe.probe_accuracy(train, labels, test, labels) == 1
    noise = np.random.default_rng(0).normal(size=(2, 80, D)).astype(np.float32)
    assert probe.probe_accuracy(noise[0], labels, noise[1], labels) < 0.45
    shuffled = (labels + 1) % C
    assert probe.probe_accuracy(train, labels, test, shuffled) == 0, "the test part's classes are not read"
    again = [probe.probe_accuracy(train, labels, noise[1], labels, 2, 3, seed) for seed in (5, 5, 6)]
    assert again[0] == again[1] != again[2]


def test_few_vectors_of_many_numbers_are_a_small_problem_with_the_same_answer():
    rng = np.random.default_rng(0)
    x, test = (torch.from_numpy(rng.normal(size=shape)) for shape in ((R, 8, 30), (11, 30)))
    y = (torch.arange(8) % C).expand(R, 8)
    small, small_test = probe.in_few_directions(x, test)
    assert small.shape == (R, 8, 8) and small_test.shape == (R, 11, 8)
    logits = []
    for a, b in ((x, test.expand(R, 11, 30)), (small, small_test)):
        W, bias = probe.fit(a, y, C, torch.tensor([0.1]))
        logits.append(b @ W[:, 0] + bias[:, 0])
    assert torch.allclose(*logits, atol=1e-3), "the labels must not depend on the basis"
    same, same_test = probe.in_few_directions(x[..., :5], test[:, :5])
    assert torch.equal(same, x[..., :5]) and torch.equal(same_test[1], test[:, :5])


def test_a_bag_counts_the_commonest_words_of_the_training_texts(monkeypatch):
    train, test = probe.bag_of_words(["The cat, the dog", "a cat"], ["Cat THE the bird!", ""])
    assert train.shape == test.shape == (2, 4), "a column for each of the training texts' four words"
    assert train.dtype == np.float32
    assert sorted(train[0]) == [0, 1, 1, 2] and sorted(train[1]) == [0, 0, 1, 1], "how often, not whether"
    assert sorted(test[0]) == [0, 0, 1, 2] and test[1].sum() == 0
    the = int(train[0].argmax())
    assert test[0, the] == 2, "columns must mean the same words in all parts"
    for text, n_word in (("猫と犬、猫", 3), ("แมวA1หมา", 6), ("não, NÃO", 1)):
        assert probe.bag_of_words([text])[0].shape == (1, n_word), f"{text}: where no spaces are, letters"
    monkeypatch.setattr("minilm.extraction.probe.MOST_WORDS", 1)
    (train,) = probe.bag_of_words(["b a b", "b c"])
    assert train.tolist() == [[2], [1]]


def test_a_rare_word_counts_for_more_and_a_long_text_does_not():
    counts = np.array([[2, 1, 0], [1, 0, 0], [1, 0, 1]], np.float32)
    train, test = probe.tf_idf(counts, np.array([[0, 3, 0], [4, 2, 0], [0, 0, 0]], np.float32))
    common, rare = 1 + math.log(4 / 4), 1 + math.log(4 / 2)  # in all three texts, in one of them
    told = "counts times 1 + ln((1 + n) / (1 + texts with the word)), each text divided by its length"
    want = np.array([2 * common, rare, 0]) / math.hypot(2 * common, rare)
    assert train[0] == pytest.approx(want), told
    assert test[0].tolist() == [0, 1, 0] and test[2].tolist() == [0, 0, 0], "nor is a text without words NaN"
    assert test[1] == pytest.approx(train[0]), "twice the text: the weights are those of train"


def test_a_column_varies_from_a_hundred_thousandth_on():
    for mean, least in ((9, 1e-4), (0, 1e-5)):
        column = lambda deviation, mean=mean: np.array([[mean - deviation], [mean + deviation]])
        assert abs(probe.standardised(column(1.1 * least))[0]).max() == pytest.approx(1, rel=1e-3)
        assert abs(probe.standardised(column(0.9 * least))[0]).max() < 1e-3
    _, other = probe.standardised(np.full((4, 1), 7.0), np.array([[9.5]]))
    assert other.tolist() == [[2.5]], "a constant column keeps its unit"


def test_parts_and_numbers_are_those_of_the_figures_in_the_readmes():
    examples = [(f"text {i % 31}", "xyz"[i % 3]) for i in range(60)]
    ways = [(seed, labels_of) for seed in (0, "a") for labels_of in (itemgetter(1), None)]
    found = [probe.split(examples, 11, *way) for way in ways]
    rows = probe.draw_labels(np.arange(40) % 3, 4, 5, 7).tolist()
    assert fingerprint(found, rows) == "488874f2", "not the draws that were measured"
    assert probe.L2_CHOICES == (1e-4, 1e-3, 1e-2, 1e-1, 1.0) and probe.L2_WITHOUT_CHOICE == 0.1
    assert (probe.N_FOLD, probe.MANY_LABELS, probe.MOST_WORDS) == (4, 1000, 5000)


def test_of_many_labels_one_fold_is_put_aside(monkeypatch):
    x, y = problem(3, noise=2.0, n=24)
    asked, plain = [], probe.fit
    monkeypatch.setattr(probe, "fit", lambda *given, **how: asked.append(given[3:]) or plain(*given, **how))
    for many, n_used in ((23, 1), (24, 4)):
        monkeypatch.setattr(probe, "MANY_LABELS", many)
        probe.choose_l2(x, y, C)
        l2, learnt = asked.pop()
        assert l2.tolist() == pytest.approx([*probe.L2_CHOICES] * n_used), f"{n_used} folds, each strength"
        expected = [[fold != k for fold in probe.folds_of(y[0].numpy())] for k in range(n_used)]
        told = "what is put aside counts 0"
        assert learnt.tolist() == [row for row in expected for _ in probe.L2_CHOICES], told


def test_a_fit_goes_on_to_its_minimum_and_a_choice_only_near_to_it(monkeypatch):
    asked, plain = [], torch.optim.LBFGS
    monkeypatch.setattr(torch.optim, "LBFGS", lambda *given, **how: asked.append(how) or plain(*given, **how))
    x, y = problem(n=24)
    probe.fit(x, y, C, torch.tensor([0.1, 1.0]))
    probe.choose_l2(x, y, C)
    least = torch.finfo(torch.float64).eps
    sizes = [(how["max_iter"], how["history_size"], how["tolerance_grad"]) for how in asked]
    assert sizes == [(300, 20, 1e-6), (60, 20, 1e-6)]
    told = "the rounding of a sum of so many losses"
    assert [how["tolerance_change"] for how in asked] == [R * 2 * least, R * 20 * least], told


def test_ten_draws_of_seed_0_where_nothing_else_is_said(monkeypatch):
    x, y = problem(2, n=24)
    asked, plain = [], probe.draw_labels
    monkeypatch.setattr(probe, "draw_labels", lambda *given: asked.append(given[1:]) or plain(*given))
    sides = [x[0].float().numpy(), y[0].numpy()] * 2
    probe.probe_accuracy(*sides, 2), probe.probe_accuracy(*sides)
    assert asked == [(2, 10, 0), (None, 10, 0)]
