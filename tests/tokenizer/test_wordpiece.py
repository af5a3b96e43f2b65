"""Grades tokenizer/wordpiece.py: BERT's words, the longest pieces, and the interface of `BPE`."""

import random
import unicodedata

import pytest
from mistakes import assert_right

from minilm.plumbing.errors import UserError
from minilm.tokenizer.wordpiece import ALIASES, IDEOGRAPHS, SPECIAL_TOKENS, CharacterTable, WordPiece

TOKENS = [*SPECIAL_TOKENS, "un", "##aff", "##able", "##a", "the", "The", "cafe", "café", "x", "##x", ",", "!"]
TOKENS += ["$", "漢", "字", "##字", "ςσ", "σσ", "##ing", "go", "-", "2", "##ª"]
TOKENS += ["p", "##p", "##q", "pq", "##pq"]  # whatever piece is taken first, there is a next one


@pytest.fixture
def wordpiece():
    return WordPiece(TOKENS)


def tokens(wordpiece: WordPiece, text: str, **options) -> list[str]:
    return [wordpiece.tokens[i] for i in wordpiece.encode(text, **options)]


def plain_words(text: str, lower_case: bool, strip_accents: bool, chinese: bool) -> list[str]:
    """Basic tokenization as its authors describe it, a character at a time."""
    words = [""]
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category in ("Zs", "Zl", "Zp"):
            words.append("")
        elif category.startswith("C") and category != "Cn" or char == "\ufffd":
            continue
        else:
            alone = chinese and any(a <= ord(char) <= b for a, b in IDEOGRAPHS)
            words += ["", char, ""] if alone else []
            words[-1] += "" if alone else char
    done = [""]
    for word in words:
        if strip_accents:
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        done.append("")
        for char in word:
            alone = char.isascii() and not char.isalnum() or unicodedata.category(char).startswith("P")
            done += ["", char, ""] if alone else []
            done[-1] += "" if alone else char.lower() if lower_case else char
    return [word for word in done if word]


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
@pytest.mark.parametrize("chinese", [True, False])
def test_words_are_those_of_the_plain_version(lower_case, strip_accents, chinese):
    wordpiece = WordPiece(TOKENS, SPECIAL_TOKENS, None, lower_case, strip_accents, chinese)
    strips = lower_case if strip_accents is None else strip_accents
    letters = "aBcé Ñ  ñ\u0301\t\n\x00\x1c\u200d\u00a0\u3000.,$`^—¿漢字ΑΣİß가👩\ufffd"
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(letters, k=draw.randrange(25)))
        found = [word for word in wordpiece.words(text) if word]
        assert found == plain_words(text, lower_case, strips, chinese), f"other words for {text!r}"


def wrong_pieces(word: str, shortest=False, mark="##", whole=True, longest=100, first="") -> list[str]:
    """The pieces of a word; each option makes a typical mistake."""
    pieces, start = [], 0
    while start < len(word) <= longest:
        ends = range(start + 1, len(word) + 1) if shortest else range(len(word), start, -1)
        prefix = mark if start else first
        end = next((end for end in ends if prefix + word[start:end] in TOKENS), None)
        if end is None:
            return ["[UNK]"] if whole else [*pieces, "[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces if start else ["[UNK]"]


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("pqpq", "pq ##pq"),
        ("unaffable", "un ##aff ##able"),  # the paper's example
        ("una", "un ##a"),
        ("unz", "[UNK]"),  # a word with an unknown part is [UNK] as a whole
        ("aff", "[UNK]"),  # ##aff stands inside a word alone
        ("ungo", "[UNK]"),  # and "go" at its beginning
        ("x" * 100, "x" + " ##x" * 99),
        ("x" * 101, "[UNK]"),  # a word of more than 100 characters
    ],
)
def test_the_longest_piece_is_taken_each_time(wordpiece, word, right):
    mistakes = {
        "the shortest piece is taken, not the longest": wrong_pieces(word, shortest=True),
        "later pieces are looked up without ##": wrong_pieces(word, mark=""),
        "the first piece is looked up with ## too": wrong_pieces(word, first="##"),
        "known pieces stay: a word with an unknown part is only [UNK]": wrong_pieces(word, whole=False),
        "a word of more than 100 characters is split: it is [UNK]": wrong_pieces(word, longest=200),
        "a word of 100 characters counts as too long": wrong_pieces(word, longest=99),
        "a word without an unknown part becomes [UNK]": ["[UNK]"],
        "only the first piece is returned": wrong_pieces(word)[:1],
        "an unknown part is left out": [p for p in wrong_pieces(word, whole=False) if p != "[UNK]"],
    }
    ids = wordpiece.encode_word(word)
    known = isinstance(ids, (tuple, list)) and all(isinstance(i, int) for i in ids)
    found = [wordpiece.tokens[i] for i in ids] if known else ids
    told = word if len(word) < 50 else f"{len(word)} x"
    assert_right(found, right.split(), mistakes, axes=("piece",), what=told)
    assert isinstance(ids, tuple), f"return the ids as a tuple, not as a {type(ids).__name__}"


def test_words_that_a_text_hides(wordpiece):
    assert tokens(wordpiece, "The\u00a0CAFÉ,the") == ["the", "cafe", ",", "the"]
    assert tokens(wordpiece, "th\u200de th\x00e th\ufffde") == ["the"] * 3, "invisible characters are dropped"
    assert tokens(wordpiece, "x漢字x") == ["x", "漢", "字", "x"], "each ideograph is a word"
    assert tokens(wordpiece, "ΣΣ") == ["σσ"], "letter by letter: a last sigma stays one"
    assert tokens(WordPiece(TOKENS, lower_case=False), "The café the") == ["The", "café", "the"]
    assert tokens(WordPiece(TOKENS, strip_accents=False), "The CAFÉ") == ["the", "café"]
    assert tokens(WordPiece(TOKENS, chinese_characters=False), "漢字") == ["漢", "##字"]


def test_character_classes():
    plain = WordPiece(TOKENS, chinese_characters=False)
    for character in '$+<=>^`|~!"#[]_—¿。':
        assert plain.words(f"a{character}b") == ["a", character, "b"], f"{character} is punctuation"
    assert plain.words("a9€±b") == ["a9€±b"], "other currencies and signs belong to their word"
    kept = WordPiece(TOKENS, strip_accents=False).words("漢㐀𠀀かカ가")
    assert [word for word in kept if word] == [*"漢㐀𠀀", "かカ가"], "kana and Hangul are no ideographs"
    assert plain.words("a\tb\x07c\u00add\ue000e\u2028f") == ["a", "bcde", "f"]
    blocks = "4E00-9FFF 3400-4DBF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B920-2CEAF F900-FAFF 2F800-2FA1F"
    ends = {tuple(int(end, 16) for end in block.split("-")) for block in blocks.split()}
    assert {*IDEOGRAPHS} == ends, "the blocks of the Rust library"
    words = [word for word in WordPiece(TOKENS, strip_accents=False).words("a一b\u9fffc\uf900d") if word]
    assert words == [*"a一b\u9fffc\uf900d"], "the first and the last of a block are in it"
    table = CharacterTable(lambda character: character * 2)
    assert "ab".translate(table) == "aabb" and table == {97: "aa", 98: "bb"}, "asked once for each"


def test_special_tokens(wordpiece):
    assert [wordpiece.special_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert wordpiece.special_id("<|endoftext|>") == 3, "[SEP] ends a text"
    assert tokens(wordpiece, "the[MASK]go [SEP]") == ["the", "[MASK]", "go", "[SEP]"]
    with pytest.raises(UserError, match=r"the special token '\[MASK\]' is not among the"):
        WordPiece(TOKENS[:4])
    with pytest.raises(UserError, match=r"the special token '##s' is a piece of a word"):
        WordPiece(["[UNK]", "##s"], ["[UNK]", "##s"], {})
    other = WordPiece(["<u>", "a", "a"], ["<u>"], {"[UNK]": "<u>"})
    assert other.encode("a b") == [2, 0], "of two equal tokens the later is used"


def test_what_a_token_stands_for(wordpiece):
    stands = {wordpiece.tokens[i]: token for i, token in wordpiece.vocab.items()}
    assert stands["go"] == b" go" and stands["##ing"] == b"ing", "a word begins with the space before it"
    assert stands[","] == b"," and stands["[SEP]"] == b"[SEP]"
    letters = WordPiece(["[UNK]", "MASK", "go"], ["[UNK]", "MASK"], {}).vocab
    assert letters[1] == b"MASK" and letters[2] == b" go", "a special token never has a space"
    text = "the cafe, unaffable going!"
    assert wordpiece.decode(wordpiece.encode(text)) == text and wordpiece.decode([]) == ""


def test_each_byte_of_a_word_is_of_a_letter(wordpiece):
    one, two, three = (0, 1), (1, 2), (2, 4)  # the e has an accent, a character of its own
    found = list(wordpiece.located_words("The\u0301, é!"))
    assert found == [
        ("the", [one, one, two, three]), (",", [(4, 5)]), ("e", [(6, 7), (6, 7)]), ("!", [(7, 8)]),
    ], "a word begins with the space before it, which stands where its first letter does"  # fmt: skip


@pytest.mark.parametrize("lower_case", [True, False])
def test_save_and_load(lower_case, tmp_path):
    options = dict(lower_case=lower_case, strip_accents=not lower_case, chinese_characters=lower_case)
    wordpiece = WordPiece([*TOKENS, "\u2028", "\x85", "é"], **options)
    wordpiece.save(tmp_path / "tokenizer.json")
    again = WordPiece.load(tmp_path / "tokenizer.json")
    text = "The café 漢字 going [SEP] naïve"
    assert again.tokens == wordpiece.tokens and again.encode(text) == wordpiece.encode(text)
    assert again.aliases == ALIASES == {"<|endoftext|>": "[SEP]"}


def test_what_is_refused(wordpiece, tmp_path):
    (tmp_path / "more.json").write_text('{"format": "minilm WordPiece 1", "tokens": ["a"], "b": 1}')
    with pytest.raises(UserError, match="more.json: cannot be read as a tokenizer"):
        WordPiece.load(tmp_path / "more.json")
    with pytest.raises(UserError, match="--extend-vocabulary"):
        wordpiece.extend(["text"], 5)
