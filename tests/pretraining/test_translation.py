"""The Transformer's objective against plain loops: layout, buckets, padding, label smoothing, translating."""

import math
import random
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import small
import torch
from mistakes import assert_right

from minilm.plumbing.errors import UserError
from minilm.pretraining import translation
from minilm.pretraining.translation import Translation, smoothed_cross_entropy
from minilm.texts.pairs import Pairs
from minilm.tokenizer.bpe import SPECIAL_TOKENS
from minilm.training.objective import IGNORED


def tagged_pairs(n: int, seed: int = 0, most: int = 9) -> list[tuple[str, str]]:
    """Pairs of different lengths that say which pair they are: ("S3 sun tree", "T3 tree sun .")."""
    rng, pairs = random.Random(seed), []
    for i in range(n):
        words = rng.choices(["sun", "tree", "a", "window", "été", "rain"], k=rng.randint(1, most))
        pairs.append((" ".join([f"S{i}", *words]), " ".join([f"T{i}", *words[::-1], "."])))
    return pairs


@pytest.fixture
def corpus():
    pairs = tagged_pairs(74)
    return Pairs("tagged", pairs[:63], pairs[63:])


@pytest.fixture
def make(corpus, bpe):
    """A function that builds the objective; some options may be given."""
    return lambda context=61, batch_size=7, seed=3, corpus=corpus, **options: Translation(
        corpus, bpe, context, batch_size, seed, **options
    )


@pytest.fixture
def objective(make):
    return make()


@pytest.fixture
def translator(encoder):
    return partial(encoder, pairs=False, n_decoder_layer=2)


def texts_of(objective, batch) -> list[tuple[str, str]]:
    """The pairs in a batch, decoded from the encoder's ids and from the labels."""

    def text(ids):
        return objective.tokenizer.decode(ids.tolist()).replace("[SEP]", "").replace("[CLS]", "").strip()

    rows = zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    return [(text(ids[mask == 1]), text(labels[labels != IGNORED])) for ids, mask, labels in rows]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_are_pairs_with_a_beginning_and_an_end(objective, corpus, split):
    bpe, batch = objective.tokenizer, objective.batch(2, split)
    pad, cls, sep = map(bpe.special_id, ("[PAD]", "[CLS]", "[SEP]"))
    pairs = getattr(corpus, split)
    assert len(batch["labels"]) == (7 if split == "train" else len(pairs))
    assert (batch["attention_mask"] == (batch["input_ids"] != pad)).all(), "attention_mask: 1 real, 0 padding"
    assert not (batch["labels"] == pad).any(), "in the labels, padding is IGNORED"
    for row, (source, target) in enumerate(texts_of(objective, batch)):
        assert (source, target) in pairs, "a source has the target of another pair"
        source, target = (bpe.encode(" " + text) for text in (source, target))
        names = ("input_ids", "attention_mask", "decoder_input_ids", "labels")
        ids, mask, decoder, labels = (batch[name][row].tolist() for name in names)
        n, m = len(source) + 2, len(target) + 1
        assert ids == [cls, *source, sep] + [pad] * (len(ids) - n), "the encoder reads [CLS] source [SEP]"
        assert mask == [1] * n + [0] * (len(ids) - n)
        assert labels == [*target, sep] + [IGNORED] * (len(labels) - m), "no padding is a label, [SEP] is one"
        assert decoder == [cls, *target] + [pad] * (len(labels) - m), "the decoder must not see its label"
    assert batch["n_label"] == (batch["labels"] != IGNORED).sum()
    texts = [target for _, target in texts_of(objective, batch)]
    assert batch["n_byte"] == sum(len((" " + text).encode()) for text in texts), "UTF-8 bytes of the targets"


def test_the_batch_is_no_wider_than_its_longest_text(objective):
    for step in range(9):
        batch = objective.batch(step, "train")
        assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]
        assert (batch["labels"] != IGNORED).sum(1).max() == batch["labels"].shape[1]
        assert batch["decoder_input_ids"].shape == batch["labels"].shape


def test_special_tokens_in_a_text_are_plain_text(byte_bpe):
    corpus = Pairs("special", [("a [SEP] b", "[PAD] [CLS]"), ("c", "d")], [("e", "f")])
    batch = Translation(corpus, byte_bpe, 30, 2).batch(0, "train")
    assert (batch["input_ids"] == byte_bpe.special_id("[SEP]")).sum() == 2
    assert (batch["labels"] == byte_bpe.special_id("[CLS]")).sum() == 0


@pytest.mark.parametrize("batch_size, n_left_out", [(7, 0), (9, 0), (10, 3), (63, 0)])
def test_an_epoch_has_each_pair_once(make, batch_size, n_left_out):
    objective = make(batch_size=batch_size)
    for epoch in (0, 5):
        chosen = objective.buckets_of(epoch).flatten().tolist()
        assert len(chosen) == len(set(chosen)) == 63 - n_left_out, "a pair is left out, or there twice"


def test_which_pairs_are_left_out_changes(make):
    objective = make(batch_size=10)
    seen = {i for epoch in range(20) for i in objective.buckets_of(epoch).flatten().tolist()}
    assert len(seen) == 63, "some pairs, say the longest, are never learnt"


def test_buckets_hold_pairs_of_similar_length(objective, corpus):
    lengths = [max(len(objective.tokenizer.encode(" " + side)) + 1 for side in pair) for pair in corpus.train]
    buckets = [[lengths[i] for i in bucket] for bucket in objective.buckets_of(0).tolist()]
    for shorter, longer in pairwise(sorted(buckets, key=lambda bucket: (min(bucket), max(bucket)))):
        assert max(shorter) <= min(longer), "two buckets overlap: sort by length before cutting"


def test_the_length_of_a_pair_is_that_of_its_longer_side(byte_bpe):
    long, short = "a " * 20, "a"
    pairs = [(long, short), (short, long), (long, long), (short, short)] * 4
    objective = Translation(Pairs("uneven", pairs, pairs), byte_bpe, 60, 4)
    batches = [objective.batch(step, "train") for step in range(4)]
    widest = sorted(max(batch["input_ids"].shape[1], batch["labels"].shape[1]) for batch in batches)
    told = "the four pairs of two short sides are one batch; of the shorter sides they are mixed with others"
    assert widest[0] < 9 < widest[1], f"widths {widest}: {told}"


def test_buckets_come_in_a_random_order_and_are_new_each_epoch(objective):
    first, second = objective.buckets_of(0), objective.buckets_of(1)
    assert first.shape == (9, 7)
    longest = objective.sources["train"].lengths[first].max(1)
    assert (np.diff(longest) < 0).any() and (np.diff(longest) > 0).any(), "short pairs first: not random"
    one, other = ({frozenset(row) for row in epoch.tolist()} for epoch in (first, second))
    assert one != other, "the same pairs stand together in every epoch"
    for step, bucket in ((9 + 4, second[4]), (4, first[4])):
        rows = objective.sources["train"].batch(bucket.tolist())["input_ids"]
        assert torch.equal(objective.batch(step, "train")["input_ids"], rows), "each bucket in its turn"


def test_fewer_pairs_than_rows_are_repeated(make):
    pairs = tagged_pairs(4)
    objective = make(batch_size=7, corpus=Pairs("few", pairs[:3], pairs[3:]))
    batch = objective.batch(5, "train")
    assert len(batch["labels"]) == 7 and set(texts_of(objective, batch)) == set(pairs[:3])


def test_long_texts_are_cut_and_counted(make, bpe, corpus):
    pairs = corpus.train + corpus.validation
    lengths = [[len(bpe.encode(" " + side)) + 2 for side in pair] for pair in pairs]
    n_cut = sum(n > 12 for pair in lengths for n in pair)
    objective = make(context=12)
    assert n_cut > 0 and objective.notes == (f"cut {n_cut} texts to fit --context 12 tokens",)
    batch = objective.batch(0, "validation")
    assert batch["input_ids"].shape[1] == 12 and batch["labels"].shape[1] == 11
    for row, (source, target) in enumerate(corpus.validation):
        for name, text, first in (("input_ids", source, 0), ("labels", target, 1)):
            ids = [bpe.special_id("[CLS]"), *bpe.encode(" " + text), bpe.special_id("[SEP]")][:12][first:]
            assert batch[name][row].tolist()[: len(ids)] == ids, "a text that was cut has not ended"
    assert make(context=max(map(max, lengths))).notes == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_equals_a_plain_loop(smoothing):
    logits = torch.randn(2, 3, 7)
    labels = torch.tensor([[6, IGNORED, 0], [IGNORED, 2, 3]])
    smoothed, plain = 0.0, 0.0
    for b in range(2):
        for t in range(3):
            if labels[b, t] == IGNORED:
                continue
            p = logits[b, t].exp() / logits[b, t].exp().sum()
            for k in range(7):
                q = (1 - smoothing) * (k == labels[b, t].item()) + smoothing / 7
                smoothed -= q * p[k].log().item()
            plain -= p[labels[b, t]].log().item()
    logs, counted, at = logits.log_softmax(-1), labels != IGNORED, labels.clamp(min=0)[..., None]
    right, raw = logs.gather(-1, at)[..., 0], logits.gather(-1, at)[..., 0]
    wrong_ones = (logs.sum(-1) - right) * counted
    sums = lambda on, off: -(on * (right * counted).sum() + off * wrong_ones.sum())
    n, all_plain = counted.sum(), -right.sum()
    both = {
        "IGNORED labels count as token 0": (
            (1 - smoothing) * all_plain - smoothing * logs.mean(-1).sum(), all_plain
        ),
        "the mean over the labels is taken, not the sum": (smoothed / n, plain / n),
        "the logits count as log-probabilities: log_softmax is missing": (
            -(((1 - smoothing) * raw + smoothing * logits.mean(-1)) * counted).sum(), -(raw * counted).sum()
        ),
        "the minus is missing": (-smoothed, -plain),
        "the two sums are swapped": (plain, smoothed),
    }  # fmt: skip
    swapped = sums(smoothing + (1 - smoothing) / 7, (1 - smoothing) / 7)
    first = {name: value for name, (value, _) in both.items()} | {
        "`smoothing` is shared by the V - 1 other tokens, not by all V": sums(1 - smoothing, smoothing / 6),
        "the right token keeps its full weight 1, not 1 - smoothing": sums(1 + smoothing / 7, smoothing / 7),
        "the weights are swapped: the plain part must get 1 - smoothing": swapped,
        "the uniform part is a sum over V, not a mean": sums(1, smoothing),
        "the uniform part counts IGNORED labels": (1 - smoothing) * plain - smoothing * logs.mean(-1).sum(),
        "nothing is smoothed": plain,
        "the right token gets no part of the uniform distribution": sums(1 - smoothing, smoothing / 7),
    }
    second = {name: value for name, (_, value) in both.items()} | {
        "the plain sum is smoothed too": smoothed,
        "the plain sum is the uniform part": -(logs.mean(-1) * counted).sum(),
        "the plain sum is scaled by 1 - smoothing": (1 - smoothing) * plain,
    }
    found = smoothed_cross_entropy(logits, labels, smoothing)
    assert isinstance(found, tuple) and len(found) == 2, "return two sums, the smoothed and the plain one"
    told = f"smoothing {smoothing}: "
    assert_right(found[1], plain, second, what=told + "the plain sum")
    assert_right(found[0], smoothed, first, what=told + "the smoothed sum")
    moving = logits.clone().requires_grad_()
    found = smoothed_cross_entropy(moving, labels, smoothing)
    assert found[0].requires_grad, "no gradient reaches the logits"


def test_loss_and_metrics_equal_a_plain_loop(objective, translator):
    bpe = objective.tokenizer
    model, batch = translator(len(bpe.vocab), head_bias=True).double(), objective.batch(0, "validation")
    model.vocabulary.bias.data[small.commonest(batch["labels"])] = 3.0
    smoothed, plain, n, n_right, n_byte = 0.0, 0.0, 0, 0, 0
    for source, target in objective.corpus.validation:  # one at a time, so without any padding
        source, target = ([*bpe.encode(" " + text), bpe.special_id("[SEP]")] for text in (source, target))
        source, decoder = [bpe.special_id("[CLS]"), *source], [bpe.special_id("[CLS]"), *target[:-1]]
        log_probs = model(torch.tensor([source]), decoder_input_ids=torch.tensor([decoder]))[0]
        log_probs = log_probs.log_softmax(-1).tolist()
        for t, label in enumerate(target):
            V = len(log_probs[t])
            plain -= log_probs[t][label]
            smoothed -= sum(log_probs[t]) * 0.1 / V + 0.9 * log_probs[t][label]
            n, n_right = n + 1, n_right + (max(log_probs[t]) == log_probs[t][label])
            n_byte += len(bpe.vocab[label]) if label != bpe.special_id("[SEP]") else 0
    assert 0 < n_right < n, "the test needs tokens that are right, and others"
    loss, metrics = objective.loss(model, batch)
    assert loss.item() != pytest.approx(plain / n, rel=1e-6), "the loss is the smoothed one"
    told = "smoothed nats a label; the encoder's padding must not be seen"
    assert loss.item() == pytest.approx(smoothed / n, rel=1e-6), told
    assert metrics["loss"].item() == loss.item()
    assert metrics["plain_loss"].item() == pytest.approx(plain / n, rel=1e-6)
    assert metrics["bits_per_byte"].item() == pytest.approx(plain / math.log(2) / n_byte, rel=1e-6)
    assert metrics["accuracy"].item() == pytest.approx(n_right / n, rel=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_out_of_range_is_refused(make, smoothing):
    with pytest.raises(UserError, match="--label-smoothing"):
        make(label_smoothing=smoothing)


def test_smoothing_is_the_option(make, translator):
    batch, model = make().batch(0, "train"), translator(330)
    without = make(label_smoothing=0.0).loss(model, batch)[1]
    with_it = make(label_smoothing=0.3).loss(model, batch)[1]
    assert without["loss"] == without["plain_loss"] == with_it["plain_loss"] != with_it["loss"]


def test_translate_gives_each_text_its_own_translation(make, translator):
    """Greedy, by a loop without cache or batch, for a model whose answers differ widely."""
    objective = make(context=24, batch_size=1)
    bpe = objective.tokenizer
    model = translator(len(bpe.vocab), init_std=0.9)
    texts = [source for source, _ in objective.corpus.validation]
    specials = [bpe.special_id(token) for token in SPECIAL_TOKENS]
    begin, end, expected = bpe.special_id("[CLS]"), bpe.special_id("[SEP]"), []
    for text in texts:
        source = torch.tensor([[begin, *bpe.encode(" " + text), end]])[:, :24]
        ids = [begin]
        while len(ids) < 25 and ids[-1] != end:
            logits = model(source, decoder_input_ids=torch.tensor([ids]))[0, -1]
            logits[[i for i in specials if i != end]] = -math.inf
            ids.append(int(logits.argmax()))
        expected.append(bpe.decode([i for i in ids if i not in specials]).strip())
    found = objective.translate(model, texts)
    assert len(set(expected)) > 5, "the test needs different translations"
    assert sorted(found) != sorted(expected) or found == expected, "in another order than their texts"
    assert not any("[" in text for text in found), "[CLS] and [SEP] are not shown"
    assert found == expected, "each text's own greedy translation, in the order of the texts"
    assert objective.translate(model, texts, n_beam=3) != found
    assert objective.translate(model, texts[:1]) == found[:1]


def test_translate_stays_within_the_positions(make, translator):
    objective = make(context=16)
    model = translator(len(objective.tokenizer.vocab), max_positions=16)
    assert len(objective.translate(model, ["window " * 50, "a"])) == 2


def test_a_small_model_learns_to_translate(byte_bpe, translator):
    """Letters become other letters, in the opposite order, and no text was seen before."""
    rng = random.Random(0)
    sources = sorted({"".join(rng.choices("abcd", k=rng.randint(1, 4))) for _ in range(900)})
    rng.shuffle(sources)
    pairs = [(text, text[::-1].upper()) for text in sources]
    objective = Translation(Pairs("letters", pairs[30:], pairs[:30]), byte_bpe, 8, 64)
    model = translator(262, max_positions=8, n_decoder_layer=1, d_model=32, n_head=4, d_ff=64)
    small.learn(objective, model, 120, lr=1e-2)
    found = objective.translate(model, [source for source, _ in pairs[:30]])
    n_right = sum(ours == theirs for ours, (_, theirs) in zip(found, pairs[:30], strict=True))
    assert n_right >= 20, f"{n_right} of 30 right: does the decoder see the source, and not its own label?"


def test_the_batches_are_those_of_the_figures_in_the_readmes(objective, as_in_readmes):
    as_in_readmes(small.fingerprint_of_batches(objective), "94c2bc1e")


def test_four_times_the_rows_of_a_step_are_translated_at_a_time(make, translator, monkeypatch):
    """Without gradients a row takes less memory."""
    seen = []
    generate = lambda _, given, **how: seen.append((len(given), how)) or [[0]] * len(given)
    monkeypatch.setattr(translation, "generate", generate)
    make(context=24, batch_size=2).translate(translator(330), [f"sun {i}" for i in range(19)])
    assert [n for n, _ in seen] == [8, 8, 3] and {how["n_beam"] for _, how in seen} == {1}
    assert {how["max_new_tokens"] for _, how in seen} == {24}, "as far as the positions go"
