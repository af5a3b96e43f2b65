"""Grades reinforcement/report.py: the closing table, the examples."""

import pytest
import torch

from minilm.reinforcement.ppo import SWITCHES
from minilm.reinforcement.report import closing, examples
from minilm.reinforcement.rollout import Measured


def measured(judged=None, texts=(), **figures) -> Measured:
    return Measured([(f"prompt {i}", text) for i, text in enumerate(texts)], torch.zeros(0), judged, figures)


def test_the_results_are_the_figures_under_their_names(settings):
    columns = {
        "start": measured(reward=0.1, judge=0.4, distinct=0.8),
        "ppo": measured(reward=1.5, judge=0.9, distinct=0.6, kl=3.0, win_rate=0.95, length=14.0),
        "kl 0": measured(reward=2.5, judge=0.0, distinct=0.1, kl=25.0),
        "dpo": measured(reward=1.0, judge=0.7, distinct=0.7, kl=2.0),
        "best of 4": measured(reward=1.1, judge=0.8, distinct=0.9, kl=0.6),
    }
    (rows, header), _, found = closing(columns, {"ppo": 2.0, "kl 0": 1.0, "dpo": 3.0}, settings(dpo_steps=5))
    assert found.pop("distinct_ratio") == pytest.approx(0.75)
    assert found == dict(
        kl=3.0, win_rate=0.95, length=14.0, reward_before=0.1, reward_after=1.5, judge_before=0.4,
        judge_after=0.9, hacked_judge=0.0, hacked_reward=2.5, hacked_kl=25.0, dpo_judge=0.7, dpo_reward=1.0,
        dpo_kl=2.0, best_of_judge=0.8, best_of_reward=1.1, best_of_kl=0.6,
        sequences_per_second=4 * 6 / 2.0,
    )  # fmt: skip
    assert header == ("on 0 test prompts", "start", "ppo", "kl 0", "dpo", "best of 4")
    assert [row[1:] for row in rows] == [
        (0.1, 1.5, 2.5, 1.0, 1.1), (0.4, 0.9, 0.0, 0.7, 0.8), (None, 0.95, None, None, None),
        (None, 3.0, 25.0, 2.0, 0.6), (0.8, 0.6, 0.1, 0.7, 0.9), (None, 14.0, None, None, None),
    ]  # fmt: skip
    two = {"start": columns["start"], "dpo": columns["dpo"]}
    _, _, found = closing(two, {"dpo": 3.0}, settings(algorithm="dpo", dpo_steps=5))
    assert found["judge_after"] == 0.7 and "dpo_judge" not in found and "hacked_judge" not in found
    assert found["sequences_per_second"] == 2 * 5 * 4 / 3.0, "pairs are read, nothing is drawn"
    two = {"start": columns["start"], "grpo": columns["ppo"]}
    _, _, found = closing(two, {"grpo": 2.0}, settings(algorithm="grpo", group_size=3))
    assert found["judge_after"] == 0.9 and found["sequences_per_second"] == 4 * 6 / 2.0


def test_no_answer_is_shown_beyond_the_fifth_prompt(settings):
    start = measured([True] * 9, [" a"] * 9, reward=0.1, judge=0.4, distinct=0.8)
    (_, header), lines, _ = closing({"start": start, "ppo": start}, {"ppo": 2.0}, settings())
    assert header[0] == "on 9 test prompts"
    many = measured([True] * 1234, [" a"] * 1234, reward=0.1, judge=0.4, distinct=0.8)
    assert closing({"start": many, "ppo": many}, {"ppo": 2.0}, settings())[0][1][0] == "on 1,234 test prompts"
    assert lines[::3] == [f"prompt {i}" for i in range(5)]
    unjudged = measured(None, [" a"], reward=0.1, distinct=0.8)
    _, _, found = closing({"start": unjudged, "ppo": unjudged}, {"ppo": 2.0}, settings())
    assert "judge_after" not in found and found["reward_after"] == 0.1


def test_an_ablation_has_a_row_a_switch(settings):
    columns = dict.fromkeys((name for _, name, _ in SWITCHES), measured(reward=0.5, distinct=1.0))
    columns = {"start": measured(reward=0.0, distinct=0.9, kl=0.0)} | columns
    seconds = {name: number for number, name, _ in SWITCHES}
    (rows, header), lines, found = closing(columns, seconds, settings(ablate=True))
    assert len(rows) == len(SWITCHES) + 1 and lines == [] and len(header) == len(rows[0])
    assert rows[0] == [None, "(start)", 0.0, None, 0.0, 0.9, None]
    assert rows[2] == [1, "value head begins at random", 0.5, None, None, 1.0, 1]
    assert found["ablation"][1] == dict(detail=1, name=rows[2][1], seconds=1, reward=0.5, distinct=1.0)


def test_examples_show_each_policy_s_answer_to_the_same_prompt():
    start, ppo = measured([True, False], (" a", " b")), measured([True, True], (" c", ""))
    assert examples({"start": start, "ppo": ppo}, n=5) == [
        "prompt 0",
        "    start    * a",
        "    ppo      * c",
        "prompt 1",
        "    start      b",
        "    ppo      * (nothing)",
    ]
    assert examples({"start": measured(None, (" a", " b"))}, n=1) == ["prompt 0", "    start    a"]
