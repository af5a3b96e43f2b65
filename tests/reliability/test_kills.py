"""Grades what a run leaves that is killed, at any moment or before any renaming of a file: all of it."""

import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from reliability.runs import COMMANDS, assert_same_run, end, end_of_fork, fork, has_traceback, start

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
SEED, SIGNALS = 11, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WHOLE = Path("whole")
FEW_STEPS = dict(train="--steps 6", finetune="--steps 6", reinforce="--steps 2 --save-every 2 --no-contrast")


def each(*ordinary, marked: list) -> list:
    """Return cases: what belongs to the ordinary run, and all commands with each of the rest."""
    rest = [(name, *values) for values in marked for name in COMMANDS]
    return [("masked", *ordinary), *(pytest.param(*case, marks=pytest.mark.reliability) for case in rest)]


def next_part(command: str, folder: Path) -> str:
    """Return the command that a user gives after a kill."""
    if (folder / "trainer.pt").exists():
        return f"{command.split()[0]} --resume --out {folder}"
    return f"{command} --overwrite --out {folder}"


def when_begun(folder: Path) -> int:
    """Return when a run last wrote its settings, which it does once the imports are over."""
    path = folder / "settings.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def check_end(command: str, code: int, told: str, number: int, is_begun: bool, folder: Path) -> str:
    """Return what is wrong with the end of a process that got a signal, if anything."""
    if has_traceback(command, told):
        return "a traceback"
    allowed = {-number} if number == signal.SIGKILL else {130} if is_begun else {130, -number}
    if (folder / "results.json").exists():  # it came too late
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


@pytest.mark.parametrize("name, is_whole, n", each(False, 1, marked=[(False, 10), (True, 2)]))
def test_a_run_goes_on_from_any_moment_as_if_nothing_had_been(name, is_whole, n, home):
    if not is_whole:  # the first fork waits for the imports: that is not its length
        run(COMMANDS[name], home, is_whole)
    began = time.monotonic()
    code, told = run(f"{COMMANDS[name]} --out {WHOLE}", home, is_whole)
    length = time.monotonic() - began
    assert code == 0, told

    def chain(stopped: Path) -> None:
        """Send half of the signals to a run and to what goes on from it."""
        draw, sent = random.Random(f"{SEED} {name} {stopped}"), 0
        while sent < -(-n // 2):
            shutil.rmtree(stopped, ignore_errors=True)
            while sent < -(-n // 2) and not (stopped / "results.json").exists():
                command, earlier = next_part(COMMANDS[name], stopped), when_begun(stopped)
                number, moment = draw.choice(SIGNALS), draw.uniform(0, length)
                code, told = run(command, home, is_whole, moment, number)
                sent += 1
                wrong = check_end(command, code, told, number, when_begun(stopped) != earlier, stopped)
                when = f"{command}: signal {number} after {moment:.2f} s, seed {SEED}"
                assert not wrong, f"{when}: {wrong}\n{told}"
            code, told = run(next_part(COMMANDS[name], stopped), home, is_whole)
            assert code == 0, told
            assert_same_run(stopped, WHOLE)

    with ThreadPoolExecutor() as pool:  # two at a time, for two cores
        list(pool.map(chain, [Path(f"stopped-{i}") for i in range(min(n, 2))]))
    print(f"{name}: {n} signals, a run takes {length:.1f} s")


@pytest.mark.parametrize("name, last", each(2, marked=[(999,)]))
def test_a_run_goes_on_from_a_kill_before_each_renaming_of_a_file(name, last, home):
    command = f"{COMMANDS[name]} {FEW_STEPS[COMMANDS[name].split('.')[0]]}"
    code, told = end_of_fork(fork(f"{command} --out {WHOLE}", home), home)
    assert code == 0, told
    for n in range(1, last + 1, 2):  # two at a time, for two cores
        runs = {k: fork(f"{command} --out stopped-{k}", home, kill_at=k) for k in (n, n + 1)}
        ends = {k: end_of_fork(run, home) for k, run in runs.items()}
        killed = {k: Path(f"stopped-{k}") for k, (code, _) in ends.items() if code}
        assert all(ends[k][0] == -signal.SIGKILL for k in killed), ends
        runs = {k: fork(next_part(command, folder), home) for k, folder in killed.items()}
        for k, run in runs.items():
            code, told = end_of_fork(run, home)
            assert code == 0, f"killed before renaming {k}, then: {told}"
            assert_same_run(killed[k], WHOLE)
            shutil.rmtree(killed[k])
        if len(killed) < 2:
            break  # so many renamings there are
    last = n - 1 + len(killed)
    assert last > 0, "no file was written beside and renamed"
    print(f"{name}: killed before each of {last} renamings")
