"""Grades finetuning/classification.py: texts and pairs, and their classes."""

import pytest
import torch
import tuned

from minilm.finetuning.classification import Classification, Pair
from minilm.finetuning.tasks import Prediction

PAIRS = [("Ana ran.", "Rui ran.", "yes"), ("A lamp.", "Two red pens.", "no"), ("Bread.", "Pens.", "no")]


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_a_class_is_learnt_by_each_kind_of_model(kind):
    task, test = tuned.task(kind=kind), tuned.labelled(9, seed=2)
    model = tuned.learnt(task, tuned.labelled(30), test, steps=60, batch_size=10)
    assert sum(p.truth == p.guess for p in task.predict(model, test, 5)) >= 7


@pytest.mark.parametrize("pairs", ["together", "apart"])
@pytest.mark.parametrize("kind", tuned.KINDS)
def test_pairs_run_on_each_kind_of_model(kind, pairs):
    task = tuned.task(Pair, PAIRS, kind, pairs=pairs)
    model = tuned.model(task)
    assert model.head.on == ("apart" if pairs == "apart" else "text")
    loss, _ = task.loss(model, task.rows(PAIRS).batch([2, 0]))
    found = task.predict(model, PAIRS, 2)
    assert loss.isfinite() and found[1].text == "A lamp. | Two red pens."


def test_the_loss_is_the_mean_cross_entropy(assert_parts_add_up):
    task, examples = tuned.task(), tuned.labelled(6)
    model, batch = tuned.model(task), task.rows(examples).batch([4, 1, 0])
    assert batch["labels"].tolist() == [task.labels.index(examples[i][1]) for i in (4, 1, 0)]
    loss, metrics = task.loss(model, batch)
    log_probs = model.output(batch).log_softmax(-1)
    right = torch.stack([log_probs[i, label] for i, label in enumerate(batch["labels"].tolist())])
    torch.testing.assert_close(loss, -right.mean(), msg="the mean of -log softmax(scores)[label]")
    hits = (log_probs.argmax(-1) == batch["labels"]).float().mean()
    assert 0 < hits < 1, "the test needs texts that are right, and others"
    assert float(metrics["accuracy"]) == pytest.approx(float(hits)) and metrics["loss"] is loss
    assert_parts_add_up(task, model, batch, n_part=2)


def test_predictions_are_in_the_order_of_the_examples():
    task, examples = tuned.task(), tuned.labelled(8)
    model = tuned.model(task)
    found = task.predict(model, examples, 3)
    assert [(p.text, p.truth) for p in found] == examples
    for p, example in zip(found, examples, strict=True):
        (alone,) = task.predict(model, [example], 1)
        assert alone.guess == p.guess and alone.probability == pytest.approx(p.probability, abs=1e-5)
        assert 1 / 3 <= p.probability <= 1, "softmax of the scores: the likeliest of three has 1/3 or more"
    (unknown,) = task.predict(model, [("Ana.", None)], 2)
    assert unknown.truth is None and unknown.guess in task.labels


def test_scores_and_what_is_learnt_of_the_examples():
    found = tuned.task().score(list("xxyz"), list("xyyx"))
    assert list(found) == ["accuracy", "macro_f1", "matthews"] and found["accuracy"] == 0.5
    columns = zip("xxyz", "xyyx", (0.9, 0.6, 1.0, 0.5), strict=True)
    figures = tuned.task().figures([Prediction("", *column) for column in columns])
    assert figures.pop("calibration_error") == pytest.approx((0.1 + 0.6 + 0.0 + 0.5) / 4), "each in its bin"
    assert figures == found
    known = Classification.learn([("a", "sun"), ("b", "rain"), ("c", "rain")])
    assert known == dict(labels=["rain", "sun"]), "each label once, in alphabetical order"


def test_pairs_are_told_apart_by_the_rare_words_they_share():
    same = [(f"The {word} is here.", f"I saw the {word} too.", "same") for word in ("bread", "lamp", "pen")]
    apart = [
        (f"The {word} is here.", f"I saw the {word}s.", "other") for word in ("sun", "moon", "star", "sea")
    ]
    asked = [("The quince is red.", "A quince.", "x"), ("The red one is the best.", "I saw the sea.", "x")]
    told = "a border on the share of rare words, learnt on train"
    assert Pair.trivial(same + apart, asked) == ["same", "other"], told
    assert Pair.trivial([(a, a, "one") for a in "xyz"], asked) == ["one"] * 2, "one label: no border"
    told = "a border lies between shares, not between equal ones in the order of their labels"
    tied = [("x", "y", "a")] * 3 + [("x", "y", "b")] * 4 + [("z", "z", "a")] * 2
    assert Pair.trivial(tied, [("x", "q", None), ("q", "q", None)]) == ["b", "a"], told


def test_the_world_gives_examples_of_each():
    assert {len(example) for example in Classification.world(6, 0, held_out=False)} == {2}
    examples = Pair.world(20, 0, held_out=True)
    assert {len(example) for example in examples} == {3} and examples == Pair.world(20, 0, held_out=True)
    assert {label for *_, label in Pair.world(20, 0, held_out=False)} == {"same", "different"}


def test_the_recipes_are_those_of_the_figures_in_the_readme():
    assert Classification.recipe == dict(n_examples=24, steps=100, batch_size=24, n_run=10)
    assert Pair.recipe == dict(n_examples=300, steps=300, batch_size=32)
    assert Classification.least_context == 3, "[CLS] a [SEP]"
    assert Pair.least_context == 6, "[CLS] a [SEP] b [SEP]"
