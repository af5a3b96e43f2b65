"""Grades pretraining/report.py: GPT's and BERT's tables, and the blanks that are filled in."""

import math
import re

import pytest
import torch
from oracle import Oracle
from small import fingerprint

from minilm import world
from minilm.plumbing.script import table
from minilm.pretraining import baselines, report
from minilm.pretraining.causal import Causal
from minilm.pretraining.masked import Masked, fill_examples
from minilm.pretraining.ngrams import ngram_losses
from minilm.pretraining.report import HEADER, causal_closing, masked_closing
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS


@torch.no_grad()
def measured(objective, model) -> dict[str, float]:
    """The metrics of the validation batch, as a run measures them."""
    metrics = objective.loss(model, objective.batch(0, "validation"))[1]
    return {name: float(value) for name, value in metrics.items()}


def test_fill_examples_show_the_blank_its_truth_and_the_three_best(objective, world_bpe):
    chances = {" cow": 0.5, " the": 0.3, ".": 0.15, " farm": 0.05}
    model = Oracle(world_bpe, lambda text: {token: math.log(p) for token, p in chances.items()})
    lines = fill_examples(objective, model)
    assert len(lines) == 6 and len(set(lines[::2])) == 3, "three different texts, a line and its guesses each"
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        assert shown.count("____") == 1 and "[" not in shown, "one blank, and no [CLS], [SEP] or [PAD]"
        best, truth = re.fullmatch(r" +(.*?) +\(it was: (.+)\)", guesses).groups()
        assert best.split("   ") == ["cow 0.50", "the 0.30", ". 0.15"], "best first, with their probabilities"
        assert shown.replace("____", truth) in objective.corpus.validation, "the truth doesn't fill the blank"
        assert len(truth) > 1, "a full stop is not worth guessing"


def test_fill_examples_give_the_probabilities_of_their_own_text(objective, world_bpe):
    def answer(text):
        p = text.count("a") / 100  # special tokens hold no small letters
        return {" cow": math.log(p), " the": math.log(1 - p)}

    lines = fill_examples(objective, Oracle(world_bpe, answer))
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        text = shown.replace("____", "")
        assert f"cow {text.count('a') / 100:.2f}" in guesses, "the probabilities of another text"
    assert len({text.count("a") for text in lines[::2]}) > 1, "the test needs texts that differ"


def test_all_tokens_of_a_word_are_hidden(tiny, byte_bpe):
    lines = fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}))
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        truth = re.search(r"it was: (.*)\)", guesses)[1]
        assert shown.replace("____", truth) in tiny.corpus.validation
        assert not re.search(r"\w____|____\w", shown), "a piece of a word is a blank that says nothing"
        assert re.fullmatch(f" +{'x' * len(truth)}x? 1.00   \\(.*", guesses), "a guess for each of its tokens"


def test_fill_examples_show_no_text_twice(tiny, byte_bpe):
    lines = fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}), n=9)
    truths = [re.search(r"it was: (.*)\)", guesses)[1] for guesses in lines[1::2]]
    texts = [shown.replace("____", truth) for shown, truth in zip(lines[::2], truths, strict=True)]
    assert sorted(texts) == sorted(tiny.corpus.validation), "each text once, where there are too few"


def test_fill_examples_hide_words_worth_guessing(objective, world_bpe):
    lines = fill_examples(objective, Oracle(world_bpe, lambda text: {" the": 1.0}), n=60)
    ids = [i for text in objective.corpus.train for i in world_bpe.encode(" " + text)]
    for guesses in lines[1::2]:
        truth = re.search(r"it was: (.*)\)", guesses)[1]
        n = max(ids.count(world_bpe.encode(word)[0]) for word in (truth, " " + truth))
        assert len(truth) > 1 and n < 0.02 * len(ids), f"{truth!r} can be guessed without reading"


def test_fill_examples_without_pairs(world_corpus, world_bpe, encoder):
    objective = Masked(world_corpus, world_bpe, 64, 16, next_sentence=False)
    lines = fill_examples(objective, encoder(len(world_bpe.vocab), pairs=False))
    assert len(lines) == 6 and all(line.count("____") == 1 for line in lines[::2])


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
    assert len(table(rows, HEADER).splitlines()) == len(rows) + 2
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
    assert columns["loss (nats a token)"] == (6.5, 1.1, floor["loss"])
    assert columns["perplexity"] == pytest.approx((math.exp(6.5), math.exp(1.1), math.exp(floor["loss"])))
    assert columns["bits per byte"] == (3.5, 0.3, floor["bits_per_byte"])
    assert columns["next token right"] == (0.01, 0.66, None)
    assert examples[-1] == objective.sample(model).strip()
    assert len(table(rows, HEADER).splitlines()) == len(rows) + 2


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
    speed = lambda objective, model: 8.0 if model is student else 5.0
    monkeypatch.setattr(report.students, "texts_per_second", speed)
    rows, results, examples = report.distillation_closing(objective, student, before, after, None)
    assert [(row[0], *row[3:5]) for row in rows] == [
        ("teacher", 5, 0.9), ("its layers as copied", 8, 0.2), ("student, 500 texts", 8, 0.7)
    ]  # fmt: skip
    assert (results["student_accuracy"], results["teacher_loss"]) == (0.7, 0.1)
    assert (results["student_speedup"], results["student_block_fraction"]) == (1.6, 0.5)
    assert len(examples) == 4 + 2 * 3


def test_the_blanks_are_those_of_the_readmes(objective, tiny, world_bpe, byte_bpe):
    lines = fill_examples(objective, Oracle(world_bpe, lambda text: {" the": 1.0}), n=5)
    lines += fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}))
    assert fingerprint(lines) == "debc64dc", (
        "other texts, or other chance, than those of the READMEs' figures"
    )
