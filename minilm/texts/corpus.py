"""Sources of text -> documents, split into a training and a validation part that share no document.

    load_corpus("world")                   endless stories of the embedded world, whose floor is known
    load_corpus("python-docs")             the reference text and the docstrings that every Python carries
    load_corpus(["plays.txt", "corpus/"])  the user's files and folders (minilm/texts/files.py says which)
    load_corpus(["plays.txt:3", "web/:1"]) the same, with 3/4 of the training bytes from the first

The split is by document: a model that has read the first half of one knows much of the second. In files and
python-docs a hash of its words decides a document's part (a file of under ten documents, if there are others,
stays whole). So of twenty documents or more, neither another seed nor a later run on more files puts a
validation document into training. A source name wins over a file of that name: write ./world for the file.
"""

import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np

from .. import world
from ..plumbing.errors import UserError, suggest
from ..plumbing.script import with_bar
from ..plumbing.stored import StoredTexts, stored
from .files import BLOCK, LARGE, kind, missing, one_line, read_documents, text_files
from .python_docs import python_docs

SOURCES = ("world", "world:reports", "world:portuguese", "world:portuguese-reports", "world:few-shot")
SOURCES += ("world:few-shot-no-repeats", "python-docs")
WORLD_TRAIN, WORLD_VALIDATION = 20_000, 1_000  # documents
VALIDATION_SEED = 1_000_003  # added to the seed for the world's validation part
VALIDATION_SHARE = 10  # one part in this many is for validation
PIECE, SHORTEST_PIECE = 1_000, 100  # characters in a piece of a long document: usually, at least
SAMPLE = 20_000_000  # bytes, about, of stored text for a vocabulary, and for validation
LINE_OR_SENTENCE_END = re.compile(r"""\n|[.!?…؟۔।॥]["'”’»)\]]*\s|[。！？｡][”’」』）]*""")
WEIGHTED = re.compile(r"(.*?)(?::(\d*\.?\d+))?", re.DOTALL)


@dataclass
class Corpus:
    """The documents of one source, in two parts."""

    name: str
    train: Sequence[str]  # a list, or `StoredTexts` of more text than memory holds
    validation: list[str]
    floor: Callable[[str], float] | None = None  # log-probability in nats under the source's own grammar
    notes: tuple[str, ...] = ()  # lines worth printing

    def texts(self) -> list[str]:
        """Return the texts to make a vocabulary of: the training texts, or a sample of stored ones."""
        n_text = int(SAMPLE / self.train.mean) if isinstance(self.train, StoredTexts) else None
        return draw(self.train, n_text, 0)

    def watched(self, n_row: int, context: int) -> "Corpus":
        """Return this corpus with about `n_row` validation rows (8 texts or more), chosen by their hashes."""
        ranked = sorted(self.validation, key=digest)
        n_rows = accumulate(max(1, len(text.encode()) // (3 * context)) for text in ranked)  # 3 bytes a token
        kept = {*ranked[: max(8, sum(n <= n_row for n in n_rows))]}
        few, n = [text for text in self.validation if text in kept], len(self.validation)
        note = f"{len(few):,} of {n:,} validation documents are used, about {n_row:,} rows (--eval-rows)"
        return self if len(few) == n else replace(self, validation=few, notes=(*self.notes, note))

    @property
    def train_bytes(self) -> int:
        """Return the number of UTF-8 bytes in the training documents, without separators."""
        return sum(len(text.encode()) for text in self.train)

    def summary(self) -> str:
        """Return one line: the name, and the documents and megabytes of both parts."""
        train = f"{len(self.train):,} training documents ({self.train_bytes / 1e6:.2f} MB)"
        megabytes = sum(len(text.encode()) for text in self.validation) / 1e6
        return f"{self.name}: {train}, {len(self.validation):,} validation documents ({megabytes:.2f} MB)"


def load_corpus(source, seed: int = 0, n_documents=None, errors: str = "strict", store=None) -> Corpus:
    """Return the corpus of a source, or of one or several files and folders; UserError for an empty part.

    `seed` draws `n_documents` for training (none: all; of the world 20,000). `errors="replace"` accepts bad
    UTF-8. Texts of files of over `LARGE` bytes in all stay in the folder `store`, if given, not in memory.
    """
    sources, weights = weights_of([source] if isinstance(source, str | Path) else source)
    name, domain = checked_sources(sources, SOURCES, weights)[0], sources[0].partition(":")[2] or "stories"
    if name not in SOURCES:
        corpus = files_corpus(sources, errors, store, weights)
    elif name == "python-docs":
        corpus = Corpus(name, *split_by_hash(python_docs()))
    else:
        write, floor = partial(world.documents, domain=domain), partial(world.log_probability, domain=domain)
        if domain.startswith("few-shot"):
            write, floor = partial(world.few_shot_documents, repeats=domain == "few-shot"), None
        corpus = Corpus(name, *world_parts(write, n_documents or WORLD_TRAIN, seed), floor)
    if not corpus.train or not corpus.validation:
        found = f"{len(corpus.train)} training and {len(corpus.validation)} validation documents"
        expected = "at least two different documents (a blank line ends one), or a text of several sentences"
        raise UserError(f"{corpus.name}: found {found}, expected {expected}")
    corpus.train = draw(corpus.train, n_documents, seed)
    return corpus


def checked_sources(source, known: Iterable[str], weights=None) -> list[str]:
    """Return a list: one known source, or existing files and folders; UserError for anything else."""
    sources = [str(one) for one in ([source] if isinstance(source, str | Path) else source)]
    for name in sources:
        if name.partition(":")[0] not in ("world", "python-docs"):
            if not os.path.exists(name):
                raise missing(Path(name), tuple(known))
        elif len(sources) > 1 or weights is not None:
            raise UserError(f"{name} stands alone, without a weight: only files and folders can be joined")
        elif name not in known:
            raise UserError(f"{name}: expected one of {', '.join(known)}{suggest(name, known)}")
    return sources


def weights_of(sources: Iterable[str | Path]) -> tuple[list[str], np.ndarray | None]:
    """Return the names and weights of sources such as `plays.txt:0.7`; UserError if only some have one."""
    found = [(s, None) if os.path.exists(s) else WEIGHTED.fullmatch(str(s)).groups() for s in sources]
    names, weights = [str(name) for name, _ in found], [float(weight or 0) for _, weight in found]
    if any(weights) and not all(weights):
        raise UserError(f"{names[weights.index(0)]}: no weight above 0; give each one (a.txt:0.7), or none")
    return names, np.array(weights) if any(weights) else None


def draw(items: Sequence, n: int | None, seed) -> Sequence:
    """Return n items, drawn by a seed, in their order; all if n is none or there are no more."""
    if n is None or n >= len(items):
        return items
    return taken(items, sorted(random.Random(seed).sample(range(len(items)), n)))


def taken(items: Sequence, chosen: list[int]) -> Sequence:
    """Return the items whose indices are `chosen`; stored texts stay in their file."""
    return items[chosen] if isinstance(items, StoredTexts) else [items[i] for i in chosen]


def digest(text: str) -> int:
    """Return a hash of the words of a text, a number below 2^63."""
    return int.from_bytes(sha256(one_line(text).encode()).digest()[:8], "big") >> 1


def split_by_hash(items: Iterable, text_of: Callable = str) -> tuple[list, list]:
    """Return (train, validation): a hash of an item's text alone puts a tenth of the items into validation.

    Few texts are an exception: of four or more, at least two are held out, and at least two are left.
    """
    items = list(items)
    held = is_held_out([digest(text_of(item)) for item in items])
    return tuple([item for item, is_held in zip(items, held, strict=True) if is_held == s] for s in (0, 1))


def is_held_out(scores: Sequence[int]) -> np.ndarray:
    """Return for each digest whether its text is held out for validation."""
    ranked = np.unique(scores)
    least = 2 if len(ranked) > 3 else 1  # two: a text, and another that does not follow it
    n_held = (ranked <= 2**63 // VALIDATION_SHARE).sum()
    return np.isin(scores, ranked[: max(1, min(max(n_held, least), len(ranked) - least))])


def without(items: Sequence, others: Sequence, text_of: Callable = str) -> Sequence:
    """Return the items whose text is not among the texts of `others`; runs of white space are one space."""
    known = {one_line(text_of(item)) for item in others}
    return taken(items, [i for i, item in enumerate(items) if one_line(text_of(item)) not in known])


def world_parts(write: Callable, n: int, seed: int, text_of: Callable = str) -> tuple[list, list]:
    """Return (train, validation), written with two seeds; no text of validation is in train too."""
    train, drawn = write(n, seed), write(2 * WORLD_VALIDATION, seed + VALIDATION_SEED)
    return train, without(drawn, train, text_of)[:WORLD_VALIDATION]


def files_corpus(sources: list[str], errors: str, store: Path | None = None, weights=None) -> Corpus:
    """Return the corpus of files, each read once; of several files, a small one is not split.

    Files of over `LARGE` bytes in all: texts are kept in a file in `store`, about `SAMPLE` bytes validate.
    No document is in both parts. `weights` give each source its share of the bytes: see `with_shares`.
    """
    files = {file.resolve(): (file, i) for i, name in enumerate(sources) for file in text_files(Path(name))}
    files, source_of = zip(*files.values(), strict=True)
    found, several = (read_documents(file, errors) for file in with_bar(files, "files")), len(files) > 1
    if is_large := store is not None and sum(map(os.path.getsize, files)) > LARGE:
        path = store / f"texts-{content(files)}-{errors}.bin"
        cut_up = with_digests(found, LARGE / 8, several)
        rows = lambda: ((data := s.encode(), [len(data)], [side], [own], [n]) for s, side, own, n in cut_up)
        _, sizes, scores, words, file_of = stored(path, rows, np.uint8)
        texts = StoredTexts(path, np.append(0, sizes.cumsum()), np.arange(len(sizes)))
        notes = {f"{{:,}} documents are kept in {path}": len(texts)}  # printed unless its number is 0
    else:
        found = [[*documents] for documents in found]
        # Cut what has over half of all characters (a text without blank lines): whole, it would fill a part.
        half = sum(len(text) for documents in found for text in documents) / 2
        texts, scores, words, file_of = [*zip(*with_digests(found, half, several), strict=True)] or [()] * 4
        n_more = len(texts) - sum(map(len, found))
        notes = {"skipped {:,} empty files": found.count([])}
        notes["cut one long document into {:,} pieces, at line and sentence ends"] = n_more and n_more + 1
    held = is_held_out(scores)
    kept, chosen = ~held & ~np.isin(words, np.extract(held, words)), held.nonzero()[0]
    if is_large:
        ranked = chosen[words[chosen].argsort()]
        chosen = np.sort(ranked[: max(8, sizes[ranked].cumsum().searchsorted(SAMPLE))])
    n_removed = len(texts) - held.sum() - kept.sum()
    notes["removed {:,} training documents that are in the validation set too"] = n_removed
    name = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
    notes, kept = [note.replace("{:,}", f"{n:,}") for note, n in notes.items() if n], kept.nonzero()[0]
    if weights is not None:
        sizes = sizes if is_large else np.array([len(text.encode()) for text in texts])
        kept, told = with_shares(kept, np.take(source_of, file_of)[kept], sizes[kept], weights, sources)
        notes += told
    return Corpus(name, taken(texts, kept), [*taken(texts, chosen)], notes=tuple(notes))


def with_shares(texts, source_of, sizes, weights, names) -> tuple[np.ndarray, list[str]]:
    """Return the indices `texts` (n,), repeated so that the sources' bytes follow `weights` (S,); and notes.

    All texts come once before any comes again: a text beside its copy would teach only to copy.
    """
    n_byte = np.bincount(source_of, sizes, len(weights))  # (S,)
    if not n_byte.all():
        raise UserError(f"{names[n_byte.argmin()]}: no training text of its own, so it can have no weight")
    times = weights / n_byte / (weights / n_byte).min()  # (S,), 1.0 for the source that needs no repeats
    n_copy = np.diff(np.floor(times[source_of].cumsum() + 1e-6), prepend=0)  # (n,), 2.5 times: 2, 3, 2, ...
    told = "{}: {:.2f} of the training bytes, each text {:.1f} times"
    notes = [told.format(*row) for row in zip(names, weights / weights.sum(), times, strict=True)]
    return np.concatenate([texts[n_copy > n] for n in range(int(n_copy.max()))]), notes


def content(files: list[Path]) -> str:
    """Return a hash of what is in the files: 16 hexadecimal digits."""
    found = sha256(ascii(["file of", *((kind(file), file.stat().st_size) for file in files)]).encode())
    for file in files:
        with open(file, "rb") as opened:
            while block := opened.read(BLOCK):
                found.update(block)
    return found.hexdigest()[:16]


def with_digests(found: Iterable[Iterable[str]], longest: float, several: bool) -> Iterator[tuple]:
    """Yield (document, digest that decides its part, own digest, file number); cut those over `longest`."""
    for number, documents in enumerate(found):
        parts = chain.from_iterable(cut(text) if len(text) > longest else [text] for text in documents)
        first = [*islice(parts, 10)]
        whole = digest(" ".join(first)) if several and len(first) < 10 else None
        for text, own in ((text, digest(text)) for text in chain(first, parts)):
            yield text, own if whole is None else whole, own, number


def cut(text: str) -> list[str]:
    """Return pieces of about 1,000 characters, or a tenth of it, that end with a line, sentence or word."""
    size = min(PIECE, max(SHORTEST_PIECE, len(text) // VALIDATION_SHARE))
    pieces, start = [], 0
    while len(text) - start > size:
        window = (text, start + size, start + 2 * size)
        end = LINE_OR_SENTENCE_END.search(*window) or re.compile(r"\s").search(*window)
        pieces.append(text[start : end.end() if end else start + 2 * size])
        start += len(pieces[-1])
    return [piece.strip() for piece in [*pieces, text[start:]] if piece.strip()]
