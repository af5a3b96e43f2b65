"""Exercises: a function is emptied, you write it again, and its tests say in one sentence what is wrong.

python -m minilm.exercises list | start NAME | hint NAME | check NAME | solution NAME | restore NAME|--all
"""

import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .plumbing.errors import UserError, as_line, suggest
from .plumbing.folders import atomic_write

ROOT = Path(__file__).parents[1]
# Signature and docstring, then all lines indented further. A regex, as an attempt may not be valid Python.
FUNCTION = r'(?P<head>^(?P<indent> *)def {}\((?:.*\n)*?.*:(?:  #.*)?\n *"""(?:.*\n)*?.*"""\n)'
FUNCTION += r"(?P<body>(?:(?:[ \t]*\n| *#.*\n)*(?P=indent)[ \t]+\S.*\n?)*)"
# A test that takes longer than 8 seconds is stopped, and the line that was running is printed (pytest 9).
PYTEST = [sys.executable, "-X", "utf8", "-m", "pytest", "-x", "--tb=native", "-o", "faulthandler_timeout=8"]
PYTEST += ["-o", "faulthandler_exit_on_timeout=true", "-k"]


class Exercise(NamedTuple):
    """A function to write."""

    level: int  # 1 a line or two, 2 an idea, 3 several ideas
    function: str  # FILE:NAME or FILE:CLASS.NAME below minilm/
    tests: str  # pytest's -k: which tests of tests/ROOM/test_FILE*.py grade it; they take seconds
    hints: list[str]  # steps in words; the last is nearly the code


if not (ROOT / "tests").is_dir():
    print(f"error: {ROOT}: no tests/ there, which grade; start it in a clone", file=sys.stderr)
    sys.exit(2)
EXERCISES: dict[str, Exercise] = {}  # in the order of the lecture; in the file: one line, then its hints
for row in (ROOT / "tests" / "exercises.txt").read_text(encoding="utf-8").strip().split("\n\n"):
    head, *hints = map(str.strip, row.splitlines())
    name, level, function, tests = head.split(", ")
    EXERCISES[name] = Exercise(int(level), function, tests, hints)


def find(name: str) -> tuple[Path, re.Match, str]:
    """Return an exercise's file, the regex match of its function there, and the function as it is now."""
    file, _, function = EXERCISES[name].function.partition(":")
    path, (*owner, function) = ROOT / "minilm" / file, function.split(".")
    inside = rf"^class {owner[0]}\b(?:.*\n)*?" if owner else ""
    found = re.search(inside + FUNCTION.format(function), path.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise UserError(f"{path}: no function {function} with its docstring; restore: `git checkout {path}`")
    return path, found, found["head"] + found["body"]


def replace(name: str, function: str) -> None:
    """Replace the function in its file by the text `function`."""
    path, found, _ = find(name)
    atomic_write(path, found.string[: found.start("head")] + function + found.string[found.end() :])


def kept(name: str, what: str = "original") -> Path:
    """Return the path where `what` of an exercise is kept, outside the clone; each clone has a folder."""
    cache = os.path.expanduser(os.environ.get("MINILM_CACHE") or "~/.cache/minilm")
    folder = Path(cache, "exercises", re.sub(r"\W+", "-", str(ROOT)).strip("-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.{what}"


def held(name: str, what: str = "original") -> str:
    """Return the text of the file `kept(name, what)`, or "" if there is none."""
    return kept(name, what).read_text(encoding="utf-8") if kept(name, what).exists() else ""


def is_started(name: str) -> bool:
    """Return whether the file holds a blank or an attempt instead of the original."""
    now = find(name)[2]
    return f'("exercise {name}")' in now or held(name) not in ("", now)


def start(name: str) -> None:
    """Keep the original function outside the clone, and empty it in its file."""
    path, found, function = find(name)
    if is_started(name):
        raise UserError(f"{name} is started already: go on, or `restore {name}`, which keeps your attempt")
    if not any(is_started(other) for other in EXERCISES if find(other)[0] == path) and shutil.which("git"):
        asked = ["git", "diff", "--name-only", "HEAD", "--", path]
        if subprocess.run(asked, check=False, cwd=ROOT, capture_output=True).stdout:
            raise UserError(f"{path}: you have changed it; `git commit` or `git stash` that first")
    atomic_write(kept(name), function)
    replace(name, f'{found["head"]}{found["indent"]}    raise NotImplementedError("exercise {name}")\n')
    line = found.string.count("\n", 0, found.start("head")) + 1
    print(f"{path}, line {line}: write it, then `check {name}`; `hint {name}` helps")


def hint(name: str) -> None:
    """Print the next hint; after the last, the first again."""
    hints, n = EXERCISES[name].hints, int(held(name, "hints") or 0)
    print(f"{n + 1} of {len(hints)}: {hints[n]}")
    atomic_write(kept(name, "hints"), str((n + 1) % len(hints)))


def check(name: str) -> int:
    """Print the first mistake and return 1, or print that all tests pass."""
    path, _, function = find(name)
    files = sorted((ROOT / "tests" / path.parent.name).glob(f"test_{path.stem}*.py"))
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    told = subprocess.run([*PYTEST, EXERCISES[name].tests, *files], check=False, cwd=ROOT, **streams).stdout
    stopped, places = "Timeout (" in told, re.findall(r'File ".*[/\\](minilm[/\\].*)", line (\d+)', told)
    place = " ({}, line {})".format(*places[0 if stopped else -1]) if places else ""
    if stopped:
        print(f"stopped after 8 seconds{place}: does a loop there never end?")
    elif failed := re.search(r"^(?:E +)?([\w.]*[A-Z]\w+)(?:: (.*))?$", told, re.MULTILINE):
        words = dict(AssertionError=failed[2], NotImplementedError=f"{failed[2]} is still empty{place}")
        print(words.get(failed[1], failed[0].removeprefix("E ").strip() + place))
    else:
        atomic_write(kept(name, "solved"), function)
        print(f"all {re.search(r'([0-9]+) passed', told)[1]} tests of {name} pass")
        return 0
    return 1


def solution(name: str) -> None:
    """Print what an attempt has to change to become the original."""
    sides = find(name)[2].splitlines(), held(name).splitlines()
    print("\n".join(difflib.unified_diff(*sides, "your attempt", "the original", lineterm="", n=99)))


def restore(name: str) -> None:
    """Put the original back, and keep the attempt beside it."""
    attempt = next(path for n in range(1, 10**6) if not (path := kept(name, f"attempt-{n}")).exists())
    original, (path, _, function) = kept(name).read_text(encoding="utf-8"), find(name)
    atomic_write(attempt, function)
    replace(name, original)
    kept(name).unlink()  # else a later change of the file would count as an attempt
    print(f"{path}: the original of {name} is back; your attempt: {attempt}")


def main(action: str = "", name: str = "", *more: str) -> int | None:
    """Run the action that the command line names; return the exit code."""
    actions = dict(start=start, hint=hint, check=check, solution=solution, restore=restore)
    if (action, name) == ("list", ""):
        print(f"{'exercise':26}{'level':7}{'room':16}state\n" + "-" * 58)
        for one, (level, function, *_) in EXERCISES.items():
            started, solved, room = is_started(one), held(one, "solved"), function.split("/")[0]
            is_solved = solved and (not started or solved == find(one)[2])
            state = "solved" if is_solved else "started" if started else "untouched"
            print(f"{one:26}{level:<7}{room:16}{state}")
        return None
    if (action, name) == ("restore", "--all"):
        return any(restore(name) for name in EXERCISES if is_started(name))
    if action not in actions or more:
        raise UserError(f"expected python -m minilm.exercises list, or {', '.join(actions)} and a NAME")
    if name not in EXERCISES:
        raise UserError(f"no exercise {name!r}{suggest(name, EXERCISES)}; `list` shows all")
    if action in ("check", "solution", "restore") and not is_started(name):
        raise UserError(f"{name} is not started: first `start {name}`")
    return actions[action](name)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `list | head` ends in silence
    try:
        sys.exit(main(*sys.argv[1:]))
    except (UserError, OSError) as error:
        print(as_line(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
