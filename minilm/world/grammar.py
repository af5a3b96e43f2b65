"""How the grammars of the embedded world work: weighted templates that write, score and parse texts.

A sentence comes from a *template* in two languages. Its {slots} are filled by *choices*: finite distributions
that may depend on earlier choices. The same walk (`Grammar.expand`) draws, scores and checks a text; only the
function that picks each value differs. A *derivation* is a list with one dict of chosen values per sentence.

A grammar is a table: the templates of sentence 1, a blank line, those of sentence 2, and so on. A template is
a weight and the English sentence, with the Portuguese one under it:

    2  {person} went to the {place} {time}.
       {person} foi {to_place} {time}.
"""

import inspect
import itertools
import math
import random
import re
from bisect import bisect_right
from collections import namedtuple
from functools import cache, cached_property

LINES = r"(\d+)  (.+)\n   (.+)"  # weight, English, Portuguese


class Choice:
    """A finite distribution: each value has a probability in proportion to its weight."""

    def __init__(self, weights: dict):
        total, self.values = sum(weights.values()), list(weights)
        self.cumulative = list(itertools.accumulate(weight / total for weight in weights.values()))[:-1]
        self.logs = {value: math.log(weight / total) for value, weight in weights.items()}

    def draw(self, rng: random.Random):
        """Draw a value by inverting the cumulative distribution (its last number, 1, is left out)."""
        return self.values[bisect_right(self.cumulative, rng.random())]


@cache
def uniform(values: tuple, but=None) -> Choice:
    """Return the distribution that gives every value, except for `but`, the same probability."""
    return Choice({value: 1.0 for value in values if value != but})


def by_name(function):
    """Return `function` as a function of the dict of choices: a parameter gets its name's choice, or None."""
    names = tuple(inspect.signature(function).parameters)
    return lambda chosen: function(*[chosen.get(name) for name in names])


class Slot:
    """How a slot writes a choice into a sentence, and how a pattern reads it back."""

    def __init__(self, choice: str | None, texts, pattern: str = r"\w+", write=None):
        # {text: value}, or values that are their own texts; `write`: the text needs other choices too ("she")
        texts = texts if isinstance(texts, dict) else {str(value): value for value in texts}
        self.choice, self.pattern = choice, pattern  # choice None: others decide ("it", "them")
        self.read = {text.lower(): value for text, value in texts.items()}
        text_of = {value: text for text, value in texts.items()}
        self.write = by_name(write) if write else lambda chosen: text_of[chosen[choice]]


# A sentence in two languages, and the choices that the slots of the English one show.
Template = namedtuple("Template", "english portuguese choices")


def fill(template: str, slots: dict, chosen: dict) -> str:
    """Return the filled template, with a capital; a slot without a function shows the choice of its name."""
    names = re.findall(r"\{(\w+)\}", template)
    text = template.format(**{name: slots[name](chosen) if name in slots else chosen[name] for name in names})
    return text[0].upper() + text[1:]


class Grammar:
    """A table of templates (see above), and what fills them.

    A function in `rules` returns the `Choice` of its name, one in `portuguese` the Portuguese text of the
    slot of its name. Their parameters name earlier choices of the sentence; `before` is the dict of all
    choices of the previous sentence. Choices named in `carried` are made once per text.
    """

    def __init__(self, table: str, slots: dict[str, Slot], rules: dict, portuguese: dict, carried=()):
        self.slots, self.carried = slots, carried
        self.writers = dict(english={name: slot.write for name, slot in slots.items()})  # by language
        self.writers["portuguese"] = {name: by_name(write) for name, write in portuguese.items()}
        self.rules = {name: by_name(rule) for name, rule in rules.items()}
        self.portuguese_functions = portuguese
        self.templates = []  # for each sentence the Choice of its template
        for sentence in table.split("\n\n"):
            weights = {}
            if wrong := re.sub(LINES, "", sentence).strip():
                raise ValueError(f"{wrong!r}: no weight, two spaces, English, and below it the Portuguese")
            for weight, *texts in re.findall(LINES, sentence):
                choices = [slots[name].choice for name in re.findall(r"\{(\w+)\}", texts[0])]
                weights[Template(*texts, tuple(filter(None, choices)))] = int(weight)
            self.templates.append(Choice(weights))

    @cached_property
    def readers(self) -> dict[str, dict[str, Slot]]:
        """The slots of each language; a Portuguese one is read by a table of all that its function writes."""
        values, read = {}, dict(self.slots)  # choice -> its values; some slots, as {person}, serve both
        for slot in self.slots.values():
            values.setdefault(slot.choice, {}).update(dict.fromkeys(slot.read.values()))
        for name, write in self.portuguese_functions.items():
            parameters = [*inspect.signature(write).parameters]
            texts = {}  # text -> the values of the first parameter that it may stand for
            for chosen in itertools.product(*(values[parameter] for parameter in parameters)):
                texts.setdefault(write(*chosen), set()).add(chosen[0])
            is_clear = all(len(some) == 1 for some in texts.values())  # not an ending ("o", "a")
            pattern = "|".join(sorted(texts, key=len, reverse=True))
            if len(texts) > 100:  # too many for a pattern: any words, looked up in `found`
                n_space = [text.count(" ") for text in texts]
                pattern = rf"\w+(?: \w+){{{min(n_space)},{max(n_space)}}}"
            found = {text: min(some) for text, some in texts.items()} if is_clear else dict.fromkeys(texts)
            read[name] = Slot(parameters[0] if is_clear else None, found, pattern, write)
        return {"english": self.slots, "portuguese": read}

    @cached_property
    def patterns(self) -> dict[tuple[Template, str], re.Pattern]:
        """The pattern of each template in each language, with a named group for each slot."""
        patterns = {}
        for template in (template for choice in self.templates for template in choice.values):
            for language, slots in self.readers.items():
                text, pattern = getattr(template, language), ""
                for literal, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", text[0].upper() + text[1:]):
                    pattern += re.escape(literal)
                    if name:  # (?i:...): a slot that begins the sentence has a capital
                        group = "(?:" if f"<{name}>" in pattern else f"(?P<{name}>"
                        pattern += f"{group}(?i:{slots[name].pattern}))"
                patterns[template, language] = re.compile(pattern)
        return patterns

    def expand(self, pick, n_sentences: int | None = None) -> tuple[list[dict], float]:
        """Build a derivation of values from `pick(position, name, choice)`; return it and log p, or -inf."""
        derivation, total, chosen = [], 0.0, {}
        for position, templates in enumerate(self.templates[:n_sentences]):
            chosen = {name: chosen[name] for name in self.carried if name in chosen} | {"before": chosen}
            chosen["template"] = template = pick(position, "template", templates)
            total += templates.logs[template]
            for name in (name for name in template.choices if name not in chosen):
                choice = self.rules[name](chosen)
                chosen[name] = pick(position, name, choice)
                # exact, by the chain rule: log p(text) is the sum of log p(choice | the choices before it)
                total += choice.logs.get(chosen[name], -math.inf)
                if total == -math.inf:
                    return derivation, total
            derivation.append(chosen)
        return derivation, total

    def sample(self, rng: random.Random) -> tuple[list[dict], float]:
        """Draw a derivation; return it with its log-probability in nats."""
        return self.expand(lambda position, name, choice: choice.draw(rng))

    def sentences(self, derivation: list[dict], language: str = "english") -> list[str]:
        """Return the sentences of a derivation in a language, "english" or "portuguese"."""
        slots = self.writers[language]
        return [fill(getattr(chosen["template"], language), slots, chosen) for chosen in derivation]

    def _readings(self, position: int, sentence: str, language: str):
        """Yield the choices that each matching template of this position reads in a sentence (mostly one)."""
        slots = self.readers[language]
        for template in self.templates[position].values:
            if match := self.patterns[template, language].fullmatch(sentence):
                seen = [(slots[name], text.lower()) for name, text in match.groupdict().items()]
                yield {"template": template} | {slot.choice: slot.read.get(text) for slot, text in seen}

    def derivations(self, text: str, n_sentences: int | None = None, language="english") -> list[tuple]:
        """Return each (derivation, log-probability) of a text of n_sentences (None: all): none or one."""
        sentences = re.split(r"(?<=\.) ", text)
        if len(sentences) != len(self.templates[:n_sentences]):
            return []
        found, readings = [], [self._readings(*pair, language) for pair in enumerate(sentences)]
        for read in itertools.product(*readings):
            walk = self.expand(lambda position, name, _, read=read: read[position][name], n_sentences)
            # strict: write what was read and compare, which checks agreement, a/an, capitals and spaces
            if walk[1] > -math.inf and self.sentences(walk[0], language) == sentences:
                found.append(walk)
        return found


class Derived:
    """A text drawn from the `grammar` of its class, with its exact log-probability and its translation."""

    grammar: Grammar
    language = "english"

    def __init__(self, derivation: list[dict], log_probability: float):
        self.derivation, self.log_probability = derivation, log_probability  # nats, of the whole text
        self.sentences = self.grammar.sentences(derivation, self.language)
        self.text = " ".join(self.sentences)

    @cached_property
    def portuguese_sentences(self) -> list[str]:
        return self.grammar.sentences(self.derivation, "portuguese")

    @property
    def portuguese(self) -> str:
        return " ".join(self.portuguese_sentences)

    @cached_property
    def tokens(self) -> list[tuple[str, int, int]]:
        """(word, start, end) of each word and punctuation mark: text[start:end] == word."""
        return [(match[0], *match.span()) for match in re.finditer(r"\w+|[^\w\s]", self.text)]
