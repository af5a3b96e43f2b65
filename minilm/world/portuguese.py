"""Brazilian Portuguese for the embedded world: agreement, contractions, word order.

The English template decides the Portuguese template; the functions here fill its slots. A word-by-word
dictionary must fail on the result: articles, adjectives, participles and pronouns agree with the Portuguese
noun's gender and number ("two yellow apples": "duas maçãs amarelas"; "sold them": "as vendeu"), adjectives
follow the noun, and the prepositions a, de, em, por contract with the article ("to the beach": "à praia"; "of
the lemons": "dos limões"). Everything follows from the English sentence alone. `chosen` is one sentence of a
derivation (`world_grammar.py`).
"""

import re

from .words import (
    ADJECTIVES,
    CONDITIONS,
    DAYS,
    GENDERS,
    MOOD_WORDS,
    PLACE_WORDS,
    PLURAL,
    QUANTITIES,
    SINGULAR,
    THING_WORDS,
    TIMES,
    VERB_WORDS,
)

CONTRACTIONS = {
    "a": {"o": "ao", "a": "à", "os": "aos", "as": "às"},
    "de": {"o": "do", "a": "da", "os": "dos", "as": "das"},
    "em": {"o": "no", "a": "na", "os": "nos", "as": "nas"},
    "por": {"o": "pelo", "a": "pela", "os": "pelos", "as": "pelas"},
}


def agree(forms, gender: str, plural: bool = False) -> str:
    """Return the form for a gender and number out of (masculine, feminine[, their plurals])."""
    return forms[(gender == "f") + 2 * plural]


def article(gender: str, plural: bool = False) -> str:
    """Return the definite article: o, a, os, as; also the object pronoun of a thing."""
    return agree(("o", "a", "os", "as"), gender, plural)


def contract(preposition: str, definite: str) -> str:
    """Return preposition and article, as one word where Portuguese contracts them: "de", "as" -> "das"."""
    return CONTRACTIONS.get(preposition, {}).get(definite, f"{preposition} {definite}")


def noun(thing: str, plural: bool) -> str:
    """Return the Portuguese noun of an English thing (singular form) in the number asked for."""
    word = THING_WORDS[thing]
    return word.portuguese_plural if plural else word.portuguese


def participle(masculine: str, gender: str, plural: bool) -> str:
    """Return a regular participle or adjective in -o in the gender and number asked for."""
    return masculine[:-1] + article(gender, plural)


def noun_phrase(phrase) -> str:
    """Return a (determiner, adjective or None, thing, plural): "two old cups" -> "duas xícaras velhas"."""
    determiner, adjective, thing, plural = phrase
    gender = THING_WORDS[thing].gender
    words = [agree((PLURAL if plural else SINGULAR)[determiner], gender), noun(thing, plural)]
    if adjective:
        words.append(agree(ADJECTIVES[adjective].forms, gender, plural))
    return " ".join(words)


def definite(thing: str, plural: bool, preposition: str = "") -> str:
    """Return the thing with its definite article, contracted with a preposition where one is given."""
    the = article(THING_WORDS[thing].gender, plural)
    return f"{contract(preposition, the) if preposition else the} {noun(thing, plural)}"


def place(english: str, preposition: str = "") -> str:
    """Return the place with its definite article: "beach", "em" -> "na praia"."""
    word = PLACE_WORDS[english]
    the = article(word.gender)
    return f"{contract(preposition, the) if preposition else the} {word.portuguese}"


def pronoun(person: str) -> str:
    """Return ele or ela."""
    return agree(("ele", "ela"), GENDERS[person])


def together(chosen: dict) -> str:
    """Return the gender of two people: feminine only where both are women."""
    return "f" if GENDERS[chosen["person"]] == GENDERS[chosen["friend"]] == "f" else "m"


def subject(chosen: dict) -> str:
    """Return the main person as a subject: the name, or ele/ela."""
    return chosen["person"] if chosen["subject"] == "name" else pronoun(chosen["person"])


def made_object(chosen: dict) -> str:
    """Return "made Ana" / "made her": deixou Ana / a deixou; plural things take deixaram."""
    verb = "deixaram" if chosen["mention"][1] else "deixou"
    if chosen["subject"] == "name":
        return f"{verb} {chosen['person']}"
    return f"{article(GENDERS[chosen['person']])} {verb}"


# How each slot of a Portuguese story template is filled.
STORY_SLOTS = {
    "person": lambda c: c["person"],
    "friend": lambda c: c["friend"],
    "subject": subject,
    "to_place": lambda c: place(c["place"], "a"),
    "in_place": lambda c: place(c["place"], "em"),
    "time": lambda c: TIMES[c["time"]],
    "verb": lambda c: VERB_WORDS[c["verb"]].portuguese,
    "verb2": lambda c: VERB_WORDS[c["verb2"]].portuguese,
    "verbs": lambda c: VERB_WORDS[c["verb"]].portuguese_plural,
    "np": lambda c: noun_phrase(c["np"]),
    "np2": lambda c: noun_phrase(c["np2"]),
    "it": lambda c: article(THING_WORDS[c["np"].thing].gender, c["np"].plural),
    "together": lambda c: agree(("juntos", "juntas"), together(c)),
    "thing": lambda c: definite(*c["mention"]),
    "of_thing": lambda c: definite(*c["mention"], "de"),
    "made_object": made_object,
    "mood": lambda c: agree(MOOD_WORDS[c["mood"]].forms, GENDERS[c["person"]]),
    "moods": lambda c: agree(MOOD_WORDS[c["mood"]].forms, together(c), True),
}

# Words that no other table has, for the dictionary: each with its most usual form.
_OTHER_WORDS = """
the o | a um | an um | and e | to a | at em | in em | on em | of de | with com | for por | by por
from de | it o | them os | she ela | he ele | her ela | him ele | was foi | were foram | is é | went foi
met encontrou | arrived chegou | came veio | made fez | felt sentiu | looked olhou | there lá
later depois | then depois | also também
together juntos | after depois | that isso | too também | end fim | because porque
this esta | morning manhã | lunch almoço | yesterday ontem | Sunday domingo | hundred cem
report relatório | according segundo | inspector inspetor | inspected inspecionado | visited visitado
during durante | period período | registered registrado | total total | declared declarado
owner proprietário | no nenhum | recorded registrado | considered considerado | removed removido
committee comissão | each cada | marked marcado | number número | document documento | signed assinado
archived arquivado | new novo | inspection inspeção | required exigido | before antes | accounts contas
approved aprovado | missing faltando | receipts recibos | requested pedido
"""


def dictionary() -> dict[str, str]:
    """Return one Portuguese word for every English word of both domains: the baseline of translation.

    Nouns have the right form; where Portuguese agrees with something, the masculine singular stands.
    """
    entries = {}
    for thing in THING_WORDS.values():
        entries |= {thing.english: thing.portuguese, thing.plural: thing.portuguese_plural}
    for verb in VERB_WORDS.values():
        entries[verb.participle] = verb.portuguese_participle
    for verb in VERB_WORDS.values():
        entries[verb.english] = verb.portuguese
    for table in (ADJECTIVES, MOOD_WORDS, CONDITIONS):
        entries |= {english: word.forms[0] for english, word in table.items()}
    for table in (PLURAL, QUANTITIES, DAYS):
        entries |= {english: forms[0] for english, forms in table.items() if " " not in english}
    entries |= {english: word.portuguese for english, word in PLACE_WORDS.items()}
    return entries | dict(
        entry.split() for line in _OTHER_WORDS.strip().splitlines() for entry in line.split("|")
    )


def word_by_word(text: str) -> str:
    """Return a text with each word replaced by its entry in the dictionary; names and marks stay."""
    entries = dictionary()

    def replace(match):
        word = match[0]
        translation = entries.get(word, entries.get(word.lower(), word))
        return translation[0].upper() + translation[1:] if word[0].isupper() else translation

    return re.sub(r"[^\W\d_]+", replace, text)
