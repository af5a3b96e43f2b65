"""BERT's losses and metrics against plain loops, and that both of its tasks are learnt."""

import math

import numpy as np
import pytest
import small
import torch

from minilm.pretraining.masked import Masked, predict_masked
from minilm.texts.corpus import Corpus
from minilm.training.objective import IGNORED


@pytest.fixture(params=[True, False], ids=["next sentence", "packed"])
def objective(request, tagged_corpus, bpe):
    return Masked(tagged_corpus, bpe, 61, 9, seed=3, next_sentence=request.param)


@pytest.fixture
def model(objective, encoder):
    V = len(objective.tokenizer.vocab)
    return encoder(V, pairs=objective.next_sentence, n_encoder_layer=2, head_bias=True)


def test_validation_is_the_whole_text_once(objective):
    texts = objective.texts["validation"]
    batch = objective.batch(0, "validation")
    assert len(batch["input_ids"]) == len(texts) == batch["n_row"]
    if not objective.next_sentence:
        found = objective.rows("validation", objective.generator(0, "validation"), 9)["input_ids"]
        assert found.tolist() == texts.rows(np.arange(len(texts)))["input_ids"].tolist()


def test_training_draws_from_all_windows(objective):
    texts = objective.texts["train"]
    starts = texts.rows(np.arange(len(texts)))["input_ids"][:, :12]
    drawn = objective.rows("train", np.random.default_rng(0), 40 * len(texts))["input_ids"][:, :12]
    missing = {tuple(row) for row in starts.tolist()} - {tuple(row) for row in drawn.tolist()}
    assert not missing, "some windows are never trained on"


def test_loss_and_metrics_equal_a_plain_loop(objective, model):
    model.double()
    batch = objective.batch(0, "validation")
    model.vocabulary.bias.data[small.commonest(batch["masked_labels"])] = 3.0
    arguments = [batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids")]
    logits = model(*arguments).detach()
    nats, n, n_right, n_byte = 0.0, 0, 0, 0
    for b in range(len(logits)):
        for t, label in zip(batch["masked_positions"][b], batch["masked_labels"][b].tolist(), strict=True):
            if label != IGNORED:
                nats -= logits[b, t].log_softmax(0)[label].item()
                n, n_right = n + 1, n_right + int(logits[b, t].argmax() == label)
                n_byte += len(objective.tokenizer.vocab[label])
    assert 0 < n_right < n, "the test needs tokens that are right, and others"
    loss, metrics = objective.loss(model, batch)
    expected = dict(masked_loss=nats / n, masked_accuracy=n_right / n, loss=nats / n)
    expected["bits_per_byte"] = nats / math.log(2) / n_byte
    if objective.next_sentence:
        answers = model.next_sentence_logits(model.hidden_states(*arguments)[-1]).detach()
        nats, n_right = 0.0, 0
        for b, label in enumerate(batch["next_sentence_labels"].tolist()):
            nats -= answers[b].log_softmax(0)[label].item()
            n_right += int(answers[b].argmax() == label)
        expected["next_sentence_loss"] = nats / len(answers)
        expected["next_sentence_accuracy"] = n_right / len(answers)
        expected["loss"] += nats / len(answers)
    assert metrics.keys() == expected.keys()
    hints = dict.fromkeys(expected, "what is it divided by?")
    hints["masked_loss"] = "nats a hidden token; the model gets mask and token_type_ids, where there are any"
    hints["loss"] = "the sum of the losses of both tasks" if objective.next_sentence else "the masked loss"
    for name, value in expected.items():
        told = f"{name} {metrics[name].item():.4f}, not {value:.4f}: {hints[name]}"
        assert metrics[name].item() == pytest.approx(value, rel=1e-6), told
    assert loss.item() == metrics["loss"].item()


def test_vocabulary_logits_are_computed_at_masked_positions_only(objective, model, monkeypatch):
    seen, plain = [], model.vocabulary_logits
    counted = lambda hidden: (seen.append(hidden.shape[:-1]), plain(hidden))[1]
    monkeypatch.setattr(model, "vocabulary_logits", counted)
    batch = objective.batch(0, "train")
    objective.loss(model, batch)
    assert [shape.numel() for shape in seen] == [batch["masked_positions"].numel()]
    fullest = (batch["masked_labels"] != IGNORED).sum(1).max()
    assert batch["masked_positions"].shape[1] == fullest, "P is what the fullest row hides, no more"
    assert seen[0].numel() < 0.2 * batch["input_ids"].numel()


def test_predict_masked_gives_probabilities_without_a_gradient(objective, model):
    batch = objective.batch(0, "train")
    probabilities = predict_masked(model, batch)
    B, P = batch["masked_positions"].shape
    assert probabilities.shape == (B, P, len(objective.tokenizer.vocab))
    assert not probabilities.requires_grad, "no gradient is needed: it would keep all states in memory"
    full = model(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids")).softmax(-1)
    expected = full[torch.arange(B)[:, None], batch["masked_positions"]]
    torch.testing.assert_close(probabilities, expected.detach(), msg="softmax of the logits at hidden places")


def test_a_toy_next_sentence_set_is_learnt(byte_bpe, encoder):
    """Three first sentences, each with its own second one. Where one class never trains, this fails."""
    texts = [f"{c.upper()}{c}{c}. {d.upper()}{d}{d}." for c, d in zip("abc", "xyz", strict=True)] * 8
    objective = Masked(Corpus("toy", texts, texts), byte_bpe, 16, 32, mask_share=0.1)
    model = encoder(len(byte_bpe.vocab), d_model=32, n_head=4, d_ff=64)
    small.learn(objective, model, 150, lr=5e-3)
    batch = Masked(Corpus("toy", texts, texts), byte_bpe, 16, 200, mask_share=0.1).batch(999, "train")
    for label in (0, 1):
        rows = batch["next_sentence_labels"] == label
        part = {name: value[rows] if value.dim() else value for name, value in batch.items()}
        _, metrics = objective.loss(model, part | dict(n_row=rows.sum()))
        assert metrics["next_sentence_accuracy"] > 0.95, f"class {label} is not learnt"


def test_the_batches_are_those_of_the_figures_in_the_readmes(objective, as_in_readmes):
    expected = "83f53375" if objective.next_sentence else "69136edb"
    as_in_readmes(small.fingerprint_of_batches(objective), expected)
