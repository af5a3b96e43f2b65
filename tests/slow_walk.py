"""All sentences that a grammar can write, found by trying every choice."""

import math
import random
from collections import Counter

import pytest


class Branch(Exception):
    """The walk needs a value that the path does not have yet."""


def every_walk(grammar, before):
    """Yield each (derivation, log-probability) of the sentence that follows the sentences `before`."""
    paths = [()]
    while paths:
        path = paths.pop()
        rest = iter(path)

        def pick(position, name, choice, rest=rest):
            if position < len(before):
                return before[position][name]
            for value in rest:
                return value
            raise Branch(choice.values)

        try:
            yield grammar.expand(pick, len(before) + 1)
        except Branch as branch:
            paths += [(*path, value) for value in branch.args[0]]


def log_probability(grammar, text, n_sentences=None):
    """The log-probability of a text in nats, -inf where it does not parse."""
    found = grammar.derivations(text, n_sentences)
    assert len(found) <= 1, f"two derivations of {text!r}"
    return found[0][1] if found else -math.inf


def assert_exact(grammar, before):
    """The sentences that may follow have one derivation each and probabilities that sum to one."""
    prefix = log_probability(grammar, " ".join(grammar.sentences(before)), len(before)) if before else 0.0
    walks = list(every_walk(grammar, before))
    texts = Counter(" ".join(grammar.sentences(derivation)) for derivation, _ in walks)
    twice = [text for text, count in texts.items() if count > 1]
    assert not twice, f"two derivations write the same text: {twice[:2]}"
    assert sum(math.exp(score - prefix) for _, score in walks) == pytest.approx(1.0)
    for derivation, score in random.Random(0).sample(walks, min(len(walks), 100)):
        found = grammar.derivations(" ".join(grammar.sentences(derivation)), len(before) + 1)
        assert len(found) == 1 and found[0][1] == pytest.approx(score)
