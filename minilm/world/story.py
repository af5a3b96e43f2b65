"""The embedded world: endless small stories, and everything that is known about each of them.

Why a grammar: the true distribution of the texts is known, so a run can print the loss that no model can beat
(`log_probability`), each label is exact, and each lesson shows within a minute. The grammar is in
`world_stories.py`, its words in `world_words.py`, the tasks made from the stories in `world_tasks.py`.

    >>> story = Story(seed=0, index=0)
    >>> story.text, story.log_probability, story.place, story.happy, story.portuguese

Measured over 20,000 stories: 34.7 tokens (29.8 words and the punctuation) and 157 bytes a story, 199
different words; unigram entropy 4.42 nats a token, entropy of the grammar 31.7 nats a story = 0.92 a token;
the most frequent token, the full stop, makes 0.12.
"""

import random
import re
from functools import cached_property

from ..plumbing.errors import UserError, suggest
from . import reports as world_reports
from . import stories as world_stories
from .grammar import Derived, Grammar
from .reports import Report
from .stories import noun, write_phrase
from .words import (
    HAPPY_MOODS,
    HELD_OUT_THINGS,
    HELD_OUT_VERBS,
    NAMES,
    PLACES,
    THING_WORDS,
    VERB_WORDS,
)

GRAMMAR = world_stories.GRAMMAR
DOMAINS: dict[str, Grammar] = {"stories": GRAMMAR, "reports": world_reports.GRAMMAR}

# Every form of every thing, singular and plural, with its singular.
SINGULAR_OF = {form: thing for thing in THING_WORDS for form in (thing, noun(thing, True))}
_ENTITY_LABELS = (
    dict.fromkeys(NAMES, "person") | dict.fromkeys(SINGULAR_OF, "thing") | dict.fromkeys(PLACES, "place")
)
_HELD_OUT = {w for table in (HELD_OUT_THINGS, HELD_OUT_VERBS) for held in table.values() for w in held}


class Story(Derived):
    """Story number `index` of a seed, the same on every machine.

    `place=` and `person=` fix these; `held_out` False avoids the held-out things and verbs, True uses no
    others (None: all). `log_probability` is always that of the text under the whole grammar.
    """

    def __init__(self, seed: int, index: int, held_out: bool | None = None, **fixed):
        for name, value in fixed.items():
            known = {"place": PLACES, "person": NAMES}.get(name, ())
            if value not in known:
                raise UserError(
                    f"unknown {name} {value!r}{suggest(str(value), known)}; known: {', '.join(known)}"
                )
        self.seed, self.index = seed, index
        conditions = f" {held_out} {sorted(fixed.items())}" if fixed or held_out is not None else ""
        pick = picker(random.Random(f"story {seed} {index}{conditions}"), held_out, **fixed)
        super().__init__(GRAMMAR, *GRAMMAR.expand(pick))

    @property
    def place(self) -> str:
        return self.derivation[0]["place"]

    @property
    def person(self) -> str:
        return self.derivation[0]["person"]

    @property
    def mood(self) -> str:
        return self.derivation[3]["mood"]

    @property
    def happy(self) -> bool:
        return self.mood in HAPPY_MOODS

    @cached_property
    def entities(self) -> list[tuple[int, int, str]]:
        """(start, end, label) of each person, thing and place word, in the order of the text."""
        return [(start, end, _ENTITY_LABELS[w]) for w, start, end in self.tokens if w in _ENTITY_LABELS]

    @property
    def text_without_place(self) -> str:
        """Sentences 2-4: the place word stands in sentence 1 only."""
        return " ".join(self.sentences[1:])

    @cached_property
    def summary(self) -> str:
        """One sentence: who did what where, and how it ended."""
        event = self.derivation[1]
        done = f"{self.person} {event['verb']} {write_phrase(event['np'])}"
        return f"{done} {world_stories.at_place(self.place)} and was {self.mood}."

    @cached_property
    def facts(self) -> list[tuple[str, str, int, int]]:
        """(question, answer, start, end) with text[start:end] == answer; no question has two answers."""
        return story_facts(self)


def picker(rng: random.Random, held_out: bool | None = None, happy: bool | None = None, **fixed):
    """Return a `pick` for `Grammar.expand` that draws again until a value keeps the conditions.

    `fixed` gives values by name of the choice (place="farm"); `held_out` is that of `Story`; `happy` chooses
    among the moods.
    """

    def fits(name, value):
        """Say whether a value drawn for the choice `name` keeps the conditions."""
        if name in fixed:
            return value == fixed[name]
        if name == "mood":
            return happy is None or (value in HAPPY_MOODS) == happy
        if held_out is None:
            return True
        if name == "template":  # one held-out verb a place: no second verb
            return not (held_out and "verb2" in value.choices)
        if name in ("np", "np2"):
            return (value.thing in _HELD_OUT) == held_out
        return name not in ("verb", "verb2") or (value in _HELD_OUT) == held_out

    def pick(position, name, choice):
        """Return a value of the choice `name` of the sentence at `position`."""
        value = choice.draw(rng)
        while not fits(name, value):
            value = choice.draw(rng)
        return value

    return pick


def story_facts(story: Story) -> list[tuple[str, str, int, int]]:
    """Return the (question, answer, start, end) of a story: where, when, what, who, and the mood."""
    person, text, sentences, derivation = story.person, story.text, story.sentences, story.derivation
    offsets = [sum(len(s) + 1 for s in sentences[:i]) for i in range(4)]
    facts = []

    def add(question, answer, position):
        match = re.search(rf"\b{re.escape(answer)}\b", sentences[position], re.IGNORECASE)
        start, end = offsets[position] + match.start(), offsets[position] + match.end()
        facts.append((question, text[start:end], start, end))

    add(f"Where was {person}?", story.place, 0)
    add(f"When was {person} {world_stories.at_place(story.place)}?", derivation[0]["time"], 0)
    done = []  # (who, verb) of every event, so that a question about one of two is left out
    for position in (1, 2):
        c = derivation[position]
        friend_only = "subject" not in c
        done.append((c["friend"] if friend_only else person, c["verb"], position))
        if "friend" in c["template"].choices and not friend_only:
            done.append((c["friend"], c["verb"], position))
        if "verb2" in c:
            done.append((person, c["verb2"], position))
    for who, verb, position in done:
        c = derivation[position]
        if [(w, v) for w, v, _ in done].count((who, verb)) == 1:
            answer = " and ".join(write_phrase(p) for p in world_stories.sentence_phrases(c))
            add(f"What did {who} {VERB_WORDS[verb].base}?", answer, position)
            if [v for _, v, _ in done].count(verb) == 1:
                add(f"Who {verb} {answer}?", who, 0 if who == person else position)
    add(f"How did {person} feel?", story.mood, 3)
    return facts


def draw(n: int, seed: int = 0, domain: str = "stories", start: int = 0) -> list[Derived]:
    """Return the texts number start .. start + n - 1 of a seed: `Story` objects, or `Report` objects."""
    grammar_of(domain)
    text = Story if domain == "stories" else Report
    return [text(seed, index) for index in range(start, start + n)]


def grammar_of(domain: str) -> Grammar:
    """Return the grammar of a domain; UserError for an unknown one."""
    if domain not in DOMAINS:
        raise UserError(
            f"unknown domain {domain!r}{suggest(domain, DOMAINS)}; there are {', '.join(DOMAINS)}"
        )
    return DOMAINS[domain]


def documents(n: int, seed: int = 0, domain: str = "stories", start: int = 0) -> list[str]:
    """Return the texts number start .. start + n - 1 of a domain, "stories" or "reports"."""
    return [item.text for item in draw(n, seed, domain, start)]


def log_probability(text: str, domain: str = "stories") -> float:
    """Return the exact log-probability of a text in nats under the grammar, -inf where it does not parse.

    Minus its mean over documents is the lowest loss that any model can reach on them.
    """
    return grammar_of(domain).log_probability(text)


def parses(text: str, domain: str = "stories") -> bool:
    """Return whether a text is exactly one of the grammar: spelling, capitals, spaces, agreement."""
    return bool(grammar_of(domain).derivations(text))


def judge(text: str) -> bool:
    """Return whether a text parses as a story *and* ends happily: the true preference of the PPO lesson.

    A count of happy words alone could be cheated by a text that is nothing but happy words.
    """
    return any(derivation[3]["mood"] in HAPPY_MOODS for derivation, _ in GRAMMAR.derivations(text))


def translate(text: str, domain: str = "stories") -> str:
    """Return the Portuguese of a whole English text; UserError where it does not parse."""
    grammar = grammar_of(domain)
    found = grammar.derivations(text)
    if not found:
        raise UserError(f"not a text of the world's {domain}: {text[:60]!r}; only those can be translated")
    return " ".join(grammar.portuguese(found[0][0]))


def place_of(word: str) -> str | None:
    """Return the place that a thing (in either number) belongs to, None for any other word."""
    thing = SINGULAR_OF.get(word)
    return THING_WORDS[thing].place if thing else None
