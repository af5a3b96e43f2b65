"""What BPE and WordPiece share: special tokens and aliases, decoding, a cache of words, one JSON file."""

import json
import operator
import re
from collections.abc import Iterable
from functools import lru_cache, partial
from itertools import accumulate, chain, pairwise
from pathlib import Path

from ..plumbing.errors import UserError, suggest
from ..plumbing.folders import atomic_write, read_json
from ..plumbing.settings import checked

AS_TEXT = ("utf-8", "surrogateescape")  # bytes in JSON: a byte xx that is no UTF-8 becomes \udcxx
CACHE = 2**15  # distinct words whose ids are remembered: most words of a text are among its commonest


class Tokenizer:
    """Subclasses say what a word is (`words`) and how it becomes ids (`encode_word`). `vocab`: id -> bytes.

    Our code asks for [CLS], [SEP], [PAD], [MASK] and <|endoftext|>; where a published vocabulary has <s> and
    </s> for these parts, its `aliases` say so. UserError for an alias of no special token. `added_ids`: words
    that a published vocabulary was given later; found in every text before it is cut, and written as others.
    """

    FORMAT, SAVED = "", ()  # "format" in the file, and which of the constructor's arguments it holds
    longest = None  # tokens of a row beyond which a published model of text vectors reads nothing
    ends = ()  # ids at which a published model stops writing, as its folder says

    def __init__(self, vocab: dict[int, bytes], special_ids: dict, aliases, added_ids: dict, fold=str):
        self.vocab, self.special_tokens, self.aliases = vocab, tuple(special_ids), dict(aliases or {})
        self.added_tokens, self._special_ids = tuple(added_ids), special_ids
        for alias, token in self.aliases.items():
            if token not in special_ids:
                raise UserError(f"alias {alias!r} stands for {token!r}, which is no special token")
        self._fold, self._added_ids = fold, {fold(token): i for token, i in added_ids.items()}
        self._finders = self.finder(added_ids), self.finder(added_ids | special_ids)  # by `allow_special`
        self._encode_cached = lru_cache(CACHE)(self.encode_word)

    def __reduce__(self):
        """Travel to another process as what it was made from: a cache cannot."""
        made_from = {name: getattr(self, name) for name in self.SAVED}
        return partial(type(self), **made_from), (), {"longest": self.longest, "ends": self.ends}

    def finder(self, tokens: Iterable[str]) -> re.Pattern:
        """Return what finds these tokens in a text."""
        longest_first = sorted(tokens, key=len, reverse=True)  # re takes the first that fits
        exact = {*self._special_ids} if self._fold is str.lower else {*longest_first}  # others: in any case
        # Without "a", for ASCII alone, re would take "\u017f" for an "s", which `lower` does not.
        either = (f"(?{'' if t in exact else 'ai'}:{re.escape(t)})" for t in longest_first)
        return re.compile(f"({'|'.join(either) or '(?!)'})")  # (?!): found nowhere

    @property
    def vocab_size(self) -> int:
        """All ids are below this: the rows that an embedding needs."""
        return max(self.vocab) + 1

    def special_id(self, token: str) -> int:
        """Return the id of a special token, or of its alias; UserError where there is none of that name."""
        name = token if token in self._special_ids else self.aliases.get(token)
        if name is None:
            near = suggest(token, [*self._special_ids, *self.aliases])
            raise UserError(f"{token!r} is no special token here{near}")
        return self._special_ids[name]

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Text -> ids, none put around it; special tokens in it count as such if allowed, longest first."""
        ids = []
        for i, part in enumerate(self._finders[allow_special].split(text)):
            if i % 2:  # `split` returns text, token, text, ...
                ids.append(self._special_ids.get(part, self._added_ids.get(self._fold(part))))
            else:
                ids += chain.from_iterable(map(self._encode_cached, self.words(part)))
        return ids

    def encode_located(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode` without special tokens, and which text[a:b] each token stands for, no spaces around it.

        A token with only some bytes of a letter has the place of the whole letter, [UNK] of its whole word.
        """
        ids, places, start = [], [], 0
        for i, part in enumerate(self._finders[False].split(text)):
            for word, letters in [(part, [(0, len(part))])] if i % 2 else self.located_words(part):
                found = [self._added_ids[self._fold(word)]] if i % 2 else self._encode_cached(word)
                sizes = [len(self.vocab[token]) for token in found[:-1]]  # in bytes, as `letters` has places
                for first, end in pairwise([*accumulate(sizes, initial=0), len(letters)]):
                    a, b = start + letters[first][0], start + letters[end - 1][1]
                    a = b - len(text[a:b].lstrip())  # without the spaces before it
                    places.append((a, a + len(text[a:b].rstrip())))
                ids += found
            start += len(part)
        return ids, places

    def never_written(self, n_row: int, end: int) -> tuple[int, ...]:
        """Return the ids that no text has: special tokens but its end, rows of a model without a token."""
        return tuple(({*range(n_row)} - self.vocab.keys()) | ({*self._special_ids.values()} - {end}))

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
        """Write, or replace, one JSON file, atomically."""
        names = [*self.SAVED, *(name for name in ("longest", "ends") if getattr(self, name))]
        data = {"format": self.FORMAT} | {name: getattr(self, name) for name in names}
        options = dict(ensure_ascii=False, separators=(",\n", ": "))
        atomic_write(path, json.dumps(data, default=lambda token: token.decode(*AS_TEXT), **options) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what `save` wrote; UserError names a file that is damaged or another program's."""
        types = dict(longest=int | None, pattern=str | None, ends=tuple[int, ...])
        data = checked(path, read_json(path), types, whole=False)
        try:
            if data.pop("format", None) != cls.FORMAT:
                raise ValueError(f"its format is not {cls.FORMAT!r}")
            longest, ends = data.pop("longest", None), data.pop("ends", ())
            tokenizer = cls(**cls.read(data))
            tokenizer.longest, tokenizer.ends = longest, ends
            return tokenizer
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read as a tokenizer saved by minilm ({error})") from None

    @staticmethod
    def read(data: dict) -> dict:
        """Return the arguments of the constructor from what the file holds."""
        return data
