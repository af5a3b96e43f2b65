"""Grades plumbing/progress.py: what a run tells a person and its log, and how it stops."""

import math

import pytest
import small
import torch

from minilm.plumbing import progress as report
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.plumbing.progress import Report


def test_a_report_measures_time_and_speed(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(report.time, "perf_counter", lambda: now)
    told = Report(tmp_path, small.settings(log_every=2), start=3, earlier_seconds=50.0)
    metrics, norm = dict(loss=torch.tensor(1.5)), torch.tensor(0.5)
    told.step(4, metrics, norm, 30, 0.1)
    now = 104.0
    assert told.seconds() == 54.0, "the time before an interruption counts"
    assert told.speed() == 7.5
    assert told.figures() == dict(seconds=54.0, tokens_per_second=7.5)
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
    told.close()


def test_evaluations_are_told_to_a_person(tmp_path, capsys):
    told = Report(tmp_path, small.settings(), start=0, earlier_seconds=0)
    told.evaluation(5, dict(loss=2.25, accuracy=0.5))
    told.close()
    assert "step     5  loss 2.250  accuracy 0.500" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.inf, 1.0), (math.nan, 1.0), (1.0, math.nan), (1.0, -math.inf)]
)
def test_loss_and_gradient_are_both_looked_at(loss, norm, tmp_path):
    told = Report(tmp_path, small.settings(), start=0, earlier_seconds=0)
    told.step(1, dict(loss=torch.tensor(1.0)), torch.tensor(1.0), 1, 0.1)
    with pytest.raises(UserError, match="at step 2;"):
        told.step(2, dict(loss=torch.tensor(loss)), torch.tensor(norm), 1, 0.1)
