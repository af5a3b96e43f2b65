"""Grades finetuning/similarity.py: two texts and a number, in one row or in two."""

import random

import pytest
import torch
import tuned

from minilm.finetuning.similarity import Similarity

SCORED = [("Ana ran.", "Rui ran.", 4.5), ("A lamp.", "Two red pens.", 0.5), ("Bread.", "Pens.", 1.0)]


def task_of(train=SCORED, kind: str = "encoder", pairs: str = "apart") -> Similarity:
    return tuned.task(Similarity, train, kind, pairs=pairs)


@pytest.mark.parametrize("pairs", ["together", "apart"])
@pytest.mark.parametrize("kind", tuned.KINDS)
def test_each_kind_of_model_gives_numbers(kind, pairs):
    task = task_of(kind=kind, pairs=pairs)
    model = tuned.model(task)
    batch = task.rows(SCORED).batch([2, 0])
    loss, _ = task.loss(model, batch)
    outputs, labels = model.output(batch).flatten().tolist(), batch["labels"].tolist()
    told = "mean of the squared errors: (B, 1) minus (B,) would compare each output with each label"
    errors = [a - b for a, b in zip(outputs, labels, strict=True)]
    assert loss.item() == pytest.approx(sum(x * x for x in errors) / 2, rel=1e-4), told
    assert len(task.predict(model, SCORED, 2)) == 3


def sold(n: int, seed: int) -> list[tuple[str, str, float]]:
    """Return two sellers' sentences, and whether both sell the same: an exclusive or of what each says."""
    rng, goods = random.Random(seed), ("bread", "lamps", "pens")
    drawn = [(rng.choice(goods), rng.choice(goods)) for _ in range(n)]
    return [(f"Rui sells {a}.", f"The old baker sells {b} too.", float(a == b)) for a, b in drawn]


def test_apart_learns_what_is_shared():
    task, test = task_of(sold(60, 0)), sold(40, 2)
    model = tuned.learnt(task, sold(60, 0), sold(9, 1), steps=80, batch_size=12, warmup=8)
    guesses = [p.guess for p in task.predict(model, test, 7)]
    assert task.score(task.truths(test), guesses)["spearman"] > 0.7


def test_scores_and_what_needs_no_model():
    pairs = [("A b, c.", "a B. d", 0), ("One", "one.", 0), ("sun", "rain", 0), ("!", "?", 0)]
    told = "words in both / words in either, each weighs 1 / (1 + its training texts): a 1/2, the others 1"
    assert Similarity.trivial(SCORED, pairs) == [1.5 / 3.5, 1.0, 0.0, 0.0], told
    two, three = Similarity.trivial(SCORED, [("Ran red", "ran", 0), ("Ran red", "red", 0)])
    assert (two, three) == pytest.approx((2 / 5, 3 / 5)), "ran is in two training texts, red in one"
    scores = task_of().score([1.0, 2.0, 3.0], [2.0, 8.0, 9.0])
    assert list(scores) == ["spearman", "pearson"] and scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] < 0.99


def test_numbers_are_learnt_in_deviations_and_given_back_as_they_are():
    task = task_of()
    labels = task.rows(SCORED).columns["labels"]
    told = "labels are (number - mean) / deviation"
    assert labels.mean().abs() < 1e-6 and float(labels.std()) == pytest.approx(1.0), told
    model = tuned.model(task)
    with torch.no_grad():
        model.head.linear.weight.zero_()
        model.head.linear.bias.fill_(1.0)
    expected = task.known["mean"] + task.known["deviation"]
    found = task.predict(model, SCORED, 2)
    told = "back in the unit of the numbers: output * deviation + mean"
    assert [p.guess for p in found] == pytest.approx([expected] * 3), told
    assert found[0].probability is None
    assert found[0].text == "Ana ran. | Rui ran." and found[0].truth == 4.5
    batch = task.rows(SCORED).batch(range(3))
    loss, _ = task.loss(model, batch)
    half, _ = task.loss(model, batch | dict(n_row=torch.tensor(6.0)))  # a part of a batch of 6
    assert half.item() == pytest.approx(loss.item() / 2), "divide the sum by n_row: parts must add up"
    assert task.written(2.0) == "2" and task.written(0.00031) != task.written(0.00029), "ranks are lost"


def test_numbers_far_from_zero_keep_their_order():
    far = [(a, b, 1.7e9 + number) for a, b, number in SCORED]
    task = task_of(far)
    assert task.known["mean"] - 1.7e9 == pytest.approx(task_of().known["mean"])
    found = task.predict(tuned.model(task), far, 2)
    assert len({p.guess for p in found}) == 3, "in 32 bits numbers near 1.7e9 are 128 apart"


def test_the_world_scores_place_person_and_ending():
    examples = Similarity.world(20, 0, True)
    assert examples == Similarity.world(20, 0, True) and {len(example) for example in examples} == {3}
    assert {score for *_, score in Similarity.world(200, 0, False)} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_recipe_is_that_of_the_figures_in_the_readme():
    assert Similarity.recipe == dict(n_examples=3000, steps=1000, batch_size=32, rate=3e-3)
    assert (Similarity.least_context, Similarity.is_number) == (6, True), "[CLS] a [SEP] b [SEP] and one more"
