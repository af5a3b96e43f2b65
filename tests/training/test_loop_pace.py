"""Grades training/loop.py: a rate and a first step for each weight, and a run that stops early."""

import math

import pytest
import small
import torch

from minilm.checkpoint import load_trainer
from minilm.plumbing.folders import read_log
from minilm.training import checkpoints
from minilm.training.checkpoints import EarlyStopping
from minilm.training.loop import learning_rate, make_optimizer, train, train_step


def halves(name: str) -> tuple[float, int]:
    """Biases at half the rate; the embeddings from step 2 on."""
    return (0.5 if name.endswith("bias") else 1.0), (2 if name.startswith("tokens") else 0)


def test_every_moving_weight_is_in_one_group_with_its_share():
    model = small.model("causal")
    optimizer = make_optimizer(model, 0.3, halves)
    held = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(held) == sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        group = held[id(p)]
        assert (group["share"], group["first_step"]) == halves(name)
        assert group["weight_decay"] == (0.3 if p.dim() >= 2 else 0.0)


def test_a_step_has_the_rate_of_each_group():
    model, settings = small.model("causal"), small.settings()
    optimizer = make_optimizer(model, 0.3, halves)
    for step in (0, 1, 2):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train_step(model, small.objective("causal"), optimizer, settings, step)
        rate = learning_rate(step, settings)
        for group in optimizer.param_groups:
            rests = step < group["first_step"]
            assert group["lr"] == (0.0 if rests else pytest.approx(rate * group["share"]))
        moved = not torch.equal(model.tokens.weight, before["tokens.weight"])
        assert moved == (step == 2), "a weight that rests must not decay either"


def test_without_a_pace_all_learn_at_the_one_rate():
    for group in make_optimizer(small.model("causal"), 0.1).param_groups:
        assert (group["share"], group["first_step"]) == (1.0, 0)


def test_a_run_stops_and_keeps_its_best_weights(tmp_path, monkeypatch):
    validation = iter([5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 3.0])  # before, steps 1 to 4, at the end, of the best
    monkeypatch.setattr(checkpoints, "evaluate", lambda *_: dict(loss=next(validation)))
    model, kept = small.model("causal"), []
    note = EarlyStopping.note

    def noting(self, metrics, model):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        note(self, metrics, model)

    monkeypatch.setattr(EarlyStopping, "note", noting)
    settings = small.settings(steps=9, eval_every=1)
    outcome = train(model, small.objective("causal"), settings, tmp_path, patience=2)
    assert (outcome["steps"], outcome["after"]["loss"]) == (4, 3.0)
    small.assert_equal(dict(model.state_dict()), kept[1])
    state = load_trainer(tmp_path)
    assert state["step"] == 4 and state["stopping"]["loss"] == 3.0
    assert [line["loss"] for line in read_log(tmp_path) if line["split"] == "validation"][-1] == 3.0


def test_a_resumed_run_remembers_what_was_best(tmp_path):
    for name, patience in (("whole", 3), ("parts", 3)):
        (tmp_path / name).mkdir()
        settings = small.settings(steps=8, eval_every=1, save_every=4, lr=0.3)
        objective = small.objective("causal")
        if name == "parts":
            stopped = small.Disturbed(objective, 5, lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                train(small.model("causal"), stopped, settings, tmp_path / name, patience=patience)
            settings = small.settings(steps=8, eval_every=1, save_every=4, lr=0.3, resume=True)
        train(small.model("causal"), objective, settings, tmp_path / name, patience=patience)
    whole, parts = (load_trainer(tmp_path / name) for name in ("whole", "parts"))
    assert math.isfinite(whole["stopping"]["loss"])
    small.assert_equal(parts["stopping"], whole["stopping"])
    small.assert_equal(parts["model"], whole["model"])
