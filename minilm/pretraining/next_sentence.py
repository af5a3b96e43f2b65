"""The rows of BERT: pairs of texts A and B, where B follows A or does not.

    input_ids        [CLS] _Ana _sold _a _melon  . [SEP] _She _was _happy  . [SEP] [PAD]
    token_type_ids       0    0     0  0      0  0     0    1    1      1  1     1     0
    next_sentence_labels  0: B follows A; 1: B is from another document

Source: Devlin et al. 2019, section 3.1, task 2, and appendix A.2. Half of the pairs are true.
`SentenceRuns` across documents are the rows of RoBERTa (Liu et al. 2019, section 4.2, FULL-SENTENCES): no
pairs and no next-sentence task. Differs from that paper: no separator between two documents.
"""

import re
from array import array
from collections.abc import Sequence

import numpy as np

from ..plumbing.errors import UserError
from ..plumbing.stored import token_rows
from ..tokenizer.base import Tokenizer

FOLLOWS, DOES_NOT_FOLLOW = 0, 1  # classes of the next-sentence head
# Line 1: an end mark, closing quotes, then white space before an opening quote or mark, or before a letter or
# digit of any script ([^\W_]); `sentences` checks that it is not lower case. Line 2: an end mark of a script
# without spaces, unless the text goes on behind a closing quote (「はい。」と言った。). Line 3: a line's end.
SENTENCE_END = re.compile(
    r"""[.!?…؟۔।॥]["'”’“»›)\]]*\s+(?=["'“‘„«‹(\[¿¡]|[^\W_])"""
    r"""|[。！？｡]+(?:(?![”’」』）】》。！？｡])|[”’」』）】》]+(?=[\s“‘「『（【《]))\s*"""
    r"""|\n\s*"""
)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; only white space between them is lost.

    A sentence ends after `.`, `!` or `?` (and closing quotes) if a space and then a capital, a digit or an
    opening quote follow; after `。`; and at a line's end, unless the next line begins in lower case. A blank
    line always ends one. Abbreviations are not known: "Mr. Smith" is two sentences, and so is "No. 5".
    """
    parts, start = [], 0
    for end in SENTENCE_END.finditer(text):
        if not text[end.end() : end.end() + 1].islower() or end.group().count("\n") >= 2:
            parts.append(text[start : end.end()])
            start = end.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def sentence_rows(tokenizer: Tokenizer, document: str) -> list[list[int]]:
    """Return the ids of each sentence, encoded with a space before it; a sentence without ids is left out."""
    return [*filter(None, (tokenizer.encode(" " + s, allow_special=False) for s in sentences(document)))]


class SentenceRuns:
    """Documents cut into runs: as many whole sentences of one document as fit into a row.

    Every sentence is encoded with a space before it, so that a word is the same token wherever it stands.
    A sentence longer than a text's share of the row is cut into several; `n_cut` counts such sentences.

    Args:
        n_text: texts in a row. They share what [CLS], and a [SEP] after each text, leave of `context`.
        across_documents: a run may continue in the next document.
    """

    def __init__(self, documents: Sequence[str], tokenizer, context: int, n_text=1, across_documents=False):
        self.context, room = context, context - n_text - 1
        self.cls, self.sep, self.pad = map(tokenizer.special_id, ("[CLS]", "[SEP]", "[PAD]"))
        self.ids, lengths, counts = token_rows(documents, tokenizer, sentence_rows)
        longest = room // n_text
        self.n_cut, n_part = (lengths > longest).sum(), -(-lengths // longest)  # parts of each
        ends = n_part.cumsum()  # one after the last part of each sentence
        parts = np.full(n_part.sum(), longest, dtype=np.int32)  # the lengths of all parts
        parts[ends - 1] -= n_part * longest - lengths  # the last part of a sentence has what is left
        self.edges = np.append(0, parts.cumsum())  # sentence, or part, s is ids[edges[s] : edges[s + 1]]
        first = np.append(0, ends)[np.append(0, counts.cumsum())]  # the first sentence of each document
        after = self.edges.searchsorted(self.edges[:-1] + room, "right") - 1  # where a run from s has to end
        if not across_documents:
            np.minimum(after, np.repeat(first[1:], np.diff(first)), out=after)  # or where its document ends
        runs = array("i", [0])  # where each run begins, and the end: int32, as there may be millions
        while runs[-1] < len(after):
            runs.append(after[runs[-1]])
        self.runs = np.stack([runs[:-1], runs[1:]], 1)  # (N, 2) first sentence, one after the last
        self.document_of = (first.searchsorted(runs[:-1], "right") - 1).astype(np.int32)  # (N,)

    def __len__(self) -> int:
        return len(self.runs)

    def framed(self, chosen: np.ndarray, before: list[int], behind: list[int], filling: int) -> np.ndarray:
        """Return rows (B, T): `before`, the tokens of a chosen run, `behind`, and `filling` as padding."""
        start, end = self.edges[self.runs[chosen]].T[..., None]  # (B, 1) each
        first, last = len(before), len(before) + end - start  # where the run stands in its row
        place = np.arange(width(last.max() + len(behind), self.context))  # (T,)
        ids = self.ids[(start + place - first).clip(0, len(self.ids) - 1)].astype(np.int64)  # (B, T)
        ids[:, :first], ids[place >= last] = before, filling
        for i, token in enumerate(behind):
            ids[place == last + i] = token
        return ids

    def rows(self, chosen: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Return [CLS] run [SEP] as input_ids and attention_mask (B, T); `rng` is not used."""
        ids = self.framed(chosen, [self.cls], [self.sep], self.pad)
        return dict(input_ids=ids, attention_mask=ids != self.pad)


class SentencePairs(SentenceRuns):
    """Rows [CLS] A [SEP] B [SEP]: A and B are the two halves of a run, or B is another run's second half.

    Differs from the paper: a run is cut at its middle sentence rather than anywhere, and a false B resembles
    the true one: as many sentences, about as many tokens, and both or neither from a document's first run.
    Otherwise its length or place gives the answer away. UserError unless two documents have pairs.
    """

    def __init__(self, documents: Sequence[str], tokenizer: Tokenizer, context: int, name: str = "this text"):
        super().__init__(documents, tokenizer, context, n_text=2)
        has_next = self.runs[:, 1] - self.runs[:, 0] >= 2  # a single sentence has no next one
        self.runs, self.document_of = self.runs[has_next], self.document_of[has_next]
        if len(np.unique(self.document_of)) < 2:
            raise UserError(f"{name}: no 2 pairs fit --context {context}: raise it, or --no-next-sentence")
        first, last = self.runs.T
        middle = (first + last) // 2
        # A of a run is ids[start : border], its B ids[border : end]; (N,) each
        self.start, self.border, self.end = self.edges[[first, middle, last]]
        self.a_lengths, self.b_lengths = np.diff([self.start, self.border, self.end], axis=0).astype(np.int32)
        # Neighbours in this order have a similar B. The last key counts first: is the run a document's first?
        # Then B's sentences, then its tokens, then chance, since neighbours in a text share a topic.
        is_first = np.append(True, self.document_of[1:] != self.document_of[:-1])
        tie = np.random.default_rng(0).random(len(self))
        self.order = np.lexsort((tie, self.b_lengths, last - middle, ~is_first)).astype(np.int32)
        self.rank = np.argsort(self.order).astype(np.int32)  # where each run stands in that order

    def rows(self, chosen: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Return a row for each chosen run (B,): its A, and its own B or, with `rng`, that of `second_runs`.

        They are input_ids, attention_mask, token_type_ids (B, T), T by `width`; next_sentence_labels (B,).
        """
        second = chosen if rng is None else self.second_runs(chosen, rng)
        a, b = self.a_lengths[chosen][:, None], self.b_lengths[second][:, None]  # (B, 1)
        # [CLS] at 0, A from 1, [SEP] at a + 1, B from a + 2, [SEP] at a + b + 2, then padding; (T,)
        place = np.arange(width((a + b).max() + 3, self.context))
        shift = np.where(place <= a, self.start[chosen][:, None] - 1, self.border[second][:, None] - a - 2)
        ids = self.ids[(place + shift).clip(0, len(self.ids) - 1)].astype(np.int64)  # (B, T)
        real = place <= a + b + 2  # (B, T)
        ids[:, 0] = self.cls
        ids[(place == a + 1) | (place == a + b + 2)] = self.sep
        ids[~real] = self.pad
        rows = dict(input_ids=ids, attention_mask=real, token_type_ids=(place > a + 1) & real)
        return rows | dict(next_sentence_labels=np.where(second == chosen, FOLLOWS, DOES_NOT_FOLLOW))

    def second_runs(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the runs (B,) that give B: the chosen run, or for half of the rows one with a similar B."""
        B, false = len(chosen), rng.random(len(chosen)) < 0.5
        reach = max(8, len(self) // 100)  # in a long text, B is about as long in all of these
        steps = rng.integers(1, reach + 1, (B, 8)) * rng.choice([-1, 1], (B, 8))  # forth or back
        tries = self.order[(self.rank[chosen][:, None] + steps) % len(self)]  # (B, 8) runs
        own = self.document_of[chosen][:, None]  # (B, 1), the document of A
        stuck = false & (self.document_of[tries] == own).all(1)  # (B,): a long one, from which all eight are
        tries[stuck] = rng.integers(len(self), size=(stuck.sum(), 8))
        # A false B is of another document, and never cut to fit: that would give it away.
        room = self.context - 3 - self.a_lengths[chosen][:, None]  # (B, 1)
        fits = (self.document_of[tries] != own) & (self.b_lengths[tries] <= room)  # (B, 8)
        second, text = chosen.copy(), lambda run: self.ids[self.border[run] : self.end[run]].tobytes()
        for row in np.flatnonzero(false):
            others = (run for run in tries[row, fits[row]] if text(run) != text(chosen[row]))  # other words
            second[row] = next(others, chosen[row])  # if none fits, B is the true one
        return second


def padded(rows: list, filling: int, longest: int) -> np.ndarray:
    """Return rows of unequal lengths as one array (B, T), padded on the right with `filling`."""
    out = np.full((len(rows), width(max(map(len, rows)), longest)), filling)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


def width(n: int, longest: int) -> int:
    """Return T for rows of up to n tokens: a multiple of 8, to have few shapes, but at most `longest`."""
    return min(longest, -(-n // 8) * 8)
