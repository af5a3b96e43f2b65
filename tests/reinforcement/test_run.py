"""Grades reinforcement/run.py: the ways of learning, the results (whole runs: test_reinforce.py)."""

from pathlib import Path

import pytest
import small
import torch

from minilm.reinforcement import run
from minilm.reinforcement.report import Answers
from minilm.reinforcement.run import closing_results, learn, next_command, without_kl


def answers(**figures) -> Answers:
    return Answers([], torch.zeros(0), None, figures)


def test_the_results_are_the_figures_under_their_names():
    columns = {
        "start": answers(reward=0.1, judge=0.4, distinct=0.8),
        "ppo": answers(reward=1.5, judge=0.9, distinct=0.6, kl=3.0, win_rate=0.95, length=14.0),
        "kl 0": answers(reward=2.5, judge=0.0, distinct=0.1, kl=25.0),
        "dpo": answers(reward=1.0, judge=0.7, distinct=0.7, kl=2.0),
    }
    found = closing_results(columns, "ppo")
    assert found.pop("distinct_ratio") == pytest.approx(0.75)
    assert found == dict(
        kl=3.0, win_rate=0.95, length=14.0, reward_before=0.1, reward_after=1.5, judge_before=0.4,
        judge_after=0.9,
        hacked_judge=0.0, hacked_reward=2.5, hacked_kl=25.0, dpo_judge=0.7, dpo_reward=1.0, dpo_kl=2.0,
    )  # fmt: skip
    found = closing_results({"start": columns["start"], "dpo": columns["dpo"]}, "dpo")
    assert found["judge_after"] == 0.7 and "dpo_judge" not in found and "hacked_judge" not in found


def test_without_a_judge_there_are_no_figures_of_it():
    columns = {"start": answers(reward=0.1, distinct=1.0), "ppo": answers(reward=1.5, distinct=1.0)}
    assert set(closing_results(columns, "ppo")) == {"reward_before", "reward_after", "distinct_ratio"}


def test_the_hack_is_the_same_without_kl(settings):
    changed = without_kl(settings(steps=9, adaptive_kl=True, kl=0.3, lr=0.07))
    assert (changed.kl, changed.adaptive_kl, changed.steps, changed.lr) == (0.0, False, 4, 0.07)
    assert changed.stop_kl > 1e6, "here the explosion is the lesson"
    assert without_kl(settings(steps=1)).steps == 1


def test_each_way_of_learning_starts_from_the_same_policy(gpt, task, settings, tmp_path, monkeypatch):
    starts, inner = {}, run.train_ppo

    def watched(model, task, changed, folder=None):
        starts[changed.kl] = {name: value.clone() for name, value in model.state_dict().items()}
        return inner(model, task, changed, folder)

    monkeypatch.setattr(run, "train_ppo", watched)
    columns, speed = learn(gpt, task, settings(kl=0.1), tmp_path)
    assert list(columns) == ["start", "ppo", "kl 0", "dpo"] and set(starts) == {0.1, 0.0}
    small.assert_equal(starts[0.0], starts[0.1])
    small.assert_equal(starts[0.1], dict(task.reference.state_dict()))
    assert columns["start"].figures["kl"] == 0 < abs(columns["dpo"].figures["kl"])
    assert speed["sequences_per_second"] == pytest.approx(4 * 6 / speed["ppo_seconds"])


def test_contrasts_can_be_left_out(gpt, task, settings, tmp_path):
    assert list(learn(gpt, task, settings(contrast=False), tmp_path)[0]) == ["start", "ppo"]
    task.preferences.pairs.clear()
    assert list(learn(gpt, task, settings(), tmp_path)[0]) == ["start", "ppo", "kl 0"]


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(model="m"), "python reinforce.py --ablate --model m --reward run/reward"),
        (dict(model="m", reward="r"), "python reinforce.py --ablate --model m --reward r"),
        (dict(model="m", ablate=True), "python reinforce.py --kl 0.3 --model m"),
        (dict(model="m", algorithm="dpo"), "python reinforce.py --kl 0.3 --model m"),
        (dict(prompts="p.txt"), "python prompt.py --model run --prompt TEXT"),
    ],
)
def test_the_next_command_fits_the_run(settings, changes, expected):
    assert next_command(settings(**changes), Path("run")) == expected
