"""Grades continued/run.py: what a continued run takes over from its start."""

import json

import pytest
import small

from minilm.checkpoint import save
from minilm.continued.forgetting import Continued
from minilm.continued.run import continued_command
from minilm.plumbing.errors import UserError
from minilm.pretraining.run import PretrainingSettings, with_recipe
from minilm.texts.corpus import Corpus


def test_a_run_of_another_regime_goes_on_as_its_kind_of_model_does(settings, tmp_path):
    given, folder = dict(init=settings.init), tmp_path / "run"
    assert continued_command(given, {}) == dict(objective="causal") | given
    (folder / "settings.json").write_text(json.dumps(dict(task="classification", data=["labels.tsv"])))
    found = continued_command(given, {})
    assert found["objective"] == "causal" and found["model"] == "gpt-tiny" and "lr" not in found
    assert found["context"] <= small.model("causal").config.max_positions
    assert continued_command(given | dict(context=9), {})["context"] == 9, "what is given wins"
    run = Continued(settings)
    run.start(Corpus("domain", small.documents(30, seed=3), small.documents(9, seed=4)))
    assert run.general.name == "world", "its labelled examples are no text to measure on"
    (folder / "settings.json").unlink()
    assert continued_command(given, {}) == found, "a model that a program has saved"
    with pytest.raises(UserError, match="not a run to go on from"):
        continued_command(dict(init=str(tmp_path / "absent")), {})


def test_a_student_goes_on_without_its_teacher(settings, tmp_path):
    save(small.model("masked"), small.tokenizer(), tmp_path / "student")
    saved = dict(objective="distillation", model="distilbert-tiny", n_documents=140, teacher="runs/masked")
    (tmp_path / "student" / "settings.json").write_text(json.dumps(saved), encoding="utf-8")
    found = continued_command(dict(init=str(tmp_path / "student")), {})
    assert found["objective"] == "masked" and "n_documents" not in found, "its few texts were the lesson's"


def test_a_run_goes_on_at_its_own_rate(settings, tmp_path):
    saved = dict(objective="causal", model="gpt-tiny", lr=7e-4, warmup=9, seed=3)
    (tmp_path / "run" / "settings.json").write_text(json.dumps(saved), encoding="utf-8")
    found = with_recipe(PretrainingSettings(**continued_command(dict(init=settings.init), {})))
    assert (found.lr, found.warmup, found.steps) == (7e-4, 50, 400), "its rate, and not its length"
    assert found.seed == 0, "the seed is that of the command"
    assert continued_command(dict(init=settings.init, lr=2e-4), {})["lr"] == 2e-4, "what is given wins"


def test_what_the_start_has_decided_already_is_named(settings):
    for given, overrides, message in (
        (dict(objective="distillation"), {}, "--init: a student"),
        (dict(model="gpt2"), {}, "--model: with --init"),
        (dict(tokenizer="t.json"), {}, "--tokenizer: with --init"),
        ({}, dict(d_ff=3), "--d-ff: with --init"),
    ):
        with pytest.raises(UserError, match=message):
            continued_command(dict(init=settings.init) | given, overrides)
