"""Grades finetuning/settings.py: what the flags are where they are not given."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import tuned

from minilm.finetuning.registry import TASKS
from minilm.finetuning.settings import WORLD, FinetuningSettings, default_seeds, rate_of, with_recipe
from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError


def test_every_task_has_a_recipe():
    assert list(WORLD) == list(TASKS)
    for task in TASKS:
        settings = with_recipe(FinetuningSettings(task=task), 100)
        empty = {"steps", "batch_size", "warmup", "schedule", "weight_decay", "n_examples"}
        assert not empty & {name for name, value in vars(settings).items() if value is None}
        assert settings.warmup < settings.steps and settings.lr is None


def test_a_users_examples_give_the_steps():
    settings = FinetuningSettings(data=("a.tsv",))
    assert with_recipe(settings, 3200).steps == 400, "four times every example"
    assert with_recipe(settings, 10).steps == 100
    assert with_recipe(FinetuningSettings(data=("a.tsv",), batch_size=16, steps=7), 3200).steps == 7
    assert with_recipe(settings, 3200).n_examples is None


def test_what_is_given_stays():
    settings = with_recipe(FinetuningSettings(steps=50, warmup=3, batch_size=9, lr=0.5), 24)
    assert (settings.steps, settings.warmup, settings.batch_size, settings.lr) == (50, 3, 9, 0.5)
    assert with_recipe(FinetuningSettings(steps=50), 24).warmup == 5


def test_seeds_of_two_runs_have_none_in_common():
    first, second = (set(default_seeds(FinetuningSettings(seed=seed))) for seed in (0, 1))
    assert len(first) == 10 and not first & second
    assert default_seeds(FinetuningSettings(task="tagging", seed=4)) == (4,)
    assert default_seeds(FinetuningSettings(data=("a.tsv",), seed=4)) == (4,)


def test_a_published_model_and_all_of_it_learn_more_slowly():
    small, large = tuned.config(), PRESETS["bert-base"]

    def rate(tune, config, **changes):
        return rate_of(FinetuningSettings(tune=tune, **changes), config)

    assert rate("all", large) < 1e-4 < rate("all", small)
    for config in (small, large):
        assert rate("all", config) == rate("last:1", config) < rate("lora", config) < rate("head", config)
    assert rate("all", small, task="similarity") == WORLD["similarity"]["rate"]


def test_every_flag_is_read_somewhere():
    root = Path(__file__).parents[2]
    files = [*root.glob("minilm/finetuning/*.py"), root / "minilm/training/loop.py", root / "finetune.py"]
    files += [root / "minilm/plumbing/devices.py", root / "minilm/plumbing/progress.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    unread = [
        f.name for f in fields(FinetuningSettings) if not re.search(rf"(settings|own)\.{f.name}\b", text)
    ]
    assert unread == [], "a flag that nobody reads"


@pytest.mark.parametrize(
    "flags, expected",
    [
        (dict(tune="some"), "--tune some: expected all, head, lora, last:N"),
        (dict(layer_decay=0.0), "--layer-decay 0.0: must be above 0"),
        (dict(layer_decay=1.5), "--layer-decay 1.5"),
        (dict(unfreeze_every=-1), "--unfreeze-every -1: must be 0 or more"),
        (dict(patience=-1), "--patience -1"),
        (dict(n_examples=0), "--n-examples 0: must be 1 or more"),
        (dict(context=2), "--context 2: must be 3 or more"),
        (dict(task="tagging", class_weights=True), "--class-weights: --task tagging has no classes"),
        (dict(pairs="apart"), "--pairs apart: --task classification does not compare two texts"),
        (dict(seeds=(1, -2)), "--seeds -2"),
        (dict(steps=0), "--steps 0"),
    ],
)
def test_flags_out_of_range_are_one_line(flags, expected):
    with pytest.raises(UserError, match=expected):
        FinetuningSettings(**flags)
