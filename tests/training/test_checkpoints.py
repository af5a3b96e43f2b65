"""Grades training/checkpoints.py: when to stop, and what is kept."""

import pytest
import small
import torch

from minilm.training import checkpoints
from minilm.training.checkpoints import EarlyStopping, Run


def test_early_stopping_counts_evaluations_without_a_new_lowest_loss():
    model, stopping, losses = small.model("causal"), EarlyStopping(2), [3.0, 2.0, 2.5, 1.5, 1.5, 1.6]
    times, best = [], None
    for loss in losses:
        with torch.no_grad():
            model.tokens.weight += 1.0
        stopping.note(dict(loss=loss), model)
        best = model.tokens.weight.clone() if loss == min(losses) and best is None else best
        times.append(stopping.is_time())
    assert times == [False, False, False, False, False, True]
    stopping.put_back(model)
    assert torch.equal(model.tokens.weight, best), "the best weights, not the last ones"
    never = EarlyStopping(0)
    for _ in range(5):
        never.note({}, model)
    assert not never.is_time()
    never.put_back(model)
    assert torch.equal(model.tokens.weight, best)


@pytest.mark.parametrize(("last", "kept"), [(1.0, 2.0), (3.0, 1.0)])
def test_the_last_step_is_looked_at_before_the_best_weights_are_put_back(last, kept, monkeypatch):
    monkeypatch.setattr(checkpoints, "evaluate", lambda *_: dict(loss=last))
    model, objective = small.model("causal"), small.objective("causal")
    run = Run(model, objective, None, small.settings(), None, None, 3, None)
    torch.nn.init.constant_(model.tokens.weight, 1.0)
    run.best.note(dict(loss=2.0), model)
    torch.nn.init.constant_(model.tokens.weight, 2.0)
    run.finish()
    assert (model.tokens.weight == kept).all(), f"loss {last} at the last step, 2.0 before"
