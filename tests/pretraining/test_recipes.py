"""Grades pretraining/recipes.py: every row can be trained, and a flag wins over it."""

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest

from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import option_of, parse, words_of
from minilm.pretraining.recipes import DEFAULT_MODEL, RECIPES
from minilm.pretraining.run import PretrainingSettings, with_recipe


def test_every_objective_has_a_default_that_runs_on_a_cpu():
    objectives = get_args(get_type_hints(PretrainingSettings)["objective"])
    assert set(DEFAULT_MODEL) == set(objectives)
    for objective, model in DEFAULT_MODEL.items():
        assert with_recipe(PretrainingSettings(objective=objective)).model == model
        assert model.endswith("-tiny") and RECIPES[model]["data"] == ("world",)


@pytest.mark.parametrize("model", RECIPES)
def test_every_row_fills_the_settings_and_nothing_else(model):
    assert model in PRESETS
    for name, value in RECIPES[model].items():
        argv = [option_of(name), *words_of(value)]  # UserError for a value that the flag itself would refuse
        assert parse(PretrainingSettings, argv=argv)[0] == {name: value}
    settings = with_recipe(PretrainingSettings(model=model))
    left = {field.name for field in fields(settings) if getattr(settings, field.name) is None}
    by_hand = {"out", "tokenizer", "eval_every", "init", "teacher", "n_documents"} - set(RECIPES[model])
    assert left == by_hand, "the loop needs a value for all others"
    assert settings.context <= PRESETS[model].max_positions
    assert settings.warmup < settings.steps


def test_flags_win_over_the_recipe():
    changes = dict(lr=0.0, steps=3, warmup=0, data=("a.txt",), schedule="constant", weight_decay=0.0)
    settings = with_recipe(PretrainingSettings(model="bert-tiny", **changes))
    assert {name: getattr(settings, name) for name in changes} == changes, "0 is a value, not a gap"
    assert settings.batch_size == RECIPES["bert-tiny"]["batch_size"]
    assert replace(settings, **changes) == settings


def test_only_what_is_none_is_filled_in():
    settings = PretrainingSettings(lr=0.0).filled_in(dict(lr=1.0, steps=7, not_a_field=3))
    assert (settings.lr, settings.steps) == (0.0, 7), "0 is a value, not a gap"
    assert settings.batch_size is None, "what the recipe does not have stays none"


def test_the_recipe_is_that_of_the_model_and_not_of_the_objective():
    assert (
        with_recipe(PretrainingSettings(objective="masked", model="bert-large")).lr
        == RECIPES["bert-large"]["lr"]
    )
    settings = with_recipe(PretrainingSettings(objective="causal"))
    assert (settings.lr, settings.model) == (RECIPES["gpt-tiny"]["lr"], "gpt-tiny")


def test_a_preset_that_does_not_exist_is_suggested():
    with pytest.raises(UserError, match=r"--model bert-tinny: .*\(did you mean 'bert-tiny'\?\)"):
        with_recipe(PretrainingSettings(model="bert-tinny"))


def test_a_folder_in_place_of_a_preset_is_told_from_a_typing_slip(tmp_path):
    with pytest.raises(UserError, match="a folder is given by --init: bert-tiny, "):
        with_recipe(PretrainingSettings(model=str(tmp_path)))


def test_a_preset_without_a_recipe_is_no_typing_slip():
    for model in sorted(set(PRESETS) - set(RECIPES)):
        with pytest.raises(
            UserError, match=f"--model {model}: no preset that this script trains: bert-tiny, "
        ):
            with_recipe(PretrainingSettings(model=model))
