"""Processes that have their imports behind them, which are most of a tiny run's time.

A server that has imported all forks each of them. The first of the two processes that run the tests has one:
tests with forks are marked so, and the second leaves them to it (two_at_once.py).
"""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
ENVIRONMENT = dict(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]), OMP_NUM_THREADS="1")
ENVIRONMENT["PYTHONFAULTHANDLER"] = "1"  # a crash in a library says where it was
IMPORTS = ["train", "finetune", "reinforce", "torch._dynamo", "minilm.training.processes", "reliability.runs"]


def start_fork(work, *words, folder: Path, **environment: str) -> BaseProcess:
    """Start `work(*words)`, a function of a module, in a folder; what it says is written to a file there."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTS)
    process = server.Process(target=_run, args=(work, words, folder, environment), daemon=True)
    with mock.patch.dict(os.environ, ENVIRONMENT):
        process.start()
    return process


def end_of_fork(process: BaseProcess, folder: Path, seconds: float = 120) -> tuple[int, str]:
    """Wait for such a process; return exit code, and all that it said."""
    process.join(seconds)
    process.kill()  # where it hangs
    process.join()
    told = folder / f"told-{process.pid}.txt"
    return process.exitcode, told.read_text(encoding="utf-8") if told.exists() else ""


def _run(work, words: tuple, folder: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    told = os.open(f"told-{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1), os.dup2(told, 2)
    work(*words)
