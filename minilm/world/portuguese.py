"""Brazilian Portuguese for the embedded world: agreement, contractions, word order.

A word-by-word dictionary must fail: articles, adjectives, participles and pronouns agree with the Portuguese
noun ("two yellow apples": "duas maçãs amarelas"; "sold them": "as vendeu"), adjectives follow it,
prepositions contract with the article ("to the beach": "à praia"). All follows from the English alone.
"""

import re

from . import words
from .words import ADJECTIVES, DAYS, PLACE_WORDS, PLURAL, QUANTITIES, SINGULAR, THING_WORDS

# The definite article, alone or contracted with a preposition: masculine, feminine, and their plurals.
ARTICLES = {"": ["o", "a", "os", "as"]} | words.forms("a ao à aos às | de do da dos das | em no na nos nas")
NOUNS = THING_WORDS | PLACE_WORDS | DAYS
GENDER = words.GENDERS | {english: noun.gender for english, noun in NOUNS.items()}


def agree(forms, gender: str, plural: bool = False) -> str:
    """Return the form of (masculine, feminine[, their plurals]) that has this gender and number."""
    return forms[(gender == "f") + 2 * plural]


def gender(*english: str) -> str:
    """Return the gender of people or things together: feminine only if all of them are."""
    return "f" if all(GENDER[word] == "f" for word in english) else "m"


def ending(plural: bool, *english: str) -> str:
    """Return "o", "a", "os" or "as": a regular adjective's or participle's ending, the article, or "it"."""
    return agree(ARTICLES[""], gender(*english), plural)


def noun(english: str, plural: bool = False) -> str:
    """Return the Portuguese of a thing, a place or a day; only things have a plural here."""
    return NOUNS[english].portuguese_plural if plural else NOUNS[english].portuguese


def the(preposition: str, english: str, plural: bool = False) -> str:
    """Return a noun with its article and a preposition (or ""): "a", "beach" -> "à praia"."""
    return f"{agree(ARTICLES[preposition], gender(english), plural)} {noun(english, plural)}"


def noun_phrase(phrase) -> str:
    """Return a `words.Phrase` in Portuguese: "two old cups" -> "duas xícaras velhas"."""
    determiner, adjective, thing, plural = phrase
    before = agree((PLURAL | QUANTITIES if plural else SINGULAR)[determiner], gender(thing))
    after = f" {agree(ADJECTIVES[adjective], gender(thing), plural)}" if adjective else ""
    return f"{before} {noun(thing, plural)}{after}"


# The baseline's dictionary: a Portuguese word (masculine singular) for each English word.
DICTIONARY = {english: noun.portuguese for english, noun in NOUNS.items()}
DICTIONARY |= {thing.plural: thing.portuguese_plural for thing in THING_WORDS.values()}
_VERBS = words.VERB_WORDS.values()
DICTIONARY |= {verb.participle: verb.portuguese_participle for verb in _VERBS}
DICTIONARY |= {verb.english: verb.portuguese for verb in _VERBS}  # "sold" is both: keep the frequent past
_FORMS = ADJECTIVES | words.MOOD_WORDS | words.CONDITIONS | PLURAL | QUANTITIES
DICTIONARY |= {english: forms[0] for english, forms in _FORMS.items() if " " not in english}
# Words that no other table has, each in one form (a preposition without its article).
DICTIONARY |= dict(words.rows("""
the o | a um | an um | and e | to a | at para | in em | on em | of de | with com | for por | by por | from de
it o | them os | she ela | he ele | her ela | him ele | was foi | were foram | is é | went foi | met encontrou
arrived chegou | came veio | made deixou | felt sentiu | looked olhou | there lá | later depois | then depois
also também | together juntos | after depois | that isso | too também | end fim | because porque | this esta
morning manhã | lunch almoço | yesterday ontem | Sunday domingo | hundred cem | report relatório
according segundo | inspector inspetor | inspected inspecionado | visited visitado | during durante
period período | registered registrado | total total | declared declarado | owner proprietário | no nenhum
recorded registrado | considered considerado | counted contado | committee comissão | each cada
marked marcado | number número | document documento | signed assinado | archived arquivado | new novo
inspection inspeção | required exigido | before antes | accounts contas | approved aprovado | missing faltando
receipts recibos | requested pedido
"""))  # fmt: skip


def word_by_word(text: str) -> str:
    """Return a text with each word replaced by its entry in the dictionary; names and punctuation stay."""

    def replace(match):
        word = match[0]
        translation = DICTIONARY.get(word, DICTIONARY.get(word.lower(), word))
        return translation[0].upper() + translation[1:] if word[0].isupper() else translation

    return re.sub(r"[^\W\d_]+", replace, text)
