"""Grades plumbing/quiet.py, which every script imports first."""

import os
import runpy
import signal

import pytest

from minilm.plumbing import quiet


@pytest.mark.parametrize(
    ("before", "level"),
    [(dict(), None), (dict(RANK="0"), "ERROR"), (dict(RANK="1", TORCH_CPP_LOG_LEVEL="INFO"), "INFO")],
)
def test_ctrl_c_is_quiet_and_so_are_the_warnings_of_several_processes(before, level, monkeypatch):
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda *which: handlers.append(which))
    monkeypatch.setattr(os, "environ", before)
    runpy.run_path(quiet.__file__)
    assert handlers == [(signal.SIGINT, signal.SIG_DFL)], "Ctrl-C among the imports would print a traceback"
    told = "of several processes alone, and what the user has asked for stays"
    assert before.get("TORCH_CPP_LOG_LEVEL") == level, told
