"""Grades pretraining/students.py, and their closing table: its figures measured again."""

import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from minilm.plumbing.script import table
from minilm.pretraining import report, students
from minilm.pretraining.distillation import Distillation, initial_student
from minilm.pretraining.students import Smoothed
from minilm.training import machine
from minilm.training.loop import TrainingSettings, make_optimizer, train_step
from minilm.training.objective import IGNORED, evaluate, micro_batches

PLAN = dict(lr=2e-2, warmup=1, schedule="constant", weight_decay=0.1)
SETTINGS = TrainingSettings(steps=4, batch_size=9, seed=3, **PLAN)
NAMES = ["control", "smoothed", "student_all_texts", "control_all_texts"]


@pytest.fixture
def teacher(bpe, encoder):
    torch.manual_seed(5)
    return encoder(len(bpe.vocab), n_encoder_layer=3)


@pytest.fixture
def objective(teacher, tagged_corpus, bpe):
    options = dict(temperature=3.0, soft_weight=1.5, masked_weight=0.5, cosine_weight=0.2)
    options |= dict(teacher=teacher, n_documents=11, mask_share=0.3, whole_word=True)
    return Distillation(tagged_corpus, bpe, 61, 9, 3, **options)


@pytest.fixture
def student(teacher, shaken):
    """A student of two layers that is not as it began."""
    return shaken(initial_student(teacher, 2), 0.1, seed=7).eval()


def test_smoothed_is_label_smoothing(objective, student, tagged_corpus, bpe):
    lesson = students.other_lessons(objective)["smoothed"][1]
    assert isinstance(lesson, Smoothed) and students.SMOOTHING == 0.1
    batch = lesson.batch(2, "train")
    keep = batch["masked_labels"] != IGNORED
    logits = student(batch["input_ids"], batch["attention_mask"])
    at = torch.arange(len(logits))[:, None], batch["masked_positions"]
    expected = F.cross_entropy(logits[at][keep], batch["masked_labels"][keep], label_smoothing=0.1)
    entropy = math.log(len(bpe.vocab))  # of all tokens alike, which a KL divergence leaves out
    loss, metrics = lesson.loss(student, batch)
    torch.testing.assert_close(loss, expected - 0.1 * entropy, msg="0.9 the label, 0.1 of all tokens alike")
    plain = F.cross_entropy(logits[at][keep], batch["masked_labels"][keep]).item()
    assert metrics["masked_loss"].item() == pytest.approx(plain), "the metric is not smoothed"


def test_a_variant_differs_in_what_is_said_and_in_nothing_else(objective):
    same = students.variant(objective)
    assert type(same) is Distillation
    for name in ("teacher", "temperature", "weights", "mask_share", "whole_word", "n_documents", "seed"):
        assert getattr(same, name) == getattr(objective, name), name
    assert same.all_texts is objective.all_texts and same.corpus.train == objective.corpus.train
    for step, split in ((0, "train"), (5, "train"), (0, "validation")):
        one, other = objective.batch(step, split), same.batch(step, split)
        assert all(torch.equal(one[name], other[name]) for name in one), "not the same batches"
    other = students.variant(objective, Smoothed, cosine_weight=0.0, temperature=1.0, n_documents=None)
    assert type(other) is Smoothed and other.weights == objective.weights | dict(cosine=0.0)
    assert other.temperature == 1.0 and len(other.corpus.train) == 60
    assert objective.temperature == 3.0 and objective.weights["cosine"] == 0.2


def test_the_other_students_learn_without_the_teacher_and_from_all_texts(objective):
    lessons = students.other_lessons(objective)
    assert list(lessons) == NAMES
    alone = dict(soft=0.0, masked=1.0, cosine=0.0)
    assert lessons["control"][1].weights == lessons["control_all_texts"][1].weights == alone
    assert lessons["student_all_texts"][1].weights == objective.weights
    n_text = [len(lesson.corpus.train) for _, lesson in lessons.values()]
    assert n_text == [11, 11, 60, 60], "two with the student's texts, then two with all texts"
    assert [label for label, _ in lessons.values()] == [
        "  without its teacher", "  with label smoothing", "student, 60 texts", "  without its teacher"
    ]  # fmt: skip
    every = students.variant(objective, n_documents=None)
    assert list(students.other_lessons(every)) == NAMES[:2], "all texts twice"


@pytest.fixture
def closed(objective, student, monkeypatch) -> SimpleNamespace:
    """The closing of a run, the metrics before and after it, and the other students, as they were trained."""
    trained, plain = [], report.train
    keep = lambda model, *given, **how: trained.append((model, how)) or plain(model, *given, **how)
    monkeypatch.setattr(report, "train", keep)
    before, after = (
        evaluate(one, objective, SETTINGS) for one in (initial_student(objective.teacher, 2), student)
    )
    told = report.distillation_closing(objective, student, before, after, SETTINGS)
    others = dict(zip(NAMES, (model for model, _ in trained), strict=True))
    return SimpleNamespace(
        told=told, before=before, after=after, others=others, how=[how for _, how in trained]
    )


def test_another_student_begins_as_the_first_did_and_does_the_same_steps(objective, student, request):
    before, teacher = deepcopy(student.state_dict()), deepcopy(objective.teacher.state_dict())
    others = request.getfixturevalue("closed").others
    for name, (_, lesson) in list(students.other_lessons(objective).items())[:2]:
        assert others[name].config == student.config, "not of the same shape"
        expected = initial_student(objective.teacher, 2).train()
        optimizer = make_optimizer(expected, SETTINGS.weight_decay)
        with machine.quick_products("fp32", torch.device("cpu")):
            for step in range(SETTINGS.steps):
                train_step(expected, lesson, optimizer, SETTINGS, step)
        found = others[name].state_dict()
        for key, value in expected.state_dict().items():
            assert torch.equal(found[key], value), f"{name}, {key}: other first weights, batches or steps"
            assert torch.equal(student.state_dict()[key], before[key]), "the student itself was trained on"
        assert not others[name].training
    for key, value in teacher.items():
        assert torch.equal(objective.teacher.state_dict()[key], value), f"{key} of the teacher has moved"


def test_all_students_have_the_same_patience(objective, closed):
    told = "one that overfits is measured at its worst beside one that does not"
    taken = [how.get("patience") for how in closed.how]
    assert taken == [objective.patience] * len(NAMES) and objective.patience > 0, told


def test_block_weights_count_the_blocks_alone(student, teacher):
    D, d_ff = 12, 20
    one = 4 * (D * D + D) + (D * d_ff + d_ff) + (d_ff * D + D) + 4 * D  # attention, feed-forward, two norms
    assert students.block_weights(student) == 2 * one and students.block_weights(teacher) == 3 * one


def test_texts_per_second_are_those_of_the_best_of_ten_looks_in_turn(objective, student, monkeypatch):
    seen, teacher = [], objective.teacher
    monkeypatch.setattr(students, "predict_masked", lambda *given: seen.append(given))
    timed = lambda n, *looks: [look() or 0.5 * n * k for k, look in enumerate(looks, 1)]
    monkeypatch.setattr(students, "seconds", timed)
    speed = students.texts_per_second(objective, teacher, student)
    (first_model, part), (model, same) = seen
    batch = objective.batch(0, "validation")
    first = micro_batches(batch, -(-len(batch["input_ids"]) // objective.batch_size))[0]
    assert first_model is teacher and model is student and same is part
    assert torch.equal(part["input_ids"], first["input_ids"]), "the shortest rows, with little padding"
    n_row = len(part["input_ids"])
    assert n_row <= objective.batch_size, "more rows at a time than a step has: memory"
    assert speed == {teacher: n_row / 5, student: n_row / 10}, "rows over the time that `seconds` measures"


def test_closing_figures_are_those_of_the_models(objective, student, closed):
    (rows, results, _), before, after = closed.told, closed.before, closed.after
    models = dict(teacher=objective.teacher, student=student) | closed.others
    for name, model in models.items():
        expected = evaluate(model, objective, SETTINGS)
        assert results[f"{name}_accuracy"] == pytest.approx(expected["masked_accuracy"]), name
        assert results[f"{name}_loss"] == pytest.approx(expected["masked_loss"]), name
    assert len({results[f"{name}_loss"] for name in models}) == 6, "two rows are the same model"
    assert results["student_block_fraction"] == pytest.approx(2 / 3)
    labels = [row[0] for row in rows]
    assert labels[:3] == ["teacher", "copied, before training", "student, 11 texts"] and len(rows) == 7
    expected = [results["teacher_accuracy"], before["masked_accuracy"], after["masked_accuracy"]]
    expected += [results[f"{name}_accuracy"] for name in NAMES]
    assert [row[4] for row in rows] == expected
    assert [row[5] for row in rows][1:3] == [before["masked_loss"], after["masked_loss"]]
    assert [row[1] for row in rows] == [objective.teacher.n_parameters()] + [student.n_parameters()] * 6
    assert [2 * row[2] for row in rows] == [students.block_weights(student) * n for n in (3, *[2] * 6)]
    assert "student, 60 texts" in table(rows, report.STUDENTS_HEADER)
