"""The grammar of stories: one derivation a text, probabilities that sum to one, agreement in English."""

import math
import random
import re
from itertools import pairwise

import pytest
from slow_walk import assert_exact
from small import fingerprint

from minilm.world import stories as ws
from minilm.world.stories import GRAMMAR
from minilm.world.words import GENDERS, THING_WORDS, THINGS, VERBS, Phrase


@pytest.fixture
def few_words(monkeypatch):
    """The grammar may talk about a few words only, so that every text can be counted."""
    few = dict(NAMES=("Ana", "Bia", "Pedro"), PLACES=("market", "farm"), TIMES=("yesterday", "on Sunday"))
    few["THINGS"] = {"market": ("apple", "lemon", "tomato"), "farm": ("cow", "pig")}
    few["VERBS"] = {"market": VERBS["market"], "farm": VERBS["farm"][:2]}
    for name, value in (few | dict(ADJECTIVES=("old",))).items():
        monkeypatch.setattr(ws, name, value)
    ws.phrases.cache_clear()
    yield
    ws.phrases.cache_clear()


@pytest.mark.parametrize("n_before", [1, 2, 3])
@pytest.mark.parametrize("seed", [1, 2, 5])
def test_each_sentence_sums_to_one_over_distinct_texts(n_before, seed, few_words):
    assert_exact(GRAMMAR, GRAMMAR.sample(random.Random(seed))[0][:n_before])


def test_first_sentences_of_the_full_grammar_are_all_different():
    assert_exact(GRAMMAR, [])


def test_phrases_are_written_in_english():
    assert ws.write_phrase(Phrase("a", None, "apple", False)) == "an apple"
    assert ws.write_phrase(Phrase("a", "old", "cup", False)) == "an old cup"
    assert ws.write_phrase(Phrase("a", "big", "apple", False)) == "a big apple"
    assert ws.write_phrase(Phrase("two", "old", "daisy", True)) == "two old daisies"
    assert ws.the_same(Phrase("two", "old", "daisy", True)) == ("the", None, "daisy", True)
    at = ws.SLOTS["at_place"].write
    assert at({"place": "farm"}) == "at the farm" and at({"place": "kitchen"}) == "in the kitchen"


def test_no_two_phrases_are_written_alike():
    choice = ws.phrases(tuple(THING_WORDS))
    texts = {ws.write_phrase(phrase) for phrase in choice.values}
    assert len(texts) == len(choice.values) == 48 * 7 * 5
    plural = sum(math.exp(choice.logs[p]) for p in choice.values if p.plural)
    adjective = sum(math.exp(choice.logs[p]) for p in choice.values if p.adjective)
    assert (plural, adjective) == (pytest.approx(ws.P_PLURAL), pytest.approx(ws.P_ADJECTIVE))
    assert {p.thing for p in ws.phrases(("cup", "pan"), but="pan").values} == {"cup"}


def test_rules_keep_the_story_together():
    pronouns = 0
    for seed in range(400):
        derivation, _ = GRAMMAR.sample(random.Random(seed))
        place = derivation[0]["place"]
        for position, chosen in enumerate(derivation):
            assert chosen["place"] == place and chosen.get("friend") != chosen["person"]
            phrases = [chosen[name] for name in ("np", "np2") if name in chosen]
            assert {phrase.thing for phrase in phrases} <= set(THINGS[place])
            assert len({phrase.thing for phrase in phrases}) == len(phrases), "a thing was joined with itself"
            verbs = [chosen[name] for name in ("verb", "verb2") if name in chosen]
            assert set(verbs) <= set(VERBS[place]) and len(set(verbs)) == len(verbs)
            assert (place in GRAMMAR.sentences(derivation)[position]) == (position == 0)
        again = [ws.the_same(derivation[2][name]) for name in ("np", "np2") if name in derivation[2]]
        assert derivation[3]["mention"] in again, "sentence 4 must speak of a thing of sentence 3"
        for before, chosen in pairwise(derivation):
            if chosen.get("subject") == "pronoun":
                pronouns += 1
                friend = before.get("friend")
                assert GENDERS.get(friend) != GENDERS[chosen["person"]], "who is meant?"
    assert pronouns > 100


def test_pronouns_agree_and_every_slot_is_read_as_it_is_written():
    slots = ws.SLOTS
    ana, hugo = ({"person": name, "subject": "pronoun"} for name in ("Ana", "Hugo"))
    assert slots["subject"].write(ana) == "she" and slots["object"].write(ana) == "her"
    assert slots["subject"].write(hugo) == "he" and slots["subject"].write(ana | {"subject": "name"}) == "Ana"
    for name, slot in slots.items():
        for text in slot.read:
            assert re.fullmatch(slot.pattern, text, re.IGNORECASE), f"slot {name} cannot read {text!r}"


def test_the_portuguese_object_pronoun_stands_before_the_verb():
    ways = [(subject, plural) for subject in ("name", "pronoun") for plural in (False, True)]
    written = [ws.made_object(subject, "Ana", Phrase("the", None, "cup", plural)) for subject, plural in ways]
    assert written == ["deixou Ana", "deixaram Ana", "a deixou", "a deixaram"]


def test_rules_choose_among_the_words_of_the_place_and_no_word_twice(few_words):
    assert ws.RULES["person"]().values == ["Ana", "Bia", "Pedro"]
    assert ws.RULES["friend"]("Bia").values == ["Ana", "Pedro"]
    assert ws.RULES["verb2"]("farm", "fed").values == ["followed"]
    assert sum(math.exp(ws.RULES["mood"]().logs[m]) for m in ws.HAPPY_MOODS) == pytest.approx(0.45)


def test_the_probabilities_are_those_of_the_figures_in_the_readmes():
    found = [GRAMMAR.sample(random.Random(i)) for i in range(20)]
    sides = [(GRAMMAR.sentences(s), GRAMMAR.sentences(s, "portuguese"), round(p, 6)) for s, p in found]
    assert fingerprint(sides) == "9722d06f", "other texts, or other chance, than was measured"
