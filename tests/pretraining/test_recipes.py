"""Grades pretraining/recipes.py: every row can be trained, and a flag wins over it."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

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
