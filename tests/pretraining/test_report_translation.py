"""Grades pretraining/report.py: the table of a translation, with translators whose answers are known."""

import math
from types import SimpleNamespace

import pytest

from minilm.pretraining.report import HEADER, translation_closing
from minilm.texts.pairs import Pairs, load_pairs
from minilm.training.metrics import corpus_bleu, exact_match
from minilm.world import word_by_word

BEFORE = dict(loss=6.5, plain_loss=6.4, bits_per_byte=3.5, accuracy=0.01)
AFTER = dict(loss=1.6, plain_loss=0.4, bits_per_byte=0.3, accuracy=0.93)
PAIRS = [(f"the small cat number {i} sleeps", f"o gato pequeno número {i} dorme") for i in range(12)]


def translated_by(function, pairs: Pairs):
    """An objective whose model translates with `function`."""
    written = lambda model, texts: [function(text) for text in texts]
    return SimpleNamespace(corpus=pairs, seed=3, translate=written)


def half_right(text):
    answer = dict(PAIRS)[text]
    return answer if int(text.split()[4]) % 2 else answer.replace("pequeno", "grande")


@pytest.fixture
def objective():
    return translated_by(half_right, Pairs("some.tsv", [("a", "b")], PAIRS))


def test_closing_has_the_figures_of_results_json(objective):
    rows, results, examples = translation_closing(objective, "model", BEFORE, AFTER, None)
    sources, references = zip(*PAIRS, strict=True)
    ours = [half_right(source) for source in sources]
    bleu = dict(bleu=corpus_bleu(ours, references), baseline_bleu=corpus_bleu(sources, references))
    assert results == dict(exact_match=0.5) | bleu
    assert 0 <= results["baseline_bleu"] < results["bleu"] < 100
    assert all(len(row) == len(HEADER) for row in rows)
    cells = [cell for row in rows for cell in row]
    assert all(value in cells for value in [*BEFORE.values(), *AFTER.values(), *results.values()])
    assert rows[-1][4] == "the source, not translated"
    assert len([line for line in examples if line in sources]) == 5, "five translations"


def test_perplexity_is_that_of_the_plain_loss(objective):
    rows, _, _ = translation_closing(objective, "model", BEFORE, AFTER, None)
    columns = {name: (before, after) for name, before, after, _, _ in rows}
    assert columns["perplexity"] == (math.exp(6.4), math.exp(0.4)), "smoothing would add to it"
    assert columns["loss, smoothed (nats)"] == (6.5, 1.6) and columns["loss (nats per token)"] == (6.4, 0.4)
    assert "perplexity" not in BEFORE, "the caller's figures were changed"


def test_the_world_is_compared_with_its_dictionary():
    pairs = load_pairs("world", n_pairs=30)
    sources, references = zip(*pairs.validation, strict=True)
    expected = [word_by_word(source) for source in sources]
    objective = translated_by(lambda text: dict(pairs.validation)[text], pairs)
    rows, results, _ = translation_closing(objective, "model", BEFORE, AFTER, None)
    assert results["exact_match"] == 1.0 and results["bleu"] == pytest.approx(100)
    assert results["baseline_bleu"] == corpus_bleu(expected, references) < 40
    by_name = {row[0]: row for row in rows}
    assert by_name["whole texts right"][3] == exact_match(expected, references) < 0.1
    assert "dictionary" in by_name["BLEU"][4]


def test_examples_show_source_ours_and_reference(objective):
    lines = translation_closing(objective, "model", BEFORE, AFTER, None)[2]
    for blank, source, ours, reference in zip(*[iter(lines[1:])] * 4, strict=True):
        verdict = "ours, right" if half_right(source) == dict(PAIRS)[source] else "ours"
        assert (blank, ours) == ("", f"    {half_right(source)}   ({verdict})")
        assert reference == f"    {dict(PAIRS)[source]}   (reference)"
    assert {"(ours)", "(ours, right)"} <= {line.split("   ")[-1] for line in lines}


def test_examples_are_drawn_by_the_seed(objective):
    def shown(seed):
        objective.seed = seed
        return translation_closing(objective, "model", BEFORE, AFTER, None)[2]

    assert shown(1) == shown(1) != shown(2)
