"""Grades in_context/questions.py: the questions never stood in training."""

import math

import pytest
import small
import torch

from minilm.in_context import questions as in_context
from minilm.in_context.questions import CHANCE, FORMAT, TASKS, InContext, questions
from minilm.pretraining.causal import Causal
from minilm.texts import corpus as data
from minilm.texts.corpus import load_corpus
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.training import objective as training
from minilm.world import HELD_OUT_THINGS, LABEL_WORDS, few_shot_documents, place_of
from minilm.world.few_shot import NONCE_WORDS, held_out_pair

HELD_OUT = {thing for things in HELD_OUT_THINGS.values() for thing in things}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [0, 1, 5])
def test_every_question_has_its_examples(task, k):
    asked = questions(task, k, 30, seed=3)
    assert len(asked) == 30 and all(len(q.examples) == k and q.label in LABEL_WORDS for q in asked)
    assert asked[10:] == questions(task, k, 20, seed=3, start=10), "a draw goes on where the last one ended"
    assert asked != questions(task, k, 30, seed=4)
    assert set(FORMAT.words) == set(LABEL_WORDS) and CHANCE == 1 / 8


def test_what_is_asked_was_not_trained():
    for q in questions("new_pairings", 8, 100, 0):
        told = "a pairing of training documents: ask of the split test"
        assert held_out_pair(place_of(q.text), q.label) and q.text not in HELD_OUT, told
        of_place = {label for text, label in q.examples if place_of(text) == place_of(q.text)}
        assert of_place <= {q.label}, "the examples must give the answer"
    for q in questions("story_items", 8, 100, 0):
        assert q.text in HELD_OUT and not HELD_OUT & {text for text, _ in q.examples}
    for q in questions("nonce_keys", 8, 100, 0):
        assert q.text in NONCE_WORDS and (q.text, q.label) in q.examples, "a key that was seen before"


def test_a_question_is_the_text_of_a_training_document():
    (q,) = questions("new_pairings", 2, 1, 0)
    words = [word for pair in (*q.examples, (q.text, q.label)) for word in pair]
    assert FORMAT.prompt(q) + f" {q.label}" == "".join(f" {word}" for word in words)
    document = next(d for d in few_shot_documents(30, 0) if d.startswith(" "))
    assert len(document.split()) == 18
    asked = {FORMAT.prompt(q) for task in TASKS for q in questions(task, in_context.PROBE_SHOTS, 50, 0)}
    assert not any(d.rpartition(" ")[0] in asked for d in few_shot_documents(2000, 0))


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
    told = "shared by all rows, the rest empty"
    assert probes.shape[1] == math.ceil(15 / len(probes)) and probes.min() == -1, told
    assert torch.equal(probes, objective.batch(7, "validation")["probes"])
    assert [task for task, _ in objective.asked] == [task for task in TASKS for _ in range(5)]
    assert all(len(question.examples) == 8 for _, question in objective.asked)


def test_the_metrics_are_the_accuracies(made, monkeypatch):
    objective, model = made
    known = [question for _, question in objective.asked[:8]]  # all five of the first task, three of the next

    def answers(*given):
        *how, asked = given
        assert how == [model, objective.tokenizer, FORMAT]
        return [question.label if question in known else "?" for question in asked]

    monkeypatch.setattr(in_context, "answers", answers)
    batch = objective.batch(0, "validation")
    metrics = objective.loss(model, batch)[1]
    assert [float(metrics[task]) for task in TASKS] == pytest.approx([1, 3 / 5, 0])
    nothing = objective.loss(model, batch | dict(probes=torch.tensor([[-1]])))[1]
    assert [float(nothing[task]) for task in TASKS] == [0, 0, 0], "a part without a question counts as 0"


def test_the_accuracies_lie_where_the_other_metrics_do(made, monkeypatch):
    objective, model = made
    loss = torch.zeros((), device="meta")  # stands for a GPU
    monkeypatch.setattr(Causal, "loss", lambda *given: (loss, dict(loss=loss)))
    monkeypatch.setattr(in_context, "answers", lambda model, tokenizer, form, asked: [""] * len(asked))
    metrics = objective.loss(model, objective.batch(0, "validation"))[1]
    assert {value.device.type for value in metrics.values()} == {"meta"}, "they are put into one tensor"


def test_parts_of_a_batch_add_up(made, assert_parts_add_up):
    objective, model = made
    model.eval()
    assert_parts_add_up(objective, model, objective.batch(0, "validation"), 3)


def test_questions_are_those_of_the_figures_in_the_readmes():
    asked = [questions(task, k, 9, 3, start=4) for task in TASKS for k in (0, 3)]
    assert small.fingerprint(asked) == "d271e363", "not the questions that were measured"
    assert (in_context.PROBE_SHOTS, in_context.N_PROBE) == (8, 100)


def test_processes_that_share_the_weights_out_read_as_often(made, monkeypatch):
    """Each pass gathers the weights from all: where one asks more questions, it waits for ever."""
    objective, model = made
    monkeypatch.setattr(in_context, "N_PROBE", 1)  # three questions, beside three of nine rows
    few = InContext(objective.corpus, objective.tokenizer, 24, 4)
    monkeypatch.setattr(training, "process_count", lambda: 4)
    n_pass = [0] * 4
    for rank in range(4):
        monkeypatch.setattr(training, "process_rank", lambda rank=rank: rank)
        count = lambda *_, rank=rank: n_pass.__setitem__(rank, n_pass[rank] + 1)
        hook = model.decoder.blocks[0].register_forward_hook(count)
        training.evaluate(model, few, small.settings(batch_size=4, shard=True))
        hook.remove()
    assert len({*n_pass}) == 1 and n_pass[0], f"passes of the processes: {n_pass}; with --shard all read all"
