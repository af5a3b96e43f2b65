"""Grades pretraining/recipes.py: every row can be trained, and a flag wins over it."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
from small import fingerprint

from minilm.model.config import PRESETS
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


MEASURED = {
    "bert-tiny": "5ec4c77b", "gpt-tiny": "72a791d6", "llama-tiny": "72a791d6", "gpt-alibi-tiny": "33ca0f8c",
    "bart-tiny": "ebffa202", "transformer-tiny": "784aba9c", "distilbert-tiny": "e00aa9c7",
    "transformer-base": "81cd7a32", "transformer-big": "f0cec6e7", "bart-base": "119fb663",
    "bart-large": "cefc4b52", "distilbert": "4f6f716b", "bert-base": "ac919159", "bert-large": "ac919159",
    "gpt2": "eff9967e", "gpt2-medium": "19e166bd", "gpt2-large": "5e8e58d2", "gpt2-xl": "28195682",
    "smollm2-135m": "60688003",
}  # fmt: skip


def test_the_numbers_are_those_that_were_measured_or_published():
    """READMEs and papers have figures of these alone; a better number is a new figure there."""
    assert {model: fingerprint(sorted(recipe.items())) for model, recipe in RECIPES.items()} == MEASURED


def test_a_continued_run_is_that_of_the_figures_in_its_readme():
    assert CONTINUED == dict(data=("world:reports",), steps=400, warmup=50, extend_vocabulary=200)
    tiny = {name for name, config in PRESETS.items() if config.d_model < LARGE}
    assert tiny == {name for name in PRESETS if name.endswith("-tiny")}, "which presets learn at small rates"
    assert LARGE == 256
