"""Grades pretraining/recipes.py: every row can be trained, and a flag wins over it."""

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest

from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import option_of, parse, words_of
from minilm.pretraining.recipes import CONTINUED, LARGE, RECIPES
from minilm.pretraining.run import OBJECTIVES, PretrainingSettings, with_recipe


def test_every_objective_has_a_default_that_runs_on_a_cpu():
    objectives = get_args(get_type_hints(PretrainingSettings)["objective"])
    assert set(OBJECTIVES) == set(objectives)
    for objective, row in OBJECTIVES.items():
        assert with_recipe(PretrainingSettings(objective=objective)).model == row.model
        assert row.model.endswith("-tiny") and RECIPES[row.model]["data"] == ("world",)


@pytest.mark.parametrize("model", RECIPES)
def test_every_row_fills_the_settings_and_nothing_else(model):
    assert model in PRESETS
    for name, value in RECIPES[model].items():
        argv = [option_of(name), *words_of(value)]  # UserError for a value that the flag itself would refuse
        assert parse(PretrainingSettings, argv=argv)[0] == {name: value}
    settings = with_recipe(PretrainingSettings(objective="masked", model=model))
    assert settings.lr == RECIPES[model]["lr"], "the recipe of the model, and not of the objective"
    left = {field.name for field in fields(settings) if getattr(settings, field.name) is None}
    by_hand = {"out", "tokenizer", "eval_every", "init", "teacher", "n_documents", "extend_vocabulary"}
    assert left == by_hand - set(RECIPES[model]), "the loop needs a value for all others"
    assert settings.context <= PRESETS[model].max_positions
    assert settings.warmup < settings.steps


@pytest.mark.parametrize(
    "given", [dict(), dict(steps=50), dict(steps=2, batch_size=2), dict(model="bert-base")]
)
def test_looks_at_the_validation_part_cost_less_than_a_tenth_of_the_run(given):
    settings = with_recipe(PretrainingSettings(**given))
    looks = 10 * settings.eval_rows / 3  # before, on the way and after; forward takes a third of a step
    assert looks <= 0.105 * settings.steps * settings.batch_size or settings.eval_rows == 16
    assert settings.eval_rows <= 1024, "ever more text would be looked at, however sure the figure is"
    assert with_recipe(PretrainingSettings(**given, eval_rows=77)).eval_rows == 77


def test_flags_win_over_the_recipe():
    changes = dict(lr=0.0, steps=3, warmup=0, data=("a.txt",), schedule="constant", weight_decay=0.0)
    settings = with_recipe(PretrainingSettings(model="bert-tiny", **changes))
    assert {name: getattr(settings, name) for name in changes} == changes, "0 is a value, not a gap"
    assert settings.batch_size == RECIPES["bert-tiny"]["batch_size"]
    assert replace(settings, **changes) == settings


@pytest.mark.parametrize(
    ("given", "warmup"),
    [
        (dict(model="bert-tiny", steps=60), 6),
        (dict(model="bert-base", steps=5000), 50),
        (dict(model="bert-tiny", init="runs/masked", steps=40), 5),
        (dict(model="bert-tiny", steps=60, warmup=59), 59),
        (dict(model="bert-tiny", steps=9000), 200),
    ],
)
def test_a_warm_up_that_was_not_given_shrinks_with_the_run_and_that_is_said(given, warmup, capsys):
    settings = with_recipe(PretrainingSettings(**given))
    assert settings.warmup == warmup, "a run shorter than its warm-up never reaches its rate"
    shrunk = "warmup" not in given and given["steps"] < 9000
    assert (f"warm-up: {warmup} steps" in capsys.readouterr().out) == shrunk
    assert with_recipe(settings) == settings, "a resumed run keeps it"


@pytest.mark.parametrize("model", RECIPES)
def test_a_model_goes_on_at_the_rate_of_its_own_size(model):
    settings = with_recipe(PretrainingSettings(model=model, init="runs/masked"))
    assert settings.lr == RECIPES[model]["lr"], "gpt2-xl would go on at five times its rate"
    assert settings.steps == 400


def test_what_is_no_preset_that_can_be_trained_is_named(tmp_path):
    wrong = {"bert-tinny": r" \(did you mean 'bert-tiny'\?\): "}
    wrong[str(tmp_path)] = ", and a folder is given by --init: "
    assert set(PRESETS) == set(RECIPES), "every preset can be trained"
    for model, way_out in wrong.items():
        told = f"--model {model}: no preset that this script trains{way_out}bert-tiny, "
        with pytest.raises(UserError, match=told):
            with_recipe(PretrainingSettings(model=model))


TINY = dict(
    vocab_size=1024, context=64, batch_size=32, lr=3e-3, warmup=200, schedule="cosine", weight_decay=0.05
)
BERT = dict(vocab_size=30522, context=512, schedule="linear", weight_decay=0.01)
BART = BERT | dict(vocab_size=50265, steps=500_000, batch_size=8000, warmup=10_000)
GPT2 = dict(vocab_size=50257, context=1024, schedule="cosine", weight_decay=0.1, steps=600_000)
GPT2 |= dict(batch_size=512, warmup=2000)
VASWANI = dict(
    vocab_size=37000, context=128, batch_size=900, warmup=4000, schedule="inverse-sqrt", weight_decay=0
)
MEASURED = {
    "bert-tiny": TINY | dict(steps=2000),
    "gpt-tiny": TINY | dict(steps=1600, lr=2.5e-3, warmup=100),
    "llama-tiny": TINY | dict(steps=1600, lr=2.5e-3, warmup=100),
    "gpt-alibi-tiny": TINY | dict(steps=3000, context=32, n_documents=120_000),
    "bart-tiny": TINY | dict(steps=1000),
    "transformer-tiny": TINY | dict(steps=2400, lr=4e-3, warmup=100, schedule="inverse-sqrt"),
    "distilbert-tiny": TINY | dict(steps=2000, warmup=50, n_documents=140),
    "transformer-base": VASWANI | dict(steps=100_000, lr=7e-4),
    "transformer-big": VASWANI | dict(steps=300_000, lr=5e-4),
    "bart-base": BART | dict(lr=4e-4),
    "bart-large": BART | dict(lr=2e-4),
    "distilbert": BERT | dict(steps=100_000, batch_size=4000, lr=5e-4, warmup=5000),
    "bert-base": BERT | dict(steps=1_000_000, batch_size=256, lr=1e-4, warmup=10_000),
    "bert-large": BERT | dict(steps=1_000_000, batch_size=256, lr=1e-4, warmup=10_000),
    "gpt2": GPT2 | dict(lr=6e-4), "gpt2-medium": GPT2 | dict(lr=3e-4),
    "gpt2-large": GPT2 | dict(lr=2.5e-4), "gpt2-xl": GPT2 | dict(lr=2e-4),
    "smollm2-135m": GPT2 | dict(vocab_size=49152, context=2048, lr=6e-4),
}  # fmt: skip


def test_the_numbers_are_those_that_were_measured_or_published():
    """READMEs and papers have figures of these alone; a better number is a new figure there."""
    found = {
        model: {name: value for name, value in recipe.items() if name != "data"}
        for model, recipe in RECIPES.items()
    }
    assert found == MEASURED


def test_a_continued_run_is_that_of_the_figures_in_its_readme():
    assert CONTINUED == dict(data=("world:reports",), steps=400, warmup=50, extend_vocabulary=200)
    small = {name for name, config in PRESETS.items() if config.d_model < LARGE}
    assert small == {name for name in PRESETS if name.endswith("-tiny")}, "which presets learn at small rates"
    assert LARGE == 256
