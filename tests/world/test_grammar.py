"""The machine behind the world, on a grammar small enough to count by hand."""

import math
import random
from collections import Counter

import pytest

from minilm.world.grammar import Choice, Derived, Grammar, Slot, fill, pieces, tokens, uniform

ANIMALS = Choice({"cat": 3, "dog": 1})
SLOTS = {
    "who": Slot(lambda c: c["who"], "who", {"ana": "Ana", "bia": "Bia"}),
    "animal": Slot(lambda c: c["animal"], "animal", {"cat": "cat", "dog": "dog"}),
    "her": Slot(lambda c: "it", None, {"it": None}),
}
RULES = {"who": lambda c: uniform(["Ana", "Bia"]), "animal": lambda c: ANIMALS}
PORTUGUESE = {
    "who": lambda c: c["who"],
    "bicho": lambda c: {"cat": "o gato", "dog": "o cão"}[c["animal"]],
    "animal": lambda c: {"cat": "gato", "dog": "cão"}[c["animal"]],
}
SENTENCES = (
    ((1, "{who} has a {animal}.", "{who} tem {bicho}."), (3, "there is {who}.", "ali está {who}.")),
    ((1, "{who} likes {her}.", "{who} gosta."), (1, "the {animal} sees {who}.", "{bicho} vê {who}.")),
)


@pytest.fixture
def grammar():
    return Grammar(SENTENCES, SLOTS, RULES, PORTUGUESE, carried=("who",))


def test_choice_knows_its_probabilities_and_draws_by_them():
    assert ANIMALS.log_probability("cat") == pytest.approx(math.log(0.75))
    assert ANIMALS.log_probability("cow") == -math.inf
    assert uniform("abcde").log_probability("c") == pytest.approx(-math.log(5))
    rng = random.Random(0)
    counts = Counter(ANIMALS.draw(rng) for _ in range(4000))
    assert set(counts) == {"cat", "dog"}
    assert abs(counts["cat"] - 3000) < 5 * math.sqrt(4000 * 0.75 * 0.25), "draws do not follow the weights"


def test_pieces_and_fill_are_each_others_inverse_but_for_the_capital():
    assert pieces("a {b} c") == ("a ", "b", " c")
    assert pieces("{a} and {b}.") == ("", "a", " and ", "b", ".")
    assert fill(pieces("then {who} ran."), {"who": "she"}.get) == "Then she ran."


def test_probability_of_a_text_by_hand(grammar):
    text = "Ana has a dog. The cat sees Ana."
    expected = math.log(1 / 4 * 1 / 2 * 1 / 4 * 1 / 2 * 3 / 4)  # template, who, animal, template, animal
    assert grammar.log_probability(text) == pytest.approx(expected)
    assert grammar.log_probability("Ana has a dog.", 1) == pytest.approx(math.log(1 / 32))


def test_the_probabilities_of_all_texts_sum_to_one(grammar):
    first = [f"{who} has a {animal}." for who in ("Ana", "Bia") for animal in ("cat", "dog")]
    first += ["There is Ana.", "There is Bia."]
    second = [f"The {animal} sees {who}." for who in ("Ana", "Bia") for animal in ("cat", "dog")]
    second += ["Ana likes it.", "Bia likes it."]
    total = sum(math.exp(grammar.log_probability(f"{a} {b}")) for a in first for b in second)
    assert total == pytest.approx(1.0)


def test_a_carried_choice_is_made_once_a_text(grammar):
    assert grammar.log_probability("There is Ana. Bia likes it.") == -math.inf, "two main persons"
    for seed in range(20):
        derivation, _ = grammar.sample(random.Random(seed))
        assert derivation[0]["who"] == derivation[1]["who"]


def test_what_is_drawn_is_read_back_with_the_same_probability(grammar):
    for seed in range(50):
        derivation, score = grammar.sample(random.Random(seed))
        found = grammar.derivations(" ".join(grammar.english(derivation)))
        assert len(found) == 1 and found[0][1] == pytest.approx(score)
        assert grammar.portuguese(found[0][0]) == grammar.portuguese(derivation)


def test_expand_ends_where_a_value_is_impossible(grammar):
    derivation, score = grammar.expand(
        lambda position, name, choice: "cow" if name == "animal" else choice.values[0]
    )
    assert score == -math.inf and len(derivation) < 2


@pytest.mark.parametrize(
    "text",
    ["", "Ana has a dog.", "ana has a dog. Ana likes it.", "Ana has a Dog. Ana likes it.",
     "Ana has a cow. Ana likes it.", "Ana has a dog.  Ana likes it.", "Ana has a dog. Ana likes it. "],
)  # fmt: skip
def test_reading_is_strict(grammar, text):
    assert grammar.derivations(text) == []
    assert grammar.log_probability(text) == -math.inf


def test_derived_joins_the_sentences_and_aligns_the_translation(grammar):
    derivation, score = grammar.derivations("Bia has a cat. The dog sees Bia.")[0]
    text = Derived(grammar, derivation, score)
    assert text.sentences == ["Bia has a cat.", "The dog sees Bia."]
    assert text.text == "Bia has a cat. The dog sees Bia."
    assert text.portuguese_sentences == ["Bia tem o gato.", "O cão vê Bia."]
    assert text.portuguese == "Bia tem o gato. O cão vê Bia."
    assert text.tokens[2:5] == [("a", 8, 9), ("cat", 10, 13), (".", 13, 14)]


def test_tokens_are_words_and_marks_with_exact_spans():
    text = "Then, Ana sold it."
    assert [word for word, _, _ in tokens(text)] == ["Then", ",", "Ana", "sold", "it", "."]
    assert all(text[start:end] == word for word, start, end in tokens(text))
