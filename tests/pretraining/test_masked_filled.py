"""Grades pretraining/masked.py: the blanks that are filled in for a person to read."""

import math
import re

from oracle import Oracle
from small import fingerprint

from minilm.pretraining.masked import Masked, fill_examples


def shown_and_true(lines: list[str]) -> list[tuple[str, str]]:
    """Each text with its blank, and the word that stood there."""
    truths = [re.search(r"it was: (.*)\)", guesses)[1] for guesses in lines[1::2]]
    return list(zip(lines[::2], truths, strict=True))


def test_fill_examples_show_the_blank_its_truth_and_the_three_best(objective, world_bpe):
    chances = {" cow": 0.5, " the": 0.3, ".": 0.15, " farm": 0.05}
    model = Oracle(world_bpe, lambda text: {token: math.log(p) for token, p in chances.items()})
    lines = fill_examples(objective, model)
    assert len(lines) == 6 and len(set(lines[::2])) == 3, "three different texts, a line and its guesses each"
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        assert shown.count("____") == 1 and "[" not in shown, "one blank, and no [CLS], [SEP] or [PAD]"
        best, truth = re.fullmatch(r" +(.*?) +\(it was: (.+)\)", guesses).groups()
        assert best.split("   ") == ["cow 0.50", "the 0.30", ". 0.15"], "best first, with their probabilities"
        assert shown.replace("____", truth) in objective.corpus.validation, "the truth doesn't fill the blank"
        assert len(truth) > 1, "a full stop is not worth guessing"


def test_fill_examples_give_the_probabilities_of_their_own_text(objective, world_bpe):
    def answer(text):
        p = text.count("a") / 100  # special tokens hold no small letters
        return {" cow": math.log(p), " the": math.log(1 - p)}

    lines = fill_examples(objective, Oracle(world_bpe, answer))
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        text = shown.replace("____", "")
        assert f"cow {text.count('a') / 100:.2f}" in guesses, "the probabilities of another text"
    assert len({text.count("a") for text in lines[::2]}) > 1, "the test needs texts that differ"


def test_all_tokens_of_a_word_are_hidden(tiny, byte_bpe):
    lines = fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}))
    for (shown, truth), guesses in zip(shown_and_true(lines), lines[1::2], strict=True):
        assert shown.replace("____", truth) in tiny.corpus.validation
        assert not re.search(r"\w____|____\w", shown), "a blank must be a whole word, not a piece"
        assert re.fullmatch(f" +{'x' * len(truth)}x? 1.00   \\(.*", guesses), "one guess for each token"


def test_fill_examples_show_no_text_twice(tiny, byte_bpe):
    lines = fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}), n=9)
    texts = [shown.replace("____", truth) for shown, truth in shown_and_true(lines)]
    assert sorted(texts) == sorted(tiny.corpus.validation), "each text once, where there are too few"


def test_fill_examples_hide_words_worth_guessing(objective, world_bpe):
    lines = fill_examples(objective, Oracle(world_bpe, lambda text: {" the": 1.0}), n=60)
    ids = [i for text in objective.corpus.train for i in world_bpe.encode(" " + text)]
    for _, truth in shown_and_true(lines):
        n = max(ids.count(world_bpe.encode(word)[0]) for word in (truth, " " + truth))
        assert len(truth) > 1 and n < 0.02 * len(ids), f"{truth!r} can be guessed without reading"


def test_fill_examples_without_pairs(world_corpus, world_bpe, encoder):
    objective = Masked(world_corpus, world_bpe, 64, 16, next_sentence=False)
    lines = fill_examples(objective, encoder(len(world_bpe.vocab), pairs=False))
    assert len(lines) == 6 and all(line.count("____") == 1 for line in lines[::2])


def test_the_blanks_are_those_of_the_readmes(objective, tiny, world_bpe, byte_bpe, as_in_readmes):
    lines = fill_examples(objective, Oracle(world_bpe, lambda text: {" the": 1.0}), n=5)
    lines += fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}))
    as_in_readmes(fingerprint(lines), "debc64dc")


def test_a_rare_token_is_worth_guessing_from_three_bytes_on(tiny, byte_bpe):
    """A token is a byte here, so none is: where one has three, the word that it stands in is hidden."""
    filled = lambda: fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}), n=9)
    before, x = filled(), byte_bpe.encode("x")
    for n_byte, same in ((2, True), (3, False)):
        tiny.token_bytes[x] = n_byte
        assert (filled() == before) == same, f"of {n_byte} bytes"
    (told,) = [told for text, told in zip(before[::2], filled()[1::2], strict=True) if text.endswith("x.")]
    assert told.endswith("(it was: x)")
