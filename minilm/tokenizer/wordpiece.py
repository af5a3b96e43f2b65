"""BERT's tokenizer: text -> words -> the longest pieces that the vocabulary has.

Sources: Devlin et al. 2019 and the authors' code (basic tokenization); Wu et al. 2016, "Google's Neural
Machine Translation System", section 4.1 (word pieces). A piece that continues a word begins with "##". A word
of which some part is in no piece is [UNK] as a whole. Spaces are not tokens, so a text does not come back
exactly. What a character is, the Unicode of the running Python says; the Rust library `tokenizers` asks that
of 2015, and so differs in some five hundred characters that are younger or were classed anew.
"""

import json
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

from ..plumbing.errors import UserError
from ..plumbing.folders import atomic_write, read_json
from .base import check_aliases, special_id

FORMAT = "minilm WordPiece 1"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Only [SEP] ends anything in BERT, so it is also what separates two documents.
ALIASES = {"<|endoftext|>": "[SEP]"}
LONGEST_WORD = 100  # characters; a longer word is [UNK]
CACHE = 2**15  # distinct words whose ids are remembered
# Blocks of ideographs, each of which is a word of its own. The authors' code also has U+2B820 to U+2B91F; the
# Rust library `tokenizers`, which publishes most vocabularies today, begins at U+2B920, and so do we.
IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F))
IDEOGRAPHS += ((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


class CharacterTable(dict):
    """What each character becomes, for `str.translate`: `rule` is asked once for each."""

    def __init__(self, rule: Callable[[str], str]):
        super().__init__()
        self.rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self.rule(chr(code))
        return self[code]


def is_ideograph(character: str) -> bool:
    """Return whether this is one of BERT's "Chinese characters" (Japanese kana and Hangul are not)."""
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


def is_punctuation(character: str) -> bool:
    """Return whether this stands as a token of its own: Unicode's punctuation, and all symbols of ASCII."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def clean_character(character: str, chinese_characters: bool = True) -> str:
    """Turn white space into a space, drop control characters, set an ideograph apart."""
    if character in "\t\n\r" or character.isspace() and unicodedata.category(character) != "Cc":
        return " "
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs") or character == "\ufffd":
        return ""
    return f" {character} " if chinese_characters and is_ideograph(character) else character


class WordPiece:
    """A tokenizer with the interface of `BPE`, from the tokens of a vocab.txt in the order of their ids.

    `vocab` gives the bytes that an id stands for: "##ing" is b"ing", and a word's first piece has the space
    before it, b" go"; punctuation has none. `decode` joins them.

    Args:
        tokens: id -> token. Of two equal tokens the later is used.
        special_tokens: found whole in a text; [UNK] must be among them.
        aliases: as in `BPE`.
        lower_case: "The" and "the" are one word.
        strip_accents: "é" is "e"; none: as `lower_case`.
        chinese_characters: each ideograph is a word.

    Raises:
        UserError: for a special token that is not among the tokens, or an alias of none.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        aliases: dict[str, str] | None = None,
        lower_case: bool = True,
        strip_accents: bool | None = None,
        chinese_characters: bool = True,
    ):
        self.tokens, self.special_tokens = tuple(tokens), tuple(special_tokens)
        self.lower_case, self.strip_accents = lower_case, strip_accents
        self.chinese_characters = chinese_characters
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        for token in self.special_tokens:
            if token not in self._ids:
                raise UserError(
                    f"the vocabulary of {len(self.tokens)} tokens lacks the special token {token!r}"
                )
        self._special_ids = {token: self._ids[token] for token in self.special_tokens}
        self.aliases = check_aliases(ALIASES if aliases is None else aliases, self.special_tokens)
        self._unknown = self.special_id("[UNK]")
        self.vocab = {i: self._stands_for(token) for i, token in enumerate(self.tokens)}
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        self._specials = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._longest = max(map(len, self.tokens))
        self._strips = lower_case if strip_accents is None else strip_accents
        self._clean = CharacterTable(lambda character: clean_character(character, chinese_characters))
        self._shape = CharacterTable(self._shape_character)
        self._cached_pieces = lru_cache(CACHE)(self.pieces)

    @property
    def vocab_size(self) -> int:
        """All ids are below this: the rows that an embedding needs."""
        return len(self.tokens)

    def special_id(self, token: str) -> int:
        """Return the id of a special token, or of its alias; UserError where there is none of that name."""
        return special_id(token, self._special_ids, self.aliases)

    def words(self, text: str) -> list[str]:
        """Cut a text into words and punctuation: BERT's basic tokenization."""
        text = text.translate(self._clean)
        if self._strips and not text.isascii():
            text = unicodedata.normalize("NFD", text)  # an accent becomes a character of its own
        return text.translate(self._shape).split(" ")

    def pieces(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word: each time the longest piece that fits (greedy, from the left)."""
        if len(word) > LONGEST_WORD:
            return (self._unknown,)
        ids, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                if (found := self._ids.get(prefix + word[start:end])) is not None:
                    break
            else:
                return (self._unknown,)
            ids.append(found)
            start = end
        return tuple(ids)

    def encode(self, text: str, allow_special: bool = True) -> list[int]:
        """Text -> ids, without [CLS] and [SEP]; special tokens in it count as such if allowed."""
        ids = []
        for i, part in enumerate(self._specials.split(text) if allow_special else [text]):
            if i % 2:  # `split` returns text, special token, text, ...
                ids.append(self._special_ids[part])
            else:
                ids += chain.from_iterable(map(self._cached_pieces, self.words(part)))
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Ids -> bytes, a space before each word; UserError names an id that the vocabulary lacks."""
        try:
            return b"".join([self.vocab[i] for i in map(operator.index, ids)])
        except KeyError as error:
            raise UserError(
                f"id {error.args[0]} is not in the vocabulary of {len(self.tokens)} ids"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text, as near to the original as the pieces say. UserError as `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", "replace").removeprefix(" ")

    def extend(self, texts, n_new: int) -> "WordPiece":
        """Refuse: a new piece would change how known words are cut."""
        raise UserError(
            "--extend-vocabulary learns merges, and a WordPiece vocabulary has none: leave it out"
        )

    def save(self, path: str | Path) -> None:
        """Write, or replace, one JSON file, atomically."""
        head = {"format": FORMAT, "lower_case": self.lower_case, "strip_accents": self.strip_accents}
        head |= {"chinese_characters": self.chinese_characters, "special_tokens": self.special_tokens}
        data = head | {"aliases": self.aliases, "tokens": self.tokens}
        text = json.dumps(data, ensure_ascii=True, separators=(",\n", ": "))
        atomic_write(path, text + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "WordPiece":
        """Read what `save` wrote; UserError names a file that is missing, damaged or another program's."""
        data = read_json(path)
        if data.pop("format", None) != FORMAT:
            raise UserError(f"{path}: its format is not {FORMAT!r}, so it is no WordPiece saved by minilm")
        try:
            return cls(**data)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read as a WordPiece saved by minilm ({error})") from None

    @classmethod
    def from_vocab(cls, path: str | Path, **options) -> "WordPiece":
        """Read a vocab.txt, a token a line; `options` are those of the class. UserError names the file."""
        try:
            tokens = Path(path).read_text("utf-8").split("\n")  # not splitlines: U+2028 may be a token
            return cls(tokens[:-1] if tokens[-1] == "" else tokens, **options)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a WordPiece vocabulary ({error})") from None

    def _shape_character(self, character: str) -> str:
        """Drop an accent, lower a letter, set punctuation apart; all white space is a space already."""
        if self._strips and unicodedata.category(character) == "Mn":
            return ""
        if is_punctuation(character):
            return f" {character} "
        # Letter by letter: of a word, Python would turn a last sigma into another letter.
        return character.lower() if self.lower_case else character

    def _stands_for(self, token: str) -> bytes:
        if token in self._special_ids:
            return token.encode()
        begins = not token.startswith("##") and token[:1].isalnum()
        return (" " + token if begins else token.removeprefix("##")).encode("utf-8", "replace")
