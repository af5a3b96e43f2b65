"""Grades in_context/prompts.py: the text of a prompt, the draw of its examples, the controls."""

from collections import Counter
from dataclasses import replace

import pytest
import small
from small import within_5_sigma

from minilm.in_context import prompts
from minilm.in_context.prompts import PromptFormat, Question
from minilm.plumbing.errors import UserError

WORDS = {"0": "bad", "1": "good", "2": "so so"}
FORMAT = PromptFormat(WORDS, "Text: {text} Label: {label}.", " | ")
EXAMPLES = [(f"text {i}", "012"[i % 3]) for i in range(10)]


def question(k: int = 2, text: str = "it rains") -> Question:
    return Question(tuple(EXAMPLES[:k]), text, "1")


def test_a_prompt_ends_where_the_label_is_due():
    told = "it ends in a space, which belongs to the label: after a space a label is other tokens"
    assert FORMAT.prompt(question(0)) != "Text: it rains Label: ", told
    assert FORMAT.prompt(question(0)) == "Text: it rains Label:"
    assert "Label: 0." not in FORMAT.prompt(question()), "a label is written as its word, `words[label]`"
    assert FORMAT.prompt(question()) == (
        "Text: text 0 Label: bad. | Text: text 1 Label: good. | Text: it rains Label:"
    ), "the examples with their words, the separator between, then the text up to its label"
    told = "the labels' words, each with the space that the prompt left out"
    assert FORMAT.continuations() == [" bad", " good", " so so"], told
    told = "what follows a label: the template's rest, separator, next beginning"
    assert FORMAT.ending() == ". | Text: ", told
    assert PromptFormat(WORDS, "{text}={label}").continuations() == ["bad", "good", "so so"]
    braces = Question((("a {label} b", "0"),), "{text}", "1")
    assert FORMAT.prompt(braces) == "Text: a {label} b Label: bad. | Text: {text} Label:", "a text is a text"


@pytest.mark.parametrize("start", ["Text: {text} Label: ", "{text} ", " {text} = ", "{text}:  "])
def test_prompt_and_label_are_the_tokens_of_the_example(start):
    tokenizer = small.tokenizer()
    form = PromptFormat(WORDS, start + "{label}", "\n")
    asked = question()
    for word, label in zip(form.continuations(), WORDS.values(), strict=True):
        whole = form.prompt(asked) + word
        assert whole.endswith(start.replace("{text}", "it rains") + label), "not as in the examples"
        assert tokenizer.encode(form.prompt(asked)) + tokenizer.encode(word) == tokenizer.encode(whole)


@pytest.mark.parametrize(
    ("words", "template", "found"),
    [
        (WORDS, "{text}", "--template"), (WORDS, "{label} {text}", "--template"), (WORDS, "", "--template"),
        ({"a": "a"}, "{text} {label}", "only one label"), ({"a": "x", "b": "x"}, "{text} {label}", "'x'"),
        ({"a": "x", "b": " "}, "{text} {label}", "is empty"),
    ],
)  # fmt: skip
def test_formats_that_cannot_be_are_refused(words, template, found):
    with pytest.raises(UserError, match=found):
        PromptFormat(words, template)


def test_the_seed_draws_examples_and_their_order():
    tests = [("a", "0"), ("b", "1")]
    draws = {seed: prompts.draw_questions(EXAMPLES, tests, 5, seed) for seed in range(6)}
    for asked in draws.values():
        assert [(q.text, q.label) for q in asked] == tests
        assert asked[0].examples == asked[1].examples, "one draw: the same examples before each text"
        assert len(set(asked[0].examples)) == 5 and set(asked[0].examples) <= set(EXAMPLES)
    assert len({asked[0].examples for asked in draws.values()}) == 6
    again = prompts.draw_questions(EXAMPLES, tests, 3, 4)[0].examples
    assert again == draws[4][0].examples[:3], "more examples of a seed begin with its fewer ones"
    everything = prompts.draw_questions(EXAMPLES, tests, 10, 0)[0].examples
    assert set(everything) == set(EXAMPLES) and everything != tuple(EXAMPLES)


@pytest.mark.parametrize("control", ["shuffled", "random"])
def test_what_stands_before_all_texts_gets_the_same_new_labels(control):
    told = tuple((f"t{i}", "aab"[i % 3]) for i in range(9))
    new = prompts.relabelled([Question(told, f"q{i}", "a") for i in range(20)], control, ["a", "b"], 0)
    assert len({q.examples for q in new}) == 1, (
        "shared examples must get the same new labels in all questions"
    )
    assert [text for text, _ in new[0].examples] == [text for text, _ in told], "the texts must not change"
    assert new[0].examples != told, f"{control}: the labels of the examples have not changed"
    counts = Counter(label for _, label in new[0].examples)
    assert control == "random" or counts == Counter(a=6, b=3), f"shuffled: {counts}, not a 6, b 3 as before"


def test_controls_change_the_labels_of_examples_alone():
    asked = [Question(((f"t{i}", "ab"[i % 2]), (f"u{i}", "ab"[i % 2])), f"q{i}", "a") for i in range(60)]

    def labels_of(questions):
        return [label for q in questions for _, label in q.examples]

    for control in ("gold", "shuffled", "random"):
        new = prompts.relabelled(asked, control, ["a", "b", "c"], 0)
        told = f"{control}: only the examples change, not the question and its label"
        assert [(q.text, q.label) for q in new] == [(q.text, q.label) for q in asked], told
        told = f"{control}: only the labels of the examples change, not their texts"
        assert [[t for t, _ in q.examples] for q in new] == [[t for t, _ in q.examples] for q in asked], told
        if control == "gold":
            assert new == asked, "gold: the examples keep their right labels"
            continue
        told = f"{control}: the same seed must give the same labels"
        assert new == prompts.relabelled(asked, control, ["a", "b", "c"], 0), told
        told = f"{control}: every seed gives the same labels"
        same = sum(a == b for a, b in zip(labels_of(new), labels_of(asked), strict=True))
        assert same < 120, f"{control}: all labels are still right: are they shuffled in each prompt?"
        assert new != prompts.relabelled(asked, control, ["a", "b", "c"], 1), told
        counts = Counter(labels_of(new))
        if control == "shuffled":
            told = f"shuffled: {dict(counts)}, but each label must occur as often as before"
            assert counts == Counter(labels_of(asked)), told
            told = f"shuffled: {same} of 120 labels are right, not about half"
            assert within_5_sigma(same, 120, 1 / 2), told
        else:
            told = f"random: drawn from {sorted(counts)}, not from all labels, a b c"
            assert set(counts) == {"a", "b", "c"}, told
            told = f"random: {same} of 120 labels are right, but chance (one of three) gives about 40"
            assert within_5_sigma(same, 120, 1 / 3), told
            told = f"random: {dict(counts)}: all labels must be equally likely"
            assert all(within_5_sigma(n, 120, 1 / 3) for n in counts.values()), told


@pytest.mark.parametrize("control, expected", [("shuffled", "e4f52ef2"), ("random", "3efeb64b")])
def test_new_labels_are_those_of_the_figures_in_the_readmes(control, expected):
    asked = [Question(((f"t{i}", "ab"[i % 2]), (f"u{i}", "ab"[i % 2])), f"q{i}", "a") for i in range(9)]
    found = prompts.relabelled(asked, control, ["a", "b", "c"], 4)
    drawn = prompts.draw_questions(EXAMPLES, [("a", "0")], 5, 7)
    labels = [[label for _, label in q.examples] for q in found]
    assert small.fingerprint(labels, drawn[0].examples) == expected, "not the draws that were measured"
    two = [replace(q, examples=asked[i % 2].examples) for i, q in enumerate(asked)]
    assert len({q.examples for q in prompts.relabelled(two, "random", ["a", "b", "c"], 4)}) > 2


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(question())
    small.assert_fixed(PromptFormat({"a": "x", "b": "y"}))
