"""GPT's objective against plain loops."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import small
from mistakes import assert_right

from minilm.plumbing.errors import UserError
from minilm.pretraining import causal
from minilm.pretraining.causal import Causal, overlapping_windows, token_stream
from minilm.texts.corpus import Corpus
from minilm.training.objective import IGNORED

END = "<|endoftext|>"


@pytest.fixture
def objective(tagged_corpus, bpe):
    return Causal(tagged_corpus, bpe, context=13, batch_size=5, seed=3)


def test_stream_has_the_end_token_around_every_document(bpe):
    end = bpe.special_id(END)
    stream = token_stream(bpe, ["été", "a tree"], end)
    told = "one end token before the first document, and one after each"
    assert stream.tolist() == [end, *bpe.encode("été"), end, *bpe.encode("a tree"), end], told
    assert token_stream(bpe, [], end).tolist() == [end]


def test_special_tokens_in_a_document_are_plain_text(bpe):
    stream = token_stream(bpe, [f"a {END} b", "[MASK]"], bpe.special_id(END))
    assert (stream == bpe.special_id(END)).sum() == 3, "a document can end itself: encode it as plain text"
    assert bpe.special_id("[MASK]") not in stream
    assert bpe.decode(stream) == f"{END}a {END} b{END}[MASK]{END}"


def test_labels_are_the_inputs_one_later(objective):
    stream = objective.streams["train"].tolist()
    windows = {tuple(stream[i : i + 14]) for i in range(len(stream) - 13)}
    for step in range(20):
        batch = objective.batch(step, "train")
        assert batch["input_ids"].shape == batch["labels"].shape == (5, 13)
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            assert ids[1:] == labels[:-1], "a label is the token that follows its input"
            assert (*ids, labels[-1]) in windows, "a row must be a piece of the training text"


def test_training_windows_start_anywhere(bpe):
    text = "abcdefghijk"  # with an end token on both sides 13 tokens: 4 windows of 9 + 1
    objective = Causal(Corpus("letters", [text], [text]), bpe, context=9, batch_size=64)
    stream = objective.streams["train"].tolist()
    starts = {stream.index(i) for i in objective.batch(0, "train")["input_ids"][:, 0].tolist()}
    assert starts == {0, 1, 2, 3}, "each place of the text starts a window, the first and the last included"


def test_training_counts(objective):
    batch = objective.batch(1, "train")
    assert batch["n_label"] == 5 * 13
    kept = [i for i in batch["labels"].flatten().tolist() if i != objective.tokenizer.special_id(END)]
    told = "bytes of the labels, not of the inputs; an end token has none"
    assert batch["n_byte"] == sum(len(objective.tokenizer.vocab[i]) for i in kept), told


@pytest.mark.parametrize("T", [1, 2, 5, 8])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 10, 21, 32, 33])
def test_validation_labels_each_token_once_with_context(T, n):
    stream = np.arange(n) + 100  # so that a token says where it stands
    inputs, labels = overlapping_windows(stream, T)
    assert inputs.shape == labels.shape and inputs.shape[1] == T, "inputs and labels must both be (N, T)"
    counted, is_last = labels != IGNORED, inputs == stream[-1]
    assert (inputs[:, 0] == stream[0]).any(), "no window begins where the text begins"
    for row, place in np.argwhere(counted & is_last).tolist():
        told = f"window {row}, place {place}: the text ends there, so its label must be IGNORED"
        raise AssertionError(told)
    mistakes = {"a label is its own input": np.where(counted, inputs, IGNORED)}
    right, axes = np.where(counted, inputs + 1, IGNORED), ("window", "place")
    assert_right(labels, right, mistakes, axes=axes, what="a label is the token that follows its input")
    times = Counter(labels[counted].tolist())
    for token in range(1, n):
        windows = np.argwhere(labels == token + 100)[:, 0].tolist()
        assert windows, f"token {token} of {n}, in windows of {T}, is the label of no window"
        told = f"token {token} is a label in windows {windows}: it must be IGNORED in the later ones"
        assert times[token + 100] == 1, told
    if n == 1:
        return  # a text of one token has nothing to predict
    for row, (ids, has_label) in enumerate(zip(inputs.tolist(), counted.tolist(), strict=True)):
        assert any(has_label), "each window must have a label"
        first, last = has_label.index(True), max(t for t in range(T) if has_label[t])
        told = f"the first label of window {row} has a context of {first + 1}: do windows overlap by half?"
        assert row == 0 or first + 1 >= T / 2, told
        assert all(b == a + 1 for a, b in pairwise(ids[: last + 1])), "a window must be one piece of the text"


def test_validation_batch_covers_the_validation_text(objective):
    batch = objective.batch(0, "validation")
    labels = batch["labels"][batch["labels"] != IGNORED].tolist()
    assert labels == objective.streams["validation"].tolist()[1:]
    assert batch["n_label"] == len(labels), "labels that are IGNORED do not count"
    n_byte = sum(len(text.encode()) for text in objective.corpus.validation)
    assert batch["n_byte"] == n_byte, "bytes of the text in UTF-8; a special token is no text"


def test_loss_and_metrics_equal_a_plain_loop(objective, decoder, bpe):
    model = decoder(len(bpe.vocab)).double()
    special_ids = [bpe.special_id(token) for token in bpe.special_tokens]
    batch = objective.batch(0, "validation")
    model.vocabulary.bias.data[small.commonest(batch["labels"])] = 3.0
    logits = model(batch["input_ids"]).detach()
    nats, n, n_right, n_byte = 0.0, 0, 0, 0
    for b, row in enumerate(batch["labels"].tolist()):
        for t, label in enumerate(row):
            if label != IGNORED:
                nats -= logits[b, t].log_softmax(0)[label].item()
                n, n_right = n + 1, n_right + int(logits[b, t].argmax() == label)
                n_byte += len(bpe.vocab[label]) if label not in special_ids else 0
    assert 0 < n_right < n, "the test needs tokens that are right, and others"
    loss, metrics = objective.loss(model, batch)
    assert loss.item() == pytest.approx(nats / n, rel=1e-6), "nats a label"
    assert metrics["loss"].item() == loss.item()
    bits = nats / math.log(2) / n_byte
    assert metrics["bits_per_byte"].item() == pytest.approx(bits, rel=1e-6), "nats / ln 2 are bits; per byte"
    assert metrics["accuracy"].item() == pytest.approx(n_right / n, rel=1e-6), "right labels / labels"


def test_floor_is_the_mean_of_the_grammar(bpe, objective):
    assert objective.floor() == {}, "the grammar of this text is unknown"
    texts = ["été", "a tree."]
    floor = {"été": -2.5, "a tree.": -4.0}.get
    corpus = Corpus("known", ["the sun of yesterday and a window"], texts, floor=floor)
    n_token = sum(len(bpe.encode(text)) + 1 for text in texts)  # the end of each document is predicted too
    floor = Causal(corpus, bpe, 7, 2).floor()
    assert floor["loss"] == pytest.approx(6.5 / n_token), "nats a token, the end tokens included"
    assert floor["bits_per_byte"] == pytest.approx(6.5 / math.log(2) / (5 + 7)), "bits a byte of text"


def test_text_shorter_than_a_context_is_refused(bpe):
    text = "a tree"
    n = len(bpe.encode(text)) + 2
    Causal(Corpus("short.txt", [text], [text]), bpe, n - 1, 2).batch(0, "train")
    with pytest.raises(UserError, match=rf"short\.txt: {n} training tokens.*--context {n}"):
        Causal(Corpus("short.txt", [text], [text]), bpe, n, 2)


def test_sample_continues_the_prompt_until_the_end_token(objective, decoder, monkeypatch):
    bpe, seen, plain = objective.tokenizer, [], causal.generate
    note = lambda model, prompts, *given, **how: seen.extend(prompts) or plain(model, prompts, *given, **how)
    monkeypatch.setattr(causal, "generate", note)
    model = decoder(len(bpe.vocab) + 3)
    model.vocabulary.bias.data[-3:] = 1e6  # rows without a token, as a published model may have
    letter = bpe.encode("x")[0]
    model.vocabulary.bias.data[letter] = 1e4
    assert objective.sample(model, n_token=4, prompt="été") == "étéxxxx", "end tokens are not shown"
    told = "a text begins behind an end token, as in training"
    assert seen == [[bpe.special_id(END), *bpe.encode("été")]], told
    model.vocabulary.bias.data[bpe.special_id(END)] = 1e5
    assert objective.sample(model, n_token=4, prompt="été") == "été", "the end ends a text and is not shown"


def test_the_batches_are_those_of_the_figures_in_the_readmes(objective, as_in_readmes):
    as_in_readmes(small.fingerprint_of_batches(objective), "5faf67d8")


def test_counts_of_the_shortest_validation_text(byte_bpe):
    """One label of one byte is divided by 1, none at all by 1 too."""
    objective = Causal(Corpus("short", ["abcd" * 9], ["x"]), byte_bpe, 8, 2)
    objective.streams["validation"] = objective.streams["validation"][:2]
    batch = objective.batch(0, "validation")
    assert (batch["n_label"], batch["n_byte"]) == (1, 1)
    objective.streams["validation"] = objective.streams["validation"][:1]
    batch = objective.batch(0, "validation")
    assert (batch["n_label"], batch["n_byte"]) == (1, 1), "0 / 0 is no loss"


def test_a_sample_has_100_tokens_drawn_at_temperature_0_8(objective, decoder, monkeypatch):
    asked = []
    monkeypatch.setattr(causal, "generate", lambda *given, **how: asked.append((*given[1:], how)) or given[1])
    model = decoder(len(objective.tokenizer.vocab))
    assert objective.sample(model) == ""
    (([ids], n_token, how),) = asked
    assert ids == [how["eos_id"]] == [objective.tokenizer.special_id(END)] and n_token == 100
    assert (how["temperature"], how["seed"]) == (0.8, 3), "those of the texts in the READMEs"
