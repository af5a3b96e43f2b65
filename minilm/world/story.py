"""The embedded world: endless small stories, and everything that is known about each of them.

Why a grammar: the true distribution of the texts is known, so a run can print the loss that no model can beat
(`log_probability`), each label is exact, and each lesson shows within a minute. The grammar is in
`stories.py`, its words in `words.py`, the tasks made from the stories in `tasks.py`.

    >>> story = Story(seed=0, index=0)
    >>> story.text, story.log_probability, story.place, story.happy, story.portuguese

Measured over 20,000 stories: 34.7 tokens and 157 bytes per story, 199 different words; the entropy of a token
is 4.42 nats by its frequency alone, and 0.92 nats under the grammar (31.7 nats per story).
"""

import math
import random
import re
from functools import cached_property

from ..plumbing.errors import UserError, suggest
from .grammar import Derived
from .reports import Report
from .stories import GRAMMAR
from .words import HAPPY_MOODS, HELD_OUT, NAMES, PLACE_WORDS, PLACES, SINGULAR_OF, VERB_WORDS

ENTITY = dict.fromkeys(NAMES, "person") | dict.fromkeys(SINGULAR_OF, "thing")
ENTITY |= {form: "place" for place in PLACE_WORDS.values() for form in (place.english, place.portuguese)}
# Where, when, what, who and how, as `Story.facts` fills them in.
QUESTIONS = dict(
    english=("Where was {}?", "When was {} {}?", "What did {} {}?", "Who {} {}?", "How did {} feel?"),
    portuguese=("Onde estava {}?", "Quando {} esteve {}?", "O que {} {}?", "Quem {} {}?",
        "Como {} se sentiu?"),
)  # fmt: skip


class Story(Derived):
    """Story number `index` of a seed, the same on every machine.

    `place=`, `person=` fix these; `held_out` False: no held-out thing or verb, True: only those, None: all.
    """

    grammar = GRAMMAR

    def __init__(self, seed: int, index: int, held_out: bool | None = None, **fixed):
        for name, value in fixed.items():
            check(name, value, {"place": PLACES, "person": NAMES}.get(name, ()))
        conditions = f" {held_out} {sorted(fixed.items())}" if fixed or held_out is not None else ""
        pick = picker(random.Random(f"story {seed} {index}{conditions}"), held_out, **fixed)
        super().__init__(*GRAMMAR.expand(pick))
        self.place, self.person = self.derivation[0]["place"], self.derivation[0]["person"]
        self.mood = self.derivation[3]["mood"]
        self.happy = self.mood in HAPPY_MOODS

    @cached_property
    def entities(self) -> list[tuple[int, int, str]]:
        """(start, end, label) of each person, thing and place word, in the order of the text."""
        return [(start, end, ENTITY[w]) for w, start, end in self.tokens if w in ENTITY]

    @cached_property
    def facts(self) -> list[tuple[str, str, int, int]]:
        """(question, answer, start, end) with text[start:end] == answer; no question has two answers."""
        facts, person = [], self.person

        def add(question, answer, position):
            match = re.search(rf"\b{re.escape(answer)}\b", self.sentences[position], re.IGNORECASE)
            start = sum(len(sentence) + 1 for sentence in self.sentences[:position]) + match.start()
            facts.append((question, match[0], start, start + len(answer)))

        where, when, what, who_did, how = QUESTIONS[self.language]
        english, (first, *_, last) = self.language == "english", self.derivation
        slots = self.grammar.writers[self.language]
        add(where.format(person), self.place if english else PLACE_WORDS[self.place].portuguese, 0)
        add(when.format(person, slots["at_place" if english else "in_place"](first)), slots["time"](first), 0)
        done = []  # (who, verb, position) of every event: a question with two answers is left out
        for position in (1, 2):
            c = self.derivation[position]
            done += [(person, c["verb"], position)] if "subject" in c else []
            done += [(c["friend"], c["verb"], position)] if "friend" in c["template"].choices else []
            done += [(person, c["verb2"], position)] if "verb2" in c else []
        for who, verb, position in done:
            past = verb if english else VERB_WORDS[verb].portuguese
            if [(w, v) for w, v, _ in done].count((who, verb)) == 1:
                c = self.derivation[position]
                answer = (" and " if english else " e ").join(slots[n](c) for n in ("np", "np2") if n in c)
                add(what.format(who, VERB_WORDS[verb].base if english else past), answer, position)
                if [v for _, v, _ in done].count(verb) == 1:
                    add(who_did.format(past, answer), who, 0 if who == person else position)
        mood = "mood"
        if "{moods}" in getattr(last["template"], self.language):  # two feel it: Portuguese shows it
            mood, how, person = "moods", how.replace("sentiu", "sentiram"), f"{person} e {last['friend']}"
        add(how.format(person), slots[mood](last), 3)
        return facts


def picker(rng: random.Random, held_out: bool | None = None, happy: bool | None = None, **fixed):
    """Return a `pick` for `Grammar.expand` that draws again until a value meets the conditions of `Story`."""

    def fits(name, value):
        """Return whether a value that was drawn for a name meets the conditions."""
        if name in fixed:
            return value == fixed[name]
        if name == "mood":
            return happy is None or (value in HAPPY_MOODS) == happy
        if name == "template":  # a place has a single held-out verb
            return not (held_out and "verb2" in value.choices)
        if held_out is None or name not in ("np", "np2", "verb", "verb2"):
            return True
        return ((value.thing if name in ("np", "np2") else value) in HELD_OUT) == held_out

    def pick(position, name, choice):
        while not fits(name, value := choice.draw(rng)):
            pass
        return value

    return pick


def check(kind: str, value, known) -> None:
    """Raise UserError if a value (a place, a domain, ...) is not among the known ones."""
    if value not in known:
        raise UserError(f"unknown {kind} {value!r}{suggest(str(value), known)}; expected {', '.join(known)}")


class PortugueseStory(Story):
    """The story of the same seed and index in Portuguese: same labels, same probability."""

    language = "portuguese"


class PortugueseReport(Report):
    """The report of the same seed and index in Portuguese."""

    language = "portuguese"


DOMAINS = {"stories": Story, "reports": Report}
DOMAINS |= {"portuguese": PortugueseStory, "portuguese-reports": PortugueseReport}


def domain_class(domain: str) -> type[Derived]:
    """Return the class of the texts of a domain; UserError for an unknown one."""
    check("domain", domain, DOMAINS)
    return DOMAINS[domain]


def draw(n: int, seed: int = 0, domain: str = "stories", start: int = 0, **conditions) -> list[Derived]:
    """Return texts number start to start + n - 1 of a seed, as `Story` or `Report` objects."""
    return [domain_class(domain)(seed, index, **conditions) for index in range(start, start + n)]


def documents(n: int, seed: int = 0, domain: str = "stories", start: int = 0) -> list[str]:
    """Return texts number start to start + n - 1 of a domain (a name in `DOMAINS`), as strings."""
    return [text.text for text in draw(n, seed, domain, start)]


def log_probability(text: str, domain: str = "stories") -> float:
    """Return the exact log-probability in nats, -inf if it does not parse; minus its mean is the floor."""
    derived = domain_class(domain)
    found = derived.grammar.derivations(text, language=derived.language)
    return max((score for _, score in found), default=-math.inf)


def parses(text: str, domain: str = "stories") -> bool:
    """Return whether the grammar can write exactly this text: spelling, capitals, spaces, agreement."""
    return log_probability(text, domain) > -math.inf


def judge(text: str) -> bool:
    """Return whether a text parses and ends happily: PPO's true preference; happy words cannot fool it."""
    return any(derivation[3]["mood"] in HAPPY_MOODS for derivation, _ in GRAMMAR.derivations(text))
