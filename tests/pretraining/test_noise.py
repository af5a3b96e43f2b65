"""Each noise held to its definition, in both forms: for one text, and for the rows of a batch."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest

from minilm.plumbing.errors import UserError
from minilm.pretraining import noise
from minilm.pretraining.noise import MASK, MEAN_SPAN, NOISES, SHARE

LENGTHS = [7, 1, 12, 80, 3, 30]  # of the rows of a batch, all different
FORMS = ["one text", "rows"]


def within_5_sigma(count: int, n: int, share: float) -> bool:
    return abs(count - n * share) <= 5 * math.sqrt(n * share * (1 - share)) + 1e-9


def one(name: str, n: int, rng, starts=(0,)) -> np.ndarray:
    """The places 0 ... n - 1 after the noise for one text; `starts` of the sentences."""
    places = np.arange(n)
    if name == "permutation":
        return noise.permutation(places, np.array(starts if n else [], dtype=int), rng)
    return getattr(noise, name)(places, rng)


def many(name: str, lengths: list[int], rng, starts_of_rows=None) -> list[list[int]]:
    """The places 0 ... n - 1 of each of several rows after the noise for rows."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    sentence, number = np.zeros(len(row), dtype=int), 0
    for r, start in enumerate(np.cumsum(lengths) - lengths):
        for s in (starts_of_rows or [[0]] * len(lengths))[r]:
            sentence[start + s :] = number
            number += 1
    places, row_of = noise.corrupt_rows((name,), row, sentence, rng)
    assert (np.diff(row_of) >= 0).all(), "the rows come out of order"
    out = [places[row_of == r] for r in range(len(lengths))]
    start = np.cumsum(lengths) - lengths
    own = {r: {MASK, *range(start[r], start[r] + n)} for r, n in enumerate(lengths)}
    for r, texts in enumerate(out):
        assert set(texts.tolist()) <= own[r], "a token comes from another row"
    return [[p if p == MASK else p - start[r] for p in texts.tolist()] for r, texts in enumerate(out)]


def noised(form: str, name: str, n: int, times: int, starts=(0,), seed: int = 0) -> list[list[int]]:
    """The noise on a text of n tokens, many times."""
    rng = np.random.default_rng(seed)
    if form == "one text":
        return [one(name, n, rng, starts).tolist() for _ in range(times)]
    return many(name, [n] * times, rng, [list(starts)] * times)


def starts_in(n: int) -> list[int]:
    """Sentences of 1, 2, 3, ... tokens, as many as fit."""
    starts, step = [0], 1
    while starts[-1] + step < n:
        starts.append(starts[-1] + step)
        step += 1
    return starts if n else []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("infilling,permutation", ("infilling", "permutation")),
        ("rotation", ("rotation",)),
        (" deletion , masking,deletion", ("deletion", "masking")),
    ],
)
def test_noise_names(text, expected):
    assert noise.noise_names(text) == expected


@pytest.mark.parametrize(
    "text, wrong, meant", [("infiling,masking", "infiling", "infilling"), ("rotate", "rotate", "rotation")]
)
def test_an_unknown_noise_is_named_with_the_nearest_one_and_the_list(text, wrong, meant):
    with pytest.raises(UserError) as error:
        noise.noise_names(text)
    message = str(error.value)
    assert message.startswith(f"--noise {text}") and repr(wrong) in message and f"{meant!r}?" in message
    assert all(name in message for name in NOISES) and "\n" not in message


@pytest.mark.parametrize("text", ["", "masking,", ",", " "])
def test_a_list_of_noises_with_a_gap_is_refused(text):
    with pytest.raises(UserError, match="choose one or more of masking, deletion, infilling"):
        noise.noise_names(text)


@pytest.mark.parametrize("form", FORMS)
def test_masking_keeps_length_and_order(form):
    for n in LENGTHS:
        for places in noised(form, "masking", n, 20):
            assert len(places) == n, "masking keeps the length: one [MASK] for one token"
            assert all(p in (i, MASK) for i, p in enumerate(places)), "a token that is not masked stays"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["masking", "deletion"])
def test_each_place_loses_its_token_equally_often(form, name):
    times, n = 4000, 11
    texts = [set(places) for places in noised(form, name, n, times)]
    for i in range(n):
        lost = sum(i not in places for places in texts)
        assert within_5_sigma(lost, times, SHARE), f"place {i} is lost {lost / times:.3f} of the times"
    both = sum(3 not in places and 4 not in places for places in texts)
    assert within_5_sigma(both, times, SHARE**2), "the fate of a token does not depend on its neighbour's"


@pytest.mark.parametrize("form", FORMS)
def test_deletion_keeps_the_order_and_leaves_no_trace(form):
    for n in LENGTHS:
        for places in noised(form, "deletion", n, 20):
            assert all(a < b for a, b in pairwise(places)), "deletion keeps the order"
            assert MASK not in places, "the model has to find out where a token is missing"


@pytest.mark.parametrize("form", FORMS)
def test_infilling_lengths_are_poisson(form):
    # A text of ten tokens has exactly one span, so what is missing is its length.
    times, most = 12_000, 8
    counts = [0] * (most + 1)  # of the lengths 0 ... most - 1, and of all longer ones
    for places in noised(form, "infilling", 10, times):
        assert places.count(MASK) == 1, "a text of ten tokens has 30 % in one span of 3 on average"
        counts[min(most, 10 - len(places) + 1)] += 1
    chances = [math.exp(-MEAN_SPAN) * MEAN_SPAN**k / math.factorial(k) for k in range(most)]
    chances.append(1 - sum(chances))
    for length, (count, chance) in enumerate(zip(counts, chances, strict=True)):
        assert within_5_sigma(count, times, chance), (
            f"length {length}: {count / times:.4f} of the spans, Poisson has {chance:.4f}"
        )
    chi_square = sum((c - times * p) ** 2 / (times * p) for c, p in zip(counts, chances, strict=True))
    assert chi_square < most + 5 * math.sqrt(2 * most), f"chi-square {chi_square:.1f} at {most} degrees"


@pytest.mark.parametrize("form", FORMS)
def test_infilling_takes_its_share_in_as_many_spans_as_that_needs(form):
    times, n = 1500, 45  # 4.5 spans of 3
    texts = noised(form, "infilling", n, times)
    spans = [places.count(MASK) for places in texts]
    assert set(spans) == {4, 5} and within_5_sigma(spans.count(5), times, 0.5), (
        "rounded at random: 4.5 is meant"
    )
    lost = np.array([n - len(places) + k for places, k in zip(texts, spans, strict=True)])
    mean, variance = SHARE * n, SHARE * n + 9 * 0.25  # of Poisson lengths, and of 4 or 5 spans of 3
    assert abs(lost.mean() - mean) < 5 * math.sqrt(variance / times), f"{lost.mean() / n:.3f} of the tokens"
    assert abs(lost.var() - variance) < 5 * variance * math.sqrt(2.5 / times), "are all lengths drawn anew?"


@pytest.mark.parametrize("form", FORMS)
def test_infilling_replaces_spans_and_inserts_masks_for_empty_ones(form):
    for n in [*LENGTHS, 10]:
        for places in noised(form, "infilling", n, 60):
            kept = [p for p in places if p != MASK]
            assert all(a < b for a, b in pairwise(kept)), "what is left keeps its order"
            holes = sum(b > a + 1 for a, b in pairwise([-1, *kept, n]))
            before = [-1, *kept, n]
            for i, (a, b) in enumerate(pairwise(before)):  # the masks between two kept tokens
                start = places.index(a) + 1 if i else 0
                end = places.index(b) if i < len(kept) else len(places)
                assert b == a + 1 or end > start, "tokens are missing and no [MASK] stands there"
            assert holes <= places.count(MASK), "a span leaves one [MASK] only"
    inserted = [places for places in noised(form, "infilling", 10, 4000) if len(places) == 11]
    assert within_5_sigma(len(inserted), 4000, math.exp(-MEAN_SPAN)), "a span of no token inserts a [MASK]"
    assert all([p for p in places if p != MASK] == list(range(10)) for places in inserted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [10, 20])
def test_infilling_spans_fall_on_each_gap_equally_often(form, n):
    n_span, seen = n // 10, {}
    for places in noised(form, "infilling", n, 6000, seed=n):
        n_kept = sum(p != MASK for p in places)
        gaps = [sum(p != MASK for p in places[:i]) for i, p in enumerate(places) if p == MASK]
        seen.setdefault(n_kept, []).append(gaps)
    for n_kept, texts in seen.items():
        if len(texts) < 300:
            continue
        for gap in range(n_kept + 1):
            count = sum(gap in gaps for gaps in texts)
            chance = 1 - (1 - 1 / (n_kept + 1)) ** n_span
            assert within_5_sigma(count, len(texts), chance), (
                f"gap {gap} of {n_kept + 1} has a span in {count} of {len(texts)} texts: the edges count too"
            )


@pytest.mark.parametrize("form", FORMS)
def test_a_span_longer_than_the_text_is_cut(form):
    texts = noised(form, "infilling", 2, 3000)
    assert {tuple(places) for places in texts} >= {(0, 1), (MASK,), (MASK, 1), (0, MASK), (0, MASK, 1)}
    assert max(map(len, texts)) == 3
    n_mask = sum(places.count(MASK) for places in texts)
    assert within_5_sigma(n_mask, 3000, 0.2), "two tokens have 0.2 spans on average"


@pytest.mark.parametrize("form", FORMS)
def test_two_spans_longer_than_the_text_are_cut_together(form):
    # Eleven tokens have two spans one time in ten; the sum of their lengths is Poisson(6).
    times = 5000
    texts = noised(form, "infilling", 11, times)
    for places in texts:
        kept = [p for p in places if p != MASK]
        assert all(a < b for a, b in pairwise(kept)), "what is left keeps its order"
    beyond = 1 - sum(math.exp(-6) * 6**k / math.factorial(k) for k in range(11))
    gone = texts.count([MASK, MASK])
    assert within_5_sigma(gone, times, 0.1 * beyond), f"two spans take the whole text {gone} times of {times}"


@pytest.mark.parametrize("form", FORMS)
def test_permutation_keeps_the_sentences(form):
    for n in LENGTHS:
        starts = starts_in(n)
        sentences = [tuple(range(a, b)) for a, b in pairwise([*starts, n])]
        for places in noised(form, "permutation", n, 20, starts):
            rest, found = list(places), []
            while rest:
                sentence = next((s for s in sentences if s[0] == rest[0]), None)
                assert sentence and tuple(rest[: len(sentence)]) == sentence, "a sentence is cut or reversed"
                found.append(sentence)
                rest = rest[len(sentence) :]
            assert sorted(found) == sentences, "each sentence once"


@pytest.mark.parametrize("form", FORMS)
def test_each_order_of_the_sentences_is_equally_likely(form):
    times, sentences = 3000, [(0,), (1, 2, 3), (4, 5)]
    texts = [tuple(places) for places in noised(form, "permutation", 6, times, (0, 1, 4))]
    for order in permutations(sentences):
        count = texts.count(sum(order, ()))
        assert within_5_sigma(count, times, 1 / 6), f"{order} {count} times of {times}"


@pytest.mark.parametrize("form", FORMS)
def test_permutation_of_a_single_sentence_changes_nothing(form):
    assert noised(form, "permutation", 9, 3) == [list(range(9))] * 3


@pytest.mark.parametrize("form", FORMS)
def test_rotation_keeps_the_cycle_and_begins_anywhere(form):
    times, n = 4000, 7
    texts = noised(form, "rotation", n, times)
    for places in texts:
        assert places == [(places[0] + i) % n for i in range(n)], "rotation keeps the cycle"
    for start in range(n):
        count = sum(places[0] == start for places in texts)
        assert within_5_sigma(count, times, 1 / n), f"begins at token {start} {count} times of {times}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NOISES)
def test_texts_of_no_token_and_of_one(form, name):
    assert noised(form, name, 0, 3, ()) == [[]] * 3
    kept = {tuple(places) for places in noised(form, name, 1, 200)}
    possible = {(0,), (MASK,), (MASK, 0), (0, MASK), ()}
    assert (0,) in kept and kept <= possible, kept


@pytest.mark.parametrize("name", NOISES)
def test_a_noise_is_a_pure_function_of_tokens_and_generator(name):
    ids = np.array([31, 7, 7, 300, 12, 5, 9, 9, 41, 6, 8, 99])
    before = ids.copy()

    def apply(seed):
        rng = np.random.default_rng(seed)
        if name == "permutation":
            return noise.permutation(ids, np.array([0, 2, 5, 9]), rng).tolist()
        return getattr(noise, name)(ids, rng).tolist()

    results = [apply(seed) for seed in range(20)]
    np.random.seed(0)  # the global generator has no say
    assert results == [apply(seed) for seed in range(20)], "the same generator gives the same text"
    assert len({tuple(r) for r in results}) > 3, "another seed gives another text"
    assert ids.tolist() == before.tolist(), "the text itself is changed"
    expected = np.random.default_rng(4)
    places = one(name, 12, expected, (0, 2, 5, 9))
    assert results[4] == np.where(places == MASK, MASK, ids[places]).tolist(), (
        "ids and places go the same way"
    )


@pytest.mark.parametrize("name", NOISES)
def test_rows_draw_what_one_text_draws(name):
    for seed, n in enumerate([*LENGTHS, 0, 2, 10, 55] * 5):
        plain = one(name, n, np.random.default_rng(seed), starts_in(n)).tolist()
        rows = many(name, [n], np.random.default_rng(seed), [starts_in(n)])
        assert rows == [plain], f"{name} of one row of {n} tokens is not that of one text"


@pytest.mark.parametrize("name", sorted({*NOISES} - {"infilling"}))
def test_many_rows_are_as_many_texts_one_after_another(name):
    lengths = [5, 0, *LENGTHS, 0, 9]
    starts = [starts_in(n) for n in lengths]
    for seed in range(10):
        rng = np.random.default_rng(seed)
        plain = [one(name, n, rng, s).tolist() for n, s in zip(lengths, starts, strict=True)]
        assert many(name, lengths, np.random.default_rng(seed), starts) == plain


def test_infilling_of_unequal_rows_gives_each_its_own_share():
    lengths, times = [10, 0, 47, 3, 80, 20], 800
    rng = np.random.default_rng(1)
    results = [many("infilling", lengths, rng) for _ in range(times)]
    for r, n in enumerate(lengths):
        texts = [result[r] for result in results]
        spans = np.array([places.count(MASK) for places in texts])
        lost = np.array([n - len(places) for places in texts]) + spans
        assert set(spans.tolist()) <= {n // 10, -(-n // 10)}, f"{set(spans.tolist())} spans in {n} tokens"
        assert within_5_sigma((spans - n // 10).sum(), times, n % 10 / 10)
        if n >= 10:  # else spans are cut
            assert abs(lost.mean() - SHARE * n) < 5 * math.sqrt((SHARE * n + 2.25) / times)
        for places in texts:
            kept = [p for p in places if p != MASK]
            assert all(a < b for a, b in pairwise(kept)), "what is left of a row keeps its order"


def test_two_sentences_of_the_same_number_in_two_rows_are_two():
    row, sentence = np.repeat([0, 1], 3), np.full(6, 4)
    places = noise.permutation_rows(np.arange(6), row, sentence, np.random.default_rng(0))
    assert places.tolist() == [0, 1, 2, 3, 4, 5]
    generator = np.random.default_rng(0)
    noise.permutation_rows(np.arange(6), row, sentence, generator)
    assert generator.random() == np.random.default_rng(0).random(3)[2], "one number a sentence is drawn"


@pytest.mark.parametrize("names", [("infilling", "permutation"), ("deletion", "rotation"), NOISES, ()])
def test_noises_combine_in_one_order_however_they_are_named(names):
    n, starts = 41, np.array([0, 4, 11, 30])
    sentence = np.searchsorted(starts, np.arange(n), side="right")
    for seed in range(10):
        rng, places = np.random.default_rng(seed), np.arange(n)
        for name in ("permutation", "rotation", "masking", "deletion", "infilling"):
            if name in names:
                arguments = (starts, rng) if name == "permutation" else (rng,)
                places = getattr(noise, name)(places, *arguments)
        for order in (names, names[::-1]):
            out, row = noise.corrupt_rows(
                order, np.zeros(n, dtype=int), sentence, np.random.default_rng(seed)
            )
            assert out.tolist() == places.tolist() and row.tolist() == [0] * len(places)


def test_sum_before_starts_anew_in_each_row():
    values, row = np.array([3, 0, 4, 5, 1, 1]), np.array([0, 0, 0, 2, 2, 5])
    assert noise.sum_before(values, row).tolist() == [0, 3, 3, 0, 5, 0]
    assert noise.sum_before(values[:0], row[:0]).tolist() == []
