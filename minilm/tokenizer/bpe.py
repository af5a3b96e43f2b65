"""Byte-level byte-pair encoding: text -> pre-tokens -> bytes -> merges -> ids.

Sennrich, Haddow and Birch 2016 (arXiv 1508.07909, section 3.2), over bytes as in GPT-2 (Radford et al. 2019,
section 2.2), so that no text holds an unknown token. `merges.py` learns which neighbours to join, `BPE` joins
them.
"""

import json
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from pathlib import Path

from ..huggingface.gpt2_vocabulary import read_files, token_bytes
from ..plumbing.errors import UserError
from ..plumbing.folders import atomic_write
from .base import check_aliases, special_id
from .merges import pre_tokens, train_fast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>")
FORMAT = "minilm byte-level BPE 1"
CHUNK = 2**14  # characters that `encode_iterable` looks at together
CACHE = 2**15  # distinct pre-tokens whose ids are remembered


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"character {error.start} is the lone surrogate {text[error.start]!r}"
        raise UserError(f"{found}, which has no UTF-8: read the text anew, or use encode_bytes") from None


class BPE:
    """A tokenizer: `vocab` (id -> bytes), `merges` (pairs of bytes in the order learnt), `special_tokens`.

    A special token that `vocab` lacks gets the next free id. `pattern`, of Python's `re`, finds pre-tokens
    (None: GPT-2's). `aliases`: names by which `special_id` knows special tokens too; a published vocabulary
    has "</s>", and who asks for "[SEP]" gets it. UserError: no id for a byte or merge, specials repeated or
    of one byte, an alias of no special token, bad pattern.
    """

    def __init__(
        self, vocab: dict, merges: list, special_tokens=(), pattern: str | None = None, aliases=None
    ):
        self.vocab, self.merges, self.pattern = dict(vocab), [(a, b) for a, b in merges], pattern
        self.special_tokens, ids = tuple(special_tokens), {token: i for i, token in vocab.items()}
        for token in self.special_tokens:
            if len(token.encode()) < 2 or self.special_tokens.count(token) > 1:
                raise UserError(f"special token {token!r} stands there twice, or has less than two bytes")
            new_id = ids.setdefault(token.encode(), max(self.vocab, default=-1) + 1)
            self.vocab[new_id] = token.encode()
        self._special_ids = {token: ids[token.encode()] for token in self.special_tokens}
        self.aliases = check_aliases(aliases, self.special_tokens)
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!): found nowhere
        try:
            self._pattern = None if pattern is None else re.compile(pattern)
            self._byte_ids = [ids[bytes([byte])] for byte in range(256)]
            self._joined = [ids[a + b] for a, b in self.merges]  # rank of a merge -> id of its result
            self._ranks = {(ids[a], ids[b]): rank for rank, (a, b) in enumerate(self.merges)}
        except re.error as error:
            raise UserError(f"pattern {pattern!r} is no regular expression of Python's re: {error}") from None
        except KeyError as error:
            raise UserError(f"the vocabulary has no id for {error}, a byte or part of a merge") from None
        self._merge_cached = lru_cache(CACHE)(self._merge)

    @classmethod
    def train(cls, texts, vocab_size: int, special_tokens=(), pattern=None, learn=train_fast) -> "BPE":
        """Learn `vocab_size` ids from an iterable of str, fewer if no pair is left. `learn`: fast or naive.

        Ids: special tokens in their order, the 256 bytes, the merges. A special token cuts a text and is not
        learnt from. UserError: `vocab_size` below 256 + special tokens, a text without UTF-8, and as `BPE`.
        """
        start = [token.encode() for token in special_tokens] + [bytes([byte]) for byte in range(256)]
        if vocab_size < len(start):
            raise UserError(
                f"vocab_size {vocab_size}: must be {len(start)} or more, bytes and special tokens"
            )
        untrained = cls(dict(enumerate(start)), [], special_tokens, pattern)
        merges = learn(untrained._count_words(texts), vocab_size - len(start))
        return cls(dict(enumerate(start + [a + b for a, b in merges])), merges, special_tokens, pattern)

    def extend(self, texts, n_new: int) -> "BPE":
        """Return a BPE with up to `n_new` more tokens, learnt from `texts`; the old ids stay as they are."""

        def cut(word: bytes) -> list[bytes]:
            return [self.vocab[i] for i in self.encode_bytes(word, allow_special=False)]

        merges = train_fast(self._count_words(texts), n_new, cut)
        known = set(self.vocab.values())
        new = [token for token in dict.fromkeys(a + b for a, b in merges) if token not in known]
        vocab = self.vocab | dict(enumerate(new, start=self.vocab_size))
        return BPE(vocab, self.merges + merges, self.special_tokens, self.pattern, self.aliases)

    def _count_words(self, texts) -> dict[bytes, int]:
        words = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            _check_utf8(text)
            for part in self._specials.split(text):
                words.update(pre_tokens(part, self._pattern))
        return {word.encode(): count for word, count in words.items()}

    @property
    def vocab_size(self) -> int:
        """All ids are below this: the rows that an embedding needs."""
        return max(self.vocab) + 1

    def special_id(self, token: str) -> int:
        """Return the id of a special token, or of its alias; UserError where there is none of that name."""
        return special_id(token, self._special_ids, self.aliases)

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Text -> ids that `decode` turns back; special tokens in it count as such if allowed, longest first.

        UserError for a lone surrogate (half a UTF-16 pair), so that what `decode` returns can be printed.
        """
        _check_utf8(text)
        return self._encode(text, allow_special)[0]

    def encode_bytes(self, data: bytes, allow_special: bool = True) -> list[int]:
        """Any bytes -> ids that `decode_bytes` turns back; for valid UTF-8 the ids of `encode`."""
        return self._encode(data.decode("utf-8", "surrogateescape"), allow_special)[0]

    def encode_iterable(self, iterable: Iterable[str], allow_special: bool = True) -> Iterator[int]:
        """Yield the ids that `encode` gives for the joined strings (lines of a file, say), cut anywhere.

        Memory: the cache, `CHUNK` characters, the longest two pre-tokens (a megabyte without a space is one).
        This holds for a `pattern` that never looks behind its match, nor ahead past the next two pre-tokens.
        """
        waiting, enough = "", CHUNK
        for chunk in iterable:
            for start in range(0, len(chunk), CHUNK):
                waiting += chunk[start : start + CHUNK]
                if len(waiting) >= enough:
                    _check_utf8(waiting)
                    ids, end = self._encode(waiting, allow_special, more_follows=True)
                    yield from ids
                    waiting = waiting[end:]
                    enough = CHUNK + 2 * len(waiting)  # so a long pre-token is not searched for every chunk
        yield from self.encode(waiting, allow_special)

    def _encode(self, text: str, allow_special: bool, more_follows: bool = False) -> tuple[list[int], int]:
        """Return ids and where they end: with the text or, if more follows, where that can change nothing."""
        longest = max(map(len, self.special_tokens), default=1)
        in_sight = len(text) - (longest - 1 if more_follows else 0)  # a special that starts before is whole
        ids, start = [], 0
        for match in self._specials.finditer(text) if allow_special else ():
            if match.start() < in_sight:
                pieces = pre_tokens(text[start : match.start()], self._pattern)
                ids += *chain.from_iterable(map(self._merge_cached, pieces)), self._special_ids[match.group()]
                start = match.end()
        pieces = pre_tokens(text[start : max(start, in_sight)], self._pattern)
        if more_follows:
            pieces = pieces[:-2]  # two, not one: "'" and "l" become "'ll" when an "l" follows
        return ids + [*chain.from_iterable(map(self._merge_cached, pieces))], start + sum(map(len, pieces))

    def _merge(self, piece: str) -> tuple[int, ...]:
        """One pre-token -> ids, by the merge learnt first, leftmost first, while one applies; n log n."""
        ids = [*(self._byte_ids[byte] for byte in piece.encode("utf-8", "surrogateescape")), None]
        left, right = [*range(-1, len(ids) - 1)], [*range(1, len(ids)), 0]  # a ring that None closes
        heap = [(self._ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in self._ranks]
        heapify(heap)
        while heap:
            rank, i = heappop(heap)
            j = right[i]
            if self._ranks.get((ids[i], ids[j])) == rank:  # else another merge took one of the two
                ids[i], ids[j], right[i] = self._joined[rank], None, right[j]
                left[right[i]] = i
                for k in (left[i], i):
                    rank = self._ranks.get((ids[k], ids[right[k]]))
                    if rank is not None:
                        heappush(heap, (rank, k))
        return tuple(i for i in ids if i is not None)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Ids -> bytes; UserError names an id that the vocabulary lacks."""
        try:
            return b"".join([self.vocab[i] for i in map(operator.index, ids)])
        except KeyError as error:
            raise UserError(f"id {error.args[0]} is not in the vocabulary of {len(self.vocab)} ids") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; bytes that are no UTF-8 become U+FFFD. UserError as `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, path: str | Path) -> None:
        """Write, or replace, one JSON file, atomically. A byte xx that is no UTF-8 is written \\udcxx."""
        vocab = {i: token.decode("utf-8", "surrogateescape") for i, token in self.vocab.items()}
        merges = [[token.decode("utf-8", "surrogateescape") for token in pair] for pair in self.merges]
        head = {"format": FORMAT, "pattern": self.pattern, "special_tokens": self.special_tokens}
        head |= {"aliases": self.aliases}
        data = head | {"vocab": vocab, "merges": merges}
        text = json.dumps(data, ensure_ascii=False, separators=(",\n", ": "))
        atomic_write(path, text.encode("utf-8", "backslashreplace") + b"\n")  # writes \udcxx as JSON does

    @classmethod
    def load(cls, path: str | Path) -> "BPE":
        """Read what `save` wrote; UserError names a file that is missing, damaged or another program's."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            if data.get("format") != FORMAT:
                raise ValueError(f"its format is {data.get('format')!r}, {FORMAT!r} is expected")
            vocab = {int(i): token.encode("utf-8", "surrogateescape") for i, token in data["vocab"].items()}
            merges = [[token.encode("utf-8", "surrogateescape") for token in pair] for pair in data["merges"]]
            return cls(vocab, merges, data["special_tokens"], data["pattern"], data.get("aliases"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read as a tokenizer saved by minilm ({error})") from None

    @classmethod
    def from_gpt2(cls, vocab_json, merges_txt, special_tokens=("<|endoftext|>",), aliases=None) -> "BPE":
        """Read GPT-2's two files (or BART's, RoBERTa's, with their special tokens); UserError as `load`."""
        try:
            return cls.from_names(*read_files(vocab_json, merges_txt), special_tokens, aliases)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{vocab_json}, {merges_txt}: not GPT-2's vocabulary files ({error})") from None

    @classmethod
    def from_names(cls, ids: dict[str, int], merges: list, special_tokens=(), aliases=None) -> "BPE":
        """Build from ids and merges that are written as in GPT-2's files (`gpt2_vocabulary.py`)."""
        token_of = token_bytes(ids, special_tokens)
        vocab = {i: token_of[name] for name, i in ids.items()}
        return cls(vocab, [(token_of[a], token_of[b]) for a, b in merges], special_tokens, aliases=aliases)
