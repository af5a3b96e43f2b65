"""BLEU: how many words, and runs of words, a translation shares with that of a person; and exact match.

Source: Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation", section 2. The
figure depends on what a word is (Post 2018, "A Call for Clarity in Reporting BLEU Scores"); here the words
are those of the NIST script mteval-v13a, so that the figures are those of sacrebleu.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from ..plumbing.errors import UserError
from ..texts.files import one_line

MAX_ORDER = 4  # longest run of words that is counted

ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# The NIST script's rules, in its order: what stands by itself. "3,000.5" and "don't" stay whole, "10-year" is
# "10 - year" and "well-known" one word.
RULES = (
    (re.compile(r"""([!"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])"""), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # a stop or comma not after a digit
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # or not before one
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
)


def words(text: str) -> list[str]:
    """Return the words and marks of a text, as mteval-v13a separates them; capitals stay."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, char in ENTITIES:
        text = text.replace(entity, char)
    text = f" {text} "  # so that the first and the last character have a neighbour
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def ngrams(tokens: list[str], order: int) -> Counter:
    """Return how often each run of `order` tokens occurs."""
    return Counter(zip(*(tokens[i:] for i in range(order)), strict=False))


def brevity_penalty(n_word: int, n_reference_word: int) -> float:
    """Return what too short a translation is multiplied by (section 2.2.2): 1 where it is as long or longer.

    Precision alone would reward a translation of the few words that are certain.
    """
    if n_word == 0:
        return 0.0
    return min(1.0, math.exp(1 - n_reference_word / n_word))


def exact_match(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of translations that are the reference, letter by letter, white space aside."""
    pairs = zip(translations, references, strict=True)
    return sum(one_line(ours) == one_line(theirs) for ours, theirs in pairs) / len(references)


def corpus_bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return the BLEU of a corpus, 0 to 100, with one reference for each translation.

    The geometric mean of the clipped precisions of runs of 1 to 4 words, times the brevity penalty (section
    2.3); counts are summed over the corpus before dividing, so it is no mean over sentences.

    Differs from the paper: where no run of some length is right, its precision counts as half of one run, a
    quarter the second time, and so on (sacrebleu's default, Chen and Cherry 2014, smoothing 3), not as 0.

    Raises:
        UserError: for no texts, or unequal numbers of them.
    """
    if len(translations) != len(references) or not references:
        raise UserError(
            f"BLEU of {len(translations)} translations and {len(references)} references: each needs the other"
        )
    right, total, n_word, n_reference_word = [0] * MAX_ORDER, [0] * MAX_ORDER, 0, 0
    for translation, reference in zip(map(words, translations), map(words, references), strict=True):
        n_word, n_reference_word = n_word + len(translation), n_reference_word + len(reference)
        for k in range(MAX_ORDER):
            found = ngrams(translation, k + 1)
            total[k] += found.total()
            # A run counts no more often than the reference has it: "the the the" earns one "the".
            right[k] += (found & ngrams(reference, k + 1)).total()
    if not any(right) or not all(total):
        return 0.0
    logs, share = [], 1.0
    for k in range(MAX_ORDER):
        if right[k] == 0:
            share /= 2
        logs.append(math.log((right[k] or share) / total[k]))
    return 100 * brevity_penalty(n_word, n_reference_word) * math.exp(sum(logs) / MAX_ORDER)
