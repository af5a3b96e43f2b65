"""The figures at the end of a run against plain loops and against models whose answers are known."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from minilm import world
from minilm.plumbing.terminal import table
from minilm.pretraining import report as closing
from minilm.pretraining.causal import Causal
from minilm.pretraining.masked import Masked
from minilm.texts.corpus import Corpus
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.training.objective import IGNORED


class Oracle(nn.Module):
    """A model whose scores are what a function says of a row with a blank: text -> {token: score}."""

    def __init__(self, bpe, answer):
        super().__init__()
        self.bpe, self.answer = bpe, answer
        self.weight = nn.Parameter(torch.zeros(1))  # a device to be on
        self.n_row, self.n_blank = [], []

    def hidden_states(self, input_ids, attention_mask=None, token_type_ids=None):
        B, T = input_ids.shape
        self.n_row.append(B)
        scores = torch.full((B, T, len(self.bpe.vocab)), -1e9)
        for b, ids in enumerate(input_ids.tolist()):
            blanks = [t for t, i in enumerate(ids) if i == self.bpe.special_id("[MASK]")]
            self.n_blank.append(len(blanks))
            for t in blanks:
                for token, score in self.answer(self.bpe.decode(ids)).items():
                    scores[b, t, self.bpe.encode(token)[0]] = score
        return (scores,)

    def vocabulary_logits(self, hidden):
        return hidden


def place_in(text: str) -> str:
    return next(place for place in world.PLACES if re.search(rf"\b{place}\b", text))


@pytest.fixture
def objective(world_corpus, world_bpe):
    return Masked(world_corpus, world_bpe, 64, 16, seed=3)


@pytest.fixture
def tiny(byte_bpe):
    """Documents so short that everything can be counted by hand; a token is a letter."""
    train = ["Aab q. Bbb q.", "Cab z. Ddd z.", "Acb k. Bad k.", "Cac w. Dda w."]
    validation = ["Abb x. Bbc x.", "Aaa y. Bba y.", "Acc q. Bdd q.", "Cca v. Bab v."]
    return Masked(Corpus("tiny", train, validation), byte_bpe, 24, 6, seed=3)


@torch.no_grad()
def measured(objective, model) -> dict[str, float]:
    """The metrics of the validation batch, as a run measures them."""
    metrics = objective.loss(model, objective.batch(0, "validation"))[1]
    return {name: float(value) for name, value in metrics.items()}


def hidden_tokens(objective) -> list[int]:
    labels = objective.batch(0, "validation")["masked_labels"]
    return labels[labels != IGNORED].tolist()


def test_slot_accuracy_is_1_for_any_thing_of_the_place(objective, world_bpe):
    model = Oracle(world_bpe, lambda text: {" " + world.THINGS[place_in(text)][-1]: 1.0})
    assert closing.slot_accuracy(objective, model) == 1.0, "any thing of the same place counts, not one only"
    assert set(model.n_blank) == {1}, "one thing a row is hidden"
    assert sum(model.n_row) == len(objective.texts["validation"]) == 60
    assert max(model.n_row) <= 16, "more rows at a time than the user's --batch-size: memory"


def test_slot_accuracy_is_0_for_things_of_another_place_and_for_other_words(objective, world_bpe):
    def elsewhere(text):
        place = world.PLACES.index(place_in(text))
        return {" " + world.THINGS[world.PLACES[place - 1]][0]: 1.0}

    assert closing.slot_accuracy(objective, Oracle(world_bpe, elsewhere)) == 0.0
    for word in (" the", ".", "[MASK]", "[PAD]"):
        assert closing.slot_accuracy(objective, Oracle(world_bpe, lambda text, w=word: {w: 1.0})) == 0.0


def test_slot_accuracy_hides_things_only(objective, world_bpe):
    true, seen = objective.texts["validation"].true_rows(np.arange(60))["input_ids"], []
    model = Oracle(world_bpe, lambda text: seen.append(text) or {" the": 1.0})
    closing.slot_accuracy(objective, model)
    for ids, shown in zip(true.tolist(), seen, strict=True):
        before, after = shown.split("[MASK]")
        word = world_bpe.decode(ids)[len(before) : -len(after)]
        assert world.place_of(word.strip()), f"{word!r} is hidden, which is no thing"


def test_slot_accuracy_of_one_thing_is_about_chance(objective, world_bpe):
    thing = " " + world.THINGS["farm"][0]
    accuracy = closing.slot_accuracy(objective, Oracle(world_bpe, lambda text: {thing: 1.0}))
    at_farm = np.mean([place_in(text) == "farm" for text in objective.corpus.validation])
    assert accuracy == pytest.approx(at_farm), "right in the stories of one place, and in no other"


def test_slot_accuracy_is_none_where_no_thing_is_a_token(world_corpus, encoder):
    bpe = BPE.train(world_corpus.train, 270, SPECIAL_TOKENS)
    objective = Masked(world_corpus, bpe, 128, 16)
    model = encoder(len(bpe.vocab), 128)
    assert closing.slot_accuracy(objective, model) is None
    before = measured(objective, model)
    rows, results, _ = closing.masked_closing(objective, model, before, before)
    assert "slot_accuracy" not in results and "thing" not in table(rows, closing.HEADER)


def test_unigram_loss_equals_a_plain_loop(tiny, byte_bpe):
    counts = dict.fromkeys(byte_bpe.vocab, 1)  # each token once for nothing, so that none has chance 0
    for text in tiny.corpus.train:
        for i in byte_bpe.encode(" " + text):
            counts[i] += 1
    total = sum(counts.values())
    nats = [-math.log(counts[i] / total) for i in hidden_tokens(tiny)]
    found = closing.unigram_loss(tiny, "masked_labels")
    assert found == pytest.approx(sum(nats) / len(nats)), "counted in training, in nats"


def test_most_frequent_accuracy_equals_a_plain_loop(tiny, byte_bpe):
    ids = [i for text in tiny.corpus.train for i in byte_bpe.encode(" " + text)]
    commonest = max(set(ids), key=ids.count)
    hidden = hidden_tokens(tiny)
    expected = sum(i == commonest for i in hidden) / len(hidden)
    assert 0 < expected < 1, "the test needs a commonest token that is hidden at times"
    assert closing.most_frequent_accuracy(tiny) == pytest.approx(expected)


def plain_pairs(objective, split, n):
    """(tokens of A, tokens of B, whether B follows) of each pair, read from the rows one by one."""
    rows = objective.rows(split, objective.generator(0, split), n)
    sep, pairs = objective.tokenizer.special_id("[SEP]"), []
    for ids, label in zip(rows["input_ids"].tolist(), rows["next_sentence_labels"].tolist(), strict=True):
        middle = ids.index(sep)
        end = ids.index(sep, middle + 1)
        pairs.append((set(ids[1:middle]), set(ids[middle + 1 : end]), label == 0))
    return pairs[:n]


@pytest.mark.parametrize("split, n", [("train", 40), ("validation", 40), ("validation", 3)])
def test_pair_words_are_the_tokens_of_each_side(tiny, split, n):
    a, b, follows = closing.pair_words(tiny, split, n)
    expected = plain_pairs(tiny, split, n)
    assert len(a) == len(b) == len(follows) == len(expected) <= n
    for i, (in_a, in_b, label) in enumerate(expected):
        assert set(np.flatnonzero(a[i])) == in_a and set(np.flatnonzero(b[i])) == in_b
        assert follows[i] == label, "0 is the class of a B that follows"


@pytest.mark.parametrize("fixture", ["tiny", "objective"])
def test_shared_word_accuracy_equals_a_plain_loop(fixture, request):
    objective = request.getfixturevalue(fixture)
    train, validation = plain_pairs(objective, "train", 2000), plain_pairs(objective, "validation", 2000)
    texts = [a for a, _, _ in train] + [b for _, b, _ in train]
    share = {i: sum(i in text for text in texts) / len(texts) for i in objective.tokenizer.vocab}

    def accuracy(pairs, limit):
        right = [any(share[i] <= limit for i in a & b) == follows for a, b, follows in pairs]
        return sum(right) / len(right)

    limits = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    best = max(limits, key=lambda limit: accuracy(train, limit))
    assert closing.shared_word_accuracy(objective) == pytest.approx(accuracy(validation, best)), (
        "the limit is chosen on training pairs and tried on validation pairs"
    )


def test_fill_examples_show_the_blank_its_truth_and_the_three_best(objective, world_bpe):
    chances = {" cow": 0.5, " the": 0.3, ".": 0.15, " farm": 0.05}
    model = Oracle(world_bpe, lambda text: {token: math.log(p) for token, p in chances.items()})
    lines = closing.fill_examples(objective, model)
    assert len(lines) == 6 and len(set(lines[::2])) == 3, "three different texts, a line and its guesses each"
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        assert shown.count("____") == 1 and "[" not in shown, "one blank, and no [CLS], [SEP] or [PAD]"
        best, truth = re.fullmatch(r" +(.*?) +\(it was: (.+)\)", guesses).groups()
        assert best.split("   ") == ["cow 0.50", "the 0.30", ". 0.15"], "best first, with their probabilities"
        assert shown.replace("____", truth) in objective.corpus.validation, (
            "the truth does not fill the blank"
        )
        assert len(truth) > 1, "a full stop is not worth guessing"


def test_fill_examples_give_the_probabilities_of_their_own_text(objective, world_bpe):
    def answer(text):
        p = text.count("a") / 100  # special tokens hold no small letters
        return {" cow": math.log(p), " the": math.log(1 - p)}

    lines = closing.fill_examples(objective, Oracle(world_bpe, answer))
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        text = shown.replace("____", "")
        assert f"cow {text.count('a') / 100:.2f}" in guesses, "the probabilities of another text"
    assert len({text.count("a") for text in lines[::2]}) > 1, "the test needs texts that differ"


def test_a_blank_inside_a_word_touches_the_word(tiny, byte_bpe):
    lines = closing.fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}))
    for shown, guesses in zip(lines[::2], lines[1::2], strict=True):
        truth = re.search(r"it was: (.*)\)", guesses)[1]
        assert shown.replace("____", truth) in tiny.corpus.validation


def test_fill_examples_show_no_text_twice(tiny, byte_bpe):
    lines = closing.fill_examples(tiny, Oracle(byte_bpe, lambda text: {"x": 1.0}), n=9)
    truths = [re.search(r"it was: (.*)\)", guesses)[1] for guesses in lines[1::2]]
    texts = [shown.replace("____", truth) for shown, truth in zip(lines[::2], truths, strict=True)]
    assert sorted(texts) == sorted(tiny.corpus.validation), (
        "each text once, where there are fewer than asked for"
    )


def test_fill_examples_hide_words_worth_guessing(objective, world_bpe):
    lines = closing.fill_examples(objective, Oracle(world_bpe, lambda text: {" the": 1.0}), n=60)
    ids = [i for text in objective.corpus.train for i in world_bpe.encode(" " + text)]
    for guesses in lines[1::2]:
        truth = re.search(r"it was: (.*)\)", guesses)[1]
        n = max(ids.count(world_bpe.encode(word)[0]) for word in (truth, " " + truth))
        assert len(truth) > 1 and n < 0.02 * len(ids), f"{truth!r} can be guessed without reading"


def test_fill_examples_without_pairs(world_corpus, world_bpe, encoder):
    objective = Masked(world_corpus, world_bpe, 64, 16, next_sentence=False)
    lines = closing.fill_examples(objective, encoder(len(world_bpe.vocab), pairs=False))
    assert len(lines) == 6 and all(line.count("____") == 1 for line in lines[::2])


@pytest.mark.parametrize("next_sentence", [True, False])
def test_masked_closing_has_the_figures_of_results_json(world_corpus, world_bpe, encoder, next_sentence):
    objective = Masked(world_corpus, world_bpe, 64, 16, next_sentence=next_sentence)
    model = encoder(len(world_bpe.vocab), pairs=next_sentence)
    before = measured(objective, model)
    after = {name: 0.77 * value for name, value in before.items()}
    rows, results, examples = closing.masked_closing(objective, model, before, after)
    assert results["masked_accuracy"] == after["masked_accuracy"]
    assert results["masked_accuracy_baseline"] == closing.most_frequent_accuracy(objective)
    assert results["slot_accuracy"] == closing.slot_accuracy(objective, model)
    pairs = {"next_sentence_accuracy", "shared_word_accuracy"}
    assert (pairs & set(results)) == (pairs if next_sentence else set())
    if next_sentence:
        assert results["next_sentence_accuracy"] == after["next_sentence_accuracy"]
        assert results["shared_word_accuracy"] == closing.shared_word_accuracy(objective)
    assert all(len(row) == len(closing.HEADER) for row in rows)
    cells = [cell for row in rows for cell in row]
    shown = [before["loss"], after["loss"], after["masked_loss"], after["bits_per_byte"], *results.values()]
    assert all(value in cells for value in shown), "a figure is missing from the table"
    assert closing.unigram_loss(objective, "masked_labels") in cells
    assert 1 / len(world.PLACES) in cells and (0.5 in cells) == next_sentence, "what chance gives"
    assert len(table(rows, closing.HEADER).splitlines()) == len(rows) + 2
    assert [line for line in examples if "____" in line]


def test_slot_accuracy_is_told_of_the_world_only(world_corpus, world_bpe, encoder):
    other = Corpus("stories.txt", world_corpus.train, world_corpus.validation)
    objective, model = Masked(other, world_bpe, 64, 16), encoder(len(world_bpe.vocab))
    before = measured(objective, model)
    assert "slot_accuracy" not in closing.masked_closing(objective, model, before, before)[1]


def test_causal_closing_stands_beside_the_floor(world_corpus, world_bpe, decoder):
    objective, model = Causal(world_corpus, world_bpe, 32, 4), decoder(len(world_bpe.vocab))
    before = dict(loss=6.5, bits_per_byte=3.5, accuracy=0.01)
    after = dict(loss=1.1, bits_per_byte=0.3, accuracy=0.66)
    rows, results, examples = closing.causal_closing(objective, model, before, after)
    floor = objective.floor()
    assert results == dict(perplexity=math.exp(1.1), floor_bits_per_byte=floor["bits_per_byte"])
    columns = {name: (before, after, floor) for name, before, after, floor, _ in rows}
    assert all(len(row) == len(closing.HEADER) for row in rows)
    assert columns["loss (nats a token)"] == (6.5, 1.1, floor["loss"])
    assert columns["perplexity"] == pytest.approx((math.exp(6.5), math.exp(1.1), math.exp(floor["loss"])))
    assert columns["bits per byte"] == (3.5, 0.3, floor["bits_per_byte"])
    assert columns["next token right"] == (0.01, 0.66, None)
    assert examples[-1] == objective.sample(model).strip()
    assert len(table(rows, closing.HEADER).splitlines()) == len(rows) + 2


def test_causal_closing_without_a_floor(tagged_corpus, bpe, decoder):
    objective, model = Causal(tagged_corpus, bpe, 32, 4), decoder(len(bpe.vocab))
    metrics = dict(loss=2.0, bits_per_byte=3.5, accuracy=0.5)
    rows, results, _ = closing.causal_closing(objective, model, metrics, metrics)
    assert [row[3] for row in rows] == [None] * 4 and results["floor_bits_per_byte"] is None
    assert not any("grammar" in row[4] for row in rows), "no grammar is known of a real text"


def test_causal_closing_of_a_model_that_has_diverged(tagged_corpus, bpe, decoder):
    objective, model = Causal(tagged_corpus, bpe, 32, 4), decoder(len(bpe.vocab))
    metrics = dict(loss=2000.0, bits_per_byte=3.5, accuracy=0.5)
    _, results, _ = closing.causal_closing(objective, model, metrics, metrics)
    assert 1e300 < results["perplexity"] < math.inf, "exp overflows, and the run ends without its table"


def test_causal_closing_has_a_row_for_each_task_that_was_asked(tagged_corpus, bpe, decoder):
    objective, model = Causal(tagged_corpus, bpe, 32, 4), decoder(len(bpe.vocab))
    before = dict(loss=2.0, bits_per_byte=3.5, accuracy=0.5, nonce_keys=0.1, story_items=0.2)
    after = dict(loss=1.0, bits_per_byte=1.5, accuracy=0.6, nonce_keys=0.9, story_items=0.7)
    rows, _, _ = closing.causal_closing(objective, model, before, after)
    assert rows[4:] == [
        ("lookup, key that is no word", 0.1, 0.9, 0.125, "chance"),
        ("category, thing known from stories only", 0.2, 0.7, 0.125, "chance"),
    ]
