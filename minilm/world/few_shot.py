"""Documents for in-context learning: `key label key label ...`, with a new mapping in every document.

The mapping cannot be stored in the weights: it must be read from the document. Three kinds: *lookup* (a key
keeps its label), *category* (a key has its place's label), *repeat* (random words, then the same again). What
tests ask about things is in no training document: `held_out_pair` reserves some (place, label) pairs for
them, and the world's held-out things occur in stories only. Nonce keys have had every label in training.
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
    """Return whether the label is held out for a place and its things: never seen in training (2 of 8)."""
    return (PLACES.index(place) + LABEL_WORDS.index(label)) % 4 == 0


def labels_for(place: str | None, split: str) -> list[str]:
    """Return the labels that a place may have: held-out ones in "test", others in "train"; for None all."""
    return [w for w in LABEL_WORDS if place is None or held_out_pair(place, w) == (split == "test")]


def few_shot_pairs(seed: int, index: int, kind: str, split="train", n_pairs=N_PAIRS, items=None) -> list:
    """Return document number `index` as (key, label) pairs; a test asks for the label of the last pair.

    `kind`: lookup, category or repeat. `items`, the keys: "known" things, "nonce" words, or the held-out
    things of "stories"; None: those of training (known things and nonce words).
    """
    rng = random.Random(f"few-shot {kind} {split} {items} {n_pairs} {seed} {index}")
    if kind == "repeat":
        return repeat(rng, n_pairs)
    return (lookup if kind == "lookup" else category)(rng, split, n_pairs, items)


def different_labels(rng: random.Random, places: list[str | None], split: str) -> list[str]:
    """Return a label for each place (None: a nonce key), no label twice if possible."""
    labels = []
    for place in places:
        allowed = labels_for(place, split)
        labels.append(rng.choice([label for label in allowed if label not in labels] or allowed))
    return labels


def lookup(rng: random.Random, split: str, n_pairs: int, items: str | None) -> list[tuple[str, str]]:
    """Return n_pairs pairs of 2-4 keys, each with its label; the last key is an earlier one, if possible."""
    keys = []
    while len(keys) < 2 + rng.randrange(3):  # 2 to 4 is drawn anew for each key: most often 3
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
    """Return pairs of things of two places, one label per place; the things of each place come in turn."""
    places = rng.sample(PLACES, 2)
    labels = different_labels(rng, places, split)
    things = [cycle(rng.sample(KNOWN_THINGS[place], len(KNOWN_THINGS[place]))) for place in places]
    pairs = [(next(things[side]), labels[side]) for side in (rng.randrange(2) for _ in range(n_pairs))]
    if items == "stories":
        side = rng.randrange(2)
        pairs[-1] = (rng.choice(HELD_OUT_THINGS[places[side]]), labels[side])
    return pairs


def repeat(rng: random.Random, n_pairs: int) -> list[tuple[str, str]]:
    """Return 3 to n_pairs random words, repeated to fill n_pairs pairs; no thing before a held-out label."""
    # words of all kinds: the model must learn to find the earlier place of any word, not only of keys
    words = [*LABEL_WORDS, *NONCE_WORDS, *(thing for things in KNOWN_THINGS.values() for thing in things)]
    words += [*NAMES, *MOODS, *(verb for place in PLACES for verb in VERBS[place] if verb not in HELD_OUT)]
    while True:
        period = rng.sample(words, rng.randint(3, max(3, n_pairs)))
        line = [period[i % len(period)] for i in range(2 * n_pairs)]
        if all(b not in LABEL_WORDS or b in labels_for(place_of(a), "train") for a, b in pairwise(line)):
            return list(zip(line[::2], line[1::2], strict=True))


def few_shot_documents(n: int, seed: int, repeats: bool = True) -> list[str]:
    """Return n documents: 30 % stories; the rest 30 % lookup, 30 % category, 40 % repeat (if `repeats`)."""
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
