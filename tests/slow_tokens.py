"""What the tests of merges and tokenizer share: text of all kinds, and a plain scanner of its pre-tokens."""

import unicodedata

MIXED = (
    "Don't stop; we'll say they've 12 naïve cafés.\r\n\r\n\tTabs \u00a0 and\u2003wide   spaces  \n"
    "漢字かな交じり文、한국어 ٣٤٥ ½Ⅻ² 一二三 Ελληνικά हिन्दी "
    "e\u0301 👩‍👩‍👧 \x00\x1c\x1f\x7f\x85 '' 'S 'LL 's's'd'm't're"
)
WHITE_SPACE = {*map(ord, "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"), *range(0x2000, 0x200B)}


def kind_of(char):
    """The class of a character as Unicode's tables have it: L, N, white space or other."""
    if ord(char) in WHITE_SPACE:
        return "space"
    category = unicodedata.category(char)[0]
    return category if category in "LN" else "other"


def scan(text):
    """Cut a text by GPT-2's rules, a character at a time."""
    pieces, i = [], 0
    while i < len(text):
        ends = ("'s", "'t", "'d", "'m", "'ll", "'ve", "'re")
        end = next((i + len(c) for c in ends if text.startswith(c, i)), None)
        if end is None:
            start = i + (text[i] == " " and i + 1 < len(text) and kind_of(text[i + 1]) != "space")
            end = start + 1
            while end < len(text) and kind_of(text[end]) == kind_of(text[start]):
                end += 1
            if kind_of(text[start]) == "space" and end < len(text) and end - i > 1:
                end -= 1  # the last white space is left for what follows
        pieces.append(text[i:end])
        i = end
    return pieces


def gpt2_name(token):
    """A token as GPT-2's files write it: bytes without a glyph of their own move to U+0100 and on."""
    moved = [byte for byte in range(256) if not (33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte)]
    return "".join(chr(256 + moved.index(byte)) if byte in moved else chr(byte) for byte in token)


def random_text(rng, alphabet, length):
    return "".join(rng.choice(alphabet) for _ in range(length))
