"""The grammar of stories: one derivation a text, probabilities that sum to one, agreement in English."""

import math
import random
import re
from collections import Counter
from itertools import pairwise

import pytest
from slow_walk import every_walk

from minilm.world import stories as ws
from minilm.world.stories import GRAMMAR, Phrase, Words, story_grammar
from minilm.world.words import GENDERS, THING_WORDS, THINGS, VERBS

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
    sampled, _ = grammar.sample(random.Random(seed))
    before = sampled[:n_before]
    prefix = grammar.log_probability(" ".join(grammar.english(before)), n_before) if n_before else 0.0
    walks = list(every_walk(grammar, before))
    texts = Counter(" ".join(grammar.english(derivation)) for derivation, _ in walks)
    twice = [text for text, count in texts.items() if count > 1]
    assert not twice, f"two derivations write the same text: {twice[:2]}"
    assert sum(math.exp(score - prefix) for _, score in walks) == pytest.approx(1.0)
    for derivation, score in random.Random(0).sample(walks, min(len(walks), 100)):
        found = grammar.derivations(" ".join(grammar.english(derivation)), n_before + 1)
        assert len(found) == 1 and found[0][1] == pytest.approx(score)


def test_first_sentences_of_the_full_grammar_are_all_different():
    walks = list(every_walk(GRAMMAR, []))
    assert len({GRAMMAR.english(derivation)[0] for derivation, _ in walks}) == len(walks)
    assert sum(math.exp(score) for _, score in walks) == pytest.approx(1.0)


def test_phrases_are_written_in_english():
    assert ws.write_phrase(Phrase("a", None, "apple", False)) == "an apple"
    assert ws.write_phrase(Phrase("a", "old", "cup", False)) == "an old cup"
    assert ws.write_phrase(Phrase("a", "big", "apple", False)) == "a big apple"
    assert ws.write_phrase(Phrase("two", "old", "daisy", True)) == "two old daisies"
    assert ws.noun("tomato", True) == "tomatoes" and ws.noun("tomato", False) == "tomato"
    assert ws.at_place("farm") == "on the farm" and ws.at_place("kitchen") == "in the kitchen"


def test_no_two_phrases_are_written_alike():
    choice = ws.phrases(tuple(THING_WORDS), ("old", "big"))
    texts = {ws.write_phrase(phrase) for phrase in choice.values}
    assert len(texts) == len(choice.values) == 48 * 3 * 5
    assert sum(map(math.exp, choice.logs.values())) == pytest.approx(1.0)
    plural = sum(math.exp(choice.log_probability(p)) for p in choice.values if p.plural)
    adjective = sum(math.exp(choice.log_probability(p)) for p in choice.values if p.adjective)
    assert (plural, adjective) == (pytest.approx(ws.P_PLURAL), pytest.approx(ws.P_ADJECTIVE))


def test_rules_keep_the_story_together():
    for seed in range(300):
        derivation, _ = GRAMMAR.sample(random.Random(seed))
        place = derivation[0]["place"]
        for position, chosen in enumerate(derivation):
            assert chosen["place"] == place
            assert chosen.get("friend") != chosen["person"]
            for phrase in ws.sentence_phrases(chosen):
                assert phrase.thing in THINGS[place]
            for verb in ("verb", "verb2"):
                assert chosen.get(verb, VERBS[place][0]) in VERBS[place]
            if "verb2" in chosen:
                assert chosen["verb"] != chosen["verb2"]
            if "np2" in chosen:
                assert chosen["np"].thing != chosen["np2"].thing, "a thing was joined with itself"
            if position == 3:
                things = [(p.thing, p.plural) for p in ws.sentence_phrases(derivation[2])]
                assert chosen["mention"] in things, "sentence 4 must speak of a thing of sentence 3"


def test_a_pronoun_is_never_ambiguous():
    pronouns = 0
    for seed in range(400):
        derivation, _ = GRAMMAR.sample(random.Random(seed))
        for before, chosen in pairwise(derivation):
            if chosen.get("subject") == "pronoun":
                pronouns += 1
                friend = before.get("friend")
                assert friend is None or GENDERS[friend] != GENDERS[chosen["person"]]
    assert pronouns > 100


def test_pronouns_agree_and_every_slot_is_read_as_it_is_written():
    slots = ws.story_slots(Words())
    ana = {"person": "Ana", "subject": "pronoun"}
    assert slots["subject"].english(ana) == "she" and slots["object"].english(ana) == "her"
    assert slots["subject"].english({"person": "Hugo", "subject": "pronoun"}) == "he"
    for name, slot in slots.items():
        for text in slot.read:
            assert re.fullmatch(slot.pattern, text, re.IGNORECASE), f"slot {name} cannot read {text!r}"


def test_the_place_word_stands_in_sentence_one_only():
    for seed in range(200):
        derivation, _ = GRAMMAR.sample(random.Random(seed))
        sentences = GRAMMAR.english(derivation)
        place = derivation[0]["place"]
        assert place in sentences[0] and all(place not in sentence for sentence in sentences[1:])


def test_rules_and_grammar_use_the_words_they_are_given():
    rules = ws.story_rules(SMALL)
    assert rules["person"]({}).values == ["Ana", "Bia", "Pedro"]
    assert rules["friend"]({"person": "Bia"}).values == ["Ana", "Pedro"]
    assert rules["verb2"]({"place": "farm", "verb": "fed"}).values == ["followed"]
    moods = rules["mood"]({})
    assert sum(math.exp(moods.log_probability(m)) for m in ws.HAPPY_MOODS) == pytest.approx(0.45)
    derivation, _ = story_grammar(SMALL).sample(random.Random(0))
    assert derivation[0]["person"] in SMALL.names
