"""Portuguese: agreement in gender and number, contractions, word order; a dictionary must fail."""

import re

import pytest

from minilm import world
from minilm.world import portuguese as pt
from minilm.world.stories import Phrase
from minilm.world.words import ADJECTIVES, MOOD_WORDS, PLACES, THING_WORDS, VERB_WORDS

DETERMINERS = {
    ("m", False): {"a": "um", "the": "o"},
    ("f", False): {"a": "uma", "the": "a"},
    ("m", True): {"some": "alguns", "two": "dois", "the": "os"},
    ("f", True): {"some": "algumas", "two": "duas", "the": "as"},
}


@pytest.mark.parametrize("thing", THING_WORDS)
def test_determiner_noun_and_adjective_agree_for_every_thing(thing):
    word = THING_WORDS[thing]
    for plural in (False, True):
        nominal = word.portuguese_plural if plural else word.portuguese
        for english, determiner in DETERMINERS[word.gender, plural].items():
            assert pt.noun_phrase(Phrase(english, None, thing, plural)) == f"{determiner} {nominal}"
            for adjective, row in ADJECTIVES.items():
                form = row.forms[("m", "f").index(word.gender) + (2 if plural else 0)]
                phrase = pt.noun_phrase(Phrase(english, adjective, thing, plural))
                assert phrase == f"{determiner} {nominal} {form}", "the adjective follows and agrees"


def test_forms_a_lecturer_would_check():
    assert pt.noun_phrase(("two", "yellow", "apple", True)) == "duas maçãs amarelas"
    assert pt.noun_phrase(("some", "special", "lemon", True)) == "alguns limões especiais"
    assert pt.noun_phrase(("the", "pretty", "map", False)) == "o mapa bonito"
    assert pt.noun_phrase(("the", "small", "pencil", True)) == "os lápis pequenos"
    assert pt.noun_phrase(("a", "big", "sunflower", False)) == "um girassol grande"
    assert pt.noun_phrase(("some", None, "sunflower", True)) == "alguns girassóis"
    assert pt.noun("hat", True) == "chapéus" and pt.noun("hat", False) == "chapéu"


def test_agree_article_and_participle():
    forms = ("m", "f", "ms", "fs")
    assert [pt.agree(forms, g, n) for n in (False, True) for g in "mf"] == list(forms)
    assert [pt.article(g, n) for n in (False, True) for g in "mf"] == ["o", "a", "os", "as"]
    assert [pt.participle("vendido", g, n) for n in (False, True) for g in "mf"] == [
        "vendido", "vendida", "vendidos", "vendidas",
    ]  # fmt: skip


def test_prepositions_contract_with_the_article():
    expected = {
        "a": "ao à aos às", "de": "do da dos das", "em": "no na nos nas", "por": "pelo pela pelos pelas",
    }  # fmt: skip
    for preposition, forms in expected.items():
        articles = ("o", "a", "os", "as")
        assert [pt.contract(preposition, article) for article in articles] == forms.split()
    assert pt.contract("com", "as") == "com as"
    assert [pt.place(place, "em") for place in PLACES] == [
        "no mercado", "na cozinha", "no jardim", "na praia", "na escola", "na fazenda",
    ]  # fmt: skip
    assert pt.place("beach", "a") == "à praia" and pt.place("market", "a") == "ao mercado"
    assert pt.place("farm") == "a fazenda"
    assert pt.definite("lemon", True, "de") == "dos limões" and pt.definite("cup", False) == "a xícara"


def test_people():
    assert pt.pronoun("Ana") == "ela" and pt.pronoun("Hugo") == "ele"
    assert pt.together({"person": "Ana", "friend": "Bia"}) == "f"
    assert pt.together({"person": "Ana", "friend": "Hugo"}) == "m", "a mixed pair is masculine"
    assert pt.together({"person": "Hugo", "friend": "Ana"}) == "m"
    assert pt.subject({"person": "Ana", "subject": "name"}) == "Ana"
    assert pt.subject({"person": "Ana", "subject": "pronoun"}) == "ela"


@pytest.mark.parametrize(
    "subject, plural, expected",
    [("name", False, "deixou Ana"), ("name", True, "deixaram Ana"),
     ("pronoun", False, "a deixou"), ("pronoun", True, "a deixaram")],
)  # fmt: skip
def test_the_object_pronoun_stands_before_the_verb(subject, plural, expected):
    chosen = {"person": "Ana", "subject": subject, "mention": ("lemon", plural)}
    assert pt.made_object(chosen) == expected


def test_whole_stories():
    assert world.translate(
        "Ana and Bia arrived at the beach on Sunday. Ana found two old boats and carried them. "
        "Ana and Bia lost a shell together. Ana and Bia were proud because of the shell."
    ) == (
        "Ana e Bia chegaram à praia no domingo. Ana achou dois barcos velhos e os carregou. "
        "Ana e Bia perderam uma concha juntas. Ana e Bia ficaram orgulhosas por causa da concha."
    )
    assert world.translate(
        "Yesterday, Hugo was on the farm. There he fed the cow. Later Hugo brushed some yellow hens and "
        "fed them. The hens made him worried."
    ) == (
        "Ontem, Hugo estava na fazenda. Lá ele alimentou a vaca. Mais tarde Hugo escovou algumas "
        "galinhas amarelas e as alimentou. As galinhas o deixaram preocupado."
    )
    assert world.translate(
        "This morning, Sofia came to the market with Caio. She and Caio sold some tomatoes. "
        "After that, Caio bought a lemon too. She looked at the lemon and felt upset."
    ) == (
        "Hoje de manhã, Sofia veio ao mercado com Caio. Ela e Caio venderam alguns tomates. "
        "Depois disso, Caio também comprou um limão. Ela olhou para o limão e se sentiu chateada."
    )


def test_verbs_moods_and_pronouns_agree_in_every_story():
    things = {word.portuguese: word for word in THING_WORDS.values()}
    things |= {word.portuguese_plural: word for word in THING_WORDS.values()}
    singular = {verb.portuguese for verb in VERB_WORDS.values()}
    plural = {verb.portuguese_plural for verb in VERB_WORDS.values()}
    for story in world.draw(400, seed=6):
        for english, chosen, sentence in zip(
            story.sentences, story.derivation, story.portuguese_sentences, strict=True
        ):
            words = set(re.findall(r"\w+", sentence))
            two = re.search(r"^(\w+) and (\w+) \w+ (?!arrived)", english) and "friend" in chosen
            if "verb" in chosen and two and " and " in english.split(chosen["verb"])[0]:
                assert words & plural and not words & singular, sentence
            elif "verb" in chosen:
                assert words & singular and not words & plural, sentence
            if "mood" in chosen:
                both = "ficaram" in sentence
                women = {pt.GENDERS[chosen["person"]]} | ({pt.GENDERS[chosen["friend"]]} if both else set())
                form = MOOD_WORDS[chosen["mood"]].forms[(women == {"f"}) + 2 * both]
                assert form in words, sentence
            if " it." in english or " them." in english:
                noun_word = next(word for word in re.findall(r"\w+", sentence) if word in things)
                clitic = "e (o|a|os|as) " + VERB_WORDS[chosen["verb2"]].portuguese
                expected = pt.article(things[noun_word].gender, " them." in english)
                assert re.search(clitic, sentence)[1] == expected, sentence


def test_translation_is_a_function_of_the_english_sentence():
    seen = {}
    for story in world.draw(1500, seed=7):
        for english, portuguese in zip(story.sentences, story.portuguese_sentences, strict=True):
            assert seen.setdefault(english, portuguese) == portuguese, f"two translations of {english!r}"


def test_dictionary_has_every_word_and_fails_on_sentences():
    entries = pt.dictionary()
    stories, reports = world.draw(400, seed=1), world.draw(400, 1, "reports")
    for text in [*stories, *reports]:
        for word, _, _ in text.tokens:
            if word[0].isalpha() and word not in world.NAMES:
                assert word in entries or word.lower() in entries, f"no entry for {word!r}"
    assert all(" " not in entry for entry in entries.values())
    assert entries["lemons"] == "limões" and entries["bought"] == "comprou" and entries["big"] == "grande"
    pairs = [p for s in stories for p in zip(s.sentences, s.portuguese_sentences, strict=True)]
    right = sum(pt.word_by_word(english) == portuguese for english, portuguese in pairs)
    assert right / len(pairs) < 0.08, "a word-by-word dictionary must fail"


def test_word_by_word_keeps_names_marks_and_capitals():
    assert pt.word_by_word("Then Ana sold two lemons.") == "Depois Ana vendeu dois limões."
