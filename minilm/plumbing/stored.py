"""Texts and tokens that need not fit into memory: files made once, named by a hash of what they come from."""

import os
import signal
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import chain, count
from multiprocessing import Pool, TimeoutError
from pathlib import Path

import numpy as np

from .errors import UserError
from .folders import atomic_write
from .script import from_first, with_bar

PIECE = 2**22  # bytes of text, about, that a process tokenises at a time
PATIENCE = 300  # seconds to wait for a piece, which takes two or three


def stored(path: Path, make: Callable[[], Iterable[tuple]], dtype) -> tuple[np.ndarray, ...]:
    """Return the memory-mapped array in a file, and the columns of integers in the .npz beside it.

    `make()` yields (data for the file, integers for the first column, for the second, ...). It is called
    only if the file does not exist, in the first process alone; an incomplete file never has that name.
    """

    def write(file) -> None:
        """Write both files, the columns first, as the name of this file says that both are complete."""
        columns = defaultdict(partial(array, "q"))
        for flat, *others in make():
            file.write(flat)
            for i, values in enumerate(others):
                columns[i].extend(values)
        atomic_write(path.with_suffix(".npz"), lambda file: np.savez(file, *columns.values()))

    path.parent.mkdir(parents=True, exist_ok=True)
    from_first(lambda: path.exists() or atomic_write(path, write))
    with np.load(path.with_suffix(".npz")) as columns:
        return np.asarray(np.memmap(path, dtype, "r")), *columns.values()


class StoredTexts(Sequence):
    """The `chosen` texts of a file, cut at its `edges`: texts[3] reads one, texts[[3, 4]] selects two."""

    def __init__(self, path: Path, edges: np.ndarray, chosen: np.ndarray):
        self.path, self.edges, self.chosen = path, edges, chosen
        self.mean = edges[-1] / len(edges)  # bytes of a text, about
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - a memory map would become resident

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i):
        chosen = self.chosen[i]
        if np.ndim(chosen):
            return StoredTexts(self.path, self.edges, chosen)
        self.file.seek(self.edges[chosen])
        return self.file.read(self.edges[chosen + 1] - self.edges[chosen]).decode()


def token_rows(documents: Sequence[str], tokenizer, rows_of: Callable, *options, first=()) -> tuple:
    """Return the ids of all rows, one after another; each row's length; how many rows each document has.

    rows_of(tokenizer, document, *options) returns the rows of one document. The texts `first` come first.
    The ids of `StoredTexts` are in a file beside the texts, made by one process per core. Each piece is a
    file of its own until all are there, so that a command that was killed goes on from where it was.
    """
    encode = partial(encoded, tokenizer, rows_of, options)
    if not isinstance(documents, StoredTexts):
        return encode(with_bar([*first, *documents], "tokens"))
    dtype, n = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32, int(PIECE / documents.mean) + 1
    saved = [getattr(tokenizer, name) for name in tokenizer.SAVED]
    what = ascii((documents.path.name, type(tokenizer), saved, rows_of.__name__, options, first)).encode()
    key = sha256(what + documents.chosen.tobytes()).hexdigest()[:16]
    path = documents.path.with_name(f"tokens-{key}.bin")

    def pieces() -> Iterator[tuple]:
        """Yield what `encoded` returns for `n` documents at a time, in order."""
        starts = with_bar(range(0, len(documents), n), "tokens")
        texts = chain([first], ([*documents[i : i + n]] for i in starts))
        names = (path.with_suffix(f".{n}-{i}.npz") for i in count())
        with Pool(os.cpu_count(), follow_parent) as pool:
            made = pool.imap(partial(piece, encode), zip(names, texts, strict=False))
            pool.close()  # its processes end by themselves after the last piece
            try:
                for ids, *others in iter(partial(made.next, PATIENCE), None):  # all: no piece is None
                    yield ids.astype(dtype), *others
            except TimeoutError:  # a killed process loses its piece without an error
                raise UserError(f"{path}: a process died (out of memory?); run the command again") from None
            pool.join()  # before they are signalled to end: one that is still beginning can lose a signal

    found = stored(path, pieces, dtype)
    for name in path.parent.glob(f"{path.stem}.{n}-*.npz"):
        name.unlink(missing_ok=True)
    return found


def piece(encode: Callable, work: tuple[Path, list[str]]) -> list[np.ndarray]:
    """Return what `encode` returns for the texts, from the file `name`, which is written unless it exists."""
    name, texts = work
    if not name.exists():
        atomic_write(name, lambda file: np.savez(file, *encode(texts)))
    with np.load(name) as arrays:  # all at once: another run, if it ends first, deletes it
        return [*arrays.values()]


def follow_parent() -> None:
    """Leave Ctrl-C to the process that waits for this one, and end when that one says so (SIGTERM)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def encoded(tokenizer, rows_of: Callable, options: tuple, texts: Iterable[str]) -> tuple[np.ndarray, ...]:
    """Return what `token_rows` does, for these texts."""
    ids, lengths, counts = array("i"), array("i"), array("i")  # four bytes each, where a list takes eight
    for text in texts:
        rows = rows_of(tokenizer, text, *options)
        ids.extend(chain.from_iterable(rows))
        lengths.extend(map(len, rows))
        counts.append(len(rows))
    return np.array(ids), np.array(lengths), np.array(counts)
