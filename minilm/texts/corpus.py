"""Sources of text -> documents, split into a training and a validation part that share no document.

    load_corpus("world")               endless stories of the embedded world, whose floor is known
    load_corpus("python-docs:tkinter") docstrings that every Python carries
    load_corpus(["plays.txt", "corpus/"])  the user's files and folders (minilm/texts/files.py says which)

The split goes by document, never by position inside one: a model that has read the first half of a document
knows much of the second. Nothing here knows about tokens. A source name wins over a file of that name: write
./world for the file.
"""

import hashlib
import os
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .. import world
from ..plumbing.errors import UserError, suggest
from . import files, python_docs

SOURCES = (
    "world",
    "world:reports",
    "world:few-shot",
    "world:few-shot-no-repeats",
    "python-docs",
    "python-docs:PACKAGE",
)
WORLD_TRAIN, WORLD_VALIDATION = 20_000, 1_000  # documents
VALIDATION_SEED = 1_000_003  # added to the seed for the world's validation part
VALIDATION_SHARE = 10  # one part in so many is for validation
FEW_DOCUMENTS = 10  # a file with fewer goes to one part as a whole, where there are other files
PIECE = 1_000  # characters of a piece of a document too long to be dealt out
SHORTEST_PIECE = 100

# An end of sentence mark with closing quotes, then white space and an opening quote or a letter of any script
# ([^\W\d_]); or a line's end. `sentences` then looks whether what follows is lower case.
SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s+(?=["'“‘(\[]|[^\W\d_])|\n\s*""")
LINE_OR_SENTENCE_END = re.compile(r"""\n|[.!?…]["'”’)\]]*\s|。""")
SPACE = re.compile(r"\s")


@dataclass
class Corpus:
    """The documents of one source, in two parts.

    `floor(text)` is a document's log-probability in nats under the source's own grammar: no model's mean loss
    can be expected below the mean of `-floor`. It is None where the grammar is unknown, as for all real text.
    `n_removed` counts the duplicates that were removed, and `notes` are lines worth printing.
    """

    name: str
    train: list[str]
    validation: list[str]
    floor: Callable[[str], float] | None = None
    n_removed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def train_bytes(self) -> int:
        """Bytes (UTF-8) of the training documents, without what separates them."""
        return sum(len(text.encode()) for text in self.train)

    @property
    def validation_bytes(self) -> int:
        """Bytes (UTF-8) of the validation documents, without what separates them."""
        return sum(len(text.encode()) for text in self.validation)

    def summary(self) -> str:
        """Return one line: name, documents and megabytes of both parts."""
        return (
            f"{self.name}: {len(self.train):,} training documents ({self.train_bytes / 1e6:.2f} MB), "
            f"{len(self.validation):,} validation documents ({self.validation_bytes / 1e6:.2f} MB)"
        )


def load_corpus(
    source: str | Path | Sequence[str | Path],
    seed: int = 0,
    n_documents: int | None = None,
    errors: str = "strict",
) -> Corpus:
    """Return the training and validation documents of a source, or of one or several files and folders.

    `n_documents` limits the training part (of `world` it is the size, 20,000 by default): so many of its
    documents are drawn by `seed`, and the validation part stays. `errors="replace"` reads on over invalid
    UTF-8. Raises UserError for an unknown source, for whatever files.py finds wrong, and for a source
    that does not give a document to each part.
    """
    sources = [str(one) for one in ([source] if isinstance(source, str | Path) else source)]
    if n_documents is not None and n_documents < 1:
        raise UserError(f"{n_documents} documents: expected 1 or more")
    families = [name.partition(":")[0] for name in sources]
    if len(sources) > 1 and {"world", "python-docs"} & set(families):
        raise UserError(f"{', '.join(sources)}: only files and folders can be joined; give one named source")
    if families == ["world"]:
        corpus = _world_corpus(sources[0], seed, n_documents or WORLD_TRAIN)
    elif families == ["python-docs"]:
        corpus = _python_docs_corpus(sources[0], seed)
    else:
        corpus = _files_corpus(sources, seed, errors)
    if not corpus.train or not corpus.validation:
        raise UserError(
            f"{corpus.name}: {len(corpus.train)} training and {len(corpus.validation)} validation documents; "
            "needs at least two different documents (a blank line ends one), or a text of some sentences"
        )
    if n_documents is not None and n_documents < len(corpus.train):
        drawn = sorted(random.Random(seed).sample(range(len(corpus.train)), n_documents))
        corpus.train = [corpus.train[i] for i in drawn]
    return corpus


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, by rule.

    One ends after `.`, `!`, `?` (and closing quotes) before a space and a capital or an opening quote, and at
    each line's end unless the next line goes on in lower case. A blank line always ends one.
    Nothing but white space between sentences is lost: `" ".join(sentences(text)).split() == text.split()`.
    Abbreviations are not known: "Mr. Smith" is two sentences.
    """
    parts, start = [], 0
    for end in SENTENCE_END.finditer(text):
        goes_on = text[end.end() : end.end() + 1].islower() and end.group().count("\n") < 2
        if not goes_on:
            parts.append(text[start : end.end()])
            start = end.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def cut(text: str) -> list[str]:
    """Return the pieces of a long text: about 1,000 characters each; of a short one a tenth, at least 100.

    A piece ends with a line or a sentence; where none ends for as long again, with a word; else anywhere.
    """
    size = min(PIECE, max(SHORTEST_PIECE, len(text) // VALIDATION_SHARE))
    pieces, start = [], 0
    while len(text) - start > size:
        end = LINE_OR_SENTENCE_END.search(text, start + size, start + 2 * size)
        end = end or SPACE.search(text, start + size, start + 2 * size)
        stop = end.end() if end else start + 2 * size
        pieces.append(text[start:stop])
        start = stop
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if piece.strip()]


def cut_giant(documents_of_files: list[list[str]]) -> tuple[list[list[str]], int]:
    """Cut the document that is more than half of the whole source, as a text without blank lines is.

    It could be in one part only, and would leave nothing to speak of to the other. Returns the documents of
    each file and the number of pieces, 0 where nothing was cut.
    """
    total = sum(len(text) for documents in documents_of_files for text in documents)
    result, n_pieces = [], 0
    for documents in documents_of_files:
        result.append([])
        for text in documents:
            pieces = cut(text) if 2 * len(text) > total else [text]
            n_pieces += len(pieces) if len(pieces) > 1 else 0
            result[-1] += pieces
    return result, n_pieces


def last_tenth(documents: list[str]) -> int:
    """Return the index of the first document that begins in the last tenth of the bytes, else of the last."""
    sizes = [len(text.encode()) for text in documents]
    total, start = sum(sizes), 0
    for index, size in enumerate(sizes):
        if VALIDATION_SHARE * start >= (VALIDATION_SHARE - 1) * total:
            return index
        start += size
    return len(documents) - 1


def split(documents_of_files: list[list[str]], seed: int) -> tuple[list[str], list[str]]:
    """Return (train, validation) of files given as lists of documents.

    Of a file with ten documents or more, or of an only file, the last tenth is for validation, so that "the
    last 10 % of the file" is what is measured. Smaller files go to one part whole: about a tenth of them,
    drawn by `seed`, is for validation, at least one of two.
    """
    small = [i for i, documents in enumerate(documents_of_files) if len(documents) < FEW_DOCUMENTS]
    if len(documents_of_files) == 1:
        small = []
    n_drawn = max(1, round(len(small) / VALIDATION_SHARE)) if len(small) > 1 else 0
    drawn = set(random.Random(seed).sample(small, n_drawn))
    train, validation = [], []
    for i, documents in enumerate(documents_of_files):
        border = last_tenth(documents)
        if i in small:
            border = 0 if i in drawn else len(documents)
        train += documents[:border]
        validation += documents[border:]
    return train, validation


def split_by_hash(documents: Iterable[str], seed: int) -> tuple[list[str], list[str]]:
    """Return (train, validation): about a tenth for validation, chosen by a hash of seed and text.

    A document is in the same part whichever others stand beside it, so that a domain's validation documents
    were not in the training part of a larger source either. At least the smallest hash is for validation.
    """
    scores = {}
    for text in documents:
        digest = hashlib.sha256(f"{seed} {files.one_line(text)}".encode())
        scores[text] = int(digest.hexdigest(), 16)
    bound = max(2**256 // VALIDATION_SHARE, min(scores.values(), default=0) + 1)
    train = [text for text, score in scores.items() if score >= bound]
    return train, [text for text, score in scores.items() if score < bound]


def without(documents: list[str], others: list[str]) -> list[str]:
    """Return the documents that do not stand among `others`, compared word for word (white space aside)."""
    known = {files.one_line(text) for text in others}
    return [text for text in documents if files.one_line(text) not in known]


def _world_corpus(source: str, seed: int, n_documents: int) -> Corpus:
    """Return stories of two different seeds, without the validation stories that are training stories too."""
    if source not in SOURCES:
        raise UserError(f"{source}: no such domain of the world{suggest(source, SOURCES)}")
    domain = source.partition(":")[2] or "stories"
    if domain.startswith("few-shot"):
        write, floor = partial(world.few_shot_documents, repeats=domain == "few-shot"), None
    else:
        write, floor = partial(world.documents, domain=domain), partial(world.log_probability, domain=domain)
    train = write(n_documents, seed)
    drawn = write(2 * WORLD_VALIDATION, seed + VALIDATION_SEED)
    new = without(drawn, train)
    return Corpus(source, train, new[:WORLD_VALIDATION], floor, n_removed=len(drawn) - len(new))


def _python_docs_corpus(source: str, seed: int) -> Corpus:
    """Return the documents of this Python's own documentation, or of one package, dealt out by hash."""
    train, validation = split_by_hash(python_docs.documents(source.partition(":")[2]), seed)
    return Corpus(source, train, validation)


def _files_corpus(sources: list[str], seed: int, errors: str) -> Corpus:
    """Return the documents of files and folders, dealt out by `split`, none in both parts."""
    documents_of_files, n_empty = _read_files([Path(source) for source in sources], errors)
    documents_of_files, n_pieces = cut_giant(documents_of_files)
    train, validation = split(documents_of_files, seed)
    # Removed from training, so that validation stays the last tenth; within a part a play may repeat itself.
    kept = without(train, validation)
    n_removed = len(train) - len(kept)
    notes = []
    if n_empty:
        notes.append(f"passed over {n_empty:,} empty files")
    if n_pieces:
        notes.append(f"cut one long document into {n_pieces:,} pieces, at line and sentence ends")
    if n_removed:
        notes.append(f"removed {n_removed:,} training documents that stand in the validation part too")
    name = sources[0] + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
    return Corpus(name, kept, validation, n_removed=n_removed, notes=tuple(notes))


def _read_files(paths: list[Path], errors: str) -> tuple[list[list[str]], int]:
    """Return each file's documents and the number of empty files passed over in folders; each file once."""
    if not paths:
        raise UserError("no source given; expected one of " + ", ".join(SOURCES) + ", or files and folders")
    for path in paths:
        if not os.path.exists(path):
            raise files.missing(path, SOURCES)
    found, n_empty, seen = [], 0, set()
    for path in paths:
        for file in files.text_files(path):
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            documents = files.read_documents(file, errors)
            if documents:
                found.append(documents)
            elif file == path:
                raise UserError(f"{file}: empty file; expected text")
            else:
                n_empty += 1
    return found, n_empty
