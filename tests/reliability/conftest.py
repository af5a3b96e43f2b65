"""A folder of its own for each test, with what the tiny commands read."""

import os

import pytest

if os.name == "posix":
    from reliability.runs import furnish
else:
    collect_ignore_glob = ["*"]  # kills, forks, limits of memory: Windows has none of them


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return furnish(tmp_path)
