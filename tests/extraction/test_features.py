"""Grades extraction/features.py: the right layer, the right tokens, no padding, the order of the texts."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
import tuned

from minilm.extraction import features
from minilm.extraction.features import Reading, checked_rows, embed, extract, extract_tokens
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import RaggedRows, word_rows

TOKENIZER = small.tokenizer()
TEXTS = ["Rui sells bread.", "Ana found a lamp on Monday. Rui likes two red pens.", "Ana sells pens.", "Ana"]
D, L = tuned.config().d_model, 3


def make(kind: str, **changes) -> torch.nn.Module:
    """A model with dropout, in training mode, with 3 blocks in the stack that is read."""
    blocks = {"n_decoder_layer" if kind == "decoder" else "n_encoder_layer": L}
    return tuned.body(kind, **blocks | dict(dropout=0.5) | changes).train()


def plain(model, text: str, how: Reading) -> np.ndarray:
    """The slow reference: one text at a time, no padding, a loop over tokens."""
    model.eval()
    rows = checked_rows(TOKENIZER, model.config, [text])
    with torch.no_grad():
        states = [x[0].numpy() for x in model.hidden_states(torch.tensor(list(rows)))]  # L + 1 of (T, D)
    model.train()
    last_4 = [sum(state) / len(state) for state in states[-4:]]
    one = states[how.layer]
    highest = np.array([max(token[d] for token in one) for d in range(D)])
    vectors = dict(cls=one[0], mean=sum(one) / len(one), max=highest, last=one[-1])
    vectors |= {"mean-last-4": sum(last_4) / 4, "concat-last-4": np.concatenate(last_4)}
    return vectors[how.pooling]


@pytest.mark.parametrize("positions", ["learned", "alibi"])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "encoder-decoder"])
def test_every_reading_equals_a_plain_loop_over_single_texts(kind, positions):
    model = make(kind, positions=positions)
    readings = [Reading(layer, pooling) for layer in range(L + 1) for pooling in features.ONE_LAYER]
    readings += [Reading(-1, pooling) for pooling in features.LAST_4]
    rows = checked_rows(TOKENIZER, model.config, TEXTS)
    for found, how in zip(extract(model, rows, readings, tokens_per_batch=45), readings, strict=True):
        assert found.dtype == np.float32
        for vector, text in zip(found, TEXTS, strict=True):
            why = f"{how}: padding counted, wrong layer, dropout on, or rows in the order of their length?"
            assert vector == pytest.approx(plain(model, text, how), abs=1e-5), why
    assert model.training, "the model must be left as it was"


def test_pooling_never_reads_padding():
    states = [torch.randn(2, 5, 3) for _ in range(5)]
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    for pooling in features.POOLINGS:
        how = Reading(-1 if pooling in features.LAST_4 else 2, pooling)
        before = features.pool(states, real, how)
        poisoned = [state.masked_fill(~real[..., None], 1e6) for state in states]
        assert torch.allclose(features.pool(poisoned, real, how), before), f"{pooling} counts padding"
        unpadded = (features.pool(states, mask, how) for mask in (torch.ones_like(real), None))
        assert torch.allclose(*unpadded, atol=1e-6), pooling
        assert before.shape == (2, 12 if pooling == "concat-last-4" else 3)
    below = [state - 10 for state in states]  # all below 0: padding counted as 0 would be the greatest
    assert torch.allclose(features.pool(below, real, Reading(1, "max"))[1], below[1][1, :2].amax(0))


def test_layers_count_from_both_ends():
    config = make("encoder-decoder").config  # of the encoder's 3 blocks, not the decoder's 1
    assert features.n_layer(config) == L, "the blocks of the encoder, if there is one, else of the decoder"
    assert features.reading(config) == Reading(L, "mean"), "-1 is the last of n_layer + 1 states: n_layer"
    assert [features.reading(config, layer).layer for layer in (0, 1, L, -1, -L - 1)] == [0, 1, L, L, 0]
    assert features.reading(config, -1, "mean-last-4") == Reading(-1, "mean-last-4")
    there = rf"the model has layers 0 \(embeddings\) to {L}"
    for layer, pooling, told in (
        (L + 1, "mean", f"--layer {L + 1}: {there}"),
        (-L - 2, "mean", f"--layer {-L - 2}: {there}"),
        (2, "concat-last-4", "leave --layer out"),
        (-1, "meen", "did you mean 'mean'"),
    ):
        with pytest.raises(UserError, match=told):
            features.reading(config, layer, pooling)


def test_batches_hold_rows_of_like_length_the_longest_first():
    lengths = [3, 9, 4, 9, 1, 30]
    batches = features.batches_of(lengths, 18)
    told = "rows by length, the longest first; rows times the longest of a batch are 18 tokens at most"
    assert [batch.tolist() for batch in batches] == [[5], [1, 3], [2, 0, 4]], told
    assert features.batches_of([], 18) == []
    for lengths, n, sizes in (([1] * 7, 3, [3, 3, 1]), ([9, 8, 4, 4], 8, [1, 1, 2])):
        assert [len(batch) for batch in features.batches_of(lengths, n)] == sizes, "one row may be longer"


def test_hidden_batches_give_no_mask_where_nothing_is_padded():
    model = make("encoder")
    rows = checked_rows(TOKENIZER, model.config, [TEXTS[0], TEXTS[0], TEXTS[1]])
    shapes = [(len(i), x[0].shape[1], real) for i, x, real in features.hidden_batches(model, rows, 25)]
    lengths = rows.lengths.tolist()
    assert shapes == [(1, lengths[2], None), (2, lengths[0], None)]
    ((_, states, real),) = features.hidden_batches(model, rows, 1000)
    assert real.sum(1).tolist() == sorted(lengths, reverse=True)
    assert len(states) == L + 1 and not states[0].requires_grad


def test_embed_gives_the_vectors_in_the_order_of_the_texts():
    model = make("encoder")
    found = embed(model, TOKENIZER, (text for text in TEXTS))
    assert found.shape == (4, D) and found.dtype == np.float32
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(found[i], plain(model, text, Reading(L, "mean")), atol=1e-5)
    assert embed(model, TOKENIZER, [], pooling="concat-last-4").shape == (0, 4 * D)


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_tokens_are_those_of_the_row_alone(kind):
    model, words = small.model(kind), [["Ana", "likes", "Wollongong"], ["Rui", "sat", "."]]
    rows, _ = word_rows(TOKENIZER, model.config, words, 24)
    for ids, found in zip(rows, extract_tokens(model, rows, 1, tokens_per_batch=100), strict=True):
        expected = model.hidden_states(torch.tensor([ids]))[1][0].detach()
        assert found.dtype == np.float32 and found.base is None
        assert found.shape == expected.shape, "the row's own tokens, without the padding of its batch"
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cannot_be_read_is_named():
    model = make("encoder")
    for tokenizer, texts, found in (
        (TOKENIZER, ["Ana", " \n"], r"text 1 \(counted from 0\) is empty"),
        (None, ["Ana"], "no tokenizer"),
        (TOKENIZER, "Ana", "a list of texts"),
    ):
        with pytest.raises(UserError, match=found):
            embed(model, tokenizer, texts)
    broken = make("encoder")
    torch.nn.init.constant_(broken.tokens.weight, float("nan"))
    with pytest.raises(UserError, match="states are NaN or infinite"):
        embed(broken, TOKENIZER, ["Ana"])
    long = "Ana sells bread. " * 40
    with pytest.warns(UserWarning, match="2 of 3 texts are longer than 40 tokens and were cut") as said:
        assert np.isfinite(embed(model, TOKENIZER, [long, "Ana", long])).all()
    assert len(said) == 1 and said[0].filename == __file__, "a warning about the line that calls"


def test_nearest_sorts_by_angle_not_by_length():
    vectors = np.array([[10.0, 10.0], [1.0, 0.1], [-5.0, 0.0], [0.0, 0.0]])
    found = features.nearest(vectors, np.array([2.0, 0.0]), 4)
    told = "the greatest cosine first: both vectors divided by their lengths"
    assert [i for i, _ in found] == [1, 0, 3, 2], told
    assert found[1][1] == pytest.approx(0.5**0.5) and found[3][1] == pytest.approx(-1)
    assert len(features.nearest(vectors, np.array([2.0, 0.0]), 2)) == 2
    assert len(features.nearest(np.eye(9), np.ones(9))) == 5, "where no number is given"


@pytest.mark.parametrize("n_layer, n_read", [(1, 2), (2, 3), (3, 4), (5, 4)])
def test_the_last_four_are_four_or_all_that_there_are(n_layer, n_read):
    model = make("encoder", n_encoder_layer=n_layer)
    rows = checked_rows(TOKENIZER, model.config, TEXTS[:1])
    mean, concat = extract(model, rows, [Reading(-1, pooling) for pooling in features.LAST_4])
    model.eval()
    states = model.hidden_states(torch.tensor(list(rows)))[-n_read:]
    each = [state[0].mean(0).detach().numpy() for state in states]
    told = "the last states, the deepest at the end"
    assert concat[0] == pytest.approx(np.concatenate(each), abs=1e-5), told
    assert mean[0] == pytest.approx(sum(each) / n_read, abs=1e-5), "the mean of the last states"


@pytest.mark.parametrize("device, n_token", [("cpu", 1024), ("cuda", 16384), ("mps", 16384)])
def test_so_many_tokens_are_read_at_a_time(device, n_token, monkeypatch):
    weight, asked = SimpleNamespace(device=torch.device(device)), []
    fake, rows = SimpleNamespace(tokens=SimpleNamespace(weight=weight)), RaggedRows([[1]], 0)
    monkeypatch.setattr(features, "batches_of", lambda lengths, n: asked.append(n) or [])
    monkeypatch.setattr(features, "evaluation_mode", lambda model: nullcontext())
    list(features.hidden_batches(fake, rows)), list(features.hidden_batches(fake, rows, 7))
    assert asked == [n_token, 7]
