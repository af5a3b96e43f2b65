"""Files that are damaged at random, and readers that are tried on them in processes of their own."""

import faulthandler
import gzip
import io
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from minilm.plumbing.errors import UserError, as_line

SECONDS, GIBIBYTES = 10, 2  # that one reading may take, in memory beside what the process has already
PROCESSES, MOST_KILLED = 2, 3  # at once; how often a process that was killed is followed by another
REPORT = "report.txt"
LONG, DEEP = "x" * 1000, "[" * 100_000
JUNK = [None, True, False, -1, 0, 1, 2, 10**9, 10**18, 1e9, 1.5, 1e-9, float("nan"), float("inf")]
JUNK += ["", "1", "a", LONG, "\x1b[31mred", "\ud800", "é\u2028"]
JUNK += [[], [None], [[1, 2], ["a"]], {}, {"a": None}, {"a": [{}]}]
PARTS = [b"\n", b"\t", b" ", b'"', b",", b"{", b"]", b"\x00", b"\xff", b"\x1b[31m", b"-1", b"NaN", b"1e999"]
PARTS += [b"9" * 5000, LONG.encode(), DEEP.encode(), "\u2028".encode()]


def damage(path: Path, others: list[Path]) -> Callable[[int], bytes]:
    """Return a function that gives the content of a file with damage number n; parts of `others` get in."""
    whole, texts = path.read_bytes(), [other.read_bytes() for other in others]

    def content(n: int) -> bytes:
        draw = random.Random(f"{path.name} {n}")
        return damaged(whole, draw.choice(texts), path.suffix, draw)

    return content


def damaged(data: bytes, other: bytes, suffix: str, draw: random.Random) -> bytes:
    """Return the content with one to three runs of bytes changed, or what its format holds in one place."""
    if suffix == ".gz" and draw.random() < 0.5:
        return gzip.compress(damaged(gzip.decompress(data), other, "", draw), 1, mtime=0)
    if suffix in FORMATS and draw.random() < 0.5:
        with suppress(ValueError, RecursionError):  # half a surrogate pair is no UTF-8
            return FORMATS[suffix](data, draw)
    for _ in range(draw.choice((1, 1, 2, 3))):
        a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        b = draw.choice((b, min(len(data), a + draw.randint(1, 20))))
        flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in data[a : a + 1])
        part = draw.choice((*PARTS, draw.randbytes(draw.randint(1, 9))))
        rest = other[draw.randrange(len(other) + 1) :]
        changed = flipped + data[a + 1 :], part + data[a:], data[b:], b"", data[a:b] + data[a:], rest
        data = data[:a] + draw.choice(changed)
    return data


def restructured(value, draw: random.Random):
    """Return a dictionary or list in which one value, anywhere, is replaced, left out, renamed or doubled."""
    if not isinstance(value, (dict, list)) or not value:
        return draw.choice(JUNK)
    outer, key = None, None
    while outer is None or (isinstance(outer[key], (dict, list)) and outer[key] and draw.random() < 0.7):
        outer = value if outer is None else outer[key]
        key = draw.choice([*outer]) if isinstance(outer, dict) else draw.randrange(len(outer))
    how = draw.choice(("junk", "junk", "junk", "delete", "rename", "double"))
    if how == "junk":
        outer[key] = draw.choice(JUNK)
    elif how == "delete":
        del outer[key]
    elif isinstance(outer, list):
        outer.insert(key, outer[key])
    elif how == "rename":
        outer[draw.choice((f"{key}_x", str(key)[:-1], "", LONG))] = outer.pop(key)
    else:
        outer[draw.choice([*outer])] = outer[key]
    return value


def in_json(data: bytes, draw: random.Random) -> bytes:
    return json.dumps(restructured(json.loads(data), draw), ensure_ascii=draw.random() < 0.5).encode()


def in_a_line(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    i = draw.randrange(len(lines) - 1)
    return b"\n".join([*lines[:i], in_json(lines[i], draw), *lines[i + 1 :]])


def in_header(data: bytes, draw: random.Random) -> bytes:
    n = int.from_bytes(data[:8], "little")
    header = in_json(data[8 : 8 + n], draw)
    return len(header).to_bytes(8, "little") + header + data[8 + n :]


def in_pickle(data: bytes, draw: random.Random) -> bytes:
    file = io.BytesIO()
    torch.save(restructured(torch.load(io.BytesIO(data), weights_only=True), draw), file)
    return file.getvalue()


FORMATS = {".json": in_json, ".jsonl": in_a_line, ".safetensors": in_header, ".pt": in_pickle}


def fault(line: str, names: list[str]) -> str | None:
    """Return what is wrong with the line that a user reads, if anything."""
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in line):
        return "a control character, or more than one line"
    if len(line) > 1200 or re.search(r"(.)\1{100}", line):
        return "longer than 1,200 characters, or a value of more than 100"
    return None if any(name in line for name in names) else f"names none of {', '.join(names)}"


def tried(read: Callable, path: Path, names: list[str]) -> str | None:
    """Read a file, and return what is wrong with how that ends: nothing for a value, or a good UserError."""
    try:
        read(path)
    except UserError as error:
        found = fault(line := as_line(error), names)
        return found and f"{found}: {line[:300]!r}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, a user would see a traceback
        frames = traceback.extract_tb(error.__traceback__)
        at = ([frame for frame in frames if "/minilm/" in frame.filename] or frames)[-1]
        where, what = f"{Path(at.filename).name}, {at.name}", " ".join(str(error).split())
        return f"{type(error).__name__} in {where}: {what[:200]!r}"


def faults(path: Path, read: Callable, content: Callable[[int], bytes], numbers) -> dict[int, str]:
    """Return what goes wrong with the contents of these numbers, each read in a copy of the file's folder."""
    names = os.listdir(path.parent)

    def try_all(folder: Path, numbers, at: mmap.mmap, report) -> None:
        for n in numbers:
            at[:8] = n.to_bytes(8, "little")
            (folder / path.name).unlink()  # a new file is written sooner than an old one
            (folder / path.name).write_bytes(content(n))
            signal.alarm(SECONDS)
            if what := tried(read, folder / path.name, names):
                print(json.dumps((n, what)), file=report, flush=True)

    found, parts = {}, [numbers[i::PROCESSES] for i in range(PROCESSES)]
    children = [(part, *child(path.parent, try_all, part)) for part in parts if part]
    for part, process, folder, at in children:  # grows
        _, status = os.waitpid(process, 0)
        found |= {n: what for n, what in map(json.loads, (folder / REPORT).read_text().splitlines())}
        shutil.rmtree(folder)
        if status:
            n = int.from_bytes(at[:8], "little")
            by = signal.strsignal(os.WTERMSIG(status))
            found[n] = f"the process ends by {by} (after {SECONDS} s: alarm)"
            rest = part[part.index(n) + 1 :]
            if rest and len(children) < PROCESSES + MOST_KILLED:
                children.append((rest, *child(path.parent, try_all, rest)))
    return found


def child(folder: Path, work: Callable, numbers) -> tuple[int, Path, mmap.mmap]:
    """Start a process that works in a copy of a folder; return its number, the copy, and where it notes n.

    It is quiet, its memory is bounded, and it is ended by its alarm wherever it hangs.
    """
    copy, at = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent)), mmap.mmap(-1, 8)
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    (copy / REPORT).touch()
    if process := os.fork():
        return process, copy, at
    try:
        with open(copy / REPORT, "w", encoding="utf-8") as report, open(os.devnull, "w") as nowhere:
            sys.stdout = sys.stderr = nowhere
            faulthandler.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            bound = pages * resource.getpagesize() + GIBIBYTES * 2**30
            resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
            work(copy, numbers, at, report)
        os._exit(0)
    finally:
        os.abort()  # a mistake of the test itself


def told(found: dict[int, str], name: str) -> str:
    """Return the faults, those that are alike in one line with the number that repeats the first of them."""
    groups: dict[str, list[int]] = {}
    for n, what in sorted(found.items()):
        groups.setdefault(re.split(r": ['\"]", what)[0], []).append(n)
    ranked = sorted(groups.values(), key=len, reverse=True)
    lines = [f"{len(some)} times, first damage {some[0]}: {found[some[0]]}" for some in ranked[:15]]
    return f"{len(found)} damages of {name} are not told in one good line:\n" + "\n".join(lines)
