"""The tables of the world: every topic word belongs to one place, nothing is ambiguous."""

from collections import Counter

from minilm.world import words


def test_each_place_has_eight_things_and_three_verbs_of_its_own():
    for place in words.PLACES:
        assert len(words.THINGS[place]) == 8, place
        assert len(words.VERBS[place]) == 3, place
    assert len(words.PLACES) == 6
    assert len(words.THING_WORDS) == 48, "a thing stands at two places (or the table was read wrongly)"
    assert len(words.VERB_WORDS) == 18, "a verb stands at two places (or the table was read wrongly)"


def test_no_english_word_has_two_meanings():
    forms = [form for thing in words.THING_WORDS.values() for form in (thing.english, thing.plural)]
    forms += [*words.VERB_WORDS, *words.PLACES, *words.NAMES, *words.ADJECTIVES, *words.MOODS]
    twice = [word for word, count in Counter(forms).items() if count > 1]
    assert not twice, f"a word in two tables makes labels and parses ambiguous: {twice}"
    assert all(" " not in form for form in forms)


def test_every_place_has_both_genders_so_that_agreement_can_be_learnt():
    for place in words.PLACES:
        genders = Counter(words.THING_WORDS[thing].gender for thing in words.THINGS[place])
        assert genders == {"f": 4, "m": 4}, place
    assert Counter(words.GENDERS.values()) == {"f": 8, "m": 8}


def test_held_out_words_belong_to_their_place_and_leave_enough_of_both_genders():
    for place in words.PLACES:
        assert set(words.HELD_OUT_THINGS[place]) < set(words.THINGS[place])
        assert set(words.HELD_OUT_VERBS[place]) < set(words.VERBS[place])
        assert len(words.HELD_OUT_THINGS[place]) == 3
        assert {words.THING_WORDS[t].gender for t in words.HELD_OUT_THINGS[place]} == {"f", "m"}


def test_tables_are_read_column_by_column():
    lemon = words.THING_WORDS["lemon"]
    assert (lemon.plural, lemon.portuguese, lemon.portuguese_plural) == ("lemons", "limão", "limões")
    assert (lemon.gender, lemon.place) == ("m", "market")
    chose = words.VERB_WORDS["chose"]
    assert (chose.base, chose.participle, chose.portuguese) == ("choose", "chosen", "escolheu")
    assert (chose.portuguese_plural, chose.place) == ("escolheram", "school")
    assert words.ADJECTIVES["special"].forms == ("especial", "especial", "especiais", "especiais")
    assert words.MOOD_WORDS["proud"].forms == ("orgulhoso", "orgulhosa", "orgulhosos", "orgulhosas")


def test_portuguese_forms_are_regular_where_they_look_regular():
    for table in (words.ADJECTIVES, words.MOOD_WORDS, words.CONDITIONS):
        for word in table.values():
            masculine, feminine, masculine_plural, feminine_plural = word.forms
            if masculine.endswith("o"):
                assert feminine == masculine[:-1] + "a", word
                assert (masculine_plural, feminine_plural) == (masculine + "s", feminine + "s"), word
            else:
                assert masculine == feminine and masculine_plural == feminine_plural, word
    for verb in words.VERB_WORDS.values():
        assert verb.portuguese.endswith("u"), f"{verb.portuguese} is not a simple past"
        assert (
            verb.portuguese_plural
            == verb.portuguese[:-2]
            + {
                "ou": "aram",
                "eu": "eram",
                "iu": "iram",
            }[verb.portuguese[-2:]]
        )
        assert verb.portuguese_participle == verb.portuguese[:-2] + (
            "ado" if verb.portuguese.endswith("ou") else "ido"
        )
    for thing in words.THING_WORDS.values():
        if thing.portuguese[-1] in "aeo" and not thing.portuguese.endswith("ão"):
            assert thing.portuguese_plural == thing.portuguese + "s", thing


def test_moods_are_happy_or_unhappy():
    assert set(words.HAPPY_MOODS) | set(words.UNHAPPY_MOODS) == set(words.MOODS) == set(words.MOOD_WORDS)
    assert not set(words.HAPPY_MOODS) & set(words.UNHAPPY_MOODS)
