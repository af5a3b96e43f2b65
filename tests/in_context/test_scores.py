"""Grades in_context/scores.py: label scores against one text read at a time, without padding."""

import math
from functools import partial

import pytest
import small
import torch
from mistakes import assert_right
from unequal import POSITIONS

from minilm.in_context import scores as scoring
from minilm.in_context.prompts import PromptFormat, Question
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import prompt_ids

WORDS = {"0": "bad", "1": "good", "2": "so so"}
FORMAT = PromptFormat(WORDS, "Text: {text} Label: {label}.", " | ")
EXAMPLES = [(f"text {i}", "012"[i % 3]) for i in range(10)]


def model_of(kind: str = "decoder", **fields):
    layers = dict(n_encoder_layer=2 * ("encoder" in kind), n_decoder_layer=2 * ("decoder" in kind))
    sizes = dict(vocab_size=small.tokenizer().vocab_size, d_model=12, n_head=3, d_ff=20, max_positions=90)
    return build(ModelConfig(**(sizes | layers | dict(init_std=0.5, dropout=0.3) | fields)))


def question(k: int = 2, text: str = "it rains") -> Question:
    return Question(tuple(EXAMPLES[:k]), text, "1")


def note_shapes(model, monkeypatch) -> list[tuple[int, int]]:
    """Return a list that gets the shape (B, T) of the ids of each pass of the decoder."""
    read, decode = [], model.decode
    monkeypatch.setattr(model, "decode", lambda ids, *a, **k: read.append(ids.shape) or decode(ids, *a, **k))
    return read


@torch.no_grad()
def slow_likelihood(model, prompt: list[int], start: list[int], label: tuple[int, ...]) -> float:
    """One prompt and one label at a time, token by token, without padding."""
    total = 0.0
    for i, token in enumerate(label):
        if model.encoder is None:
            logits = model(torch.tensor([[*prompt, *label[:i]]]))
        else:
            logits = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[*start, *label[:i]]]))
        total += logits[0, -1].log_softmax(-1)[token].item()
    return total


def wrong_likelihoods(slow, labels) -> dict:
    """Return functions for what typical mistakes give, where `slow(label)` gives log p of a label."""
    return {
        "a label's last token is left out": lambda: [slow(x[:-1]) for x in labels],
        "only a label's first token counts": lambda: [slow(x[:1]) for x in labels],
        "only a label's last token counts": lambda: [slow(x) - slow(x[:-1]) for x in labels],
        "each token is predicted from the prompt only": lambda: [sum(slow((t,)) for t in x) for x in labels],
        "it is a mean over a label's tokens, not a sum": lambda: [slow(x) / len(x) for x in labels],
        "the sign is wrong": lambda: [-slow(x) for x in labels],
        "probabilities are returned, not their logarithms": lambda: [math.exp(slow(x)) for x in labels],
    }


def test_labels_that_begin_alike_get_their_end():
    tokenizer, config = small.tokenizer(), model_of().config
    plain = PromptFormat({"a": "Ana", "b": "lamp"}, "{text} {label}", " |")
    expected = [tuple(tokenizer.encode(word)) for word in (" Ana", " lamp")]
    told = "a further token only where one label begins another"
    assert scoring.label_tokens(tokenizer, plain, config) == expected, told
    nested = PromptFormat({"a": "x", "b": "xy", "c": "z"}, "{text} {label}", "|")
    labels = scoring.label_tokens(tokenizer, nested, config)
    written = [tokenizer.decode(ids) for ids in labels]
    assert written == [" x|", " xy|", " z|"], "'x' begins 'xy': its likelihood is never the smaller one"
    assert not any(a != b and b[: len(a)] == a for a in labels for b in labels)
    last = PromptFormat({"a": "x", "b": "xy"}, "{text} {label}", "")
    end = tokenizer.special_id("<|endoftext|>")
    assert [ids[-1] for ids in scoring.label_tokens(tokenizer, last, config)] == [end, end]
    both = model_of("encoder-decoder").config
    assert scoring.label_tokens(tokenizer, nested, both)[0][-1] == tokenizer.special_id("[SEP]")


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("batch_size", [1, 3, 128])
@pytest.mark.parametrize(
    "before", ["", "Rui found a lamp. Ana found two pens. The baker "], ids=["", "shared"]
)
def test_likelihoods_are_those_of_one_text_at_a_time(before, kind, batch_size, monkeypatch):
    model, tokenizer = model_of(kind), small.tokenizer()
    labels = [(7, 8, 9), (7, 8, 10), (11,), (12,), (7,)]
    prompts = ["Ana sells bread", "Rui", "The old baker likes two red pens", "Rui", "a lamp on Monday"]
    prompts, read = [before + prompt for prompt in prompts], note_shapes(model, monkeypatch)
    model.train()
    got = scoring.label_log_likelihoods(model, tokenizer, prompts, labels, batch_size)
    told = f"{len(got)} rows for 5 prompts: equal prompts are read once, each has its row"
    assert got.shape == (5, 5), told
    assert model.training, "the model must be left in training mode"
    if before and kind == "decoder":
        n_shared = len(tokenizer.encode(before)) - 2
        assert read[0][0] == 1 and read[0][1] > n_shared, "read the shared beginning once, alone"
        assert max(length for _, length in read[1:]) < n_shared, "do not read it again for each question"
    model.eval()
    start = [tokenizer.special_id("[CLS]")]
    for i, prompt in enumerate(prompts):
        ids = prompt_ids(tokenizer, model.config, prompt)
        slow = partial(slow_likelihood, model, ids, start)
        want, mistakes = [slow(label) for label in labels], wrong_likelihoods(slow, labels)
        how = dict(rtol=1e-5, atol=1e-4, axes=("label",))
        assert_right(got[i], want, mistakes, what=f"log p of the labels {labels} after {prompt!r}", **how)
    one = scoring.batch_likelihoods(model, [ids, ids[:-1]], labels, start)
    assert_right(one[0], want, mistakes, what="log p of the labels, beside a shorter prompt", **how)


def test_what_a_user_calls_a_label_is_text():
    tokenizer = small.tokenizer()
    special = {tokenizer.special_id(token) for token in tokenizer.special_tokens}
    form = PromptFormat({"a": "[SEP]", "b": "[SEP]s"}, "{text}{label}", "[PAD]")
    labels = scoring.label_tokens(tokenizer, form, model_of().config)
    assert not special & {token for label in labels for token in label}, "a special token in a label is text"
    assert labels[0][-1] == tokenizer.encode("[PAD]", False)[0], "and in what follows one"


@pytest.mark.parametrize("text, is_longer", [("x", True), ("a text of many words, and more of them", False)])
def test_calibration_needs_room_for_its_texts_of_nothing(text, is_longer):
    need = lambda score: scoring.positions_needed(
        small.tokenizer(), model_of().config, FORMAT, [question(1, text)], score
    )
    assert need("sum") == need("mean") and (need("calibrated") > need("sum")) == is_longer


def test_a_batch_has_as_many_rows_as_memory_holds(monkeypatch):
    model = model_of()
    read = note_shapes(model, monkeypatch)
    prompts = [f"{name} sells {i} lamps" for i in range(70) for name in ("Ana", "The old baker")]
    score = lambda: scoring.label_log_likelihoods(model, small.tokenizer(), prompts, [(7, 8), (9, 8)])
    whole = score()
    assert 10_000 < scoring.MOST_TOKENS < 100_000, "more fill the memory, less leave a GPU idle"
    assert [rows for rows, _ in read] == [128, 128, 12, 12], "128 prompts at once, once for each beginning"
    longest, read[:] = max(length for _, length in read), []
    monkeypatch.setattr(scoring, "MOST_TOKENS", 6 * longest - 1)
    torch.testing.assert_close(score(), whole, rtol=1e-5, atol=1e-4)
    assert {rows for rows, _ in read} == {5}, "five of the longest with a label have that many tokens"
    read[:] = []
    monkeypatch.setattr(scoring, "MOST_TOKENS", longest - 1)
    score()
    assert {rows for rows, _ in read} == {1}, "one is read whatever its length"


@pytest.mark.parametrize(("n", "shapes"), [(15, [(2, 17)]), (16, [(1, 16), (2, 2)])])
def test_beginnings_of_16_tokens_are_worth_to_be_read_apart(n, shapes, monkeypatch):
    model, tokenizer = model_of(), small.tokenizer()
    read, ids_of = note_shapes(model, monkeypatch), lambda _, __, prompt: [*range(9, 9 + n), ord(prompt), 7]
    monkeypatch.setattr(scoring, "prompt_ids", ids_of)
    scoring.label_log_likelihoods(model, tokenizer, ["a", "b"], [(7,), (8,)])
    assert read == shapes


def test_an_encoder_says_what_it_can_do_instead():
    with pytest.raises(UserError, match=r"encoder.*extract\.py"):
        scoring.label_log_likelihoods(model_of("encoder"), small.tokenizer(), ["a"], [(1,)])


def test_a_prompt_longer_than_the_positions_is_named():
    tokenizer = small.tokenizer()
    asked = Question((), "x" * 40, "0")
    form = PromptFormat({"0": "x", "1": "yyyy"}, "{text} {label}")
    length = scoring.positions_needed(tokenizer, model_of().config, form, [question(0, "x"), asked], "sum")
    scoring.label_scores(model_of(max_positions=length), tokenizer, form, [asked])
    with pytest.raises(UserError, match=f"--shots.* {length - 1} positions"):
        scoring.label_scores(model_of(max_positions=length - 1), tokenizer, form, [asked])
    both = model_of("encoder-decoder", max_positions=60)
    n_prompt = len(prompt_ids(tokenizer, both.config, form.prompt(asked)))
    assert scoring.positions_needed(tokenizer, both.config, form, [asked], "sum") == n_prompt
    scoring.label_scores(model_of("encoder-decoder", max_positions=n_prompt), tokenizer, form, [asked])


def test_scores_follow_their_formulas():
    model, tokenizer = model_of(), small.tokenizer()
    asked = [question(1), question(2, "Ana sells")]

    def scores(score, questions=asked):
        return scoring.label_scores(model, tokenizer, FORMAT, questions, score)

    labels = scoring.label_tokens(tokenizer, FORMAT, model.config)
    total = scores("sum")
    n, axes = torch.tensor([float(len(label)) for label in labels]), ("question", "label")
    mistakes = {
        "the sum is not divided by the number of tokens": total,
        "the sum is divided by the number of letters": total / torch.tensor([len(w) for w in WORDS.values()]),
        "the sum is divided by the mean number of tokens": total / n.mean(),
        "the sum is multiplied by the number of tokens": total * n,
    }
    assert_right(scores("mean"), total / n, mistakes, axes=axes, what="mean")
    empty = [[Question(q.examples, text, q.label) for q in asked] for text in ("N/A", "[MASK]", "")]
    free = torch.stack([scores("sum", questions) for questions in empty])
    expected = free.softmax(-1).mean(0)
    right = (total.softmax(-1) / expected).log()
    mistakes = {
        "the score is not calibrated": total,
        "p is not divided by the mean over CONTENT_FREE": total.log_softmax(-1),
        "p with a text of CONTENT_FREE is not normalised over the labels": total.log_softmax(-1)
        - free.exp().mean(0).log(),
        "p(label) is not normalised over the labels": total - expected.log(),
        "logarithms are averaged, not probabilities": total.log_softmax(-1) - free.log_softmax(-1).mean(0),
        "the probabilities are summed, not averaged": total.log_softmax(-1) - (3 * expected).log(),
        "only the first text of CONTENT_FREE is used": total.log_softmax(-1) - free[0].log_softmax(-1),
        "p is multiplied by the mean over CONTENT_FREE": total.log_softmax(-1) + expected.log(),
        "probabilities are returned, not their logarithms": right.exp(),
    }
    found = scores("calibrated")
    assert_right(found, right, mistakes, rtol=1e-4, atol=1e-4, axes=axes, what="calibrated")


def test_a_label_that_is_all_but_impossible_never_wins_when_calibrated(monkeypatch):
    far = {"it rains": [-300.0, -10.0, -500.0], "N/A": [-5.0, -40.0, -400.0]}
    fixed = torch.tensor([far["it rains"], far["N/A"], far["N/A"], far["N/A"]])
    waiting = iter(fixed[:, None])
    monkeypatch.setattr(scoring, "label_log_likelihoods", lambda *_: next(waiting))
    (found,) = scoring.label_scores(model_of(), small.tokenizer(), FORMAT, [question()], "calibrated")
    want = (fixed[0].double().log_softmax(-1) - fixed[1].double().log_softmax(-1)).float()
    torch.testing.assert_close(found, want, msg="a probability that float32 cannot hold became +inf or nan")


def test_the_answer_has_the_highest_score():
    model, tokenizer = model_of(), small.tokenizer()
    asked = [question(1, text) for text in ("it rains", "Ana", "bread", "two red pens")]
    best = scoring.label_scores(model, tokenizer, FORMAT, asked, "mean").argmax(-1)
    given = scoring.answers(model, tokenizer, FORMAT, asked, "mean")
    assert given == ["012"[i] for i in best], "the label, not its word, with the highest score of that kind"
    right = [Question(q.examples, q.text, label) for q, label in zip(asked, given, strict=True)]
    wrong = [Question(q.examples, q.text, "x") for q in asked]
    assert scoring.accuracy(model, tokenizer, FORMAT, right[:1] + wrong[1:], "mean") == 0.25


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_score_does_not_depend_on_the_other_prompts_of_the_call(positions):
    model, tokenizer = model_of(positions=positions).eval(), small.tokenizer()
    given = small.documents(1, seed=4)[0][:60]
    labels = [tuple(tokenizer.encode(" a")), tuple(tokenizer.encode(" red"))]
    prompts = [given + " b", given + " and the one of which there is much more"]
    assert len(tokenizer.encode(given)) > scoring.WORTH_SHARING
    both = scoring.label_log_likelihoods(model, tokenizer, prompts, labels)
    alone = torch.cat([scoring.label_log_likelihoods(model, tokenizer, [p], labels) for p in prompts])
    told = "other scores than alone: with ALiBi no beginning can be shared"
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=1e-4, msg=told)
