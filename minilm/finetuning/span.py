"""Question answering: the answer is a span of the text, predicted as the positions where it begins and ends.

Source: Devlin et al. 2019, sections 4.2 and 4.3, for SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016 and 2018). The
row is [CLS] question [SEP] text [SEP]. S . T_i is the score of position i as the begin of the answer, E . T_j
that of position j as its end; the best span has the greatest sum. For a question without an answer, both are
the position of [CLS]. A text that is too long for one row is read in overlapping windows.

    position      0    1     2   3 4     5    6     7  8      9 10    11
    input_ids [CLS] _Who _sold _it ? [SEP] _Ana _sold _a _melon  . [SEP]
    labels  6  6     the answer, "Ana", begins and ends there

Predictions are whole tokens, as in published models: an answer that begins or ends inside one is never exact.
"""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import world
from ..model.attention import BLOCKED
from ..tokenizer.rows import framed, located_ids, rows_of, text_ids
from ..training import metrics
from .tasks import HeadTask, LabelledRows, Prediction, commonest

LONGEST_ANSWER = 30  # in tokens, as in the authors' code


class Window(NamedTuple):
    """A row [CLS] question [SEP] part of the text [SEP]."""

    example: int  # index of the example
    row: tuple[list[int], int]  # as `framed` gives it: ids, and how many of them stand before the text
    letters: list[tuple[int, int]]  # (a, b) of each token of this part: it is text[a:b]
    label: list[int]  # positions in the row of the answer's first and last token, or [0, 0]


class Span(HeadTask):
    """A text, a question, and a list of right answers (text, start), which is empty if there is no answer."""

    name, metric, baseline, files = "span", "exact_match", "usual answer", "squad"
    fields, kinds, least_context = ("context", "question", "answers"), ("encoder",), 9
    on, n_output = "position", 2  # scores of "begins here" and "ends here"
    learnt: ClassVar = dict(impossible=bool)
    recipe: ClassVar = dict(n_examples=1500, steps=500, batch_size=32)

    @classmethod
    def world(cls, n, seed, held_out, domain="stories"):
        """Return stories, each with a question: who, what, where, when, or how somebody felt."""
        examples = world.questions(n, seed, held_out, domain)
        return [(text, question, [(answer, start)]) for text, question, answer, start in examples]

    @classmethod
    def learn(cls, train, tokenizer=None):
        """Return whether some questions have no answer; only then may `predict` return "", no answer."""
        return dict(impossible=any(not answers for *_, answers in train))

    @classmethod
    def truths(cls, examples):
        """Return all answers, and "" for no answer, which any question may have."""
        return ["", *(text for *_, answers in examples for text, _ in answers)]

    def windows(self, examples: list[tuple]) -> list[Window]:
        """Return the windows of all texts: the next one begins half a window's text further on, to the end.

        So an answer that one window cuts in two is whole in the next, and no word is read without context.
        A question is cut to `context` // 2 tokens. The label is [0, 0], the position of [CLS], if there is no
        answer, or if the window does not hold all of the first one. Differs from the authors' code: if two
        windows share a token, both its scores count, not only the one with more text around it.
        """
        found = []
        for i, (text, question, answers) in enumerate(examples):
            ids, letters = located_ids(self.tokenizer, self.config, text)
            question = text_ids(self.tokenizer, self.config, question)[: self.context // 2]
            n_before = framed(self.tokenizer, self.config, question, [])[1]
            room = self.context - n_before - 1  # 1 for the last [SEP]
            answer, begin = answers[0] if answers else ("", 0)  # "" is in no token
            inside = [t for t, (a, b) in enumerate(letters) if a < begin + len(answer) and b > begin]
            step = max(1, room // 2)
            for start in range(0, max(1, len(ids) - room + step), step):
                part = slice(start, start + room)
                row = framed(self.tokenizer, self.config, question, ids[part])
                label = [0, 0]  # [CLS]: no answer, or not in this window
                if inside and start <= inside[0] and inside[-1] < start + room:
                    label = [n_before + inside[0] - start, n_before + inside[-1] - start]
                found.append(Window(i, row, letters[part], label))
        return found

    def rows(self, examples, windows=None):
        """Return the windows of all texts as rows, with the positions of the answers."""
        windows = windows or self.windows(examples)
        n_cut = sum(len(text_ids(self.tokenizer, self.config, q)) > self.context // 2 for _, q, _ in examples)
        rows = rows_of(self.tokenizer, self.config, [window.row for window in windows], n_cut)
        return LabelledRows(rows, torch.tensor([window.label for window in windows]))

    def loss(self, model, batch):
        """Return the mean (paper: sum) of both cross-entropies in nats; `accuracy`: begin and end right."""
        padding = batch["attention_mask"] == 0  # (B, T)
        # Differs from the authors' code, whose softmax includes padding; there all rows have the same length.
        logits = model.output(batch).float().masked_fill(padding[..., None], BLOCKED)  # (B, T, 2)
        # (B, T, 2) against labels (B, 2): the positions are the classes
        total = F.cross_entropy(logits, batch["labels"], reduction="sum") / 2
        right = (logits.argmax(1) == batch["labels"]).all(1).sum() / batch["n_row"]
        return total / batch["n_row"], dict(loss=total / batch["n_row"], accuracy=right)

    def predict(self, model, examples, batch_size):
        """Return the best answer over all windows of a text; "", no answer, must beat it in every window."""
        windows = self.windows(examples)
        best, absent = [(-math.inf, "")] * len(examples), [math.inf] * len(examples)
        outputs = self.outputs(model, self.rows(examples, windows), batch_size)
        for window, scores in zip(windows, outputs, strict=True):
            # Differs from the authors' code, which compares the raw scores of all windows. After a softmax in
            # each, a window without the answer has most probability at [CLS], "not here", little at spans.
            i, log_probs = window.example, scores.log_softmax(0)  # (T, 2)
            absent[i] = min(absent[i], float(log_probs[0].sum()))
            if window.letters:  # a text without a token has no answer
                score, first, last = best_span(log_probs[window.row[1] : -1])  # the text, without [SEP]
                if score > best[i][0]:
                    best[i] = score, examples[i][0][window.letters[first][0] : window.letters[last][1]]
        found = []
        for (text, question, truth), (score, guess), none in zip(examples, best, absent, strict=True):
            if self.known["impossible"] and none > score:
                score, guess = none, ""
            found.append(Prediction(f"{question} | {text}", truth, guess, math.exp(score)))
        return found

    def score(self, truth, guess):
        """Return exact match and F1 as SQuAD's evaluation script computes them."""
        pairs = [(ours, [text for text, _ in theirs]) for theirs, ours in zip(truth, guess, strict=True)]
        exact = sum(metrics.squad_exact_match(*pair) for pair in pairs) / len(pairs)
        return dict(exact_match=exact, f1=sum(metrics.squad_f1(*pair) for pair in pairs) / len(pairs))

    @classmethod
    def trivial(cls, train, test):
        """Return for each question the commonest training answer to questions with the same first word."""
        usual = commonest((asked.split()[0], answers[0][0] if answers else "") for _, asked, answers in train)
        return [usual.get(question.split()[0], "") for _, question, _ in test]

    def written(self, value, text=None):
        """Return the answer, or, for a truth, all right answers."""
        texts = [value] if isinstance(value, str) else list(dict.fromkeys(text for text, _ in value))
        return super().written(" / ".join(texts) or "(no answer)")


def best_span(log_probs: Tensor, longest: int = LONGEST_ANSWER) -> tuple[float, int, int]:
    """Return the greatest (begin[i] + end[j], i, j), i <= j < i + longest; log_probs (T, 2): begin, end."""
    begin, end = log_probs.unbind(-1)  # (T,) each
    sums = begin[:, None] + end[None, :]  # (T, T): row = first position, column = last
    fits = torch.ones_like(sums).triu().tril(longest - 1)  # i <= j, and not too long
    score, place = sums.masked_fill(fits == 0, -math.inf).flatten().max(0)
    return float(score), *divmod(int(place), len(sums))
