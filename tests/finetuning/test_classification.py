"""Grades finetuning/classification.py: texts and pairs, and their classes."""

import math

import pytest
import small
import torch
import tuned

from minilm.finetuning.classification import Classification, Pair, TextsWithTruth
from minilm.finetuning.comparison import prepared, train_quietly
from minilm.finetuning.tasks import FineTuning, Prediction
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import text_rows

PAIRS = [("Ana ran.", "Rui ran.", "yes"), ("A lamp.", "Two red pens.", "no"), ("Bread.", "Pens.", "no")]


def task_of(cls, train, kind: str = "encoder", **options):
    return cls(small.tokenizer(), tuned.config(kind), tuned.CONTEXT, cls.learn(train), **options)


def model_of(task, seed: int = 0, **changes):
    return prepared(tuned.body(task.config.kind, seed), task, tuned.settings(**changes), "all").eval()


@pytest.mark.parametrize("kind", tuned.KINDS)
def test_a_class_is_learnt_by_each_kind_of_model(kind):
    task = task_of(Classification, tuned.labelled(15), kind)
    model, examples = model_of(task), tuned.examples(30)
    objective = FineTuning(task, examples, 10)
    train_quietly(model, objective, tuned.settings(steps=60, batch_size=10, lr=2e-2, warmup=5))
    assert task.score(task.predict(model, examples.test, 5))["accuracy"] >= 0.8


@pytest.mark.parametrize("pairs", ["together", "apart"])
@pytest.mark.parametrize("kind", tuned.KINDS)
def test_pairs_run_on_each_kind_of_model(kind, pairs):
    task = task_of(Pair, PAIRS, kind, pairs=pairs)
    model = model_of(task)
    assert model.head.on == ("apart" if pairs == "apart" else "text")
    loss, _ = task.loss(model, task.rows(PAIRS).batch([2, 0]))
    loss.backward()
    assert math.isfinite(loss.item()) and len(task.predict(model, PAIRS, 2)) == 3


def test_one_text_is_never_apart():
    task = task_of(Classification, tuned.labelled(6), pairs="apart")
    assert task.head().on == "text" and task.options == {}


def test_the_loss_is_the_mean_cross_entropy():
    task = tuned.classification()
    model, rows = model_of(task), task.rows(tuned.labelled(6))
    batch = rows.batch([4, 1, 0])
    assert batch["labels"].tolist() == [task.labels.index(tuned.labelled(6)[i][1]) for i in (4, 1, 0)]
    loss, metrics = task.loss(model, batch)
    log_probs = model.output(batch).log_softmax(-1)
    right = torch.stack([log_probs[i, label] for i, label in enumerate(batch["labels"].tolist())])
    torch.testing.assert_close(loss, -right.mean())
    hits = (log_probs.argmax(-1) == batch["labels"]).float().mean()
    assert float(metrics["accuracy"]) == pytest.approx(float(hits)) and metrics["loss"] is loss


def test_balanced_classes_weigh_the_same_in_all():
    train = [("a", "x")] * 6 + [("b", "y")] * 2
    task = task_of(Classification, train, balanced=True)
    rows = task.rows(train)
    assert rows.weights[:6].sum() == rows.weights[6:].sum(), "n / (C n_c) each"
    model = model_of(task)
    batch = rows.batch([0, 6])
    log_probs = model.output(batch).log_softmax(-1)
    expected = -(log_probs[0, 0] * 1 + log_probs[1, 1] * 3) / 4
    torch.testing.assert_close(task.loss(model, batch)[0], expected)
    assert task_of(Classification, train).rows(train).weights.tolist() == [1.0] * 8


def test_rows_hold_texts_labels_and_weights():
    texts = text_rows(small.tokenizer(), tuned.config(), ["Ana.", "Rui sells bread."])
    rows = TextsWithTruth(texts, [1, 0], [0.5, 2.0])
    batch = rows.batch([1, 0])
    assert len(rows) == 2 and batch["labels"].tolist() == [0, 1] and batch["weights"].tolist() == [2.0, 0.5]
    assert (float(batch["n_row"]), float(batch["n_weight"])) == (2.0, 2.5)


def test_predictions_are_in_the_order_of_the_examples():
    task = tuned.classification()
    model, examples = model_of(task), tuned.labelled(8)
    found = task.predict(model, examples, 3)
    assert [p.text for p in found] == [text for text, _ in examples]
    assert [p.truth for p in found] == [label for _, label in examples]
    for p, example in zip(found, examples, strict=True):
        (alone,) = task.predict(model, [example], 1)
        assert alone.guess == p.guess and alone.probability == pytest.approx(p.probability, abs=1e-5)
        assert 1 / 3 <= p.probability <= 1
    unknown = task.predict(model, [("Ana.", None)], 2)
    assert unknown[0].truth is None and unknown[0].guess in task.labels
    assert task.outputs(model, examples, 3).shape == (8, 3)


def test_scores_and_what_needs_no_model():
    task = tuned.classification()
    predictions = [Prediction("", t, g) for t, g in zip("xxyz", "xyyx", strict=True)]
    found = task.score(predictions)
    assert list(found) == ["accuracy", "macro_f1"] and found["accuracy"] == 0.5
    assert Classification.trivial([("a", "x"), ("b", "y"), ("c", "y")], PAIRS) == (
        "majority class",
        ["y"] * 3,
    )


def test_a_single_class_is_nothing_to_learn():
    with pytest.raises(UserError, match="all 2 examples have the label 'x'"):
        Classification.learn([("a", "x"), ("b", "x")])


def test_labels_that_training_does_not_have_are_named_and_counted():
    known = Classification.learn([("a", "sun"), ("b", "rain"), ("c", "rain")])
    assert known == dict(labels=["rain", "sun"], counts=[2, 1])
    Classification.check(known, [("x", "sun")], "t.tsv")
    with pytest.raises(UserError) as caught:
        Classification.check(known, [("x", "Rain"), ("y", "Rain"), ("z", "snow"), ("w", "sun")], "t.tsv")
    assert str(caught.value) == (
        "t.tsv: labels that training does not have: 'Rain' (2 times), 'snow' (1 times) (did you mean 'rain'?)"
    )


def test_classes_take_turns_when_few_examples_are_drawn():
    examples = [("a", "x")] * 40 + [("b", "y")] * 3 + [("c", "z")] * 20
    drawn = Classification.draw(examples, 9, seed=1)
    assert sorted(label for _, label in drawn) == ["x"] * 3 + ["y"] * 3 + ["z"] * 3
    assert len(Classification.draw(examples, 30, seed=1)) == 30
    numbered = [(str(i), "xy"[i % 2]) for i in range(50)]
    assert Classification.draw(numbered, 6, 0) != Classification.draw(numbered, 6, 1), "the seed draws"
    with pytest.raises(UserError, match="--n-examples 2: fewer examples than the 3 classes"):
        Classification.draw(examples, 2, seed=1)


def test_files_are_read_with_and_without_truths(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("Ana ran.\tx\nRui.\ty\n", encoding="utf-8")
    assert Classification.read(path) == ([("Ana ran.", "x"), ("Rui.", "y")], 0)
    path.write_text("Ana ran.\nRui.\n", encoding="utf-8")
    assert Classification.read(path, truth=False) == ([("Ana ran.", None), ("Rui.", None)], 0)
    path.write_text("Ana ran.\tx\nRui.\ty\n", encoding="utf-8")
    assert Classification.read(path, truth=False) == ([("Ana ran.", None), ("Rui.", None)], 0), (
        "labels that nobody asked for are passed over"
    )
    path.write_text("a\tb\tc\td\n", encoding="utf-8")
    with pytest.raises(UserError, match="found 4 columns, expected 1"):
        Classification.read(path, truth=False)
    path.write_text("a\tb\t2.5\n", encoding="utf-8")
    assert Pair.read(path) == ([("a", "b", "2.5")], 0)
    path.write_text("\tx\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: nothing in 'text'"):
        Classification.read(path)


def test_the_world_gives_examples_of_each():
    assert {len(example) for example in Classification.world(6, 0, False)} == {2}
    examples = Pair.world(20, 0, True)
    assert {len(example) for example in examples} == {3} and examples == Pair.world(20, 0, True)
    assert {label for *_, label in Pair.world(20, 0, False)} == {"same", "different"}
