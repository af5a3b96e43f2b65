"""Grades exercises.py: nothing is lost, a blank fails its own check, a typical mistake gets its sentence."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from minilm import exercises
from minilm.exercises import EXERCISES, held, kept, main
from minilm.plumbing.errors import UserError

ROOT, TESTS = Path(__file__).parents[1], Path(__file__).parent
WRONG = {}
for file in ("answers", "model", "preferences", "training"):
    WRONG |= importlib.import_module(f"wrong.{file}").WRONG
each = pytest.mark.parametrize("name", EXERCISES)
NAME = "causal-mask"
BLANK = f'    raise NotImplementedError("exercise {NAME}")\n'


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the package, and an empty cache."""
    shutil.copytree(ROOT / "minilm", tmp_path / "minilm", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(exercises, "ROOT", tmp_path)
    monkeypatch.setenv("MINILM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def attention(tree) -> str:
    return (tree / "minilm/model/attention.py").read_text(encoding="utf-8")


def attempt(tree, old: str = BLANK, new: str = "    return 1\n") -> None:
    """Write something into the file, as a student does."""
    text = attention(tree)
    assert text.count(old) == 1
    (tree / "minilm/model/attention.py").write_text(text.replace(old, new), encoding="utf-8")


@each
def test_a_row_names_a_function_its_tests_and_hints(name):
    level, _, tests, hints = EXERCISES[name]
    path, found, text = exercises.find(name)
    assert level in (1, 2, 3) and found["body"].strip() and text.endswith("\n")
    assert 2 <= len(hints) <= 3 and all(hints)
    files = (TESTS / path.parent.name).glob(f"test_{path.stem}*.py")
    there = re.findall(r"def (test_\w+)", "".join(file.read_text(encoding="utf-8") for file in files))
    words = [word for word in re.findall(r"\w+", tests) if word not in ("and", "or", "not")]
    assert [word for word in words if not any(word in test for test in there)] == [], f"of -k {tests!r}"


def test_the_readme_counts_the_exercises():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"shows {len(EXERCISES)} exercises" in readme


def test_rows_stand_in_the_order_of_the_lecture():
    rooms = ["pretraining", "continued", "extraction", "finetuning", "reinforcement", "in_context"]
    found = [row.function.split("/")[0] for row in EXERCISES.values()]
    order = [rooms.index(room) + 1 if room in rooms else 0 for room in found]
    assert order == sorted(order)
    assert {*order} == {*range(7)}, "an exercise for each regime, and for the model"


@each
def test_three_or_more_wrong_solutions_are_known(name):
    body = exercises.find(name)[1]["body"]
    assert len(WRONG.get(name, ())) >= 3
    for old, _, words in WRONG[name]:
        assert body.count(old) == 1 and words, f"tests/wrong: {old!r} stands there {body.count(old)} times"


def test_start_keeps_signature_and_docstring_and_the_original_outside(tree, capsys):
    before = attention(tree)
    main("start", NAME)
    after = attention(tree)
    head = "def causal_mask(n_query: int, n_key: int, device=None) -> Tensor:\n"
    doc = '    """Return a boolean (T, S) mask: a query may look at the keys that do not come later."""\n'
    assert head + doc + BLANK + "\n\ndef alibi_bias" in after, "only the body goes"
    assert before.replace(held(NAME), head + doc + BLANK) == after and held(NAME) in before
    out = capsys.readouterr().out
    assert f"attention.py, line {before[: before.index(head)].count(chr(10)) + 1}: write it" in out
    assert (tree / "cache") in kept(NAME).parents


@each
def test_every_exercise_comes_back_as_it_was(tree, name):
    path = exercises.find(name)[0]
    before = path.read_text(encoding="utf-8")
    main("start", name)
    blank = path.read_text(encoding="utf-8")
    compile(blank, path, "exec")
    assert blank.count(f'NotImplementedError("exercise {name}")') == 1 and len(blank) < len(before)
    main("restore", name)
    assert path.read_text(encoding="utf-8") == before


def test_restore_keeps_every_attempt_even_one_that_is_no_python(tree, capsys):
    before, attempts = attention(tree), ["    return (\n\n# ?\n      # ?\n\n    '\n", "    return 2\n"]
    attempts.append("    n = 1\n    \n\treturn n\n")  # a blank line that an editor has indented, a tab
    for number, text in enumerate(attempts, start=1):
        main("start", NAME)
        attempt(tree, new=text)
        main("start", "alibi")  # another of the same file
        main("restore", NAME)
        assert held(NAME, f"attempt-{number}").endswith(text)
        assert str(kept(NAME, f"attempt-{number}")) in capsys.readouterr().out
        main("restore", "--all")
        assert attention(tree) == before
    main("restore", "--all")
    assert attention(tree) == before and capsys.readouterr().out.count("is back") == 1
    attempt(tree, "the last T of the S positions", "as a later version of the package has it")
    assert not exercises.is_started(NAME)


def test_nothing_of_the_user_is_overwritten(tree):
    main("start", NAME)
    attempt(tree)
    with pytest.raises(UserError, match="causal-mask is started already: go on"):
        main("start", NAME)
    assert attention(tree).count("    return 1\n") == 1
    kept(NAME).unlink()
    attempt(tree, "    return 1\n", BLANK)
    with pytest.raises(OSError, match="original"):  # without the original the blank must stay
        main("restore", NAME)
    with pytest.raises(UserError, match="causal-mask is started already"):
        main("start", NAME)
    attempt(tree, "def causal_mask", "def my_mask")
    with pytest.raises(UserError, match=r"attention.py: no function causal_mask .*restore: `git checkout"):
        main("check", NAME)


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_a_file_with_changes_of_the_user_is_not_touched(tree):
    git = ["git", "-c", "user.name=a", "-c", "user.email=b"]
    for words in (["init", "-q"], ["add", "minilm"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=tree, check=True)
    main("start", NAME)
    main("start", "alibi")  # the file differs by an exercise alone
    main("restore", "--all")
    attempt(tree, "BLOCKED = -1e9", "BLOCKED = -1e4")
    changed = attention(tree)
    with pytest.raises(UserError, match="attention.py: you have changed it; `git commit`"):
        main("start", NAME)
    assert attention(tree) == changed
    main("start", "sinusoids")  # in another file


def test_hints_come_one_at_a_time_and_begin_anew(tree, capsys):
    name = max(EXERCISES, key=lambda name: len(EXERCISES[name].hints))
    hints = EXERCISES[name].hints
    for _ in range(len(hints) + 1):
        main("hint", name)
    expected = [f"{n} of {len(hints)}: {hint}" for n, hint in enumerate(hints, start=1)]
    assert capsys.readouterr().out.splitlines() == [*expected, expected[0]]


def test_solution_is_the_difference_to_the_original(tree, capsys):
    main("start", NAME)
    attempt(tree)
    capsys.readouterr()
    main("solution", NAME)
    lines = capsys.readouterr().out.splitlines()
    assert "-    return 1" in lines and lines[0] == "--- your attempt" and lines[1] == "+++ the original"
    added = [line[1:] for line in lines[2:] if line.startswith("+")]
    assert "\n".join(added) + "\n" == held(NAME).partition('"""\n')[2]


@pytest.fixture
def pytest_tells(monkeypatch):
    """A function that gives `check` a text as all that pytest tells; it returns the commands to come."""

    def tell(text: str) -> list:
        def run(command, stdout, stderr, check, **_):
            assert (stdout, stderr) == (subprocess.PIPE, subprocess.STDOUT), "not all is read that is told"
            assert not check, "tests that fail are no mistake of this program"
            commands.append(command)
            return SimpleNamespace(stdout=text)

        commands = []
        monkeypatch.setattr(subprocess, "run", run)
        return commands

    return tell


TRACEBACK = 'Traceback (most recent call last):\n  File "/x/tests/test_a.py", line 3, in test\n    f()\n'
OURS = '  File "/x/minilm/model/attention.py", line 7, in causal_mask\n    Tensor[0]\n'
PLACE = "(minilm/model/attention.py, line 7)"
BEYOND = '  File "/y/torch/__init__.py", line 9, in f\n    raise\n'


@pytest.mark.parametrize(("told", "verdict"), [
    (TRACEBACK + "AssertionError: row 0: 1 instead of 2\nassert False\n", "row 0: 1 instead of 2"),
    (TRACEBACK + OURS + BEYOND + "IndexError: 3\n", f"IndexError: 3 {PLACE}"),
    (TRACEBACK + OURS + "StopIteration\n1 failed", f"StopIteration {PLACE}"),
    (TRACEBACK + "_pytest.Failed: DID NOT RAISE\n", "_pytest.Failed: DID NOT RAISE"),
    (TRACEBACK + OURS + "NotImplementedError: exercise alibi\n", f"exercise alibi is still empty {PLACE}"),
    (
        'E     File "/x/minilm/a.py", line 5\nE       x =\nE        ^\nE   SyntaxError: invalid syntax\n',
        "SyntaxError: invalid syntax (minilm/a.py, line 5)",
    ),
    (
        "Timeout (0:00:08)!\nThread 0x1 (most recent call first):\n" + OURS + OURS.replace("7", "70"),
        f"stopped after 8 seconds {PLACE}: does a loop there never end?",
    ),
    ("E   ImportError: x\n", "ImportError: x"),
])  # fmt: skip
def test_check_tells_the_first_failure_in_a_sentence(tree, pytest_tells, capsys, told, verdict):
    main("start", NAME)
    capsys.readouterr()
    pytest_tells(told)
    assert main("check", NAME) == 1 and capsys.readouterr().out == verdict + "\n"


def test_check_reads_utf_8_whatever_the_system_writes():
    ascii_only = os.environ | dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    python = exercises.PYTEST[: exercises.PYTEST.index("-m")]
    told = subprocess.run([*python, "-c", "print('olá')"], check=False, env=ascii_only, capture_output=True)
    assert told.stdout.decode() == "olá" + os.linesep, told.stderr.decode()


def test_an_installed_copy_without_tests_says_so_in_one_line(tmp_path):
    shutil.copytree(exercises.ROOT / "minilm", tmp_path / "minilm")
    command = [sys.executable, "-m", "minilm.exercises", "list"]
    told = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 2 and "start it in a clone" in told.stderr and told.stderr.count("\n") == 1


def states(capsys) -> set[str]:
    """The exercises that are not untouched, as `list` tells them."""
    capsys.readouterr()
    main("list")
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "state" and line == "-" * max(map(len, rows))
    rows = [row.split() for row in rows]
    assert [row[0] for row in rows] == [*EXERCISES] and {len(row) for row in rows} == {4}
    return {f"{name} {state}" for name, *_, state in rows if state != "untouched"}


def test_list_tells_how_far_one_is(tree, pytest_tells, capsys):
    assert states(capsys) == set()
    main("start", NAME)
    main("start", "infilling")
    assert states(capsys) == {f"{NAME} started", "infilling started"}
    attempt(tree)
    commands = pytest_tells("...   [100%]\n3 passed, 140 deselected in 0.1s\n")
    assert main("check", NAME) == 0 and capsys.readouterr().out.endswith(f"all 3 tests of {NAME} pass\n")
    assert commands[0][-1] == EXERCISES[NAME].tests, "no file of tests is in this tree"
    assert states(capsys) == {f"{NAME} solved", "infilling started"}
    attempt(tree, "    return 1\n", "    return 2\n")
    assert f"{NAME} started" in states(capsys), "another attempt than the one that passed"
    main("restore", "--all")
    assert states(capsys) == {f"{NAME} solved"}


@pytest.mark.parametrize(("words", "sentence"), [
    ("", "expected python -m minilm.exercises list, or start, hint, check, solution, restore and a NAME"),
    ("list all", "list, or start"),
    ("begin gae", "list, or start"),
    ("start gae dpo", "list, or start"),
    ("start", "no exercise ''"),
    ("start causal_mask", r"no exercise 'causal_mask' \(did you mean 'causal-mask'\?\)"),
    ("check causal-mask", "causal-mask is not started: first `start causal-mask`"),
    ("solution causal-mask", "is not started"),
    ("restore causal-mask", "is not started"),
])  # fmt: skip
def test_a_slip_at_the_command_line_is_named(tree, words, sentence):
    with pytest.raises(UserError, match=sentence):
        main(*words.split())


def test_the_command_ends_with_a_line_and_code_2():
    command = [sys.executable, "-m", "minilm.exercises", "hint"]
    end = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (end.returncode, end.stderr) == (2, "error: no exercise ''; `list` shows all\n")


@pytest.mark.skipif(os.name != "posix", reason="no pipes that break")
def test_a_reader_of_the_list_may_leave():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "minilm.exercises", "list"]
    end = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert end.returncode == -signal.SIGPIPE and not end.stderr


def test_the_list_needs_no_torch():
    code = "import sys; from minilm import exercises; assert not {'torch', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.exercises
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@each
def test_a_blank_and_each_typical_mistake_get_the_sentence_that_fits(tmp_path, name):
    for part in ("minilm", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    _, found, original = exercises.find(name)
    blank = f'{found["head"]}{found["indent"]}    raise NotImplementedError("exercise {name}")\n'
    wrong = [(found["head"] + found["body"].replace(old, new), words) for old, new, words in WRONG[name]]
    expected = [(original, "tests of"), (blank, f"exercise {name} is still empty (minilm/"), *wrong]
    environment = os.environ | dict(MINILM_CACHE=str(tmp_path / "cache"), PYTHONPATH="")
    command = [sys.executable, str(tmp_path / "tests/wrong/grade.py"), str(tmp_path)]
    cases = json.dumps([(name, text) for text, _ in expected])
    how = dict(capture_output=True, encoding="utf-8", env=environment)
    told = subprocess.run(command, input=cases, check=True, **how)
    for (text, words), (code, verdict, _) in zip(expected, json.loads(told.stdout), strict=True):
        attempt = text[len(found["head"]) :]
        assert code == (text != original), f"{verdict}\n{attempt}"
        assert words in verdict and verdict.count("\n") == 1, f"{words!r} not in: {verdict}\n{attempt}"
