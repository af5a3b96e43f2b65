"""Grades pretraining/report.py: the tables of GPT, BERT and DistilBERT."""

import math

import pytest
import torch

from minilm import world
from minilm.plumbing.script import table
from minilm.pretraining import baselines, report
from minilm.pretraining.causal import Causal
from minilm.pretraining.masked import Masked
from minilm.pretraining.ngrams import ngram_losses
from minilm.pretraining.report import HEADER, causal_closing, masked_closing
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS


@torch.no_grad()
def measured(objective, model) -> dict[str, float]:
    """The metrics of the validation batch, as a run measures them."""
    metrics = objective.loss(model, objective.batch(0, "validation"))[1]
    return {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("next_sentence", [True, False])
def test_masked_closing_has_the_figures_of_results_json(world_corpus, world_bpe, encoder, next_sentence):
    objective = Masked(world_corpus, world_bpe, 64, 16, next_sentence=next_sentence)
    model = encoder(len(world_bpe.vocab), pairs=next_sentence)
    before = measured(objective, model)
    after = {name: 0.77 * value for name, value in before.items()}
    rows, results, examples = masked_closing(objective, model, before, after, None)
    assert results["masked_accuracy"] == after["masked_accuracy"]
    assert results["masked_accuracy_baseline"] == baselines.commonest_share(objective)
    assert results["slot_accuracy"] == baselines.slot_accuracy(objective, model)
    pairs = {"next_sentence_accuracy", "shared_word_accuracy"}
    assert (pairs & set(results)) == (pairs if next_sentence else set())
    if next_sentence:
        assert results["next_sentence_accuracy"] == after["next_sentence_accuracy"]
        assert results["shared_word_accuracy"] == baselines.shared_word_accuracy(objective)
    assert all(len(row) == len(HEADER) for row in rows)
    cells = [cell for row in rows for cell in row]
    shown = [before["loss"], after["loss"], after["masked_loss"], after["bits_per_byte"], *results.values()]
    assert all(value in cells for value in shown), "a figure is missing from the table"
    assert baselines.unigram_loss(objective, objective.texts["train"].ids, "masked_labels") in cells
    assert 1 / len(world.PLACES) in cells and (0.5 in cells) == next_sentence, "what chance gives"
    assert [line for line in examples if "____" in line]


def test_causal_closing_stands_beside_the_floor(world_corpus, world_bpe, decoder):
    objective, model = Causal(world_corpus, world_bpe, 32, 4), decoder(len(world_bpe.vocab))
    before = dict(loss=6.5, bits_per_byte=3.5, accuracy=0.01)
    after = dict(loss=1.1, bits_per_byte=0.3, accuracy=0.66)
    rows, results, examples = causal_closing(objective, model, before, after, None)
    floor = objective.floor()
    stream, labels = objective.streams["train"], objective.streams["validation"][1:]
    bits = [nats * 3.5 / 6.5 for nats in ngram_losses(stream, labels, len(world_bpe.vocab))]
    ngrams = {f"ngram_{n}_bits_per_byte": pytest.approx(value) for n, value in enumerate(bits)}
    expected = dict(perplexity=math.exp(1.1), floor_bits_per_byte=floor["bits_per_byte"])
    assert results == expected | ngrams and len(ngrams) == 6, "no n-gram, and those of 1 to 5 tokens"
    assert [row[3] for row in rows[3:9]] == pytest.approx(bits), "each beside the model's bits per byte"
    told = [row[4] for row in rows[3:9]]
    assert "ln V" in told[0] and told[5] == f"5-grams, of {len(stream):,} tokens"
    columns = {name: (before, after, floor) for name, before, after, floor, _ in rows if name}
    assert all(len(row) == len(HEADER) for row in rows)
    assert columns["loss (nats per token)"] == (6.5, 1.1, floor["loss"])
    assert columns["perplexity"] == pytest.approx((math.exp(6.5), math.exp(1.1), math.exp(floor["loss"])))
    assert columns["bits per byte"] == (3.5, 0.3, floor["bits_per_byte"])
    assert columns["next token right"] == (0.01, 0.66, None)
    assert examples[-1] == objective.sample(model).strip()


def test_causal_closing_without_a_floor(tagged_corpus, bpe, decoder):
    objective, model = Causal(tagged_corpus, bpe, 32, 4), decoder(len(bpe.vocab))
    metrics = dict(loss=2000.0, bits_per_byte=3.5, accuracy=0.5)
    rows, results, _ = causal_closing(objective, model, metrics, metrics, None)
    assert 1e300 < results["perplexity"] < math.inf, "exp overflows, and the run ends without its table"
    nats = baselines.unigram_loss(objective, objective.streams["train"], "labels")
    assert rows[0][3] == nats, "how often each token occurs, where no floor is known"
    assert rows[2][3] == pytest.approx(nats * 3.5 / 2000), "bits a byte, by the same tokens"
    assert math.isclose(rows[1][3], math.exp(nats)) and results["floor_bits_per_byte"] is None
    assert not any("grammar" in row[4] for row in rows), "no grammar is known of a real text"
    by_heart = dict(loss=0.0, bits_per_byte=0.0, accuracy=1.0)
    assert causal_closing(objective, model, metrics, by_heart, None)[0][2][3] == rows[2][3], "bits of a token"


def test_slot_accuracy_is_none_where_no_thing_is_a_token(world_corpus, encoder):
    bpe = BPE.train(world_corpus.train, 270, SPECIAL_TOKENS)
    objective = Masked(world_corpus, bpe, 128, 16)
    model = encoder(len(bpe.vocab), 128)
    assert baselines.slot_accuracy(objective, model) is None
    before = measured(objective, model)
    rows, results, _ = masked_closing(objective, model, before, before, None)
    assert "slot_accuracy" not in results and "thing" not in table(rows, HEADER)


def test_distillation_closing_stands_beside_the_teacher(objective, encoder, monkeypatch):
    """Its other students are graded in test_students.py."""
    V = len(objective.tokenizer.vocab)
    before, after = (dict(masked_accuracy=share, masked_loss=1 - share) for share in (0.2, 0.7))
    objective.teacher, student = encoder(V, n_encoder_layer=2), encoder(V)
    monkeypatch.setattr(report.students, "other_lessons", lambda objective: {})
    monkeypatch.setattr(report, "evaluate", lambda *_: dict(masked_accuracy=0.9, masked_loss=0.1))
    speed = lambda objective, *models: {model: 8.0 if model is student else 5.0 for model in models}
    monkeypatch.setattr(report.students, "texts_per_second", speed)
    rows, results, examples = report.distillation_closing(objective, student, before, after, None)
    assert [(row[0], *row[3:5]) for row in rows] == [
        ("teacher", 5, 0.9), ("copied, before training", 8, 0.2), ("student, 500 texts", 8, 0.7)
    ]  # fmt: skip
    assert (results["student_accuracy"], results["teacher_loss"]) == (0.7, 0.1)
    assert (results["student_speedup"], results["student_block_fraction"]) == (1.6, 0.5)
    assert len(examples) == 4 + 2 * 3


def test_a_loss_that_rose_again_is_told_with_its_step():
    looks = [("train", 0.1, 9), ("validation", 3.0, 0), ("validation", 1.0, 250), ("validation", 1.02, 500)]
    log = [dict(split=split, loss=loss, step=step) for split, loss, step in looks]
    assert "lowest at step 250 (1.000)" in report.lowest_loss(log, 1.0101)[0]
    assert report.lowest_loss(log, 1.01) == [] == report.lowest_loss([], 1.0), "a hundredth is noise"
