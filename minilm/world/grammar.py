"""The machine behind the embedded world: weighted templates, their exact probability, and the way back.

A text is a few sentences. Each sentence is one *template* in two languages, whose {slots} are filled by
*choices*: finite distributions that may depend on what was chosen before. The same walk (`Grammar.expand`)
serves to draw a text, to score one and to check one; only the function that picks each value differs. A
derivation is a list with one dict of chosen values a sentence. The grammars are written so that each text has
one derivation at most, hence the probability of the derivation is the probability of the text (the tests
count the derivations).
"""

import itertools
import math
import random
import re
from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple


class Choice:
    """A finite distribution: a value for each outcome, in proportion to its weight."""

    def __init__(self, weights: dict):
        total = sum(weights.values())
        self.values = list(weights)
        self.cumulative = list(itertools.accumulate(weight / total for weight in weights.values()))[:-1]
        self.logs = {value: math.log(weight / total) for value, weight in weights.items()}

    def draw(self, rng: random.Random):
        """Return a value, by inversion of the cumulative distribution."""
        return self.values[bisect_right(self.cumulative, rng.random())]

    def log_probability(self, value) -> float:
        """Return the log-probability of a value in nats; -inf for one that cannot be chosen."""
        return self.logs.get(value, -math.inf)


def uniform(values) -> Choice:
    """Return the distribution that gives every value the same probability."""
    return Choice(dict.fromkeys(values, 1.0))


class Template(NamedTuple):
    """One sentence: literal pieces and slot names in turn, and what reading and writing it needs."""

    english: tuple[str, ...]  # literal, slot, literal, slot, ..., literal
    portuguese: tuple[str, ...]
    choices: tuple[str, ...]  # the choices its slots ask for, in the order of the English slots
    slots: tuple[str, ...]
    pattern: re.Pattern  # one group a slot


class Slot(NamedTuple):
    """How one slot is written in English, which choice it shows, and how it is read back."""

    english: Callable[[dict], str]
    choice: str | None  # None: the slot follows from other choices ("it", "them")
    read: dict  # lower-case text -> value of the choice
    pattern: str = r"\w+"  # a superset of the keys of `read`; one word by default


def pieces(template: str) -> tuple[str, ...]:
    """Split "a {b} c" into ("a ", "b", " c"): slot names at the odd places."""
    return tuple(re.split(r"\{(\w+)\}", template))


def fill(template: tuple[str, ...], values) -> str:
    """Return the pieces with each slot replaced by `values(slot)`, starting with a capital."""
    text = "".join(values(piece) if i % 2 else piece for i, piece in enumerate(template))
    return text[0].upper() + text[1:]


class Grammar:
    """Sentences in order, each a table of (weight, English template, Portuguese template).

    `rules[name](chosen)` returns the `Choice` of that name, given the dict of what has been chosen so far in
    the sentence; `chosen["before"]` is the dict of the sentence before. Choices named in `carried` are made
    once a text.
    """

    def __init__(self, sentences, slots: dict[str, Slot], rules: dict, portuguese: dict, carried=()):
        self.slots, self.rules, self.portuguese_slots, self.carried = slots, rules, portuguese, carried
        self.templates = [
            Choice({self._template(english, translation): weight for weight, english, translation in table})
            for table in sentences
        ]

    def _template(self, english: str, portuguese: str) -> Template:
        parts = pieces(english)
        slots = parts[1::2]
        choices = [self.slots[slot].choice for slot in slots if self.slots[slot].choice]
        literals = (parts[0][:1].upper() + parts[0][1:], *parts[1:])
        pattern = "".join(
            f"((?i:{self.slots[piece].pattern}))" if i % 2 else re.escape(piece)
            for i, piece in enumerate(literals)
        )
        return Template(parts, pieces(portuguese), tuple(choices), slots, re.compile(pattern))

    def expand(self, pick, n_sentences: int | None = None) -> tuple[list[dict], float]:
        """Walk the grammar; return (derivation, log-probability in nats).

        `pick(position, name, choice)` returns the value of each choice; a value that `choice` does not have
        makes the log-probability -inf and ends the walk.
        """
        derivation, total, chosen = [], 0.0, {}
        for position, templates in enumerate(self.templates[:n_sentences]):
            chosen = {name: chosen[name] for name in self.carried if name in chosen} | {"before": chosen}
            chosen["template"] = template = pick(position, "template", templates)
            total += templates.log_probability(template)
            for name in template.choices:
                if name in chosen:
                    continue
                choice = self.rules[name](chosen)
                value = pick(position, name, choice)
                total += choice.log_probability(value)
                if total == -math.inf:
                    return derivation, total
                chosen[name] = value
            derivation.append(chosen)
        return derivation, total

    def sample(self, rng: random.Random) -> tuple[list[dict], float]:
        """Draw a derivation; return it with its log-probability in nats."""
        return self.expand(lambda position, name, choice: choice.draw(rng))

    def english(self, derivation: list[dict]) -> list[str]:
        """Return the English sentences of a derivation."""
        return [
            fill(c["template"].english, lambda slot, c=c: self.slots[slot].english(c)) for c in derivation
        ]

    def portuguese(self, derivation: list[dict]) -> list[str]:
        """Return the Portuguese sentences of a derivation, aligned with the English ones."""
        slots = self.portuguese_slots
        return [fill(c["template"].portuguese, lambda slot, c=c: slots[slot](c)) for c in derivation]

    def _read(self, position: int, sentence: str) -> list[dict]:
        """Return the choices that each template of this position sees in a sentence (mostly one template)."""
        readings = []
        for template in self.templates[position].values:
            match = template.pattern.fullmatch(sentence)
            if match:
                values = {"template": template}
                for slot, text in zip(template.slots, match.groups(), strict=True):
                    values[self.slots[slot].choice] = self.slots[slot].read.get(text.lower())
                readings.append(values)
        return readings

    def derivations(self, text: str, n_sentences: int | None = None) -> list[tuple[list[dict], float]]:
        """Return every (derivation, log-probability) of a text: none, or one (the grammars are unambiguous).

        Strict: the reading is written out again and must equal the text, so agreement, a/an, capitals, names
        and spaces are all checked by the same code that writes them. With `n_sentences` the text is the first
        few sentences only.
        """
        sentences = re.split(r"(?<=\.) ", text)
        if len(sentences) != len(self.templates[:n_sentences]):
            return []
        found = []
        for values in itertools.product(*(self._read(i, sentence) for i, sentence in enumerate(sentences))):
            walk = self.expand(
                lambda position, name, choice, values=values: values[position][name], n_sentences
            )
            if walk[1] > -math.inf and self.english(walk[0]) == sentences:
                found.append(walk)
        return found

    def log_probability(self, text: str, n_sentences: int | None = None) -> float:
        """Return the exact log-probability of a text in nats, -inf where it does not parse."""
        return max((score for _, score in self.derivations(text, n_sentences)), default=-math.inf)


_TOKEN = re.compile(r"\w+|[^\w\s]")


def tokens(text: str) -> list[tuple[str, int, int]]:
    """Return (word, start, end) of each word and punctuation mark of a text."""
    return [(match[0], *match.span()) for match in _TOKEN.finditer(text)]


class Derived:
    """A text drawn from a grammar: its sentences, its exact log-probability, its translation."""

    def __init__(self, grammar: Grammar, derivation: list[dict], log_probability: float):
        self.grammar, self.derivation = grammar, derivation
        self.log_probability = log_probability  # nats, of the whole text

    @cached_property
    def sentences(self) -> list[str]:
        return self.grammar.english(self.derivation)

    @cached_property
    def text(self) -> str:
        return " ".join(self.sentences)

    @cached_property
    def portuguese_sentences(self) -> list[str]:
        return self.grammar.portuguese(self.derivation)

    @cached_property
    def portuguese(self) -> str:
        return " ".join(self.portuguese_sentences)

    @cached_property
    def tokens(self) -> list[tuple[str, int, int]]:
        """(word, start, end) of each word and punctuation mark: text[start:end] == word."""
        return tokens(self.text)
