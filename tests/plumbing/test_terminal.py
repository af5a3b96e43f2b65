"""Grades plumbing/terminal.py: the closing table, errors in one line, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minilm.plumbing import terminal
from minilm.plumbing.errors import UserError
from minilm.plumbing.terminal import cell, exit_code, table


def test_table_aligns_numbers_at_the_right_and_words_at_the_left():
    text = table((row for row in [["accuracy", 0.5, None], ["loss", 10.25, 2]]), ["", "before", "after"])
    assert text.splitlines() == [
        "          before  after",
        "-----------------------",
        "accuracy   0.500      -",
        "loss      10.250      2",
    ]
    assert table([["a", "xxx"], ["bb", "x"]], ["name", "text"]).splitlines()[2:] == ["a     xxx", "bb    x"]
    assert table([], ["a", "b"]) == "a  b\n----"
    with pytest.raises(ValueError):
        table([[1, 2], [3]], ["a", "b"])


def test_cells():
    values = [None, True, False, 110106428, 0.12345, 0.0, 1e-5, -1e-5, 0.0005, 1, float("nan"), "text"]
    texts = "- yes no 110,106,428 0.123 0.000 1.0e-05 -1.0e-05 0.001 1 nan text"
    assert [cell(value) for value in values] == texts.split()


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (UserError("file.txt:\nline 3"), 2, "error: file.txt: line 3\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C: nothing was being saved\n"),
        (KeyboardInterrupt("saved in runs/masked"), 130, "saved in runs/masked\n"),
    ],
)
def test_an_ending_is_one_line_and_an_exit_code(ending, code, message, capsys):
    def main():
        raise ending

    assert exit_code(main) == code
    assert capsys.readouterr() == ("", message), "one line, on stderr"


def test_what_is_no_mistake_of_the_user_s_is_returned_or_keeps_its_traceback():
    assert [exit_code(lambda: None), exit_code(lambda: 3)] == [0, 3]
    with pytest.raises(ValueError, match="invalid literal"):
        exit_code(lambda: int("x"))


def test_it_is_quiet_where_the_reader_of_a_pipe_has_left():
    reader, writer = os.pipe()
    os.close(reader)
    code = "from minilm.plumbing.terminal import exit_code; exit(exit_code(lambda: print('x')))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(terminal.__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
