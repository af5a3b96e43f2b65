"""Grades reinforcement/ablation.py: one detail changes a row, and every detail of the list has one."""

import re

import pytest
import small

from minilm.reinforcement import ablation, ppo
from minilm.reinforcement.ablation import SWITCHES, ablate
from minilm.reinforcement.reward import Normalised
from minilm.reinforcement.settings import ReinforceSettings


def test_every_switchable_detail_has_a_row():
    numbers = {int(n) for n in re.findall(r"^ +(\d+)  ", ppo.__doc__, re.MULTILINE)}
    assert numbers == set(range(1, 13)), "the list of details in the docstring"
    assert {number for number, _, _ in SWITCHES} == (numbers - {12}) | {0}, "12 has no switch, 0 is the whole"


def test_each_row_differs_from_the_defaults_in_its_own_detail(settings):
    for number, name, changes in SWITCHES:
        assert all(
            ReinforceSettings.__dataclass_fields__[field].default != value for field, value in changes.items()
        ), f"{name}: nothing is switched"
        assert bool(changes) == bool(number)
        settings(**changes)
    flags = {field for _, _, changes in SWITCHES for field in changes}
    named = {flag.replace("-", "_").removeprefix("no_") for flag in re.findall(r"--([a-z-]+)", ppo.__doc__)}
    assert flags == named - {"ablate"}, "the docstring's flags and the rows are the same"


@pytest.fixture
def two_switches(monkeypatch):
    monkeypatch.setattr(ablation, "SWITCHES", (SWITCHES[0], (2, "no KL", dict(kl=0.0))))


def test_the_reward_is_learnt_from_as_it_was_but_measured_as_in_the_other_rows(
    monkeypatch, task, settings, rollout, capsys
):
    monkeypatch.setattr(ablation, "SWITCHES", (SWITCHES[0], SWITCHES[-1]))
    inner = task.reward
    task.reward = Normalised(lambda *args: 50 * inner(*args), rollout, [])
    same = dict(whiten_rewards=False, kl=0.5, log_every=1, batch_size=12, temperature=0.8)
    rows = ablate(task, settings(**same))
    assert rows[1]["name"] == "reward not normalised" and rows[0]["kl"] != rows[1]["kl"], (
        "nothing was changed"
    )
    assert abs(rows[1]["reward"]) < 9, "the column has one unit for all rows"


def test_a_row_is_a_run_of_its_own_from_the_same_start(two_switches, task, settings, capsys):
    before = {name: value.clone() for name, value in task.reference.state_dict().items()}
    found = ablate(task, settings(kl=0.5))
    assert [(row["detail"], row["name"]) for row in found] == [(0, "nothing"), (2, "no KL")]
    assert {"reward", "judge", "kl", "distinct", "seconds"} <= set(found[0])
    assert found[0]["kl"] != found[1]["kl"], "the change did not reach the run"
    small.assert_equal(dict(task.reference.state_dict()), before)
    again = ablate(task, settings(kl=0.5))
    assert [row["reward"] for row in again] == [row["reward"] for row in found]
    out = capsys.readouterr().out
    assert "(start)" in out and "switched off" in out
