"""The same BLEU as the package `sacrebleu`, where installed."""

import random

import pytest

from minilm.training.metrics import corpus_bleu, words

MARKS = ["  ", "&amp;", "&quot;", "&lt;", "\n", "-\n", "3,5"]
MARKS += "aabbccdé 0159.,-'\"!?()[]{}:;/&%$#@*+=<>^_`|~\\"


def random_texts(n, alphabet, separator, most, seed=0):
    rng = random.Random(seed)
    return [separator.join(rng.choices(alphabet, k=rng.randint(0, most))) for _ in range(n)]


def changed(texts, seed=1):
    """The texts with some words left out and some neighbours swapped."""
    rng = random.Random(seed)
    result = []
    for text in texts:
        tokens = [token for token in text.split(" ") if rng.random() < 0.9]
        for i in range(len(tokens) - 1):
            if rng.random() < 0.15:
                tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
        result.append(" ".join(tokens))
    return result


def test_words_equal_sacrebleu():
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    for text in random_texts(3000, MARKS, "", 25):
        assert words(text) == tokenizer(text).split(), f"other words for {text!r}"


@pytest.mark.parametrize("n, most", [(1, 8), (2, 12), (30, 20), (400, 30)])
def test_bleu_equals_sacrebleu(n, most):
    sacrebleu = pytest.importorskip("sacrebleu")
    alphabet = ["the", "cat", "don't", "3,000", "10-year", "(sat)", "é", "mat.", "mat,", "U.S.", "%", "Fin"]
    for seed in range(8):
        references = random_texts(n, alphabet, " ", most, seed)
        for translations in (changed(references, seed), random_texts(n, alphabet, " ", most, seed + 99)):
            theirs = sacrebleu.corpus_bleu(translations, [references]).score
            assert corpus_bleu(translations, references) == pytest.approx(theirs, abs=0.01)
