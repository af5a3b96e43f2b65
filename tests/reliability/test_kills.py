"""Grades what a run leaves that is killed, at any moment or before any renaming of a file: all of it."""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from forked import end_of_fork
from reliability.runs import COMMANDS, assert_same_run, end, fork, has_traceback, start

no_windows = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
pytestmark = [no_windows, pytest.mark.forks]
SEED, SIGNALS = 11, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED, WHOLE = Path("stopped"), Path("whole")
RESULTS, SETTINGS = STOPPED / "results.json", STOPPED / "settings.json"
FEW_STEPS = dict(train="--steps 6", finetune="--steps 6", reinforce="--steps 2 --save-every 2 --no-contrast")


def next_part(command: str) -> str:
    """Return the command that a user gives after a kill."""
    if (STOPPED / "trainer.pt").exists():
        return f"{command.split()[0]} --resume --out {STOPPED}"
    return f"{command} --overwrite --out {STOPPED}"


def when_begun() -> int:
    """Return when a run last wrote its settings, which it does once the imports are over."""
    return SETTINGS.stat().st_mtime_ns if SETTINGS.exists() else 0


def check_end(command: str, code: int, told: str, number: int, is_begun: bool) -> str:
    """Return what is wrong with the end of a process that got a signal, if anything."""
    if has_traceback(command, told):
        return "a traceback"
    allowed = {-number} if number == signal.SIGKILL else {130} if is_begun else {130, -number}
    if RESULTS.exists():  # it came too late
        allowed |= {0, -number}
    if not is_begun and "Fatal Python error: init_import_site" in told:
        allowed |= {1}  # Python itself had not begun: no line of ours has run
    return "" if code in allowed else f"exit code {code}, expected one of {allowed}"


def run(command: str, home: Path, is_whole: bool, moment: float = 0.0, number: int = 0) -> tuple[int, str]:
    """Run a command, imports and all if it is to be whole; it may get a signal after so many seconds."""
    process = start(command, home, stderr=subprocess.STDOUT) if is_whole else fork(command, home)
    if number:
        time.sleep(moment)
        with suppress(ProcessLookupError):  # it is over
            os.kill(process.pid, number)
    return end(process)[:2] if is_whole else end_of_fork(process, home)


@pytest.mark.reliability
@pytest.mark.parametrize("is_whole, n", [(False, 10), (True, 2)])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_goes_on_from_any_moment_as_if_nothing_had_been(name, is_whole, n, home):
    draw, sent, command = random.Random(f"{SEED} {name}"), 0, f"{COMMANDS[name]} --out {WHOLE}"
    if not is_whole:  # the first fork waits for the imports: that is not its length
        run(COMMANDS[name], home, is_whole)
    began = time.monotonic()
    code, told = run(command, home, is_whole)
    length = time.monotonic() - began
    assert code == 0, told
    while sent < n:
        shutil.rmtree(STOPPED, ignore_errors=True)
        while sent < n and not RESULTS.exists():
            command, earlier = next_part(COMMANDS[name]), when_begun()
            number, moment = draw.choice(SIGNALS), draw.uniform(0, length)
            code, told = run(command, home, is_whole, moment, number)
            sent += 1
            wrong = check_end(command, code, told, number, when_begun() != earlier)
            assert not wrong, f"{command}: signal {number} after {moment:.2f} s, seed {SEED}: {wrong}\n{told}"
        code, told = run(next_part(COMMANDS[name]), home, is_whole)
        assert code == 0, told
        assert_same_run(STOPPED, WHOLE)
    print(f"{name}: {sent} signals, a run takes {length:.1f} s")


@pytest.mark.parametrize(
    "name, last",
    [("masked", 2), *(pytest.param(name, 999, marks=pytest.mark.reliability) for name in COMMANDS)],
)
def test_a_run_goes_on_from_a_kill_before_each_renaming_of_a_file(name, last, home):
    command = f"{COMMANDS[name]} {FEW_STEPS[COMMANDS[name].split('.')[0]]}"
    command = command if name == "dpo" else command.replace(" --dpo-steps 8", "")
    code, told = end_of_fork(fork(f"{command} --out {WHOLE}", home), home)
    assert code == 0, told
    for n in range(1, last + 1):
        shutil.rmtree(STOPPED, ignore_errors=True)
        code, told = end_of_fork(fork(f"{command} --out {STOPPED}", home, kill_at=n), home)
        if code == 0:
            break  # so many renamings there are
        assert code == -signal.SIGKILL, told
        code, told = run(next_part(command), home, is_whole=False)
        assert code == 0, f"killed before renaming {n}, then: {told}"
        assert_same_run(STOPPED, WHOLE)
    assert n > 1, "no file was written beside and renamed"
    print(f"{name}: killed before each of {n - 1} renamings")
