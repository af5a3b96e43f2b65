"""Grades in_context/prompts.py: the text of a prompt, and label scores against one text read at a time."""

import math
from collections import Counter

import pytest
import small
import torch

from minilm.in_context import prompts as prompting
from minilm.in_context.prompts import Interval, PromptFormat, Question
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import prompt_ids

WORDS = {"0": "bad", "1": "good", "2": "so so"}
FORMAT = PromptFormat(WORDS, "Text: {text} Label: {label}.", " | ")
EXAMPLES = [(f"text {i}", "012"[i % 3]) for i in range(10)]


def model_of(kind: str = "decoder", **fields):
    layers = dict(n_encoder_layer=int("encoder" in kind), n_decoder_layer=int("decoder" in kind))
    sizes = dict(vocab_size=small.tokenizer().vocab_size, d_model=12, n_head=3, d_ff=20, max_positions=90)
    return build(ModelConfig(**(sizes | layers | dict(init_std=0.5, dropout=0.3) | fields)))


def question(k: int = 2, text: str = "it rains") -> Question:
    return Question(tuple(EXAMPLES[:k]), text, "1")


def test_a_prompt_ends_where_the_label_is_due():
    assert FORMAT.prompt(question()) == (
        "Text: text 0 Label: bad. | Text: text 1 Label: good. | Text: it rains Label:"
    ), "the space before a label belongs to the label's token"
    assert FORMAT.prompt(question(0)) == "Text: it rains Label:"
    assert FORMAT.continuations() == [" bad", " good", " so so"] and FORMAT.labels == ["0", "1", "2"]
    assert FORMAT.ending() == ". | Text: "
    assert PromptFormat(WORDS, "{text}={label}").continuations() == ["bad", "good", "so so"]
    braces = Question((("a {label} b", "0"),), "{text}", "1")
    assert FORMAT.prompt(braces) == "Text: a {label} b Label: bad. | Text: {text} Label:", "a text is a text"


@pytest.mark.parametrize("start", ["Text: {text} Label: ", "{text} ", " {text} = "])
def test_prompt_and_label_are_the_tokens_of_the_example(start):
    tokenizer = small.tokenizer()
    form = PromptFormat(WORDS, start + "{label}", "\n")
    asked = question()
    for word, label in zip(form.continuations(), WORDS.values(), strict=True):
        whole = form.prompt(asked) + word
        assert whole.endswith(start.replace("{text}", "it rains") + label)
        assert tokenizer.encode(form.prompt(asked)) + tokenizer.encode(word) == tokenizer.encode(whole)


@pytest.mark.parametrize(
    ("words", "template", "found"),
    [
        (WORDS, "{text}", "--template"), (WORDS, "{label} {text}", "--template"), (WORDS, "", "--template"),
        ({"a": "a"}, "{text} {label}", "one label alone"), ({"a": "x", "b": "x"}, "{text} {label}", "'x'"),
        ({"a": "x", "b": " "}, "{text} {label}", "is empty"),
    ],
)  # fmt: skip
def test_formats_that_cannot_be_are_refused(words, template, found):
    with pytest.raises(UserError, match=found):
        PromptFormat(words, template)


def test_labels_that_begin_alike_get_their_end():
    tokenizer, config = small.tokenizer(), model_of().config
    plain = PromptFormat({"a": "Ana", "b": "lamp"}, "{text} {label}", " |")
    assert prompting.label_tokens(tokenizer, plain, config) == [
        tuple(tokenizer.encode(" Ana")), tuple(tokenizer.encode(" lamp")),
    ]  # fmt: skip
    nested = PromptFormat({"a": "x", "b": "xy", "c": "z"}, "{text} {label}", "|")
    labels = prompting.label_tokens(tokenizer, nested, config)
    assert [tokenizer.decode(ids) for ids in labels] == [" x|", " xy|", " z|"], (
        "'x' begins 'xy': its likelihood alone can never be the smaller one"
    )
    assert not any(a != b and b[: len(a)] == a for a in labels for b in labels)
    last = PromptFormat({"a": "x", "b": "xy"}, "{text} {label}", "")
    end = tokenizer.special_id("<|endoftext|>")
    assert [ids[-1] for ids in prompting.label_tokens(tokenizer, last, config)] == [end, end]
    both = model_of("encoder-decoder").config
    assert prompting.label_tokens(tokenizer, nested, both)[0][-1] == tokenizer.special_id("[SEP]")


def test_only_the_decoder_of_an_encoder_decoder_has_a_start_of_its_own():
    tokenizer = small.tokenizer()
    assert prompting.decoder_start(tokenizer, model_of().config) == []
    both = model_of("encoder-decoder").config
    assert prompting.decoder_start(tokenizer, both) == [tokenizer.special_id("[CLS]")]


@torch.no_grad()
def slow_likelihood(model, prompt: list[int], label: tuple[int, ...], start: list[int]) -> float:
    """One prompt and one label at a time, token by token, without padding."""
    total = 0.0
    for i, token in enumerate(label):
        if model.encoder is None:
            logits = model(torch.tensor([[*prompt, *label[:i]]]))
        else:
            logits = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[*start, *label[:i]]]))
        total += logits[0, -1].log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_likelihoods_are_those_of_one_text_at_a_time(kind, batch_size):
    model, tokenizer = model_of(kind), small.tokenizer()
    labels = [(7, 8, 9), (7, 8, 10), (11,), (12,), (7,)]
    prompts = ["Ana sells bread", "Rui", "The old baker likes two red pens", "Rui", "a lamp on Monday"]
    model.train()
    got = prompting.label_log_likelihoods(model, tokenizer, prompts, labels, batch_size)
    assert model.training and got.shape == (5, 5), "a model is left as it was"
    model.eval()
    start = prompting.decoder_start(tokenizer, model.config)
    for i, prompt in enumerate(prompts):
        ids = prompt_ids(tokenizer, model.config, prompt)
        want = [slow_likelihood(model, ids, label, start) for label in labels]
        assert got[i].tolist() == pytest.approx(want, abs=1e-4), f"{prompt}: padding or the label's place"
    one = prompting.batch_likelihoods(model, [ids, ids[:-1]], labels, start)
    assert one[0].tolist() == pytest.approx(want, abs=1e-4)


def test_an_encoder_says_what_it_can_do_instead():
    with pytest.raises(UserError, match=r"encoder.*extract\.py"):
        prompting.label_log_likelihoods(model_of("encoder"), small.tokenizer(), ["a"], [(1,)])


def test_a_prompt_longer_than_the_positions_is_named():
    tokenizer = small.tokenizer()
    asked = Question((), "x" * 40, "0")
    form = PromptFormat({"0": "x", "1": "yyyy"}, "{text} {label}")
    length = prompting.prompt_length(tokenizer, model_of().config, form, asked)
    for positions in (length - 1, length):
        model = model_of(max_positions=positions)
        if positions == length:
            prompting.label_scores(model, tokenizer, form, [asked])
        else:
            with pytest.raises(UserError, match=f"{positions} positions"):
                prompting.label_scores(model, tokenizer, form, [asked])
    both = model_of("encoder-decoder", max_positions=60)
    n_prompt = len(prompt_ids(tokenizer, both.config, form.prompt(asked)))
    assert prompting.prompt_length(tokenizer, both.config, form, asked) == n_prompt


def test_scores_follow_their_formulas():
    model, tokenizer = model_of(), small.tokenizer()
    asked = [question(1), question(2, "Ana sells")]

    def scores(score, questions=asked):
        return prompting.label_scores(model, tokenizer, FORMAT, questions, score)

    labels = prompting.label_tokens(tokenizer, FORMAT, model.config)
    total = scores("sum")
    assert torch.allclose(scores("mean"), total / torch.tensor([float(len(label)) for label in labels]))
    free = [
        scores("sum", [Question(q.examples, text, q.label) for q in asked]).softmax(-1)
        for text in ("N/A", "[MASK]", "")
    ]
    want = total.softmax(-1) / (sum(free) / 3)
    got = scores("calibrated")
    assert torch.allclose(got.exp(), want, atol=1e-5), "p(label) / its mean where the text says nothing"
    free_question = [Question(asked[0].examples, text, "1") for text in prompting.CONTENT_FREE]
    mean_free = scores("calibrated", free_question).exp().mean(0)
    assert torch.allclose(mean_free, torch.ones(3), atol=1e-5), "without content no label may win on average"


def test_the_answer_has_the_highest_score():
    model, tokenizer = model_of(), small.tokenizer()
    asked = [question(1, text) for text in ("it rains", "Ana", "bread", "two red pens")]
    best = prompting.label_scores(model, tokenizer, FORMAT, asked, "mean").argmax(-1)
    given = prompting.answers(model, tokenizer, FORMAT, asked, "mean")
    assert given == ["012"[i] for i in best]
    right = [Question(q.examples, q.text, label) for q, label in zip(asked, given, strict=True)]
    wrong = [Question(q.examples, q.text, "x") for q in asked]
    assert prompting.accuracy(model, tokenizer, FORMAT, right[:1] + wrong[1:], "mean") == 0.25


def test_the_seed_draws_examples_and_their_order():
    tests = [("a", "0"), ("b", "1")]
    draws = {seed: prompting.draw_questions(EXAMPLES, tests, 5, seed) for seed in range(6)}
    for asked in draws.values():
        assert [(q.text, q.label) for q in asked] == tests
        assert asked[0].examples == asked[1].examples, "one draw: the same examples before each text"
        assert len(set(asked[0].examples)) == 5 and set(asked[0].examples) <= set(EXAMPLES)
    assert len({asked[0].examples for asked in draws.values()}) == 6
    again = prompting.draw_questions(EXAMPLES, tests, 3, 4)[0].examples
    assert again == draws[4][0].examples[:3], "more examples of a seed begin with its fewer ones"
    everything = prompting.draw_questions(EXAMPLES, tests, 10, 0)[0].examples
    assert set(everything) == set(EXAMPLES) and everything != tuple(EXAMPLES)
    for k in (11, -1):
        with pytest.raises(UserError, match=f"--shots {k}.*10"):
            prompting.draw_questions(EXAMPLES, tests, k, 0)


def test_controls_change_the_labels_of_examples_alone():
    asked = [Question(((f"t{i}", "ab"[i % 2]), (f"u{i}", "ab"[i % 2])), f"q{i}", "a") for i in range(60)]
    assert prompting.relabelled(asked, "gold", ["a", "b", "c"], 0) == asked

    def labels_of(questions):
        return [label for q in questions for _, label in q.examples]

    for control in ("shuffled", "random"):
        new = prompting.relabelled(asked, control, ["a", "b", "c"], 0)
        assert [(q.text, q.label) for q in new] == [(q.text, q.label) for q in asked]
        assert [[t for t, _ in q.examples] for q in new] == [[t for t, _ in q.examples] for q in asked]
        assert new == prompting.relabelled(asked, control, ["a", "b", "c"], 0)
        assert new != prompting.relabelled(asked, control, ["a", "b", "c"], 1)
        same = sum(a == b for a, b in zip(labels_of(new), labels_of(asked), strict=True))
        assert same < 85, "the labels still say what they said"
    counts = Counter(labels_of(prompting.relabelled(asked, "shuffled", ["a", "b", "c"], 0)))
    assert counts == Counter(labels_of(asked)), "shuffling keeps how often each label occurs"
    assert set(labels_of(prompting.relabelled(asked, "random", ["a", "b", "c"], 0))) == {"a", "b", "c"}


def test_accuracy_by_shots_asks_every_draw():
    model, tokenizer, seen = model_of(), small.tokenizer(), []

    def draw(k, seed):
        seen.append((k, seed))
        return prompting.draw_questions(EXAMPLES, EXAMPLES[:4], k, seed)

    found = prompting.accuracy_by_shots(model, tokenizer, FORMAT, draw, (0, 2), "gold", 3, "sum")
    assert seen == [(k, seed) for k in (0, 2) for seed in range(3)]
    values = [prompting.accuracy(model, tokenizer, FORMAT, draw(2, seed)) for seed in range(3)]
    assert found[2] == Interval.of(values) and set(found) == {0, 2}
    found = prompting.accuracy_by_shots(model, tokenizer, FORMAT, draw, (0, 2), "random", 1, "sum")
    assert set(found) == {2}, "without examples there are no labels to change"


def test_the_interval_is_students():
    interval = Interval.of([0.5, 0.7, 0.9])
    assert interval.mean == pytest.approx(0.7) and interval.half == pytest.approx(4.30 * 0.2 / math.sqrt(3))
    assert str(interval) == "0.700 ±0.497"
    assert Interval.of([0.25]) == Interval(0.25, None) and str(Interval.of([0.25])) == "0.250"
    for n, t in ((12, 2.201), (20, 2.093), (40, 2.023), (400, 1.966)):  # as printed in any table
        many = Interval.of([0.0, 1.0] * (n // 2))
        assert many.half == pytest.approx(t * math.sqrt(n / 4 / (n - 1)) / math.sqrt(n), rel=5e-3)


def test_the_checksum_sees_the_smallest_change():
    model = model_of()
    before = prompting.checksum(model)
    prompting.label_scores(model, small.tokenizer(), FORMAT, [question()])
    assert prompting.checksum(model) == before and len(before) == 16, "asking moves no weight"
    for name, weight in model.named_parameters():
        with torch.no_grad():
            last = weight.view(-1)[-1].clone()
            weight.view(-1)[-1] += 1e-5
            assert prompting.checksum(model) != before, f"{name} is left out"
            weight.view(-1)[-1] = last
    assert prompting.checksum(model) == before
