"""Grades finetuning/text_to_text.py against plain loops: rows, cuts, the loss on the answer only, writing."""

import math

import pytest
import small
import torch
import tuned
from mistakes import assert_right

from minilm.finetuning import text_to_text
from minilm.finetuning.examples import Parts
from minilm.finetuning.tasks import FineTuning
from minilm.finetuning.text_to_text import MOST_LABELS, TextToText
from minilm.model.generate import generate
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.training.objective import IGNORED

EXAMPLES = [
    ("Rui found bread. What did Rui find?", "bread"),
    ("Ana sells a lamp on Monday. When?", "on Monday"),
    ("Who?", "The old baker and Ana"),
    ("Ana likes two red pens. Rui sells bread. Who sells bread?", "Rui"),
]
PAD, CLS, SEP, END = map(small.tokenizer().special_id, ("[PAD]", "[CLS]", "[SEP]", "<|endoftext|>"))
each_kind = pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])


def model_of(kind: str, max_positions: int = 64, **changes):
    return tuned.body(kind, max_positions=max_positions, **changes)


def task_of(kind: str, context: int = 64, examples=EXAMPLES) -> TextToText:
    return tuned.task(TextToText, examples, tuned.config(kind, max_positions=context), context)


def laid_out(kind: str, source: str, target: str) -> tuple[list[int], list[int], list[int]]:
    """Return what the encoder reads ([] without one), what the decoder reads, and its labels."""
    encode = small.tokenizer().encode
    if kind == "decoder":
        before = [END, *encode(source), *encode("\n")]
        answer = [*encode(" " + target), END]
        return [], [*before, *answer[:-1]], [IGNORED] * (len(before) - 1) + answer
    answer = [*encode(" " + target), SEP]
    return [CLS, *encode(" " + source), SEP], [CLS, *answer[:-1]], answer


def plain_logits(model, encoder_ids: list[int], ids: list[int]) -> torch.Tensor:
    """Return the logits (T, V) of one text, by itself."""
    ids, read = torch.tensor([ids]), torch.tensor([encoder_ids])
    return model(*((read, None, None, ids) if encoder_ids else (ids,)))[0]


def assert_row(found: torch.Tensor, right: list[int], mistakes: dict, filling: int, what: str) -> None:
    """Compare a row of a batch with the list that it holds before its padding."""
    padded = lambda values: (values + [filling] * 64)[:64]
    mistakes = {name: padded(wrong) for name, wrong in mistakes.items()}
    assert_right(padded(found.tolist()), padded(right), mistakes, axes=("place",), what=what)


@each_kind
def test_rows_are_sources_with_their_answers(kind):
    chosen = [2, 0, 3]
    batch = task_of(kind).rows(EXAMPLES).batch(chosen)
    decoder = "input_ids" if kind == "decoder" else "decoder_input_ids"
    filling = END if kind == "decoder" else PAD
    width = batch["labels"].shape[1]
    for row, i in enumerate(chosen):
        encoder_ids, ids, labels = laid_out(kind, *EXAMPLES[i])
        read, first = encoder_ids or ids, next(n for n, label in enumerate(labels) if label != IGNORED)
        end_too = "the decoder reads the answer's end too, but nothing follows it"
        mistakes = {
            end_too: ids + labels[-1:],
            "the decoder reads the labels, not the tokens before them": labels,
        }
        assert_row(batch[decoder][row], ids, mistakes, filling, f"example {i}, what the decoder reads")
        mistakes = {
            "the prompt's tokens are labels too": [*ids[1:], labels[-1]],
            "a label is the token at its own place, not the next one": [IGNORED] * (first + 1)
            + [*ids, END][first + 1 :],
            "the labels are one place too late: each place predicts the token it reads": [IGNORED, *labels],
            "the labels are one place too early": labels[1:],
            "the answer's end is no label: the model would never learn to stop": [*labels[:-1], IGNORED],
            "the answer's first token is no label": [IGNORED] * (first + 1) + labels[first + 1 :],
            "padding has labels": labels + [filling] * (width - len(labels)),
        }
        what = f"example {i}, labels: only the answer and its end"
        assert_row(batch["labels"][row], labels, mistakes, IGNORED, what)
        mistakes = {"they are what the decoder reads": ids}
        assert_row(batch["input_ids"][row], read, mistakes, filling, f"example {i}, input_ids")
        mistakes = {end_too: [1] * (len(read) + 1)}
        assert_row(batch["attention_mask"][row], [1] * len(read), mistakes, 0, f"example {i}, attention_mask")
    assert batch["labels"].shape == batch[decoder].shape, "labels and input have different lengths"
    assert batch["n_label"] == sum(len(small.tokenizer().encode(" " + EXAMPLES[i][1])) + 1 for i in chosen)


def test_a_decoder_that_starts_from_two_tokens_has_a_label_from_the_second_on():
    task = task_of("encoder-decoder")
    task.decoder_begin = [3, 5]  # BART's are </s> <s>
    rows = task.answer_rows([[7, 8]], [[10, 11, 12]], n_cut=2)
    batch = rows.batch([0])
    told = "`decoder_begin`, then the answer without its end"
    assert batch["decoder_input_ids"].tolist() == [[3, 5, 10, 11]], told
    labels = batch["labels"].tolist()
    assert labels == [[IGNORED, 10, 11, 12]], f"labels {labels}: only tokens of the answer are labels"
    assert rows.texts.n_cut == 2, "pass on `n_cut`, the number of texts that were cut"


@each_kind
def test_loss_and_accuracy_equal_a_plain_loop_and_parts_add_up(kind, assert_parts_add_up):
    model, task = model_of(kind, head_bias=True).double(), task_of(kind)
    with torch.no_grad():
        model.vocabulary.bias[small.tokenizer().encode(" bread")] = 9.0
    total, n_right, n = 0.0, 0, 0
    for example in EXAMPLES:  # one at a time, so without any padding
        encoder_ids, ids, labels = laid_out(kind, *example)
        for logits, label in zip(plain_logits(model, encoder_ids, ids), labels, strict=True):
            if label != IGNORED:
                total, n = total - logits.log_softmax(-1)[label].item(), n + 1
                n_right += int(logits.argmax()) == label
    assert 0 < n_right < n, "the test needs a token that is right"
    batch = task.rows(EXAMPLES).batch(range(4))
    loss, metrics = task.loss(model, batch)
    told = "a mean over the answers' tokens and their ends; the encoder's padding must not be seen"
    assert loss.item() == pytest.approx(total / n), told
    assert metrics["loss"].item() == loss.item()
    assert metrics["accuracy"].item() == pytest.approx(n_right / n)
    assert_parts_add_up(task, model, batch, n_part=3)


@each_kind
def test_without_labels_the_loss_is_0_and_gradients_are_finite(kind):
    model, task = model_of(kind), task_of(kind)
    batch = task.rows(EXAMPLES).batch(range(4))
    loss, metrics = task.loss(model, batch | dict(labels=torch.full_like(batch["labels"], IGNORED)))
    loss.backward()
    assert loss.item() == 0 and all(value.item() == 0 for value in metrics.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# Too long


@each_kind
def test_a_long_source_loses_its_beginning_and_the_answer_is_kept(kind):
    task, (source, target) = task_of(kind, context=24), EXAMPLES[3]
    rows = task.rows([(source, target), ("Who?", "Rui")])
    assert rows.texts.n_cut == 1, "one of the two was cut"
    encoder_ids, ids, labels = laid_out(kind, source, target)
    batch = rows.batch([0])
    answer = [label for label in labels if label != IGNORED]
    assert [x for x in batch["labels"][0].tolist() if x != IGNORED] == answer, "the answer must be kept"
    found = batch["input_ids"][0].tolist()
    assert found[0] == (END if kind == "decoder" else CLS)
    if kind == "decoder":
        room = 24 - task.n_answer + len(answer)
        assert found[1:] == ids[-room + 1 :], "cut on the left, with room for the longest training answer"
    else:
        assert found[1:] == encoder_ids[-23:], "cut on the left"
    assert rows.batch([0, 1])["input_ids"].shape[1] <= 24


@each_kind
def test_a_source_that_just_fits_is_not_called_cut(kind):
    task, words = task_of(kind, context=24), ["a"]
    while not task.source_ids(" ".join([*words, "a"]), 0)[1]:
        words.append("a")
    fits, cut = (task.source_ids(" ".join(given), 0)[0] for given in (words, [*words, "a"]))
    assert fits == cut, "one word more is cut off at the beginning: the row is as long"


@each_kind
def test_a_long_source_is_cut_alike_in_training_and_in_use(kind):
    task, source = task_of(kind, context=24), EXAMPLES[3][0]
    prompts = [task.source_ids(source, n)[0] for n in (0, 2, task.n_answer)]
    assert prompts[0] == prompts[1] == prompts[2], "no token of the answer's room may go to the source"
    assert task.source_ids("Who?", 0)[1] is False and task.source_ids(source, 0)[1] is True
    longest = len(small.tokenizer().encode(" The old baker and Ana")) + 1
    assert task.n_answer == (longest if kind != "decoder" else 12), "half of a decoder's context at most"
    assert task_of(kind, 24, [("s", "bread")]).n_answer == 2, "a short answer takes little room, with its end"


@pytest.mark.parametrize("kind, n_kept", [("decoder", 12), ("encoder-decoder", 23)])
def test_a_source_gives_way_to_a_long_answer_until_that_has_its_share_and_is_cut(kind, n_kept):
    task, encode = task_of(kind, 24, EXAMPLES[3:] + EXAMPLES[:1]), small.tokenizer().encode
    for target, n in (("a lamp a lamp", None), ("bread " * 30, n_kept)):
        expected = [*encode(" " + target), task.end][:n]
        assert len(expected) > task.n_answer and (expected[-1] == task.end) == (n is None)
        rows = task.rows([(EXAMPLES[3][0], target)])
        batch = rows.batch([0])
        assert [x for x in batch["labels"][0].tolist() if x != IGNORED] == expected and rows.texts.n_cut == 1
        assert batch["input_ids"].shape[1] <= 24
        assert bool(task.rows([("Who?", target)]).texts.n_cut) == (n is not None), "a cut answer counts too"


# Writing


def plain_answer(model, kind: str, source: str, most: int) -> tuple[str, float]:
    """Return the greedy answer, by a loop without cache or batch, and its probability."""
    bpe = small.tokenizer()
    specials = [bpe.special_id(token) for token in SPECIAL_TOKENS]
    encoder_ids, end = laid_out(kind, source, "")[0], END if kind == "decoder" else SEP
    start = [END, *bpe.encode(source), *bpe.encode("\n")] if kind == "decoder" else [CLS]
    new, chance = [], 0.0
    while len(new) < most:
        log_probs = plain_logits(model, encoder_ids, start + new)[-1].log_softmax(-1)
        allowed = log_probs.clone()
        allowed[[i for i in specials if i != end]] = -math.inf
        new.append(int(allowed.argmax()))
        chance += log_probs[new[-1]].item()
        if new[-1] == end:
            break
    return bpe.decode([i for i in new if i not in specials]).strip(), math.exp(chance)


@each_kind
def test_answers_equal_a_plain_loop(kind):
    model, task = model_of(kind, d_model=24), task_of(kind)
    objective = FineTuning(task, Parts(EXAMPLES, EXAMPLES[:1], []), 4)
    small.learn(objective, model, n_step=60, lr=1e-2)  # the four are known by heart, all but a little
    asked = ["Ana?", "two red pens on Monday. The old baker likes what?"]
    sources = [source for source, _ in EXAMPLES] + asked
    expected = [plain_answer(model, kind, source, 2 * task.n_answer) for source in sources]
    found = task.predict(model, [(source, None) for source in sources], batch_size=4)
    guesses, wanted = [p.guess for p in found], [text for text, _ in expected]
    assert sorted(guesses) != sorted(wanted) or guesses == wanted, "in another order than the sources"
    for guess, want, source in zip(guesses, wanted, sources, strict=True):
        told = f"{guess!r} for {source!r}, not {want!r}: the greedy answer, without source and end token"
        assert guess == want, told
    right = sum(p.guess == target for p, (_, target) in zip(found, EXAMPLES, strict=False))
    assert right >= 3, "is the answer's label the token that follows?"
    assert [p.text for p in found] == sources and all(p.truth is None for p in found)
    for prediction, (_, chance) in zip(found, expected, strict=True):
        told = "the product over all tokens that it wrote, for each source its own"
        assert prediction.probability == pytest.approx(chance, rel=1e-3), told
    assert task.predict(model, [], 4) == []


@each_kind
def test_answers_that_never_end_stop_and_stay_within_the_positions(kind, monkeypatch):
    model, task, written = model_of(kind, 24), task_of(kind, 24), []

    def seen(model, prompts, n_new, **options):
        assert n_new == 2 * task.n_answer, "twice the longest training answer is enough"
        written.extend(generate(model, prompts, n_new, **options))
        return written

    monkeypatch.setattr(text_to_text, "generate", seen)
    assert len(task.write(model, [task.source_ids(text, 0)[0] for text in ("Ana " * 40, "?")], 2)) == 2
    assert all(len(ids) <= 24 for ids in written), "longer than the positions"


# Scores, examples, models


def test_scores_of_labels_of_sentences_and_of_words():
    task = task_of("decoder", examples=[("s", "yes"), ("s", "no")] * 3)
    assert task.labels == ["no", "yes"]
    found = task.score(["yes", "no", "yes", "no"], ["yes", "no", "no", "never"])
    # F1: yes 2/3, no 1/2
    assert found == pytest.approx(dict(exact_match=1 / 2, macro_f1=7 / 12, not_a_label=1 / 4))
    truth, right = ["yes", "no"] * 50, ["yes", "no"] * 40
    for junk in (["x"] * 20, [f"x{i}" for i in range(20)]):  # 80 hits, 20 misses: F1 of each label 8/9
        f1 = task.score(truth, right + junk)["macro_f1"]
        assert f1 == pytest.approx(8 / 9), "an invented answer counts as one more class"
    assert next(iter(found)) == TextToText.metric == "exact_match", "the score comes first"
    task = task_of("decoder")
    assert task.score(["a b c d"], ["a b c d"]) == pytest.approx(dict(exact_match=1, bleu=100))
    told = "of three words there is no run of four"
    assert task.score(["a b c", "d e f"], ["a b c", "d e f g h"]) == dict(exact_match=0.5), told


def test_what_is_learnt_of_the_examples():
    known = TextToText.learn(EXAMPLES, small.tokenizer())
    assert known == dict(longest_answer="The old baker and Ana", labels=[]), "no labels: each once"
    rare = [("s", "Rui sells bread on Monday"), ("s", "Zürich, Łódź")]  # fewer letters, more tokens
    assert TextToText.learn(rare, small.tokenizer())["longest_answer"] == "Zürich, Łódź", "it was cut"
    twice = [("s", f"answer {i}") for i in range(MOST_LABELS)] * 2
    assert TextToText.learn(twice, small.tokenizer())["labels"] == sorted({target for _, target in twice})
    for train, told in (
        ([*twice, ("s", "x"), ("s", "x")], "too many to be labels"),
        ([("s", "a"), ("s", "a"), ("t", "b")], "one answer occurs once"),
    ):
        assert TextToText.learn(train, small.tokenizer())["labels"] == [], told


def test_questions_of_the_world():
    examples = TextToText.world(40, 3, True)
    assert examples == TextToText.world(40, 3, True) != TextToText.world(40, 3, False) and len(examples) == 40
    assert all(source.endswith("?") and target in source for source, target in examples)
    assert len({target for _, target in examples}) > 10


def published() -> BPE:
    """Return a tokenizer with the special tokens of BART: [CLS] is <s>, [SEP] is </s>."""
    bpe = BPE.train([], 259, ("<s>", "<pad>", "</s>"))
    aliases = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[START]": "</s>"}
    return BPE(bpe.vocab, bpe.merges, bpe.special_tokens, aliases=aliases)


def test_a_published_bart_is_given_what_it_was_trained_to_begin_with():
    tokenizer, model = published(), model_of("encoder-decoder", vocab_size=259)
    task = TextToText(tokenizer, model.config, 20, TextToText.learn(EXAMPLES, tokenizer))
    batch = task.rows([("ab", "c")]).batch([0])
    s, end, (a, b, c) = tokenizer.special_id("<s>"), tokenizer.special_id("</s>"), tokenizer.encode("abc")
    assert batch["input_ids"].tolist() == [[s, a, b, end]], "no space before the text"
    assert batch["decoder_input_ids"].tolist() == [[end, s, c]], "its decoder begins with </s> <s>"
    assert batch["labels"].tolist() == [[IGNORED, c, end]], "<s> is given, not asked"
    assert len(task.predict(model, [("ab", None), ("b", "c")], 2)) == 2


@each_kind
def test_the_names_of_special_tokens_in_a_text_are_letters(kind):
    task, special = task_of(kind), "[SEP]<|endoftext|>[CLS]"
    answer, source = task.answer_ids(special), task.source_ids(special, 0)[0]
    for ids in (answer[:-1], source[1:-1]):
        assert not {SEP, CLS, END} & set(ids), "a text that names the end ends the answer"
    assert small.tokenizer().decode(answer[:-1]) == " " + special


def test_the_numbers_are_those_of_the_figures_in_the_readme():
    assert TextToText.recipe == dict(n_examples=3000, steps=200, batch_size=32)
    assert TextToText.least_context == 8
    assert (MOST_LABELS, text_to_text.SENTENCE) == (20, 4), "BLEU counts runs of 4 words"
