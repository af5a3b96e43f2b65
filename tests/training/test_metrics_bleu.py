"""Grades training/metrics.py: BLEU and exact match, by hand and at their edges."""

import math
import random

import pytest

from minilm.plumbing.errors import UserError
from minilm.training.metrics import corpus_bleu, exact_match, words


def plain_bleu(translations, references) -> float:
    """The definition, without a counter: every run is struck from the list of those of the reference."""
    right, total = [0, 0, 0, 0], [0, 0, 0, 0]
    for translation, reference in zip(translations, references, strict=True):
        translation, reference = words(translation), words(reference)
        for n in (1, 2, 3, 4):
            left = [reference[i : i + n] for i in range(len(reference) - n + 1)]
            for i in range(len(translation) - n + 1):
                total[n - 1] += 1
                if translation[i : i + n] in left:
                    left.remove(translation[i : i + n])
                    right[n - 1] += 1
    product = 1.0
    for r, t in zip(right, total, strict=True):
        product *= r / t
    ours, theirs = (sum(len(words(text)) for text in texts) for texts in (translations, references))
    penalty = 1.0 if ours > theirs else math.exp(1 - theirs / ours)
    return 100 * penalty * product**0.25


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("  Ana sold\tit. ", ["Ana", "sold", "it", "."]),
        ("Wait... no, really!", ["Wait", ".", ".", ".", "no", ",", "really", "!"]),
        ("3,000.5 or 2. 7,x .5 5.", ["3,000.5", "or", "2", ".", "7", ",", "x", ".", "5", "5", "."]),
        ('don\'t (stop) "now"', ["don't", "(", "stop", ")", '"', "now", '"']),
        ("a well-known 10-year 5-6 -7", ["a", "well-known", "10", "-", "year", "5", "-", "6", "-7"]),
        ("Até à praia: 50% [x]{y}", ["Até", "à", "praia", ":", "50", "%", "[", "x", "]", "{", "y", "}"]),
        ("a&quot;b &lt;c&gt; d&amp;e", ["a", '"', "b", "<", "c", ">", "d", "&", "e"]),
        ("cut-\nting\nlines <skipped>x", ["cutting", "lines", "x"]),
        ("a/b@c#d$e*f+g=h^i_j`k|l~m;n?o\\p", list("a/b@c#d$e*f+g=h^i_j`k|l~m;n?o\\p")),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_brevity_penalty():
    reference = "the cat sat on the mat today"
    assert corpus_bleu(["the cat sat on"], [reference]) == pytest.approx(100 * math.exp(1 - 7 / 4))
    longer = corpus_bleu([reference + " again"], [reference])
    assert longer == pytest.approx(100 * (7 / 8 * 6 / 7 * 5 / 6 * 4 / 5) ** 0.25), "it pays by its precision"


def test_exact_match_is_the_share_of_whole_texts_and_forgives_white_space_only():
    assert exact_match(["a b", "A", "c.", "d"], [" a  b\n", "a", "c", "d"]) == 0.5
    assert exact_match(["a b"], ["ab"]) == 0.0
    with pytest.raises(ValueError, match="zip"):
        exact_match(["a", "b"], ["a"])


def test_a_corpus_that_is_its_reference_has_100():
    texts = ["The cat sat on the mat.", "Yes!", "A dog, and a cat, slept."]
    assert corpus_bleu(texts, texts) == pytest.approx(100)


def test_by_hand():
    # right/total: words 5/6, pairs 3/5, threes 2/4, fours 1/3; 6 words for 7
    expected = 100 * math.exp(1 - 7 / 6) * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert corpus_bleu(["a b c d x e"], ["a b c d e f g"]) == pytest.approx(expected)


def test_a_run_counts_no_more_often_than_the_reference_has_it():
    # the example of the paper: 2 of 7 words; of longer runs none is right
    smoothed = (2 / 7 * (1 / 2 / 6) * (1 / 4 / 5) * (1 / 8 / 4)) ** 0.25
    found = corpus_bleu(["the the the the the the the"], ["the cat is on the mat"])
    assert found == pytest.approx(100 * smoothed), "clip the counts (section 2.1)"


def test_counts_are_summed_over_the_corpus():
    rng = random.Random(0)
    references = [" ".join(rng.choices("abcdef", k=rng.randint(1, 12))) for _ in range(60)]
    translations = [" ".join(w for w in text.split() if rng.random() < 0.8) or "a" for text in references]
    found = corpus_bleu(translations, references)
    assert found == pytest.approx(plain_bleu(translations, references))
    assert found < 90 and found != pytest.approx(
        sum(corpus_bleu([t], [r]) for t, r in zip(translations, references, strict=True)) / 60
    ), "BLEU of a corpus is no mean over sentences"


def test_capitals_and_order_matter():
    assert corpus_bleu(["A B C D e"], ["a b c d e"]) < 20
    assert corpus_bleu(["e d c b a"], ["a b c d e"]) < corpus_bleu(["a b c d x"], ["a b c d e"])


def test_without_a_right_word_or_without_runs_of_four_it_is_0():
    assert corpus_bleu(["a b c d e"], ["f g h i j"]) == 0.0
    assert corpus_bleu(["a b c"], ["a b c"]) == 0.0, "no run of four words: not defined, 0 by convention"
    assert corpus_bleu(["", ""], ["a", "b"]) == 0.0


@pytest.mark.parametrize("n, n_reference", [(0, 0), (2, 3), (3, 2)])
def test_unequal_numbers_are_refused(n, n_reference):
    with pytest.raises(UserError, match=f"{n_reference} true values and {n} guessed ones"):
        corpus_bleu(["a"] * n, ["a"] * n_reference)
