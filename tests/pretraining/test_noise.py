"""Each noise held to its definition (Lewis et al. 2020, section 2.2); shares and lengths within 5 sigma."""

import math
from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from mistakes import NOTHING
from small import fingerprint, within_5_sigma

from minilm.plumbing.errors import UserError
from minilm.pretraining import noise
from minilm.pretraining.noise import MASK, MEAN_SPAN, NOISES, SHARE

LENGTHS = [7, 1, 12, 80, 3, 30]


def apply(name: str, n: int, rng, starts=(0,)) -> list[int]:
    """The places 0 ... n - 1 after the noise; `starts` of the sentences."""
    places = np.arange(n)
    given = np.split(places, starts[1:]) if name == "permutation" else places
    out = getattr(noise, name)(given, rng)
    assert out is not None, NOTHING
    return out.tolist()


def noised(name: str, n: int, times: int, starts=(0,), seed: int = 0) -> list[list[int]]:
    """The noise on a text of n tokens, many times."""
    rng = np.random.default_rng(seed)
    return [apply(name, n, rng, starts) for _ in range(times)]


def test_noise_names():
    assert noise.noise_names("infilling,permutation") == ("infilling", "permutation")
    assert noise.noise_names(" deletion , masking") == ("deletion", "masking")


@pytest.mark.parametrize(
    "text, wrong, meant",
    [
        ("infiling,masking", "infiling", "(did you mean 'infilling'?)"),
        ("masking,rotate", "rotate", "(did you mean 'rotation'?)"),
        ("masking,", "", ""),
        (" ", "", ""),
    ],
)
def test_an_unknown_noise_is_named_with_the_nearest_one_and_the_list(text, wrong, meant):
    with pytest.raises(UserError) as error:
        noise.noise_names(text)
    message = str(error.value)
    assert message.startswith(f"--noise {wrong}: ") and message.endswith(meant or NOISES[-1])
    assert all(name in message for name in NOISES) and "\n" not in message


def test_masking_keeps_length_and_order():
    for n in LENGTHS:
        for places in noised("masking", n, 20):
            assert len(places) == n, "masking keeps the length: one [MASK] for one token"
            assert all(p in (i, MASK) for i, p in enumerate(places)), "a token that is not masked stays"


@pytest.mark.parametrize("name", ["masking", "deletion"])
def test_each_place_loses_its_token_equally_often(name):
    times, n = 4000, 11
    texts = [set(places) for places in noised(name, n, times)]
    for i in range(n):
        lost = sum(i not in places for places in texts)
        assert within_5_sigma(lost, times, SHARE), f"place {i} is lost {lost / times:.3f} of the times"
    both = sum(3 not in places and 4 not in places for places in texts)
    assert within_5_sigma(both, times, SHARE**2), "each token must be independent of its neighbours"


def test_deletion_keeps_the_order_and_leaves_no_trace():
    for n in LENGTHS:
        for places in noised("deletion", n, 20):
            assert all(a < b for a, b in pairwise(places)), "deletion keeps the order"
            assert MASK not in places, "the model has to find out where a token is missing"


def test_infilling_lengths_are_poisson():
    # A text of ten tokens has exactly one span, so what is missing is its length.
    times, most = 12_000, 8
    counts = [0] * (most + 1)  # of the lengths 0 ... most - 1, and of all longer ones
    for places in noised("infilling", 10, times, seed=1):
        told = f"{places.count(MASK)} times [MASK] in ten tokens: SHARE * 10 / MEAN_SPAN is one span"
        assert places.count(MASK) == 1, f"{told}, which becomes one [MASK], whatever its length"
        counts[min(most, 10 - len(places) + 1)] += 1
    chances = [math.exp(-MEAN_SPAN) * MEAN_SPAN**k / math.factorial(k) for k in range(most)]
    chances.append(1 - sum(chances))
    for length, (count, chance) in enumerate(zip(counts, chances, strict=True)):
        told = f"length {length}: {count / times:.4f} of the spans, Poisson has {chance:.4f}"
        assert within_5_sigma(count, times, chance), told
    chi_square = sum((c - times * p) ** 2 / (times * p) for c, p in zip(counts, chances, strict=True))
    assert chi_square < most + 5 * math.sqrt(2 * most), f"chi-square {chi_square:.1f} at {most} degrees"


def test_infilling_takes_its_share_in_as_many_spans_as_that_needs():
    times, n = 1500, 45  # 4.5 spans of 3
    texts = noised("infilling", n, times)
    spans = [places.count(MASK) for places in texts]
    told = f"{min(spans)} to {max(spans)} times [MASK] in {n} tokens, {np.mean(spans):.2f} on average:"
    told += " SHARE * n / MEAN_SPAN is 4.5 spans, rounded up or down at random; each becomes a [MASK]"
    assert set(spans) == {4, 5} and within_5_sigma(spans.count(5), times, 0.5), told
    lost = np.array([n - len(places) + k for places, k in zip(texts, spans, strict=True)])
    mean, variance = SHARE * n, SHARE * n + 9 * 0.25  # of Poisson lengths, and of 4 or 5 spans of 3
    told = f"{lost.mean() / n:.3f} of the tokens are hidden, not {SHARE}"
    assert abs(lost.mean() - mean) < 5 * math.sqrt(variance / times), told
    assert abs(lost.var() - variance) < 5 * variance * math.sqrt(2.5 / times), "draw each length on its own"


def test_infilling_replaces_spans_and_keeps_the_order_of_the_other_tokens():
    for n in [*LENGTHS, 10]:
        for places in noised("infilling", n, 60):
            n_mask = Counter()  # between two kept tokens, by the one before
            kept = [-1]
            for p in places:
                n_mask[kept[-1]] += p == MASK
                kept += [p] if p != MASK else []
            for a, b in pairwise([*kept, n]):
                assert a < b, "the other tokens must keep their order"
                assert b == a + 1 or n_mask[a] > 0, "tokens are missing without a [MASK] there"
            assert places.count(MASK) <= n / 10 + 1, "a span must become one [MASK]"


@pytest.mark.parametrize("n", [10, 20])
def test_infilling_spans_fall_on_each_gap_equally_often(n):
    n_span, seen = n // 10, {}
    for places in noised("infilling", n, 6000, seed=n):
        n_kept = sum(p != MASK for p in places)
        gaps = [sum(p != MASK for p in places[:i]) for i, p in enumerate(places) if p == MASK]
        seen.setdefault(n_kept, []).append(gaps)
    for n_kept, texts in seen.items():
        if len(texts) < 300:
            continue
        for gap in range(n_kept + 1):
            count = sum(gap in gaps for gaps in texts)
            chance = 1 - (1 - 1 / (n_kept + 1)) ** n_span
            told = f"gap {gap} of {n_kept + 1} has a span in {count} of {len(texts)} texts: edges count too"
            assert within_5_sigma(count, len(texts), chance), told


@pytest.mark.parametrize("n", range(2, 8))
def test_infilling_of_a_short_text_has_a_span_as_often_as_its_share_needs(n):
    """0.1 n spans: none most of the time, one otherwise, as long as Poisson says and the text allows."""
    times, chances = 3000, [math.exp(-MEAN_SPAN) * MEAN_SPAN**k / math.factorial(k) for k in range(n)]
    texts = noised("infilling", n, times, seed=n)
    with_span = [places for places in texts if MASK in places]
    told = f"{len(with_span)} of {times} texts of {n} tokens have a span: 0.1 n, rounded up or down at random"
    assert within_5_sigma(len(with_span), times, n / 10), told
    assert all(places == list(range(n)) for places in texts if MASK not in places), "changed without a span"
    for length, chance in enumerate([*chances, 1 - sum(chances)]):
        count = sum(n - len(places) + 1 == length for places in with_span)
        told = f"{count} of {len(with_span)} spans have length {length} of {n}, Poisson says {chance:.3f}"
        assert within_5_sigma(count, len(with_span), chance), told


def test_two_spans_longer_than_the_text_are_cut_together():
    # Eleven tokens have two spans one time in ten; the sum of their lengths is Poisson(6).
    times, beyond = 5000, 1 - sum(math.exp(-6) * 6**k / math.factorial(k) for k in range(11))
    gone = noised("infilling", 11, times).count([MASK, MASK])
    assert within_5_sigma(gone, times, 0.1 * beyond), f"two spans take the whole text {gone} times of {times}"


def test_each_order_of_whole_sentences_is_equally_likely():
    times, sentences = 3000, [(0,), (1, 2, 3), (4, 5)]
    texts = [tuple(places) for places in noised("permutation", 6, times, (0, 1, 4))]
    orders = [sum(order, ()) for order in permutations(sentences)]
    assert set(texts) <= set(orders), "a sentence is cut, reversed, lost, or there twice"
    for order in orders:
        assert within_5_sigma(texts.count(order), times, 1 / 6), f"{order} {texts.count(order)} times"
    assert noised("permutation", 9, 3) == [list(range(9))] * 3, "a single sentence stays"


def test_rotation_keeps_the_cycle_and_begins_anywhere():
    times, n = 4000, 7
    texts = noised("rotation", n, times)
    for places in texts:
        assert places == [(places[0] + i) % n for i in range(n)], "rotation keeps the cycle"
    for start in range(n):
        count = sum(places[0] == start for places in texts)
        assert within_5_sigma(count, times, 1 / n), f"begins at token {start} {count} times of {times}"


@pytest.mark.parametrize("name", NOISES)
def test_texts_of_no_token_and_of_one(name):
    assert noised(name, 0, 3, ()) == [[]] * 3
    kept = {tuple(places) for places in noised(name, 1, 200)}
    possible = {(0,), (MASK,), (MASK, 0), (0, MASK), ()}
    assert (0,) in kept and kept <= possible, kept


@pytest.mark.parametrize("name", NOISES)
def test_a_noise_is_a_pure_function_of_tokens_and_generator(name):
    starts = (0, 2, 5, 9)
    results = [apply(name, 12, np.random.default_rng(seed), starts) for seed in range(20)]
    np.random.seed(0)  # the global generator has no say
    assert results == [apply(name, 12, np.random.default_rng(seed), starts) for seed in range(20)]
    assert len({tuple(r) for r in results}) > 3, "another seed gives another text"
    tokens = np.array([31, 7, 7, 300, 12, 5, 9, 9, 41, 6, 8, 99])
    sentences, before = np.split(tokens, starts[1:]), tokens.copy()
    rng = np.random.default_rng(4)
    out = noise.permutation(sentences, rng) if name == "permutation" else getattr(noise, name)(tokens, rng)
    assert out.tolist() == [p if p == MASK else tokens[p] for p in results[4]], "any numbers go the same way"
    assert tokens.tolist() == before.tolist(), "the text itself is changed"


@pytest.mark.parametrize("names", [("infilling", "permutation"), ("deletion", "rotation"), NOISES, ()])
def test_noises_combine_in_one_order_however_they_are_named(names):
    sentences = np.split(np.arange(41), (4, 11, 30))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        places = noise.permutation(sentences, rng) if "permutation" in names else np.arange(41)
        for name in ("rotation", "masking", "deletion", "infilling"):
            if name in names:
                places = getattr(noise, name)(places, rng)
        for order in (names, names[::-1]):
            assert noise.corrupt(sentences, order, np.random.default_rng(seed)).tolist() == places.tolist()


def test_noises_are_those_of_the_figures_in_the_readmes(as_in_readmes):
    parts, rng = [np.arange(i, i + n) for i, n in ((0, 9), (9, 1), (10, 30))], np.random.default_rng(5)
    found = [noise.corrupt(parts, (name,), rng).tolist() for name in NOISES for _ in range(5)]
    as_in_readmes(fingerprint(found), "2efae05e")
