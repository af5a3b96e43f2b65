"""Reports: another register over the same places, exactly scored, with agreement of their own."""

import math
import random
import re

import pytest
from slow_walk import every_walk

from minilm import world
from minilm.world import reports as wr
from minilm.world.words import PLACE_WORDS, THING_WORDS, THINGS, VERBS


@pytest.fixture(scope="module")
def reports():
    return [wr.Report(2, index) for index in range(300)]


def test_reports_are_deterministic_and_different(reports):
    assert wr.Report(2, 7).text == reports[7].text != wr.Report(3, 7).text
    assert len({report.text for report in reports}) == 300
    assert reports[7].place in reports[7].sentences[0]


def test_each_report_has_one_derivation_and_its_probability(reports):
    for report in reports:
        found = wr.GRAMMAR.derivations(report.text)
        assert len(found) == 1 and found[0][1] == pytest.approx(report.log_probability)
        assert world.log_probability(report.text, "reports") == pytest.approx(report.log_probability)
        assert world.parses(report.text, "reports") and not world.parses(report.text)
        assert not world.judge(report.text)


def test_each_sentence_sums_to_one_over_distinct_texts():
    before, _ = wr.GRAMMAR.sample(random.Random(3))
    for n_before in (0, 2, 3):
        walks = list(every_walk(wr.GRAMMAR, before[:n_before]))
        prefix = 0.0
        if n_before:
            text = " ".join(wr.GRAMMAR.english(before[:n_before]))
            prefix = wr.GRAMMAR.log_probability(text, n_before)
        assert sum(math.exp(score - prefix) for _, score in walks) == pytest.approx(1.0)
        texts = {wr.GRAMMAR.english(derivation)[-1] for derivation, _ in walks}
        assert len(texts) == len(walks), "two derivations write the same sentence"


def test_reports_use_the_things_of_their_place_and_many_new_words(reports):
    for report in reports:
        things = {world.place_of(word) for word, _, _ in report.tokens if world.place_of(word)}
        assert things <= {report.place}
    old = {word for story in world.draw(1000) for word, _, _ in story.tokens}
    new = {word for report in reports for word, _, _ in report.tokens if not word.isdigit()} - old
    assert len(new) > 45, "the second domain needs new words"


@pytest.mark.parametrize(
    "text",
    [
        "Report 0: the farm was inspected by Ana on Monday.",
        "Report 100: the farm was inspected by Ana on Monday.",
        "Report 5: the farm was inspected by Ana on Sunday.",
        "Report 05: the farm was inspected by Ana on Monday.",
    ],
)
def test_reading_is_strict(text):
    assert wr.GRAMMAR.derivations(text, 1) == []
    assert len(wr.GRAMMAR.derivations("Report 5: the farm was inspected by Ana on Monday.", 1)) == 1


def test_slots_are_read_as_they_are_written():
    for name, slot in wr.report_slots().items():
        for text in slot.read:
            assert re.fullmatch(slot.pattern, text, re.IGNORECASE), f"slot {name} cannot read {text!r}"
    assert wr.write_lot(("two hundred", "daisy")) == "two hundred daisies"


def test_rules_stay_inside_the_place():
    rules = wr.report_rules()
    assert {thing for _, thing in rules["lot"]({"place": "farm"}).values} == set(THINGS["farm"])
    second = rules["lot2"]({"place": "farm", "lot": ("two", "cow")})
    assert "cow" not in {thing for _, thing in second.values}
    assert set(rules["verb2"]({"place": "farm", "verb": "fed"}).values) == set(VERBS["farm"]) - {"fed"}
    assert "Ana" not in rules["official"]({"person": "Ana"}).values
    assert rules["number"]({}).values[-1] == 99


def test_portuguese_agreement():
    lots = {"lot": ("two", "apple"), "lot2": ("two hundred", "lemon"), "verb": "sold", "thing": "cup"}
    assert wr.write_lot_portuguese(lots["lot"]) == "duas maçãs"
    assert wr.write_lot_portuguese(lots["lot2"]) == "duzentos limões"
    assert wr.lots_gender(lots, "lot") == "f" and wr.lots_gender(lots, "lot", "lot2") == "m"
    assert wr.passive("verb", lots, "lot") == "vendidas"
    assert wr.passive("verb", lots, "lot", "lot2") == "vendidos"
    assert wr.day({"day": "Monday"}, "em") == "na segunda-feira"
    assert wr.day({"day": "Saturday"}, "de") == "do sábado"
    assert (
        wr.of_thing("marcado", False)(lots) == "marcada" and wr.of_thing("marcado", True)(lots) == "marcadas"
    )
    for place in PLACE_WORDS:
        assert wr.place_gender({"place": place}) == PLACE_WORDS[place].gender


def test_whole_report():
    english = (
        "Report 7: on Saturday, inspector Ana visited the beach. Two shells and five hats were lost. "
        "No acceptable towels were recorded. A new inspection is required before Friday."
    )
    assert world.translate(english, "reports") == (
        "Relatório 7: no sábado, a inspetora Ana visitou a praia. Duas conchas e cinco chapéus foram "
        "perdidos. Nenhuma toalha aceitável foi registrada. Uma nova inspeção é exigida antes da sexta-feira."
    )


def test_passive_participles_agree_in_every_report(reports):
    for report in reports:
        for chosen, sentence in zip(report.derivation, report.portuguese_sentences, strict=True):
            if "lot" in chosen and "lot2" not in chosen and " foram " in sentence:
                ending = "as" if THING_WORDS[chosen["lot"][1]].gender == "f" else "os"
                assert re.search(r" foram (\w+)", sentence)[1].endswith(ending), sentence
