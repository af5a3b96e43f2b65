"""Grades finetuning/settings.py: the defaults of flags, and which flags exclude each other."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import small
import tuned

from minilm.finetuning.settings import PAIRS, TASKS, FinetuningSettings, check_fit, with_recipe
from minilm.plumbing.errors import UserError
from minilm.training.loop import TrainingSettings


def test_every_task_has_a_recipe():
    for name, task in TASKS.items():
        assert task.name == name
        settings = with_recipe(FinetuningSettings(task=name), 100)
        empty = {"steps", "batch_size", "warmup", "schedule", "weight_decay", "n_examples"}
        assert not empty & {name for name, value in vars(settings).items() if value is None}
        assert settings.warmup < settings.steps and settings.lr is None
    assert set(PAIRS) < set(TASKS)


def test_a_users_examples_give_the_steps_and_what_is_given_stays():
    settings = FinetuningSettings(data=("a.tsv",))
    for n_example, steps in ((3200, 400), (3201, 401), (10, 100)):
        made = with_recipe(settings, n_example)
        told = "each example four times, rounded up; at least 100 steps"
        assert (made.steps, made.warmup, made.batch_size) == (steps, steps // 10, 32), told
    assert (made.schedule, made.weight_decay, made.n_examples) == ("linear", 0.01, None), "BERT, appendix A.3"
    assert with_recipe(FinetuningSettings(data=("a.tsv",), batch_size=16, steps=7), 3200).steps == 7
    settings = with_recipe(FinetuningSettings(steps=50, warmup=3, batch_size=9, lr=0.5), 24)
    assert (settings.steps, settings.warmup, settings.batch_size, settings.lr) == (50, 3, 9, 0.5)
    assert with_recipe(FinetuningSettings(steps=50), 24).warmup == 5


def test_every_flag_is_read_somewhere():
    root = Path(__file__).parents[2]
    files = [*root.glob("minilm/finetuning/*.py"), root / "minilm/training/loop.py", root / "finetune.py"]
    more = ("training/checkpoints.py", "training/processes.py", "plumbing/script.py", "plots.py")
    files += [root / "minilm" / name for name in more]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = [field.name for field in fields(FinetuningSettings)]
    unread = [name for name in names if not re.search(rf"(settings|own)\.{name}\b", text)]
    assert unread == [], "a flag that nobody reads"


WRONG = [
    (dict(tune="some"), "--tune some: expected all, head, bias, lora, last:N"),
    *((dict(tune=tune), f"--tune {tune}: expected all") for tune in ("heads", "last", "last:0", "last:-1")),
    (dict(layer_decay=0.0), "--layer-decay 0.0: must be above 0"),
    (dict(layer_decay=1.5), "--layer-decay 1.5"),
    (dict(unfreeze_every=-1), "--unfreeze-every -1: must be 0 or more"),
    (dict(patience=-1), "--patience -1"),
    (dict(n_examples=0), "--n-examples 0: must be 1 or more"),
    (dict(lora_rank=0), "--lora-rank 0: must be 1 or more"),
    (dict(task="contrastive", batch_size=1), "--batch-size 1: must be 2 or more"),
    (dict(context=2), "--context 2: must be 3 or more"),
    (dict(context=7, task="span"), "--context 7: must be 9 or more"),
    (dict(pairs="apart"), "--pairs apart needs --task pair or similarity"),
    (dict(pairs="apart", task="contrastive"), "--pairs apart needs --task pair or similarity"),
    (dict(accumulate=2, task="contrastive"), "--task contrastive: a batch must stay whole: no --accumulate"),
    (dict(data=("a.tsv",), task="contrastive"), "--task contrastive: needs --test FILE"),
    (dict(seeds=(1, -2)), "--seeds -2"),
    (dict(steps=0), "--steps 0"),
    (dict(test="t.tsv"), "--test t.tsv needs --data"),
    (dict(validation="t.tsv"), "--validation t.tsv needs --data"),
    (dict(predict="a.tsv", data=("b.tsv", "c.tsv")), "--data b.tsv c.tsv does not go with --predict"),
    (dict(predict="a.tsv", tune="head"), "--tune head does not go with --predict"),
    (dict(predict="a.tsv", steps=9), "--steps 9 does not go with --predict"),
    (dict(predict="a.tsv", context=9), "--context 9 does not go with --predict"),
    (dict(predict="a.tsv", patience=9), "--patience 9 does not go with --predict"),
    (dict(predict="a.tsv", compare=False), "--no-compare does not go with --predict"),
    (dict(skip_bad=True), "--skip-bad needs --data"),
]


@pytest.mark.parametrize("flags, expected", WRONG)
def test_flags_out_of_range_are_one_line(flags, expected):
    with pytest.raises(UserError, match=expected):
        FinetuningSettings(**flags)


def test_several_processes_would_compare_each_pair_with_a_part_of_its_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    FinetuningSettings(task="similarity")
    with pytest.raises(UserError, match="--task contrastive: a batch must stay whole.* one process"):
        FinetuningSettings(task="contrastive")


CAN = "it can do --task classification, pair, similarity, contrastive, text-to-text"


@pytest.mark.parametrize(("kind", "changes", "expected"), [
    ("decoder", dict(task="tagging", model="runs/causal"),
     f"--task tagging needs a model of kind encoder, but runs/causal is of kind decoder; {CAN}$"),
    ("encoder", dict(context=41), "--context 41 is above the model's 40 positions"),
    ("encoder", dict(lora_rank=13, compare=True), "--lora-rank 13 is above the model's width, 12"),
    ("encoder", dict(lora_rank=13, tune="lora"), "--lora-rank 13 is above"),
    ("encoder", dict(tune="last:3"), "--tune last:3: the model has 2 blocks"),
    ("encoder", dict(lora_targets=("gate",)), "--lora-targets gate: the model's blocks have no gate"),
    ("encoder", dict(lora_targets=("up", "gate")), "--lora-targets gate: the model's blocks have"),
    ("decoder", dict(task="text-to-text", tune="head"), "--tune head: this task has no head of its own"),
    ("encoder", dict(task="contrastive", tune="head"), "--tune head: this task has no head of its own"),
])  # fmt: skip
def test_a_model_that_cannot_is_told_what_it_can_do(kind, changes, expected):
    with pytest.raises(UserError, match=f"^{expected}"):
        check_fit(tuned.settings(**changes), tuned.config(kind))


def test_what_is_just_in_range_is_taken():
    for name, task in TASKS.items():
        for kind in task.kinds:
            check_fit(tuned.settings(task=name, compare=True), tuned.config(kind))
    check_fit(tuned.settings(lora_rank=13), tuned.config())
    check_fit(tuned.settings(lora_targets=("gate",)), replace(tuned.config(), gated=True))
    FinetuningSettings(layer_decay=1.0, unfreeze_every=0, patience=0, n_examples=1, lora_rank=1, seeds=(0, 1))
    FinetuningSettings(task="contrastive", accumulate=1), FinetuningSettings(task="span", context=9)
    FinetuningSettings(layer_decay=0.01), FinetuningSettings(task="similarity", pairs="apart")
    FinetuningSettings(tune="last:12", data=("a.tsv",), test="t.tsv")
    own = dict(model="m", out="o", overwrite=True, batch_size=3, device="cpu", skip_bad=True, task="pair")
    FinetuningSettings(predict="new.tsv", **own)
    check_fit(tuned.settings(lora_rank=12, tune="lora", context=40), tuned.config())
    check_fit(tuned.settings(tune="last:2"), tuned.config())


def test_the_defaults_are_those_of_the_figures_in_the_readme_and_stay_fixed():
    small.assert_fixed(FinetuningSettings(), by_name=True)
    own = vars(FinetuningSettings()).items() - vars(TrainingSettings()).items()
    assert {name: value for name, value in own if value is not None} == dict(
        task="classification", skip_bad=False, tune="all", compare=True, lora_rank=8, lora_alpha=16.0,
        lora_targets=("q", "v"), layer_decay=1.0, unfreeze_every=0, patience=0,
    )  # fmt: skip
    assert PAIRS == dict(pair="together", similarity="apart", contrastive="apart")
