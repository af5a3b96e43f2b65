"""Grades training/checkpoints.py: when to stop, and what is kept."""

import pytest
import small
import torch

from minilm.checkpoint import load_trainer
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.training import checkpoints
from minilm.training.checkpoints import EarlyStopping, Run
from minilm.training.loop import train


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


class Counting:
    """An objective whose update of a step is its own: it adds what it has counted to a weight."""

    shown, state = ("loss", "absent"), 1.0

    def __init__(self, fails_at: int | None = None):
        self.fails_at = fails_at

    def update(self, model, optimizer, settings, step):
        if step == self.fails_at:
            raise UserError("nothing to count")
        self.state *= 2
        with torch.no_grad():
            model.tokens.weight[0, 0] = self.state
        return dict(loss=self.state / 3, hidden=torch.tensor(0.5)), 1.5, 10, 0.25


def test_an_update_of_its_own_is_logged_told_and_goes_on(tmp_path, capsys):
    optimizer = lambda model: torch.optim.SGD(model.parameters(), lr=0.1)
    whole, part = small.model("causal"), small.model("causal")
    changes = dict(log_every=1, eval_every=2, save_every=2)
    outcome = train(whole, Counting(), small.settings(**changes), optimizer=optimizer(whole))
    assert outcome["after"]["loss"] == 64 / 3, "the metrics of the last step"
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert told == ["step     2  loss 1.333", "step     4  loss 5.333", "step     6  loss 21.333"]
    with pytest.raises(UserError, match="^step 4: nothing to count; .* keeps the last checkpoint$"):
        train(part, Counting(3), small.settings(**changes), tmp_path, optimizer=optimizer(part))
    assert load_trainer(tmp_path)["objective"] == 4.0
    settings = small.settings(resume=True, **changes)
    train(part, Counting(), settings, tmp_path, optimizer=optimizer(part))
    small.assert_equal(part.state_dict(), whole.state_dict())
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert (log[1]["loss"], log[1]["hidden"], log[1]["gradient_norm"]) == (4 / 3, 0.5, 1.5), (
        "floats or tensors"
    )
    capsys.readouterr()
    train(part, Counting(), settings, tmp_path, optimizer=optimizer(part))
    assert "step" not in capsys.readouterr().err, "of a finished run there is no step to tell of"
