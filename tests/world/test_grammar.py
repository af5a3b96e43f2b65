"""The machine behind the world, on a grammar small enough to count by hand."""

import math
import random
from collections import Counter

import pytest
from slow_walk import log_probability

from minilm.world.grammar import Choice, Derived, Grammar, Slot, by_name, fill, uniform

ANIMALS = Choice({"cat": 3, "dog": 1})
TABLE = """
1  {who} has a {animal}.
   {who} tem {bicho}.
3  there is {who}.
   ali está {who}.

1  {who} likes {her}.
   {who} gosta.
1  the {animal} sees {who}.
   {bicho} vê {who}.
"""
SLOTS = {
    "who": Slot("who", ("Ana", "Bia")),
    "animal": Slot("animal", ANIMALS.values),
    "her": Slot(None, {"it": None}, write=lambda: "it"),
}
RULES = {"who": lambda: uniform(("Ana", "Bia")), "animal": lambda: ANIMALS}
PORTUGUESE = {"bicho": lambda animal: {"cat": "o gato", "dog": "o cão"}[animal]}


@pytest.fixture
def grammar():
    return Grammar(TABLE, SLOTS, RULES, PORTUGUESE, carried=("who",))


@pytest.mark.parametrize(
    ("old", "new"), [("1  the", "1 the"), ("   {bicho} vê", "  {bicho} vê"), ("   {who} gosta.\n", "")]
)
def test_a_line_that_is_no_template_is_named(old, new):
    with pytest.raises(ValueError, match="no weight, two spaces, English"):
        Grammar(TABLE.replace(old, new), SLOTS, RULES, PORTUGUESE)


def test_choice_knows_its_probabilities_and_draws_by_them():
    assert ANIMALS.logs == {"cat": pytest.approx(math.log(0.75)), "dog": pytest.approx(math.log(0.25))}
    rng = random.Random(0)
    counts = Counter(ANIMALS.draw(rng) for _ in range(4000))
    assert abs(counts["cat"] - 3000) < 5 * math.sqrt(4000 * 0.75 * 0.25), "draws do not follow the weights"
    assert uniform(tuple("abcde")).logs["c"] == pytest.approx(-math.log(5))
    assert uniform(tuple("abc"), but="b").values == ["a", "c"]


def test_a_function_gets_the_choices_that_its_parameters_name():
    assert by_name(lambda b, a: (b, a))({"a": 1, "b": 2, "c": 3}) == (2, 1)
    assert by_name(lambda missing: missing)({"a": 1}) is None


def test_slots_write_what_they_read():
    number = Slot("n", {"One": 1, "two": 2})
    assert number.read == {"one": 1, "two": 2} and [number.write({"n": n}) for n in (1, 2)] == ["One", "two"]
    assert Slot("n", range(3)).write({"n": 2}) == "2"
    she = Slot("subject", {"she": "pronoun"}, write=lambda who, subject: f"{subject} of {who}")
    assert she.write({"who": "Ana", "subject": "pronoun"}) == "pronoun of Ana"


def test_fill_writes_slots_or_shows_choices_and_begins_with_a_capital():
    assert fill("then {who}{s} ran.", {"s": lambda c: c["who"][-1]}, {"who": "Ana"}) == "Then Anaa ran."


def test_probability_of_a_text_by_hand(grammar):
    text = "Ana has a dog. The cat sees Ana."
    expected = math.log(1 / 4 * 1 / 2 * 1 / 4 * 1 / 2 * 3 / 4)  # template, who, animal, template, animal
    assert log_probability(grammar, text) == pytest.approx(expected)
    assert log_probability(grammar, "Ana has a dog.", 1) == pytest.approx(math.log(1 / 32))


def test_the_probabilities_of_all_texts_sum_to_one(grammar):
    first = [f"{who} has a {animal}." for who in ("Ana", "Bia") for animal in ("cat", "dog")]
    first += ["There is Ana.", "There is Bia."]
    second = [f"The {animal} sees {who}." for who in ("Ana", "Bia") for animal in ("cat", "dog")]
    second += ["Ana likes it.", "Bia likes it."]
    total = sum(math.exp(log_probability(grammar, f"{a} {b}")) for a in first for b in second)
    assert total == pytest.approx(1.0)


def test_what_is_drawn_is_read_back_with_the_same_probability(grammar):
    for seed in range(50):
        derivation, score = grammar.sample(random.Random(seed))
        assert derivation[0]["who"] == derivation[1]["who"]
        found = grammar.derivations(" ".join(grammar.sentences(derivation)))
        assert len(found) == 1 and found[0][1] == pytest.approx(score)
        assert grammar.sentences(found[0][0], "portuguese") == grammar.sentences(derivation, "portuguese")


@pytest.mark.parametrize(
    "text",
    ["", "Ana has a dog.", "ana has a dog. Ana likes it.", "Ana has a Dog. Ana likes it.",
     "Ana has a cow. Ana likes it.", "Ana has a dog.  Ana likes it.", "Ana has a dog. Ana likes it. ",
     "There is Ana. Bia likes it."],
)  # fmt: skip
def test_reading_is_strict(grammar, text):
    assert grammar.derivations(text) == [] and log_probability(grammar, text) == -math.inf


def test_derived_joins_the_sentences_and_aligns_the_translation(grammar):
    made = type("Text", (Derived,), dict(grammar=grammar))
    text = made(*grammar.derivations("Bia has a cat. The dog sees Bia.")[0])
    assert text.sentences == ["Bia has a cat.", "The dog sees Bia."]
    assert text.text == "Bia has a cat. The dog sees Bia."
    assert text.portuguese_sentences == ["Bia tem o gato.", "O cão vê Bia."]
    assert text.portuguese == "Bia tem o gato. O cão vê Bia."
    assert text.tokens[2:6] == [("a", 8, 9), ("cat", 10, 13), (".", 13, 14), ("The", 15, 18)]
    assert text.log_probability == pytest.approx(math.log(1 / 4 * 1 / 2 * 3 / 4 * 1 / 2 * 1 / 4))
