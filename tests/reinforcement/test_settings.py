"""Grades reinforcement/settings.py: values out of range are refused with their flag."""

from dataclasses import fields
from pathlib import Path

import pytest

from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import parse
from minilm.reinforcement import settings as module
from minilm.reinforcement.settings import ReinforceSettings


def test_the_defaults_are_valid():
    ReinforceSettings()


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--steps 0", "--steps 0: must be 1 or more"),
        ("--kl -0.1", "--kl -0.1: must be 0 or more"),
        ("--clip-ratio -1", "--clip-ratio -1.0: must be 0"),
        ("--gae-lambda 1.5", r"--gae-lambda 1.5: must lie in \[0, 1\]"),
        ("--gamma 2", r"--gamma 2.0: must lie in \[0, 1\]"),
        ("--temperature 0", "--temperature 0.0: must be above 0"),
        ("--pair-temperature 0", "--pair-temperature 0.0: must be above 0"),
        ("--batch-size 4 --minibatches 5", "--batch-size 4 cannot be cut into --minibatches 5"),
        ("--reward runs/x --reward-function a:b", "--reward and --reward-function"),
        ("--algorithm grpo", "ppo|dpo"),
        ("--kl-target 0 --adaptive-kl", "--kl-target 0.0: must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(flags, message):
    with pytest.raises(UserError, match=message.replace("ppo|dpo", r"ppo\|dpo")):
        ReinforceSettings(**parse(ReinforceSettings, argv=flags.split())[0])


def test_every_setting_is_read_somewhere():
    root = Path(module.__file__).parent
    code = "".join(
        path.read_text(encoding="utf-8") for path in root.glob("*.py") if path.name != "settings.py"
    )
    unread = [f.name for f in fields(ReinforceSettings) if f"settings.{f.name}" not in code]
    assert unread == [], "a field that nobody reads promises what does not happen"
