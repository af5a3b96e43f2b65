"""The second domain, `world:reports`: the people, places and things of the stories in the language of an
office.

Passive voice, quantities, numbers, weekdays, in all some fifty words that no story has: what continued
training is for. The grammar is exact like that of the stories: `log_probability(text, "reports")` in
`world.py` is the floor here.
"""

import random
from functools import cache

from . import words
from .grammar import Derived, Grammar, Slot, uniform
from .portuguese import agree, article, contract, definite, noun, participle, place
from .words import (
    CONDITIONS,
    DAYS,
    GENDERS,
    NAMES,
    PLACES,
    QUANTITIES,
    THING_WORDS,
    THINGS,
    VERB_WORDS,
    VERBS,
)

# For each of the four sentences (weight, English, Portuguese).
REPORT = (
    (
        (
            1,
            "report {number}: the {place} was inspected by {person} on {day}.",
            "relatório {number}: {the_place} foi {inspected} por {person} {on_day}.",
        ),
        (
            1,
            "report {number}: on {day}, inspector {person} visited the {place}.",
            "relatório {number}: {on_day}, {inspector} {person} visitou {the_place}.",
        ),
        (
            1,
            "report {number}: according to inspector {person}, the {place} was visited on {day}.",
            "relatório {number}: segundo {inspector} {person}, {the_place} foi {visited} {on_day}.",
        ),
    ),
    (
        (
            1,
            "during this period, {lot} were {verb} and registered.",
            "durante este período, {lot} foram {verb} e {registered}.",
        ),
        (1, "{lot} and {lot2} were {verb}.", "{lot} e {lot2} foram {verb_both}."),
        (1, "{lot} were {verb} and {lot2} were {verb2}.", "{lot} foram {verb} e {lot2} foram {verb2}."),
        (
            1,
            "a total of {lot} was declared by the owner.",
            "um total de {lot} foi declarado pelo proprietário.",
        ),
    ),
    (
        (1, "no {condition} {things} were recorded.", "{no} {one_thing} {condition_one} foi {recorded}."),
        (
            1,
            "{lot} were considered {condition} and removed.",
            "{lot} foram {considered} {condition} e {removed}.",
        ),
        (
            1,
            "the {things} were declared {condition} by the committee.",
            "{the_things} foram {declared} {condition_all} pela comissão.",
        ),
        (1, "each {one_thing} was marked with a number.", "cada {one_thing} foi {marked} com um número."),
    ),
    (
        (
            1,
            "the document was signed by {official} and archived.",
            "o documento foi assinado por {official} e arquivado.",
        ),
        (1, "a new inspection is required before {day}.", "uma nova inspeção é exigida antes {of_day}."),
        (1, "the accounts of the {place} were approved.", "as contas {of_place} foram aprovadas."),
        (
            1,
            "the missing receipts were requested from {official}.",
            "os recibos que faltavam foram pedidos a {official}.",
        ),
    ),
)


def write_lot(lot: tuple[str, str]) -> str:
    """Return a (quantity, thing) in English: "twelve apples"."""
    return f"{lot[0]} {THING_WORDS[lot[1]].plural}"


def report_rules() -> dict:
    """Return for each choice of the report grammar the function (what is chosen so far) -> Choice."""
    things = {place: uniform(THINGS[place]) for place in PLACES}
    verbs = {place: uniform(VERBS[place]) for place in PLACES}
    fixed = {
        "number": uniform(range(1, 100)),
        "person": uniform(NAMES),
        "place": uniform(PLACES),
        "day": uniform(DAYS),
        "condition": uniform(CONDITIONS),
    }

    @cache
    def lots(place, without=None):
        return uniform([(quantity, t) for quantity in QUANTITIES for t in THINGS[place] if t != without])

    @cache
    def others(table, without):
        return uniform([value for value in table if value != without])

    return {name: (lambda c, choice=choice: choice) for name, choice in fixed.items()} | {
        "official": lambda c: others(NAMES, c["person"]),
        "lot": lambda c: lots(c["place"]),
        "lot2": lambda c: lots(c["place"], c["lot"][1]),
        "thing": lambda c: things[c["place"]],
        "verb": lambda c: verbs[c["place"]],
        "verb2": lambda c: others(VERBS[c["place"]], c["verb"]),
    }


def report_slots() -> dict[str, Slot]:
    """Return how each English slot is written and read."""
    names = {name.lower(): name for name in NAMES}
    lots = {
        write_lot((quantity, thing)): (quantity, thing) for quantity in QUANTITIES for thing in THING_WORDS
    }
    lot = rf"(?:{'|'.join(sorted(QUANTITIES, key=len, reverse=True))}) \w+"
    verbs = {verb.participle: past for past, verb in VERB_WORDS.items()}
    return {
        "number": Slot(lambda c: str(c["number"]), "number", {str(n): n for n in range(1, 100)}),
        "person": Slot(lambda c: c["person"], "person", names),
        "official": Slot(lambda c: c["official"], "official", names),
        "place": Slot(lambda c: c["place"], "place", {place: place for place in PLACES}),
        "day": Slot(lambda c: c["day"], "day", {day.lower(): day for day in DAYS}),
        "lot": Slot(lambda c: write_lot(c["lot"]), "lot", lots, lot),
        "lot2": Slot(lambda c: write_lot(c["lot2"]), "lot2", lots, lot),
        "verb": Slot(lambda c: VERB_WORDS[c["verb"]].participle, "verb", verbs),
        "verb2": Slot(lambda c: VERB_WORDS[c["verb2"]].participle, "verb2", verbs),
        "things": Slot(
            lambda c: THING_WORDS[c["thing"]].plural,
            "thing",
            {t.plural: name for name, t in THING_WORDS.items()},
        ),
        "one_thing": Slot(lambda c: c["thing"], "thing", {thing: thing for thing in THING_WORDS}),
        "condition": Slot(lambda c: c["condition"], "condition", {name: name for name in CONDITIONS}),
    }


def place_gender(c: dict) -> str:
    """Return the gender of the Portuguese noun of the place."""
    return words.PLACE_WORDS[c["place"]].gender


def lots_gender(c: dict, *names: str) -> str:
    """Return the gender of a participle after one or more lots: feminine only where all of them are."""
    return "f" if all(THING_WORDS[c[name][1]].gender == "f" for name in names) else "m"


def write_lot_portuguese(lot: tuple[str, str]) -> str:
    """Return a lot in Portuguese: duas maçãs, duzentos limões."""
    return f"{agree(QUANTITIES[lot[0]], THING_WORDS[lot[1]].gender)} {noun(lot[1], True)}"


def day(c: dict, preposition: str) -> str:
    """Return the weekday with its preposition: na segunda-feira, do sábado."""
    name, gender = DAYS[c["day"]]
    return f"{contract(preposition, article(gender))} {name}"


def passive(verb: str, c: dict, *lots: str) -> str:
    """Return the plural participle of a verb of the place that agrees with the lots named."""
    return participle(VERB_WORDS[c[verb]].portuguese_participle, lots_gender(c, *lots), True)


def of_thing(masculine: str, plural: bool):
    """Return the slot that makes a participle agree with the thing of the sentence."""
    return lambda c: participle(masculine, THING_WORDS[c["thing"]].gender, plural)


PORTUGUESE = {
    "number": lambda c: str(c["number"]),
    "person": lambda c: c["person"],
    "official": lambda c: c["official"],
    "inspector": lambda c: agree(("o inspetor", "a inspetora"), GENDERS[c["person"]]),
    "the_place": lambda c: place(c["place"]),
    "of_place": lambda c: place(c["place"], "de"),
    "inspected": lambda c: participle("inspecionado", place_gender(c), False),
    "visited": lambda c: participle("visitado", place_gender(c), False),
    "on_day": lambda c: day(c, "em"),
    "of_day": lambda c: day(c, "de"),
    "lot": lambda c: write_lot_portuguese(c["lot"]),
    "lot2": lambda c: write_lot_portuguese(c["lot2"]),
    "verb": lambda c: passive("verb", c, "lot"),
    "verb2": lambda c: passive("verb2", c, "lot2"),
    "verb_both": lambda c: passive("verb", c, "lot", "lot2"),
    "registered": lambda c: participle("registrado", lots_gender(c, "lot"), True),
    "considered": lambda c: participle("considerado", lots_gender(c, "lot"), True),
    "removed": lambda c: participle("removido", lots_gender(c, "lot"), True),
    "condition": lambda c: agree(CONDITIONS[c["condition"]].forms, lots_gender(c, "lot"), True),
    "condition_all": lambda c: agree(CONDITIONS[c["condition"]].forms, THING_WORDS[c["thing"]].gender, True),
    "condition_one": lambda c: agree(CONDITIONS[c["condition"]].forms, THING_WORDS[c["thing"]].gender),
    "no": lambda c: agree(("nenhum", "nenhuma"), THING_WORDS[c["thing"]].gender),
    "one_thing": lambda c: noun(c["thing"], False),
    "the_things": lambda c: definite(c["thing"], True),
    "recorded": of_thing("registrado", False),
    "declared": of_thing("declarado", True),
    "marked": of_thing("marcado", False),
}

GRAMMAR = Grammar(REPORT, report_slots(), report_rules(), PORTUGUESE, carried=("person", "place"))


class Report(Derived):
    """Official report number `index` of a seed: the same people and places in another register."""

    def __init__(self, seed: int, index: int):
        self.seed, self.index = seed, index
        super().__init__(GRAMMAR, *GRAMMAR.sample(random.Random(f"report {seed} {index}")))

    @property
    def place(self) -> str:
        return self.derivation[0]["place"]
