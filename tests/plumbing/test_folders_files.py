"""Grades plumbing/folders.py: a file is whole or absent, and JSON says where it is wrong."""

import os
from pathlib import Path

import pytest

from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import atomic_write, read_json, remove_leftovers, write_json


class Killed(BaseException):
    """Stands for the moment at which a process dies."""


@pytest.mark.parametrize(
    ("content", "data"),
    [(b"\x00\xff", b"\x00\xff"), ("ã\n", "ã\n".encode()), (lambda file: file.write(b"abc"), b"abc")],
)
def test_bytes_texts_and_functions_are_written(tmp_path, content, data):
    atomic_write(tmp_path / "a.bin", content)
    assert (tmp_path / "a.bin").read_bytes() == data
    assert os.listdir(tmp_path) == ["a.bin"], "the file beside must be gone"


def test_a_kill_before_the_renaming_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic_write(path, "old")

    def kill(source, target):
        assert path.read_text() == "old", "the target must not be touched before the renaming"
        assert Path(source).read_text() == "new", "the new content must be complete before the renaming"
        raise Killed

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        atomic_write(path, "new")
    assert path.read_text() == "old"


def test_the_bytes_are_on_disk_before_the_renaming(tmp_path, monkeypatch):
    calls, real = [], (os.fsync, os.replace)
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real[0](fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real[1](a, b)))
    atomic_write(tmp_path / "a", "x")
    assert calls == ["fsync", "replace"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path):
    atomic_write(tmp_path / "a.txt", "old")

    def fail(file):
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomic_write(tmp_path / "a.txt", fail)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_the_system_refuses_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in [tmp_path / "none" / "a.txt", tmp_path / "file" / "a.txt"]:
        with pytest.raises(UserError, match=r"a\.txt: cannot be written \("):
            atomic_write(path, "x")


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    names = ["model.safetensors.123.tmp", "trainer.pt.7.tmp"]
    others = ["model.safetensors", "mine.tmp", "123.tmp", "a.b.tmp", "a.1.tmp.txt"]
    for name in names + others:
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_leftovers_have_the_name_that_a_killed_writer_leaves(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "replace", lambda source, target: seen.append(os.path.basename(source)))
    atomic_write(tmp_path / "a.txt", "x")
    (tmp_path / seen[0]).write_text("")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"name": "ação", "loss": 0.1, "shots": [1, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "ação" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1,\n "b": }', "line 2: not JSON"),
        (b"", "line 1: not JSON"),
        (b"[1]", "a JSON object was expected, found list"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_wrong_json_names_file_and_place(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.json.*{message}"):
        read_json(tmp_path / "a.json")


def test_json_that_cannot_be_read(tmp_path):
    for path in [tmp_path / "none.json", tmp_path]:
        with pytest.raises(UserError, match="cannot be read"):
            read_json(path)
