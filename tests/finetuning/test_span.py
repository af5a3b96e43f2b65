"""Grades finetuning/span.py: where an answer begins and ends, and the windows of a long text."""

import json

import pytest
import small
import torch
import tuned

from minilm.finetuning.comparison import prepared, train_quietly
from minilm.finetuning.span import Found, Span, Windows, WordsOfText, best_spans
from minilm.finetuning.tasks import Examples, FineTuning, Prediction
from minilm.plumbing.errors import UserError

TEXT = "Ana found a lamp on Monday. Rui sells bread."
LONG = "Rui sells bread. " * 6 + "Ana found a lamp."


def example(text: str, question: str, answer: str | None) -> tuple:
    return text, question, [] if answer is None else [(answer, text.index(answer))]


ASKED = [
    example(TEXT, "Who found?", "Ana"),
    example(TEXT, "What is sold?", "bread"),
    example(TEXT, "When?", "on Monday"),
    example("Ana ran.", "Who?", "Ana"),
]


def task_of(context: int = tuned.CONTEXT, train=ASKED) -> Span:
    return Span(small.tokenizer(), tuned.config(), context, Span.learn(train))


def model_of(task, seed: int = 0):
    return prepared(tuned.body(seed=seed), task, tuned.settings(), "all").eval()


def test_words_know_their_letters():
    words = WordsOfText(small.tokenizer(), TEXT)
    assert words.ids == small.tokenizer().encode(" " + TEXT), "other rows than pre-training had"
    for answer in ("Ana", "a lamp on", "Monday", "Monday."):
        first, last = words.tokens_of(answer, TEXT.index(answer))
        assert words.between(first, last) == answer
    first, last = words.tokens_of("amp o", TEXT.index("amp o"))
    assert words.between(first, last) == "lamp on", "an answer inside words is widened to them"
    assert WordsOfText(small.tokenizer(), " ").between(0, 0) == ""
    assert WordsOfText(small.tokenizer(), "a  b").tokens_of(" ", 1) is None


def test_one_window_marks_question_text_and_answer():
    task = task_of()
    rows = Windows(task, ASKED)
    assert rows.example == [0, 1, 2, 3] and rows.n_cut == 0
    encode, (cls, sep) = small.tokenizer().encode, map(small.tokenizer().special_id, ("[CLS]", "[SEP]"))
    question = encode(" Who found?")
    assert rows.rows[0] == [cls, *question, sep, *encode(" " + TEXT), sep]
    batch = rows.batch([1, 3])
    n, n_first = len(rows.rows[1]), rows.begin[1]
    assert batch["token_type_ids"][0].tolist()[:n] == [0] * n_first + [1] * (n - n_first)
    for row, r in enumerate([1, 3]):
        assert rows.answer(r, *batch["labels"][row].tolist()) == ASKED[r][2][0][0]
    assert float(batch["n_row"]) == 2
    inside = rows.in_text([1, 3])
    assert inside.shape == batch["input_ids"].shape
    for row, r in enumerate([1, 3]):
        shown = batch["input_ids"][row][inside[row]].tolist()
        assert shown == encode(" " + ASKED[r][0]), "question, special tokens and padding are no answers"


def test_a_long_text_is_read_through_windows_that_overlap():
    asked = [example(LONG, "What?", "lamp"), ASKED[3]]
    task = task_of(context=24)
    rows = Windows(task, asked)
    of_first = [r for r, i in enumerate(rows.example) if i == 0]
    assert len(of_first) > 2 and max(rows.lengths[of_first]) == 24
    seen = [rows.rows[r][rows.begin[r] : -1] for r in of_first]
    whole, place = WordsOfText(small.tokenizer(), LONG).ids, 0
    for r, part in zip(of_first, seen, strict=True):
        start = rows.of_token[r]
        assert start <= place, "tokens between two windows are read by none"
        assert part == whole[start : start + len(part)]
        place = start + len(part)
    assert place == len(whole), "the end of the text is read by no window"
    labels = [rows.labels[r] for r in of_first]
    for r, label in zip(of_first, labels, strict=True):
        assert label == [0, 0] or rows.answer(r, *label) == "lamp"
    assert labels[0] == [0, 0] and labels[-1] != [0, 0], "a window without the answer points at [CLS]"


def test_a_question_longer_than_half_the_row_is_cut():
    rows = Windows(task_of(context=24), [example(TEXT, "why " * 60, "Ana")])
    assert rows.n_cut == 1 and rows.lengths.max() <= 24


def test_a_row_has_room_for_some_text_or_is_refused():
    rows = Windows(task_of(context=7), ASKED)
    assert rows.lengths.max() <= 7 and rows.in_text(range(len(rows))).any(1).all()
    with pytest.raises(UserError, match="--context 6: no room for question and text; give 7 or more"):
        task_of(context=6)


def test_the_loss_is_the_mean_of_both_ends():
    task = task_of()
    model, batch = model_of(task), task.rows(ASKED).batch([0, 2, 3])
    log_probs = task.logits(model, batch).log_softmax(1)
    each = [
        -(log_probs[b, i, 0] + log_probs[b, j, 1]) / 2 for b, (i, j) in enumerate(batch["labels"].tolist())
    ]
    loss, metrics = task.loss(model, batch)
    torch.testing.assert_close(loss, torch.stack(each).mean())
    best = log_probs.argmax(1)
    assert float(metrics["accuracy"]) == pytest.approx(float((best == batch["labels"]).all(1).float().mean()))


def test_padding_takes_no_part():
    task = task_of()
    model, rows, asked = model_of(task), task.rows(ASKED), range(len(ASKED))
    assert len(set(rows.lengths)) > 1
    alone = [task.loss(model, rows.batch([i]))[0].item() for i in asked]
    assert task.loss(model, rows.batch(asked))[0].item() == pytest.approx(sum(alone) / len(alone), abs=1e-5)
    alone = [task.predict(model, [one], 1)[0] for one in ASKED]
    beside = task.predict(model, ASKED, len(ASKED))
    assert [p.probability for p in beside] == pytest.approx([p.probability for p in alone], abs=1e-6)
    assert [p.guess for p in beside] == [p.guess for p in alone]


def test_best_spans_is_the_slow_search():
    log_probs = torch.randn(3, 7, 2)
    allowed = torch.rand(3, 7) < 0.7
    allowed[:, 3] = True
    scores, places = best_spans(log_probs, allowed, longest=3)
    for b in range(3):
        spans = {
            (i, j): float(log_probs[b, i, 0] + log_probs[b, j, 1])
            for i in range(7)
            for j in range(i, min(7, i + 3))
            if allowed[b, i] and allowed[b, j]
        }
        assert tuple(places[b].tolist()) == max(spans, key=spans.get)
        assert float(scores[b]) == pytest.approx(max(spans.values()), abs=1e-5)


def test_answers_are_learnt_from_one_window_and_from_several():
    asked = [*ASKED, example(LONG, "Who found?", "Ana"), example("Rui ran.", "Why?", None)]
    task = task_of(context=32, train=asked)
    model = model_of(task)
    train_quietly(
        model,
        FineTuning(task, Examples(asked, asked, asked), 12),
        tuned.settings(steps=150, batch_size=12, lr=2e-2, warmup=10),
    )
    found = task.predict(model, asked, 3)
    assert [p.guess for p in found] == ["Ana", "bread", "on Monday", "Ana", "Ana", ""]
    assert task.score(found) == dict(exact_match=1.0, f1=1.0)
    assert all(0 < p.probability <= 1 for p in found) and found[0].text == f"Who found? | {TEXT}"
    assert task.predict(model, [(TEXT, "Who found?", None)], 1)[0].truth is None


def test_no_answer_only_where_training_had_such_questions():
    task = task_of()
    assert task.decide(Found(-3.0, 0.05, "Ana"), -0.1) == ("Ana", 0.05)
    task = task_of(train=[*ASKED, example(TEXT, "Why?", None)])
    answer, probability = task.decide(Found(-3.0, 0.05, "Ana"), -0.1)
    assert answer == "" and probability == pytest.approx(0.9048, abs=1e-4)
    assert task.decide(Found(-0.1, 0.9, "Ana"), -3.0) == ("Ana", 0.9)
    with pytest.raises(UserError, match="none of the 1 questions has an answer"):
        Span.learn([example(TEXT, "Why?", None)])


def test_scores_follow_squad():
    task = task_of()
    predictions = [
        Prediction("", [("the lamp", 0), ("lamps", 0)], "Lamp"),
        Prediction("", [("red pens", 0)], "pens"),
        Prediction("", [], ""),
    ]
    found = task.score(predictions)
    assert found["exact_match"] == pytest.approx(2 / 3) and found["f1"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert task.written([("a", 0), ("b", 3), ("a", 9)]) == "a / b"
    assert task.written([]) == task.written("") == "(no answer)"


def test_what_needs_no_model():
    what, guesses = Span.trivial(ASKED, [(TEXT, "Who sells?", []), (TEXT, "Why?", [])])
    assert what == "usual answer" and guesses == ["Ana", ""]


def test_files_of_questions_with_and_without_answers(tmp_path):
    path = tmp_path / "a.json"
    asked = dict(question="Who?", answers=[dict(text="Ana", answer_start=0)])
    none = dict(question="Why?", answers=[], is_impossible=True)
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": TEXT, "qas": [asked, none]}]}]}))
    assert Span.read(path) == ([(TEXT, "Who?", [("Ana", 0)]), (TEXT, "Why?", [])], 0)
    assert Span.read(path, truth=False)[0] == [(TEXT, "Who?", None), (TEXT, "Why?", None)]
    table = tmp_path / "b.tsv"
    table.write_text(f"{TEXT}\tWho?\n", encoding="utf-8")
    assert Span.read(table, truth=False) == ([(TEXT, "Who?", None)], 0)


def test_the_world_gives_answers_at_their_places():
    for text, _, ((answer, start),) in Span.world(9, 0, True):
        assert text[start:].startswith(answer)
