"""Grades in_context/objective.py: training is that of GPT, and evaluations also ask."""

import pytest
import torch

from minilm.in_context import objective as in_context
from minilm.in_context.objective import InContext
from minilm.in_context.prompts import answers
from minilm.in_context.questions import FORMAT, TASKS
from minilm.pretraining.causal import Causal
from minilm.texts import corpus as data
from minilm.texts.corpus import load_corpus
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS


@pytest.fixture
def made(monkeypatch, decoder):
    """The objective on few texts with 5 questions a task, and a model."""
    monkeypatch.setattr(data, "WORLD_VALIDATION", 4)
    monkeypatch.setattr(in_context, "N_PROBE", 5)
    corpus = load_corpus("world:few-shot", 0, 60)
    tokenizer = BPE.train(corpus.train, 500, SPECIAL_TOKENS)
    return InContext(corpus, tokenizer, 24, 4), decoder(tokenizer.vocab_size, init_std=0.5)


def test_training_is_that_of_causal_to_the_bit(made):
    objective, model = made
    plain = Causal(objective.corpus, objective.tokenizer, 24, 4)
    for step in (0, 3):
        batch, want = objective.batch(step, "train"), plain.batch(step, "train")
        assert set(batch) == set(want) and all(torch.equal(batch[name], want[name]) for name in want)
        loss, metrics = objective.loss(model, batch)
        assert torch.equal(loss, plain.loss(model, want)[0]) and not set(TASKS) & set(metrics)


def test_an_evaluation_asks_each_question_once(made):
    objective, _ = made
    batch = objective.batch(0, "validation")
    probes = batch["probes"]
    assert len(probes) == len(batch["input_ids"]), "cut into parts by rows, like everything else"
    assert sorted(probes[probes >= 0].tolist()) == list(range(15))
    assert torch.equal(probes, objective.batch(7, "validation")["probes"])
    assert [objective.task_of.count(task) for task in TASKS] == [5, 5, 5]
    assert all(len(q.examples) == 8 for q in objective.questions)


def test_the_metrics_are_the_accuracies(made):
    objective, model = made
    model.eval()
    given = answers(model, objective.tokenizer, FORMAT, objective.questions)
    right = {task: 0 for task in TASKS}
    for question, task, answer in zip(objective.questions, objective.task_of, given, strict=True):
        right[task] += answer == question.label
    metrics = objective.loss(model, objective.batch(0, "validation"))[1]
    assert {task: float(metrics[task]) for task in TASKS} == pytest.approx(
        {t: n / 5 for t, n in right.items()}
    )
    alone = objective.probe(model, [0, 14])
    assert round(5 * sum(map(float, alone.values()))) <= 2, "of two questions no more than two are right"
    assert set(objective.probe(model, [])) == set(TASKS), "a part without a question counts nothing"


def test_parts_of_a_batch_add_up(made, assert_parts_add_up):
    objective, model = made
    model.eval()
    assert_parts_add_up(objective, model, objective.batch(0, "validation"), 3)
