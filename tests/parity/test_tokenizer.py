"""The same pre-tokens and ids as the Rust library `tokenizers` and the package `regex`, where installed."""

import json
import random
import sys
import unicodedata

import pytest

from minilm.huggingface import exporting
from minilm.huggingface.tokenizers import read_tokenizer
from minilm.plumbing.folders import write_json
from minilm.tokenizer.bpe import BPE, GPT2_PATTERN, PATTERNS, SPECIAL_TOKENS, pre_tokens

MIXED = (
    "Don't stop; we'll say they've 12 naïve cafés.\r\n\r\n\tTabs \u00a0 and\u2003wide   spaces  \n"
    "漢字かな交じり文、한국어 ٣٤٥ ½Ⅻ² 一二三 Ελληνικά हिन्दी Ἀθῆναι ไทย עברית العربية "
    "e\u0301 👩‍👩‍👧 🇧🇷 \x00\x1c\x1d\x1e\x1f\x7f\x85\u200b\u2028 '' 'S 'LL 's's'd'm't're 'ſ ǅ ª º ⅷ ߀ 𝟘 𒐀 𠀀"
)


def rust_tokenizer(bpe):
    """The Rust library's tokenizer with our vocabulary, merges and special tokens."""
    return pytest.importorskip("tokenizers").Tokenizer.from_str(json.dumps(exporting.rust_tokenizer(bpe)))


def assigned_characters():
    """The characters that the running Python's Unicode knows; a newer letter is a symbol to us."""
    everything = map(chr, range(sys.maxunicode + 1))
    return [char for char in everything if unicodedata.category(char) not in ("Cn", "Cs")]


def random_texts(n, length):
    rng = random.Random(0)
    alphabets = ["aabbcd  '\n", "'sltdmvre A1", MIXED, " \t\x1c\x85\u00a0\u3000a1!", MIXED + "etaoin  shrdlu"]
    return ["".join(rng.choices(alphabets[i % len(alphabets)], k=rng.randrange(length))) for i in range(n)]


@pytest.fixture(scope="module")
def bpe():
    return BPE.train([MIXED * 3, *random_texts(500, 60)], 1500, SPECIAL_TOKENS)


@pytest.mark.parametrize("pattern", [None, *PATTERNS])
def test_words_and_ids_by_every_pattern_equal_the_rust_library(pattern, tmp_path):
    """The tokenizer.json that we write, read by Rust and by us: the same cuts, and the same ids."""
    ours = BPE.train([MIXED * 3, *random_texts(500, 60)], 900, SPECIAL_TOKENS, pattern)
    theirs = rust_tokenizer(ours)
    write_json(tmp_path / "tokenizer.json", exporting.rust_tokenizer(ours))
    read, _ = read_tokenizer(tmp_path, {"model_type": "llama"})
    assert read.pattern == pattern
    texts = [MIXED, MIXED.replace("'ſ", "ſ"), "a  1 23\n\n 456  x!\n\n\n  'S'll", *random_texts(1000, 40)]
    for text in texts:
        cuts = [text[a:b] for _, (a, b) in theirs.pre_tokenizer.pre_tokenize_str(text)]
        if pattern is None or "'ſ" not in text:  # to Rust a contraction, an s being among its capitals
            assert pre_tokens(text, PATTERNS.get(pattern, GPT2_PATTERN)) == cuts, f"other words for {text!r}"
            assert read.encode(text) == ours.encode(text) == theirs.encode(text).ids


def test_every_character_has_the_class_of_the_regex_package():
    regex = pytest.importorskip("regex")
    pattern = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    chars = assigned_characters()
    for start in range(0, len(chars), 10_000):
        text = "".join(f"a{char}{char}0" for char in chars[start : start + 10_000])
        assert pre_tokens(text) == pattern.findall(text), f"from U+{ord(chars[start]):04X} on"


def test_ids_equal_the_rust_library(bpe):
    rust = rust_tokenizer(bpe)
    everything = "".join(char for char in assigned_characters() if unicodedata.category(char) != "Co")
    special = MIXED + "[SEP]they[MASK] <|endoftext|>"
    for text in [MIXED, special, everything[:150_000], *random_texts(1500, 60)]:
        ids = bpe.encode(text)
        assert ids == rust.encode(text, add_special_tokens=False).ids, f"other ids for {text[:80]!r}"
        assert rust.decode(ids, skip_special_tokens=False) == bpe.decode(ids) == text


def test_invalid_bytes_decode_alike(bpe):
    rust, rng = rust_tokenizer(bpe), random.Random(1)
    for _ in range(200):
        ids = [len(SPECIAL_TOKENS) + byte for byte in rng.choices(range(256), k=12)]
        assert bpe.decode(ids) == rust.decode(ids), f"other text for the bytes {bpe.decode_bytes(ids)}"


def test_files_of_gpt2_read_alike(tmp_path, bpe):
    plain = BPE.train([MIXED * 3, *random_texts(500, 60)], 1000)
    rust_tokenizer(BPE(plain.vocab, plain.merges)).model.save(str(tmp_path))
    ours = BPE.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    rust = pytest.importorskip("tokenizers").ByteLevelBPETokenizer
    theirs = rust(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert ours.encode(MIXED) == theirs.encode(MIXED).ids == plain.encode(MIXED)
    assert ours.special_id("<|endoftext|>") == 1000
