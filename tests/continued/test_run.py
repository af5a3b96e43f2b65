"""Grades continued/run.py: from a checkpoint on, new tokens, both texts measured before and after."""

import dataclasses
import json

import pytest
import small

from minilm.checkpoint import save
from minilm.continued import run as continued
from minilm.continued.run import HEADER, Continued, continued_command
from minilm.plumbing.errors import UserError
from minilm.pretraining.run import Pretraining, PretrainingSettings
from minilm.texts.corpus import Corpus, load_corpus
from minilm.training.checkpoints import evaluate

DOMAIN = Corpus("domain", small.documents(30, seed=3), small.documents(9, seed=4))


@pytest.fixture
def settings(tmp_path):
    """A saved causal model that knows general.txt, and the settings to go on with domain.txt."""
    (tmp_path / "general.txt").write_text("\n\n".join(small.documents(60)), encoding="utf-8")
    save(small.model("causal"), small.tokenizer(), tmp_path / "run")
    saved = dict(objective="causal", data=[str(tmp_path / "general.txt")])
    (tmp_path / "run" / "settings.json").write_text(json.dumps(saved), encoding="utf-8")
    return PretrainingSettings(
        **dict(objective="causal", init=str(tmp_path / "run"), context=24, batch_size=7, steps=3, lr=1e-2),
        **dict(data=("domain",), warmup=1, schedule="constant", weight_decay=0.0, device="cpu"),
    )


def started(settings, corpus=DOMAIN, **changes) -> tuple:
    """Return a run that has read its start, and the objective on the domain."""
    run = Continued(dataclasses.replace(settings, **changes))
    model, tokenizer = run.start(corpus)
    return run, model, run.objective(corpus, tokenizer)


def test_both_texts_are_measured_before_and_after(settings, monkeypatch):
    run, model, objective = started(settings)
    assert run.general.name.endswith("general.txt") and objective.corpus is DOMAIN
    monkeypatch.setattr(Pretraining, "closing", lambda *_: (["first"], dict(loss=1.0), ["example"]))
    tables, results, examples = run.closing(objective, model, {}, {})
    assert tables[0] == "first" and examples == ["example"] and results["loss"] == 1.0
    rows, header = tables[1]
    assert [row[0] for row in rows] == ["before", "after", "the domain alone, from zero"]
    assert all(len(row) == len(header) for row in rows) and header == HEADER
    assert rows[0][1:] == rows[1][1:], "nothing was trained in between"
    plain = small.Causal(DOMAIN, small.tokenizer(), 24, 7)
    assert results["domain_loss_before"] == evaluate(model, plain, settings)["loss"]
    assert results["general_loss_before"] == rows[0][1] and results["domain_loss_after"] == rows[1][3]
    assert results["scratch_domain_loss"] == rows[2][3] < results["domain_loss_before"], "three steps at 0.01"
    assert run.closing(objective, model, {}, {})[1] == results, "the model from zero is drawn by the seed"


def test_of_several_processes_the_one_that_closes_the_run_trains_nothing(settings, monkeypatch):
    """A step waits for the gradients of all processes, and the others have left."""
    run, model, objective = started(settings)
    monkeypatch.setattr(Pretraining, "closing", lambda *_: ([], {}, []))
    monkeypatch.setattr(continued, "process_count", lambda: 2)
    monkeypatch.setattr(continued, "train", None)
    tables, results, _ = run.closing(objective, model, {}, {})
    assert [row[0] for row in tables[0][0]] == ["before", "after"] and "scratch_domain_loss" not in results


def test_the_general_text_is_split_as_it_was_when_the_model_read_it(settings, tmp_path):
    saved = dict(objective="causal", data=["python-docs"], seed=5)
    (tmp_path / "run" / "settings.json").write_text(json.dumps(saved), encoding="utf-8")
    run, _, _ = started(settings, seed=6, n_documents=50)
    assert run.general.validation == load_corpus("python-docs", 5).validation
    assert run.general.validation != load_corpus("python-docs", 6).validation


def test_a_run_of_another_regime_goes_on_as_its_kind_of_model_does(settings, tmp_path):
    given, folder = dict(init=settings.init), tmp_path / "run"
    assert continued_command(given, {}) == dict(objective="causal") | given
    (folder / "settings.json").write_text(json.dumps(dict(task="classification", data=["labels.tsv"])))
    found = continued_command(given, {})
    assert found["objective"] == "causal" and found["model"] == "gpt-tiny" and "lr" not in found
    assert found["context"] <= small.model("causal").config.max_positions
    assert continued_command(given | dict(context=9), {})["context"] == 9, "what is given wins"
    run, _, _ = started(settings)
    assert run.general.name == "world", "its labelled examples are no text to measure on"
    (folder / "settings.json").unlink()
    assert continued_command(given, {}) == found, "a model that a program has saved"
    with pytest.raises(UserError, match="not a run to go on from"):
        continued_command(dict(init=str(tmp_path / "absent")), {})


def test_what_the_start_has_decided_already_is_named(settings):
    for given, overrides, message in (
        (dict(objective="distillation"), {}, "--init: a student"),
        (dict(model="gpt2"), {}, "--model: with --init"),
        (dict(tokenizer="t.json"), {}, "--tokenizer: with --init"),
        ({}, dict(d_ff=3), "--d-ff: with --init"),
    ):
        with pytest.raises(UserError, match=message):
            continued_command(dict(init=settings.init) | given, overrides)


def test_a_start_with_new_tokens_and_replay(settings):
    run, model, objective = started(settings, extend_vocabulary=11, replay=0.5)
    V = small.tokenizer().vocab_size
    assert objective.tokenizer.vocab_size == model.config.vocab_size == V + 11
    assert set(objective.corpus.train) > set(DOMAIN.train)
    assert len(run.before) == 4 and run.name == "causal-continued"


def test_a_start_that_does_not_fit_is_named(settings, tmp_path):
    save(small.model("causal"), None, tmp_path / "bare")
    for changes, message in (
        (dict(objective="translation", replay=0.1), "--replay"),
        (dict(objective="masked"), "kind encoder.*kind decoder; it fits --objective causal"),
        (dict(init=str(tmp_path / "bare")), "bare: no tokenizer in it"),
    ):
        with pytest.raises(UserError, match=message):
            started(settings, **changes)
