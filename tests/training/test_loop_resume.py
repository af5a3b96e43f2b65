"""Grades training/loop.py: resuming, Ctrl-C, a loss that is not finite."""

import math
import signal
from pathlib import Path

import pytest
import small
import torch

from minilm.checkpoint import load
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.training import loop as training
from minilm.training.checkpoints import load_trainer, resume_from, save_trainer
from minilm.training.loop import make_optimizer, train, train_step

KINDS = pytest.mark.parametrize("kind", ["causal", "masked"])
TWENTY = dict(steps=20, save_every=4, log_every=3, eval_every=5)


class Killed(BaseException):
    """Stands for the moment at which a process dies."""


def run(kind: str, folder, step: int = -1, act=None, **changes) -> dict:
    """Train a model with dropout in a folder; `act` is called in the batch of a step (`small.Disturbed`)."""
    folder.mkdir(exist_ok=True)
    # A resumed run starts from other weights, so that what is not restored is seen.
    model = small.model(kind, dropout=0.3, seed=int(changes.get("resume", False)))
    objective = small.Disturbed(small.objective(kind), step, act)
    return train(model, objective, small.settings(**TWENTY | changes), folder, small.tokenizer())


def kill():
    raise Killed


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def assert_same_run(found: Path, expected: Path) -> None:
    """Compare all that two runs left, except what depends on the clock."""
    states = [load_trainer(folder) for folder in (found, expected)]
    logs = [read_log(folder) for folder in (found, expected)]
    for state, log in zip(states, logs, strict=True):
        del state["seconds"]
        for line in log:
            line.pop("tokens_per_second", None)
    small.assert_equal(states[0], states[1])
    small.assert_equal(logs[0], logs[1], "log")
    small.assert_equal(*(load(folder)[0].state_dict() for folder in (found, expected)), "model")


@KINDS
def test_twenty_steps_are_ten_and_a_save_and_ten(kind, tmp_path):
    whole = run(kind, tmp_path / "whole")
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt, match=f"after step 10 of 20, .*{parts.name}"):
        run(kind, parts, step=9, act=ctrl_c)
    state = load_trainer(parts)
    assert state["seconds"] > 0
    assert state["step"] == 10, "the checkpoint is of the step that was running, whole"
    assert all(state["optimizer"].values()), "the moments are missing"
    model, tokenizer = load(parts)
    small.assert_equal(model.state_dict(), state["model"])
    assert tokenizer.encode("Ana") == small.tokenizer().encode("Ana")
    resumed = run(kind, parts, resume=True)
    assert_same_run(parts, tmp_path / "whole")
    assert (resumed["before"], resumed["after"]) == (whole["before"], whole["after"])
    assert resumed["seconds"] > state["seconds"], "the seconds before the interruption count"


@pytest.mark.parametrize("step, kept", [(0, 0), (15, 12)])
def test_a_killed_run_goes_on_from_its_last_checkpoint(step, kept, tmp_path):
    whole = run("causal", tmp_path / "whole")
    with pytest.raises(Killed):
        run("causal", tmp_path / "killed", step=step, act=kill)
    state = load_trainer(tmp_path / "killed")
    assert state["step"] == kept, "every fourth step is kept, and the start before the first one"
    assert max(line["step"] for line in read_log(tmp_path / "killed")) == step, "the log goes further"
    small.assert_equal(load(tmp_path / "killed")[0].state_dict(), state["model"])
    if not step:
        small.assert_equal(state["model"], small.model("causal", dropout=0.3).state_dict())
    found = run("causal", tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert (found["before"], found["after"]) == (whole["before"], whole["after"])


def test_flags_given_at_resuming_win_over_the_checkpoint(tmp_path):
    run("causal", tmp_path, steps=4)
    model = small.model("causal", seed=1)
    optimizer = make_optimizer(model, 0.7)
    state, saved = resume_from(tmp_path, model, optimizer), load_trainer(tmp_path)
    assert state["step"] == 4
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.7, 0.0]
    small.assert_equal(model.state_dict(), saved["model"])
    moments = {name: dict(optimizer.state[p]) for name, p in model.named_parameters()}
    small.assert_equal(moments, saved["optimizer"])


def test_a_checkpoint_of_another_model_or_program_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no trainer\.pt"):
        run("causal", tmp_path, resume=True)
    run("masked", tmp_path, steps=1)
    with pytest.raises(UserError, match=r"trainer\.pt does not fit the model") as caught:
        run("causal", tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    save_trainer(tmp_path, {"step": 1, "model": small.model("causal").state_dict()})
    with pytest.raises(UserError, match=r"trainer\.pt: 'seconds' is missing"):
        run("causal", tmp_path, resume=True)
    whole = (tmp_path / "trainer.pt").read_bytes()
    (tmp_path / "trainer.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"trainer\.pt: damaged"):
        run("causal", tmp_path, resume=True)


def test_the_second_ctrl_c_ends_at_once(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run("causal", tmp_path, step=6, act=lambda: ctrl_c() or ctrl_c())
    told = "the second one ends the step that is running; the checkpoint before it is kept"
    assert load_trainer(tmp_path)["step"] == 4, told
    assert signal.getsignal(signal.SIGINT) is handler, "put the earlier handlers back, however the block ends"


def test_ctrl_c_in_the_last_step_keeps_all_and_nothing_is_begun_after_it(tmp_path):
    whole = run("causal", tmp_path / "whole", steps=5)
    with pytest.raises(KeyboardInterrupt, match="after step 5 of 5, saved"):  # a comparison would follow
        run("causal", tmp_path / "stopped", steps=5, step=4, act=ctrl_c)
    outcome = run("causal", tmp_path / "stopped", steps=5, step=5, act=kill, resume=True)
    assert (outcome["before"], outcome["after"]) == (whole["before"], whole["after"])


def test_results_of_fewer_steps_do_not_outlive_a_run_that_goes_on(tmp_path):
    run("causal", tmp_path, steps=2)
    (tmp_path / "results.json").write_text("{}")  # which says that a run is finished
    with pytest.raises(KeyboardInterrupt):
        run("causal", tmp_path, steps=9, step=3, act=ctrl_c, resume=True)
    assert not (tmp_path / "results.json").exists(), "--resume would pass it over, a later regime take it"


@KINDS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(kind, value, tmp_path):
    wanted = r"not finite at step 7; .* keeps the last checkpoint\. .*--lr"
    with pytest.raises(UserError, match=wanted) as caught:
        run(kind, tmp_path, step=6, act=lambda: value, log_every=1, save_every=2)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert load_trainer(tmp_path)["step"] == 6, "nothing is saved from the bad step on"
    assert all(torch.isfinite(value).all() for value in load(tmp_path)[0].state_dict().values())
    assert read_log(tmp_path)[-1]["step"] == 6
    assert all(math.isfinite(line["loss"]) for line in read_log(tmp_path))


def test_without_a_checkpoint_the_message_does_not_promise_one(tmp_path):
    model = small.model("causal")
    model.tokens.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match="not finite after step 0; nothing has been saved"):
        train(model, small.objective("causal"), small.settings(**TWENTY), tmp_path, small.tokenizer())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"log.jsonl", "config.json", "tokenizer.json"}, "all that a model is but its weights"


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_an_infinite_gradient_of_a_finite_loss_stops_the_run(clip, tmp_path):
    objective, calls = small.objective("causal"), []
    plain_loss = objective.loss

    def steep(model, batch):
        loss, metrics = plain_loss(model, batch)
        if model.training:
            calls.append(1)
        weight = model.tokens.weight[3, 2]
        at_zero = (weight - weight.detach()).sqrt()  # 0, where the root's slope is infinite
        return loss + (at_zero if len(calls) == 4 else 0.0), metrics

    objective.loss = steep
    with pytest.raises(UserError, match="at step 4"):
        train(small.model("causal"), objective, small.settings(save_every=3, clip=clip), tmp_path)
    assert load_trainer(tmp_path)["step"] == 3
    assert len(calls) == 4, "it did not stop at once"


def test_weights_that_explode_in_the_last_step_are_not_saved(tmp_path):
    with pytest.raises(UserError, match="validation set is not finite after step 1; .* the last checkpoint"):
        run("causal", tmp_path, steps=1, lr=1e38, warmup=0)
    assert load_trainer(tmp_path)["step"] == 0, "that of the start"


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    device = torch.device("cuda")


@pytest.mark.parametrize("due", ["log_every", "save_every", "eval_every"])
def test_on_a_gpu_the_first_bad_step_is_remembered_until_the_loss_is_read(due, tmp_path, monkeypatch):
    done = []

    def step_on_gpu(model, objective, optimizer, settings, step):
        metrics, norm, *rest = train_step(model, objective, optimizer, settings, step)
        done.append(step + 1)
        return metrics, norm.as_subclass(OnGpu), *rest

    monkeypatch.setattr(training, "train_step", step_on_gpu)
    rare = dict(log_every=100, save_every=100, eval_every=100) | {due: 4}
    with pytest.raises(UserError, match="at step 6; .*"):
        run("causal", tmp_path, step=5, act=lambda: math.nan, **rare)
    told = "the loss is read after each 4th step, counted from 1, here 8: reading each makes the GPU wait"
    assert done[-1] == 8, told
    assert all(line["step"] <= 4 and math.isfinite(line["loss"]) for line in read_log(tmp_path))
    if due == "save_every":
        assert load_trainer(tmp_path)["step"] == 4


@pytest.mark.parametrize("fused, where", [(True, "meta"), (None, "cpu")])
def test_steps_are_counted_where_the_optimizer_reads_them(fused, where, tmp_path):
    run("causal", tmp_path, steps=2)
    model = small.model("causal").to("meta")  # stands for a GPU
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    resume_from(tmp_path, model, optimizer)
    assert len(optimizer.state) == len(list(model.parameters()))
    for state in optimizer.state.values():
        assert state["step"].device.type == where, "a GPU is waited for at each weight, or Adam refuses it"
        assert state["exp_avg"].device.type == "meta"
