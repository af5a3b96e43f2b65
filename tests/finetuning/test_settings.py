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
    assert with_recipe(settings, 3200).steps == 400, "four times every example"
    assert with_recipe(settings, 10).steps == 100
    assert with_recipe(FinetuningSettings(data=("a.tsv",), batch_size=16, steps=7), 3200).steps == 7
    assert with_recipe(settings, 3200).n_examples is None
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
    FinetuningSettings(tune="last:12", data=("a.tsv",), test="t.tsv")


def test_several_processes_would_compare_each_pair_with_a_part_of_its_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    FinetuningSettings(task="similarity")
    with pytest.raises(UserError, match="--task contrastive: a batch must stay whole.* one process"):
        FinetuningSettings(task="contrastive")


def test_a_model_that_cannot_is_told_what_it_can_do():
    for name, task in TASKS.items():
        for kind in task.kinds:
            check_fit(tuned.settings(task=name, compare=True), tuned.config(kind))
    with pytest.raises(UserError) as caught:
        check_fit(tuned.settings(task="tagging", model="runs/causal"), tuned.config("decoder"))
    assert str(caught.value) == (
        "--task tagging needs a model of kind encoder, but runs/causal is of kind decoder; "
        "it can do --task classification, pair, similarity, contrastive, text-to-text"
    )
    for changes, expected in (
        (dict(context=41), "--context 41 is above the model's 40 positions"),
        (dict(lora_rank=13, compare=True), "--lora-rank 13 is above the model's width, 12"),
        (dict(lora_rank=13, tune="lora"), "--lora-rank 13 is above"),
        (dict(tune="last:3"), "--tune last:3: the model has 2 blocks"),
        (dict(tune="lora", lora_targets=("gate",)), "--lora-targets gate: the model's blocks have no gate"),
        (dict(tune="lora", lora_targets=("up", "gate")), "--lora-targets gate: the model's blocks have"),
    ):
        with pytest.raises(UserError, match=expected):
            check_fit(tuned.settings(**changes), tuned.config())
    check_fit(tuned.settings(lora_rank=13), tuned.config())
    check_fit(tuned.settings(tune="lora", lora_targets=("gate",)), replace(tuned.config(), gated=True))
    with pytest.raises(UserError, match="--tune head: this task has no head of its own"):
        check_fit(replace(tuned.settings(task="text-to-text"), tune="head"), tuned.config("decoder"))
    with pytest.raises(UserError, match="--tune head: this task has no head of its own"):
        check_fit(tuned.settings(task="contrastive", tune="head"), tuned.config())


def test_what_is_just_in_range_is_taken():
    FinetuningSettings(layer_decay=1.0, unfreeze_every=0, patience=0, n_examples=1, lora_rank=1, seeds=(0, 1))
    FinetuningSettings(task="contrastive", accumulate=1), FinetuningSettings(task="span", context=9)
    FinetuningSettings(layer_decay=0.01), FinetuningSettings(task="similarity", pairs="apart")
    own = dict(model="m", out="o", overwrite=True, batch_size=3, device="cpu", skip_bad=True, task="pair")
    FinetuningSettings(predict="new.tsv", **own)
    check_fit(tuned.settings(lora_rank=12, tune="lora", context=40), tuned.config())
    check_fit(tuned.settings(tune="last:2"), tuned.config())
    settings = with_recipe(FinetuningSettings(data=("a.tsv",), batch_size=None), 3201)
    assert (settings.steps, settings.warmup, settings.batch_size) == (401, 40, 32), "rounded up"
    assert (settings.schedule, settings.weight_decay) == ("linear", 0.01)


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(FinetuningSettings(), by_name=True)


def test_the_defaults_are_those_of_the_figures_in_the_readme():
    own = vars(FinetuningSettings()).items() - vars(TrainingSettings()).items()
    assert {name: value for name, value in own if value is not None} == dict(
        task="classification", skip_bad=False, tune="all", compare=True, lora_rank=8, lora_alpha=16.0,
        lora_targets=("q", "v"), layer_decay=1.0, unfreeze_every=0, patience=0,
    )  # fmt: skip
    settings = with_recipe(FinetuningSettings(data=("a.tsv",)), 1000)
    assert (settings.steps, settings.warmup, settings.batch_size) == (125, 12, 32), (
        "four epochs, a tenth of them"
    )
    assert (settings.schedule, settings.weight_decay) == ("linear", 0.01), "Devlin et al. 2019, appendix A.3"
    assert PAIRS == dict(pair="together", similarity="apart", contrastive="apart")
