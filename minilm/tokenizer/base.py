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

AS_TEXT = ("utf-8", "surrogateescape")  # how JSON holds bytes: a byte xx that is no UTF-8 becomes \udcxx
CACHE = 2**15  # distinct words whose ids are cached: a text's commonest words make up most of it


class Tokenizer:
    """Base class; subclasses define `words`, `located_words`, `encode_word`, `extend`. `vocab`: id -> bytes.

    Our code asks for [CLS], [SEP], [PAD], [MASK] and <|endoftext|>; where a published vocabulary has <s> and
    </s> instead, `aliases` maps our names to them. UserError for an alias of no special token. `added_ids`:
    words added later to a published vocabulary; found before a text is cut into words, decoded like others.
    """

    FORMAT, SAVED = "", ()  # "format" in the file, and the constructor's arguments that it holds
    longest = None  # most tokens of a row that a published embedding model reads
    ends = ()  # ids of the tokens that end a published model's texts, as its folder says
    read = staticmethod(dict)  # the contents of the file -> the constructor's arguments

    def __init__(self, vocab: dict[int, bytes], special_ids: dict, aliases, added_ids: dict, fold=str):
        self.vocab, self.special_tokens, self.aliases = vocab, tuple(special_ids), dict(aliases or {})
        self.added_tokens, self._special_ids = tuple(added_ids), special_ids
        for alias, token in self.aliases.items():
            if token not in special_ids:
                raise UserError(f"alias {alias!r} stands for {token!r}, which is not a special token")
        self._fold, self._added_ids = fold, {fold(token): i for token, i in added_ids.items()}
        self._finders = self.finder(added_ids), self.finder(added_ids | special_ids)  # by `allow_special`
        self._encode_cached = lru_cache(CACHE)(self.encode_word)

    def __reduce__(self):
        """Pickle the constructor's arguments, for another process: the cache cannot be pickled."""
        made_from = {name: getattr(self, name) for name in self.SAVED}
        return partial(type(self), **made_from), (), {"longest": self.longest, "ends": self.ends}

    def finder(self, tokens: Iterable[str]) -> re.Pattern:
        """Return a pattern that finds these tokens in a text."""
        longest_first = sorted(tokens, key=len, reverse=True)  # re takes the first alternative that fits
        exact = {*self._special_ids} if self._fold is str.lower else {*longest_first}  # others: ignore case
        # The flag "a" limits "i" to ASCII: else re takes "\u017f" (long s) for an "s", but `lower` does not.
        either = (f"(?{'' if t in exact else 'ai'}:{re.escape(t)})" for t in longest_first)
        return re.compile(f"({'|'.join(either) or '(?!)'})")  # (?!): never matches

    @property
    def vocab_size(self) -> int:
        """Return the greatest id + 1: the number of rows that an embedding needs."""
        return max(self.vocab) + 1

    def special_id(self, token: str) -> int:
        """Return the id of a special token, given its name or an alias; UserError for any other name."""
        name = token if token in self._special_ids else self.aliases.get(token)
        if name is None:
            near = suggest(token, [*self._special_ids, *self.aliases])
            raise UserError(f"{token!r} is not a special token here{near}")
        return self._special_ids[name]

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Return a text's ids, none added around it; special tokens in it count if allowed, longest first."""
        ids = []
        for i, part in enumerate(self._finders[allow_special].split(text)):
            if i % 2:  # `split` returns text, token, text, ...
                ids.append(self._special_ids.get(part, self._added_ids.get(self._fold(part))))
            else:
                ids += chain.from_iterable(map(self._encode_cached, self.words(part)))
        return ids

    def encode_located(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return `encode(text, False)`, and for each token its place (a, b): text[a:b], spaces stripped.

        A token of only some bytes of a letter gets the place of the whole letter, [UNK] that of its word.
        """
        ids, places, start = [], [], 0
        for i, part in enumerate(self._finders[False].split(text)):
            for word, letters in [(part, [(0, len(part))])] if i % 2 else self.located_words(part):
                found = [self._added_ids[self._fold(word)]] if i % 2 else self._encode_cached(word)
                sizes = [len(self.vocab[token]) for token in found[:-1]]  # in bytes, like `letters`
                for first, end in pairwise([*accumulate(sizes, initial=0), len(letters)]):
                    a, b = start + letters[first][0], start + letters[end - 1][1]
                    a = b - len(text[a:b].lstrip())  # without the spaces before it
                    places.append((a, a + len(text[a:b].rstrip())))
                ids += found
            start += len(part)
        return ids, places

    def never_written(self, n_row: int, end: int) -> tuple[int, ...]:
        """Return the ids to forbid in generation: special tokens but `end`, model rows without a token."""
        return tuple(({*range(n_row)} - self.vocab.keys()) | ({*self._special_ids.values()} - {end}))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn ids into bytes; UserError for an id that the vocabulary lacks."""
        try:
            return b"".join([self.vocab[i] for i in map(operator.index, ids)])
        except KeyError as error:
            raise UserError(f"id {error.args[0]} is not in the vocabulary of {len(self.vocab)} ids") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; bytes that are no UTF-8 become U+FFFD. UserError as in `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, path: str | Path) -> None:
        """Write, or replace, one JSON file, atomically."""
        names = [*self.SAVED, *(name for name in ("longest", "ends") if getattr(self, name))]
        data = {"format": self.FORMAT} | {name: getattr(self, name) for name in names}
        options = dict(ensure_ascii=False, separators=(",\n", ": "))
        atomic_write(path, json.dumps(data, default=lambda token: token.decode(*AS_TEXT), **options) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what `save` wrote; UserError for a file that is damaged, or not written by `save`."""
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
