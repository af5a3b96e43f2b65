"""The tables of the world: every topic word belongs to one place, nothing is ambiguous."""

from collections import Counter

from minilm.world import words


def test_rows_are_entries_with_the_place_last():
    assert list(words.rows("farm: cow vaca | the_hen a_galinha\nbeach: kite pipa")) == [
        ["cow", "vaca", "farm"], ["the hen", "a galinha", "farm"], ["kite", "pipa", "beach"],
    ]  # fmt: skip
    assert words.forms("\na um uma | the o a\n") == {"a": ["um", "uma"], "the": ["o", "a"]}


def test_an_entry_is_found_by_its_english_word():
    for table in (words.PLACE_WORDS, words.THING_WORDS, words.VERB_WORDS, words.DAYS):
        assert [entry.english for entry in table.values()] == [*table]


def test_each_place_has_eight_things_and_three_verbs_of_its_own():
    assert len(words.PLACES) == 6
    for place in words.PLACES:
        genders = Counter(words.THING_WORDS[thing].gender for thing in words.THINGS[place])
        assert genders == {"f": 4, "m": 4}, f"{place}: agreement is learnt from both genders"
        assert len(words.VERBS[place]) == 3, place
        held_out = words.HELD_OUT_THINGS[place]
        assert len(held_out) == 3 and set(held_out) == words.HELD_OUT & set(words.THINGS[place])
        assert {words.THING_WORDS[thing].gender for thing in held_out} == {"f", "m"}
        assert len(words.HELD_OUT & set(words.VERBS[place])) == 1
    assert len(words.HELD_OUT) == 24, "a held-out word that is no word of the world"
    assert len(words.THING_WORDS) == 48, "a thing stands at two places (or the table was read wrongly)"
    assert len(words.VERB_WORDS) == 18, "a verb stands at two places (or the table was read wrongly)"
    assert Counter(words.GENDERS.values()) == {"f": 8, "m": 8}


def test_no_english_word_has_two_meanings():
    forms = [form for thing in words.THING_WORDS.values() for form in (thing.english, thing.plural)]
    forms += [*words.VERB_WORDS, *words.PLACES, *words.NAMES, *words.ADJECTIVES, *words.MOODS]
    twice = [word for word, count in Counter(forms).items() if count > 1]
    assert not twice, f"a word in two tables makes labels and parses ambiguous: {twice}"
    assert all(" " not in form for form in forms)


def test_tables_are_read_column_by_column():
    assert words.THING_WORDS["lemon"] == ("lemon", "lemons", "limão", "limões", "m", "market")
    chose = words.VERB_WORDS["chose"]
    assert (chose.base, chose.participle, chose.portuguese) == ("choose", "chosen", "escolheu")
    assert (chose.portuguese_plural, chose.portuguese_participle) == ("escolheram", "escolhido")
    assert words.MOOD_WORDS["proud"] == ["orgulhoso", "orgulhosa", "orgulhosos", "orgulhosas"]
    assert words.HAPPY_MOODS == ("happy", "proud", "cheerful")
    assert words.TIMES["on Sunday"] == "no domingo"


def test_portuguese_forms_are_regular_where_they_look_regular():
    for table in (words.ADJECTIVES, words.MOOD_WORDS, words.CONDITIONS):
        for masculine, feminine, masculine_plural, feminine_plural in table.values():
            if masculine.endswith("o"):
                assert feminine == masculine[:-1] + "a"
                assert (masculine_plural, feminine_plural) == (masculine + "s", feminine + "s")
            else:
                assert masculine == feminine and masculine_plural == feminine_plural
    regular = {"ou": ("aram", "ado"), "eu": ("eram", "ido"), "iu": ("iram", "ido")}
    for verb in words.VERB_WORDS.values():
        stem, (plural, participle) = verb.portuguese[:-2], regular[verb.portuguese[-2:]]
        assert (verb.portuguese_plural, verb.portuguese_participle) == (stem + plural, stem + participle)
    for thing in words.THING_WORDS.values():
        if thing.portuguese[-1] in "aeo" and not thing.portuguese.endswith("ão"):
            assert thing.portuguese_plural == thing.portuguese + "s", thing


def test_things_belong_to_one_place():
    assert words.place_of("lemon") == words.place_of("lemons") == "market"
    assert words.place_of("limão") == words.place_of("limões") == "market"
    assert words.place_of("bought") is None and words.place_of("market") is None
    # singular and plural in two languages; three are spelt alike: banana, bananas, lápis
    assert len(words.SINGULAR_OF) == 4 * 48 - 3
    assert set(map(words.place_of, words.SINGULAR_OF)) == set(words.PLACES)
