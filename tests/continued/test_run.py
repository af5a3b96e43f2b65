"""Grades continued/run.py: what a continued run takes over from its start."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import small

from minilm.checkpoint import save
from minilm.continued import run
from minilm.continued.forgetting import Continued
from minilm.continued.run import continued_command
from minilm.model.config import PRESETS, ModelConfig
from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import parse, show
from minilm.pretraining.run import OBJECTIVES, PretrainingSettings, with_recipe
from minilm.texts.corpus import Corpus


def test_a_run_of_another_regime_goes_on_as_its_kind_of_model_does(settings, remember, tmp_path):
    given = dict(init=settings.init)
    assert continued_command(given, {}) == dict(objective="causal") | given
    remember(task="classification", data=["labels.tsv"])
    found = continued_command(given, {})
    assert found["objective"] == "causal" and found["model"] == "gpt-tiny" and "lr" not in found
    assert found["context"] <= small.model("causal").config.max_positions
    assert continued_command(given | dict(context=9), {})["context"] == 9, "a given value wins"
    made = Continued(settings)
    made.start(Corpus("domain", small.documents(30, seed=3), small.documents(9, seed=4)))
    assert made.general.name == "world", "its labelled examples are no text to measure on"
    Path(settings.init, "settings.json").unlink()
    assert continued_command(given, {}) == found, "a model that a program has saved"
    with pytest.raises(UserError, match="absent: not a run folder of minilm, no such folder"):
        continued_command(dict(init=str(tmp_path / "absent")), {})


def test_a_student_goes_on_without_its_teacher(settings, remember):
    save(small.model("masked"), small.tokenizer(), settings.init, overwrite=True)
    remember(objective="distillation", model="distilbert-tiny", n_documents=140, teacher="runs/masked")
    found = continued_command(dict(init=settings.init), {})
    assert found["objective"] == "masked" and "n_documents" not in found, "its few texts were the lesson's"


def test_another_objective_takes_over_its_own_options_alone(settings, remember):
    saved = vars(with_recipe(PretrainingSettings(objective="denoising", noise="deletion")))
    remember(**saved)
    same = PretrainingSettings(**continued_command(dict(init=settings.init), {}))
    assert same.objective == "denoising" and same.noise == "deletion", "goes on as it was"
    given = dict(init=settings.init, objective="translation", data=("pairs.tsv",))
    other = with_recipe(PretrainingSettings(**continued_command(given, {})))
    assert other.objective == "translation" and other.model == saved["model"] and other.lr == saved["lr"]


def test_a_run_goes_on_at_its_own_rate(settings, remember):
    saved = dict(objective="causal", model="gpt-tiny", lr=7e-4, warmup=9, seed=3)
    remember(**saved)
    found = with_recipe(PretrainingSettings(**continued_command(dict(init=settings.init), {})))
    assert (found.lr, found.warmup, found.steps) == (7e-4, 50, 400), "its rate, and not its length"
    assert found.seed == 0, "the seed is that of the command"
    assert continued_command(dict(init=settings.init, lr=2e-4), {})["lr"] == 2e-4, "a given value wins"
    remember(**saved, batch_size=16, extend_vocabulary=0)  # as a published model went on
    found = with_recipe(PretrainingSettings(**continued_command(dict(init=settings.init), {})))
    assert (found.batch_size, found.extend_vocabulary) == (16, 0), "a rate is for its size of batches"


def test_what_the_start_has_decided_already_is_named(settings):
    for given, overrides, message in (
        (dict(objective="distillation"), {}, "--init: a student"),
        (dict(model="gpt2"), {}, "--model: with --init"),
        (dict(tokenizer="t.json"), {}, "--tokenizer: with --init"),
        (dict(vocab_size=300), {}, "--vocab-size: with --init"),
        ({}, dict(d_ff=3), "--d-ff: with --init"),
    ):
        with pytest.raises(UserError, match=message):
            continued_command(dict(init=settings.init) | given, overrides)


def test_the_command_that_a_run_prints_is_taken_as_it_is(settings, remember, capsys):
    remember(objective="causal", data=["world"], model="gpt-tiny", lr=7e-4)
    for more in ({}, dict(new_rows="zeros"), dict(replay=0.25)):
        made = with_recipe(PretrainingSettings(**continued_command(dict(init=settings.init) | more, {})))
        show(made, {}, "train.py")
        words = shlex.split(capsys.readouterr().out.split("train.py")[-1])
        given, overrides = parse(PretrainingSettings, ModelConfig, words)
        assert with_recipe(PretrainingSettings(**continued_command(given, overrides))) == made


@pytest.mark.parametrize(
    "name, objective", [("bert-base", "masked"), ("gpt2", "causal"), ("bart-base", "denoising")]
)
def test_a_published_model_goes_on_slowly_as_the_preset_most_like_it(name, objective, monkeypatch):
    for is_published in (True, False):
        monkeypatch.setattr(run, "settings_of", lambda _: {})
        monkeypatch.setattr(run, "is_published", lambda _, answer=is_published: answer)
        for d_model in (768, 256, 255):
            config = replace(PRESETS[name], d_model=d_model, n_head=1)
            monkeypatch.setattr(run, "load_config", lambda _, found=config: found)
            found = continued_command(dict(init="x"), {})
            assert found["objective"] == objective, "that of its kind of model"
            large = is_published or d_model >= 256
            assert found["model"] == (name if large else OBJECTIVES[objective].model)
            slow = dict(batch_size=16, lr=5e-5, extend_vocabulary=0)  # Devlin et al. 2019: its least rate
            assert {key: found.get(key) for key in slow} == (slow if large else dict.fromkeys(slow))
            assert found["next_sentence"] == config.next_sentence
    assert continued_command(dict(init="x", lr=1e-3), {})["lr"] == 1e-3, "a given value wins"
