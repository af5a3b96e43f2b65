"""Grades training/checkpoints.py: how a run begins and goes on, alone or as one of several processes."""

from types import SimpleNamespace

import pytest
import small
import torch

from minilm import checkpoint
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import append_log, read_log
from minilm.training import checkpoints, processes
from minilm.training.checkpoints import Run, load_trainer
from minilm.training.loop import make_optimizer, train, train_step

OWN_UPDATE = SimpleNamespace(update=lambda *given: None, shown=(), state=None)


def run_of(folder, objective=None, patience=0, **changes) -> Run:
    """Begin a run, or go on with one."""
    model = small.model("causal")
    given = model, objective or small.objective("causal"), make_optimizer(model, 0.1)
    return Run(*given, small.settings(**changes), folder, None, patience, None)


def test_a_run_begins_with_a_log_of_its_own_and_goes_on_with_what_it_knew(tmp_path):
    append_log(tmp_path, dict(step=7, split="train", loss=1.0))  # of a run that was killed before it saved
    run = run_of(tmp_path)
    (line,) = read_log(tmp_path)
    assert (line["step"], line["split"], line["loss"]) == (0, "validation", run.before["loss"])
    assert run.progress.earlier_seconds == 0 and (run.step, run.metrics) == (0, {})
    train(small.model("causal"), small.objective("causal"), small.settings(steps=2), tmp_path)
    log, state = read_log(tmp_path), load_trainer(tmp_path)
    again = run_of(tmp_path, resume=True, steps=4)
    assert read_log(tmp_path) == log, "what it began with was looked at before"
    assert (again.step, again.before) == (2, state["before"])
    assert again.progress.earlier_seconds == state["seconds"] > 0
    assert run_of(None, OWN_UPDATE).before is None, "an update of its own is measured as it goes"


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_run_in_a_folder_saves_its_start_once(tmp_path, monkeypatch, has_folder):
    saved, plain_save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda run: saved.append(run.step) or plain_save(run))
    for patience in (0, 2):
        for resume in (False, True):
            run_of(tmp_path if has_folder else None, patience=patience, resume=resume)
    assert saved == ([0, 0] if has_folder else []), "a run that goes on has one, a quiet one needs none"


def test_a_checkpoint_writes_the_trainer_state_first(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    train_step(run.model, run.objective, run.optimizer, run.settings, 0)
    run.step = 1
    monkeypatch.setattr(checkpoint, "write_tensors", lambda path, state: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.save()
    state = load_trainer(tmp_path)
    small.assert_equal(state.pop("model"), run.model.state_dict())
    moments = {name: dict(run.optimizer.state[p]) for name, p in run.model.named_parameters()}
    small.assert_equal(state.pop("optimizer"), moments)
    assert (state["step"], state["before"]) == (1, run.before) and state["seconds"] > 0


@pytest.mark.parametrize(("last", "kept"), [(1.0, 2.0), (3.0, 1.0)])
def test_the_last_step_is_looked_at_before_the_best_weights_are_put_back(last, kept, monkeypatch):
    monkeypatch.setattr(checkpoints, "evaluate", lambda *_: dict(loss=last))
    run = run_of(None, patience=3)
    weight = run.model.tokens.weight
    torch.nn.init.constant_(weight, 1.0)
    run.best.note(dict(loss=2.0), run.model)
    torch.nn.init.constant_(weight, 2.0)
    run.finish()
    assert (weight == kept).all(), f"loss {last} at the last step, 2.0 before"


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path, has_folder):
    folder = tmp_path / "my run" if has_folder else None
    (tmp_path / "my run").mkdir()
    run = run_of(folder)
    run.step = 4
    told = small.in_shell(f"stopped after step 4 of 6, saved; to go on: --resume --out '{folder}'")
    told = told if has_folder else ""  # of a quiet run a script says what it has kept before
    assert str(run.interrupted()) == told


@pytest.mark.parametrize("n_process", [1, 2])
def test_several_processes_share_the_steps_but_for_an_update_of_its_own(n_process, monkeypatch):
    shared = SimpleNamespace(update=None)
    monkeypatch.setattr(checkpoints, "process_count", lambda: n_process)
    monkeypatch.setattr(processes, "share", lambda model, *rest: (model, shared))
    run = run_of(None)
    assert run.several is (n_process > 1) and (run.objective is shared) == run.several
    assert not run_of(None, OWN_UPDATE).several, "all do it alike"


def test_of_what_is_shared_out_the_moments_are_cut_and_counts_of_steps_are_not(monkeypatch):
    cut = lambda value, mesh, placements: ("a part", mesh, placements)
    monkeypatch.setattr(torch.distributed.tensor, "distribute_tensor", cut)
    shards = dict(full_tensor=None, device_mesh="mesh", placements="rows")
    like = SimpleNamespace(shape=(3, 2), device="cpu", **shards)
    assert checkpoints.placed(torch.ones(3, 2), like) == ("a part", "mesh", "rows")
    assert torch.equal(checkpoints.placed(torch.tensor(7.0), like), torch.tensor(7.0))
    assert torch.equal(checkpoints.placed(torch.ones(3), torch.zeros(3)), torch.ones(3))


@pytest.mark.parametrize("error", [RuntimeError("the first line\nand a second"), MemoryError()])
def test_whatever_stops_the_reading_is_one_line(error, tmp_path, monkeypatch):
    def load(path, map_location, weights_only):
        assert weights_only, "a file of a stranger must not run his code"
        raise error

    checkpoints.save_trainer(tmp_path, dict(step=3, model={}))
    assert load_trainer(tmp_path) == dict(step=3, model={}), "that all is there `check_trainer` sees to"
    monkeypatch.setattr(torch, "load", load)
    reason = str(error).split("\n")[0] or "MemoryError"
    with pytest.raises(UserError, match=rf"damaged, or holds more than plain data \({reason}\); --overwrite"):
        load_trainer(tmp_path)
