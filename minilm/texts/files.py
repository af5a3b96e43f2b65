"""The user's text files: bytes -> text -> lines or documents, with file and place named in every error.

A document is the text between two blank lines of a `.txt`, or the `"text"` of one line of a `.jsonl`. A `.gz`
of either is read too, and a folder stands for all such files under it.
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..plumbing.errors import UserError, suggest
from ..plumbing.folders import json_object

TEXT_SUFFIXES = (".txt", ".jsonl")
OTHERS = {".conll": "extract.py --tokens"} | dict.fromkeys((".tsv", ".csv"), "--objective translation")
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
BLOCK = 2**24  # bytes read at a time
LARGE = 50_000_000  # characters; a longer document is cut at the end of a line


def kind(path: Path | str) -> str:
    """Return the file's suffix in lower case without `.gz`: `plays.TXT.gz` -> `.txt`."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def one_line(text: str) -> str:
    """Return the text with each run of white space as one space: duplicates are documents equal in this."""
    return " ".join(text.split())


def missing(path: Path, names: tuple[str, ...] = ()) -> UserError:
    """Return the error for a path that is no file, with the nearest name in its folder or in `names`."""
    if os.path.exists(path):
        return UserError(f"{path}: not a regular file; expected a file, not a folder or a device")
    what = "no such file or folder" + (f", nor one of the sources {', '.join(names)}" if names else "")
    return UserError(f"{path}: {what}{suggest(str(path), [*names, *sorted(path.parent.glob('[!.]*'))])}")


def read_text(path: Path | str, errors: str = "strict") -> str:
    """Return a file's text: UTF-8, unpacked if `.gz`, without a byte order mark, line ends as `\\n`."""
    return "".join(read_blocks(path, errors))


def read_blocks(path: Path | str, errors: str = "strict") -> Iterator[str]:
    """Yield what `read_text` returns in blocks of whole lines, each of `BLOCK` bytes or more."""
    path, n_read = Path(path), 0
    if not os.path.isfile(path):
        raise missing(path)
    is_packed, n_most = path.name.lower().endswith(".gz"), 100 * path.stat().st_size + 10**7
    try:
        with (gzip.open if is_packed else open)(path, "rb") as file:
            while data := file.read(BLOCK):
                rest = file.readline(n_most) if b"\n" in data else file.read(0 if b"\x00" in data else n_most)
                if is_packed and n_read + len(data) + len(rest) >= n_most:
                    raise UserError(f"{path}: unpacks to over a hundred times its size, which no text does")
                data += rest
                if b"\x00" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16's first two bytes
                    place = f"byte 0 at offset {n_read + data.find(0)}" if 0 in data else "its first bytes"
                    raise UserError(f"{path}: a binary file or UTF-16 ({place}); save it as UTF-8")
                text = data.decode("utf-8", errors).removeprefix("\ufeff").replace("\r\n", "\n")
                yield text.replace("\r", " " if "\n" in text else "\n")  # \r ends lines only where no \n does
                n_read += len(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error}); compress it again") from None
    except UnicodeDecodeError as error:
        found = f"byte {n_read + error.start} (0x{data[error.start]:02x}) is not UTF-8; save it as UTF-8"
        raise UserError(f"{path}: {found}, or (documents of train.py) --errors replace") from None


def read_lines(path: Path | str, errors: str = "strict") -> Iterator[tuple[str, str]]:
    """Yield (where, line) for each line, blank ones too; `where` is "FILE, line N", for error messages."""
    lines = (line for block in read_blocks(path, errors) for line in block.removesuffix("\n").split("\n"))
    for number, line in enumerate(lines, start=1):
        yield f"{path}, line {number}", line


def read_jsonl(path: Path | str, errors: str = "strict") -> Iterator[tuple[str, dict]]:
    """Yield (where, object) for each line that is not blank; UserError if it is not a JSON object."""
    for where, line in read_lines(path, errors):
        if line.strip():
            yield where, json_object(line, where)


def string_field(record: dict, field: str, where: str, errors: str = "strict") -> str:
    """Return `record[field]`, a string that UTF-8 can encode; else a UserError that begins with `where`."""
    if field not in record:
        raise UserError(f"{where}: no field {field!r} in {[*record]}{suggest(field, record)}")
    value = record[field]
    if not isinstance(value, str):
        raise UserError(f"{where}: {field!r} is {value!r:.40}, expected a string")
    half = re.search("[\ud800-\udfff]", value)  # half a surrogate pair, which JSON can name and UTF-8 cannot
    if half and errors == "strict":
        raise UserError(f"{where}: a lone surrogate at character {half.start()} of {field!r}, not UTF-8")
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if half else value


def read_documents(path: Path, errors: str = "strict") -> Iterator[str]:
    """Yield the documents of one `.txt` or `.jsonl` file (or `.gz` of these), if any."""
    if kind(path) not in TEXT_SUFFIXES and path.exists():
        told = f"{path}: expected {', '.join(TEXT_SUFFIXES)}, .gz of these, or a folder of them"
        raise UserError(told + (f"; {kind(path)} needs {OTHERS[kind(path)]}" if kind(path) in OTHERS else ""))
    texts = (string_field(record, "text", where, errors) for where, record in read_jsonl(path, errors))
    yield from filter(str.strip, texts if kind(path) == ".jsonl" else read_parts(path, errors))


def read_parts(path: Path, errors: str) -> Iterator[str]:
    """Yield the parts of a file between blank lines; one beyond `LARGE` characters is cut at a line's end."""
    rest = ""
    for block in read_blocks(path, errors):
        *parts, rest = BLANK_LINES.split(rest + block)
        if len(rest) > LARGE:
            parts, rest = [*parts, rest], ""
        yield from (part.strip("\n") for part in parts)
    yield rest.strip("\n")


def text_files(path: Path) -> list[Path]:
    """Return the text files of a path: the file itself, or all under a folder but hidden ones, sorted."""
    if not path.is_dir():
        return [path]
    inside = [each for each in sorted(path.rglob("*")) if "/." not in f"/{each.relative_to(path).as_posix()}"]
    for folder in (path, *filter(Path.is_dir, inside)):
        os.listdir(folder)  # an error if it may not be read: `rglob` passes over it without a word
        if folder.is_symlink() and folder is not path:
            raise UserError(f"{folder}: a link to a folder, not followed; remove it, and name its folder too")
    found = [file for file in inside if kind(file) in TEXT_SUFFIXES and not file.is_dir()]
    if not found:
        raise UserError(f"{path}: no text files in it; expected {', '.join(TEXT_SUFFIXES)}, or .gz of these")
    return found
