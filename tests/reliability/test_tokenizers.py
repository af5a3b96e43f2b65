"""Texts come back from their ids, places agree with ids, and twice the text takes about twice the time."""

import gc
import random
import statistics
import time
from functools import cache

import published
import pytest
import small

from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.tokenizer.wordpiece import WordPiece

N, FIRST = 100_000, 1_000  # random texts, and how many of them every run of the tests reads
LATER = pytest.mark.reliability
SCRIPTS = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x1100, 0x1200)]
SCRIPTS += [(0x1E00, 0x2000), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xF900, 0xFB00)]
SCRIPTS += [(0x10000, 0x10400), (0x1D400, 0x1D800), (0x20000, 0x20100)]
MARKS = [(0x300, 0x370), (0x591, 0x5BE), (0x1AB0, 0x1AC0), (0x20D0, 0x20F1), (0xFE20, 0xFE30)]
OTHERS = [(0x00, 0x20), (0x7F, 0xA0), (0x2000, 0x2070), (0xE000, 0xE010), (0xFE00, 0xFE10), (0xFFF0, 0x10000)]
OTHERS += [(0x1F1E6, 0x1F200), (0x1F3FB, 0x1F400), (0x1F440, 0x1F480), (0xE0020, 0xE0080)]
SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u202f\u3000\ufeff"
PIECES = ["Ana sells bread.", "don't", "we'LL", "[SEP]", "[MASK", "<|endoftext|>", "##s", "café", "ΑΣ", "İ"]
PIECES += ["\u0344", "\u1f82", "\ufb01", "\u1100\u1161\u11a8", "\uac01", "\u212b", "\u00c5\u0300", "\u0f73"]
PIECES += ["\U0001d15e", "👩\u200d👩\u200d👧", "🇵🇹", "½²Ⅻ", "ß"]


def random_text(draw: random.Random) -> str:
    """Return some runs of letters of one script, marks, spaces, digits, controls, or known pieces."""
    runs = []
    for _ in range(draw.randint(0, 6)):
        ranges = draw.choice((SCRIPTS, SCRIPTS, MARKS, OTHERS))
        low, high = draw.choice(ranges)
        letters = [chr(draw.randrange(low, high)) for _ in range(draw.randint(1, 6))]
        same = draw.choice(draw.choice((SPACES, "0123456789", "٣٤٥", *letters))) * draw.randint(1, 4)
        runs.append(draw.choice(("".join(letters), draw.choice(PIECES), same)))
        if draw.random() < 0.02:
            runs.append(draw.choice(letters) * 150)
    return draw.choice(("", "", " ")).join(runs)


@cache
def wordpiece() -> WordPiece:
    """Return a WordPiece that has nearly every letter of the random texts, as a word and within one."""
    shaped = WordPiece(published.BERT_TOKENS).shaped
    texts = (random_text(random.Random(f"letter {n}")) for n in range(5000))
    letters = sorted({letter for text in texts for letter in shaped(text)})
    pieces = [prefix + letter for letter in letters for prefix in ("", "##")]
    return WordPiece([*dict.fromkeys([*published.BERT_TOKENS, *pieces])])


TOKENIZERS = {
    "bpe": small.tokenizer,
    "bpe-pattern": lambda: BPE.train(small.documents(40), 300, SPECIAL_TOKENS, "gpt4"),
    "wordpiece": wordpiece,
}


def mistake(tokenizer, text: str) -> str | None:
    """Return what is wrong with the ids of a text, if anything."""
    ids = tokenizer.encode(text, allow_special=False)
    found, places = tokenizer.encode_located(text)
    if found != ids:
        return "encode_located gives other ids than encode"
    if isinstance(tokenizer, BPE):
        if tokenizer.decode(ids) != text or tokenizer.decode(tokenizer.encode(text)) != text:
            return "the text does not come back from its ids"
    else:
        tokenizer.decode(ids)
    edges = [edge for place in places for edge in place]
    if len(places) != len(ids) or not all(0 <= a <= b <= len(text) for a, b in places):
        return "a place is not in the text"
    return None if [*map(max, edges[:-2:2], edges[2::2])] == edges[2::2] else "places go backwards"


@pytest.mark.parametrize("numbers", [range(FIRST), pytest.param(range(FIRST, N), marks=LATER)], ids=len)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_texts_come_back(name, numbers):
    tokenizer, wrong = TOKENIZERS[name](), {}
    for n in numbers:
        text = random_text(random.Random(n))
        try:
            what = mistake(tokenizer, text)
        except Exception as error:  # noqa: BLE001 - any is a mistake
            what = f"{type(error).__name__}: {error}"
        if what and len(text) < len(wrong.get(what, (0, text + "."))[1]):
            wrong[what] = n, text
    told = "\n".join(f"{what}: random.Random({n}) gives {text!r}" for what, (n, text) in wrong.items())
    assert not wrong, f"{name}:\n{told}"


PROSE = " ".join(small.documents(4000))
WORST = {  # a text of n letters
    "prose": lambda n: (PROSE * (1 + n // len(PROSE)))[:n],
    "other words": lambda n: " ".join(f"{i * i:x}" for i in range(n // 7)),
    "one letter": lambda n: "a" * n,
    "two letters": lambda n: "ab" * (n // 2),
    "no spaces": lambda n: PROSE.replace(" ", "")[:n],
    "spaces": lambda n: " " * n,
    "ideographs": lambda n: "".join(chr(0x4E00 + i * i % 0x5000) for i in range(n)),
    "accents": lambda n: "e\u0301" * (n // 2),
    "marks in disorder": lambda n: "e" + "\u0301\u0316" * (n // 2),
    "special tokens": lambda n: "[SEP]" * (n // 5),
    "beginnings of special tokens": lambda n: "[SEP" * (n // 4),
    "controls": lambda n: "\x00\x01" * (n // 2),
}


def seconds(tokenizer, work: str, text: str) -> float:
    """Return the seconds of the processor that a method takes for a text, no word known from before."""
    tokenizer._encode_cached.cache_clear()
    began = time.process_time()
    getattr(tokenizer, work)(text)
    return time.process_time() - began


@pytest.fixture
def _no_garbage_collection():
    """Keep Python from looking for garbage, which takes long and comes at any time."""
    gc.disable()
    yield
    gc.enable()


@LATER
@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("work", ["encode", "encode_located"])
@pytest.mark.parametrize("name", ["bpe", "wordpiece"])
@pytest.mark.parametrize("text", WORST)
def test_twice_the_text_takes_about_twice_the_time(text, name, work):
    tokenizer, n = TOKENIZERS[name](), 2000
    while seconds(tokenizer, work, WORST[text](n)) < 0.02 and n < 500_000:
        n *= 2
    pairs = [[seconds(tokenizer, work, WORST[text](length)) for length in (n, 2 * n)] for _ in range(5)]
    single, double = map(statistics.median, zip(*pairs, strict=True))
    ratio = double / single
    assert ratio < 2.5, f"{2 * n:,} letters of {text} take {ratio:.1f} times as long as {n:,}"


@LATER
@pytest.mark.parametrize("name", ["bpe", "bpe-pattern", "wordpiece"])
def test_a_letter_a_million_times_is_read_in_seconds(name):
    tokenizer, text = TOKENIZERS[name](), "a" * 10**6
    assert seconds(tokenizer, "encode", text) < 20
    if name != "wordpiece":  # to which a word of more than a hundred letters is unknown
        assert tokenizer.decode(tokenizer.encode(text)) == text
