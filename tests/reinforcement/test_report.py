"""Grades reinforcement/report.py: the figures of the closing table, each against its definition."""

import copy
import math

import pytest
import torch

from minilm.reinforcement.report import Answers, examples, measure, rows, win_rates
from minilm.reinforcement.rollout import draw_answers


@pytest.fixture
def moved(gpt):
    policy = copy.deepcopy(gpt)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return policy


def test_the_start_has_no_kl_and_nothing_to_be_compared_with(task):
    start = measure(task.reference, task, 7, seed=2)
    assert start.figures["kl"] == 0
    assert not {"win_rate", "reward_win_rate", "win_rate_ties_half"} & set(start.figures)


def test_the_figures_are_those_of_the_answers(task, moved):
    task.test_prompts = task.prompts * 3
    start = measure(task.reference, task, 7, seed=2)
    found = measure(moved, task, 7, seed=2, start=start)
    rollout = draw_answers(moved, task.test_prompts, task.rule, 7, seed=2)
    assert found.texts == task.texts(rollout), "the answers to the test prompts, drawn with the seed"
    n_token, n = int(rollout.answer_mask.sum()), len(task.test_prompts)
    logs = {"own": 0.0, "reference": 0.0}
    for row in range(n):
        ids = rollout.ids[row][rollout.mask[row]]
        n_prompt = int(rollout.mask[row, : rollout.n_prompt].sum())
        for name, model in (("own", moved), ("reference", task.reference)):
            logits = (model(ids[None])[0].detach() / task.rule.temperature).log_softmax(-1)
            logs[name] += sum(float(logits[t - 1, ids[t]]) for t in range(n_prompt, len(ids)))
    figures = found.figures
    assert figures["kl"] == pytest.approx((logs["own"] - logs["reference"]) / n, abs=1e-4), "nats a sequence"
    assert figures["perplexity"] == pytest.approx(math.exp(-logs["reference"] / n_token), rel=1e-4)
    assert figures["reward"] == pytest.approx(float(task.reward(rollout, found.texts).mean()))
    assert figures["judge"] == sum("e" in p + a for p, a in found.texts) / n
    assert figures["distinct"] == len({a for _, a in found.texts}) / n
    assert figures["length"] == pytest.approx(n_token / n)
    better = [
        (b > a) + (b == a) / 2 for a, b in zip(start.scores.tolist(), found.scores.tolist(), strict=True)
    ]
    assert figures["reward_win_rate"] == pytest.approx(sum(better) / n)
    assert figures["win_rate"] == win_rates(found.judged, start.judged)["win_rate"]


def test_the_judge_s_win_rate_leaves_ties_out():
    after, start = [True, True, True, False, False, True], [False, False, True, True, False, True]
    assert win_rates(after, start) == dict(win_rate=2 / 3, win_rate_ties_half=(2 + 3 / 2) / 6)
    assert win_rates([True, False], [True, False]) == dict(win_rate=0.5, win_rate_ties_half=0.5)


def test_without_a_judge_its_figures_are_absent(task):
    task.preferences.judge = None
    start = measure(task.reference, task, 7, seed=2)
    found = measure(task.reference, task, 7, seed=2, start=start)
    assert not {"judge", "win_rate"} & set(found.figures) and found.figures["reward_win_rate"] == 0.5
    table = rows(dict(start=start, ppo=found))
    assert not any("judge" in row[0] for row in table)
    assert all("*" not in text for text in examples(dict(start=start, ppo=found)))


def answers(judged, *texts) -> Answers:
    figures = dict(reward=0.5, judge=sum(judged) / len(judged), kl=1.0)
    return Answers(
        [(f"prompt {i}", text) for i, text in enumerate(texts)], torch.zeros(len(texts)), judged, figures
    )


def test_a_row_a_figure_and_a_column_a_policy():
    start, ppo = answers([True, False], " a", " b"), answers([True, True], " c", "")
    ppo.figures["win_rate"] = 0.9
    table = rows({"start": start, "ppo": ppo})
    assert [row[1:] for row in table] == [(0.5, 0.5), (0.5, 1.0), (None, 0.9), (1.0, 1.0)]
    assert "reward" in table[0][0] and "judge" in table[1][0]


def test_examples_show_each_policy_s_answer_to_the_same_prompt():
    start, ppo = answers([True, False], " a", " b"), answers([True, True], " c", "")
    assert examples({"start": start, "ppo": ppo}, n=5) == [
        "prompt 0",
        "    start    * a",
        "    ppo      * c",
        "prompt 1",
        "    start      b",
        "    ppo      * (nothing)",
    ]
    assert len(examples({"start": start}, n=1)) == 2
