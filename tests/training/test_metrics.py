"""The figures against facts, values that scikit-learn, SciPy, conlleval and SQuAD's script give, and against
plain loops from the definitions."""

import math
import random

import numpy as np
import pytest
from mistakes import assert_right

from minilm.plumbing.errors import UserError
from minilm.training import metrics
from minilm.training.metrics import corpus_bleu, entity_f1, macro_f1, pearson, spearman, true_answers, words

TRUTH, GUESS = [0, 0, 1, 1, 1, 2, 2, 3], [0, 1, 1, 1, 2, 2, 0, 4]


def test_accuracy():
    assert metrics.accuracy(TRUTH, GUESS) == 0.5, "a share: 4 of 8"
    assert metrics.accuracy(["a", "b", "c"], ["a", "b", "b"]) == pytest.approx(2 / 3), "labels may be texts"


@pytest.mark.parametrize("share, n", [(0.0, 23), (0.25, 24), (1.0, 23)])  # of 23, rounding passes 0 and 1
def test_the_ends_of_an_interval_solve_wilsons_equation(share, n):
    low, high = metrics.share_interval(share, n)
    for end in (low, high):  # (p - share)^2 = z^2 p (1 - p) / n
        told = f"{end:.4f} is no end of Wilson's interval: its centre is (share + z^2 / 2n) / (1 + z^2 / n)"
        assert (end - share) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, abs=1e-12), told
    assert 0 <= low <= share <= high <= 1 and low < high, "inside [0, 1], whatever n"


def test_macro_f1_facts():
    # f1_score(average="macro") of scikit-learn: the classes 3 and 4 have no hit
    told = "a class's F1 is 2 hits / (its true ones + its guesses); then the mean over all five classes"
    assert macro_f1(TRUTH, GUESS) == pytest.approx((1 / 2 + 2 / 3 + 1 / 2 + 0 + 0) / 5), told
    told = "guessing the majority must not look good"
    assert macro_f1([0] * 9 + [1], [0] * 10) == pytest.approx(9 / 19), told
    assert macro_f1(["x", "y"], ["x", "y"]) == 1.0


def test_macro_f1_equals_a_plain_loop():
    rng = random.Random(0)
    truth, guess = rng.choices("abcd", k=80), rng.choices("bcde", k=80)
    each = {}
    for label in "abcde":
        hits = sum(t == g == label for t, g in zip(truth, guess, strict=True))
        precision = hits / max(1, guess.count(label))
        recall = hits / max(1, truth.count(label))
        each[label] = 2 * precision * recall / (precision + recall) if hits else 0
    assert macro_f1(truth, guess) == pytest.approx(sum(each.values()) / 5)
    found = macro_f1(truth, guess, "bcd")
    assert found == pytest.approx(sum(each[label] for label in "bcd") / 3), "the mean over `labels` alone"


def random_classes(labels: str, seed: int = 0, n: int = 90) -> tuple[list[str], list[str]]:
    """Classes of unequal sizes, the first the commonest, and guesses that are right six times in ten."""
    rng, sizes = random.Random(seed), [3**-i for i in range(len(labels))]
    truth = rng.choices(labels, sizes, k=n)
    return truth, [t if rng.random() < 0.6 else rng.choice(labels) for t in truth]


def test_matthews_of_two_classes_is_the_correlation_of_zeros_and_ones():
    truth, guess = random_classes("ab")
    pairs = list(zip(truth, guess, strict=True))
    tp, fp, fn, tn = (pairs.count((t, g)) for t, g in (("b", "b"), ("a", "b"), ("b", "a"), ("a", "a")))
    assert len({tp, fp, fn, tn}) == 4, "counts that could be swapped"
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    told = "each column loses its own mean before they are put into one"
    assert metrics.matthews(truth, guess) == pytest.approx((tp * tn - fp * fn) / root), told


def test_matthews_of_more_classes_equals_gorodkins_sum():
    truth, guess = random_classes("abcd", 1)
    guess[3] = "e"  # a class that is never true

    def covariance(x, y):  # of the columns "is it this class", summed over the classes
        total = 0.0
        for label in "abcde":
            mean_x, mean_y = x.count(label) / len(x), y.count(label) / len(y)
            total += sum(((a == label) - mean_x) * ((b == label) - mean_y) for a, b in zip(x, y, strict=True))
        return total

    root = math.sqrt(covariance(truth, truth) * covariance(guess, guess))
    assert metrics.matthews(truth, guess) == pytest.approx(covariance(truth, guess) / root)


def test_matthews_facts():
    assert metrics.matthews([0] * 99 + [1], [0] * 100) == 0.0, "accuracy 0.99, and it knows nothing"
    assert metrics.matthews(list("abca"), list("abca")) == pytest.approx(1.0)
    assert metrics.matthews([0, 1, 1, 0, 1], [1, 0, 0, 1, 0]) == pytest.approx(-1.0)


def test_calibration_error_equals_a_loop_over_bins():
    rng = random.Random(3)
    chances = [rng.random() ** 0.2 for _ in range(200)] + [1.0, 2 / 15, 7 / 15, 0.0]  # the ends of bins too
    right = [rng.random() < p**2 for p in chances]
    total = 0.0
    for m in range(1, 16):
        low, high = (m - 1) / 15, m / 15
        inside = [i for i, p in enumerate(chances) if low < p <= high or (m == 1 and p == 0)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            confidence = sum(chances[i] for i in inside) / len(inside)
            total += len(inside) / len(chances) * abs(accuracy - confidence)
    assert metrics.calibration_error(right, chances) == pytest.approx(total), "15 bins (a, b] of equal width"


def test_calibration_error_facts():
    assert metrics.calibration_error([True, True, True, False], [0.75] * 4) == pytest.approx(0.0)
    assert metrics.calibration_error([False] * 3, [1.0] * 3) == 1.0, "quite sure, and always wrong"
    mixed = metrics.calibration_error([True, False], [0.6, 0.99])  # one too unsure, the other too sure
    assert mixed == pytest.approx((0.4 + 0.99) / 2), "gaps of two bins must not cancel"
    lowest = metrics.calibration_error([True, False, False], [0.0, 0.05, 0.1])  # the first bin ends at 0.067
    told = "0 is in the first bin, and the second is one of its own"
    assert lowest == pytest.approx((0.95 + 0.1) / 3), told


X, Y = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 7.0]


def test_correlations_facts():
    assert pearson(X, Y) == pytest.approx(0.824163383692134)
    assert spearman(X, Y) == pytest.approx(0.8)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138), "ties share a rank"
    assert spearman(X, [math.exp(4 * x) for x in X]) == 1.0 > pearson(X, [math.exp(4 * x) for x in X])
    assert pearson(X, [-3 * x + 1 for x in X]) == spearman(X, [-(x**3) for x in X]) == -1.0


def test_pearson_equals_the_definition():
    rng = random.Random(1)
    x = [rng.gauss(50, 3) for _ in range(30)]
    y = [a + rng.gauss(0, 4) for a in x]
    mean_x, mean_y = sum(x) / 30, sum(y) / 30
    cov = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    expected = cov / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    assert pearson(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_rounding_makes_no_correlation_larger_than_1(seed):
    x = np.random.default_rng(seed).random(7)  # where rounding passes 1 or -1 one time in five
    assert pearson(x, x) <= 1.0 and pearson(x, -3 * x) >= -1.0


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_constant_guess_correlates_with_nothing(correlation):
    assert correlation(X, [0.1] * 5) == correlation([0.1] * 5, Y) == 0.0, "not NaN, nor a rounding error"


@pytest.mark.parametrize("correlation", [pearson, spearman, metrics.paired_numbers])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_correlation_of_what_is_not_finite_is_refused(correlation, bad):
    with pytest.raises(UserError, match="a correlation needs finite numbers"):
        correlation(X, [*Y[:4], bad])
    assert metrics.paired_numbers([1, 2], [3, 4])[0].dtype == np.float64


def test_ranks_equal_a_plain_count():
    values = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    expected = [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]
    assert metrics.ranks(values).tolist() == expected, "equal values take the mean of the places they fill"


METRICS = [metrics.accuracy, macro_f1, metrics.matthews, metrics.calibration_error]
METRICS += [pearson, spearman, metrics.paired]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_true, n_guess", [(0, 0), (2, 3), (3, 2), (1, 2)])
def test_unequal_numbers_are_refused(metric, n_true, n_guess):
    with pytest.raises(UserError, match=f"{n_true} true values and {n_guess} guessed"):
        metric([1] * n_true, [1] * n_guess)
    with pytest.raises(UserError, match=f"{n_true} true values and {n_guess} guessed"):
        corpus_bleu(["a"] * n_guess, ["a"] * n_true)


# Entities

BIO = "B-per I-per O B-loc B-loc I-loc O"
CHUNKS = [
    (BIO, [(0, 2, "per"), (3, 4, "loc"), (4, 6, "loc")]),
    ("I-per I-per O I-loc B-loc I-loc I-per", [(0, 2, "per"), (3, 4, "loc"), (4, 6, "loc"), (6, 7, "per")]),
    ("B-per I-per E-per S-loc B-loc E-loc O", [(0, 3, "per"), (3, 4, "loc"), (4, 6, "loc")]),
    ("B-per I-loc I-loc", [(0, 1, "per"), (1, 3, "loc")]),  # another type begins another entity
    ("E-per E-per I-per O E-per", [(0, 1, "per"), (1, 2, "per"), (2, 3, "per"), (4, 5, "per")]),
    ("S-per I-per S-per E-per", [(0, 1, "per"), (1, 2, "per"), (2, 3, "per"), (3, 4, "per")]),
    ("I-per S-per B-per S-per", [(0, 1, "per"), (1, 2, "per"), (2, 3, "per"), (3, 4, "per")]),
    ("E-per B-per", [(0, 1, "per"), (1, 2, "per")]),
    ("B-a-b I-a-b I-a", [(0, 2, "a-b"), (2, 3, "a")]),  # the first dash separates
    ("B-per M-per L-per U-per U-per O", [(0, 3, "per"), (3, 4, "per"), (4, 5, "per")]),
    ("B I O I B", [(0, 2, ""), (3, 4, ""), (4, 5, "")]),
    ("O O", []),
    ("", []),
]


def plain_entities(tags, begins="BS", alone=True, types=True, last="ES", marks=metrics.MARKS) -> list[tuple]:
    """Return the entities, built word by word; each option breaks a rule."""
    found, before = [], "O"
    for place, tag in enumerate(tags):
        mark, kind = marks.get(tag[0], tag[0]), tag[2:]
        goes_on = before not in ("O", *last) and mark not in ("O", *begins)
        if goes_on and (not types or kind == found[-1][2]):
            found[-1] = (found[-1][0], place + 1, kind if types is None else found[-1][2])
        elif mark != "O" and (alone or mark in "BS"):
            found.append((place, place + 1, kind))
        else:
            mark = "O"
        before = mark
    return found


@pytest.mark.parametrize("tags, expected", CHUNKS)
def test_entities(tags, expected):
    tags = tags.split()
    mistakes = {
        "B- does not begin a new entity after one of the same type": plain_entities(tags, begins="S"),
        "I- without B- before it begins no entity": plain_entities(tags, alone=False),
        "a new type begins no new entity": plain_entities(tags, types=()),
        "a new type begins no new entity, and changes the old type": plain_entities(tags, types=None),
        "E- and S- do not end an entity": plain_entities(tags, last=""),
        "an entity that lasts to the end of the sentence is lost": [e for e in expected if e[1] < len(tags)],
        "the end is the entity's last word, not the one after it": [(a, b - 1, c) for a, b, c in expected],
        "the type is the whole tag": [(a, b, tags[a]) for a, b, _ in expected],
        "M-, L- and U- are not replaced by `MARKS`": plain_entities(tags, marks={}),
    }
    axes, what = ("entity",), " ".join(tags)
    assert_right(metrics.entities(tags), expected, mistakes, axes=axes, what=what)


@pytest.mark.parametrize("tag, is_one", [("O", True), ("B-x", True), ("S-a-b", True), ("I-", False)]
                         + [(tag, False) for tag in ("NOUN", "", "o", "X-x", "OO", "B_x")]
                         + [(tag, True) for tag in ("B", "I", "M-x", "L-x", "U-x")])  # fmt: skip
def test_tags(tag, is_one):
    assert metrics.is_entity_tag(tag) == is_one
    if not is_one:
        with pytest.raises(UserError, match=f"tag '{tag}'"):
            metrics.entities(["O", tag])


def conlleval(truth, guess):
    """Precision, recall and F1 as the script counts them: word by word, by two tables of rules."""

    def starts(last, last_type, mark, kind):
        rules = mark in ("B", "S") or (mark in ("I", "E") and last in ("E", "S", "O"))
        return rules or (mark != "O" and last_type != kind)

    def ends(last, last_type, mark, kind):
        rules = last in ("E", "S") or (last in ("B", "I") and mark in ("B", "S", "O"))
        return rules or (last != "O" and last_type != kind)

    def split(tag):
        return (tag, "") if "-" not in tag else tuple(tag.split("-", 1))

    n_true = n_guess = n_right = 0
    for gold, ours in zip(truth, guess, strict=True):
        inside, last_gold, last_ours = False, ("O", ""), ("O", "")
        for a, b in zip([*gold, "O"], [*ours, "O"], strict=True):
            a, b = split(a), split(b)
            if inside:
                both = ends(*last_gold, *a), ends(*last_ours, *b)
                if all(both) and last_gold[1] == last_ours[1]:
                    inside, n_right = False, n_right + 1
                elif both[0] != both[1] or a[1] != b[1]:
                    inside = False
            start = starts(*last_gold, *a), starts(*last_ours, *b)
            inside = inside or (all(start) and a[1] == b[1])
            n_true, n_guess = n_true + start[0], n_guess + start[1]
            last_gold, last_ours = a, b
    return n_right / max(1, n_guess), n_right / max(1, n_true), 2 * n_right / max(1, n_true + n_guess)


@pytest.mark.parametrize("marks", ["OBI", "OOBIES", "OI"])
def test_entity_f1_equals_a_word_at_a_time(marks):
    rng = random.Random(2)
    tags = sorted({mark if mark == "O" else f"{mark}-{kind}" for mark in marks for kind in ("x", "y")})
    for _ in range(60):
        truth = [rng.choices(tags, k=rng.randint(0, 9)) for _ in range(5)]
        guess = [[t if rng.random() < 0.7 else rng.choice(tags) for t in sentence] for sentence in truth]
        found = entity_f1(truth, guess)
        right = conlleval(truth, guess)
        why = f"(precision, recall, F1) {found}, not {right}: start, end and type must all be right"
        assert found == pytest.approx(right), f"{why}; {truth} {guess}"


def test_entity_f1_facts():
    truth = [BIO.split(), ["O", "S-loc"]]
    guess = [["B-per", "I-per", "O", "B-loc", "I-loc", "I-loc", "O"], ["O", "S-loc"]]
    # 4 true, 3 guessed, 2 right
    assert entity_f1(truth, guess) == pytest.approx((2 / 3, 1 / 2, 4 / 7)), "(precision, recall, F1)"
    assert entity_f1(truth, truth) == (1.0, 1.0, 1.0)
    assert entity_f1(truth, [["O"] * 7, ["O"] * 2]) == (0.0, 0.0, 0.0)
    assert entity_f1([["O"]], [["O"]]) == (0.0, 0.0, 0.0)
    assert entity_f1([["B-x", "O"]], [["B-x", "O"]]) == (1.0, 1.0, 1.0), "one alone"
    assert entity_f1([["B-x"], ["I-x"]], [["B-x"], ["B-x"]])[2] == 1.0, "no entity goes on in a new sentence"


def test_entity_f1_refuses_unequal_numbers():
    with pytest.raises(UserError, match="1 true sentences and 2"):
        entity_f1([["O"]], [["O"], ["O"]])
    with pytest.raises(UserError, match="sentence 1: 2 true tags and 1"):
        entity_f1([["O"], ["O", "O"]], [["O"], ["O"]])


# SQuAD


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The Cat  sat, on a mat!\n", "cat sat on mat"),
        ("Rock'n'Roll (an anthem)", "rocknroll anthem"),
        ("the", ""),
        ("theatre; banana-a", "theatre bananaa"),  # "a" after a dash is no article: the dash goes first
        ("“Été” – a", "“été” –"),
        ("A.N. Other", "other"),
    ],
)
def test_normal_answer(text, expected):
    assert metrics.normal_answer(text) == expected


def test_true_answers():
    assert true_answers(["The Cat", "a", "!"]) == ["cat"]
    assert true_answers([]) == true_answers(["the"]) == [""]


@pytest.mark.parametrize(
    "prediction, answers, exact, f1",
    [
        ("the cat sat", ["Cat sat."], 1, 1),
        ("cat", ["a dog", "cats", "The cat!"], 1, 1),  # the best of the answers
        ("a red cat sat", ["the cat sat down"], 0, 2 / 3),
        ("big big dog", ["big big cat"], 0, 2 / 3),
        ("cat cat dog", ["cat dog dog bird"], 0, 4 / 7),  # a word counts as often as both have it
        ("on mat sat cat", ["cat sat on mat"], 0, 1),
        ("dog", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("the", [], 1, 1),  # nothing is left of it, so it says "no answer"
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("", ["a", "cat"], 0, 0),  # an answer of which nothing is left is none
    ],
)
def test_squad_facts(prediction, answers, exact, f1):
    assert metrics.squad_exact_match(prediction, answers) == exact
    told = "2 shared words / words of both, a word as often as both have it; the best of the answers counts"
    assert metrics.squad_f1(prediction, answers) == pytest.approx(f1), told


# Text to text


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
        ("我爱 Python3，กา。", ["我", "爱", "Python3", "，", "ก", "า", "。"]),
        ("a/b@c#d$e*f+g=h^i_j`k|l~m;n?o\\p", list("a/b@c#d$e*f+g=h^i_j`k|l~m;n?o\\p")),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_exact_match_is_the_share_of_whole_texts_and_forgives_white_space_only():
    assert metrics.exact_match(["a b", "A", "c.", "d"], [" a  b\n", "a", "c", "d"]) == 0.5
    assert metrics.exact_match(["a b"], ["ab"]) == 0.0
    for ours, theirs, told in ((["a", "b"], ["a"], "1 true values and 2 guessed"), ([], [], "0 true values")):
        with pytest.raises(UserError, match=told):
            metrics.exact_match(ours, theirs)


def test_bleu_facts_and_its_brevity_penalty():
    texts = ["The cat sat on the mat.", "Yes!", "A dog, and a cat, slept."]
    assert corpus_bleu(texts, texts) == pytest.approx(100)
    assert corpus_bleu(["A B C D e"], ["a b c d e"]) < 20, "capitals matter, and so does the order"
    assert corpus_bleu(["e d c b a"], ["a b c d e"]) < corpus_bleu(["a b c d x"], ["a b c d e"])
    # right/total: words 5/6, pairs 3/5, threes 2/4, fours 1/3; 6 words for 7
    expected = 100 * math.exp(1 - 7 / 6) * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    told = "times exp(1 - 7 / 6): 6 words for 7 are too few (words of the reference / own words)"
    assert corpus_bleu(["a b c d x e"], ["a b c d e f g"]) == pytest.approx(expected), told
    reference = "the cat sat on the mat today"
    assert corpus_bleu(["the cat sat on"], [reference]) == pytest.approx(100 * math.exp(1 - 7 / 4))
    longer = corpus_bleu([reference + " again"], [reference])
    assert longer == pytest.approx(100 * (7 / 8 * 6 / 7 * 5 / 6 * 4 / 5) ** 0.25), "it pays by its precision"


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
    alone = [corpus_bleu([t], [r]) for t, r in zip(translations, references, strict=True)]
    assert found < 90 and found != pytest.approx(sum(alone) / 60), "BLEU of a corpus is no mean over texts"


def test_without_a_right_word_or_without_runs_of_four_it_is_0():
    assert corpus_bleu(["a b c d e"], ["f g h i j"]) == 0.0
    assert corpus_bleu(["a b c"], ["a b c"]) == 0.0, "no run of four words: not defined, 0 by convention"
    assert corpus_bleu(["", ""], ["a", "b"]) == 0.0
