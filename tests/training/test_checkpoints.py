"""Grades training/checkpoints.py: what is told and kept of a run, and how it is stopped."""

import math
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import small
import torch

from minilm.checkpoint import load
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.tokenizer.bpe import BPE
from minilm.training import checkpoints
from minilm.training.checkpoints import EarlyStopping, Progress, Run, load_trainer
from minilm.training.loop import make_optimizer, stop_requests, train

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def test_early_stopping_counts_evaluations_without_a_new_lowest_loss():
    model, stopping, losses = small.model("causal"), EarlyStopping(2), [3.0, 2.0, 2.5, 1.5, 1.5, 1.6]
    waits, best = [], None
    for loss in losses:
        with torch.no_grad():
            model.tokens.weight += 1.0
        stopping.note(dict(loss=loss), model)
        best = model.tokens.weight.clone() if loss == min(losses) and best is None else best
        waits.append(stopping.state["n_worse"])
    assert waits == [0, 0, 1, 0, 1, 2]
    assert torch.equal(stopping.state["model"]["tokens.weight"], best), "the best weights, not the last ones"
    never = EarlyStopping(0)
    for _ in range(5):
        never.note({}, model)
    assert never.state == EarlyStopping(0).state, "without patience nothing is kept"


@pytest.mark.parametrize(("last", "kept"), [(1.0, 2.0), (3.0, 1.0)])
def test_the_last_step_is_looked_at_before_the_best_weights_are_put_back(last, kept, monkeypatch):
    monkeypatch.setattr(checkpoints, "evaluate", lambda *_: dict(loss=last))
    model, objective = small.model("causal"), small.objective("causal")
    optimizer = make_optimizer(model, 0.0)
    run = Run(model, objective, optimizer, small.settings(), None, None, 3, None)
    torch.nn.init.constant_(model.tokens.weight, 1.0)
    run.best.note(dict(loss=2.0), model)
    torch.nn.init.constant_(model.tokens.weight, 2.0)
    run.finish()
    assert (model.tokens.weight == kept).all(), f"loss {last} at the last step, 2.0 before"


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
    looks = [(line["step"], line["loss"]) for line in read_log(tmp_path) if line["split"] == "validation"]
    assert looks == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 3.5), (4, 3.0)], (
        "of the last step the best weights' alone"
    )


def test_a_resumed_run_remembers_what_was_best(tmp_path):
    for name, changes in (("whole", {}), ("parts", dict(resume=True))):
        (tmp_path / name).mkdir()
        settings = dict(steps=8, eval_every=1, save_every=4, lr=3.0)
        objective, how = small.objective("causal"), dict(patience=9)
        if changes:
            stopped = small.Disturbed(objective, 5, lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                train(small.model("causal"), stopped, small.settings(**settings), tmp_path / name, **how)
        train(small.model("causal"), objective, small.settings(**settings | changes), tmp_path / name, **how)
    whole, parts = (load_trainer(tmp_path / name) for name in ("whole", "parts"))
    assert whole["stopping"]["n_worse"] >= 4, "the test needs its best before the run was stopped"
    for name in ("stopping", "model"):
        small.assert_equal(parts[name], whole[name], f"{name}, with what was best before the run was stopped")


def test_a_run_with_patience_that_is_extended_goes_on_from_its_last_weights(tmp_path):
    how = dict(eval_every=1, lr=0.3, schedule="constant", warmup=0)
    for name, more in (("whole", [dict(steps=8)]), ("parts", [dict(steps=4), dict(steps=8, resume=True)])):
        (tmp_path / name).mkdir()
        for changes in more:
            model, settings = small.model("causal"), small.settings(**how | changes)
            train(model, small.objective("causal"), settings, tmp_path / name, patience=99)
            small.assert_equal(load(tmp_path / name)[0].state_dict(), model.state_dict(), "the best are kept")
    whole, parts = (load_trainer(tmp_path / name) for name in ("whole", "parts"))
    assert any((whole["model"][n] != p).any() for n, p in whole["stopping"]["model"].items()), "needs a rise"
    for name in ("stopping", "model", "optimizer"):
        small.assert_equal(parts[name], whole[name], "the moments are of the last weights, not of the best")


def test_a_run_goes_on_with_its_own_tokens_alone(tmp_path):
    train(small.model("causal"), small.objective("causal"), small.settings(), tmp_path, small.tokenizer())
    other, settings = BPE.train(["other words"], small.tokenizer().vocab_size), small.settings(resume=True)
    with pytest.raises(UserError, match="the tokenizer has changed: give the model"):
        train(small.model("causal"), small.objective("causal"), settings, tmp_path, other)


def test_losses_on_other_texts_are_not_compared(tmp_path, capsys):
    """A run that goes on with other --data: what was lowest, and what was before, was so of other texts."""
    how = dict(eval_every=1, lr=1e-9, log_every=1)
    train(
        small.model("causal"), small.objective("causal"), small.settings(**how, steps=3), tmp_path, patience=9
    )
    for texts, is_told in ((None, False), (small.documents(4, seed=77), True)):
        objective, model = small.objective("causal"), small.model("causal", seed=5)
        if texts:
            corpus = replace(small.corpus(), validation=texts)
            objective = type(objective)(corpus, small.tokenizer(), small.CONTEXT, small.BATCH_SIZE)
        settings = small.settings(**how, steps=5 + is_told, resume=True)
        outcome = train(model, objective, settings, tmp_path, patience=9)
        looks = [line for line in read_log(tmp_path) if line["split"] == "validation"]
        said = "new validation set, so 'before' is step 5"
        assert (said in capsys.readouterr().err) == is_told
        assert looks[0]["step"] == (5 if is_told else 0), "the losses of other texts stand in the log"
        assert outcome["before"]["loss"] == pytest.approx(outcome["after"]["loss"], rel=1e-3), "two texts"
    kept = load_trainer(tmp_path)["stopping"]["loss"]
    assert kept == pytest.approx(outcome["after"]["loss"]), "the lowest loss is that of other texts"


def test_other_labels_of_the_same_texts_are_other_rows(tmp_path, capsys):
    train(small.model("causal"), small.objective("causal"), small.settings(), tmp_path)
    objective, batch = small.objective("causal"), small.RaggedCausal.batch

    def other(step, split):
        rows = batch(objective, step, split)
        return rows | dict(labels=rows["labels"].roll(1, 0))

    objective.batch = other
    train(small.model("causal"), objective, small.settings(steps=7, resume=True), tmp_path)
    assert "new validation set" in capsys.readouterr().err, "the labels are compared with, not the texts"


def test_moments_of_names_of_two_kinds_are_one_line(tmp_path):
    model = small.model("causal")
    train(model, small.objective("causal"), small.settings(), tmp_path)
    state = load_trainer(tmp_path)
    del state["optimizer"]["tokens.weight"]
    checkpoints.save_trainer(tmp_path, state | dict(optimizer=state["optimizer"] | {(1, 2): {}}))
    with pytest.raises(UserError, match="trainer.pt: .* in this run"):  # and no TypeError of sorted
        checkpoints.check_trainer(tmp_path, model)


def test_a_run_has_no_fewer_steps_than_it_has_made(tmp_path):
    train(small.model("causal"), small.objective("causal"), small.settings(), tmp_path)
    with pytest.raises(UserError, match="has made 6 steps: give --steps 6 or more"):
        settings = small.settings(steps=5, resume=True)
        train(small.model("causal"), small.objective("causal"), settings, tmp_path)


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_run_in_a_folder_saves_its_start_once(tmp_path, monkeypatch, has_folder):
    model, objective, saved = small.model("causal"), small.objective("causal"), []
    plain_save = Run.save
    monkeypatch.setattr(Run, "save", lambda run: saved.append(run.step) or plain_save(run))
    for patience in (0, 2):
        for resume in (False, True):
            how = small.settings(resume=resume), tmp_path if has_folder else None, None, patience, None
            Run(model, objective, make_optimizer(model, 0.1), *how)
    assert saved == ([0, 0] if has_folder else []), "a run that goes on has one, a quiet one needs none"


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path, has_folder):
    (tmp_path / "my run").mkdir()
    folder = tmp_path / "my run" if has_folder else None
    model = small.model("causal")
    begun = make_optimizer(model, 0.1), small.settings(), folder, None, 0, None
    run = Run(model, small.objective("causal"), *begun)
    run.step = 4
    told = f"stopped after step 4 of 6, saved; to go on: --resume --out '{folder}'" if has_folder else ""
    told = small.in_shell(told)
    assert str(run.interrupted()) == told, "of a quiet run a script says what it has kept before"


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
    assert (log[1]["loss"], log[1]["hidden"], log[1]["gradient_norm"]) == (4 / 3, 0.5, 1.5), (
        "floats or tensors"
    )
    capsys.readouterr()
    train(part, Counting(), settings, tmp_path, optimizer=optimizer(part))
    assert "step" not in capsys.readouterr().err, "of a finished run there is no step to tell of"


def test_a_report_measures_time_and_speed(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now)
    told = Progress(tmp_path, small.settings(log_every=2), 3, 50.0, None)
    metrics, norm = dict(loss=torch.tensor(1.5)), torch.tensor(0.5)
    told.step(4, metrics, norm, 30, 0.1)
    now = 104.0
    assert told.seconds() == 54.0, "the time before an interruption counts"
    assert told.tokens_per_second() == 7.5
    told.step(5, metrics, norm, 10, 0.2)
    told.step(6, metrics, norm, 20, 0.3)
    first, second = read_log(tmp_path)
    assert (first["step"], second["step"]) == (4, 6), "a log line every second step"
    expected = dict(step=6, split="train", loss=1.5, lr=0.3, gradient_norm=0.5, tokens_per_second=15)
    assert second == expected
    told.bar.close()


def test_evaluations_are_told_to_a_person(tmp_path, capsys):
    told = Progress(tmp_path, small.settings(), 0, 0.0, None)
    told.evaluation(5, dict(loss=2.25, accuracy=0.5))
    told.bar.close()
    assert "step     5  loss 2.250  accuracy 0.500" in capsys.readouterr().err


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_no_number_ends_the_run(loss, tmp_path):
    told = Progress(tmp_path, small.settings(lr=0.02), 0, 0.0, None)
    way_out = "nothing has been saved. Try a smaller --lr than 0.02, or a longer --warmup"
    with pytest.raises(UserError, match=f"the validation set is not finite after step 5; {way_out}"):
        told.evaluation(5, dict(loss=loss))


@pytest.mark.parametrize(("rank", "hidden"), [("0", None), ("1", True)])
def test_of_several_processes_the_first_has_a_bar(rank, hidden, monkeypatch, capsys):
    seen = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(
        checkpoints, "tqdm", lambda *a, **how: seen.append((a, how)) or SimpleNamespace(write=print)
    )
    told = Progress(None, small.settings(steps=9), 4, 0.0, "from zero")
    expected = (None, "from zero", 9), dict(initial=4, disable=hidden, unit="step", ncols=100)
    assert seen == [expected], "at a terminal alone, of all steps, from where the run goes on"
    told.say(5, dict(loss=1.0))
    assert capsys.readouterr().err == ("" if hidden else "step     5  loss 1.000\n")


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.inf, 1.0), (math.nan, 1.0), (1.0, math.nan), (1.0, -math.inf)]
)
def test_loss_and_gradient_are_both_looked_at(loss, norm, tmp_path):
    told = Progress(tmp_path, small.settings(), 0, 0.0, None)
    told.step(1, dict(loss=torch.tensor(1.0)), torch.tensor(1.0), 1, 0.1)
    with pytest.raises(UserError, match="at step 2;"):
        told.step(2, dict(loss=torch.tensor(loss)), torch.tensor(norm), 1, 0.1)


def test_without_a_folder_nothing_is_kept_or_lost(capsys):
    told = Progress(None, small.settings(log_every=1), 0, 0.0, "from zero")
    told.step(1, dict(loss=torch.tensor(1.0)), torch.tensor(1.0), 1, 0.1)
    with pytest.raises(UserError, match="at step 2; nothing has been saved. Try a smaller --lr"):
        told.step(2, dict(loss=torch.tensor(math.nan)), torch.tensor(1.0), 1, 0.1)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_only_a_request(number):
    for _ in range(2):
        with stop_requests() as request:
            assert not request.stop, "a request to an earlier run stops this one"
            signal.raise_signal(number)
            assert request.stop


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_at_once(number):
    with pytest.raises(KeyboardInterrupt), stop_requests():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(number)
        raise AssertionError("the second signal did not end the block")


def test_the_handlers_are_put_back_however_the_block_ends():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), stop_requests():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_outside_the_main_thread_signals_are_left_alone():
    handlers, seen = [signal.getsignal(number) for number in SIGNALS], []

    def work():
        with stop_requests() as request:
            seen.append((request.stop, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers)]


def test_a_checkpoint_holds_plain_data_of_the_same_weights(tmp_path):
    model, objective = small.model("causal"), small.objective("causal")
    train(model, objective, small.settings(steps=2), tmp_path, small.tokenizer())
    state = load_trainer(tmp_path)
    checkpoints.check_trainer(tmp_path, model)
    name, weight = next(iter(model.named_parameters()))
    weight.requires_grad_(False)
    with pytest.raises(
        UserError, match=f"{name!r} was trained in this run, and is not now: train the same weights"
    ):
        checkpoints.check_trainer(tmp_path, model)
    weight.requires_grad_(True)
    rest = {key: value for key, value in state["optimizer"].items() if key != name}
    checkpoints.save_trainer(tmp_path, state | dict(optimizer=rest))
    with pytest.raises(UserError, match=f"{name!r} was not trained in this run, and is now"):
        checkpoints.check_trainer(tmp_path, model)
    checkpoints.save_trainer(tmp_path, state | dict(optimizer=rest | {name: {}}))
    assert checkpoints.check_trainer(tmp_path, model)["step"] == 2, "a weight that rested has no moments"
    torch.save([1], tmp_path / "trainer.pt")
    with pytest.raises(UserError, match="not the state of a training run; --overwrite"):
        load_trainer(tmp_path)
    with pytest.raises(ValueError, match="holds plain data and tensors, not"):
        checkpoints.save_trainer(tmp_path, dict(step=1, model={}, other=small.settings()))


def test_a_report_is_of_the_parts_turn_and_of_the_last_step(tmp_path):
    told = Progress(tmp_path, small.settings(log_every=3, steps=5), 0, 0.0, None)
    for step in range(1, 6):
        told.step(step, dict(loss=torch.tensor(1.0)), torch.tensor(1.0), 7, 0.1)
    assert [line["step"] for line in read_log(tmp_path)] == [3, 5] and told.n_token == 35
    told.bar.close()
    fresh = Progress(None, small.settings(), 0, 12.0, None)
    assert 12 <= fresh.seconds() < 13 and fresh.tokens_per_second() == 0
    fresh.bar.close()
