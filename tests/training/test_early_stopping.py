"""Grades training/early_stopping.py: when to stop, and what is kept."""

import small
import torch

from minilm.training.early_stopping import EarlyStopping


def test_early_stopping_counts_evaluations_without_a_new_lowest_loss():
    model, stopping, losses = small.model("causal"), EarlyStopping(2), [3.0, 2.0, 2.5, 1.5, 1.5, 1.6]
    times, best = [], None
    for loss in losses:
        with torch.no_grad():
            model.tokens.weight += 1.0
        stopping.look(dict(loss=loss), model)
        best = model.tokens.weight.clone() if loss == min(losses) and best is None else best
        times.append(stopping.is_time())
    assert times == [False, False, False, False, False, True]
    stopping.put_back(model)
    assert torch.equal(model.tokens.weight, best), "the best weights, not the last ones"
    never = EarlyStopping(0)
    for _ in range(5):
        never.look({}, model)
    assert not never.is_time()
    never.put_back(model)
    assert torch.equal(model.tokens.weight, best)


def test_the_last_step_is_looked_at_before_the_best_weights_are_put_back():
    for last, expected in ((1.0, 2.0), (3.0, 1.0)):
        model, stopping = small.model("causal"), EarlyStopping(3)
        torch.nn.init.constant_(model.tokens.weight, 1.0)
        stopping.look(dict(loss=2.0), model)
        torch.nn.init.constant_(model.tokens.weight, 2.0)
        stopping.finish(dict(loss=last), model)
        assert (model.tokens.weight == expected).all(), f"loss {last} at the last step, 2.0 before"
