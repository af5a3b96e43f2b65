"""Checks the two processes in which all tests run: each test is run once, and every result is told."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ["two_at_once"]\n'
INI = f"[pytest]\ntestpaths = tests\npythonpath = {shlex.quote(str(Path(__file__).parent))}\n"
# each says which process ran it; the first of a file waits until both have come
TESTS = """
import os, time
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def place():
    (Path("ran") / f"fixture {os.getpid()}").touch(exist_ok=False)
    return Path("ran")

@pytest.mark.parametrize("n", range(30))
def test_one(n, place):
    with open(place / str(n), "a") as file:
        file.write(f"{os.getpid()}\\n")
    for _ in range(600):
        if len(list(place.glob("fixture *"))) == {n_process}:
            break
        time.sleep(0.05)
    {body}
"""


def run(tmp_path, *words: str, body: str = "", n_process: int = 2) -> tuple[int, str, list[list[str]]]:
    """Return exit code, what was printed, and by test the processes that ran it."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "ran").mkdir()
    (tmp_path / "pytest.ini").write_text(INI, encoding="utf-8")
    (tmp_path / "tests/conftest.py").write_text(CONFTEST)
    tests = TESTS.replace("{body}", body).replace("{n_process}", str(n_process))
    (tmp_path / "tests/test_it.py").write_text(tests)
    env = os.environ | {"PARENT": str(os.getpid())}
    end = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        check=False, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    ran = [path.read_text().split() for path in (tmp_path / "ran").glob("[0-9]*")]
    return end.returncode, end.stdout + end.stderr, ran


pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")


def test_each_test_is_run_once_in_one_of_two_processes_and_each_result_is_told(tmp_path):
    body = "n > 25 and pytest.skip('large'); assert n not in (7, 8, 9, 10), f'number {n}'"
    code, told, ran = run(tmp_path, "-rs", body=body)
    assert code == 1 and re.search(r"4 failed, 22 passed, 4 skipped", told), told
    assert "[4] tests/test_it.py" in told, told
    assert all(f"AssertionError: number {n}" in told for n in (7, 8, 9, 10)), told
    assert len(ran) == 30 and all(len(processes) == 1 for processes in ran)
    assert len({process for processes in ran for process in processes}) == 2


DIES = "assert os.getppid() == int(os.environ['PARENT']) or os._exit(9)"
TWO_NAMES = 'pass\n\n@pytest.mark.parametrize("n", [os.getpid()])\ndef test_two(n):\n    pass'
ENDINGS = {  # flags, body of the test; exit code, what is told, and the most tests that are run
    "the first failure ends both": ("-x", "time.sleep(0.02); assert 0", 1, "stopping after", 5),
    "a second process that breaks down": ("-rs", DIES, 1, "the second process ended with 9", 30),
    "a name that differs": ("-rs", TWO_NAMES, 1, "run twice, by two names: tests/test_it.py::test_two[", 30),
    "tests that are no Python": ("-rs", "): here", 2, "SyntaxError", 0),
    "tests are only listed": ("--collect-only", "assert 0", 0, "test_one[29]", 0),
}


@pytest.mark.reliability
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ending_of_another_kind_is_told(tmp_path, ending):
    flag, body, expected, sentence, most = ENDINGS[ending]
    code, told, ran = run(tmp_path, flag, body=body)
    assert code == expected and sentence in told and len(ran) <= most, told


@pytest.mark.reliability
def test_with_a_path_there_is_one_process(tmp_path):
    code, told, ran = run(tmp_path, "tests", n_process=1)
    assert code == 0 and len({process for processes in ran for process in processes}) == 1, told
