"""Metrics of guesses against the truth, each computed as in the script that published results come from.

    classification      accuracy, macro_f1, matthews            as scikit-learn
    similarity          pearson, spearman                       as SciPy
    tagging             entity_f1                               as conlleval, the script of CoNLL-2000 to 2003
    question answering  squad_exact_match, squad_f1             as evaluate-v2.0.py of SQuAD
    text to text        exact_match, corpus_bleu                as sacrebleu, with the words of mteval-v13a

The truth is the first argument, except in the last two rows, which follow their scripts. All metrics are
shares from 0 to 1, except correlations, from -1 to 1, and BLEU, from 0 to 100.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from ..plumbing.errors import UserError
from ..texts.files import one_line

ENTITY_TAG = re.compile(r"O|[BIESMLU](-.+)?")
MARKS = dict(M="I", L="E", U="S")  # of BMES and BILOU tags, under the names of BIOES
ARTICLES = re.compile(r"\b(a|an|the)\b")
# WORD: a word of a bag of words; in scripts without spaces (Thai to Khmer, Chinese and Japanese) a letter.
ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
N_BIN = 15  # bins of the calibration error, as in the paper's table 1
MAX_ORDER = 4  # longest run of words that BLEU counts
# The NIST script's rules, in its order: what is a word by itself. "3,000.5" and "don't" stay whole, "10-year"
# becomes "10 - year", and "well-known" is one word.
WORD_RULES = (
    (re.compile(r"""([!"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])"""), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # a stop or comma not after a digit
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # or not before one
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
    (re.compile(f"([{ALONE}\u3000-\u303f\uff00-\uffef])"), r" \1 "),  # ours: scripts without spaces
)


def accuracy(truth: Sequence, guess: Sequence) -> float:
    """Return the share of guesses that equal the truth; UserError for none, or unequal numbers of them."""
    return float(np.equal(*paired(truth, guess)).mean())


def share_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share of n examples, inside [0, 1] (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def macro_f1(truth: Sequence, guess: Sequence, labels: Iterable | None = None) -> float:
    """Return the mean F1 = 2 hits / (2 hits + misses + false alarms) over all classes, or over `labels`."""
    truth, guess = paired(truth, guess)
    classes = np.union1d(truth, guess)  # (C,)
    of_truth, of_guess = (side[:, None] == classes for side in (truth, guess))  # (n, C) each
    # The divisor is above 0 for each class that occurs; scikit-learn also counts labels that do not, as 0.
    f1 = 2 * (of_truth & of_guess).sum(0) / (of_truth.sum(0) + of_guess.sum(0))  # (C,)
    return float(f1[np.isin(classes, classes if labels is None else [*labels])].mean())


def matthews(truth: Sequence, guess: Sequence) -> float:
    """Return the correlation of classes as 0-1 columns; 0 for guesses by chance, or always of one class."""
    truth, guess = paired(truth, guess)  # Matthews 1975; for more than two classes Gorodkin 2004
    columns = (side[:, None] == np.union1d(truth, guess) for side in (truth, guess))  # (n, C) each
    return pearson(*((x - x.mean(0)).ravel() for x in columns))


def calibration_error(right: Sequence[bool], probability: Sequence[float]) -> float:
    """Return sum over bins of n_bin / n |accuracy - mean probability| (Guo et al. 2017, equation 3)."""
    right, probability = paired(right, probability)
    bins = np.ceil(probability * N_BIN).clip(1)  # (n,): bin m of equal width is ((m - 1) / N_BIN, m / N_BIN]
    return float(sum(abs((right - probability)[bins == m].sum()) for m in np.unique(bins)) / len(right))


def pearson(truth: Sequence[float], guess: Sequence[float]) -> float:
    """Return the correlation: covariance / product of the deviations."""
    truth, guess = paired_numbers(truth, guess)
    if np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return 0.0  # differs from SciPy, which gives NaN: a constant guess knows nothing
    a, b = truth - truth.mean(), guess - guess.mean()
    return float(np.clip((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)), -1, 1))


def spearman(truth: Sequence[float], guess: Sequence[float]) -> float:
    """Return the correlation of the ranks: 1 where both sides put the examples in the same order."""
    truth, guess = paired_numbers(truth, guess)  # NaN would get a rank
    return pearson(ranks(truth), ranks(guess))


def ranks(values: Sequence[float]) -> np.ndarray:
    """Return the place of each value (n,) in ascending order, from 1; equal values share their mean place."""
    _, group, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[group]


def entity_f1(truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]) -> tuple[float, float, float]:
    """Return (precision, recall, F1) of entities: right if words and type are; UserError for a bad tag."""
    if len(truth) != len(guess):
        raise UserError(f"{len(truth)} true sentences and {len(guess)} guessed: expected equal numbers")
    n_true = n_guess = n_right = 0
    for number, (gold, ours) in enumerate(zip(truth, guess, strict=True)):
        if len(gold) != len(ours):
            raise UserError(f"sentence {number}: {len(gold)} true tags and {len(ours)} guessed ones")
        gold, ours = set(entities(gold)), set(entities(ours))
        n_true, n_guess, n_right = n_true + len(gold), n_guess + len(ours), n_right + len(gold & ours)
    return n_right / max(1, n_guess), n_right / max(1, n_true), 2 * n_right / max(1, n_true + n_guess)


def is_entity_tag(tag: str) -> bool:
    """Return whether a tag is O, or a mark of IOB1, IOB2 (BIO), BIOES, BMES or BILOU, alone (B) or as B-x."""
    return ENTITY_TAG.fullmatch(tag) is not None


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return (start, end, type) of each entity of a sentence: words start to end - 1.

    I- or E- begins an entity if none is open, or if the type changes: this reads IOB1, where B- is used only
    between neighbours of one type, and a model's wrong tags. UserError for other tags. Source: Tjong Kim Sang
    and Buchholz 2000, conlleval's `startOfChunk`, `endOfChunk`; E- and S- as in its port to Python.
    """
    for tag in tags:
        if not is_entity_tag(tag):
            raise UserError(f"tag {tag!r}: expected O, or B-, I-, E-, S- (M-, L-, U-) and a type")
    found, start = [], None
    split = [(MARKS.get(tag[0], tag[0]), tag[2:]) for tag in ("O", *tags, "O")]  # (mark, type)
    for place, ((last, last_type), (mark, type_)) in enumerate(pairwise(split)):
        ends = last in "ES" or mark in "BSO" or last_type != type_
        if start is not None and ends:
            found.append((start, place, last_type))
            start = None
        if mark != "O" and (start is None or ends):
            start = place
    return found


def normal_answer(text: str) -> str:
    """Return the text in lower case, without (ASCII) punctuation and articles, as SQuAD's script does."""
    return one_line(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)))


def squad_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the answers after `normal_answer`, else 0; no answer is ""."""
    return float(normal_answer(prediction) in true_answers(answers))


def squad_f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the greatest F1 over the answers: of the words shared with the prediction, with repetitions."""
    ours = normal_answer(prediction).split()

    def f1(theirs: list[str]) -> float:
        if ours == theirs:
            return 1.0  # also where both are empty: no answer (Rajpurkar et al. 2018)
        return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))

    return max(f1(answer.split()) for answer in true_answers(answers))


def true_answers(answers: Sequence[str]) -> list[str]:
    """Return the answers after `normal_answer`, without empty ones; [""] if there are no others."""
    return [text for text in map(normal_answer, answers) if text] or [""]


def exact_match(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of translations that equal the reference letter by letter, white space aside."""
    return accuracy([*map(one_line, references)], [*map(one_line, translations)])


def words(text: str) -> list[str]:
    """Return the words and marks of a text, as mteval-v13a cuts it: BLEU depends on that (Post 2018)."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, char in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(entity, char)
    text = f" {text} "  # so that the first and the last character have a neighbour
    for pattern, replacement in WORD_RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def corpus_bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the BLEU of a corpus, 0 to 100, with one reference for each translation.

    The geometric mean of the clipped precisions of runs of 1 to 4 words (n-grams), times a brevity penalty.
    Counts are summed over the corpus and then divided: no mean over sentences. Source: Papineni et al. 2002,
    "BLEU: a Method for Automatic Evaluation of Machine Translation", section 2.
    """
    paired(references, translations)
    right, total, n_word, n_reference_word = [0] * MAX_ORDER, [0] * MAX_ORDER, 0, 0
    for ours, theirs in zip(map(words, translations), map(words, references), strict=True):
        n_word, n_reference_word = n_word + len(ours), n_reference_word + len(theirs)
        for k in range(MAX_ORDER):
            both = ([tuple(side[i : i + k + 1]) for i in range(len(side) - k)] for side in (ours, theirs))
            runs, reference = map(Counter, both)
            total[k] += runs.total()
            # A run counts no more often than the reference has it: of "the the the" one "the" may count.
            right[k] += (runs & reference).total()
    if not any(right) or not all(total):
        return 0.0
    logs, instead = [], 1.0
    for k in range(MAX_ORDER):
        # differs from the paper, where BLEU is 0 if no run of some length is right: here half a run counts
        # as right, the second time a quarter, and so on (sacrebleu's default, Chen and Cherry 2014, method 3)
        instead = instead if right[k] else instead / 2
        logs.append(math.log((right[k] or instead) / total[k]))
    # Precision alone would reward a translation of only the few words that are certain (section 2.2.2).
    brevity = min(1.0, math.exp(1 - n_reference_word / n_word))
    return 100 * brevity * math.exp(sum(logs) / MAX_ORDER)


def paired(truth: Sequence, guess: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides as arrays (n,); UserError unless they have equal lengths, at least 1."""
    if len(truth) != len(guess) or not len(truth):
        raise UserError(f"{len(truth)} true values and {len(guess)} guessed: expected equal numbers, above 0")
    return np.asarray(truth), np.asarray(guess)


def paired_numbers(truth: Sequence[float], guess: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides as float64 arrays (n,); UserError as in `paired`, and if any is not finite."""
    truth, guess = (np.asarray(side, dtype=np.float64) for side in paired(truth, guess))
    if not (np.isfinite(truth).all() and np.isfinite(guess).all()):
        raise UserError("a correlation needs finite numbers, found NaN or infinity: did training diverge?")
    return truth, guess
