"""Grades plumbing/quiet.py, which every script imports first."""

import runpy
import signal

from minilm.plumbing import quiet


def test_ctrl_c_is_quiet_among_the_imports(monkeypatch):
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda *which: handlers.append(which))
    runpy.run_path(quiet.__file__)
    assert handlers == [(signal.SIGINT, signal.SIG_DFL)], "Ctrl-C among the imports would print a traceback"
