"""Grades finetuning/comparison.py: each way to tune, from the same start, for the same steps."""

from dataclasses import replace

import pytest
import small
import torch
import tuned

from minilm.finetuning import comparison
from minilm.finetuning.comparison import (
    Result,
    mean_and_deviation,
    measure,
    names_of,
    one_way,
    other_settings,
    other_ways,
    prepared,
    table_rows,
    train_quietly,
    trivial,
    with_rate,
)
from minilm.finetuning.settings import rate_of
from minilm.finetuning.tasks import FineTuning
from minilm.training.loop import train


def test_a_run_begins_with_the_body_and_a_head_of_the_seed():
    body, task = tuned.body(seed=5), tuned.classification()
    first = prepared(body, task, tuned.settings(), "all")
    small.assert_equal(dict(body.state_dict()), {n: first.state_dict()[n] for n in body.state_dict()})
    same, other = (prepared(body, task, tuned.settings(seed=seed), "all") for seed in (0, 1))
    assert torch.equal(first.head.linear.weight, same.head.linear.weight)
    assert not torch.equal(first.head.linear.weight, other.head.linear.weight)
    fresh = prepared(body, task, tuned.settings(), "all", from_random=True)
    assert not torch.equal(fresh.tokens.weight, body.tokens.weight), "from random: nothing of the body"


def test_only_what_is_named_moves():
    task, examples = tuned.classification(), tuned.examples()
    for tune in ("head", "lora", "last:1", "all"):
        settings = tuned.settings(tune=tune, lora_rank=2)
        model = prepared(tuned.body(), task, settings, tune)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train_quietly(model, FineTuning(task, examples, 5), settings)
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {name for name, p in model.named_parameters() if p.requires_grad}, tune
        assert not model.training


def test_the_pace_reaches_the_optimizer():
    task, examples = tuned.classification(), tuned.examples()
    settings = tuned.settings(unfreeze_every=2, steps=3)  # the head from step 0, the last block from step 2
    model = prepared(tuned.body(), task, settings, "all")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_quietly(model, FineTuning(task, examples, 5), settings)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "head.linear.weight" in moved and "encoder.blocks.1.feed_forward.up.weight" in moved
    assert "encoder.blocks.0.feed_forward.up.weight" not in moved and "tokens.weight" not in moved


def test_the_other_ways_are_those_that_were_not_chosen():
    task, examples, body = tuned.classification(), tuned.examples(), tuned.body()
    settings = tuned.settings(steps=2)
    assert list(other_ways(body, task, examples, settings)) == ["scratch", "head", "lora"]
    found = other_ways(body, task, examples, tuned.settings(steps=2, tune="head", lora_rank=2))
    assert list(found) == ["scratch", "lora", "all"]
    assert found["scratch"].n_moving == found["all"].n_moving > found["lora"].n_moving
    assert found["all"].share == 1.0 and 0 < found["lora"].share < 1


def test_each_way_has_its_own_rate_and_the_same_steps(monkeypatch):
    seen = []
    monkeypatch.setattr(comparison, "train_quietly", lambda model, objective, own: seen.append(own) or 0.0)
    task, examples, body = tuned.classification(), tuned.examples(), tuned.body()
    other_ways(body, task, examples, tuned.settings(steps=7, lr=0.25))
    one_way(body, task, examples, tuned.settings(steps=7, lr=0.25))
    rates = [(own.tune, own.lr) for own in seen]
    own_rates = [(tune, rate_of(tuned.settings(tune=tune), body.config)) for tune in ("head", "lora")]
    assert rates == [("all", 0.25), *own_rates, ("all", 0.25)], "a given rate is meant for the chosen way"
    assert {own.steps for own in seen} == {7}
    assert with_rate(tuned.settings(lr=None, tune="lora"), body).lr == rate_of(
        tuned.settings(tune="lora"), body.config
    )
    assert other_settings(tuned.settings(lr=0.25), "head").lr is None


def test_each_seed_stops_by_the_same_patience(tmp_path):
    """The first seed's run is that of `training.train`; without its rule the others would train on."""
    task, examples, settings = tuned.classification(), tuned.examples(), tuned.settings(steps=40, lr=0.3)
    for patience in (0, 1):
        own = replace(settings, patience=patience, eval_every=3)
        quiet, told = (prepared(tuned.body(), task, own, "all") for _ in range(2))
        train_quietly(quiet, FineTuning(task, examples, 5), own)
        outcome = train(told, FineTuning(task, examples, 5), own, tmp_path, patience=patience)
        assert (outcome["steps"] < 40) == bool(patience), "a test in which nothing stops"
        small.assert_equal(quiet.state_dict(), told.state_dict())


def test_measure_and_what_needs_no_model():
    task, examples = tuned.classification(), tuned.examples()
    model = prepared(tuned.body(), task, tuned.settings(), "head").eval()
    predictions = task.predict(model, examples.test, 4)
    found = measure(model, task, predictions, 1.5)
    assert found.score == sum(p.truth == p.guess for p in predictions) / 9
    assert (found.n_moving, found.seconds) == (39, 1.5)
    assert found.share == pytest.approx(39 / prepared(tuned.body(), task, tuned.settings(), "all").n_moving())
    assert trivial(task, examples) == Result(0, 0.0, None, pytest.approx(1 / 3))


def test_the_table_has_means_over_the_seeds():
    assert mean_and_deviation([0.5]) == (0.5, None)
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    results = {
        "chosen": [Result(1234, 1.0, 2.0, 0.5), Result(1234, 1.0, 4.0, 0.7)],
        "trivial": [Result(0, 0.0, None, 0.25)],
        "lora": [Result(99, 0.08, 1.0, 0.625)],
    }
    assert table_rows(results, names_of(tuned.settings(lora_rank=4), "majority class")) == [
        ("majority class", 0, "0.0 %", "-", "0.250"),
        ("LoRA, rank 4", 99, "8.0 %", "1.0", "0.625"),
        ("all weights", 1234, "100.0 %", "3.0", "0.600 ± 0.141"),
    ]
    assert names_of(tuned.settings(tune="last:2"), "x")["chosen"] == "last:2"
