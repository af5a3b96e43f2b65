"""Grades finetuning/tasks.py: examples as rows, and a task and its examples as an objective."""

import pytest
import small
import torch
import tuned

from minilm.finetuning.settings import TASKS
from minilm.finetuning.similarity import Similarity
from minilm.finetuning.span import Span
from minilm.finetuning.tagging import Tagging
from minilm.finetuning.tasks import FineTuning, LabelledRows, commonest
from minilm.finetuning.text_to_text import TextToText
from minilm.tokenizer.rows import RaggedRows, text_rows
from minilm.training import machine
from minilm.training.objective import IGNORED

SCORED = [("Ana ran.", "Rui ran.", 4.5), ("A lamp.", "Two red pens.", 0.5), ("Bread.", "Pens.", 1.0)]


def objective(n: int = 15, batch_size: int = 4, **options) -> FineTuning:
    return FineTuning(tuned.task(**options), tuned.parts(n), batch_size, seed=3)


def test_labelled_rows_are_texts_with_columns():
    texts = RaggedRows([[5], [6, 7, 8], [9, 9]], 0)
    rows = LabelledRows(texts, torch.tensor([4, 5, 6]), more=torch.tensor([0.25, 0.5, 1.0]))
    batch = rows.batch([2, 0])
    assert len(rows) == 3 and rows.lengths.tolist() == [1, 3, 2]
    assert batch["input_ids"].tolist() == [[9, 9], [5, 0]] and batch["labels"].tolist() == [6, 4]
    assert batch["more"].tolist() == [1.0, 0.25]
    assert (float(batch["n_row"]), float(batch["n_label"])) == (2.0, 2.0)
    ragged = LabelledRows(texts, RaggedRows([[1], [IGNORED, 2, 3], [IGNORED] * 2], IGNORED)).batch([1, 0])
    assert ragged["labels"].tolist() == [[IGNORED, 2, 3], [1, IGNORED, IGNORED]]
    assert float(ragged["n_label"]) == 3
    empty = LabelledRows(texts, RaggedRows([[IGNORED]] * 3, IGNORED)).batch([0, 1])
    assert float(empty["n_label"]) == 1, "no label left: the loss is 0, not NaN"


def test_the_texts_of_a_pair_are_one_row_or_two():
    apart, together = (tuned.task(Similarity, SCORED, pairs=pairs) for pairs in ("apart", "together"))
    rows = apart.rows(SCORED)
    ids = rows.batch([2, 0])["input_ids"]
    texts = text_rows(small.tokenizer(), tuned.config(), ["Bread.", "Pens.", "Ana ran.", "Rui ran."])
    assert ids.shape[:2] == (2, 2) and torch.equal(ids.flatten(0, 1), texts.batch(range(4))["input_ids"])
    assert rows.lengths[2] == texts.lengths[:2].sum() and len(rows) == 3
    one = together.rows(SCORED).batch([0])
    expected = text_rows(small.tokenizer(), tuned.config(), ["Ana ran."], ["Rui ran."]).batch([0])
    assert torch.equal(one["input_ids"], expected["input_ids"])
    assert torch.equal(one["token_type_ids"], expected["token_type_ids"])
    assert (apart.head().on, together.head().on, apart.head().linear.out_features) == ("apart", "text", 1)


@pytest.mark.parametrize("n", [3, 40])
def test_outputs_come_in_the_order_of_the_rows_without_padding(n):
    task, words = tuned.task(Tagging, [(["a", "b"], ["O", "B-x"])]), ["Ana", "sells", "bread"]
    examples = [(words * (1 + i % 4), None) for i in range(7)]
    rows, model = task.rows(examples), tuned.model(task)
    found = task.outputs(model, rows, n)
    assert [len(scores) for scores in found] == rows.lengths.tolist() and not found[0].requires_grad
    torch.testing.assert_close(found[2], model.output(rows.batch([2]))[0], rtol=1e-4, atol=1e-5)
    assert found[0].shape[1] == 2 == task.head().linear.out_features


def test_outputs_are_multiplied_by_the_faster_library(monkeypatch):
    monkeypatch.setattr(machine, "fastest_library", lambda: "bf16")
    task, seen, matmul = tuned.task(), [], torch.backends.mkldnn.matmul
    model = tuned.model(task)
    model.tokens.register_forward_hook(lambda *_: seen.append(matmul.fp32_precision))
    task.outputs(model, task.rows(tuned.parts(5).test), 2)
    assert {*seen} == {"bf16"} != {matmul.fp32_precision}


def test_an_epoch_has_every_row_once_in_an_order_of_its_own():
    made = objective(n=15, batch_size=4)
    places = [i for step in range(15) for i in made.chosen(step, 15)]  # four epochs of 15
    epochs = [places[i : i + 15] for i in range(0, 60, 15)]
    assert all(sorted(epoch) == list(range(15)) for epoch in epochs), "a row is left out, or comes twice"
    assert len({tuple(epoch) for epoch in epochs}) == 4, "every epoch has the same order"
    assert made.chosen(7, 15) == objective().chosen(7, 15), "a batch is a pure function of seed and step"
    assert len(made.chosen(0, 2)) == 4, "fewer rows than a batch has: they come again"
    small.assert_equal(made.batch(3, "train"), made.rows["train"].batch(made.chosen(3, 15)))


def test_the_validation_batch_is_all_of_it_whatever_the_step():
    made = objective()
    first, second = made.batch(0, "validation"), made.batch(5, "validation")
    assert first["input_ids"].shape[0] == 6
    small.assert_equal(first, second)
    model = tuned.model(made.task)
    assert made.loss(model, first)[0] == made.task.loss(model, first)[0]


ASKED, TAGGED = ("Ana ran.", "Who?", [("Ana", 0)]), (["a", "b"], ["O", "B-x"])
PARTS = [
    (tuned.task(), tuned.labelled(7)),
    (tuned.task(Similarity, SCORED, pairs="apart"), SCORED),
    (tuned.task(Span, [ASKED]), [ASKED] * 3),
    (tuned.task(Tagging, [TAGGED]), [(["b"] * n, ["O"] * n) for n in (1, 5, 2)]),
]


@pytest.mark.parametrize("task, examples", PARTS, ids=[task.name for task, _ in PARTS])
def test_parts_of_a_batch_add_up_to_it(task, examples, assert_parts_add_up):
    batch = task.rows(examples).batch(range(len(examples)))
    assert_parts_add_up(task, tuned.model(task), batch, n_part=3)


def test_the_commonest_truth_and_how_truths_are_written():
    assert commonest([("a", 1), ("b", 2), ("a", 3), ("a", 3)]) == dict(a=3, b=2)
    task = tuned.task()
    assert task.trivial([("a", "x"), ("b", "y"), ("c", "y")], [("d", "x"), ("e", "z")]) == ["y", "y"]
    assert task.truths([("d", "x"), ("e", "z")]) == ["x", "z"]
    assert tuned.task(TextToText, [("a", "x")], "decoder").head() is None, "type II has no new head"
    assert task.written(" a\tb\n c") == task.written(" a\tb\n c", "text") == "a b c"


def test_what_each_task_asks_of_its_examples_and_of_a_model():
    """`examples.py`, `run.py` and `settings.py` read and refuse by these."""
    having = lambda what: {name for name, task in TASKS.items() if getattr(task, what)}
    assert having("closed") == {"classification", "pair", "tagging"}, "labels unknown to training"
    assert having("is_number") == {"similarity", "contrastive"}
    assert set(TASKS) - having("has_truth") == {"contrastive"}, "learns from pairs without a number"
    assert set(TASKS) - having("has_head") == {"contrastive", "text-to-text"}, "nothing new on top"
    least = {name: task.least_context for name, task in TASKS.items()}
    pairs = dict.fromkeys(("pair", "similarity", "contrastive"), 6)
    assert least == dict(classification=3, tagging=3, span=9) | pairs | {"text-to-text": 8}
