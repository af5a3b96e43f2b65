"""Grades tokenizer/bpe.py against slow references: a scanner of words, naive training, merges one by one."""

import json
import random
import sys
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from mistakes import assert_right
from slow_tokens import MIXED, gpt2_name, kind_of, random_text, scan

from minilm.plumbing.errors import UserError
from minilm.tokenizer import bpe as tokenizer
from minilm.tokenizer.bpe import BPE, PATTERNS, SPECIAL_TOKENS, join, pre_tokens, train_fast, train_naive


def merge_slowly(bpe, text):
    """Ids of a text without special tokens: in each word, each merge in turn, from left to right."""
    special_ids = {bpe.special_id(token) for token in bpe.special_tokens}
    id_of = {token: i for i, token in bpe.vocab.items() if i not in special_ids}
    ids = []
    for piece in scan(text):
        tokens = [bytes([byte]) for byte in piece.encode()]
        for a, b in bpe.merges:
            i = 0
            while i + 1 < len(tokens):
                if tokens[i : i + 2] == [a, b]:
                    tokens[i : i + 2] = [a + b]
                i += 1
        ids += [id_of[token] for token in tokens]
    return ids


@pytest.fixture(scope="module")
def bpe():
    rng = random.Random(3)
    text = MIXED * 3 + random_text(rng, "aabbcde  ' lsr\n", 3000) + " the they them then  theme " * 20
    return BPE.train([text], 420, SPECIAL_TOKENS)


# Words


def test_every_code_point_has_its_unicode_class():
    members = {"L": ["a"], "N": ["0"], "space": ["\n"], "other": ["!"]}
    for char in map(chr, range(sys.maxunicode + 1)):
        members[kind_of(char)].append(char)
    for kind, chars in members.items():
        text = "".join(chars)
        pieces = pre_tokens(text)
        cut = f"U+{ord(text[len(pieces[0])]):04X}" if len(pieces) > 1 else ""
        assert pieces == [text], f"{cut} is of class {kind}, so it goes on with the characters before it"


def test_words_of_a_sentence():
    found = pre_tokens("Don't  stop, we'll\n\n see 12 cafés!!")
    expected = ["Don", "'t", " ", " stop", ",", " we", "'ll", "\n\n", " see", " 12", " cafés", "!!"]
    assert found == expected, "GPT-2's pattern: a word takes one space along, contractions stand alone"


def test_words_equal_a_plain_scanner():
    rng = random.Random(0)
    alphabets = ["a 1.'\n", "'sltdmvre A", MIXED, " \t\x1c\x85\u00a0\u3000a", "é一½٣漢 '\n"]
    for round_ in range(1500):
        text = random_text(rng, alphabets[round_ % len(alphabets)], rng.randrange(25))
        assert pre_tokens(text) == scan(text), f"wrong words of {text!r}"
    assert pre_tokens(MIXED) == scan(MIXED)


@pytest.mark.parametrize("pattern", [tokenizer.GPT2_PATTERN, *PATTERNS.values()])
def test_a_pattern_leaves_nothing_between_its_words(pattern):
    rng = random.Random(11)
    texts = [random_text(rng, MIXED + "\x00\x1c\t\n \r", 60) for _ in range(300)]
    for text in ["", "12345 ab1'll\t\n \x00\x1c\x85\u2028!?", *texts]:
        assert "".join(pre_tokens(text, pattern)) == text, "text between words is lost"


# Training


def test_join_goes_from_left_to_right():
    def joined(text: str, a: bytes, b: bytes) -> list[bytes]:
        tokens = [letter.encode() for letter in text]
        join(tokens, a, b)
        return tokens

    found = joined("aaabaa", b"a", b"a")
    assert found == [b"aa", b"a", b"b", b"aa"], "the first two of three, not the last two"
    assert joined("abcab", b"a", b"b") == [b"ab", b"c", b"ab"] and joined("", b"a", b"b") == []
    assert joined("a", b"a", b"a") == [b"a"] and joined("ba", b"a", b"b") == [b"b", b"a"]


def test_join_tells_what_changes_around_it():
    rng = random.Random(3)
    for _ in range(300):
        tokens = [bytes([letter]) for letter in rng.choices(b"abc", k=rng.randrange(9))]
        a, b = (bytes([letter]) for letter in rng.choices(b"abc", k=2))
        expected, before = Counter(pairwise(tokens)), list(tokens)
        for old, now in join(tokens, a, b):
            expected[old] -= 1
            expected[now] += 1
        del expected[a, b]
        told = f"{a} and {b} in {before}: the changes do not match the pairs"
        assert +expected == Counter(pairwise(tokens)) and min(expected.values(), default=0) >= 0, told


class Moving(list):
    """A list that counts how many tokens it has moved, at most."""

    n_moved = 0

    def __setitem__(self, where, value):
        self.n_moved += len(self) if isinstance(where, slice) else 0
        super().__setitem__(where, value)

    def __delitem__(self, where):
        self.n_moved += len(self)
        super().__delitem__(where)

    def pop(self, where=-1):
        self.n_moved += len(self)
        return super().pop(where)


def test_to_join_takes_time_by_the_length_of_the_word():
    tokens = Moving([b"a", b"b"] * 500)
    join(tokens, b"a", b"b")
    assert tokens == [b"ab"] * 500, "joined in place"
    told = f"{tokens.n_moved} tokens of 1,000 were moved: for each pair, all later ones? that is n^2"
    assert tokens.n_moved <= 2000, told


def wrong_merges(words, n_merges, rank=lambda count, pair: (count, pair), least=1, joins=True, weigh=True):
    """Learn merges; each option makes a typical mistake."""
    sequences, merges = {word: [bytes([byte]) for byte in word] for word in words}, []
    while len(merges) < n_merges:
        counts = Counter()
        for word, tokens in sequences.items():
            counts.update({pair: 0 for pair in pairwise(tokens)})
            for pair in pairwise(tokens):
                counts[pair] += words[word] if weigh else 1
        counts = {pair: count for pair, count in counts.items() if count >= least}
        if not counts:
            break
        best = max(counts, key=lambda pair: rank(counts[pair], pair))
        merges.append(best)
        for tokens in sequences.values() if joins else ():
            join(tokens, *best)
    return merges


def assert_merges(learn, words, n_merges, right):
    """Compare the merges learnt with those expected, written as "a b, ab c"."""
    shown = lambda merges: [b" ".join(pair).decode() for pair in merges]
    given = words, n_merges
    opposite = lambda count, pair: (count, *([-byte for byte in token] for token in pair))
    first = wrong_merges(*given, lambda count, pair: count)
    mistakes = {
        "each word counts once, not as often as it occurs": wrong_merges(*given, weigh=False),
        "ties go to the first pair that was seen, not to the greatest": first,
        "ties go to the smallest pair, not to the greatest": wrong_merges(*given, opposite),
        "the greatest pair is joined, not the most frequent": wrong_merges(*given, lambda _, pair: pair),
        "the rarest pair is joined": wrong_merges(*given, lambda count, pair: (-count, pair)),
        "a pair that occurs once is not joined": wrong_merges(*given, least=2),
        "the pair is not joined in the words, so that it wins again": wrong_merges(*given, joins=False),
        "pairs are counted once, not again after each merge": counted_once(*given),
        "one merge too few is learnt": wrong_merges(words, n_merges - 1),
        "one merge too many is learnt": wrong_merges(words, n_merges + 1),
    }
    found = learn(*given)
    if isinstance(found, list) and found and isinstance(found[0], tuple):
        found = shown(found)
    mistakes = {name: shown(merges) for name, merges in mistakes.items()}
    assert_right(found, right.split(", "), mistakes, axes=("merge",), what=f"merges of {words}")


def counted_once(words, n_merges):
    """The most frequent pairs of bytes."""
    counts = Counter()
    for word, count in words.items():
        for i in range(len(word) - 1):
            counts[word[i : i + 1], word[i + 1 : i + 2]] += count
    return sorted(counts, key=lambda pair: (counts[pair], pair), reverse=True)[:n_merges]


@pytest.mark.parametrize("learn", [train_naive, train_fast])
def test_merges_by_hand(learn):
    words = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
    assert_merges(learn, words, 7, "s t, e st, o w, l ow, w est, n e, ne west")
    # of equals, the greater pair of byte strings
    assert_merges(learn, {b"ab": 1, b"by": 1, b"ba": 1}, 1, "b y")
    assert learn({b"ab": 1, b"b\xff": 1, b"ba": 1}, 1) == [(b"b", b"\xff")], "bytes are compared as 0 to 255"
    assert_merges(learn, {b"ab": 9, b"abc": 1, b"ac": 1}, 2, "a b, ab c")  # "ab" is greater than "a"
    assert_merges(learn, {b"za": 2, b"zb": 2}, 3, "z b, z a")  # then the second part decides


@pytest.mark.parametrize("learn", [train_naive, train_fast])
def test_training_ends_when_the_pairs_run_out(learn):
    assert_merges(learn, {b"abc": 1}, 50, "b c, a bc")
    assert learn({}, 5) == [] and learn({b"a": 3}, 5) == [], "without pairs, there are no merges"
    assert_merges(learn, {b"aaaaa": 2}, 9, "a a, aa aa, aaaa a")
    assert learn({b"abab": 1}, 0) == [], "`n_merges` is 0"


def test_fast_training_equals_naive_training_on_random_words():
    rng = random.Random(1)
    for _ in range(150):
        alphabet = b"ab\xffz"[: rng.randrange(1, 5)]
        made = (bytes(rng.choices(alphabet, k=rng.randrange(1, 12))) for _ in range(rng.randrange(1, 40)))
        words, n_merges = Counter(made), rng.randrange(60)
        assert train_fast(words, n_merges) == train_naive(words, n_merges), f"not the same merges for {words}"
    assert train_fast({b"abab": 2}, 1, cut=lambda word: [b"ab", b"ab"]) == [(b"ab", b"ab")]


def test_a_pair_is_joined_once_however_its_tokens_were_made():
    """A known vocabulary may cut abc in two ways: so (x, abc) is born twice, and waits twice in the heap."""
    cut = {b"zabc": "z a bc", b"abc": "ab c", b"xabc": "x ab c", b"xabcd": "x a bc d"}
    words = {b"zabc": 5, b"abc": 2, b"xabc": 2, b"xabcd": 1}
    found = train_fast(words, 9, lambda word: cut[word].encode().split())
    assert [b" ".join(pair) for pair in found] == [b"a bc", b"z abc", b"ab c", b"x abc", b"xabc d"]


def test_a_vocabulary_extended_by_new_text_keeps_its_ids():
    bpe = BPE.train(["low lower lowest", "new newer"], 290, ("[PAD]",))
    longer = bpe.extend(["zinc zinc zincs lower", "zincs"], 6)
    assert longer.vocab_size == bpe.vocab_size + 6 and longer.special_tokens == bpe.special_tokens
    assert {i: longer.vocab[i] for i in bpe.vocab} == bpe.vocab, "the old ids stay as they are"
    assert longer.merges[: len(bpe.merges)] == bpe.merges
    assert longer.encode("low newer lowest") == bpe.encode("low newer lowest")
    assert len(longer.encode(" zincs")) < len(bpe.encode(" zincs"))
    for text in ("zinc zincs", " zinczinc [PAD] lowzincs"):
        assert longer.decode(longer.encode(text)) == text
    bpe.ends, bpe.longest = (0, 1), 7
    more = bpe.extend(["zinc"], 2)
    assert (more.ends, more.longest) == ((0, 1), 7), "the ends of its texts and its longest text stay too"
    assert bpe.extend(["low"], 5).vocab == bpe.vocab, "no pair is left in a text of known words"


def test_new_tokens_stand_behind_the_last_id_where_ids_are_missing():
    gap = BPE({i + 3 * (i > 199): bytes([i]) for i in range(256)}, [])
    more = gap.extend(["xyz xyz"], 2)
    kept = gap.vocab.items() <= more.vocab.items()
    assert kept, "a new token has taken a known id: the last one is not the number of tokens"
    assert more.vocab.keys() - gap.vocab.keys() == {259, 260}, "the new ids follow the last one"


def test_a_token_that_is_there_gets_no_second_id():
    known = BPE(dict(enumerate([*tokenizer.BYTES, b"ab"])), [])
    more = known.extend(["ab ab ab"], 1)
    assert more.vocab == known.vocab, "its row in the model would stay what it was, and a new one begin"
    assert more.encode("ab") == [256], "the merge is new, its token is not"


def test_new_ids_follow_the_order_of_the_merges():
    more = BPE.train([], 256).extend(["abcdefgh " * 3, "abcdef " * 9, "abcd " * 27, "ab " * 81], 7)
    found = [more.vocab[i] for i in range(256, more.vocab_size)]
    assert found == [a + b for a, b in more.merges], "new ids in the order in which their tokens were learnt"


def test_train_counts_texts_of_every_kind():
    rng = random.Random(2)
    for round_ in range(12):
        texts = [random_text(rng, "ab c'é\n" if round_ % 2 else MIXED, rng.randrange(60)) for _ in range(7)]
        learn = train_naive if round_ < 6 else train_fast
        found = BPE.train(iter(texts), 256 + len(SPECIAL_TOKENS) + 40, SPECIAL_TOKENS, learn=learn)
        words = Counter(piece.encode() for text in texts for piece in scan(text))
        assert found.merges == train_naive(words, 40), "each word counts as often as it occurs, in any text"


def test_ids_are_specials_then_bytes_then_merges():
    bpe = BPE.train(["abab abab"], 256 + 2 + 2, ["<s>", "<pad>"])
    start = [b"<s>", b"<pad>", *(bytes([byte]) for byte in range(256))]
    told = "the special tokens come first, then the 256 bytes, then the merges"
    assert list(bpe.vocab.items()) == list(enumerate([*start, b"ab", b"abab"])), told
    assert bpe.merges == [(b"a", b"b"), (b"ab", b"ab")] and bpe.vocab_size == 260


def test_what_no_merge_crosses():
    own = BPE.train(["12 12"], 300, pattern="gpt2, digits apart")
    assert own.merges == [], "the pattern cuts the training texts too"
    bpe = BPE.train(["xx[SEP]yy[SEP]xx[SEP]" * 9], 300, ["[SEP]"])
    assert bpe.merges == [(b"x", b"x"), (b"y", b"y")], "no merge reaches into or over a special token"


def test_a_tiny_corpus_gives_a_smaller_vocabulary():
    bpe = BPE.train(["hi hi"], 5000, SPECIAL_TOKENS)
    assert bpe.vocab_size == 256 + 6 + 2 and bpe.decode(bpe.encode("hi there")) == "hi there"
    assert BPE.train([], 300).vocab_size == 256
    assert BPE.train("abc", 258).merges == [(b"b", b"c"), (b"a", b"bc")], "one str is one text, not letters"


@pytest.mark.parametrize(("size", "specials"), [(255, ()), (261, SPECIAL_TOKENS), (-1, ())])
def test_a_vocabulary_too_small_names_the_minimum(size, specials):
    with pytest.raises(UserError, match=f"--vocab-size {size}: at least {256 + len(specials)} "):
        BPE.train(["text"], size, specials)
    assert BPE.train(["text"], 256 + len(specials), specials).merges == []


@pytest.mark.parametrize("bad", [["<s>", "<s>"], [""], ["<s>", "x"], "<s>"], ids=str)
def test_special_tokens_given_twice_or_of_one_byte_are_refused(bad):
    with pytest.raises(UserError, match="special token .* is given twice, or has fewer than two bytes"):
        BPE.train(["text"], 400, bad)
    assert BPE({}, [], ("é",)).vocab == {0: "é".encode()}, "one letter of two bytes"


# Encoding and decoding


def test_encoding_equals_the_merges_applied_one_by_one(bpe):
    rng = random.Random(4)
    for alphabet in ["aabbcde ", MIXED, "thems ", "é漢 \n"]:
        for _ in range(60):
            text = random_text(rng, alphabet, rng.randrange(30))
            assert bpe.encode(text) == merge_slowly(bpe, text), f"wrong ids for {text!r}"
    assert bpe.encode(MIXED) == merge_slowly(bpe, MIXED)
    assert len(bpe.encode(MIXED)) < len(MIXED.encode()), "no merge was applied"


def test_the_merge_learnt_first_goes_first():
    vocab = dict(enumerate([*(bytes([byte]) for byte in range(256)), b"bc", b"ab", b"abc", b"aa"]))
    bpe = BPE(vocab, [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc"), (b"a", b"a")])
    assert bpe.encode("abc") == [258] and bpe.encode("abab") == [257, 257] and bpe.encode("aaa") == [259, 97]


def test_decode_gives_every_text_back(bpe):
    rng = random.Random(5)
    for _ in range(300):
        ranges = [range(0x80), range(0xD800), range(0xE000, 0x110000)]
        text = "".join(chr(rng.choice(rng.choice(ranges))) for _ in range(9))
        assert bpe.decode(bpe.encode(text)) == text
    text = MIXED + "".join(SPECIAL_TOKENS) + MIXED
    assert bpe.decode(bpe.encode(text)) == text == bpe.decode(bpe.encode(text, allow_special=False))
    assert bpe.encode("") == [] and bpe.decode([]) == ""


def test_a_lone_surrogate_is_an_error_with_its_place(bpe):
    stream, train = lambda text: list(bpe.encode_iterable([text])), lambda text: BPE.train([text], 300)
    for call in (bpe.encode, stream, train):
        for text in ("abc\ud83d", "abc\udc80 tail" + "x" * 20_000):
            with pytest.raises(UserError, match="a lone surrogate, '.ud.* after 'abc'"):
                call(text)


def test_bytes_that_are_no_utf8_become_replacement_characters(bpe):
    ids = {token: i for i, token in bpe.vocab.items()}
    for data in (b"a\xffb\xc3", b"\xed\xa0\x80", bytes(range(256))):
        found = [ids[bytes([byte])] for byte in data]
        assert bpe.decode_bytes(found) == data and bpe.decode(found) == data.decode("utf-8", "replace")


def test_a_special_token_that_the_vocabulary_lacks_gets_the_next_id():
    plain = BPE.train(["abab"], 257)
    bpe = BPE(plain.vocab, plain.merges, ["<new>", "<newer>"])
    assert bpe.encode("ab<newer><new>") == [256, 258, 257] and bpe.vocab_size == 259
    assert BPE({7: b"x"}, [], ("<a>",)).special_id("<a>") == 8, "behind the last, where ids are missing"
    assert 257 not in plain.vocab, "the given vocabulary must not change"


def test_the_constructor_refuses_what_cannot_encode(bpe):
    with pytest.raises(UserError, match="b'zzz'"):
        BPE(bpe.vocab, [(b"z", b"zz")])
    expected = r"expected none \(GPT-2's\), or one of \['gpt2, digits apart', 'gpt4'"
    with pytest.raises(UserError, match=f"pattern 'gpt5': {expected}"):
        BPE(bpe.vocab, bpe.merges, pattern="gpt5")


def test_a_byte_without_an_id_is_left_out():
    """As in the Rust library, where its neighbours meet: SmolLM2's vocabulary lacks 21 bytes."""
    lacking = BPE({i: bytes([i]) for i in range(256) if i != 0x04} | {256: b"!?"}, [(b"!", b"?")])
    assert lacking.encode("!\x04? c\x04") == [256, 32, 99]
    ids, places = lacking.encode_located("!\x04?")
    assert ids == [256] and places[0][1] <= 3, "no place beyond the text"


def test_a_very_long_pre_token_comes_back_whole():
    rng = random.Random(7)
    bpe = BPE.train([random_text(rng, "abcd", 9) + " " for _ in range(300)], 600)
    text = random_text(rng, "abcd", 60_000)  # a pass over all of it for each merge would take minutes
    assert bpe.decode(bpe.encode(text)) == text


# Streams


@pytest.mark.parametrize("pattern", [None, *PATTERNS])
def test_a_stream_gives_the_ids_of_the_joined_text_wherever_it_is_cut(monkeypatch, bpe, pattern):
    monkeypatch.setattr(tokenizer, "CHUNK", 4)
    specials = (*SPECIAL_TOKENS, "[SEP][SEP]", "[SEP] x", "[SEP][SEP][SEP]")  # the longest begins as others
    stream = BPE(bpe.vocab, bpe.merges, specials, pattern)
    rng = random.Random(8)
    words = ["they", "'ll", "'", "l", "é", "漢", "12", "!", "[SE", "P]", "\x1c", "don't", "s"]
    words += ["  ", "\n", " ", *specials]
    for _ in range(400):
        text = "".join(rng.choices(words, k=rng.randrange(30)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(12)))
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for allowed in (True, False):
            found = list(stream.encode_iterable(iter(chunks), allowed))
            assert found == stream.encode(text, allowed), f"the cuts {chunks} changed the ids"


def test_a_stream_of_single_characters_keeps_contractions_whole(monkeypatch, bpe):
    monkeypatch.setattr(tokenizer, "CHUNK", 1)
    plain = BPE(bpe.vocab, bpe.merges)
    for before in range(40):
        text = "." * before + "we'll they've I're"
        assert list(plain.encode_iterable(text)) == plain.encode(text), f"{before} dots before a contraction"
    text = "we'll they've  'l [SEP]'r'e\n\n x"
    assert list(bpe.encode_iterable(text)) == bpe.encode(text), "hold back two: ' and l may be 'll"


def test_a_stream_is_cut_into_few_parts(monkeypatch, bpe):
    searched = []
    inner = tokenizer.pre_tokens
    monkeypatch.setattr(tokenizer, "pre_tokens", lambda *given: searched.append(1) or inner(*given))
    list(bpe.encode_iterable(["they say the theme\n"] * 10_000))
    assert len(searched) < 50, "each part is cut for itself: that takes most of the time where they are short"


def test_a_stream_takes_constant_memory(bpe):
    lines = ["they say the theme of them is then, don't they, 12 or 13 cafés\n"] * 100
    list(bpe.encode_iterable(lines))  # fills the cache
    peaks = []
    for n_lines in (1_500, 4_500):
        tracemalloc.start()
        for _ in bpe.encode_iterable(lines[i % 100] for i in range(n_lines)):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 1_000_000, f"a stream takes {max(peaks)} bytes"
    assert peaks[1] < 1.2 * peaks[0] + 50_000, f"the memory grows with the text: {peaks}"


def test_a_stream_searches_a_long_pre_token_a_few_times_only(monkeypatch, bpe):
    searched = []
    monkeypatch.setattr(tokenizer, "CHUNK", 16)
    monkeypatch.setattr(tokenizer, "pre_tokens", lambda text, pattern: searched.append(len(text)) or [text])
    list(bpe.encode_iterable(["a" * 7] * 3000))
    assert sum(searched) < 4 * 21_000, "every chunk searches all that was held back: quadratic"


# Files


def test_save_and_load_keep_the_ids(tmp_path):
    trained, file = BPE.train([MIXED * 2, "café abcabc"], 330, SPECIAL_TOKENS, "gpt4"), tmp_path / "t.json"
    trained.save(file)
    loaded = BPE.load(file)
    assert loaded.pattern == "gpt4", "the pattern was lost: the ids change silently"
    assert (loaded.vocab, loaded.merges) == (trained.vocab, trained.merges)
    assert loaded.encode(MIXED) == trained.encode(MIXED)
    data = json.loads(file.read_text("utf-8"))
    del data["aliases"]
    file.write_text(json.dumps(data))
    assert BPE.load(file).aliases == {}, "a file from before there were aliases"
    file.write_text(json.dumps(data | dict(pattern="(a+)+b")))  # it could search for ever
    with pytest.raises(UserError, match=r"t.json.*pattern '\(a\+\)\+b': expected none"):
        BPE.load(file)


def test_a_file_keeps_every_byte(tmp_path, bpe):
    tokens = [b"\xc3", b"\xa9", b"\xed\xa0\x80", b'\xff\x00"\\', "é\u2028".encode(), b"\\udcff", b"\\x41"]
    vocab = bpe.vocab | {1000 + i: token for i, token in enumerate(tokens)}
    BPE(vocab, bpe.merges).save(tmp_path / "t")
    assert BPE.load(tmp_path / "t").vocab == vocab


def test_damaged_and_foreign_files_are_named(tmp_path, bpe):
    bpe.save(tmp_path / "good.json")
    good = (tmp_path / "good.json").read_text("utf-8")
    data = json.loads(good)
    changes = {
        "another format": {"format": "another"},
        "no vocab": {"vocab": None},
        "an id that is no number": {"vocab": {"x": "a"}},
        "a token that is no text": {"vocab": data["vocab"] | {"9": 7}},
        "a merge of three": {"merges": [["a", "b", "c"]]},
        "an unknown merge": {"merges": [["~", "~~"]]},
        "no pattern": {"pattern": 5},
        "special twice": {"special_tokens": ["[SEP]", "[SEP]"]},
        "foreign": {"version": "1.0"},
    }
    files = {what: json.dumps(data | change).encode() for what, change in changes.items()}
    files |= {"truncated": good[: len(good) // 2].encode(), "empty": b""}
    files |= {"binary": b"\xff\xfe\x00", "list": b"[1]"}
    for what, content in files.items():
        (tmp_path / f"{what}.json").write_bytes(content)
        with pytest.raises(UserError, match=f"{what}.json") as error:
            BPE.load(tmp_path / f"{what}.json")
        assert "\n" not in str(error.value), f"{what}: one line"


def write_gpt2(bpe, folder):
    names = {gpt2_name(token): i for i, token in bpe.vocab.items()}
    lines = ["#version: 0.2", *(f"{gpt2_name(a)} {gpt2_name(b)}" for a, b in bpe.merges), ""]
    (folder / "vocab.json").write_text(json.dumps(names))
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")
    return folder / "vocab.json", folder / "merges.txt"


def test_gpt2_files_give_the_same_tokenizer(tmp_path):
    text = MIXED + "#version: # # \x85\xad" + "".join(map(chr, range(256)))
    plain = BPE.train([text * 2], 450)
    vocab = {449 - i: token for i, token in plain.vocab.items()} | {450: b"<|endoftext|>"}
    trained = BPE(vocab, plain.merges, ["<|endoftext|>"])
    loaded = BPE.from_gpt2(*write_gpt2(trained, tmp_path))
    assert gpt2_name(b" \n") == "ĠĊ", "as in every published vocabulary"
    assert all(tokenizer.token_name(token) == gpt2_name(token) for token in plain.vocab.values())
    assert loaded.vocab == trained.vocab and loaded.merges == trained.merges
    assert loaded.encode(text + "<|endoftext|>") == trained.encode(text) + [450], "<|endoftext|> is special"
    vocab_json, specials = tmp_path / "vocab.json", ["<s>", "<a mask>", "<|endoftext|>"]
    vocab_json.write_text(json.dumps(json.loads(vocab_json.read_text()) | {"<a mask>": 451}))
    named = BPE.from_gpt2(vocab_json, tmp_path / "merges.txt", specials)
    assert [named.special_id(token) for token in specials] == [452, 451, 450], "they stand there as they are"


def test_damaged_gpt2_files_are_named(tmp_path, bpe):
    vocab, merges = write_gpt2(bpe, tmp_path)
    good_vocab, good_merges = vocab.read_text(), merges.read_text("utf-8")
    bad = [(vocab, text) for text in (good_vocab[:500], '{"a b": 1}', "[]")]
    bad += [(merges, text) for text in (good_merges + "1 2 3\n", good_merges + "un known\n", "<html>")]
    for path, text in bad:
        vocab.write_text(good_vocab)
        merges.write_text(good_merges, "utf-8")
        path.write_text(text, "utf-8")
        with pytest.raises(UserError, match="vocab.json.*merges.txt"):
            BPE.from_gpt2(vocab, merges)
    with pytest.raises(UserError, match="nowhere"):
        BPE.from_gpt2(tmp_path / "nowhere.json", merges)


def test_an_id_of_another_type_is_named():
    for wrong in (True, 1.0, "1"):
        with pytest.raises(ValueError, match=f"the id of 'b' is {wrong!r}"):
            BPE.from_names({"a": 0, "b": wrong}, [])
    names = {"a": 0, "b": 1, "ab": 2, "<x>": 3}
    made = BPE.from_names(names, ["#version: 0.2", "a b", ""], added_tokens=("<x>",))
    assert made.encode("ab<x>a") == [2, 3, 0]
