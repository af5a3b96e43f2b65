"""A folder of its own for each test, with what the tiny commands read."""

import pytest
from reliability.runs import furnish


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return furnish(tmp_path)
