"""Grades continued/run.py: from a checkpoint on, replay, both texts measured."""

import dataclasses
import json

import pytest
import small
import torch

from minilm.checkpoint import save
from minilm.continued import run as continued
from minilm.continued.run import HEADER, Start, train_from_zero, with_replay
from minilm.plumbing.errors import UserError
from minilm.pretraining.settings import PretrainingSettings
from minilm.texts.corpus import Corpus, load_corpus
from minilm.training.checkpoints import evaluate

DOMAIN = Corpus(
    "domain", [f"Order {i}: zinc, {i % 7} boxes." for i in range(50)], ["Order 99: zinc, 3 boxes."]
)
GENERAL = Corpus("general", [f"The cat {i} slept." for i in range(30)], ["The cat slept."])


def test_replay_mixes_in_the_share_of_bytes_that_was_asked_for():
    for share in (0.1, 0.5, 0.9):
        mixed = with_replay(DOMAIN, GENERAL, share, seed=1)
        extra = [text for text in mixed.train if text in GENERAL.train]
        n_byte = sum(len(text.encode()) for text in extra)
        longest = max(len(text.encode()) for text in GENERAL.train)
        wanted = share / (1 - share) * DOMAIN.train_bytes
        assert wanted <= n_byte <= wanted + longest, "the share is general bytes / all bytes"
        assert sorted(text for text in mixed.train if text not in GENERAL.train) == sorted(DOMAIN.train)
        assert mixed.validation == DOMAIN.validation, "the figures are about the domain"
        assert mixed.train == with_replay(DOMAIN, GENERAL, share, seed=1).train, "drawn by the seed"
        assert mixed.train != with_replay(DOMAIN, GENERAL, share, seed=2).train
    assert DOMAIN.train[0].startswith("Order 0"), "the domain's own list stays as it was"


def test_the_model_from_zero_has_the_shape_and_other_weights():
    model, objective = small.model("causal", seed=5), small.objective("causal")
    scratch = train_from_zero(model, objective, small.settings(steps=3))
    again = train_from_zero(model, objective, small.settings(steps=3))
    assert scratch.config == model.config and not scratch.training
    small.assert_equal(scratch.state_dict(), again.state_dict())
    assert not torch.equal(scratch.tokens.weight, model.tokens.weight), "it begins from random weights"


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


def test_both_texts_are_measured_before_and_after(settings):
    domain = Corpus("domain", small.documents(30, seed=3), small.documents(9, seed=4))
    start = Start(settings, domain)
    assert start.general.name.endswith("general.txt") and start.mixed is domain
    rows, results = start.closing(start.model)
    assert [row[0] for row in rows] == ["before", "after", "the domain alone, from zero"]
    assert all(len(row) == len(HEADER) for row in rows)
    assert rows[0][1:] == rows[1][1:], "nothing was trained in between"
    objective = small.Causal(domain, small.tokenizer(), 24, 7)
    assert results["domain_loss_before"] == evaluate(start.model, objective, settings)["loss"]
    assert results["general_loss_before"] == rows[0][1] and results["domain_loss_after"] == rows[1][3]
    assert results["scratch_domain_loss"] == rows[2][3] < results["domain_loss_before"], "three steps at 0.01"


def test_of_several_processes_the_one_that_closes_the_run_trains_nothing(settings, monkeypatch):
    """A step waits for the gradients of all processes, and the others have left."""
    start = Start(settings, DOMAIN)
    monkeypatch.setattr(continued, "process_count", lambda: 2)
    monkeypatch.setattr(continued, "train_from_zero", None)
    rows, results = start.closing(start.model)
    assert [row[0] for row in rows] == ["before", "after"] and "scratch_domain_loss" not in results


def test_the_general_text_is_dealt_out_as_it_was_when_the_model_read_it(settings, tmp_path):
    saved = dict(objective="causal", data=["python-docs:json"], seed=5)
    (tmp_path / "run" / "settings.json").write_text(json.dumps(saved), encoding="utf-8")
    start = Start(dataclasses.replace(settings, seed=6), DOMAIN)
    assert start.general.validation == load_corpus("python-docs:json", seed=5).validation
    assert start.general.validation != load_corpus("python-docs:json", seed=6).validation


def test_a_run_of_another_regime_goes_on_as_its_kind_of_model_does(settings, tmp_path):
    run, kept = tmp_path / "run", {"objective", "model", "context"}
    assert continued.start_settings(settings, {}, kept) == dict(objective="causal")
    (run / "settings.json").write_text(json.dumps(dict(task="classification", data=["labels.tsv"])))
    found = continued.start_settings(settings, {}, kept)
    assert found["objective"] == "causal" and found["model"] == "gpt-tiny" and "lr" not in found
    assert found["context"] <= small.model("causal").config.max_positions
    assert Start(settings, DOMAIN).general.name == "world", "its labelled examples are no text to measure on"
    (run / "settings.json").unlink()
    assert continued.start_settings(settings, {}, kept) == found, "a model that a program has saved"
    with pytest.raises(UserError, match="not a run to go on from"):
        continued.settings_of(str(tmp_path / "absent"), PretrainingSettings)


def test_a_start_with_new_tokens_and_replay(settings):
    settings = dataclasses.replace(settings, extend_vocabulary=11, replay=0.5)
    start = Start(settings, DOMAIN)
    V = small.tokenizer().vocab_size
    assert start.tokenizer.vocab_size == start.model.config.vocab_size == V + 11
    assert set(start.mixed.train) > set(DOMAIN.train)
    assert len(start.before) == 4


def test_replay_of_pairs_is_refused(settings):
    with pytest.raises(UserError, match="--replay"):
        Start(dataclasses.replace(settings, objective="translation", replay=0.1), DOMAIN)


def test_an_objective_that_does_not_fit_names_those_that_do(settings):
    with pytest.raises(UserError, match="kind encoder.*kind decoder; it fits --objective causal"):
        Start(dataclasses.replace(settings, objective="masked"), DOMAIN)
