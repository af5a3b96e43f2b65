"""Grades training/checkpoints.py: what a run tells a person and its log, and how it stops."""

import math
import signal
import threading

import pytest
import small
import torch

from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.training import checkpoints as report
from minilm.training.checkpoints import Progress, ctrl_c_as_a_wish

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def test_a_report_measures_time_and_speed(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(report.time, "perf_counter", lambda: now)
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
    assert second == dict(
        step=6,
        split="train",
        loss=1.5,
        lr=0.3,
        gradient_norm=0.5,
        tokens_per_second=15,
    )
    told.bar.close()


def test_evaluations_are_told_to_a_person(tmp_path, capsys):
    told = Progress(tmp_path, small.settings(), 0, 0.0, None)
    told.evaluation(5, dict(loss=2.25, accuracy=0.5))
    told.bar.close()
    assert "step     5  loss 2.250  accuracy 0.500" in capsys.readouterr().err


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
    with pytest.raises(UserError, match="at step 2; nothing was being saved. Try a smaller --lr"):
        told.step(2, dict(loss=torch.tensor(math.nan)), torch.tensor(1.0), 1, 0.1)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_notes_the_wish(number):
    with ctrl_c_as_a_wish() as wish:
        assert not wish.stop
        signal.raise_signal(number)
        assert wish.stop


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_at_once(number):
    with pytest.raises(KeyboardInterrupt), ctrl_c_as_a_wish():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(number)
        raise AssertionError("the second signal did not end the block")


def test_the_handlers_are_put_back_however_the_block_ends():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with ctrl_c_as_a_wish():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    with pytest.raises(ZeroDivisionError), ctrl_c_as_a_wish():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_each_block_has_its_own_wish():
    with ctrl_c_as_a_wish():
        signal.raise_signal(signal.SIGINT)
    with ctrl_c_as_a_wish() as wish:
        assert not wish.stop, "the wish of an earlier run stops this one"


def test_outside_the_main_thread_signals_are_left_alone():
    handlers, seen = [signal.getsignal(number) for number in SIGNALS], []

    def work():
        with ctrl_c_as_a_wish() as wish:
            seen.append((wish.stop, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers)]
