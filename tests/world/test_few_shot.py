"""In-context documents: the mapping is new every time, and what is held out stays out."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from minilm.plumbing.errors import UserError
from minilm.world import (
    HELD_OUT_THINGS,
    HELD_OUT_VERBS,
    MOODS,
    NAMES,
    PLACES,
    SINGULAR_OF,
    VERBS,
    parses,
    place_of,
)
from minilm.world import few_shot as fs

HELD_OUT = {thing for things in HELD_OUT_THINGS.values() for thing in things}


def few_shots(kind, n=200, **options):
    return [fs.few_shot_pairs(0, index, kind, **options) for index in range(n)]


def test_words_of_the_documents_are_no_words_of_the_stories():
    known = {*SINGULAR_OF, *NAMES, *PLACES, *(verb for verbs in VERBS.values() for verb in verbs)}
    assert len(set(fs.LABEL_WORDS)) == 8 and len(set(fs.NONCE_WORDS)) == 40
    assert not {*fs.LABEL_WORDS, *fs.NONCE_WORDS} & known
    assert not set(fs.LABEL_WORDS) & set(fs.NONCE_WORDS)


@pytest.mark.parametrize("kind", fs.KINDS)
def test_documents_are_deterministic_and_have_nine_pairs(kind):
    documents = few_shots(kind)
    assert documents == few_shots(kind)
    assert all(len(pairs) == 9 and all(len(pair) == 2 for pair in pairs) for pairs in documents)
    assert len({tuple(pairs) for pairs in documents}) > 190
    assert fs.few_shot_pairs(1, 0, kind) != documents[0]


def test_held_out_pairs_are_two_labels_of_eight_a_place():
    for place in PLACES:
        held = [label for label in fs.LABEL_WORDS if fs.held_out_pair(place, label)]
        assert len(held) == 2
        thing = fs.KNOWN_THINGS[place][0]
        assert fs.labels_for(thing, "test") == held
        assert set(fs.labels_for(thing, "train")) == set(fs.LABEL_WORDS) - set(held)
    assert fs.labels_for("bozak", "train") == fs.labels_for("bozak", "test") == list(fs.LABEL_WORDS)


def test_lookup_repeats_a_few_keys_with_their_label():
    nonce = 0
    for pairs in few_shots("lookup"):
        labels = dict(pairs)
        assert all(labels[key] == label for key, label in pairs), "a key has two labels"
        assert len(labels) <= 4 and len(set(labels.values())) == len(labels)
        assert pairs[-1] in pairs[:-1], "the key that is asked must have stood before"
        nonce += sum(key in fs.NONCE_WORDS for key in labels) / len(labels) / 200
    assert 0.2 < nonce < 0.4


def test_category_labels_follow_the_place():
    for pairs in few_shots("category"):
        by_place = {}
        for key, label in pairs:
            assert by_place.setdefault(place_of(key), label) == label, "the label must depend on the place"
        assert len(by_place) <= 2 and len(set(by_place.values())) == len(by_place)
    assert {place_of(key) for pairs in few_shots("category") for key, _ in pairs} == set(PLACES)


def test_repeat_documents_repeat():
    periods = Counter()
    for pairs in few_shots("repeat"):
        words = [word for pair in pairs for word in pair]
        period = next(p for p in range(1, 18) if all(words[i] == words[i - p] for i in range(p, 18)))
        periods[period] += 1
    assert set(periods) == set(range(3, 10))


@pytest.mark.parametrize("kind", fs.KINDS)
def test_training_documents_have_no_held_out_item_or_pairing(kind):
    for pairs in few_shots(kind, 400):
        words = [word for pair in pairs for word in pair]
        assert not HELD_OUT & set(words)
        for key, label in pairwise(words):
            if place_of(key) and label in fs.LABEL_WORDS and (kind == "repeat" or words.index(key) % 2 == 0):
                assert not fs.held_out_pair(place_of(key), label), f"{key} {label} is held out"


def test_test_documents_have_held_out_pairings_only():
    for kind in ("lookup", "category"):
        for pairs in few_shots(kind, split="test", items="known"):
            assert all(fs.held_out_pair(place_of(key), label) for key, label in pairs)
    for pairs in few_shots("category", split="test"):
        assert len({label for _, label in pairs}) == len({place_of(key) for key, _ in pairs})


def test_items_decide_what_is_asked():
    for pairs in few_shots("category", split="test", items="stories"):
        assert pairs[-1][0] in HELD_OUT and not {key for key, _ in pairs[:-1]} & HELD_OUT
    assert all(key in HELD_OUT for pairs in few_shots("lookup", items="stories") for key, _ in pairs)
    assert all(key in fs.NONCE_WORDS for pairs in few_shots("lookup", items="nonce") for key, _ in pairs)
    assert not any(key in fs.NONCE_WORDS for pairs in few_shots("lookup", items="known") for key, _ in pairs)


@pytest.mark.parametrize("n_pairs", [1, 2, 5])
def test_any_number_of_pairs(n_pairs):
    for kind in fs.KINDS:
        assert len(fs.few_shot_pairs(0, 3, kind, n_pairs=n_pairs)) == n_pairs


def test_helpers_draw_different_labels_where_they_can():
    rng = random.Random(0)
    labels = fs._different_labels(rng, ["bozak", "fawix", "gijuf"], "train")
    assert len(set(labels.values())) == 3
    assert len(fs._lookup(rng, "train", 9, None)) == len(fs._category(rng, "train", 9, None)) == 9
    assert len(fs._repeat(rng, 9)) == 9


@pytest.mark.parametrize(
    "options",
    [{"kind": "lookups"}, {"kind": "lookup", "split": "tests"}, {"kind": "lookup", "items": "nonsense"}],
)
def test_unknown_options_are_reported(options):
    with pytest.raises(UserError, match="did you mean"):
        fs.few_shot_pairs(0, 0, **options)


def test_text_and_mixture():
    assert fs.few_shot_text([("apple", "moon"), ("cup", "star")]) == " apple moon cup star", (
        "without its space the first word would be another token than the same word later"
    )
    documents = fs.few_shot_documents(500, 3)
    assert documents == fs.few_shot_documents(500, 3) and documents[:50] == fs.few_shot_documents(50, 3)
    stories = sum(parses(document) for document in documents)
    assert 110 < stories < 190, "three tenths should be stories"
    assert all(len(document.split()) == 18 for document in documents if not parses(document))


def test_the_mixture_without_repeats():
    plain, without = fs.few_shot_documents(400, 3), fs.few_shot_documents(400, 3, repeats=False)
    repeats = {fs.few_shot_text(fs.few_shot_pairs(3, i, "repeat")) for i in range(400)}
    assert 75 < len(repeats & set(plain)) < 150, "two fifths of what is no story"
    assert not repeats & set(without)
    assert [d for d in plain if parses(d)] == [d for d in without if parses(d)], "the stories stay"
    labels = {word for d in without if not parses(d) for word in d.split()[1::2]}
    assert labels == set(fs.LABEL_WORDS), "lookup and category documents have a label at every second place"


def test_repeats_have_words_of_all_kinds():
    words = {word for pairs in few_shots("repeat", 400) for pair in pairs for word in pair}
    verbs = {verb for verbs in VERBS.values() for verb in verbs}
    held_out = {verb for verbs in HELD_OUT_VERBS.values() for verb in verbs}
    for kind in (NAMES, MOODS, fs.LABEL_WORDS, fs.NONCE_WORDS, verbs - held_out):
        assert set(kind) <= words, "a word that is found again need not be a key"
    assert not held_out & words
