"""The grammar of stories: one derivation a text, probabilities that sum to one, agreement in English."""

import math
import random
import re
from itertools import pairwise

import pytest
from slow_walk import assert_exact
from small import fingerprint

from minilm.world import stories as ws
from minilm.world.stories import GRAMMAR, Words, story_grammar
from minilm.world.words import GENDERS, THING_WORDS, THINGS, VERBS, Phrase

SMALL = Words(
    names=("Ana", "Bia", "Pedro"),
    places=("market", "farm"),
    things={"market": ("apple", "lemon", "tomato"), "farm": ("cow", "pig")},
    verbs={"market": VERBS["market"], "farm": VERBS["farm"][:2]},
    adjectives=("old",),
    times=("yesterday", "on Sunday"),
)


@pytest.mark.parametrize("n_before", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", [1, 2, 5])
def test_each_sentence_sums_to_one_over_distinct_texts(n_before, seed):
    grammar = story_grammar(SMALL)
    assert_exact(grammar, grammar.sample(random.Random(seed))[0][:n_before])


def test_first_sentences_of_the_full_grammar_are_all_different():
    assert_exact(GRAMMAR, [])


def test_phrases_are_written_in_english():
    assert ws.write_phrase(Phrase("a", None, "apple", False)) == "an apple"
    assert ws.write_phrase(Phrase("a", "old", "cup", False)) == "an old cup"
    assert ws.write_phrase(Phrase("a", "big", "apple", False)) == "a big apple"
    assert ws.write_phrase(Phrase("two", "old", "daisy", True)) == "two old daisies"
    assert ws.the_same(Phrase("two", "old", "daisy", True)) == ("the", None, "daisy", True)
    assert ws.at_place("farm") == "at the farm" and ws.at_place("kitchen") == "in the kitchen"


def test_no_two_phrases_are_written_alike():
    choice = ws.phrases(tuple(THING_WORDS), ("old", "big"))
    texts = {ws.write_phrase(phrase) for phrase in choice.values}
    assert len(texts) == len(choice.values) == 48 * 3 * 5
    plural = sum(math.exp(choice.logs[p]) for p in choice.values if p.plural)
    adjective = sum(math.exp(choice.logs[p]) for p in choice.values if p.adjective)
    assert (plural, adjective) == (pytest.approx(ws.P_PLURAL), pytest.approx(ws.P_ADJECTIVE))
    assert {p.thing for p in ws.phrases(("cup", "pan"), ("old",), but="pan").values} == {"cup"}


def test_rules_keep_the_story_together():
    pronouns = 0
    for seed in range(400):
        derivation, _ = GRAMMAR.sample(random.Random(seed))
        place = derivation[0]["place"]
        for position, chosen in enumerate(derivation):
            assert chosen["place"] == place and chosen.get("friend") != chosen["person"]
            phrases = ws.sentence_phrases(chosen)
            assert {phrase.thing for phrase in phrases} <= set(THINGS[place])
            assert len({phrase.thing for phrase in phrases}) == len(phrases), "a thing was joined with itself"
            verbs = [chosen[name] for name in ("verb", "verb2") if name in chosen]
            assert set(verbs) <= set(VERBS[place]) and len(set(verbs)) == len(verbs)
            assert (place in GRAMMAR.sentences(derivation)[position]) == (position == 0)
        again = map(ws.the_same, ws.sentence_phrases(derivation[2]))
        assert derivation[3]["mention"] in again, "sentence 4 must speak of a thing of sentence 3"
        for before, chosen in pairwise(derivation):
            if chosen.get("subject") == "pronoun":
                pronouns += 1
                friend = before.get("friend")
                assert GENDERS.get(friend) != GENDERS[chosen["person"]], "who is meant?"
    assert pronouns > 100


def test_pronouns_agree_and_every_slot_is_read_as_it_is_written():
    slots = ws.story_slots(Words())
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


def test_rules_and_grammar_use_the_words_they_are_given():
    rules = ws.story_rules(SMALL)
    assert rules["person"]().values == ["Ana", "Bia", "Pedro"]
    assert rules["friend"]("Bia").values == ["Ana", "Pedro"]
    assert rules["verb2"]("farm", "fed").values == ["followed"]
    assert sum(math.exp(rules["mood"]().logs[m]) for m in ws.HAPPY_MOODS) == pytest.approx(0.45)


def test_the_probabilities_are_those_of_the_figures_in_the_readmes():
    found = [GRAMMAR.sample(random.Random(i)) for i in range(20)]
    sides = [(GRAMMAR.sentences(s), GRAMMAR.sentences(s, "portuguese"), round(p, 6)) for s, p in found]
    assert fingerprint(sides) == "9722d06f", "other texts, or other chance, than was measured"
