"""The grammar of stories: four sentences, English and Portuguese side by side.

Somebody comes to a place (1), does two things that belong to the place (2, 3), and ends in some mood, because
of a thing of sentence 3 (4). The place word stands in sentence 1 only. Sentences are chosen independently
given person, friend and place, so sentences 3-4 of another story match those of this one in position,
template and length. How often names return (`P_PRONOUN`) decides how far the shared-word rule gets in
next-sentence prediction.
"""

from functools import cache
from typing import NamedTuple

from . import words
from .grammar import Choice, Grammar, Slot, uniform
from .portuguese import STORY_SLOTS
from .words import HAPPY_MOODS, MOODS, NAMES, PLACES, THINGS, VERBS

# The whole grammar: for each of the four sentences (weight, English, Portuguese).
STORY = (
    (
        (2, "{person} went to the {place} {time}.", "{person} foi {to_place} {time}."),
        (2, "{time}, {person} was {at_place}.", "{time}, {person} estava {in_place}."),
        (1, "{person} met {friend} {at_place} {time}.", "{person} encontrou {friend} {in_place} {time}."),
        (
            1,
            "{person} and {friend} arrived {at_place} {time}.",
            "{person} e {friend} chegaram {to_place} {time}.",
        ),
        (
            1,
            "{time}, {person} came to the {place} with {friend}.",
            "{time}, {person} veio {to_place} com {friend}.",
        ),
    ),
    (
        (1, "there {subject} {verb} {np}.", "lá {subject} {verb} {np}."),
        (2, "{subject} {verb} {np} and {np2}.", "{subject} {verb} {np} e {np2}."),
        (1, "{subject} {verb} {np} and {verb2} {it}.", "{subject} {verb} {np} e {it} {verb2}."),
        (1, "{subject} and {friend} {verb} {np}.", "{subject} e {friend} {verbs} {np}."),
    ),
    (
        (1, "then {subject} {verb} {np}.", "depois {subject} {verb} {np}."),
        (2, "{subject} also {verb} {np} and {np2}.", "{subject} também {verb} {np} e {np2}."),
        (
            1,
            "later {subject} {verb} {np} and {verb2} {it}.",
            "mais tarde {subject} {verb} {np} e {it} {verb2}.",
        ),
        (1, "{subject} and {friend} {verb} {np} together.", "{subject} e {friend} {verbs} {np} {together}."),
        (1, "after that, {friend} {verb} {np} too.", "depois disso, {friend} também {verb} {np}."),
    ),
    (
        (
            1,
            "in the end, {subject} was {mood} because of {thing}.",
            "no fim, {subject} ficou {mood} por causa {of_thing}.",
        ),
        (
            1,
            "{subject} looked at {thing} and felt {mood}.",
            "{subject} olhou para {thing} e se sentiu {mood}.",
        ),
        (1, "{thing} made {object} {mood}.", "{thing} {made_object} {mood}."),
        (
            1,
            "{subject} and {friend} were {mood} because of {thing}.",
            "{subject} e {friend} ficaram {moods} por causa {of_thing}.",
        ),
    ),
)

P_PLURAL = 0.15
P_ADJECTIVE = 0.3
P_PRONOUN = 0.65
P_HAPPY = 0.45


class Phrase(NamedTuple):
    """A thing with its determiner: "two old cups" is ("two", "old", "cup", True)."""

    determiner: str
    adjective: str | None
    thing: str
    plural: bool


def noun(thing: str, plural: bool) -> str:
    """Return the English form of a thing in the number asked for."""
    return words.THING_WORDS[thing].plural if plural else thing


def write_phrase(phrase: Phrase) -> str:
    """Return a phrase in English: "an old cup", "two old cups"."""
    rest = noun(phrase.thing, phrase.plural)
    if phrase.adjective:
        rest = f"{phrase.adjective} {rest}"
    determiner = "an" if phrase.determiner == "a" and rest[0] in "aeiou" else phrase.determiner
    return f"{determiner} {rest}"


class Words(NamedTuple):
    """What the grammar may talk about. The tests pass a few words only, so as to count every text."""

    names: tuple = NAMES
    places: tuple = PLACES
    things: dict = THINGS
    verbs: dict = VERBS
    adjectives: tuple = tuple(words.ADJECTIVES)
    times: tuple = tuple(words.TIMES)


def phrases(things, adjectives) -> Choice:
    """Return the distribution of phrases about the given things."""
    weights = {}
    for plural, determiners in (
        (False, {"a": 0.6, "the": 0.4}),
        (True, {"some": 1 / 3, "two": 1 / 3, "the": 1 / 3}),
    ):
        for determiner, share in determiners.items():
            for adjective in (None, *adjectives):
                for thing in things:
                    number = P_PLURAL if plural else 1 - P_PLURAL
                    kind = P_ADJECTIVE / len(adjectives) if adjective else 1 - P_ADJECTIVE
                    weights[Phrase(determiner, adjective, thing, plural)] = number * share * kind
    return Choice(weights)


def story_rules(w: Words) -> dict:
    """Return for each choice of the story grammar the function (what is chosen so far) -> Choice."""
    people = uniform(w.names)
    others = {name: uniform([other for other in w.names if other != name]) for name in w.names}
    verbs = {place: uniform(w.verbs[place]) for place in w.places}
    all_phrases = {place: phrases(w.things[place], w.adjectives) for place in w.places}
    name_or_pronoun = Choice({"pronoun": P_PRONOUN, "name": 1 - P_PRONOUN})
    name_only = Choice({"name": 1.0})
    moods = Choice({m: P_HAPPY / 3 if m in HAPPY_MOODS else (1 - P_HAPPY) / 4 for m in MOODS})

    @cache
    def other_phrases(place, thing):
        return phrases([other for other in w.things[place] if other != thing], w.adjectives)

    @cache
    def other_verbs(place, verb):
        return uniform([other for other in w.verbs[place] if other != verb])

    @cache
    def mentioned(*things):
        return uniform(things)

    def subject(c):
        """A pronoun is never ambiguous: the name is repeated once a friend of the same gender is about."""
        same = "friend" in c and words.GENDERS[c["friend"]] == words.GENDERS[c["person"]]
        return name_only if same else name_or_pronoun

    places, times = uniform(w.places), uniform(w.times)
    return {
        "person": lambda c: people,
        "place": lambda c: places,
        "time": lambda c: times,
        "friend": lambda c: others[c["person"]],
        "subject": subject,
        "verb": lambda c: verbs[c["place"]],
        "verb2": lambda c: other_verbs(c["place"], c["verb"]),
        "np": lambda c: all_phrases[c["place"]],
        "np2": lambda c: other_phrases(c["place"], c["np"].thing),
        "mention": lambda c: mentioned(*((p.thing, p.plural) for p in sentence_phrases(c["before"]))),
        "mood": lambda c: moods,
    }


def sentence_phrases(chosen: dict) -> list[Phrase]:
    """Return the phrases of one sentence of a derivation, in the order of the text."""
    return [chosen[name] for name in ("np", "np2") if name in chosen]


def story_slots(w: Words) -> dict[str, Slot]:
    """Return how each English slot is written and read."""
    names = {name.lower(): name for name in w.names}
    named = dict.fromkeys(names, "name")
    places = {f"{words.PLACE_WORDS[place].preposition} the {place}": place for place in w.places}
    every = {write_phrase(p): p for place in w.places for p in phrases(w.things[place], w.adjectives).values}
    things = {f"the {noun(p.thing, p.plural)}": (p.thing, p.plural) for p in every.values()}
    verbs = {verb: verb for place in w.places for verb in w.verbs[place]}
    phrase = rf"(?:an?|the|some|two) (?:(?:{'|'.join(w.adjectives)}) )?\w+"

    def person(forms):
        return lambda c: c["person"] if c["subject"] == "name" else forms[words.GENDERS[c["person"]]]

    return {
        "person": Slot(lambda c: c["person"], "person", names),
        "friend": Slot(lambda c: c["friend"], "friend", names),
        "subject": Slot(
            person({"f": "she", "m": "he"}), "subject", named | {"she": "pronoun", "he": "pronoun"}
        ),
        "object": Slot(
            person({"f": "her", "m": "him"}), "subject", named | {"her": "pronoun", "him": "pronoun"}
        ),
        "place": Slot(lambda c: c["place"], "place", {place: place for place in w.places}),
        "at_place": Slot(lambda c: at_place(c["place"]), "place", places, r"\w+ the \w+"),
        "time": Slot(
            lambda c: c["time"], "time", {time.lower(): time for time in w.times}, "|".join(w.times)
        ),
        "verb": Slot(lambda c: c["verb"], "verb", verbs),
        "verb2": Slot(lambda c: c["verb2"], "verb2", verbs),
        "np": Slot(lambda c: write_phrase(c["np"]), "np", every, phrase),
        "np2": Slot(lambda c: write_phrase(c["np2"]), "np2", every, phrase),
        "it": Slot(lambda c: "them" if c["np"].plural else "it", None, {"it": None, "them": None}),
        "thing": Slot(lambda c: f"the {noun(*c['mention'])}", "mention", things, r"the \w+"),
        "mood": Slot(lambda c: c["mood"], "mood", {mood: mood for mood in MOODS}),
    }


def at_place(place: str) -> str:
    """Return the place with its preposition: "at the market", "on the farm"."""
    return f"{words.PLACE_WORDS[place].preposition} the {place}"


def story_grammar(w: Words = Words()) -> Grammar:  # noqa: B008 - a constant tuple
    """Return the grammar of stories over some words."""
    return Grammar(STORY, story_slots(w), story_rules(w), STORY_SLOTS, carried=("person", "place", "friend"))


GRAMMAR = story_grammar()
