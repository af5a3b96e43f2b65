"""Grades pretraining/run.py: what a run takes from its recipe where no flag says it."""

import pytest

from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError
from minilm.pretraining.recipes import RECIPES
from minilm.pretraining.run import PretrainingSettings, with_recipe


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (dict(), 1024),  # of ever more text, however sure the figure is
        (dict(model="bert-base"), 1024),
        (dict(batch_size=16), 1000),
        (dict(steps=100), 100),
        (dict(steps=2, batch_size=2), 16),  # of fewer, the figure says little
    ],
)
def test_looks_at_the_validation_part_cost_a_tenth_of_the_run(given, rows):
    """Ten looks, before, on the way and after, at 1 row of 32 learnt from; forward alone takes a third."""
    settings = with_recipe(PretrainingSettings(**given))
    assert settings.eval_rows == rows
    assert with_recipe(PretrainingSettings(**given, eval_rows=77)).eval_rows == 77


def test_flags_win_over_the_recipe():
    changes = dict(lr=0.0, steps=3, warmup=0, data=("a.txt",), schedule="constant", weight_decay=0.0)
    settings = with_recipe(PretrainingSettings(model="bert-tiny", **changes))
    assert {name: getattr(settings, name) for name in changes} == changes, "0 is a value, not a gap"
    assert settings.batch_size == RECIPES["bert-tiny"]["batch_size"]


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
    wrong = {"bert-tinny": r" \(did you mean 'bert-tiny'\?\); expected "}
    wrong |= {str(tmp_path): "; expected ", "x" * 300: "; expected "}  # the second: too long for a file
    assert set(PRESETS) == set(RECIPES), "every preset can be trained"
    for model, way_out in wrong.items():
        told = f"--model {model}: not a preset that this script trains{way_out}bert-tiny, "
        with pytest.raises(UserError, match=told + ".*; for a folder give --init"):
            with_recipe(PretrainingSettings(model=model))
