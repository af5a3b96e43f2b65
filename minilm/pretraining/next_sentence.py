"""The rows of BERT: pairs of texts, of which the second follows the first or does not.

Source: Devlin et al. 2019, section 3.1, task 2, and appendix A.2. Half of the pairs are true.
`PackedSentences` gives the rows of RoBERTa instead (Liu et al. 2019, section 4.2, FULL-SENTENCES): no pairs
and no such question. Differs from that paper: no separator between two documents.
"""

from array import array

import numpy as np

from ..plumbing.errors import UserError
from ..texts.corpus import sentences
from ..tokenizer.bpe import BPE

FOLLOWS, DOES_NOT_FOLLOW = 0, 1  # classes of the next-sentence head


class EncodedSentences:
    """The sentences of many documents as one array of ids, cut into windows that fit a row.

    Every sentence is encoded with a space before it, so that a word is the same token wherever it stands.
    What is beyond the first `longest` tokens of a sentence is left out; `n_cut` counts such sentences.

    Raises:
        UserError: where `longest` leaves no room for a token.
    """

    def __init__(self, documents: list[str], tokenizer: BPE, longest: int):
        if longest < 1:
            raise UserError("--context is too short: give 5 or more (3 with --no-next-sentence)")
        flat, lengths, document_of = array("i"), [], []
        self.n_cut = 0
        for d, document in enumerate(documents):
            for sentence in sentences(document):
                ids = tokenizer.encode(" " + sentence, allow_special=False)
                self.n_cut += len(ids) > longest
                flat.extend(ids[:longest])
                lengths.append(min(len(ids), longest))
                document_of.append(d)
        self.ids = np.array(flat)  # (n,)
        self.edges = np.cumsum([0, *lengths])  # sentence s is ids[edges[s] : edges[s + 1]]
        self.document_of = np.array(document_of, dtype=np.int64)  # of each sentence

    def windows(self, budget: int, across_documents: bool = False) -> np.ndarray:
        """Return (N, 2): first sentence, and the one after the last, of runs of up to `budget` tokens."""
        windows, start = [], 0
        for s in range(1, len(self.document_of) + 1):
            goes_on = s < len(self.document_of) and self.edges[s + 1] - self.edges[start] <= budget
            if goes_on and (across_documents or self.document_of[s] == self.document_of[start]):
                continue
            windows.append((start, s))
            start = s
        return np.array(windows, dtype=np.int64).reshape(-1, 2)


class SentencePairs:
    """Rows [CLS] A [SEP] B [SEP]: A and B are the two halves of a window, or B is another window's half.

    Differs from the paper: a window is cut at its middle sentence rather than anywhere, and a false B is
    taken from the windows whose B has the same place in its document, as many sentences and about as many
    tokens. Otherwise the length or the position of B gives the answer away.

    Raises:
        UserError: where fewer than two documents have a pair.
    """

    def __init__(self, documents: list[str], tokenizer: BPE, context: int, name: str = "this text"):
        self.tokenizer, self.context = tokenizer, context
        encoded = EncodedSentences(documents, tokenizer, longest=(context - 3) // 2)
        windows = encoded.windows(budget=context - 3)
        windows = windows[windows[:, 1] - windows[:, 0] >= 2]  # a single sentence has no next one
        first, last = windows.T
        middle = (first + last) // 2
        self.ids, self.n_cut = encoded.ids, encoded.n_cut
        # places in ids, each (N,): A ends where B starts
        self.a_start, self.b_start, self.b_end = (encoded.edges[edge] for edge in (first, middle, last))
        self.document = encoded.document_of[first]
        if len(np.unique(self.document)) < 2:
            raise UserError(
                f"{name}: next-sentence pairs need two documents of two sentences each that fit --context "
                f"{context}; give more text, a larger --context, or --no-next-sentence"
            )
        self.b_hash = np.array(
            [hash(self.ids[s:e].tobytes()) for s, e in zip(self.b_start, self.b_end, strict=True)]
        )
        is_first = np.concatenate([[True], self.document[1:] != self.document[:-1]])
        # windows by place in the document, then sentences of B, then tokens of B; equals in a random order,
        # since those next to each other in the text share a topic
        tie = np.random.default_rng(0).random(len(first))
        self.alike = np.lexsort((tie, self.b_end - self.b_start, last - middle, ~is_first))
        self.rank = np.argsort(self.alike)  # where each window stands in that order

    def __len__(self) -> int:
        return len(self.a_start)

    def rows(self, chosen: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one row for each chosen window, half of them with a false B where there is one.

        Returns:
            input_ids, attention_mask, token_type_ids (B, T); next_sentence_labels (B,).
        """
        labels = (rng.random(len(chosen)) < 0.5).astype(np.int64)
        other = self.false_partners(chosen, rng)
        labels[other < 0] = FOLLOWS
        second = np.where(labels == FOLLOWS, chosen, other)
        rows = self.pack(chosen, second)
        return rows | {"next_sentence_labels": labels}

    def true_rows(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Return input_ids, attention_mask, token_type_ids (B, T) of the chosen windows, B the true one."""
        return self.pack(chosen, chosen)

    def false_partners(self, chosen: np.ndarray, rng: np.random.Generator, n_try: int = 8) -> np.ndarray:
        """Return for each chosen window one whose B is alike but does not follow; -1 where none was found."""
        reach = max(8, len(self) // 100)  # in a long text the lengths are as good as equal that near
        shape = len(chosen), n_try
        steps = rng.integers(1, reach + 1, shape) * (2 * rng.integers(0, 2, shape) - 1)  # forth or back
        candidates = self.alike[(self.rank[chosen][:, None] + steps) % len(self)]  # (B, n_try)
        good = self.document[candidates] != self.document[chosen][:, None]
        good &= self.b_hash[candidates] != self.b_hash[chosen][:, None]  # other words too, not just elsewhere
        room = self.context - 3 - (self.b_start - self.a_start)[chosen]
        # A false B is never cut to fit: that would give it away.
        good &= (self.b_end - self.b_start)[candidates] <= room[:, None]
        first_good = good.argmax(1)
        return np.where(good.any(1), candidates[np.arange(len(chosen)), first_good], -1)

    def pack(self, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
        """Lay out [CLS] A [SEP] B [SEP] [PAD] ..., A of the windows `first`, B of the windows `second`."""
        a = (self.b_start - self.a_start)[first][:, None]  # (B, 1) tokens of A
        b = (self.b_end - self.b_start)[second][:, None]
        column = np.arange(width_of(a + b + 3, self.context))  # (T,)
        in_a, in_b = (column >= 1) & (column <= a), (column >= a + 2) & (column <= a + b + 1)
        source = np.where(in_a, self.a_start[first][:, None] + column - 1, 0)
        source = np.where(in_b, self.b_start[second][:, None] + column - a - 2, source)
        ids = np.where(in_a | in_b, self.ids[source], self.tokenizer.special_id("[PAD]"))
        ids[:, 0] = self.tokenizer.special_id("[CLS]")
        ids[(column == a + 1) | (column == a + b + 2)] = self.tokenizer.special_id("[SEP]")
        return {
            "input_ids": ids,
            "attention_mask": (column < a + b + 3).astype(np.int64),
            "token_type_ids": ((column >= a + 2) & (column < a + b + 3)).astype(np.int64),
        }


class PackedSentences:
    """Rows [CLS] sentence sentence ... [SEP], filled with whole sentences across documents."""

    def __init__(self, documents: list[str], tokenizer: BPE, context: int):
        self.tokenizer, self.context = tokenizer, context
        encoded = EncodedSentences(documents, tokenizer, longest=context - 2)
        first, last = encoded.windows(budget=context - 2, across_documents=True).T
        self.ids, self.start, self.end = encoded.ids, encoded.edges[first], encoded.edges[last]
        self.n_cut = encoded.n_cut

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, chosen: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return `true_rows`: nothing is left to chance."""
        return self.true_rows(chosen)

    def true_rows(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Return input_ids and attention_mask (B, T), one row for each chosen window."""
        n = (self.end - self.start)[chosen][:, None]  # (B, 1)
        column = np.arange(width_of(n + 2, self.context))  # (T,)
        inside = (column >= 1) & (column <= n)
        source = np.where(inside, self.start[chosen][:, None] + column - 1, 0)
        ids = np.where(inside, self.ids[source], self.tokenizer.special_id("[PAD]"))
        ids[:, 0] = self.tokenizer.special_id("[CLS]")
        ids[column == n + 1] = self.tokenizer.special_id("[SEP]")
        return {"input_ids": ids, "attention_mask": (column < n + 2).astype(np.int64)}


def width_of(lengths: np.ndarray, context: int) -> int:
    """Return the columns that rows of these lengths need: a multiple of 8, at most `context`."""
    return min(context, -(-int(lengths.max()) // 8) * 8)
