"""Pairs of texts, a source and its target: what a translator learns from.

    load_pairs("world")                     sentences of the embedded world, English and Portuguese
    load_pairs("pairs.tsv")                 the user's table (.tsv, .csv, .jsonl): source, target
    load_pairs(["train.en", "train.pt"])    two files whose lines belong together

No source of the validation part stands in the training part, so a model cannot have learnt its answer by
heart.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..plumbing.errors import UserError, suggest
from ..world import translation_pairs
from . import files
from .corpus import VALIDATION_SEED, VALIDATION_SHARE
from .tables import SUFFIXES, read_aligned, read_table

# Source -> domain of the world. Stories alone are learnt in half the time: seldom do they need an agreement
# across the sentence, as in "oito mochilas e cinco réguas foram escolhidas".
DOMAINS = {"world": "both", "world:stories": "stories", "world:reports": "reports"}
WORLD_TRAIN, WORLD_VALIDATION = 5_000, 1_000  # pairs
MOST_VALIDATION = 1_000  # pairs of a file: to translate more would take longer than it tells

Pair = tuple[str, str]  # source, target


@dataclass
class Pairs:
    """The pairs of one source, in two parts.

    `n_skipped` counts the bad rows that were left out, and `notes` are lines worth printing.
    """

    name: str
    train: list[Pair]
    validation: list[Pair]
    notes: tuple[str, ...] = ()
    n_skipped: int = 0

    def texts(self) -> list[str]:
        """Return both sides of the training pairs: what one vocabulary for both languages is made of."""
        return [text for pair in self.train for text in pair]

    def summary(self) -> str:
        """Return one line: name, and pairs of both parts."""
        return f"{self.name}: {len(self.train):,} training pairs, {len(self.validation):,} validation pairs"


def load_pairs(
    source: str | Path | Sequence[str | Path],
    seed: int = 0,
    n_pairs: int | None = None,
    skip_bad: bool = False,
) -> Pairs:
    """Return the pairs of the world, of a table (several are joined), or of two aligned files.

    Of files the last tenth is for validation (`split_pairs`). `n_pairs` limits the training part: of the
    world it is the size, of files so many are drawn by `seed`. `skip_bad` leaves out and counts rows with an
    empty side or another number of columns. Raises UserError for those without `skip_bad`, for whatever
    minilm/texts/tables.py finds wrong, for an unknown source, and where a part would be empty.
    """
    sources = [str(one) for one in ([source] if isinstance(source, str | Path) else source)]
    if n_pairs is not None and n_pairs < 1:
        raise UserError(f"{n_pairs} pairs: expected 1 or more")
    worlds = [name for name in sources if name.partition(":")[0] == "world"]
    if worlds and len(sources) > 1:
        raise UserError(f"{', '.join(sources)}: only files can be joined; give {worlds[0]} alone")
    if worlds:
        return _world_pairs(sources[0], seed, n_pairs or WORLD_TRAIN)
    pairs = _file_pairs(sources, skip_bad)
    if n_pairs is not None and n_pairs < len(pairs.train):
        drawn = sorted(random.Random(seed).sample(range(len(pairs.train)), n_pairs))
        pairs.train = [pairs.train[i] for i in drawn]
    return pairs


def split_pairs(pairs: list[Pair]) -> tuple[list[Pair], list[Pair], int]:
    """Return (train, validation, number removed): the last tenth, at most 1,000 pairs, is for validation.

    Training pairs with the source of a validation pair are removed, compared word for word.
    """
    n = min(MOST_VALIDATION, max(1, len(pairs) // VALIDATION_SHARE))
    train = unseen(pairs[:-n], pairs[-n:])
    return train, pairs[-n:], len(pairs) - n - len(train)


def unseen(pairs: list[Pair], others: list[Pair]) -> list[Pair]:
    """Return the pairs whose source is not the source of one of `others`, white space aside."""
    known = {files.one_line(source) for source, _ in others}
    return [pair for pair in pairs if files.one_line(pair[0]) not in known]


def _world_pairs(source: str, seed: int, n_pairs: int) -> Pairs:
    """Return pairs of two different seeds, without the validation pairs whose English was trained on."""
    if source not in DOMAINS:
        raise UserError(f"{source}: no such pairs of the world{suggest(source, DOMAINS)}")
    train = translation_pairs(n_pairs, seed, DOMAINS[source])
    drawn = translation_pairs(2 * WORLD_VALIDATION, seed + VALIDATION_SEED, DOMAINS[source])
    return Pairs(source, train, unseen(drawn, train)[:WORLD_VALIDATION])


def _file_pairs(sources: list[str], skip_bad: bool) -> Pairs:
    """Return the pairs of one or several tables, or of two aligned files."""
    rows, n_skipped = _read(sources, skip_bad)
    train, validation, n_removed = split_pairs(rows)
    name = " and ".join(sources)
    if not train:
        raise UserError(f"{name}: {len(rows)} pairs, none left to train on; needs two different sources")
    notes = []
    if n_skipped:
        notes.append(f"left out {n_skipped:,} rows that are no pair (--skip-bad)")
    if n_removed:
        notes.append(f"removed {n_removed:,} training pairs whose source stands in the validation part too")
    return Pairs(name, train, validation, tuple(notes), n_skipped)


def _read(sources: list[str], skip_bad: bool) -> tuple[list[Pair], int]:
    """Return (pairs, n_skipped) of the files."""
    for path in map(Path, sources):
        if not os.path.exists(path):
            raise files.missing(path, tuple(DOMAINS))
    tables = [path for path in sources if files.kind(Path(path)) in SUFFIXES]
    if tables and len(tables) == len(sources):
        read = [read_table(path, ("source", "target"), skip_bad) for path in tables]
        return [row for rows, _ in read for row in rows], sum(n for _, n in read)
    if len(sources) == 2 and not tables:
        return read_aligned(*sources, skip_bad)
    raise UserError(
        f"{', '.join(sources) or 'no source'}: expected {', '.join(DOMAINS)}, tables of source and target "
        f"({', '.join(SUFFIXES)}, or .gz of these), or two files whose lines belong together"
    )
