"""Portuguese: agreement in gender and number, contractions, word order; a dictionary must fail."""

import re

import pytest

from minilm import world
from minilm.world import portuguese as pt
from minilm.world.words import ADJECTIVES, MOOD_WORDS, PLACES, THING_WORDS, VERB_WORDS, Phrase

DETERMINERS = {
    ("m", False): {"a": "um", "the": "o"},
    ("f", False): {"a": "uma", "the": "a"},
    ("m", True): {"some": "alguns", "two": "dois", "the": "os", "two hundred": "duzentos"},
    ("f", True): {"some": "algumas", "two": "duas", "the": "as", "two hundred": "duzentas"},
}


@pytest.mark.parametrize("thing", THING_WORDS)
def test_determiner_noun_and_adjective_agree_for_every_thing(thing):
    word = THING_WORDS[thing]
    for plural in (False, True):
        nominal = word.portuguese_plural if plural else word.portuguese
        assert pt.noun(thing, plural) == nominal
        for english, determiner in DETERMINERS[word.gender, plural].items():
            assert pt.noun_phrase(Phrase(english, None, thing, plural)) == f"{determiner} {nominal}"
            for adjective, forms in ADJECTIVES.items():
                form = forms["mf".index(word.gender) + (2 if plural else 0)]
                phrase = pt.noun_phrase(Phrase(english, adjective, thing, plural))
                assert phrase == f"{determiner} {nominal} {form}", "the adjective follows and agrees"


def test_agreement():
    forms = ("m", "f", "ms", "fs")
    assert [pt.agree(forms, g, n) for n in (False, True) for g in "mf"] == list(forms)
    assert [pt.ending(n, thing) for n in (False, True) for thing in ("map", "pan")] == ["o", "a", "os", "as"]
    assert pt.gender("Ana") == pt.gender("Ana", "Bia") == pt.gender("beach", "apple", "Monday") == "f"
    assert pt.gender("Ana", "Hugo") == pt.gender("Hugo", "Ana") == "m", "a mixed group is masculine"
    assert pt.ending(True, "Ana", "Hugo") == "os" and pt.noun("Saturday") == "sábado"


def test_prepositions_contract_with_the_article():
    cases = (("lemon", False), ("cup", False), ("lemon", True), ("cup", True))
    expected = {"": "o a os as", "a": "ao à aos às", "de": "do da dos das", "em": "no na nos nas"}
    for preposition, forms in expected.items():
        assert [pt.the(preposition, *case).split()[0] for case in cases] == forms.split()
    places = "no mercado, na cozinha, no jardim, na praia, na escola, na fazenda"
    assert ", ".join(pt.the("em", place) for place in PLACES) == places
    assert pt.the("de", "lemon", True) == "dos limões" and pt.the("", "farm") == "a fazenda"


STORIES = """
Ana and Bia arrived at the beach on Sunday. = Ana e Bia chegaram à praia no domingo.
Ana found two old boats and carried them. = Ana achou dois barcos velhos e os carregou.
Ana and Bia lost a shell together. = Ana e Bia perderam juntas uma concha.
Ana and Bia were proud because of the shell. = Ana e Bia ficaram orgulhosas por causa da concha.

Yesterday, Hugo was at the farm. = Ontem, Hugo estava na fazenda.
There he fed the cow. = Lá ele alimentou a vaca.
Later Hugo fed some hens and brushed them. = Mais tarde Hugo alimentou algumas galinhas e as escovou.
The hens made him worried. = As galinhas o deixaram preocupado.

This morning, Sofia came to the market with Caio. = Hoje de manhã, Sofia veio ao mercado com Caio.
She and Caio sold some tomatoes. = Ela e Caio venderam alguns tomates.
After that, Caio bought a lemon too. = Depois disso, Caio também comprou um limão.
She looked at the lemon and felt upset. = Ela olhou para o limão e se sentiu chateada.
"""


def test_whole_stories():
    for story in STORIES.split("\n\n"):
        english, portuguese = zip(*(line.split(" = ") for line in story.strip().splitlines()), strict=True)
        [(derivation, _)] = world.Story.grammar.derivations(" ".join(english))
        assert world.Story.grammar.sentences(derivation, "portuguese") == list(portuguese)


def test_verbs_moods_and_pronouns_agree_in_every_story():
    seen = {}
    for story in world.draw(800, seed=6):
        sentences = zip(story.sentences, story.derivation, story.portuguese_sentences, strict=True)
        for english, chosen, sentence in sentences:
            assert seen.setdefault(english, sentence) == sentence, f"two translations of {english!r}"
            words, template = re.findall(r"\w+", sentence), chosen["template"].english
            both = "{subject} and {friend}" in template  # two do it, or feel it
            if "verb" in chosen:
                verb = VERB_WORDS[chosen["verb"]]
                assert (verb.portuguese_plural if both else verb.portuguese) in words, sentence
            if "mood" in chosen:
                women = {pt.GENDER[chosen["person"]]} | ({pt.GENDER[chosen["friend"]]} if both else set())
                assert MOOD_WORDS[chosen["mood"]][(women == {"f"}) + 2 * both] in words, sentence
            if "{it}" in template:
                pronoun = {"m": "o", "f": "a"}[pt.GENDER[chosen["np"].thing]] + "s" * chosen["np"].plural
                assert f" e {pronoun} {VERB_WORDS[chosen['verb2']].portuguese}" in sentence


def test_dictionary_has_every_word_and_fails_on_sentences():
    entries = pt.DICTIONARY
    stories = world.draw(400, seed=1)
    for text in stories + world.draw(400, 1, "reports"):
        for word, _, _ in text.tokens:
            if word[0].isalpha() and word not in world.NAMES:
                assert word in entries or word.lower() in entries, f"no entry for {word!r}"
    assert all(" " not in entry for entry in entries.values())
    assert entries["lemons"] == "limões" and entries["bought"] == "comprou" and entries["big"] == "grande"
    assert pt.word_by_word("Then Ana sold two lemons.") == "Depois Ana vendeu dois limões."
    assert pt.word_by_word("A cow! UFO, iPod.") == "Um vaca! UFO, iPod.", "a capital stays where it was"
    pairs = [p for s in stories for p in zip(s.sentences, s.portuguese_sentences, strict=True)]
    right = sum(pt.word_by_word(english) == portuguese for english, portuguese in pairs)
    assert right / len(pairs) < 0.08, "a word-by-word dictionary must fail"
