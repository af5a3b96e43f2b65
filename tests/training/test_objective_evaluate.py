"""Grades training/objective.py: evaluate, the metrics of the whole validation part."""

import math

import pytest
import small
import torch

from minilm.training import objective as module
from minilm.training.objective import evaluate


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_evaluate_is_the_mean_over_all_of_the_validation_part(kind):
    model, objective = small.model(kind, dropout=0.5), small.objective(kind)
    with torch.no_grad():
        expected = objective.loss(model.eval(), objective.batch(0, "validation"))[1]
    model.train()
    for changes in (dict(batch_size=1), dict(batch_size=2), dict(batch_size=100), dict(accumulate=3)):
        found = evaluate(model, objective, small.settings(**changes))
        assert list(found) == list(expected)
        for name, value in found.items():
            assert isinstance(value, float)
            told = f"{name}, {changes}: dropout must be off, and the parts' metrics simply add up"
            assert value == pytest.approx(float(expected[name]), rel=1e-5), told


@pytest.mark.parametrize(("n_process", "shard"), [(2, False), (3, False), (50, False), (2, True), (3, True)])
def test_each_process_evaluates_its_own_rows_or_all_with_shard(n_process, shard, monkeypatch):
    model, objective = small.model("masked"), small.objective("masked")
    settings, plain_loss = small.settings(batch_size=1, shard=shard), objective.loss
    expected, seen, found, asked = evaluate(model, objective, settings), [], [], []
    objective.loss = lambda model, batch: seen.append(batch["input_ids"]) or plain_loss(model, batch)
    monkeypatch.setattr(module, "process_count", lambda: n_process)
    for rank in range(n_process):
        monkeypatch.setattr(module, "process_rank", lambda rank=rank: rank)
        found.append(evaluate(model, objective, settings))
        asked.append(len(seen) - sum(asked))
    n_row = len(objective.batch(0, "validation")["input_ids"])
    told = "one that asks more often waits for ever; with --shard each pass needs the weights of all"
    assert {*asked} == {n_row if shard else math.ceil(n_row / n_process)}, told
    for name, value in expected.items():
        total = sum(one[name] for one in found)
        assert total == pytest.approx(value, rel=1e-5), f"{name}: a row counts in one process, not in several"


def test_evaluate_leaves_no_trace():
    model, objective = small.model("masked", dropout=0.5), small.objective("masked")
    plain_loss, graphs = objective.loss, []
    objective.loss = lambda model, batch: graphs.append(torch.is_grad_enabled()) or plain_loss(model, batch)
    for mode in (True, False):
        model.train(mode)
        random_state = torch.get_rng_state()
        evaluate(model, objective, small.settings())
        assert model.training is mode and model.encoder.training is mode, "the mode must be put back"
        assert torch.equal(torch.get_rng_state(), random_state), "it drew random numbers"
    assert all(p.grad is None for p in model.parameters())
    assert graphs and not any(graphs), "keeping what a gradient would need takes many times the memory"


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "fit"), [(6, 2, 3), (1, 1, 1), (5, 3, 1), (100, 1, 100)]
)
def test_evaluate_takes_as_many_rows_at_once_as_a_step(batch_size, accumulate, fit):
    objective, seen, asked = small.objective("causal"), [], []
    plain_loss, plain_batch = objective.loss, objective.batch
    objective.loss = lambda model, batch: seen.append(len(batch["labels"])) or plain_loss(model, batch)
    objective.batch = lambda *which: asked.append(which) or plain_batch(*which)
    n_row = len(plain_batch(0, "validation")["labels"])
    evaluate(small.model("causal"), objective, small.settings(batch_size=batch_size, accumulate=accumulate))
    assert asked == [(0, "validation")]
    assert sum(seen) == n_row > 3 and max(seen) <= fit, "more rows than a step has: too much memory"
    assert len(seen) == math.ceil(n_row / fit), "fewer rows than a step has: slower than necessary"
