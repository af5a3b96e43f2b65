"""The user's text files: bytes -> text -> documents, with the file and the place named in every error.

A document is what one blank line separates from the next in a `.txt`, or one line's `"text"` in a `.jsonl`.
Either may be compressed (`.txt.gz`, `.jsonl.gz`), and a folder stands for all such files under it.
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..plumbing.errors import UserError, suggest

TEXT_SUFFIXES = (".txt", ".jsonl")
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def one_line(text: str) -> str:
    """Return the text with each run of white space as one space: what makes two documents duplicates."""
    return " ".join(text.split())


def kind(path: Path) -> str:
    """Return the file's suffix in lower case without `.gz`: `plays.TXT.gz` -> `.txt`."""
    name = path.name.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def missing(path: Path, names: tuple[str, ...] = ()) -> UserError:
    """Return the error for a path that does not exist, with the nearest name in its folder or in `names`."""
    folder = path.parent
    if not os.path.isdir(folder):
        return UserError(f"{path}: no such file or folder; the folder {folder} does not exist either")
    neighbours = [str(folder / entry) for entry in sorted(os.listdir(folder)) if not entry.startswith(".")]
    what = "no such file or folder" + (f", nor one of the sources {', '.join(names)}" if names else "")
    return UserError(f"{path}: {what}{suggest(str(path), [*names, *neighbours])}")


def read_bytes(path: Path) -> bytes:
    """Return the file's bytes, decompressed where its name ends in `.gz`.

    Raises UserError where the file is missing, no regular file, unreadable or not valid gzip.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise missing(path)
    if not path.is_file():
        raise UserError(f"{path}: not a regular file; expected a file to read")
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error}); compress it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the file's text: UTF-8, without a byte order mark, line ends as `\\n`.

    `errors="replace"` puts U+FFFD where the bytes are not UTF-8 instead of raising. Raises UserError for
    invalid UTF-8 (with the byte offset, counted from 0 after decompression) and for a binary file.
    """
    if errors not in ("strict", "replace"):
        raise UserError(
            f"--errors {errors}: expected strict or replace{suggest(errors, ('strict', 'replace'))}"
        )
    data = read_bytes(path)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: starts with a UTF-16 byte order mark; save it as UTF-8")
    if b"\x00" in data:
        raise UserError(f"{path}: binary file (a zero byte at offset {data.index(0)}); expected UTF-8 text")
    try:
        text = data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} (0x{data[error.start]:02x}) is not valid UTF-8; "
            "save the file as UTF-8, or (train.py) go on with --errors replace"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def read_jsonl(path: Path, errors: str = "strict") -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, object) for each line that is not blank; UserError where it is no object."""
    for number, line in enumerate(read_text(path, errors).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}): {line[:40]!r}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: found {line[:40]!r}, expected a JSON object")
        yield number, record


def string_field(record: dict, field: str, where: str, errors: str = "strict") -> str:
    """Return `record[field]`, a string that UTF-8 can write; otherwise UserError beginning with `where`."""
    if field not in record:
        found = ", ".join(map(repr, record)) or "none"
        raise UserError(f"{where}: no field {field!r} (found: {found}){suggest(field, record)}")
    value = record[field]
    if not isinstance(value, str):
        raise UserError(f"{where}: {field!r} is {value!r:.40}, expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can name half of a surrogate pair, which no tokenizer could turn into bytes.
        if errors == "replace":
            return re.sub("[\ud800-\udfff]", "\ufffd", value)
        raise UserError(f"{where}: half a surrogate pair at character {error.start} of {field!r}") from None
    return value


def read_documents(path: Path, errors: str = "strict") -> list[str]:
    """Return the documents of one `.txt` or `.jsonl` file (or `.gz` of these) in order; [] if it is empty."""
    if kind(path) == ".jsonl":
        texts = (
            string_field(record, "text", f"{path}, line {number}", errors)
            for number, record in read_jsonl(path, errors)
        )
    elif kind(path) == ".txt":
        texts = (part.strip("\n") for part in BLANK_LINES.split(read_text(path, errors)))
    else:
        raise UserError(
            f"{path}: a text file of kind {kind(path) or '(no suffix)'!r}; "
            f"expected {', '.join(TEXT_SUFFIXES)}, one of these as .gz, or a folder of them"
        )
    return [text for text in texts if text.strip()]


def text_files(path: Path) -> list[Path]:
    """Return the text files that a path stands for: itself, or all of a folder, recursively and sorted.

    Hidden files and folders, and files of other kinds, are passed over. UserError where nothing is left.
    """
    if not path.is_dir():
        return [path]
    inside = (p for p in path.rglob("*") if kind(p) in TEXT_SUFFIXES and p.is_file())
    files = sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not files:
        expected = ", ".join(TEXT_SUFFIXES)
        raise UserError(f"{path}: a folder without text files; expected {expected}, or .gz of these")
    return files
