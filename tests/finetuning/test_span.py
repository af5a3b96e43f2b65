"""Grades finetuning/span.py: where an answer begins and ends, and the windows of a long text."""

import pytest
import small
import torch
import tuned
from mistakes import assert_right

from minilm.finetuning.span import Span, best_span
from minilm.tokenizer.rows import located_ids

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
    return tuned.task(Span, train, context=context)


def answer(window, text: str) -> str:
    """Return the letters between the two positions of a window's label."""
    first, last = (place - window.row[1] for place in window.label)
    return text[window.letters[first][0] : window.letters[last][1]]


def test_an_answer_has_a_label_where_a_window_has_all_of_it():
    task, words = task_of(context=24), [f"{name} {i}" for i in range(5) for name in ("Ana", "Rui", "pens")]
    text, n_cut = " ".join(words), 0
    _, letters = located_ids(small.tokenizer(), tuned.config(), text)
    cases = [(answer, text.index(answer)) for answer in words]
    for window in task.windows([(text, "Who?", [("Ana", 0)])]):
        told = f"{len(window.letters)} `letters` in a row of {len(window.row[0])}: only those of the window"
        assert len(window.letters) == len(window.row[0]) - window.row[1] - 1, told
        a, b = window.letters[0]
        cases += [(text[a:b], a)] if a >= 0 and text[a:b].strip() else []
    assert len(cases) > len(words), "the test needs a window that begins within a word"
    for answer, place in cases:
        answered = {*range(place, place + len(answer))}
        inside = [t for t, (a, b) in enumerate(letters) if answered & {*range(a, b)}]
        windows = task.windows([(text, "Who?", [(answer, place)])])
        assert windows[-1].letters[-1] == letters[-1], "the last window ends before the text does"
        right, kept, alone, whole = [], [], [], 0
        for window in windows:
            n_before, start = window.row[1], letters.index(window.letters[0])
            at = [t for t in inside if start <= t < start + len(window.letters)]
            kept.append([n_before + at[0] - start, n_before + at[-1] - start] if at else [0, 0])
            right.append(kept[-1] if at == inside else [0, 0])
            alone.append([column - n_before if column else 0 for column in right[-1]])
            whole, n_cut = whole + (at == inside), n_cut + (0 < len(at) < len(inside))
        mistakes = {
            "an answer has a label though only a part is in the window": kept,
            "the tokens before the text, [CLS] question [SEP], are not counted": alone,
            "the places are those in the text, not in the window": [
                [window.row[1] + inside[0], window.row[1] + inside[-1]] if label[1] else label
                for window, label in zip(windows, right, strict=True)
            ],
            "the last place is the one after the answer": [[a, b + 1] if b else [a, b] for a, b in right],
            "no window has a label": [[0, 0] for _ in right],
        }
        what, axes = f"an answer of the tokens {inside[0]} to {inside[-1]}", ("window", "label")
        assert_right([window.label for window in windows], right, mistakes, axes=axes, what=what)
        told = f"{what} is in no window as a whole: does a new one begin every half window?"
        assert whole or 2 * len(inside) > len(windows[0].letters), told
    assert n_cut, "the test needs answers that a border cuts"


@pytest.mark.parametrize("given", ["a lamp on", "Ana", "y. R", "bread"])
def test_an_answer_is_widened_to_the_tokens_that_it_touches(given):
    (window,) = task_of().windows([example(TEXT, "What?", given)])
    assert given in answer(window, TEXT) == answer(window, TEXT).strip()
    first, last = (place - window.row[1] for place in window.label)
    for a, b in ((first + 1, last), (first, last - 1)):
        assert a > b or given not in TEXT[window.letters[a][0] : window.letters[b][1]], "a token too many"


def test_one_window_marks_question_text_and_answer():
    rows, windows = task_of().rows(ASKED), task_of().windows(ASKED)
    found = [window.example for window in windows]
    assert found == [0, 1, 2, 3], f"windows of the texts {found}: each fits into one; `example` is its number"
    assert rows.texts.n_cut == 0, "no text is cut"
    encode, (cls, sep) = small.tokenizer().encode, map(small.tokenizer().special_id, ("[CLS]", "[SEP]"))
    before = [cls, *encode(" Who found?"), sep]
    assert rows.texts[0] == [*before, *encode(" " + TEXT), sep], "a row is [CLS] question [SEP] text [SEP]"
    assert windows[0].row == (rows.texts[0], len(before)), "`row` is (ids, number of tokens before the text)"
    batch = rows.batch([1, 0])
    segments = [0] * len(before) + [1] * (len(rows.texts[0]) - len(before))
    assert batch["token_type_ids"][1].tolist()[: len(segments)] == segments
    assert batch["labels"].tolist() == [windows[1].label, windows[0].label] and float(batch["n_row"]) == 2
    found = [answer(window, text) for window, (text, *_) in zip(windows, ASKED, strict=True)]
    assert found == [answers[0][0] for *_, answers in ASKED], "the label must mark the answer"


def test_windows_that_overlap_begin_half_a_window_after_each_other_and_the_last_holds_the_end():
    for n_letter in range(30, 60):
        text = "x" * n_letter  # a token a letter, and the space before it
        whole, letters = located_ids(small.tokenizer(), tuned.config(), text)
        *windows, other = task_of(context=24).windows([(text, "Who?", []), ASKED[3]])
        assert {window.example for window in windows} == {0} and other.example == 1, "the text's number"
        n_token, room = len(windows[0].row[0]), len(windows[0].letters)
        assert n_token == 24, f"the first window has {n_token} tokens, where the context is 24"
        parts = [window.row[0][window.row[1] : -1] for window in windows]
        starts = range(0, room // 2 * len(parts), room // 2)
        assert parts == [whole[start : start + room] for start in starts], "one begins every half window"
        assert [window.letters for window in windows] == [letters[start : start + room] for start in starts]
        assert len(whole) - room // 2 <= starts[-1] + room // 2 + 1 <= len(whole), "a window too many or few"


def test_the_shortest_rows_have_room_for_some_text():
    windows = task_of(context=Span.least_context).windows([*ASKED, ("x", "Who found a lamp?", [])])
    assert all(window.letters for window in windows), "a question takes half a row at most: context // 2"
    assert all(len(window.row[0]) <= Span.least_context for window in windows), "a row is too long"
    assert [window.example for window in windows].count(4) == 1, "a text that fits has one window"


def test_the_loss_is_the_mean_of_both_ends_and_padding_takes_no_part():
    task = task_of()
    model, rows = tuned.model(task), task.rows(ASKED)
    assert len(set(rows.lengths.tolist())) > 1
    each, hits = [], []
    for i in range(len(ASKED)):  # one at a time: no padding
        batch = rows.batch([i])
        log_probs = model.output(batch)[0].log_softmax(0)  # (T, 2)
        first, last = batch["labels"][0].tolist()
        each.append(-(log_probs[first, 0] + log_probs[last, 1]) / 2)
        hits.append(log_probs.argmax(0).tolist() == [first, last])
    loss, metrics = task.loss(model, rows.batch(range(4)))
    told = "half the sum of -log p(begin) and -log p(end), each a softmax over the positions without padding"
    torch.testing.assert_close(loss, torch.stack(each).mean(), rtol=1e-4, atol=1e-5, msg=told)
    assert float(metrics["accuracy"]) == pytest.approx(sum(hits) / 4)
    batch = rows.batch(range(4))
    batch["labels"][:3] = model.output(batch).argmax(1)[:3]
    batch["labels"][2:, 1] += 1  # one end is not enough
    assert float(task.loss(model, batch)[1]["accuracy"]) == 0.5, "begin and end right, a share of the rows"
    alone = [task.predict(model, [one], 1)[0] for one in ASKED]
    beside = task.predict(model, ASKED, len(ASKED))
    assert [p.probability for p in beside] == pytest.approx([p.probability for p in alone], abs=1e-6)
    assert [p.guess for p in beside] == [p.guess for p in alone]


def test_the_best_span_is_that_of_the_slow_search():
    draws = torch.randn(60, 7, 2).log_softmax(1)  # below 0: what does not fit must not count as 0

    def search(fits=lambda i, j: i <= j < i + 3, side=0):
        """Return the best places of each draw among the (begin, end) that fit."""
        best = []
        for scores in draws.tolist():
            spans = {(i, j): scores[i][side] + scores[j][1 - side] for i in range(7) for j in range(7)}
            best.append(max((places for places in spans if fits(*places)), key=spans.get))
        return best

    mistakes = {
        "an answer may be one token too long: it includes begin and end": search(lambda i, j: i <= j < i + 4),
        "an answer may be as long as the text": search(lambda i, j: i <= j),
        "an answer may end before it begins": search(lambda i, j: j < i + 3),
        "begin and end are chosen independently": search(lambda i, j: True),
        "the best begin is taken first, then the best end after it": [
            [i := int(scores[:, 0].argmax()), i + int(scores[i : i + 3, 1].argmax())] for scores in draws
        ],
        "an answer of one token is not allowed": search(lambda i, j: i < j < i + 3),
        "the longest answer is one token too short": search(lambda i, j: i <= j < i + 2),
        "the columns of begin and end are swapped": search(side=1),
    }
    found = [best_span(scores, longest=3) for scores in draws]
    assert None not in found, "the function returns nothing"
    axes = ("draw", "place")
    assert_right([places for _, *places in found], search(), mistakes, axes=axes, what="longest 3")
    right = [float(scores[i, 0] + scores[j, 1]) for scores, (i, j) in zip(draws, search(), strict=True)]
    assert_right([score for score, *_ in found], right, axes=("draw",), what="score, begin + end")


def test_answers_are_learnt_from_one_window_and_from_several():
    asked = [*ASKED, example(LONG, "Who found?", "Ana"), example("Rui ran.", "Why?", None)]
    task = task_of(context=32, train=asked)
    model = tuned.learnt(task, asked, steps=150, batch_size=12, warmup=10)
    found = task.predict(model, asked, 3)
    told = 'the best span of all windows, inside the text; none if "" beats it in every window'
    assert [p.guess for p in found] == ["Ana", "bread", "on Monday", "Ana", "Ana", ""], told
    assert all(0 < p.probability <= 1 for p in found) and found[0].text == f"Who found? | {TEXT}"
    assert task.predict(model, [(TEXT, "Who found?", None)], 1)[0].truth is None
    task.known["impossible"] = False
    guesses = [p.guess for p in task.predict(model, [*asked, ("\n", "Why?", None)], 3)]
    assert guesses[5], "no answer only where training had such questions"
    assert guesses[6] == "", "but where the text has no word"


def test_what_is_learnt_of_the_examples():
    assert Span.learn(ASKED) == dict(impossible=False)
    assert Span.learn([*ASKED, example(TEXT, "Why?", None)]) == dict(impossible=True)
    assert set(Span.truths([example(TEXT, "Why?", None)])) == {""}, "one truth: nothing to find"
    assert len(set(Span.truths(ASKED[:1]))) == 2
    told = "the commonest answer to questions with the same first word, here Who; none for a new one"
    assert Span.trivial(ASKED, [(TEXT, "Who sells?", []), (TEXT, "Why?", [])]) == ["Ana", ""], told


@pytest.mark.parametrize("before, given", [("王芳去年住在", "杭州"), ("", "대구"), ("de ", "Sa\u0303o")])
def test_answers_inside_a_run_of_letters_are_written_whole(before, given):
    text = before + given + "에서 태어난的一个老房子里。"
    (window,) = task_of(200).windows([example(text, "Where?", given)])
    assert answer(window, text) == given, "an answer ends where a token does, not where letters do"


def test_scores_follow_squad():
    task = task_of()
    found = task.score([[("the lamp", 0), ("lamps", 0)], [("red pens", 0)], []], ["Lamp", "pens", ""])
    assert found["exact_match"] == pytest.approx(2 / 3) and found["f1"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert task.written([("a", 0), ("b", 3), ("a", 9)]) == "a / b"
    assert task.written([]) == task.written("") == "(no answer)"


def test_the_world_gives_answers_at_their_places():
    for text, _, ((answer, start),) in Span.world(9, 0, True):
        assert text[start:].startswith(answer)


def test_an_answer_has_30_tokens_at_most_as_in_the_authors_code():
    for n, possible in ((30, True), (31, False)):
        log_probs = torch.full((40, 2), -9.0)
        log_probs[3, 0] = log_probs[3 + n - 1, 1] = 0
        assert (best_span(log_probs)[1:] == (3, 2 + n)) == possible, f"a span of {n} tokens"


def test_a_question_may_be_half_as_long_as_a_row():
    ask = " ".join(["why"] * 12)
    n = len(small.tokenizer().encode(" " + ask))
    for context, n_cut in ((2 * n + 1, 0), (2 * n, 0), (2 * n - 1, 1), (24, 1)):
        rows = task_of(context=context).rows([(TEXT, ask, []), ASKED[3]])
        assert rows.texts.n_cut == n_cut and rows.lengths.max() <= context


def test_the_recipe_is_that_of_the_figures_in_the_readme():
    assert Span.recipe == dict(n_examples=1500, steps=500, batch_size=32)
    assert Span.least_context == 9
