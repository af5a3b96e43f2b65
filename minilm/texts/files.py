"""The user's text files: bytes -> text -> lines or documents, with file and place named in every error.

A document is what one blank line separates from the next in a `.txt`, or one line's `"text"` in a `.jsonl`;
a `.gz` of either is read too, and a folder stands for all such files under it.
"""

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..plumbing.errors import UserError, suggest

TEXT_SUFFIXES = (".txt", ".jsonl")
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def kind(path: Path | str) -> str:
    """Return the file's suffix in lower case without `.gz`: `plays.TXT.gz` -> `.txt`."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def missing(path: Path, names: tuple[str, ...] = ()) -> UserError:
    """Return the error for a path that is no file, with the nearest name in its folder or in `names`."""
    if os.path.exists(path):
        return UserError(f"{path}: not a regular file; expected a file to read")
    if not os.path.isdir(path.parent):
        return UserError(f"{path}: no such file or folder; the folder {path.parent} does not exist either")
    what = "no such file or folder" + (f", nor one of the sources {', '.join(names)}" if names else "")
    return UserError(f"{path}: {what}{suggest(str(path), [*names, *sorted(path.parent.glob('[!.]*'))])}")


def read_text(path: Path | str, errors: str = "strict") -> str:
    """Return a file's text: UTF-8, unpacked if `.gz`, without a byte order mark, line ends as `\\n`."""
    path = Path(path)
    if not os.path.isfile(path):
        raise missing(path)
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            n_most = 100 * len(data) + 10**7
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(n_most)
            if len(data) == n_most:
                raise UserError(f"{path}: unpacks to over a hundred times its size, which no text does")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error}); compress it again") from None
    if b"\x00" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # the second: byte order marks
        raise UserError(f"{path}: a binary file or UTF-16 (0 at offset {data.find(0)}); save it as UTF-8")
    try:
        text = data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        found = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8"
        raise UserError(f"{path}: {found}; save it as UTF-8, or (train.py) --errors replace") from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    return text.replace("\r", " " if "\n" in text else "\n")  # beside line feeds it is a stray character


def read_lines(path: Path | str, errors: str = "strict") -> Iterator[tuple[str, str]]:
    """Yield (where, line) for each line, blank ones too; `where`, "FILE, line N", begins an error."""
    for number, line in enumerate(read_text(path, errors).removesuffix("\n").split("\n"), start=1):
        yield f"{path}, line {number}", line


def read_jsonl(path: Path | str, errors: str = "strict") -> Iterator[tuple[str, dict]]:
    """Yield (where, object) for each line that is not blank; UserError where it is no object."""
    for where, line in read_lines(path, errors):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({error}): {line[:40]!r}") from None
            if not isinstance(record, dict):
                raise UserError(f"{where}: found {line[:40]!r}, expected a JSON object")
            yield where, record


def string_field(record: dict, field: str, where: str, errors: str = "strict") -> str:
    """Return `record[field]`, a string that UTF-8 can write; otherwise UserError beginning with `where`."""
    if field not in record:
        raise UserError(f"{where}: no field {field!r} in {[*record]}{suggest(field, record)}")
    value = record[field]
    if not isinstance(value, str):
        raise UserError(f"{where}: {field!r} is {value!r:.40}, expected a string")
    half = re.search("[\ud800-\udfff]", value)  # JSON can name half of a surrogate pair: no UTF-8 has it
    if half and errors == "strict":
        raise UserError(f"{where}: half a surrogate pair at character {half.start()} of {field!r}")
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if half else value


def read_documents(path: Path, errors: str = "strict") -> list[str]:
    """Return the documents of one `.txt` or `.jsonl` file (or `.gz` of these) in order; [] if it is empty."""
    if kind(path) == ".jsonl":
        texts = [string_field(record, "text", where, errors) for where, record in read_jsonl(path, errors)]
    elif kind(path) == ".txt":
        texts = [part.strip("\n") for part in BLANK_LINES.split(read_text(path, errors))]
    else:
        expected = f"{', '.join(TEXT_SUFFIXES)}, .gz of these, or a folder of them"
        raise UserError(f"{path}: a text of kind {kind(path)!r}; expected {expected}")
    return [text for text in texts if text.strip()]


def text_files(path: Path) -> list[Path]:
    """Return the text files that a path stands for: itself, or all of a folder but hidden ones, sorted."""
    if not path.is_dir():
        return [path]
    inside = sorted(file for file in path.rglob("*") if kind(file) in TEXT_SUFFIXES and file.is_file())
    found = [file for file in inside if "/." not in f"/{file.relative_to(path).as_posix()}"]
    if not found:
        raise UserError(f"{path}: no text files in it; expected {', '.join(TEXT_SUFFIXES)}, or .gz of these")
    return found
