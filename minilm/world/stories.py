"""The grammar of stories: four sentences, English and Portuguese side by side.

Somebody comes to a place (sentence 1), does two things that fit there (2, 3), and ends in some mood because
of a thing in 3 (4). Only sentence 1 names the place, so sentences 3-4 of another story with the same person,
friend and place also fit. How often names return (`P_PRONOUN`) sets how far shared words tell what is next.
"""

from functools import cache

from . import words
from .grammar import Choice, Grammar, Slot, uniform
from .portuguese import agree, ending, gender, noun_phrase, the
from .words import GENDERS, HAPPY_MOODS, MOODS, NAMES, PLACES, THING_WORDS, THINGS, VERB_WORDS, VERBS, Phrase

STORY = """
2  {person} went to the {place} {time}.
   {person} foi {to_place} {time}.
2  {time}, {person} was {at_place}.
   {time}, {person} estava {in_place}.
1  {person} met {friend} {at_place} {time}.
   {person} encontrou {friend} {in_place} {time}.
1  {person} and {friend} arrived {at_place} {time}.
   {person} e {friend} chegaram {to_place} {time}.
1  {time}, {person} came to the {place} with {friend}.
   {time}, {person} veio {to_place} com {friend}.

1  there {subject} {verb} {np}.
   lá {subject} {verb} {np}.
2  {subject} {verb} {np} and {np2}.
   {subject} {verb} {np} e {np2}.
1  {subject} {verb} {np} and {verb2} {it}.
   {subject} {verb} {np} e {it} {verb2}.
1  {subject} and {friend} {verb} {np}.
   {subject} e {friend} {verbs} {np}.

1  then {subject} {verb} {np}.
   depois {subject} {verb} {np}.
2  {subject} also {verb} {np} and {np2}.
   {subject} também {verb} {np} e {np2}.
1  later {subject} {verb} {np} and {verb2} {it}.
   mais tarde {subject} {verb} {np} e {it} {verb2}.
1  {subject} and {friend} {verb} {np} together.
   {subject} e {friend} {verbs} junt{os_both} {np}.
1  after that, {friend} {verb} {np} too.
   depois disso, {friend} também {verb} {np}.

1  in the end, {subject} was {mood} because of {thing}.
   no fim, {subject} ficou {mood} por causa {of_thing}.
1  {subject} looked at {thing} and felt {mood}.
   {subject} olhou para {thing} e se sentiu {mood}.
1  {thing} made {object} {mood}.
   {thing} {made_object} {mood}.
1  {subject} and {friend} were {mood} because of {thing}.
   {subject} e {friend} ficaram {moods} por causa {of_thing}.
"""

P_PLURAL, P_ADJECTIVE, P_HAPPY = 0.15, 0.3, 0.45
P_PRONOUN = 0.65  # for the person in sentences 2 to 4; otherwise the name
# Determiner, plural or not, share among the determiners of this number.
DETERMINERS = (("a", 0, 0.6), ("the", 0, 0.4), ("some", 1, 1 / 3), ("two", 1, 1 / 3), ("the", 1, 1 / 3))
ADJECTIVES, TIMES = tuple(words.ADJECTIVES), tuple(words.TIMES)


def write_phrase(phrase: Phrase) -> str:
    """Return a phrase in English: "an old cup", "two old cups"."""
    thing = THING_WORDS[phrase.thing].plural if phrase.plural else phrase.thing
    rest = f"{phrase.adjective} {thing}" if phrase.adjective else thing
    determiner = "an" if phrase.determiner == "a" and rest[0] in "aeiou" else phrase.determiner
    return f"{determiner} {rest}"


def the_same(phrase: Phrase) -> Phrase:
    """Return the phrase by which a thing is mentioned again: "an old cup" -> "the cup"."""
    return phrase._replace(determiner="the", adjective=None)


@cache
def phrases(things: tuple, but: str | None = None) -> Choice:
    """Return the distribution of phrases about the given things, without the thing `but`."""
    weights = {}
    for determiner, plural, share in DETERMINERS:
        for adjective in (None, *ADJECTIVES):
            weight = (P_PLURAL if plural else 1 - P_PLURAL) * share
            weight *= P_ADJECTIVE / len(ADJECTIVES) if adjective else 1 - P_ADJECTIVE
            weights |= {Phrase(determiner, adjective, t, bool(plural)): weight for t in things if t != but}
    return Choice(weights)


NAME_OR_PRONOUN = Choice({"pronoun": P_PRONOUN, "name": 1 - P_PRONOUN})
MOOD = Choice({m: P_HAPPY / 3 if m in HAPPY_MOODS else (1 - P_HAPPY) / 4 for m in MOODS})

RULES = {
    "person": lambda: uniform(NAMES),
    "place": lambda: uniform(PLACES),
    "time": lambda: uniform(TIMES),
    "friend": lambda person: uniform(NAMES, but=person),
    # a pronoun is never ambiguous: if there is a friend of the same gender, the name is repeated
    "subject": lambda person, friend: (
        uniform(("name",)) if friend and GENDERS[friend] == GENDERS[person] else NAME_OR_PRONOUN
    ),
    "verb": lambda place: uniform(VERBS[place]),
    "verb2": lambda place, verb: uniform(VERBS[place], but=verb),
    "np": lambda place: phrases(THINGS[place]),
    "np2": lambda place, np: phrases(THINGS[place], but=np.thing),
    "mention": lambda before: uniform(tuple(the_same(before[np]) for np in ("np", "np2") if np in before)),
    "mood": lambda: MOOD,
}


def pronoun_slot(she: str, he: str) -> Slot:
    """Return the slot of a person: the name, or one of these pronouns."""
    write = lambda person, subject: person if subject == "name" else she if GENDERS[person] == "f" else he
    return Slot("subject", dict.fromkeys(NAMES, "name") | {she: "pronoun", he: "pronoun"}, write=write)


_PHRASES = {write_phrase(phrase): phrase for things in THINGS.values() for phrase in phrases(things).values}
_NP = rf"(?:an?|the|some|two) (?:(?:{'|'.join(ADJECTIVES)}) )?\w+"
_AT = {f"{place.preposition} the {name}": name for name, place in words.PLACE_WORDS.items()}
_PLAIN = dict(person=NAMES, friend=NAMES, place=PLACES, verb=VERB_WORDS, verb2=VERB_WORDS, mood=MOODS)
SLOTS = {name: Slot(name, tuple(texts)) for name, texts in _PLAIN.items()} | {
    "subject": pronoun_slot("she", "he"),
    "object": pronoun_slot("her", "him"),
    "at_place": Slot("place", _AT, r"\w+ the \w+"),
    "time": Slot("time", TIMES, "|".join(TIMES)),
    "np": Slot("np", _PHRASES, _NP),
    "np2": Slot("np2", _PHRASES, _NP),
    "it": Slot(None, {"it": None, "them": None}, write=lambda np: "them" if np.plural else "it"),
    "thing": Slot("mention", {write_phrase(the_same(p)): the_same(p) for p in _PHRASES.values()}, r"the \w+"),
}


def made_object(subject, person, mention):
    """Return "made Ana" or "made her" in Portuguese: "deixou Ana", "a deixou"; plural: "deixaram"."""
    verb = "deixaram" if mention.plural else "deixou"
    return f"{verb} {person}" if subject == "name" else f"{ending(False, person)} {verb}"


PORTUGUESE = {
    "subject": lambda subject, person: person if subject == "name" else agree(("ele", "ela"), gender(person)),
    "to_place": lambda place: the("a", place),
    "in_place": lambda place: the("em", place),
    "time": lambda time: words.TIMES[time],
    "verb": lambda verb: VERB_WORDS[verb].portuguese,
    "verb2": lambda verb2: VERB_WORDS[verb2].portuguese,
    "verbs": lambda verb: VERB_WORDS[verb].portuguese_plural,
    "np": lambda np: noun_phrase(np),
    "np2": lambda np2: noun_phrase(np2),
    "it": lambda np: ending(np.plural, np.thing),
    "os_both": lambda person, friend: ending(True, person, friend),
    "thing": lambda mention: noun_phrase(mention),
    "of_thing": lambda mention: the("de", mention.thing, mention.plural),
    "made_object": made_object,
    "mood": lambda mood, person: agree(words.MOOD_WORDS[mood], gender(person)),
    "moods": lambda mood, person, friend: agree(words.MOOD_WORDS[mood], gender(person, friend), True),
}

GRAMMAR = Grammar(STORY, SLOTS, RULES, PORTUGUESE, carried=("person", "place", "friend"))
