"""Question answering: the answer is a span of the text, found as the place where it begins and where it ends.

Source: Devlin et al. 2019, sections 4.2 and 4.3, for SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016 and 2018). The
row is [CLS] question [SEP] text [SEP]. A score S . T_i says that the answer begins at position i, another
E . T_j that it ends at j; the best span has the greatest sum. A question without an answer begins and ends at
[CLS]. A text too long for a row is read through windows that overlap.

An answer begins and ends with a word, so that no tokenizer has to say which letters its tokens stand for.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import world
from ..plumbing.errors import UserError
from ..texts.files import kind
from ..texts.tables import read_squad, read_table
from ..tokenizer.rows import framed, rows_of, text_ids
from ..training import metrics
from .heads import Head
from .tasks import Prediction, Rows, Task, device_of, in_parts

WORD = re.compile(r"\w+|[^\w\s]")  # a run of letters and digits, or one mark
LONGEST_ANSWER = 30  # tokens; that of the authors' code
BLOCKED = -1e30


class Span(Task):
    """A text, a question, and the right answers with their places, none where there is no answer."""

    name, metric, kinds = "span", "exact_match", ("encoder",)
    columns = "SQuAD 1.1 or 2.0 (.json)"

    def __init__(self, tokenizer, config, context, known=None):
        super().__init__(tokenizer, config, context, known)
        n_special = len(framed(tokenizer, config, [], [])[0])
        if context - context // 2 <= n_special:  # half of a row may be question (`Windows.add`)
            least = 2 * n_special + 1
            raise UserError(f"--context {context}: no room for question and text; give {least} or more")

    @classmethod
    def read(cls, path, skip_bad=False, truth=True):
        """Return (examples, n_skipped) of a SQuAD file; without truth also of a table: context, question."""
        if not truth and kind(path) != ".json":
            rows, n_skipped = read_table(path, ("context", "question"), skip_bad)
            return [(*row, None) for row in rows], n_skipped
        found, n_skipped = read_squad(path, skip_bad, answered=truth)
        return [(e["context"], e["question"], e["answers"] if truth else None) for e in found], n_skipped

    @classmethod
    def world(cls, n, seed, held_out):
        """Return stories, each with a question: who, what, where, when, or how somebody felt."""
        examples = world.questions(n, seed, held_out)
        return [(text, question, [(answer, start)]) for text, question, answer, start in examples]

    @classmethod
    def learn(cls, train):
        """Return whether there are questions without an answer; only then will the model say so."""
        if not any(answers for *_, answers in train):
            raise UserError(f"none of the {len(train)} questions has an answer: there is nothing to find")
        return dict(impossible=any(not answers for *_, answers in train))

    def head(self):
        """Return a linear layer from the vector of each position to two scores: begins here, ends here."""
        return Head(self.config, 2, on="position")

    def rows(self, examples):
        """Return the windows of all texts, with the places of the answers."""
        return Windows(self, examples)

    def logits(self, model, batch: dict[str, Tensor]) -> Tensor:
        """Return the scores (B, T, 2) of beginning and ending at each position, `BLOCKED` on padding.

        Differs from the authors' code, in whose softmax padding takes part: there every row is as long.
        """
        padding = batch["attention_mask"] == 0  # (B, T)
        return model.output(batch).float().masked_fill(padding[..., None], BLOCKED)

    def loss(self, model, batch):
        """Return the mean of both cross-entropies in nats; metrics `loss`, and `accuracy`, both right."""
        logits, labels = self.logits(model, batch), batch["labels"]  # (B, T, 2), (B, 2)
        # (B, T, 2) against (B, 2): the positions are the classes
        total = F.cross_entropy(logits, labels, reduction="sum") / 2
        right = (logits.argmax(1) == labels).all(1).sum() / batch["n_row"]
        return total / batch["n_row"], dict(loss=total / batch["n_row"], accuracy=right)

    @torch.no_grad()
    def predict(self, model, examples, batch_size):
        """Return the best answer of all windows of a text, "" for none; no answer must be best in each."""
        rows = Windows(self, examples)
        best = [Found(BLOCKED, 0.0, "")] * len(examples)
        none = [-BLOCKED] * len(examples)
        for part, batch in in_parts(rows, batch_size, device_of(model)):
            log_probs = self.logits(model, batch).log_softmax(1).cpu()  # (B, T, 2)
            scores, places = best_spans(log_probs, rows.in_text(part))
            for row, window in enumerate(part):
                i = rows.example[window]
                score, answer = float(scores[row]), rows.answer(window, *places[row].tolist())
                if score > best[i].score:
                    best[i] = Found(score, float(scores[row].exp()), answer)
                none[i] = min(none[i], float(log_probs[row, 0].sum()))
        return [
            Prediction(f"{question} | {text}", answers, *self.decide(found, absent))
            for (text, question, answers), found, absent in zip(examples, best, none, strict=True)
        ]

    def decide(self, found: "Found", absent: float) -> tuple[str, float]:
        """Return the answer and its probability: the span, or "" where that is likelier and allowed."""
        if self.known["impossible"] and absent > found.score:
            return "", float(torch.tensor(absent).exp())
        return found.answer, found.probability

    def score(self, predictions):
        """Return exact match and F1, as the script of SQuAD counts them."""
        pairs = [(p.guess, [text for text, _ in p.truth]) for p in predictions]
        exact = sum(metrics.squad_exact_match(guess, truth) for guess, truth in pairs) / len(pairs)
        return dict(exact_match=exact, f1=sum(metrics.squad_f1(*pair) for pair in pairs) / len(pairs))

    @classmethod
    def trivial(cls, train, test):
        """Give the commonest training answer to a question that begins with the same word."""
        counts: dict[str, Counter] = {}
        for _, question, answers in train:
            counts.setdefault(question.split()[0], Counter())[answers[0][0] if answers else ""] += 1
        usual = {word: found.most_common(1)[0][0] for word, found in counts.items()}
        return "usual answer", [usual.get(question.split()[0], "") for _, question, _ in test]

    def written(self, value):
        """Return the answer, or all right ones."""
        texts = [value] if isinstance(value, str) else list(dict.fromkeys(text for text, _ in value))
        return super().written(" / ".join(texts) or "(no answer)")


@dataclass(frozen=True)
class Found:
    """The best span so far of a text."""

    score: float  # log-probability of its begin plus that of its end
    probability: float
    answer: str


class Windows(Rows):
    """Rows [CLS] question [SEP] window [SEP]; a long text has several windows, each half over the last one.

    `example[r]` is the example that row r belongs to. Differs from the authors' code: of a token in two
    windows both scores count, not only that with more text around it.
    """

    def __init__(self, task: Span, examples: list[tuple]):
        self.task, self.n_cut = task, 0
        self.example, self.labels, self.framed = [], [], []
        self.begin, self.of_token = [], []  # of each row: place of its text, number of the first token in it
        self.texts = [WordsOfText(task.tokenizer, example[0]) for example in examples]
        for i, (_, question, answers) in enumerate(examples):
            self.add(i, text_ids(task.tokenizer, task.config, question), answers)
        self.rows = rows_of(task.tokenizer, task.config, self.framed)
        self.lengths = self.rows.lengths

    def add(self, i: int, question: list[int], answers: list | None) -> None:
        """Add the windows of one example; of a question at most half the context is kept."""
        task, text = self.task, self.texts[i]
        self.n_cut += len(question) > task.context // 2
        question = question[: task.context // 2]
        n_before = len(framed(task.tokenizer, task.config, question, [])[0]) - 1  # all but the last [SEP]
        room = task.context - n_before - 1
        answer = text.tokens_of(*answers[0]) if answers else None
        start = 0
        while True:
            end = min(start + room, len(text.ids))
            self.framed.append(framed(task.tokenizer, task.config, question, text.ids[start:end]))
            inside = answer is not None and start <= answer[0] and answer[1] < end
            shift = n_before - start
            self.labels.append([answer[0] + shift, answer[1] + shift] if inside else [0, 0])
            self.example.append(i)
            self.begin.append(n_before)
            self.of_token.append(start)
            if end == len(text.ids):
                return
            start += max(1, room // 2)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Return the rows of `RaggedRows.batch`, labels (B, 2), begin and end, and the denominator n_row."""
        labels = torch.tensor([self.labels[r] for r in chosen])
        return self.rows.batch(chosen) | dict(labels=labels, n_row=torch.tensor(float(len(labels))))

    def in_text(self, chosen: Sequence[int]) -> Tensor:
        """Return (B, T), true where a row's token belongs to the text."""
        column = torch.arange(max(self.lengths[r] for r in chosen))
        begin = torch.tensor([self.begin[r] for r in chosen])[:, None]
        end = torch.tensor([self.lengths[r] - 1 for r in chosen])[:, None]
        return (column >= begin) & (column < end)

    def answer(self, r: int, first: int, last: int) -> str:
        """Return the text from the word of one position of row r to the word of another."""
        shift = self.of_token[r] - self.begin[r]
        return self.texts[self.example[r]].between(first + shift, last + shift)


class WordsOfText:
    """A text as tokens, each of which knows its word, and so its letters."""

    def __init__(self, tokenizer, text: str):
        self.text, self.ids, self.word, self.spans = text, [], [], []
        for match in WORD.finditer(text):
            # As in a whole text: a space before a word, none before a mark that stands close.
            close = match.start() > 0 and not text[match.start() - 1].isspace()
            ids = tokenizer.encode(("" if close else " ") + match.group(), allow_special=False)
            self.ids += ids
            self.word += [len(self.spans)] * len(ids)
            self.spans.append(match.span())

    def tokens_of(self, answer: str, start: int) -> tuple[int, int] | None:
        """Return the first and the last token of an answer at a place; None where it has none."""
        end = start + len(answer)
        touched = {w for w, (a, b) in enumerate(self.spans) if a < end and b > start}
        tokens = [t for t, word in enumerate(self.word) if word in touched]
        return (tokens[0], tokens[-1]) if tokens else None

    def between(self, first: int, last: int) -> str:
        """Return the letters from the word of token `first` to that of token `last`."""
        if not self.ids:
            return ""
        return self.text[self.spans[self.word[first]][0] : self.spans[self.word[last]][1]]


def best_spans(log_probs: Tensor, allowed: Tensor, longest: int = LONGEST_ANSWER) -> tuple[Tensor, Tensor]:
    """Return the best sum of begin and end (B,), and its two positions (B, 2).

    Args:
        log_probs: (B, T, 2). allowed: (B, T), where an answer may begin and end.
    """
    begin, end = log_probs.masked_fill(~allowed[..., None], BLOCKED).unbind(-1)  # (B, T)
    T = begin.shape[1]
    fits = torch.ones(T, T, dtype=torch.bool).triu().tril(longest - 1)  # begins before it ends, not too long
    sums = (begin[:, :, None] + end[:, None, :]).masked_fill(~fits, 2 * BLOCKED)  # (B, T, T)
    score, place = sums.flatten(1).max(1)
    return score, torch.stack([place // T, place % T], 1)
