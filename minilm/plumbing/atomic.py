"""Files that are whole or absent: a process may be killed at any moment, and no reader sees half a file.

What is to be written goes into a file beside the target, which then takes the target's name in one step of
the operating system. Until that step the old file is there, after it the new one.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

LEFTOVER = re.compile(r".+\.\d+\.tmp")


def atomic_write(path: str | Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file that is never seen half written: bytes, a text, or what a function writes into a file.

    Where anything fails the old file stays as it was. UserError where the system refuses: no such folder, no
    permission, no space left.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # the bytes reach the disk before the name does
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if beside.exists():
            beside.unlink()


def remove_leftovers(folder: str | Path) -> None:
    """Delete what processes that were killed while writing left in a folder: `NAME.PID.tmp`."""
    for path in Path(folder).iterdir():
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: str | Path, value) -> None:
    """Write `value` as readable JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict:
    """Return the JSON object in a file; UserError names the file and the line of what is wrong."""
    try:
        value = json.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise UserError(f"{path}: JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object was expected, found {type(value).__name__}")
    return value
