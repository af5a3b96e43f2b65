"""Pairs of texts, a source and its target: what a translator learns from.

    load_pairs("world")                     sentences of the embedded world, English and Portuguese
    load_pairs("pairs.tsv")                 the user's table (.tsv, .csv, .jsonl): source, target
    load_pairs(["train.en", "train.pt"])    two files whose lines belong together

No source text of the validation part is in the training part: no model can have memorised its translation.
"""

from functools import partial
from operator import itemgetter

from .. import world
from ..plumbing.errors import UserError
from .corpus import Corpus, checked_sources, draw, split_by_hash, world_parts
from .files import kind
from .tables import SUFFIXES, read_aligned, read_table

# Source -> domain of the world. Stories alone train in half the time: few words agree with distant ones.
DOMAINS = {"world": "both", "world:stories": "stories", "world:reports": "reports"}
WORLD_TRAIN = 5_000  # pairs
SOURCE = itemgetter(0)


class Pairs(Corpus):
    """The pairs (source, target) of one source of text, in two parts; their floor is not known."""

    def texts(self) -> list[str]:
        """Return both sides of the training pairs, to make one vocabulary for both languages."""
        return [text for pair in self.train for text in pair]

    def summary(self) -> str:
        """Return one line: the name, and the number of pairs in each part."""
        return f"{self.name}: {len(self.train):,} training pairs, {len(self.validation):,} validation pairs"


def load_pairs(source, seed: int = 0, n_pairs: int | None = None, skip_bad: bool = False) -> Pairs:
    """Return the pairs of the world, of one or several tables, or of two aligned files.

    A tenth of the pairs in files is held out, at most 1,000 to validate. `seed` draws `n_pairs` to train.
    """
    sources = checked_sources(source, DOMAINS)
    name = " and ".join(sources)
    if name in DOMAINS:
        write = partial(world.translation_pairs, domain=DOMAINS[name])
        return Pairs(name, *world_parts(write, n_pairs or WORLD_TRAIN, seed, SOURCE))
    tables = [path for path in sources if kind(path) in SUFFIXES]
    if len(tables) == len(sources):
        rows = [row for path in tables for row in read_table(path, ("source", "target"), skip_bad)]
    elif len(sources) == 2 and not tables:
        rows = read_aligned(*sources, skip_bad)
    else:
        known = f"{', '.join(DOMAINS)}, tables of source and target ({', '.join(SUFFIXES)}, or .gz of these)"
        raise UserError(f"{name}: expected {known}, or two files whose lines belong together")
    train, validation = split_by_hash(rows, SOURCE)
    if not train:
        raise UserError(f"{name}: {len(rows)} pairs, none left to train on; needs two different source texts")
    return Pairs(name, draw(train, n_pairs, seed), draw(validation, 1_000, 0))
