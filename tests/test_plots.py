"""Grades plots.py: what is drawn, and what is said where nothing can be."""

import importlib.util
import sys

import pytest

from minilm import plots
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import append_log


@pytest.fixture
def run(tmp_path):
    """A run folder with a log of two splits."""
    for step, loss in ((0, 7.0), (5, 6.0), (10, 5.5)):
        append_log(tmp_path, dict(step=step, split="validation", loss=loss))
    append_log(tmp_path, dict(step=5, split="train", loss=6.5))
    return tmp_path


def test_each_split_is_a_curve(run):
    assert plots.curves(run) == {"validation": ([0, 5, 10], [7.0, 6.0, 5.5]), "train": ([5], [6.5])}


def test_a_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no losses"):
        plots.curves(tmp_path)


def test_the_picture_is_in_the_first_folder(run, run_script):
    pytest.importorskip("matplotlib")
    code, out, _ = run_script(plots, str(run), str(run))
    assert code == 0
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in run.iterdir() if path.suffix == ".tmp"] == []
    assert f"Saved in {run / 'loss.png'}" in out


def test_without_matplotlib_the_extra_is_named(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["plots.py", str(run)])
    with pytest.raises(UserError, match=r"pip install -e '\.\[plots\]'"):
        plots.main()


def test_without_a_folder_the_command_is_named(run_script):
    code, _, err = run_script(plots)
    assert code == 2 and "python -m minilm.plots runs/masked" in err
