"""Replay: some of the text that a model knew, mixed into the domain's, so that less of it is forgotten.

Source: Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal".
"""

import random
from dataclasses import replace

from ..texts.corpus import Corpus


def with_replay(domain: Corpus, general: Corpus, share: float, seed: int) -> Corpus:
    """Return the domain's corpus with so many general training documents that they make `share` of the bytes.

    The general documents are drawn by `seed`, and drawn again where there are too few. The validation part
    stays the domain's.
    """
    wanted = share / (1 - share) * domain.train_bytes  # share = wanted / (wanted + train_bytes)
    rng, extra, n_byte = random.Random(f"replay {seed}"), [], 0
    while n_byte < wanted:
        for document in rng.sample(general.train, len(general.train)):
            if n_byte >= wanted:
                break
            extra.append(document)
            n_byte += len(document.encode())
    mixed = domain.train + extra
    rng.shuffle(mixed)
    return replace(domain, train=mixed)
