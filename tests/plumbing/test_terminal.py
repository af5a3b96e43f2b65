"""Grades plumbing/terminal.py: the closing table, errors in one line, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minilm.plumbing import terminal
from minilm.plumbing.errors import UserError
from minilm.plumbing.terminal import cell, exit_code, table


def test_table_aligns_numbers_at_the_right():
    text = table([["accuracy", 0.5, None], ["loss", 10.25, 2]], ["", "before", "after"])
    assert text.splitlines() == [
        "          before  after",
        "-----------------------",
        "accuracy   0.500      -",
        "loss      10.250      2",
    ]


def test_table_aligns_words_at_the_left():
    lines = table(([name, "x" * n] for name, n in [("a", 3), ("bb", 1)]), ["name", "text"]).splitlines()
    assert lines == ["name  text", "----------", "a     xxx", "bb    x"]
    assert table([], ["a", "b"]) == "a  b\n----"


def test_table_of_rows_that_do_not_fit_the_header():
    with pytest.raises(ValueError):
        table([[1, 2], [3]], ["a", "b"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (110106428, "110,106,428"),
        (0.12345, "0.123"),
        (0.0, "0.000"),
        (1e-5, "1.0e-05"),
        (-1e-5, "-1.0e-05"),
        (0.0005, "0.001"),
        (float("nan"), "nan"),
        ("text", "text"),
    ],
)
def test_cells(value, text):
    assert cell(value, 3) == text


def test_digits_of_a_table():
    assert table([[0.123456]], ["x"], digits=5).splitlines()[-1] == "0.12346"


def test_exit_code_returns_the_exit_code(capsys):
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 3) == 3

    def mistaken():
        raise UserError("file.txt:\nline 3")

    assert exit_code(mistaken) == 2
    assert capsys.readouterr() == ("", "error: file.txt: line 3\n"), "one line, on stderr"

    def stopped():
        raise KeyboardInterrupt

    def stopped_with_a_word():
        raise KeyboardInterrupt("saved in runs/masked")

    assert exit_code(stopped) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert exit_code(stopped_with_a_word) == 130
    assert capsys.readouterr().err == "saved in runs/masked\n"


def test_exit_code_keeps_the_traceback_of_a_bug():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)
    with pytest.raises(ValueError, match="not the user's"):

        def bug():
            raise ValueError("not the user's")

        exit_code(bug)


def test_exit_code_is_quiet_where_the_reader_of_a_pipe_has_left():
    reader, writer = os.pipe()
    os.close(reader)
    root = str(Path(terminal.__file__).parents[2])
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [
        sys.executable,
        "-c",
        "from minilm.plumbing.terminal import exit_code; exit(exit_code(lambda: print('x')))",
    ]
    ended = subprocess.run(
        command, cwd=root, env=buffered, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
