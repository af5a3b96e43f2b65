"""Documents for in-context learning: `key label key label ...`, with a new mapping in every document.

A mapping cannot be stored in the weights: it has to be read from the document. Three kinds: *lookup* (a key
has the label it had before), *category* (that of its place), *repeat* (random words, then the same again).
What the tests ask of things never stood in a training document: `held_out_pair` keeps some (place, label)
pairings apart, and the held-out things of the world occur in stories alone. Nonce keys had every label.
"""

import random
from itertools import cycle, pairwise

from .story import Story
from .words import HELD_OUT, HELD_OUT_THINGS, MOODS, NAMES, PLACES, THINGS, VERBS, place_of

LABEL_WORDS = ("moon", "star", "wind", "snow", "gold", "iron", "wood", "salt")
_STARTS, _ENDS = ("bo", "fa", "gi", "ku", "lo", "mi", "ne", "po"), ("zak", "wix", "juf", "vop", "deg")
NONCE_WORDS = tuple(start + end for start in _STARTS for end in _ENDS)
KNOWN_THINGS = {place: tuple(thing for thing in THINGS[place] if thing not in HELD_OUT) for place in PLACES}
N_PAIRS, SHARE_NONCE = 9, 0.3


def held_out_pair(place: str, label: str) -> bool:
    """Return whether a place, and so each of its things, never has this label in training (2 of 8)."""
    return (PLACES.index(place) + LABEL_WORDS.index(label)) % 4 == 0


def labels_for(place: str | None, split: str) -> list[str]:
    """Return the labels for a place: in "test" the held-out ones, in "train" the others; for None all."""
    return [w for w in LABEL_WORDS if place is None or held_out_pair(place, w) == (split == "test")]


def few_shot_pairs(seed: int, index: int, kind: str, split="train", n_pairs=N_PAIRS, items=None) -> list:
    """Return document number `index` as (key, label) pairs; the last pair is the one to ask in a test.

    `kind`: lookup, category or repeat. `items`, the keys: "known" things, "nonce" words, held-out things of
    "stories"; None: those of training.
    """
    rng = random.Random(f"few-shot {kind} {split} {items} {n_pairs} {seed} {index}")
    if kind == "repeat":
        return repeat(rng, n_pairs)
    return (lookup if kind == "lookup" else category)(rng, split, n_pairs, items)


def different_labels(rng: random.Random, places: list[str | None], split: str) -> list[str]:
    """Return a label for a key of each place, no label twice where that is possible."""
    labels = []
    for place in places:
        allowed = labels_for(place, split)
        labels.append(rng.choice([label for label in allowed if label not in labels] or allowed))
    return labels


def lookup(rng: random.Random, split: str, n_pairs: int, items: str | None) -> list[tuple[str, str]]:
    """2-4 keys with a label each, in random order; the last key has stood before, where there is a before."""
    keys = []
    while len(keys) < 2 + rng.randrange(3):  # drawn anew at each key: most often 3
        nonce = items == "nonce" or (items is None and rng.random() < SHARE_NONCE)
        things = HELD_OUT_THINGS if items == "stories" else KNOWN_THINGS
        key = rng.choice(NONCE_WORDS) if nonce else rng.choice(things[rng.choice(PLACES)])
        keys += [key] if key not in keys else []
    label = dict(zip(keys, different_labels(rng, [place_of(key) for key in keys], split), strict=True))
    order = [rng.choice(keys) for _ in range(n_pairs)]
    if n_pairs > 1:
        order[-1] = rng.choice(order[:-1])
    return [(key, label[key]) for key in order]


def category(rng: random.Random, split: str, n_pairs: int, items: str | None) -> list[tuple[str, str]]:
    """Two places with a label each; things of both, each place's things in turn before one comes again."""
    places = rng.sample(PLACES, 2)
    labels = different_labels(rng, places, split)
    things = [cycle(rng.sample(KNOWN_THINGS[place], len(KNOWN_THINGS[place]))) for place in places]
    pairs = [(next(things[side]), labels[side]) for side in (rng.randrange(2) for _ in range(n_pairs))]
    if items == "stories":
        side = rng.randrange(2)
        pairs[-1] = (rng.choice(HELD_OUT_THINGS[places[side]]), labels[side])
    return pairs


def repeat(rng: random.Random, n_pairs: int) -> list[tuple[str, str]]:
    """3 to n_pairs random words over and over, 2 n_pairs in all; no thing before a label held out for it."""
    # words of all kinds: finding the earlier place of a word must not be an art for keys alone
    words = [*LABEL_WORDS, *NONCE_WORDS, *(thing for things in KNOWN_THINGS.values() for thing in things)]
    words += [*NAMES, *MOODS, *(verb for place in PLACES for verb in VERBS[place] if verb not in HELD_OUT)]
    while True:
        period = rng.sample(words, rng.randint(3, max(3, n_pairs)))
        line = [period[i % len(period)] for i in range(2 * n_pairs)]
        if all(b not in LABEL_WORDS or b in labels_for(place_of(a), "train") for a, b in pairwise(line)):
            return list(zip(line[::2], line[1::2], strict=True))


def few_shot_documents(n: int, seed: int, repeats: bool = True) -> list[str]:
    """Return 30 % stories; of the rest 30 % lookup, 30 % category, 40 % repeats (or without these)."""
    documents = []
    for index in range(n):
        rng = random.Random(f"few-shot mixture {seed} {index}")
        if rng.random() < 0.3:
            documents.append(Story(seed, index).text)
        else:
            kind = rng.choices(("lookup", "category", "repeat"), (0.3, 0.3, 0.4 if repeats else 0.0))[0]
            # With a space before each word, the first too: a byte-level BPE keeps the space with the word
            # (Radford et al. 2019), and the first key must be the same token as that key later on.
            documents.append("".join(f" {w}" for pair in few_shot_pairs(seed, index, kind) for w in pair))
    return documents
