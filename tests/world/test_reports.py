"""Reports: another register over the same places, exactly scored, with agreement of their own."""

import random

import pytest
from slow_walk import assert_exact
from small import fingerprint

from minilm import world
from minilm.world import reports as wr
from minilm.world.grammar import Grammar, uniform
from minilm.world.words import THINGS, VERBS, Phrase

GRAMMAR = wr.Report.grammar


@pytest.fixture(scope="module")
def reports():
    return [wr.Report(2, index) for index in range(300)]


def test_reports_are_deterministic_and_different(reports):
    assert wr.Report(2, 7).text == reports[7].text != wr.Report(3, 7).text
    assert len({report.text for report in reports}) == 300
    assert reports[7].derivation[0]["place"] in reports[7].sentences[0]


@pytest.mark.parametrize("n_before", [0, 2, 3])
def test_each_sentence_sums_to_one_over_distinct_texts(n_before):
    rules = wr.RULES | {"number": lambda: uniform((5, 50))}  # two of the 99 numbers: the others are alike
    grammar = Grammar(wr.REPORT, wr.SLOTS, rules, wr.PORTUGUESE, GRAMMAR.carried)
    assert_exact(grammar, grammar.sample(random.Random(3))[0][:n_before])


def test_reports_use_the_things_of_their_place_and_many_new_words(reports):
    for report in reports:
        assert {world.place_of(word) for word, _, _ in report.tokens} <= {None, report.derivation[0]["place"]}
    old = {word for story in world.draw(1000) for word, _, _ in story.tokens}
    new = {word for report in reports for word, _, _ in report.tokens if not word.isdigit()} - old
    assert len(new) > 45, "the second domain needs new words"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("5:", "0:"), ("5:", "100:"), ("5:", "05:"), ("Monday", "Sunday"), ("by", "By"), ("was", "Was")],
)
def test_reading_is_strict(right, wrong):
    text = "Report 5: the farm was inspected by Ana on Monday."
    assert len(GRAMMAR.derivations(text, 1)) == 1
    assert GRAMMAR.derivations(text.replace(right, wrong), 1) == []


def test_rules_stay_inside_the_place():
    assert {goods.thing for goods in wr.RULES["goods"]("farm").values} == set(THINGS["farm"])
    assert len(wr.goods_of("farm").values) == 8 * 7 and wr.goods_of("farm").values[0].plural
    second = wr.RULES["goods2"]("farm", Phrase("two", None, "cow", True))
    assert {goods.thing for goods in second.values} == set(THINGS["farm"]) - {"cow"}
    assert set(wr.RULES["verb2"]("farm", "fed").values) == set(VERBS["farm"]) - {"fed"}
    assert "Ana" not in wr.RULES["official"]("Ana").values
    assert wr.RULES["number"]().values[-1] == 99


REPORTS = """
Report 7: on Saturday, inspector Ana visited the beach. = Relatório 7: no sábado, a inspetora Ana visitou a praia.
Two shells and five hats were lost. = Duas conchas e cinco chapéus foram perdidos.
No acceptable towels were recorded. = Nenhuma toalha aceitável foi registrada.
A new inspection is required before Friday. = Uma nova inspeção é exigida antes de sexta-feira.

Report 8: the farm was inspected by Hugo on Monday. = Relatório 8: a fazenda foi inspecionada por Hugo na segunda-feira.
Two hens were fed and twenty pigs were followed. = Duas galinhas foram alimentadas e vinte porcos foram seguidos.
Two hundred cows were considered irregular and counted. = Duzentas vacas foram consideradas irregulares e contadas.
The accounts of the farm were approved. = As contas da fazenda foram aprovadas.

Report 9: according to inspector Hugo, the garden was visited on Friday. = Relatório 9: segundo o inspetor Hugo, o jardim foi visitado na sexta-feira.
During this period, five roses were watered and registered. = Durante este período, cinco rosas foram regadas e registradas.
The roses were declared unsuitable by the committee. = As rosas foram declaradas inadequadas pela comissão.
The missing receipts were requested from Ana. = Os recibos que faltavam foram pedidos a Ana.

Report 9: the farm was inspected by Ana on Friday. = Relatório 9: a fazenda foi inspecionada por Ana na sexta-feira.
A total of two goats was declared by the owner. = Um total de duas cabras foi declarado pelo proprietário.
Each horse was marked with a number. = Cada cavalo foi marcado com um número.
The document was signed by Bia and archived. = O documento foi assinado por Bia e arquivado.
"""  # noqa: E501


def test_whole_reports():
    for report in REPORTS.split("\n\n"):
        english, portuguese = zip(*(line.split(" = ") for line in report.strip().splitlines()), strict=True)
        [(derivation, _)] = GRAMMAR.derivations(" ".join(english))
        assert GRAMMAR.sentences(derivation, "portuguese") == list(portuguese)


def test_the_reports_are_those_of_the_figures_in_the_readmes():
    found = [(r.text, r.portuguese, round(r.log_probability, 6)) for r in world.draw(30, 3, "reports")]
    assert fingerprint(found) == "8a8e07e8", "other texts than those that were measured"
