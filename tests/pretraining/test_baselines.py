"""Grades pretraining/baselines.py: what trivial methods reach, against plain loops."""

import math
from collections import Counter

import numpy as np
import pytest
from oracle import Oracle, place_in

from minilm import world
from minilm.pretraining import baselines
from minilm.pretraining.noise import NOISES
from minilm.training.objective import IGNORED


def hidden_tokens(objective) -> list[int]:
    labels = objective.batch(0, "validation")["masked_labels"]
    return labels[labels != IGNORED].tolist()


def test_slot_accuracy_is_1_for_any_thing_of_the_place(objective, world_bpe):
    model = Oracle(world_bpe, lambda text: {" " + world.THINGS[place_in(text)][-1]: 1.0})
    assert baselines.slot_accuracy(objective, model) == 1.0, "any thing of the same place counts"
    assert set(model.n_blank) == {1}, "one thing a row is hidden"
    assert sum(model.n_row) == len(objective.texts["validation"]) == 60
    assert max(model.n_row) <= 16, "more rows at a time than the user's --batch-size: memory"


def test_slot_accuracy_is_0_for_things_of_another_place_and_for_other_words(objective, world_bpe):
    def elsewhere(text):
        place = world.PLACES.index(place_in(text))
        return {" " + world.THINGS[world.PLACES[place - 1]][0]: 1.0}

    assert baselines.slot_accuracy(objective, Oracle(world_bpe, elsewhere)) == 0.0
    for word in (" the", ".", "[MASK]", "[PAD]"):
        assert baselines.slot_accuracy(objective, Oracle(world_bpe, lambda text, w=word: {w: 1.0})) == 0.0


def test_slot_accuracy_hides_things_only(objective, world_bpe):
    true, seen = objective.texts["validation"].rows(np.arange(60))["input_ids"], []
    model = Oracle(world_bpe, lambda text: seen.append(text) or {" the": 1.0})
    baselines.slot_accuracy(objective, model)
    for ids, shown in zip(true.tolist(), seen, strict=True):
        before, after = shown.split("[MASK]")
        word = world_bpe.decode(ids)[len(before) : -len(after)]
        assert world.place_of(word.strip()), f"{word!r} is hidden, which is no thing"


def validation_rows(objective):
    """(noised ids, label ids, survived) of each validation row, without [CLS] and padding."""
    batch, pad = objective.batch(0, "validation"), objective.tokenizer.special_id("[PAD]")
    columns = (batch[name].tolist() for name in ("input_ids", "labels", "survived"))
    for ids, labels, survived in zip(*columns, strict=True):
        n = sum(label != IGNORED for label in labels)
        yield [i for i in ids[1:] if i != pad], labels[:n], survived[: n - 1]


def learnt_from(objective, end: list[int]) -> list[int]:
    """The tokens of the training texts, each text followed by `end`."""
    bpe = objective.tokenizer
    return [i for text in objective.corpus.train for i in bpe.encode(" " + text) + end]


def nats_per_token(learnt: list[int], asked: list[int], V: int) -> float:
    counts = Counter(learnt)
    n_seen = len(counts)  # Witten and Bell 1991
    nats = [-math.log((counts[i] + n_seen / V) / (len(learnt) + n_seen)) for i in asked]
    return sum(nats) / len(nats)


def test_unigram_loss_equals_a_plain_loop(tiny, byte_bpe):
    found = baselines.unigram_loss(tiny, tiny.texts["train"].ids, "masked_labels")
    expected = nats_per_token(learnt_from(tiny, []), hidden_tokens(tiny), len(byte_bpe.vocab))
    assert found == pytest.approx(expected), "counted in training, in nats"


def test_unigram_loss_with_ends_equals_a_plain_loop(denoising, byte_bpe):
    train = denoising.texts["train"]
    found = baselines.unigram_loss(denoising, train.ids, "labels", n_end=len(train))
    asked = [i for _, labels, _ in validation_rows(denoising) for i in labels]
    learnt = learnt_from(denoising, [byte_bpe.special_id("[SEP]")])
    assert found == pytest.approx(nats_per_token(learnt, asked, len(byte_bpe.vocab))), "an end is a token too"


def assert_commonest_share(objective, asked: list[int]) -> None:
    ((commonest, _),) = Counter(learnt_from(objective, [])).most_common(1)
    expected = asked.count(commonest) / len(asked)
    assert 0 < expected < 1, "the test needs a commonest token that is asked for at times"
    assert baselines.commonest_share(objective) == pytest.approx(expected), "a share of what is asked for"


def test_commonest_share_of_hidden_tokens_equals_a_plain_loop(objective):
    labels = objective.batch(0, "validation")["masked_labels"]
    assert (labels == IGNORED).any(), "the test needs rows that hide fewer tokens"
    assert_commonest_share(objective, hidden_tokens(objective))


def test_commonest_share_of_lost_tokens_equals_a_plain_loop(denoising):
    rows = [zip(labels, alive, strict=False) for _, labels, alive in validation_rows(denoising)]
    assert_commonest_share(denoising, [i for row in rows for i, kept in row if not kept])


def plain_pairs(objective, split, n):
    """(tokens of A, tokens of B, whether B follows) of each pair, read from the rows one by one."""
    rows = objective.rows(split, objective.generator(0, split), n)
    sep, pairs = objective.tokenizer.special_id("[SEP]"), []
    for ids, label in zip(rows["input_ids"].tolist(), rows["next_sentence_labels"].tolist(), strict=True):
        middle = ids.index(sep)
        end = ids.index(sep, middle + 1)
        pairs.append((set(ids[1:middle]), set(ids[middle + 1 : end]), label == 0))
    return pairs[:n]


@pytest.mark.parametrize("split, n", [("train", 40), ("validation", 40), ("validation", 3)])
def test_pair_words_are_the_tokens_of_each_side(tiny, split, n):
    a, b, follows = baselines.pair_words(tiny, split, n)
    expected = plain_pairs(tiny, split, n)
    assert len(a) == len(b) == len(follows) == len(expected) <= n
    for i, (in_a, in_b, label) in enumerate(expected):
        assert set(np.flatnonzero(a[i])) == in_a and set(np.flatnonzero(b[i])) == in_b
        assert follows[i] == label, "0 is the class of a B that follows"


@pytest.mark.parametrize("fixture", ["tiny", "objective"])
def test_shared_word_accuracy_equals_a_plain_loop(fixture, request):
    objective = request.getfixturevalue(fixture)
    train, validation = plain_pairs(objective, "train", 2000), plain_pairs(objective, "validation", 2000)
    texts = [a for a, _, _ in train] + [b for _, b, _ in train]
    share = {i: sum(i in text for text in texts) / len(texts) for i in objective.tokenizer.vocab}

    def accuracy(pairs, limit):
        right = [any(share[i] <= limit for i in a & b) == follows for a, b, follows in pairs]
        return sum(right) / len(right)

    limits = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    best = max(limits, key=lambda limit: accuracy(train, limit))
    told = "the limit is chosen on training pairs and tried on validation pairs"
    assert baselines.shared_word_accuracy(objective) == pytest.approx(accuracy(validation, best)), told


@pytest.mark.parametrize("noise", ["infilling,permutation", *NOISES])
def test_standing_share_equals_a_plain_loop(denoising, noise):
    objective = denoising.with_noise(noise)
    stands = n_kept = 0
    for noised, labels, survived in validation_rows(objective):
        for t, alive in enumerate(survived):
            n_kept += alive
            stands += alive and t < len(noised) and noised[t] == labels[t]
    share = baselines.standing_share(objective)
    assert share == pytest.approx(stands / n_kept)
    assert (share == 1) == (noise == "masking"), "masking alone leaves every token at its place"


@pytest.mark.parametrize("limit", [0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
def test_a_shared_word_may_be_as_rare_as_each_limit_and_no_more_frequent(limit, monkeypatch):
    """One token at the limit tells that B follows; one a text more frequent is shared where B does not."""
    n, n_row = round(1000 * limit), 1000
    a, b = np.zeros((2, n_row, 2), dtype=bool)
    a[:n, 0] = b[:n, 0] = True
    a[n_row - n :, 1] = b[n_row - n :, 1] = True
    follows = np.arange(n_row) < n
    a[0, 1] = True
    monkeypatch.setattr(baselines, "pair_words", lambda *_: (a, b, follows))
    assert baselines.shared_word_accuracy(None) == 1.0, f"{limit} is none of the limits that are tried"
