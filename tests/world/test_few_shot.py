"""In-context documents: the mapping is new every time, and what is held out stays out."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from small import fingerprint

from minilm.world import HELD_OUT, NAMES, PLACES, SINGULAR_OF, VERBS, parses, place_of
from minilm.world import few_shot as fs
from minilm.world.words import MOODS

KINDS = ("lookup", "category", "repeat")
ALL_VERBS = {verb for verbs in VERBS.values() for verb in verbs}


def documents(kind, n=200, **options):
    return [fs.few_shot_pairs(0, index, kind, **options) for index in range(n)]


def test_words_of_the_documents_are_no_words_of_the_stories():
    new = [*fs.LABEL_WORDS, *fs.NONCE_WORDS]
    assert len(fs.LABEL_WORDS) == 8 and len(fs.NONCE_WORDS) == 40 and len(set(new)) == 48
    assert not set(new) & {*SINGULAR_OF, *NAMES, *PLACES, *ALL_VERBS}


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_deterministic_and_have_nine_pairs(kind):
    found = documents(kind)
    assert found == documents(kind) and fs.few_shot_pairs(1, 0, kind) != found[0]
    assert all(len(pairs) == 9 and all(len(pair) == 2 for pair in pairs) for pairs in found)
    assert len({tuple(pairs) for pairs in found}) > 190
    for n_pairs in (1, 2, 5):
        assert len(fs.few_shot_pairs(0, 3, kind, n_pairs=n_pairs)) == n_pairs


def test_held_out_pairs_are_two_labels_of_eight_a_place():
    for place in PLACES:
        held = [label for label in fs.LABEL_WORDS if fs.held_out_pair(place, label)]
        assert len(held) == 2 and fs.labels_for(place, "test") == held
        assert set(fs.labels_for(place, "train")) == set(fs.LABEL_WORDS) - set(held)
    assert fs.labels_for(None, "train") == fs.labels_for(None, "test") == list(fs.LABEL_WORDS)


def test_labels_differ_where_they_can():
    for seed in range(20):
        labels = fs.different_labels(random.Random(seed), [None] * 9, "train")
        assert set(labels[:8]) == set(fs.LABEL_WORDS) and labels[8] in labels
        a, b = fs.different_labels(random.Random(seed), ["farm", "farm"], "test")
        assert {a, b} == set(fs.labels_for("farm", "test"))


def test_lookup_repeats_a_few_keys_with_their_label():
    nonce = 0
    for pairs in documents("lookup"):
        labels = dict(pairs)
        assert all(labels[key] == label for key, label in pairs), "a key has two labels"
        assert len(labels) <= 4 and len(set(labels.values())) == len(labels)
        assert pairs[-1] in pairs[:-1], "the key that is asked must have stood before"
        nonce += sum(key in fs.NONCE_WORDS for key in labels) / len(labels) / 200
    assert 0.2 < nonce < 0.4
    assert all(first == last for first, last in documents("lookup", n_pairs=2)), "of two it is the other one"
    assert len(fs.lookup(random.Random(0), "train", 9, None)) == 9


def test_category_labels_follow_the_place():
    seen = set()
    for pairs in documents("category") + [fs.category(random.Random(0), "train", 9, None)]:
        by_place = {}
        for key, label in pairs:
            assert by_place.setdefault(place_of(key), label) == label, "the label must depend on the place"
        assert len(by_place) <= 2 and len(set(by_place.values())) == len(by_place)
        seen |= set(by_place)
    assert seen == set(PLACES)


def test_repeat_documents_repeat_words_of_all_kinds():
    periods, seen = Counter(), set()
    for pairs in documents("repeat", 400) + [fs.repeat(random.Random(0), 9)]:
        words = [word for pair in pairs for word in pair]
        periods[next(p for p in range(1, 18) if all(words[i] == words[i - p] for i in range(p, 18)))] += 1
        seen |= set(words)
    assert set(periods) == set(range(3, 10))
    kinds = {*NAMES, *MOODS, *fs.LABEL_WORDS, *fs.NONCE_WORDS, *ALL_VERBS}
    assert kinds - HELD_OUT <= seen, "a word that is found again need not be a key"


@pytest.mark.parametrize("kind", KINDS)
def test_training_documents_have_no_held_out_item_or_pairing(kind):
    for pairs in documents(kind, 400):
        words = [word for pair in pairs for word in pair]
        assert not HELD_OUT & set(words)
        for key, label in pairwise(words) if kind == "repeat" else pairs:
            if place_of(key) and label in fs.LABEL_WORDS:
                assert not fs.held_out_pair(place_of(key), label), f"{key} {label} is held out"


def test_test_documents_have_held_out_pairings_only():
    for pairs in documents("lookup", split="test", items="known") + documents("category", split="test"):
        assert all(fs.held_out_pair(place_of(key), label) for key, label in pairs)


def test_items_decide_what_is_asked():
    for pairs in documents("category", split="test", items="stories"):
        assert pairs[-1][0] in HELD_OUT and not {key for key, _ in pairs[:-1]} & HELD_OUT
    known = set(SINGULAR_OF) - HELD_OUT
    for items, words in (("stories", HELD_OUT), ("nonce", set(fs.NONCE_WORDS)), ("known", known)):
        assert {key for pairs in documents("lookup", items=items) for key, _ in pairs} <= words


def test_the_mixture_with_and_without_repeats():
    plain, without = fs.few_shot_documents(500, 3), fs.few_shot_documents(500, 3, repeats=False)
    assert plain[:50] == fs.few_shot_documents(50, 3)
    stories = [document for document in plain if parses(document)]
    assert 110 < len(stories) < 190, "three tenths should be stories"
    assert stories == [document for document in without if parses(document)], "the stories stay"
    written = {"".join(f" {a} {b}" for a, b in fs.few_shot_pairs(3, i, "repeat")) for i in range(500)}
    assert 95 < len(written & set(plain)) < 190, "two fifths of the rest, with a space before each word"
    assert not written & set(without)
    labels = {word for d in without if not parses(d) for word in d.split()[1::2]}
    assert labels == set(fs.LABEL_WORDS), "lookup and category documents have a label at every second place"


@pytest.mark.parametrize(
    ("kind", "expected"), [("lookup", "06081745"), ("category", "3663ede9"), ("repeat", "5c735db1")]
)
def test_the_documents_are_those_of_the_figures_in_the_readmes(kind, expected):
    found = [documents(kind, 9, items=items) for items in (None, "known", "nonce", "stories")]
    test = documents(kind, 9, split="test", n_pairs=3)
    mixed = fs.few_shot_documents(90, 1), fs.few_shot_documents(90, 1, repeats=False)
    assert fingerprint(found, test, mixed) == expected, "other documents than those that were measured"
