"""BERT's tokenizer: text -> words -> the longest pieces that are in the vocabulary.

Sources: Devlin et al. 2019 and the authors' code (basic tokenization); Wu et al. 2016, "Google's Neural
Machine Translation System", section 4.1 (word pieces). Spaces are not tokens, so decoding restores a text
only nearly. Unicode is that of the running Python; the Rust library `tokenizers` has Unicode of 2015.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from ..plumbing.errors import UserError
from .base import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALIASES = {"<|endoftext|>": "[SEP]"}  # only [SEP] ends anything in BERT, so it separates documents too
LONGEST_WORD = 100  # characters; a longer word is [UNK], as in the Rust library; the authors' code: 200
# Blocks of ideographs, each one a word, as in the Rust library; the authors' code adds U+2B820 to U+2B91F.
IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F))
IDEOGRAPHS += ((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


class CharacterTable(dict):
    """A table for `str.translate`: `rule` says what a character becomes, and is called once for each."""

    def __init__(self, rule: Callable[[str], str]):
        self.rule = rule

    def __missing__(self, code: int) -> str:
        return self.setdefault(code, self.rule(chr(code)))


class WordPiece(Tokenizer):
    """A tokenizer from the tokens of a vocab.txt in the order of their ids; of equal tokens the last counts.

    `lower_case`: "The" and "the" are one word. `strip_accents`: "é" is "e"; none: as `lower_case`.
    `chinese_characters`: each ideograph is a word. UserError for a special token not in `tokens`, or "##...".
    """

    FORMAT = "minilm WordPiece 1"
    SAVED = ("tokens", "special_tokens", "added_tokens", "aliases")
    SAVED += ("lower_case", "strip_accents", "chinese_characters")

    def __init__(
        self, tokens: Sequence[str], special_tokens=SPECIAL_TOKENS, aliases=None, lower_case: bool = True,
        strip_accents: bool | None = None, chinese_characters: bool = True, added_tokens=(),
    ):  # fmt: skip
        self.tokens, self.lower_case, self.strip_accents = tuple(tokens), lower_case, strip_accents
        self.chinese_characters = chinese_characters
        self._strips = lower_case if strip_accents is None else strip_accents
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if bad := [t for t in (*special_tokens, *added_tokens) if t not in self._ids or t[:2] == "##"]:
            what = "a piece of a word" if bad[0] in self._ids else f"not among the {len(tokens)} tokens"
            raise UserError(f"the special token {bad[0]!r} is {what}")
        special_ids = {token: self._ids[token] for token in special_tokens}
        vocab = {}  # id -> bytes: "##ing" is b"ing"; "go" begins a word, so it is b" go"; "," gets no space
        for i, token in enumerate(self.tokens):
            space = " " if token not in special_ids and token[:1].isalnum() else ""
            vocab[i] = (space + token.removeprefix("##")).encode("utf-8", "replace")
        added_ids = {token: self._ids[token] for token in added_tokens}
        aliases = ALIASES if aliases is None else aliases
        super().__init__(vocab, special_ids, aliases, added_ids, fold=str.lower if lower_case else str)
        self._unknown = self.special_id("[UNK]")
        self._clean, self._shape = CharacterTable(self._clean_rule), CharacterTable(self._shape_rule)

    def words(self, text: str) -> list[str]:
        """Cut a text into words and punctuation: BERT's basic tokenization."""
        return self.shaped(text).split(" ")

    def shaped(self, text: str) -> str:
        """Return the words and punctuation of a text with spaces between."""
        text = text.translate(self._clean)
        if self._strips and not text.isascii():
            # NFD makes an accent a character of its own. Letter by letter: NFD of n marks takes n^2 steps.
            text = "".join([unicodedata.normalize("NFD", letter) for letter in text])
        return text.translate(self._shape)

    def located_words(self, text: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """Yield each word, and for each byte that `vocab` has for it the place (a, b) it has in the text."""
        # A letter together with its combining marks: alone, each would be shaped differently.
        starts = [i for i, letter in enumerate(text) if i == 0 or not unicodedata.combining(letter)]
        spans = pairwise([*starts, len(text)])
        shaped = [(letter, (a, b)) for a, b in spans for letter in self.shaped(text[a:b])]
        for word in re.finditer("[^ ]+", "".join(letter for letter, _ in shaped)):
            places = [place for letter, place in shaped[slice(*word.span())] for _ in letter.encode()]
            yield word.group(), (places[:1] if word.group()[0].isalnum() else []) + places  # its space first

    def _clean_rule(self, character: str) -> str:
        """Turn white space into a space, drop control characters, put spaces around an ideograph."""
        category = unicodedata.category(character)
        if character in "\t\n\r" or character.isspace() and category != "Cc":
            return " "
        if category in ("Cc", "Cf", "Co", "Cs") or character == "\ufffd":
            return ""
        ideograph = any(first <= ord(character) <= last for first, last in IDEOGRAPHS)
        return f" {character} " if self.chinese_characters and ideograph else character

    def _shape_rule(self, character: str) -> str:
        """Drop an accent, lower-case a letter, put spaces around punctuation; follows `_clean_rule`."""
        category = unicodedata.category(character)
        if self._strips and category == "Mn":
            return ""
        if category[0] == "P" or character in "$+<=>^`|~":  # all symbols of ASCII are punctuation here
            return f" {character} "
        # Letter by letter: in a whole word, Python turns a capital sigma at the end into another letter.
        return character.lower() if self.lower_case else character

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Turn a word into ids, always of the longest piece; [UNK] if none fits, or above LONGEST_WORD."""
        ids, start = [], 0
        while start < len(word) <= LONGEST_WORD:
            prefix = "##" if start else ""  # inside a word; pieces without ## begin one: no token for spaces
            for end in range(len(word), start, -1):
                if (found := self._ids.get(prefix + word[start:end])) is not None:
                    break
            else:
                return (self._unknown,)
            ids.append(found)
            start = end
        return tuple(ids) if start == len(word) else (self._unknown,)

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text, as near to the original as the pieces tell. UserError as in `decode_bytes`."""
        return super().decode(ids).removeprefix(" ")

    def extend(self, texts, n_new: int) -> "WordPiece":
        """Refuse: a new piece would change how known words are cut."""
        raise UserError("a WordPiece vocabulary cannot learn new tokens: give --extend-vocabulary 0")
