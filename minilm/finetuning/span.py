"""Question answering: the answer is a span of the text, found as the place where it begins and where it ends.

Source: Devlin et al. 2019, sections 4.2 and 4.3, for SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016 and 2018). The
row is [CLS] question [SEP] text [SEP]. A score S . T_i says that the answer begins at position i, another
E . T_j that it ends at j; the best span has the greatest sum. A question without an answer begins and ends at
[CLS]. A text too long for a row is read through windows that overlap.

    position      0    1     2   3 4     5    6     7  8      9 10    11
    input_ids [CLS] _Who _sold _it ? [SEP] _Ana _sold _a _melon  . [SEP]
    labels  6  6     the answer, "Ana", begins and ends there

An answer begins and ends with a token, as the published ones do: one that does not is never exact.
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

LONGEST_ANSWER = 30  # tokens; that of the authors' code


class Window(NamedTuple):
    """A row [CLS] question [SEP] part of the text [SEP]."""

    example: int  # number of the example
    row: tuple[list[int], int]  # as `framed` gives it: ids, and how many of them stand before the text
    letters: list[tuple[int, int]]  # of each token of the text: which letters text[a:b] it stands for
    label: list[int]  # positions of the answer's first and last token


class Span(HeadTask):
    """A text, a question, and the right answers with their places, none where there is no answer."""

    name, metric, baseline = "span", "exact_match", "usual answer"
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
        """Return whether there are questions without an answer; only then will the model say so."""
        return dict(impossible=any(not answers for *_, answers in train))

    @classmethod
    def truths(cls, examples):
        """Return the answers, and the one that any question may have: none."""
        return ["", *(text for *_, answers in examples for text, _ in answers)]

    def windows(self, examples: list[tuple]) -> list[Window]:
        """Return the windows of all texts, each half over the one before; half of a row may be question."""
        found = []
        for i, (text, question, answers) in enumerate(examples):
            ids, letters = located_ids(self.tokenizer, self.config, text)
            question = text_ids(self.tokenizer, self.config, question)[: self.context // 2]
            n_before = framed(self.tokenizer, self.config, question, [])[1]
            room = self.context - n_before - 1  # the last [SEP]
            answer, begin = answers[0] if answers else ("", 0)  # "": no token has a letter of it
            inside = [t for t, (a, b) in enumerate(letters) if a < begin + len(answer) and b > begin]
            # Why they overlap: an answer that one window cuts in two stands whole in the next, and no word is
            # read without what stands around it. Differs from the authors' code: of a token in two windows
            # both scores count, not only that with more text around it.
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
        """Return the windows of all texts as rows, with the places of the answers."""
        windows = windows or self.windows(examples)
        n_cut = sum(len(text_ids(self.tokenizer, self.config, q)) > self.context // 2 for _, q, _ in examples)
        rows = rows_of(self.tokenizer, self.config, [window.row for window in windows], n_cut)
        return LabelledRows(rows, torch.tensor([window.label for window in windows]))

    def loss(self, model, batch):
        """Return the mean (paper: sum) of both cross-entropies in nats; metrics (`accuracy`: both right)."""
        padding = batch["attention_mask"] == 0  # (B, T)
        # Differs from the authors' code, in whose softmax padding takes part: there every row is as long.
        logits = model.output(batch).float().masked_fill(padding[..., None], BLOCKED)  # (B, T, 2)
        # (B, T, 2) against labels (B, 2): the positions are the classes
        total = F.cross_entropy(logits, batch["labels"], reduction="sum") / 2
        right = (logits.argmax(1) == batch["labels"]).all(1).sum() / batch["n_row"]
        return total / batch["n_row"], dict(loss=total / batch["n_row"], accuracy=right)

    def predict(self, model, examples, batch_size):
        """Return the best answer of all windows of a text, "" for none; no answer must be best in each."""
        windows = self.windows(examples)
        best, absent = [(-math.inf, "")] * len(examples), [math.inf] * len(examples)
        outputs = self.outputs(model, self.rows(examples, windows), batch_size)
        for window, scores in zip(windows, outputs, strict=True):
            # Differs from the authors' code, which compares the raw scores of all windows: in the softmax of
            # a window [CLS], "not here", takes its share, and one without the answer has little left.
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
        """Return exact match and F1, as the script of SQuAD counts them."""
        pairs = [(ours, [text for text, _ in theirs]) for theirs, ours in zip(truth, guess, strict=True)]
        exact = sum(metrics.squad_exact_match(*pair) for pair in pairs) / len(pairs)
        return dict(exact_match=exact, f1=sum(metrics.squad_f1(*pair) for pair in pairs) / len(pairs))

    @classmethod
    def trivial(cls, train, test):
        """Give the commonest training answer to a question that begins with the same word."""
        usual = commonest((asked.split()[0], answers[0][0] if answers else "") for _, asked, answers in train)
        return [usual.get(question.split()[0], "") for _, question, _ in test]

    def written(self, value, text=None):
        """Return the answer, or all right ones."""
        texts = [value] if isinstance(value, str) else list(dict.fromkeys(text for text, _ in value))
        return super().written(" / ".join(texts) or "(no answer)")


def best_span(log_probs: Tensor, longest: int = LONGEST_ANSWER) -> tuple[float, int, int]:
    """Return the greatest sum of begin and end, and both places, of the positions of a text (T, 2)."""
    begin, end = log_probs.unbind(-1)  # (T,) each
    sums = begin[:, None] + end[None, :]  # (T, T): begins at the row's place, ends at the column's
    fits = torch.ones_like(sums).triu().tril(longest - 1)  # begins before it ends, not too long
    score, place = sums.masked_fill(fits == 0, -math.inf).flatten().max(0)
    return float(score), *divmod(int(place), len(sums))
