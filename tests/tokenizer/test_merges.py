"""Grades tokenizer/merges.py against slow references: a scanner for pre-tokens, and naive training."""

import random
import re
import sys
from collections import Counter

import pytest
from slow_tokens import MIXED, kind_of, random_text, scan

from minilm.tokenizer.merges import join, pre_tokens, single_bytes, train_fast, train_naive


def test_every_code_point_has_its_unicode_class():
    members = {"L": ["a"], "N": ["0"], "space": ["\n"], "other": ["!"]}
    for char in map(chr, range(sys.maxunicode + 1)):
        members[kind_of(char)].append(char)
    for kind, chars in members.items():
        text = "".join(chars)
        pieces = pre_tokens(text)
        cut = f"U+{ord(text[len(pieces[0])]):04X}" if len(pieces) > 1 else ""
        assert pieces == [text], f"{cut} is of class {kind}, so it goes on with the characters before it"


def test_pre_tokens_of_a_sentence():
    found = pre_tokens("Don't  stop, we'll\n\n see 12 cafés!!")
    expected = ["Don", "'t", " ", " stop", ",", " we", "'ll", "\n\n", " see", " 12", " cafés", "!!"]
    assert found == expected, "GPT-2's pattern: a word takes one space along, contractions stand alone"


def test_pre_tokens_equal_a_plain_scanner():
    rng = random.Random(0)
    alphabets = ["a 1.'\n", "'sltdmvre A", MIXED, " \t\x1c\x85\u00a0\u3000a", "é一½٣漢 '\n"]
    for round_ in range(1500):
        text = random_text(rng, alphabets[round_ % len(alphabets)], rng.randrange(25))
        assert pre_tokens(text) == scan(text), f"wrong pre-tokens of {text!r}"
    assert pre_tokens(MIXED) == scan(MIXED)


def test_pre_tokens_under_an_own_pattern_lose_nothing():
    pattern = re.compile("(b)|x+")
    assert pre_tokens("aabxxé", pattern) == ["aa", "b", "xx", "é"], (
        "what the pattern leaves over is a pre-token too"
    )
    assert pre_tokens("", pattern) == [] and pre_tokens("") == []


def test_join_goes_from_left_to_right():
    assert join([1, 1, 1, 2, 1, 1], (1, 1), 9) == [9, 1, 2, 9], (
        "the first two of three are joined, not the last two"
    )
    assert join([1, 2, 3, 1, 2], (1, 2), 7) == [7, 3, 7] and join([], (1, 2), 7) == []


@pytest.mark.parametrize("learn", [train_naive, train_fast])
def test_merges_by_hand(learn):
    words = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
    expected = [
        (b"s", b"t"),
        (b"e", b"st"),
        (b"o", b"w"),
        (b"l", b"ow"),
        (b"w", b"est"),
        (b"n", b"e"),
        (b"ne", b"west"),
    ]
    assert learn(words, 7) == expected, (
        "most frequent pair first; of equals, the greater pair of byte strings"
    )


@pytest.mark.parametrize("learn", [train_naive, train_fast])
def test_ties_go_to_the_greater_pair_of_byte_strings(learn):
    assert learn({b"ab": 1, b"b\xff": 1, b"ba": 1}, 1) == [(b"b", b"\xff")], "bytes compare unsigned"
    words = {b"ab": 9, b"abc": 1, b"ac": 1}
    assert learn(words, 2) == [(b"a", b"b"), (b"ab", b"c")], "'ab' is greater than its own beginning 'a'"
    assert learn({b"za": 2, b"zb": 2, b"ab": 2}, 3)[:2] == [(b"z", b"b"), (b"z", b"a")], (
        "then the second part decides"
    )


@pytest.mark.parametrize("learn", [train_naive, train_fast])
def test_training_ends_when_the_pairs_run_out(learn):
    assert learn({b"abc": 1}, 50) == [(b"b", b"c"), (b"a", b"bc")], (
        "a pair seen once may be merged; then it is over"
    )
    assert learn({}, 5) == [] and learn({b"a": 3}, 5) == []
    assert learn({b"aaaaa": 2}, 9) == [(b"a", b"a"), (b"aa", b"aa"), (b"aaaa", b"a")]
    assert learn({b"abab": 1}, 0) == []


def test_fast_training_equals_naive_training_on_random_words():
    rng = random.Random(1)
    for _ in range(150):
        alphabet = b"ab\xffz"[: rng.randrange(1, 5)]
        words = Counter(
            bytes(rng.choices(alphabet, k=rng.randrange(1, 12))) for _ in range(rng.randrange(1, 40))
        )
        n_merges = rng.randrange(60)
        assert train_fast(words, n_merges) == train_naive(words, n_merges), f"not the same merges for {words}"


def test_the_bytes_of_a_word():
    assert train_fast({b"abab": 2}, 1, cut=single_bytes) == [(b"a", b"b")]
    assert train_fast({b"abab": 2}, 1, cut=lambda word: [b"ab", b"ab"]) == [(b"ab", b"ab")]
