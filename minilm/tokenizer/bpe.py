"""Byte-level byte-pair encoding: text -> words (pre-tokens) -> bytes -> merges -> ids.

Sennrich, Haddow and Birch 2016 (arXiv 1508.07909, section 3.2), over bytes as in GPT-2 (Radford et al. 2019,
section 2.2). `train_naive` learns what to join, `train_fast` learns the same in less time, `BPE` applies it.
"""

import json
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import chain, pairwise
from pathlib import Path

from ..plumbing.errors import UserError
from .base import AS_TEXT, Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>")
CHUNK = 2**14  # characters that `encode_iterable` cuts into words at a time
# Why bytes: 256 tokens spell every text of every script, so no text holds an unknown token.
BYTES = [bytes([byte]) for byte in range(256)]
# GPT-2's files write a byte as a visible character: its own, else the next unused one from U+0100 on.
_SHOWN, _spare = {*range(33, 127), *range(161, 173), *range(174, 256)}, iter(range(256, 512))
BYTE_CHARACTERS = [chr(byte if byte in _SHOWN else next(_spare)) for byte in range(256)]
# GPT-2's '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ for ASCII. White space is
# spelt out: Python's \s also holds \x1c-\x1f, which are no White_Space in Unicode, `regex` and Rust.
GPT2_PATTERN = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\t-\r A-Za-z0-9]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
)
# Patterns of later models, by name. GPT-4's joins a mark or a space to a word, and line ends to marks.
_GPT4 = r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^\t-\r A-Za-z0-9]+[\r\n]*"
_GPT4 += r"|[\t-\r ]*[\r\n]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
PATTERNS = {
    "gpt2, digits apart": re.compile(  # SmolLM2
        r"[0-9]|'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[^\t-\r A-Za-z0-9]+|[\t-\r ]+(?![^\t-\r 0-9])|[\t-\r ]+"
    ),
    "gpt4": re.compile(_GPT4),
    "gpt4, digits apart": re.compile(_GPT4.replace("{1,3}", "")),  # Qwen 2
}


def _stand_in(match: re.Match) -> str:
    """Return an ASCII character of the same class as the match, by the Unicode of the running Python."""
    char = match.group()
    # isalpha is exactly \p{L}; isnumeric is \p{N} and letters such as U+4E00, "one". No contraction holds
    # an "A" (but GPT-4's takes U+017F, a long s, for an s); a GPT-2 word may begin with a space, not a tab.
    return "A" if char.isalpha() else "0" if char.isnumeric() else "\t" if char.isspace() else "!"


def pre_tokens(text: str, pattern: re.Pattern = GPT2_PATTERN) -> list[str]:
    """Cut a text into words that no merge crosses: the matches of `pattern`, which cover the whole text."""
    if text.isascii():
        return pattern.findall(text)
    shape = re.sub(r"[^\x00-\x7f]", _stand_in, text)
    return [text[slice(*match.span())] for match in pattern.finditer(shape)]


def join(tokens: list[bytes], a: bytes, b: bytes) -> list[tuple]:
    """Join neighbours a, b in place, from left to right; return (old, new) for each pair beside them."""
    changes, joined = [], []
    for i, token in enumerate(tokens):
        if token == b and joined[-1:] == [a]:  # x a b y -> x ab y
            joined[-1] = a + b
            if len(joined) > 1:
                changes.append(((joined[-2], a), (joined[-2], a + b)))
            if i + 1 < len(tokens):
                changes.append(((b, tokens[i + 1]), (a + b, tokens[i + 1])))
        else:
            joined.append(token)
    tokens[:] = joined  # all at once: shifting the rest for each pair would take n^2 steps for n tokens
    return changes


def train_naive(words: dict[bytes, int], n_merges: int) -> list[tuple[bytes, bytes]]:
    """Learn merges (Sennrich et al. 2016, section 3.2): count all pairs, join the commonest, count again.

    `words`: distinct word -> its count. Ties go to the greater pair. Returns fewer merges if no pair is left.
    """
    sequences, merges = {word: [BYTES[byte] for byte in word] for word in words}, []
    while len(merges) < n_merges:
        counts = Counter()
        for word, tokens in sequences.items():
            for pair in pairwise(tokens):
                counts[pair] += words[word]  # a word that occurs a thousand times is visited once
        if not counts:
            break
        # Ties go to the greater pair of byte strings (the rule of Stanford's CS336): without a rule the same
        # text could give another vocabulary on another machine.
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for tokens in sequences.values():
            join(tokens, *best)
    return merges


def train_fast(words: dict[bytes, int], n_merges: int, cut=None) -> list[tuple[bytes, bytes]]:
    """Learn what `train_naive` learns, but recount only what a merge changes; `cut`: word -> first tokens."""

    def ranked(pair: tuple[bytes, bytes]) -> tuple:
        # A heap yields its smallest item first, so numbers are negated: the most frequent pair comes first,
        # then the greatest. The 1 at the end of a token puts "ab" before its prefix "a".
        return -counts[pair], *((*map(operator.neg, token), 1) for token in pair), pair

    sequences = {word: cut(word) if cut else [BYTES[byte] for byte in word] for word in words}
    counts, holders, merges = Counter(), defaultdict(set), []  # holders: pair -> the words that hold it
    for word, tokens in sequences.items():
        for pair in pairwise(tokens):
            counts[pair] += words[word]
            holders[pair].add(word)
    heap = sorted(map(ranked, counts))  # sorted, a list is a heap
    while heap and len(merges) < n_merges:
        negative_count, *_, pair = heappop(heap)
        if -negative_count != counts[pair]:  # out of date: other merges have used up some of these pairs
            if counts[pair]:
                heappush(heap, ranked(pair))
            continue
        merges.append(pair)
        born = set()
        for word in holders.pop(pair):
            for old, now in join(sequences[word], *pair):
                counts[old] -= words[word]
                counts[now] += words[word]
                holders[now].add(word)
                born.add(now)
        counts[pair] = 0  # all are joined
        for now in filter(counts.get, born):  # a b a b -> ab a b -> ab ab: of (ab, a) none is left
            heappush(heap, ranked(now))
    return merges


class BPE(Tokenizer):
    """Byte-level BPE. `vocab`: id -> bytes. `merges`: pairs of bytes, oldest first. `pattern`: of PATTERNS.

    A special token that `vocab` lacks gets the next free id. UserError for one that is repeated or has one
    byte, for a merge without an id, and for an unknown pattern. `encode` leaves out a byte without an id.
    """

    FORMAT = "minilm byte-level BPE 1"
    SAVED = ("pattern", "special_tokens", "added_tokens", "aliases", "vocab", "merges")

    def __init__(self, vocab, merges, special_tokens=(), pattern=None, aliases=None, added_tokens=()):
        vocab, special_ids, ids = dict(vocab), {}, {token: i for i, token in vocab.items()}
        for token in special_tokens:
            if len(token.encode()) < 2 or token in special_ids:
                raise UserError(f"special token {token!r} is given twice, or has fewer than two bytes")
            special_ids[token] = ids.setdefault(token.encode(), max(vocab, default=-1) + 1)
            vocab[special_ids[token]] = token.encode()
        super().__init__(vocab, special_ids, aliases, {token: ids[token.encode()] for token in added_tokens})
        self.merges, self.pattern = [(a, b) for a, b in merges], pattern
        if pattern not in (None, *PATTERNS):
            raise UserError(f"pattern {pattern!r}: expected none (GPT-2's), or one of {[*PATTERNS]}")
        self._pattern = PATTERNS.get(pattern, GPT2_PATTERN)
        try:
            self._byte_ids = {byte[0]: ids[byte] for byte in BYTES if byte in ids}  # some files lack a few
            self._joined = [ids[a + b] for a, b in self.merges]  # rank of a merge -> id of its result
            self._ranks = {(ids[a], ids[b]): rank for rank, (a, b) in enumerate(self.merges)}
        except KeyError as error:
            raise UserError(f"the vocabulary has no id for {error}, part of a merge") from None

    @classmethod
    def train(cls, texts, vocab_size: int, special_tokens=(), pattern=None, learn=train_fast) -> "BPE":
        """Learn `vocab_size` ids from an iterable of str, fewer if no pair is left. `learn`: fast or naive.

        Ids: special tokens in their order, the 256 bytes, the merges. A special token cuts a text and is not
        learnt from. UserError if `vocab_size` is below 256 + special tokens, and as in `BPE` and `words`.
        """
        start = [token.encode() for token in special_tokens] + BYTES
        if vocab_size < len(start):
            raise UserError(f"--vocab-size {vocab_size}: at least {len(start)} (bytes, special tokens)")
        untrained = cls(dict(enumerate(start)), [], special_tokens, pattern)
        merges = learn(untrained.count_words(texts), vocab_size - len(start))
        return cls(dict(enumerate(start + [a + b for a, b in merges])), merges, special_tokens, pattern)

    def extend(self, texts, n_new: int) -> "BPE":
        """Return a BPE with up to `n_new` more tokens, learnt from `texts`; the old ids stay as they are."""
        known, words = {*self.vocab.values()}, self.count_words(texts)
        merges = train_fast(words, n_new, lambda w: [self.vocab[i] for i in self.encode_word(w.decode())])
        new = [token for token in dict.fromkeys(a + b for a, b in merges) if token not in known]
        same = self.special_tokens, self.pattern, self.aliases, self.added_tokens
        more = BPE(self.vocab | dict(enumerate(new, start=self.vocab_size)), self.merges + merges, *same)
        more.longest, more.ends = self.longest, self.ends
        return more

    def count_words(self, texts) -> dict[bytes, int]:
        """Return the count of each distinct word: merging then visits thousands of words, not millions."""
        counts = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            for part in self._finders[True].split(text)[::2]:  # text, token, text, ...
                counts.update(self.words(part))
        return {word.encode(): count for word, count in counts.items()}

    def words(self, text: str) -> list[str]:
        """Cut a text into words. UserError for a lone surrogate (half a UTF-16 pair): it has no UTF-8."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"a lone surrogate, {text[error.start]!r} after {text[: error.start][-20:]!r}"
            raise UserError(f"{found}: read the text again, with errors='replace'") from None
        return pre_tokens(text, self._pattern)

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Turn a word into ids: apply the merge learnt first, leftmost first, while any applies; n log n."""
        # In short: join the leftmost pair of the lowest rank, again and again. A heap yields it at once.
        ids = [self._byte_ids[byte] for byte in word.encode() if byte in self._byte_ids] + [None]
        left, right = [*range(-1, len(ids) - 1)], [*range(1, len(ids)), 0]  # neighbours; ends lead to None
        heap = sorted((self._ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in self._ranks)
        while heap:
            rank, i = heappop(heap)
            j = right[i]
            if self._ranks.get((ids[i], ids[j])) == rank:  # else another merge took one of the two
                ids[i], ids[j], right[i] = self._joined[rank], None, right[j]
                left[right[i]] = i
                for k in (left[i], i):  # the new token's pairs, with its neighbours on both sides
                    if (pair := (ids[k], ids[right[k]])) in self._ranks:
                        heappush(heap, (self._ranks[pair], k))
        return tuple(i for i in ids if i is not None)

    def encode_iterable(self, iterable: Iterable[str], allow_special: bool = True) -> Iterator[int]:
        """Yield the ids that `encode` gives for the strings joined (such as lines), wherever they are cut.

        Memory: the cache, `CHUNK` characters, the longest two words (a megabyte without a space is one).
        """
        waiting, enough = "", CHUNK
        for chunk in iterable:
            for start in range(0, len(chunk), CHUNK):
                waiting += chunk[start : start + CHUNK]
                if len(waiting) >= enough:
                    ids, end = self._encode_settled(waiting, allow_special)
                    yield from ids
                    waiting = waiting[end:]
                    enough = CHUNK + 2 * len(waiting)  # so a long word is not cut anew with every chunk
        yield from self.encode(waiting, allow_special)

    def _encode_settled(self, text: str, allow_special: bool) -> tuple[list[int], int]:
        """Return the ids that no text after this one can change, and where in `text` they end."""
        longest = max(map(len, (*self.special_tokens, *self.added_tokens)), default=1)
        in_sight = len(text) - longest + 1  # a special token that begins before it is here as a whole
        found = self._finders[allow_special].finditer(text)
        start = max((match.end() for match in found if match.start() < in_sight), default=0)
        # Two words are held back, not one: "'" and "l" become "'ll" when an "l" follows.
        words = self.words(text[start : max(start, in_sight)])[:-2]
        ids = self.encode(text[:start], allow_special)
        return ids + [*chain.from_iterable(map(self._encode_cached, words))], start + sum(map(len, words))

    def located_words(self, text: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """Yield each word, and for each of its bytes the place (a, b) of its letter, text[a:b]."""
        place = 0
        for word in self.words(text):
            yield word, [(i, i + 1) for i, letter in enumerate(word, start=place) for _ in letter.encode()]
            place += len(word)

    @staticmethod
    def read(data: dict) -> dict:
        """Return the constructor's arguments: text becomes bytes, \\udcxx becomes the byte xx."""
        vocab = {int(i): text.encode(*AS_TEXT) for i, text in data["vocab"].items()}
        merges = [(a.encode(*AS_TEXT), b.encode(*AS_TEXT)) for a, b in data["merges"]]
        return data | dict(vocab=vocab, merges=merges)

    @classmethod
    def from_gpt2(cls, vocab_json, merges_txt, special_tokens=("<|endoftext|>",), aliases=None) -> "BPE":
        """Read GPT-2's two files (or BART's, RoBERTa's, with their special tokens); UserError as `load`."""
        try:
            ids, merges = json.loads(Path(vocab_json).read_text("utf-8")), Path(merges_txt).read_text("utf-8")
            return cls.from_names(ids, merges.split("\n"), special_tokens, aliases)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{vocab_json}, {merges_txt}: not GPT-2's vocabulary files ({error})") from None

    @classmethod
    def from_names(cls, ids, merges, special_tokens=(), aliases=None, added_tokens=(), pattern=None) -> "BPE":
        """Build from ids and merges as in GPT-2's files, where special and added tokens are plain text."""
        if wrong := [name for name, i in ids.items() if type(i) is not int]:
            raise ValueError(f"the id of {wrong[0]!r} is {ids[wrong[0]]!r}, expected an integer")
        whole = {*special_tokens, *added_tokens}
        byte_of = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
        token_of = {name: bytes(map(byte_of.get, name)) for name in ids.keys() - whole}
        token_of |= {name: name.encode() for name in whole}
        vocab = {i: token_of[name] for name, i in ids.items()}
        merges = [merge for merge in merges if merge and merge[:9] != "#version:"]  # the first line
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        merges = [(token_of[a], token_of[b]) for a, b in pairs]
        return cls(vocab, merges, special_tokens, pattern, aliases, added_tokens)


def token_name(token: bytes) -> str:
    """Return a token as GPT-2's files write it."""
    return "".join([BYTE_CHARACTERS[byte] for byte in token])
