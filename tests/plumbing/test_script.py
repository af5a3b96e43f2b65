"""Grades plumbing/script.py: how a run begins and ends, whichever script it is of."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from minilm.plumbing.errors import UserError
from minilm.plumbing.script import begin, finish, read_command
from minilm.plumbing.settings import CommonSettings


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Of a script."""

    task: str = "count"  # what is done
    steps: int = 3  # how often
    resume: bool = False  # go on


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(monkeypatch, flags: str) -> tuple[dict, dict]:
    monkeypatch.setattr(sys, "argv", ["script.py", *flags.split()])
    return read_command(Settings, "A script.", lambda given: given.get("task", "count"))


def test_what_is_given_is_laid_over_the_run_that_goes_on(monkeypatch):
    assert command(monkeypatch, "--steps 5") == (dict(steps=5), {})
    folder = begin("count", Settings(steps=5, seed=2, overwrite=False))
    Path(folder, "trainer.pt").touch()
    given, overrides = command(monkeypatch, "--resume --steps 7")
    assert overrides == {} and Settings(**given) == Settings(steps=7, seed=2, resume=True, out="runs/count")
    with pytest.raises(UserError, match="in an unfinished runs/sort"):
        command(monkeypatch, "--resume --task sort")


def test_how_a_run_began_is_of_no_interest_when_it_goes_on(monkeypatch):
    begin("count", Settings(out="one"))
    begin("count", Settings(out="one", overwrite=True))
    Path("one/trainer.pt").touch()
    assert command(monkeypatch, "--resume --out one")[0]["overwrite"] is False


def test_of_several_processes_the_first_alone_makes_the_folder(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert begin("count", Settings(out="new")) == Path("new") and not Path("new").exists()
    monkeypatch.setenv("RANK", "0")
    assert begin("count", Settings(out="new")) == Path("new") and Path("new/settings.json").exists()
    with pytest.raises(UserError, match="--out new exists"):
        begin("count", Settings(out="new"))


def test_a_run_begins_with_its_command(capsys):
    folder = begin("count", Settings(steps=4), dict(d_model=8), "train.py")
    assert folder == Path("runs/count")
    saved = json.loads((folder / "settings.json").read_text())
    assert (saved["steps"], saved["d_model"]) == (4, 8)
    printed = capsys.readouterr().out
    assert printed.startswith("train.py --task count --steps 4") and "--d-model 8" in printed


def test_a_run_ends_with_its_table_its_figures_and_what_to_try_next(capsys):
    folder = begin("count", Settings(seed=3))
    capsys.readouterr()
    tables = [([("loss", 2.0, 0.5)], ("", "before", "after")), ([("share", 0.25)], ("", "now"))]
    finish(
        folder, Settings(seed=3), tables, ["An example."], dict(loss=0.5, floor=None), 61.4, "python more.py"
    )
    assert json.loads((folder / "results.json").read_text()) == dict(loss=0.5, seconds=61.4, seed=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and line[0] not in "-"] == [
        "      before  after",
        "loss   2.000  0.500",
        "         now",
        "share  0.250",
        "An example.",
        "Saved in runs/count (61 s).",
        "Next: python more.py",
    ]
