"""Grades in_context/study.py: which questions are asked, under which controls, and what is reported."""

import math
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import small
import torch

from minilm.in_context import study as module
from minilm.in_context.prompts import PromptFormat, Question
from minilm.in_context.scores import accuracy, positions_needed
from minilm.in_context.study import Study, baseline_accuracy, checksum, interval
from minilm.model.config import ModelConfig
from minilm.model.transformer import build


def model_of(max_positions: int = 120):
    sizes = dict(d_model=8, n_head=2, d_ff=12, n_decoder_layer=1, init_std=0.5, max_positions=max_positions)
    return build(ModelConfig(vocab_size=small.tokenizer().vocab_size, **sizes)).eval()


def study_of(n_draw: int = 2, score: str = "sum", word: str = "v") -> Study:
    def draw(word):
        return lambda k, seed: [
            Question(tuple((f"{word}{i}", "ab"[i % 2]) for i in range(k)), f"{word} {seed} {i}", "ab"[i % 2])
            for i in range(5)
        ]

    form = PromptFormat({"a": "x", "b": "y"}, "{text} {label}", "|")
    names = {"one": "the first", "two": "the second"}
    return Study({"one": draw("u"), "two": draw(word)}, names, form, 0.5, "a coin", n_draw, score)


def test_the_first_task_is_asked_under_each_control():
    study, model, tokenizer = study_of(), model_of(), small.tokenizer()
    found = study.measure(model, tokenizer, (0, 3))
    assert list(found) == [("one", "gold"), ("one", "shuffled"), ("one", "random"), ("two", "gold")]
    values = [accuracy(model, tokenizer, study.prompt_format, study.draws["two"](3, s)) for s in range(2)]
    assert found["two", "gold"][3] == interval(values)
    assert list(found["one", "random"]) == [3], "controls change examples: with 0 examples there are none"
    assert list(found["one", "gold"]) == [0, 3]
    texts = [q.text for draw in study.asked("one", "random", 3) for q in draw]
    own = [f"u {seed} {i}" for seed in range(2) for i in range(5)]
    assert texts == own, "each draw asks its own questions"
    assert list(study.measure(model, tokenizer, (0,))) == [("one", "gold"), ("two", "gold")]


def test_a_bag_of_words_learns_from_the_same_examples(monkeypatch):
    told = tuple((f"{'sun' if i % 2 else 'rain'} {i}", "ab"[i % 2]) for i in range(8))
    asked = [Question(told, text, label) for text, label in (("sun x", "b"), ("rain y", "a"), ("sun z", "a"))]
    assert baseline_accuracy(asked, ["a", "b"]) == pytest.approx(2 / 3), "sun says b, rain says a"
    assert baseline_accuracy(asked[:1], ["a", "b"]) == 1.0, "one text may be asked"
    rng = np.random.default_rng(0)
    noisy = tuple((" ".join(rng.choice([*"abcdefgh"], 9)), "ab"[i % 2]) for i in range(60))
    asked = [Question(noisy[:40], text, label) for text, label in noisy[40:]]
    exact = baseline_accuracy(asked, ["a", "b"])
    alone = [baseline_accuracy([q], ["a", "b"]) for q in asked]
    assert sum(alone) / 20 == pytest.approx(exact), "other questions must not count"
    bags = Mock(wraps=module.bag_of_words)
    monkeypatch.setattr(module, "bag_of_words", bags)
    baseline_accuracy(asked, ["a", "b"])
    read, _ = bags.call_args.args
    told = "words and their scale are those of the examples alone"
    assert [*read] == [text for text, _ in noisy[:40]], told
    with torch.autocast("cpu", torch.bfloat16):
        assert baseline_accuracy(asked, ["a", "b"]) == exact, "the model's precision is none of its own"
    study = replace(study_of(), baseline="a bag")
    found = study.measure(model_of(), small.tokenizer(), (0, 3))
    values = [baseline_accuracy(study.draws["one"](3, s), ["a", "b"]) for s in range(2)]
    assert found["one", "a bag"] == {3: interval(values)}
    monkeypatch.setattr(module, "baseline_accuracy", lambda questions, labels: 0.25)
    monkeypatch.setattr(module, "accuracy", lambda *_, **__: 0.75)
    again = study.measure(model_of(), small.tokenizer(), (3,))
    told = "the row of the baseline is the model's, or another is the baseline's"
    assert again == {row: {3: (0.25 if row[1] == "a bag" else 0.75, None)} for row in found}, told
    assert [*found][2:] == [("one", "random"), ("one", "a bag"), ("two", "gold")], "beside its own task"
    assert [row[0] for row in study.table(found)[0]][-2] == "    a bag"
    assert list(study.measure(model_of(), small.tokenizer(), (0,))) == [("one", "gold"), ("two", "gold")]


def test_the_table_has_a_column_for_each_number_of_examples():
    found = {
        ("one", "gold"): {0: (0.1, 0.01), 3: (0.9, None)},
        ("one", "shuffled"): {3: (0.25, 0.05)},
        ("two", "gold"): {0: (0.2, 0.0), 3: (0.7, 0.1)},
    }
    rows, header = study_of().table(found)
    assert header[1:] == ("0", "3", "a coin")
    assert rows[0] == ("the first", "0.100 ±0.010", "0.900", "0.500")
    assert rows[1][0].strip() == "the same, shuffled labels" and rows[1][1:] == ("-", "0.250 ±0.050", "0.500")
    assert rows[2][0] == "the second"


@pytest.mark.parametrize("score", ["sum", "calibrated"])
@pytest.mark.parametrize("word", ["u", "a much longer word"])
def test_shots_that_fit_leave_room_for_whatever_is_asked(word, score):
    study, tokenizer = study_of(score=score, word=word), small.tokenizer()
    asked = [q for task in study.draws for seed in range(2) for q in study.draws[task](2, seed)]
    longest = positions_needed(tokenizer, model_of().config, study.prompt_format, asked, score)
    for n, fit in ((longest, (0, 1, 2)), (longest - 1, (0, 1))):
        assert study.shots_that_fit(model_of(n), tokenizer, (0, 1, 2, 4)) == fit, "a prompt was not measured"
    few = lambda k, seed: study.draws["one"](min(k, 2), seed)  # a file with two examples
    short = replace(study, draws={"one": few})
    assert short.shots_that_fit(model_of(), tokenizer, (1, 2, 3)) == (1, 2), "there are no 3 examples"
    study.measure(model_of(longest), tokenizer, (0, 1, 2))


def test_examples_show_prompt_and_answer():
    lines = study_of().examples(model_of(), small.tokenizer(), 2)
    assert lines[0] == "the first:" and lines[1].startswith("u0 x|u1 y|u 0 0  ->  ") and len(lines) == 4
    assert lines[2] == "the second:" and lines[3].startswith("v0 x|v1 y|v 0 0  ->  ")
    assert all(line.count("->") == 1 and line.endswith(("(right)", "(a)")) for line in lines[1::2])
    study = study_of()
    study = replace(study, prompt_format=replace(study.prompt_format, separator="\n"))
    lines = study.examples(model_of(), small.tokenizer(), 2)
    assert [line.count("->") for line in lines] == [0, 0, 0, 1] * 2, "the answer stands where it is due"


def test_the_interval_is_students():
    told = "t of n - 1 degrees of freedom times the sample's deviation (over n - 1) / sqrt(n)"
    assert interval([0.5, 0.7, 0.9]) == pytest.approx((0.7, 4.30 * 0.2 / math.sqrt(3))), told
    assert interval([0.25]) == (0.25, None)
    assert interval([0.25] * 5) == (0.25, None), "five equal results do not make it certain: no ±0.000"
    t_of = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228), start=1))
    t_of |= {11: 2.201, 19: 2.093, 39: 2.023, 399: 1.966}  # by degrees of freedom, as printed in any table
    for degrees, t in t_of.items():
        n = degrees + 1
        _, half = interval([0.0] * degrees + [n**0.5])  # deviation 1
        assert half == pytest.approx(t / math.sqrt(n), rel=3e-3), f"{degrees} degrees of freedom"


def test_the_checksum_sees_the_smallest_change():
    model = model_of()
    before = checksum(model)
    study_of().measure(model, small.tokenizer(), (1,))
    assert checksum(model) == before and len(before) == 16, "asking must not change a weight"
    for name, weight in model.named_parameters():
        weight.data.view(-1)[-1] += 1e-5
        assert checksum(model) != before, f"{name} is left out"
        before = checksum(model)
        weight.data.copy_(weight.data.flatten().roll(1).view(weight.shape))
        assert checksum(model) != before, f"{name}: the same numbers in another order are other weights"
        before = checksum(model)


def test_no_more_than_three_prompts_are_shown():
    study = study_of()
    (first, draw), *_ = study.draws.items()
    for n_task, n_line in ((1, 3), (2, 2), (3, 3)):
        many = {f"{first}{i}": draw for i in range(n_task)}
        made = replace(study, draws=many, names=dict.fromkeys(many, "name"))
        lines = made.examples(model_of(), small.tokenizer(), 1)
        assert lines.count("name:") == n_line


def test_where_each_text_has_examples_of_its_own_their_commonest_label_is_the_baseline():
    plain, tie = (("a", "x"), ("b", "y"), ("c", "y")), (("a", "y"), ("d", "x"))
    accuracy_of = lambda *asked: baseline_accuracy([Question(*one) for one in asked], ["x", "y"])
    assert accuracy_of((plain, "t", "y"), (tie, "u", "x")) == 1, "the commonest; of two, that of the nearest"
    assert accuracy_of((plain, "t", "y"), (tie, "u", "x"), (plain, "v", "x")) == pytest.approx(2 / 3)


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(study_of())
