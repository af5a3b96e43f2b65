"""Grades plumbing/first.py, which every script imports first."""

import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minilm.plumbing import first

ROOT = Path(__file__).parents[2]


def test_ctrl_c_is_quiet_among_the_imports(monkeypatch):
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda *which: handlers.append(which))
    runpy.run_path(first.__file__)
    assert handlers == [(signal.SIGINT, signal.SIG_DFL)], "Ctrl-C among the imports would print a traceback"


@pytest.mark.parametrize(("given", "expected"), [(None, "2000"), ("7", "7")])
def test_threads_that_wait_give_up_their_core(given, expected, monkeypatch):
    """PyTorch's library of threads is asked what it has read: when it is loaded, and never again."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    how = dict(capture_output=True, text=True, cwd=ROOT, env=os.environ | dict(OMP_DISPLAY_ENV="verbose"))
    told = subprocess.run([sys.executable, "extract.py", "--help"], check=True, **how).stderr
    found = re.findall(r"GOMP_SPINCOUNT = '(\w+)'", told)
    if not found:
        pytest.skip("this PyTorch has other threads than libgomp's")
    assert set(found) == {expected}, "set before PyTorch is imported, unless somebody has chosen"


@pytest.mark.parametrize("script", ["train", "extract", "finetune", "reinforce", "prompt"])
def test_each_script_imports_it_first(script):
    text = (ROOT / f"{script}.py").read_text(encoding="utf-8")
    assert re.search(r"^(?:import|from) (\S+)", text, re.MULTILINE)[1] == "minilm.plumbing.first"


def test_it_does_not_import_pytorch_itself():
    told = "import sys, minilm.plumbing.first; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], check=False, cwd=ROOT).returncode == 0
