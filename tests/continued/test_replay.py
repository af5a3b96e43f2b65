"""Grades continued/replay.py: the share of known text that is mixed in."""

from minilm.continued.replay import with_replay
from minilm.texts.corpus import Corpus

DOMAIN = Corpus(
    "domain", [f"Order {i}: zinc, {i % 7} boxes." for i in range(50)], ["Order 99: zinc, 3 boxes."]
)
GENERAL = Corpus("general", [f"The cat {i} slept." for i in range(30)], ["The cat slept."])


def test_replay_mixes_in_the_share_of_bytes_that_was_asked_for():
    for share in (0.1, 0.5, 0.9):
        mixed = with_replay(DOMAIN, GENERAL, share, seed=1)
        extra = [text for text in mixed.train if text in GENERAL.train]
        n_byte = sum(len(text.encode()) for text in extra)
        longest = max(len(text.encode()) for text in GENERAL.train)
        wanted = share / (1 - share) * DOMAIN.train_bytes
        assert wanted <= n_byte <= wanted + longest, "the share is general bytes / all bytes"
        assert sorted(text for text in mixed.train if text not in GENERAL.train) == sorted(DOMAIN.train)
        assert mixed.validation == DOMAIN.validation, "the figures are about the domain"
        assert mixed.train == with_replay(DOMAIN, GENERAL, share, seed=1).train, "drawn by the seed"
        assert mixed.train != with_replay(DOMAIN, GENERAL, share, seed=2).train
    assert DOMAIN.train[0].startswith("Order 0"), "the domain's own list stays as it was"
