"""The second domain, `world:reports`: the same people, places and things in the language of an office.

Reports have passive voice, quantities, numbers, weekdays, and in all some fifty words that no story has: a
domain for continued training. Like the grammar of the stories, this one gives exact probabilities.
"""

import random
from functools import cache

from . import stories
from .grammar import Choice, Derived, Grammar, Slot, uniform
from .portuguese import agree, ending, gender, noun, noun_phrase, the
from .words import CONDITIONS, DAYS, NAMES, PLACES, QUANTITIES, THING_WORDS, THINGS, VERB_WORDS, Phrase

REPORT = """
1  report {number}: the {place} was inspected by {person} on {day}.
   relatório {number}: {the_place} foi inspecionad{o_place} por {person} {on_day}.
1  report {number}: on {day}, inspector {person} visited the {place}.
   relatório {number}: {on_day}, {inspector} {person} visitou {the_place}.
1  report {number}: according to inspector {person}, the {place} was visited on {day}.
   relatório {number}: segundo {inspector} {person}, {the_place} foi visitad{o_place} {on_day}.

1  during this period, {goods} were {verb} and registered.
   durante este período, {goods} foram {verb}{os_goods} e registrad{os_goods}.
1  {goods} and {goods2} were {verb}.
   {goods} e {goods2} foram {verb}{os_both}.
1  {goods} were {verb} and {goods2} were {verb2}.
   {goods} foram {verb}{os_goods} e {goods2} foram {verb2}{os_goods2}.
1  a total of {goods} was declared by the owner.
   um total de {goods} foi declarado pelo proprietário.

1  no {condition} {things} were recorded.
   nenhum{a} {one_thing} {condition_one} foi registrad{o_thing}.
1  {goods} were considered {condition} and counted.
   {goods} foram considerad{os_goods} {condition} e contad{os_goods}.
1  the {things} were declared {condition} by the committee.
   {the_things} foram declarad{os_things} {condition_all} pela comissão.
1  each {one_thing} was marked with a number.
   cada {one_thing} foi marcad{o_thing} com um número.

1  the document was signed by {official} and archived.
   o documento foi assinado por {official} e arquivado.
1  a new inspection is required before {day}.
   uma nova inspeção é exigida antes de {weekday}.
1  the accounts of the {place} were approved.
   as contas {of_place} foram aprovadas.
1  the missing receipts were requested from {official}.
   os recibos que faltavam foram pedidos a {official}.
"""

NUMBERS = range(1, 100)


@cache
def goods_of(place: str, but: str | None = None) -> Choice:
    """Return the distribution of goods ("two cups") of a place, without the thing `but`."""
    return uniform(tuple(Phrase(q, None, t, True) for q in QUANTITIES for t in THINGS[place] if t != but))


RULES = {name: stories.RULES[name] for name in ("person", "place", "verb", "verb2")} | {
    "number": lambda: uniform(NUMBERS),
    "official": lambda person: uniform(NAMES, but=person),
    "day": lambda: uniform(tuple(DAYS)),
    "condition": lambda: uniform(tuple(CONDITIONS)),
    "goods": lambda place: goods_of(place),
    "goods2": lambda place, goods: goods_of(place, but=goods.thing),
    "thing": lambda place: uniform(THINGS[place]),
}

_GOODS = {stories.write_phrase(goods): goods for place in PLACES for goods in goods_of(place).values}
_PATTERN = rf"(?:{'|'.join(sorted(QUANTITIES, key=len, reverse=True))}) \w+"  # "two hundred" before "two"
_VERBS = {verb.participle: verb.english for verb in VERB_WORDS.values()}
_PLAIN = dict(number=NUMBERS, person=NAMES, official=NAMES, place=PLACES, verb=_VERBS, verb2=_VERBS)
_PLAIN |= dict(day=tuple(DAYS), condition=tuple(CONDITIONS))
SLOTS = {name: Slot(name, texts) for name, texts in _PLAIN.items()} | {
    "goods": Slot("goods", _GOODS, _PATTERN),
    "goods2": Slot("goods2", _GOODS, _PATTERN),
    "things": Slot("thing", {thing.plural: thing.english for thing in THING_WORDS.values()}),
    "one_thing": Slot("thing", tuple(THING_WORDS)),
}

# A participle is a stem and an ending that agrees: o_place with the place, os_goods with goods in the plural.
PORTUGUESE = {
    "inspector": lambda person: agree(("o inspetor", "a inspetora"), gender(person)),
    "the_place": lambda place: the("", place),
    "of_place": lambda place: the("de", place),
    "o_place": lambda place: ending(False, place),
    "on_day": lambda day: the("em", day),
    "weekday": lambda day: noun(day),
    "goods": lambda goods: noun_phrase(goods),
    "goods2": lambda goods2: noun_phrase(goods2),
    "verb": lambda verb: VERB_WORDS[verb].portuguese_participle[:-1],
    "verb2": lambda verb2: VERB_WORDS[verb2].portuguese_participle[:-1],
    "os_goods": lambda goods: ending(True, goods.thing),
    "os_goods2": lambda goods2: ending(True, goods2.thing),
    "os_both": lambda goods, goods2: ending(True, goods.thing, goods2.thing),
    "condition": lambda condition, goods: agree(CONDITIONS[condition], gender(goods.thing), True),
    "condition_one": lambda condition, thing: agree(CONDITIONS[condition], gender(thing)),
    "condition_all": lambda condition, thing: agree(CONDITIONS[condition], gender(thing), True),
    "a": lambda thing: agree(("", "a"), gender(thing)),
    "one_thing": lambda thing: noun(thing),
    "o_thing": lambda thing: ending(False, thing),
    "the_things": lambda thing: the("", thing, True),
    "os_things": lambda thing: ending(True, thing),
}


class Report(Derived):
    """Official report number `index` of a seed: the same people and places in another register."""

    grammar = Grammar(REPORT, SLOTS, RULES, PORTUGUESE, carried=("person", "place"))

    def __init__(self, seed: int, index: int):
        super().__init__(*self.grammar.sample(random.Random(f"report {seed} {index}")))
