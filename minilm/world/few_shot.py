"""Documents for in-context learning: `key label key label ...`, with a new mapping in every document.

Nothing about a mapping can be stored in the weights; it has to be read from the document. Three kinds:
*lookup* (the label of a key is the one it had before), *category* (the label depends on the place that the
key belongs to), *repeat* (random words, then the same words again; whether they help is measured in the
README). What the tests ask never stood in a training document: `held_out_pair` keeps some (place, label)
pairings apart, and the held-out things of the world occur in stories only.
"""

import random
from itertools import pairwise

from ..plumbing.errors import UserError, suggest
from .story import Story, place_of
from .words import HELD_OUT_THINGS, HELD_OUT_VERBS, MOODS, NAMES, PLACES, THINGS, VERBS

LABEL_WORDS = ("moon", "star", "wind", "snow", "gold", "iron", "wood", "salt")
NONCE_WORDS = tuple(
    start + end
    for start in ("bo", "fa", "gi", "ku", "lo", "mi", "ne", "po")
    for end in ("zak", "wix", "juf", "vop", "deg")
)
KINDS = ("lookup", "category", "repeat")
SPLITS = ("train", "test")
ITEMS = ("known", "stories", "nonce")
N_PAIRS = 9
SHARE_NONCE = 0.3
KNOWN_THINGS = {place: tuple(t for t in THINGS[place] if t not in HELD_OUT_THINGS[place]) for place in PLACES}


def held_out_pair(place: str, label: str) -> bool:
    """Return whether a place, and so each of its things, never has this label in training (2 of 8)."""
    return (PLACES.index(place) + LABEL_WORDS.index(label)) % 4 == 0


def labels_for(key: str, split: str) -> list[str]:
    """Return the labels a key may have: for a thing the held-out ones in "test", the others in "train"."""
    place = place_of(key)
    if place is None:
        return list(LABEL_WORDS)
    return [label for label in LABEL_WORDS if held_out_pair(place, label) == (split == "test")]


def few_shot_pairs(
    seed: int, index: int, kind: str, split: str = "train", n_pairs: int = N_PAIRS, items: str | None = None
) -> list[tuple[str, str]]:
    """Return document number `index` as (key, label) pairs; the last pair is the one to ask in a test.

    `items` says which keys are asked. None: known things, in lookup documents nonce words too (30 %).
    "known": known things only. "nonce" (lookup): nonce words only. "stories": held-out things, which no
    training document has; in a category document the examples stay known, and the last key alone is such a
    thing.
    """
    for value, known in ((kind, KINDS), (split, SPLITS), (items, (None, *ITEMS))):
        if value not in known:
            raise UserError(f"unknown {value!r}{suggest(str(value), known)}; expected one of {known}")
    rng = random.Random(f"few-shot {kind} {split} {items} {n_pairs} {seed} {index}")
    if kind == "lookup":
        return _lookup(rng, split, n_pairs, items)
    return _category(rng, split, n_pairs, items) if kind == "category" else _repeat(rng, n_pairs)


def _lookup(rng, split, n_pairs, items):
    """2-4 keys with a label each, in random order; the last key has stood before, where there is a before."""
    keys = []
    while len(keys) < 2 + rng.randrange(3):
        nonce = items == "nonce" or (items is None and rng.random() < SHARE_NONCE)
        table = HELD_OUT_THINGS if items == "stories" else KNOWN_THINGS
        key = rng.choice(NONCE_WORDS) if nonce else rng.choice(table[rng.choice(PLACES)])
        keys += [key] if key not in keys else []
    labels = _different_labels(rng, keys, split)
    order = [rng.choice(keys) for _ in range(n_pairs)]
    if n_pairs > 1:
        order[-1] = rng.choice(order[:-1])
    return [(key, labels[key]) for key in order]


def _category(rng, split, n_pairs, items):
    """Two places with a label each; things of both, each place's things in turn before one comes again."""
    places = rng.sample(PLACES, 2)
    by_key = _different_labels(rng, [THINGS[place][0] for place in places], split)
    labels = [by_key[THINGS[place][0]] for place in places]
    shuffled = [rng.sample(KNOWN_THINGS[place], len(KNOWN_THINGS[place])) for place in places]
    pairs, used = [], [0, 0]
    for _ in range(n_pairs):
        side = rng.randrange(2)
        pairs.append((shuffled[side][used[side] % len(shuffled[side])], labels[side]))
        used[side] += 1
    if items == "stories":
        side = rng.randrange(2)
        pairs[-1] = (rng.choice(HELD_OUT_THINGS[places[side]]), labels[side])
    return pairs


def _different_labels(rng, keys, split) -> dict[str, str]:
    """Return a label for each key, no label twice where that is possible."""
    labels = {}
    for key in keys:
        allowed = labels_for(key, split)
        labels[key] = rng.choice([label for label in allowed if label not in labels.values()] or allowed)
    return labels


def _repeat(rng, n_pairs):
    """3 to n_pairs random words over and over, 2 n_pairs in all; no thing before a label held out for it."""
    # words of all kinds: finding the earlier place of a word must not be an art for keys alone
    words = [*LABEL_WORDS, *NONCE_WORDS, *(thing for things in KNOWN_THINGS.values() for thing in things)]
    words += [*NAMES, *MOODS, *(v for p in PLACES for v in VERBS[p] if v not in HELD_OUT_VERBS[p])]
    while True:
        period = rng.sample(words, rng.randint(3, max(3, n_pairs)))
        line = [period[i % len(period)] for i in range(2 * n_pairs)]
        if all(b not in LABEL_WORDS or b in labels_for(a, "train") for a, b in pairwise(line)):
            return list(zip(line[::2], line[1::2], strict=True))


def few_shot_text(pairs: list[tuple[str, str]]) -> str:
    """Return the pairs as a line of words: " apple moon cup star apple moon".

    It begins with a space: a byte-level BPE keeps the space with the word (Radford et al. 2019), so without
    it the first key would be another token than the same key later on.
    """
    return "".join(f" {word}" for pair in pairs for word in pair)


def few_shot_documents(n: int, seed: int, repeats: bool = True) -> list[str]:
    """Return the training mixture: 30 % stories; of the rest 30 % lookup, 30 % category, 40 % repeats.

    Without `repeats` lookup and category documents stand in their place.
    """
    shares = (0.3, 0.3, 0.4 if repeats else 0.0)
    documents = []
    for index in range(n):
        rng = random.Random(f"few-shot mixture {seed} {index}")
        if rng.random() < 0.3:
            documents.append(Story(seed, index).text)
        else:
            kind = rng.choices(KINDS, shares)[0]
            documents.append(few_shot_text(few_shot_pairs(seed, index, kind)))
    return documents
