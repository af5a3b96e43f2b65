"""Grades training/checkpoints.py: what is told and kept of a run, and how it is stopped."""

import math
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import small
import torch

from minilm.checkpoint import load
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.tokenizer.bpe import BPE
from minilm.training import checkpoints
from minilm.training.checkpoints import EarlyStopping, Progress, load_trainer
from minilm.training.loop import stop_requests, train

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list:
    return [signal.getsignal(number) for number in SIGNALS]


def trained(folder, model=None, objective=None, tokenizer=None, patience=0, **changes) -> dict:
    """Train a model, or GPT's of seed 0, for some steps on the small text, and return what `train` does."""
    folder.mkdir(exist_ok=True)
    model, objective = model or small.model("causal"), objective or small.objective("causal")
    return train(model, objective, small.settings(**changes), folder, tokenizer, patience=patience)


def report(progress: Progress, step: int, loss=1.0, norm=1.0, n_token=1, lr=0.1) -> None:
    progress.step(step, dict(loss=torch.tensor(loss)), torch.tensor(norm), n_token, lr)


def test_early_stopping_counts_evaluations_without_a_new_lowest_loss():
    model, stopping, waits = small.model("causal"), EarlyStopping(2), []
    for i, loss in enumerate([3.0, 2.0, 2.5, 1.5, 1.5, 1.6]):
        torch.nn.init.constant_(model.tokens.weight, i)
        stopping.note(dict(loss=loss), model)
        waits.append(stopping.state["n_worse"])
    assert waits == [0, 0, 1, 0, 1, 2]
    assert (stopping.state["model"]["tokens.weight"] == 3).all(), "the best weights, not the last ones"
    never = EarlyStopping(0)
    never.note({}, model)
    assert never.state == EarlyStopping(0).state, "without patience nothing is kept"


def test_a_run_stops_and_keeps_its_best_weights(tmp_path, monkeypatch):
    losses, seen = iter([5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 3.0]), []  # before, steps 1 to 4, the last, the best

    def evaluate(model, *_):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return dict(loss=next(losses))

    monkeypatch.setattr(checkpoints, "evaluate", evaluate)
    model = small.model("causal")
    outcome = trained(tmp_path, model, patience=2, steps=9, eval_every=1)
    assert (outcome["steps"], outcome["after"]["loss"]) == (4, 3.0)
    small.assert_equal(dict(model.state_dict()), seen[2])
    state = load_trainer(tmp_path)
    assert state["step"] == 4 and state["stopping"]["loss"] == 3.0
    looks = [(line["step"], line["loss"]) for line in read_log(tmp_path) if line["split"] == "validation"]
    told = "of the last step the loss of the best weights alone"
    assert looks == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 3.5), (4, 3.0)], told


def test_a_resumed_run_remembers_what_was_best(tmp_path):
    how = dict(steps=8, eval_every=1, save_every=4, lr=3.0, patience=9)
    trained(tmp_path / "whole", **how)
    with pytest.raises(ZeroDivisionError):
        stopped = small.Disturbed(small.objective("causal"), 5, lambda: 1 / 0)
        trained(tmp_path / "parts", objective=stopped, **how)
    trained(tmp_path / "parts", resume=True, **how)
    whole, parts = (load_trainer(tmp_path / name) for name in ("whole", "parts"))
    assert whole["stopping"]["n_worse"] >= 4, "the test needs its best before the run was stopped"
    for name in ("stopping", "model"):
        small.assert_equal(parts[name], whole[name], f"{name}, with what was best before the run was stopped")


def test_a_run_with_patience_that_is_extended_goes_on_from_its_last_weights(tmp_path):
    how = dict(patience=99, eval_every=1, lr=0.3, schedule="constant", warmup=0)
    runs = ("whole", dict(steps=8)), ("parts", dict(steps=4)), ("parts", dict(steps=8, resume=True))
    for name, changes in runs:
        model = small.model("causal")
        trained(tmp_path / name, model, **how | changes)
        small.assert_equal(load(tmp_path / name)[0].state_dict(), model.state_dict(), "the best are kept")
    whole, parts = (load_trainer(tmp_path / name) for name in ("whole", "parts"))
    assert any((whole["model"][n] != p).any() for n, p in whole["stopping"]["model"].items()), "needs a rise"
    for name in ("stopping", "model", "optimizer"):
        small.assert_equal(parts[name], whole[name], "the moments are of the last weights, not of the best")


def test_a_run_goes_on_with_its_own_tokens_alone(tmp_path):
    trained(tmp_path, tokenizer=small.tokenizer())
    other = BPE.train(["other words"], small.tokenizer().vocab_size)
    with pytest.raises(UserError, match="the tokenizer has changed: give the model"):
        trained(tmp_path, tokenizer=other, resume=True)


def test_losses_on_other_texts_are_not_compared(tmp_path, capsys):
    """A run that goes on with other --data: what was lowest, and what was before, was so of other texts."""
    how = dict(patience=9, eval_every=1, lr=1e-9, log_every=1)
    trained(tmp_path, steps=3, **how)
    others = replace(small.corpus(), validation=small.documents(4, seed=77))
    for corpus, is_told in ((small.corpus(), False), (others, True)):
        objective = small.RaggedCausal(corpus, small.tokenizer(), small.CONTEXT, small.BATCH_SIZE)
        model, changes = small.model("causal", seed=5), how | dict(steps=5 + is_told, resume=True)
        outcome = trained(tmp_path, model, objective, **changes)
        looks = [line for line in read_log(tmp_path) if line["split"] == "validation"]
        said = "new validation set, so 'before' is step 5"
        assert (said in capsys.readouterr().err) == is_told
        assert looks[0]["step"] == (5 if is_told else 0), "the losses of other texts stand in the log"
        assert outcome["before"]["loss"] == pytest.approx(outcome["after"]["loss"], rel=1e-3), "two texts"
    kept = load_trainer(tmp_path)["stopping"]["loss"]
    assert kept == pytest.approx(outcome["after"]["loss"]), "the lowest loss is that of other texts"


def test_other_labels_of_the_same_texts_are_other_rows(tmp_path, capsys):
    trained(tmp_path)
    objective, batch = small.objective("causal"), small.RaggedCausal.batch

    def other(step, split):
        rows = batch(objective, step, split)
        return rows | dict(labels=rows["labels"].roll(1, 0))

    objective.batch = other
    trained(tmp_path, objective=objective, steps=7, resume=True)
    assert "new validation set" in capsys.readouterr().err, "the labels are compared with, not the texts"


def test_a_run_has_no_fewer_steps_than_it_has_made(tmp_path):
    trained(tmp_path, steps=6)
    with pytest.raises(UserError, match="has made 6 steps, more than the 5 asked for: give 6 or more"):
        trained(tmp_path, steps=5, resume=True)


class Counting:
    """An objective with its own `update`, which writes its count into a weight."""

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
    found = [log[1][name] for name in ("loss", "hidden", "gradient_norm")]
    assert found == [4 / 3, 0.5, 1.5], "floats or tensors"
    capsys.readouterr()
    train(part, Counting(), settings, tmp_path, optimizer=optimizer(part))
    assert "step" not in capsys.readouterr().err, "of a finished run there is no step to tell of"


def test_a_report_is_of_time_and_speed_each_few_steps_and_at_the_last(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now)
    told = Progress(tmp_path, small.settings(steps=6, log_every=4), 3, 50.0, None)
    assert told.tokens_per_second() == 0
    report(told, 4, n_token=30)
    now = 104.0
    assert told.seconds() == 54.0, "the time before an interruption counts"
    assert told.tokens_per_second() == 7.5
    report(told, 5, n_token=10, lr=0.2)
    report(told, 6, loss=1.5, norm=0.5, n_token=20, lr=0.3)
    first, second = read_log(tmp_path)
    assert (first["step"], second["step"]) == (4, 6), "a line each fourth step, and at the last"
    expected = dict(step=6, split="train", loss=1.5, lr=0.3, gradient_norm=0.5, tokens_per_second=15)
    assert second == expected
    told.bar.close()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_an_evaluation_is_told_to_a_person_and_a_loss_that_is_no_number_ends_the_run(loss, tmp_path, capsys):
    told = Progress(tmp_path, small.settings(lr=0.02), 0, 0.0, None)
    told.evaluation(5, dict(loss=2.25, accuracy=0.5))
    assert "step     5  loss 2.250  accuracy 0.500" in capsys.readouterr().err
    way_out = "nothing has been saved. Try a smaller --lr than 0.02, or a longer --warmup"
    with pytest.raises(UserError, match=f"the validation set is not finite after step 6; {way_out}"):
        told.evaluation(6, dict(loss=loss))


@pytest.mark.parametrize(("rank", "hidden"), [("0", None), ("1", True)])
def test_of_several_processes_the_first_has_a_bar(rank, hidden, monkeypatch, capsys):
    seen, bar = [], SimpleNamespace(write=print)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(checkpoints, "tqdm", lambda *a, **how: seen.append((a, how)) or bar)
    told = Progress(None, small.settings(steps=9), 4, 0.0, "from zero")
    expected = (None, "from zero", 9), dict(initial=4, disable=hidden, unit="step", ncols=100)
    assert seen == [expected], "at a terminal alone, of all steps, from where the run goes on"
    told.say(5, dict(loss=1.0))
    assert capsys.readouterr().err == ("" if hidden else "step     5  loss 1.000\n")


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.inf, 1.0), (math.nan, 1.0), (1.0, math.nan), (1.0, -math.inf)]
)
def test_loss_and_gradient_are_both_looked_at(loss, norm):
    told = Progress(None, small.settings(log_every=2), 0, 0.0, "from zero")
    report(told, 1)
    report(told, 2)  # without a folder there is no log to write it into
    with pytest.raises(UserError, match="at step 3; nothing has been saved. Try a smaller --lr"):
        report(told, 3, loss, norm)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_only_a_request(number):
    for _ in range(2):
        with stop_requests() as request:
            assert not request.stop, "a request to an earlier run stops this one"
            signal.raise_signal(number)
            assert request.stop


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_at_once_and_the_handlers_are_put_back(number):
    before = handlers()
    with pytest.raises(KeyboardInterrupt), stop_requests():
        assert handlers() != before
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(number)
        raise AssertionError("the second signal did not end the block")
    assert handlers() == before


def test_a_terminal_that_is_gone_ends_no_run(tmp_path, monkeypatch):
    told = Progress(tmp_path, SimpleNamespace(steps=9, lr=0.1), 0, 0.0, None)
    monkeypatch.setattr(told.bar, "write", Mock(side_effect=OSError(5, "Input/output error")))
    told.evaluation(5, dict(loss=1.0))
    assert read_log(tmp_path)[-1]["step"] == 5


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
@pytest.mark.parametrize("handler", [Mock(), signal.SIG_IGN])
def test_a_terminal_that_closes_is_a_request_unless_nohup_says_so(handler):
    earlier = signal.signal(signal.SIGHUP, handler)
    try:
        with stop_requests() as request:
            for _ in range(2):  # shells repeat it: the second must not cut the step in half
                signal.raise_signal(signal.SIGHUP)
            assert request.stop == (handler != signal.SIG_IGN)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_a_job_in_the_background_whose_shell_had_ctrl_c_ignored_can_be_stopped():
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            signal.raise_signal(signal.SIGINT)
            assert request.stop
    finally:
        signal.signal(signal.SIGINT, earlier)


def test_a_trainer_state_that_may_not_be_read_is_not_damaged(tmp_path, monkeypatch):
    (tmp_path / "trainer.pt").touch()
    monkeypatch.setattr("pathlib.Path.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError):  # not the advice to overwrite the run
        checkpoints.load_trainer(tmp_path)


def test_outside_the_main_thread_signals_are_left_alone():
    def work():
        with stop_requests() as request:
            return request.stop, handlers()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == (False, handlers())


def test_a_checkpoint_holds_plain_data_of_the_same_weights(tmp_path):
    model = small.model("causal")
    trained(tmp_path, model, steps=2)
    state = load_trainer(tmp_path)
    checkpoints.check_trainer(tmp_path, model)
    name, weight = next(iter(model.named_parameters()))
    weight.requires_grad_(False)
    told = f"{name!r} was trained in this run, and is not now: train the same weights"
    with pytest.raises(UserError, match=told):
        checkpoints.check_trainer(tmp_path, model)
    weight.requires_grad_(True)
    rest = {key: value for key, value in state["optimizer"].items() if key != name}
    for moments, told in (
        (rest, f"{name!r} was not trained in this run, and is now"),
        (rest | {(1, 2): {}}, "in this run"),  # and no TypeError: names of two kinds cannot be sorted
    ):
        checkpoints.save_trainer(tmp_path, state | dict(optimizer=moments))
        with pytest.raises(UserError, match=told):
            checkpoints.check_trainer(tmp_path, model)
    checkpoints.save_trainer(tmp_path, state | dict(optimizer=rest | {name: {}}))
    assert checkpoints.check_trainer(tmp_path, model)["step"] == 2, "a weight that rested has no moments"
    torch.save([1], tmp_path / "trainer.pt")
    with pytest.raises(UserError, match="not the state of a training run; --overwrite"):
        load_trainer(tmp_path)
    with pytest.raises(ValueError, match="holds plain data and tensors, not"):
        checkpoints.save_trainer(tmp_path, dict(step=1, model={}, other=small.settings()))
