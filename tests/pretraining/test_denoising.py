"""BART's objective against plain loops."""

import copy
import math
import re
from functools import partial
from itertools import combinations

import pytest
import small
import torch

from minilm.plumbing.errors import UserError
from minilm.pretraining.denoising import Denoising
from minilm.pretraining.next_sentence import sentences
from minilm.pretraining.noise import NOISES
from minilm.texts.corpus import Corpus
from minilm.training.objective import IGNORED

CONTEXT = 61
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture
def objective(tagged_corpus, bpe):
    return Denoising(tagged_corpus, bpe, CONTEXT, 9, seed=3)


@pytest.fixture
def letters(byte_bpe):
    """Texts in which each token occurs once, so that a row shows which token has survived where."""
    train = [f"{LETTERS[i:]}{LETTERS[:i]}." for i in range(len(LETTERS))]
    return Denoising(Corpus("letters", train, train[:7]), byte_bpe, 64, 16, seed=5)


@pytest.fixture
def encoder_decoder(encoder):
    return partial(encoder, pairs=False, n_decoder_layer=1)


def parse(batch: dict, b: int, bpe) -> tuple[list[int], list[int], list[int]]:
    """Read row b back, (noised ids, original ids, survived), and check its layout, plainly."""
    cls, sep, pad = (bpe.special_id(f"[{name}]") for name in ("CLS", "SEP", "PAD"))
    ids, mask = batch["input_ids"][b].tolist(), batch["attention_mask"][b].tolist()
    n = sum(mask)
    assert mask == [1] * n + [0] * (len(mask) - n), "1 on every token, 0 on padding"
    assert ids[0] == cls and ids[n - 1] == sep and ids[n:] == [pad] * (len(ids) - n), "[CLS] text [SEP] [PAD]"
    labels, decoder = batch["labels"][b].tolist(), batch["decoder_input_ids"][b].tolist()
    m = labels.index(IGNORED) if IGNORED in labels else len(labels)
    assert labels[m - 1] == sep and labels[m:] == [IGNORED] * (len(labels) - m), "text [SEP], then ignored"
    assert decoder[0] == cls and decoder[1:m] == labels[: m - 1], "the decoder reads [CLS] text"
    survived = batch["survived"][b].tolist()
    assert survived[m - 1 :] == [IGNORED] * (len(labels) - m + 1), "[SEP] and padding have no such label"
    assert set(survived[: m - 1]) <= {0, 1}
    return ids[1 : n - 1], labels[: m - 1], survived[: m - 1]


def rows_of(batch: dict, bpe) -> list[tuple]:
    return [parse(batch, b, bpe) for b in range(len(batch["labels"]))]


def test_rows_are_runs_of_whole_sentences_of_one_document(objective, bpe):
    found = "".join(bpe.decode(original) for _, original, _ in rows_of(objective.batch(0, "validation"), bpe))
    every = "".join(" " + s for text in objective.corpus.validation for s in sentences(text))
    assert found == every, "the validation batch holds every sentence once"
    edges, documents = [*combinations(range(10), 2)], [sentences(t) for t in objective.corpus.train]
    runs = [" " + " ".join(parts[i:j]) for parts in documents for i, j in edges]
    for step in range(3):
        for _, original, _ in rows_of(objective.batch(step, "train"), bpe):
            assert len(original) <= CONTEXT - 2, "a row is too long"
            assert bpe.decode(original) in runs, "a row must be whole sentences in a run"


def test_every_row_of_the_training_text_is_drawn(letters, byte_bpe):
    seen = {tuple(o) for step in range(40) for _, o, _ in rows_of(letters.batch(step, "train"), byte_bpe)}
    assert len(seen) == len(letters.texts["train"]) == len(LETTERS), "the first and the last row included"


@pytest.mark.parametrize("noise", [*NOISES, "infilling,permutation", ",".join(NOISES)])
def test_survived_says_which_tokens_the_encoder_still_reads(letters, byte_bpe, noise):
    objective, mask = letters.with_noise(noise), byte_bpe.special_id("[MASK]")
    n_lost = 0
    for step in range(8):
        for noised, original, survived in rows_of(objective.batch(step, "train"), byte_bpe):
            assert len(set(original)) == len(original) == len(LETTERS) + 2
            assert survived == [int(i in noised) for i in original], "1 where the token is still there"
            kept = [i for i in noised if i != mask]
            assert len(set(kept)) == len(kept) and set(kept) <= set(original), "a token that was not there"
            n_lost += survived.count(0)
    assert (n_lost > 0) == (noise not in ("permutation", "rotation")), "moved tokens survive"


def test_permutation_moves_whole_sentences(objective, bpe):
    moved, batch = 0, objective.with_noise("permutation").batch(0, "validation")
    for noised, original, survived in rows_of(batch, bpe):
        before, after = (re.findall(r" D[^.]*\.", bpe.decode(ids)) for ids in (original, noised))
        assert sorted(after) == sorted(before) and "".join(after) == bpe.decode(noised)
        assert survived == [1] * len(original)
        moved += before != after
    assert moved > 5


def test_a_noised_text_that_grew_is_cut_to_the_context(byte_bpe):
    text = "abcdefghi"  # with the space before it ten tokens: all that a context of 12 holds
    objective = Denoising(Corpus("short", [text], [text]), byte_bpe, 12, 200, noise="infilling")
    grown = 0
    for step in range(3):
        batch = objective.batch(step, "train")
        assert batch["input_ids"].shape[1] <= 12
        for noised, original, survived in rows_of(batch, byte_bpe):
            assert survived == [int(i in noised) for i in original], "a token that is cut off is lost"
            grown += len(noised) == 10 and 0 in survived and sum(survived) == 9
    assert grown > 5, "a span of no token inserts a [MASK], and the last token no longer fits"


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("text", ["a", "Two. 2."])
def test_short_documents_work(bpe, encoder_decoder, noise, text):
    objective = Denoising(Corpus("short", [text], [text, ""]), bpe, 100, 3, noise=noise)
    model = encoder_decoder(len(bpe.vocab), max_positions=100)
    for split in ("train", "validation"):
        batch = objective.batch(0, split)
        for _, original, _ in rows_of(batch, bpe):
            assert bpe.decode(original) == " " + text
        loss, metrics = objective.loss(model, batch)
        assert loss.isfinite() and all(value.isfinite() for value in metrics.values())


def test_denominators_are_counted(objective, bpe):
    for step, split in ((0, "train"), (1, "train"), (0, "validation")):
        batch = objective.batch(step, split)
        rows = rows_of(batch, bpe)
        assert batch["n_label"] == sum(len(o) + 1 for _, o, _ in rows), "the tokens and the [SEP] of each row"
        assert batch["n_byte"] == sum(len(bpe.decode_bytes(o)) for _, o, _ in rows), "bytes of the original"
        assert batch["n_kept"] == sum(s.count(1) for _, _, s in rows)
        assert batch["n_lost"] == sum(s.count(0) for _, _, s in rows) > 0
        assert len(rows) == (9 if split == "train" else len(objective.texts["validation"]))


def test_the_noise_is_drawn_anew_at_each_step(letters, byte_bpe):
    seen = {}
    for step in range(10):
        for noised, original, _ in rows_of(letters.batch(step, "train"), byte_bpe):
            seen.setdefault(tuple(original), []).append(tuple(noised))
    again = [texts for texts in seen.values() if len(texts) > 1]
    assert again and all(len(set(texts)) > 1 for texts in again), "a text has the same noise each time"


def test_with_noise_changes_nothing_else(objective):
    before = objective.batch(0, "train")
    other = objective.with_noise("rotation")
    assert other.noises == ("rotation",) and objective.noises == ("infilling", "permutation")
    assert other.texts is objective.texts, "the texts are encoded twice"
    assert torch.equal(other.batch(0, "train")["labels"], before["labels"]), "other texts under another noise"
    assert not torch.equal(other.batch(0, "train")["input_ids"], before["input_ids"])
    assert torch.equal(objective.batch(0, "train")["input_ids"], before["input_ids"])


def test_loss_and_metrics_equal_a_plain_loop(objective, encoder_decoder, bpe):
    model = encoder_decoder(len(bpe.vocab), head_bias=True).double()
    batch = objective.batch(0, "validation")
    lost = torch.where(batch["survived"] == 0, batch["labels"], IGNORED)
    model.vocabulary.bias.data[small.commonest(lost)] = 3.0
    nats, n_byte = 0.0, 0
    counts = {"loss": 0, "copy_accuracy": 0, "rebuilt_accuracy": 0}
    right = dict.fromkeys(counts, 0)
    cls, sep = (bpe.special_id(token) for token in ("[CLS]", "[SEP]"))
    with torch.no_grad():
        for noised, original, survived in rows_of(batch, bpe):  # each row alone, without padding
            arguments = torch.tensor([[cls, *noised, sep]]), None, None, torch.tensor([[cls, *original]])
            log_probs = model(*arguments)[0].log_softmax(-1)
            nats -= sum(log_probs[t, i].item() for t, i in enumerate([*original, sep]))
            counts["loss"] += len(original) + 1
            n_byte += len(bpe.decode_bytes(original))
            for t, (i, s) in enumerate(zip(original, survived, strict=True)):
                name = "copy_accuracy" if s else "rebuilt_accuracy"
                counts[name] += 1
                right[name] += int(log_probs[t].argmax() == i)
        loss, metrics = objective.loss(model, batch)
    assert right["copy_accuracy"] and right["rebuilt_accuracy"], "the test needs tokens that are right"
    assert loss.item() == pytest.approx(nats / counts["loss"], rel=1e-6), "nats a token of the original"
    assert metrics["loss"].item() == loss.item()
    assert metrics["bits_per_byte"].item() == pytest.approx(nats / math.log(2) / n_byte, rel=1e-6)
    for name in ("copy_accuracy", "rebuilt_accuracy"):
        assert metrics[name].item() == pytest.approx(right[name] / counts[name], rel=1e-6), name


def test_the_end_counts_for_neither_accuracy(letters, byte_bpe, encoder_decoder):
    model = encoder_decoder(len(byte_bpe.vocab), head_bias=True)
    model.vocabulary.bias.data[byte_bpe.special_id("[SEP]")] = 1e5
    metrics = letters.loss(model, letters.batch(0, "train"))[1]
    assert metrics["copy_accuracy"] == metrics["rebuilt_accuracy"] == 0


def test_unknown_noises_are_refused(objective, tagged_corpus, bpe):
    with pytest.raises(UserError, match=r"--noise maskng: expected masking.* \(did you mean 'masking'\?\)"):
        Denoising(tagged_corpus, bpe, CONTEXT, 9, noise="maskng")
    with pytest.raises(UserError, match="--noise shuffle: expected .*permutation"):
        objective.with_noise("infilling,shuffle")


def test_the_batches_are_those_of_the_figures_in_the_readmes(objective, as_in_readmes):
    as_in_readmes(small.fingerprint_of_batches(objective), "2dc2d69e")


def test_a_published_bart_reads_its_start_before_cls_and_has_no_label_for_it(tagged_corpus, bpe, objective):
    bart = copy.copy(bpe)
    bart.aliases = bpe.aliases | {"[START]": "[SEP]"}
    batch = Denoising(tagged_corpus, bart, CONTEXT, 9, 3).batch(0, "train")
    plain, first = objective.batch(0, "train"), dict(labels=IGNORED, survived=IGNORED)
    for name, before in (first | dict(decoder_input_ids=bpe.special_id("[SEP]"))).items():
        assert set(batch[name][:, 0].tolist()) == {before}, f"{name}: nothing is asked at the first token"
        others = plain[name][:, : batch[name].shape[1] - 1]
        assert torch.equal(batch[name][:, 1:], others), f"{name}: the others move by one place"
