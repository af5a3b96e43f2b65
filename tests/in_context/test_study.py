"""Grades in_context/study.py: which questions are asked, under which controls, and what is reported."""

from pathlib import Path

import small

from minilm.in_context import questions as in_context
from minilm.in_context.prompt_files import FileQuestions
from minilm.in_context.prompts import Interval, PromptFormat, Question, accuracy, prompt_length
from minilm.in_context.study import Study, figures, file_study, world_study
from minilm.model.config import ModelConfig
from minilm.model.transformer import build


def model_of(max_positions: int = 120):
    sizes = dict(d_model=8, n_head=2, d_ff=12, n_decoder_layer=1, init_std=0.5, max_positions=max_positions)
    return build(ModelConfig(vocab_size=small.tokenizer().vocab_size, **sizes)).eval()


def study_of(n_draw: int = 2, score: str = "sum") -> Study:
    def draw(word):
        return lambda k, seed: [
            Question(tuple((f"{word}{i}", "ab"[i % 2]) for i in range(k)), f"{word} {seed} {i}", "ab"[i % 2])
            for i in range(5)
        ]

    form = PromptFormat({"a": "x", "b": "y"}, "{text} {label}", "|")
    names = {"one": "the first", "two": "the second"}
    return Study({"one": draw("u"), "two": draw("v")}, names, form, 0.5, "a coin", n_draw, score)


def test_the_first_task_is_asked_under_each_control():
    study, model, tokenizer = study_of(), model_of(), small.tokenizer()
    found = study.measure(model, tokenizer, (0, 3))
    assert list(found) == [("one", "gold"), ("one", "shuffled"), ("one", "random"), ("two", "gold")]
    values = [accuracy(model, tokenizer, study.prompt_format, study.draws["two"](3, s)) for s in range(2)]
    assert found["two", "gold"][3] == Interval.of(values)
    assert list(found["one", "random"]) == [3] and list(found["one", "gold"]) == [0, 3]


def test_the_table_has_a_column_for_each_number_of_examples():
    found = {
        ("one", "gold"): {0: Interval(0.1, 0.01), 3: Interval(0.9, None)},
        ("one", "shuffled"): {3: Interval(0.25, 0.05)},
        ("two", "gold"): {0: Interval(0.2, 0.0), 3: Interval(0.7, 0.1)},
    }
    rows, header = study_of().table(found)
    assert header[1:] == ("0", "3", "a coin")
    assert rows[0] == ("the first", "0.100 ±0.010", "0.900", "0.500")
    assert rows[1][0].strip() == "the same, shuffled labels" and rows[1][1:] == ("-", "0.250 ±0.050", "0.500")
    assert rows[2][0] == "the second"
    without = {("one", "gold"): {0: Interval(0.1, 0.01)}, ("one", "random"): {}}
    assert len(study_of().table(without)[0]) == 1, "a control without examples asks nothing"


def test_shots_that_fit_leave_room_for_the_label():
    study, tokenizer = study_of(), small.tokenizer()
    longest = {
        k: max(
            prompt_length(tokenizer, model_of().config, study.prompt_format, q)
            for seed in range(2)
            for q in study.draws["one"](k, seed)
        )
        for k in (0, 1, 2, 4)
    }
    assert study.shots_that_fit(model_of(longest[2]), tokenizer, (0, 1, 2, 4)) == (0, 1, 2)
    assert study.shots_that_fit(model_of(longest[2] - 1), tokenizer, (0, 1, 2, 4)) == (0, 1)
    study.measure(model_of(longest[2]), tokenizer, (0, 1, 2))


def test_examples_show_prompt_and_answer():
    lines = study_of().examples(model_of(), small.tokenizer(), 2)
    assert lines[0] == "the first:" and lines[1].startswith("u0 x|u1 y|u 0 0  ->  ") and len(lines) == 4
    assert lines[1].endswith(("(right)", "(a)"))


def test_the_world_is_asked_its_three_tasks():
    study = world_study(seed=5, n_draw=2, n_test=7, score="mean")
    assert list(study.draws) == list(in_context.TASKS) and (study.n_draw, study.score) == (2, "mean")
    assert study.draws["nonce_keys"](3, 1) == in_context.questions("nonce_keys", 3, 7, 5, start=7)
    assert not set(study.draws["nonce_keys"](3, 0)) & set(study.draws["nonce_keys"](3, 1))
    assert study.chance == 0.125


def test_files_are_asked_with_other_examples_in_each_draw(tmp_path):
    path = Path(tmp_path, "train.tsv")
    path.write_text("".join(f"text {i}\t{i % 2}\n" for i in range(20)), encoding="utf-8")
    files = FileQuestions(str(path), None, 99, (), "{text} {label}", " ")
    study = file_study(files, seed=3, n_draw=2, score="sum")
    assert study.draws["files"](2, 1) == files.questions(2, 4)
    assert study.chance == files.majority() and study.against == "commonest label"
    found = study.measure(model_of(), small.tokenizer(), (0, 1))
    assert set(figures(found)) == {"accuracy", "shuffled_accuracy"}


def test_the_figures_are_those_of_most_examples():
    found = {
        (task, control): {k: Interval(10 * i + k, None) for k in ((0, 4, 2) if control == "gold" else (4, 2))}
        for i, (task, control) in enumerate(
            [("new_pairings", c) for c in ("gold", "shuffled", "random")]
            + [("nonce_keys", "gold"), ("story_items", "gold")]
        )
    }
    assert figures(found) == dict(
        accuracy={"0": 0, "4": 4, "2": 2}, shuffled_accuracy=14, lookup_accuracy=34, story_item_accuracy=44
    )
    only_zero = {key: {0: by[0]} if 0 in by else {} for key, by in found.items()}
    assert "shuffled_accuracy" not in figures(only_zero), "no examples, no labels to shuffle"
