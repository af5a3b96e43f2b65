"""What the tests of the user's files share: a file is written, an error is one line."""

import pytest

from minilm.plumbing.errors import UserError


@pytest.fixture
def write(tmp_path):
    """A function that writes a text or bytes into a file of the test's folder, and returns its path."""

    def write_file(name, content=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture
def message():
    """A function that calls another one, and returns the one line of the UserError that must come."""

    def message_of(call, *arguments, **keywords):
        with pytest.raises(UserError) as error:
            call(*arguments, **keywords)
        assert "\n" not in str(error.value), "an error for the user is one line"
        return str(error.value)

    return message_of
