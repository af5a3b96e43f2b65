"""Grades tokenizer/bpe.py against slow references: merges one by one, files that are damaged."""

import json
import os
import random
import tracemalloc
from collections import Counter

import pytest
from slow_tokens import MIXED, random_text, scan

from minilm.plumbing.errors import UserError
from minilm.tokenizer import bpe as tokenizer
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.tokenizer.merges import train_naive


def merge_slowly(bpe, text):
    """Ids of a text without special tokens: in each pre-token, each merge in turn, from left to right."""
    id_of = {
        token: i for i, token in bpe.vocab.items() if i not in {bpe.special_id(t) for t in bpe.special_tokens}
    }
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


# Training


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
    assert bpe.extend(["low"], 5).vocab == bpe.vocab, "no pair is left in a text of known words"


def test_train_counts_texts_of_every_kind():
    rng = random.Random(2)
    for round_ in range(12):
        texts = [random_text(rng, "ab c'é\n" if round_ % 2 else MIXED, rng.randrange(60)) for _ in range(7)]
        size = 256 + len(SPECIAL_TOKENS) + 40
        fast = BPE.train(iter(texts), size, SPECIAL_TOKENS)
        naive = BPE.train(texts, size, SPECIAL_TOKENS, learn=train_naive)
        assert fast.merges == naive.merges and fast.vocab == naive.vocab
        words = Counter(piece.encode() for text in texts for piece in scan(text))
        assert fast.merges == train_naive(words, 40), (
            "each pre-token counts as often as it occurs, in any text"
        )


def test_ids_are_specials_then_bytes_then_merges():
    bpe = BPE.train(["abab abab"], 256 + 2 + 2, ["<s>", "<pad>"])
    start = [b"<s>", b"<pad>", *(bytes([byte]) for byte in range(256))]
    assert [bpe.vocab[i] for i in range(258)] == start
    assert (
        bpe.merges == [(b"a", b"b"), (b"ab", b"ab")] and bpe.vocab[258] == b"ab" and bpe.vocab[259] == b"abab"
    )
    assert bpe.special_tokens == ("<s>", "<pad>") and bpe.vocab_size == len(bpe.vocab) == 260


def test_training_cuts_by_its_own_pattern():
    own = BPE.train(["ab-ab-ab"], 300, pattern="-?ab")
    assert own.merges[-1] == (b"-", b"ab") and len(own.merges) == 2, (
        "the pattern must also cut the training texts"
    )


def test_special_tokens_cut_the_training_text_and_are_not_learnt():
    bpe = BPE.train(["xx[SEP]yy[SEP]xx[SEP]" * 9], 300, ["[SEP]"])
    assert bpe.merges == [(b"x", b"x"), (b"y", b"y")], "no merge reaches into or over a special token"


def test_a_tiny_corpus_gives_a_smaller_vocabulary():
    bpe = BPE.train(["hi hi"], 5000, SPECIAL_TOKENS)
    assert bpe.vocab_size == 256 + 6 + 2 and bpe.decode(bpe.encode("hi there")) == "hi there"
    assert BPE.train([], 300).vocab_size == 256
    assert BPE.train("abc", 258).merges == [(b"b", b"c"), (b"a", b"bc")], (
        "one str is one text, not a list of letters"
    )


@pytest.mark.parametrize(("size", "specials"), [(255, ()), (261, SPECIAL_TOKENS), (0, ()), (-1, ())])
def test_a_vocabulary_too_small_names_the_minimum(size, specials):
    with pytest.raises(UserError, match=f"{size}.*{256 + len(specials)}"):
        BPE.train(["text"], size, specials)
    assert BPE.train(["text"], 256 + len(specials), specials).merges == []


@pytest.mark.parametrize("specials", [["<s>", "<s>"], [""], ["<s>", "x"], "<s>"])
def test_bad_special_tokens(specials):
    with pytest.raises(UserError, match="special token"):
        BPE.train(["text"], 400, specials)


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
        codes = [
            rng.choice([rng.randrange(0x80), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])
            for _ in "123456789"
        ]
        text = "".join(map(chr, codes))
        assert bpe.decode(bpe.encode(text)) == text
    text = MIXED + "".join(SPECIAL_TOKENS) + MIXED
    assert bpe.decode(bpe.encode(text)) == text == bpe.decode(bpe.encode(text, allow_special=False))
    assert bpe.encode("") == [] and bpe.decode([]) == ""
    assert BPE.train([""], 256).encode("\x00a") == [0, 97], "without special tokens the byte 0 has id 0"


def test_every_byte_sequence_comes_back(bpe):
    rng = random.Random(6)
    samples = [
        bytes(range(256)),
        b"",
        b"\xed\xa0\x80 \xed\xb2\x80",
        b"caf\xc3",
        b"\xf0\x9f\x98",
        MIXED.encode(),
    ]
    samples += [rng.randbytes(rng.randrange(60)) for _ in range(200)]
    for data in samples:
        assert bpe.decode_bytes(bpe.encode_bytes(data)) == data
    assert bpe.encode_bytes((MIXED + "[SEP]").encode()) == bpe.encode(MIXED + "[SEP]")
    assert bpe.encode_bytes(b"[SEP]") == [3] and bpe.encode_bytes(b"[SEP]", allow_special=False) != [3]


def test_a_lone_surrogate_is_an_error_with_its_place(bpe):
    for call in (
        bpe.encode,
        lambda text: list(bpe.encode_iterable([text])),
        lambda text: BPE.train([text], 300),
    ):
        for text in ("abc\ud83d", "abc\udc80 tail" + "x" * 20_000):
            with pytest.raises(UserError, match="character 3 is the lone surrogate"):
                call(text)


def test_bytes_that_are_no_utf8_become_replacement_characters(bpe):
    assert bpe.decode(bpe.encode_bytes(b"a\xffb\xc3")) == "a\ufffdb\ufffd"
    assert bpe.decode(bpe.encode_bytes(b"\xed\xa0\x80")).strip("\ufffd") == "", (
        "a surrogate's bytes are no UTF-8"
    )
    cut = bpe.encode("é")[:1] if len(bpe.encode("é")) > 1 else bpe.encode_bytes(b"\xc3")
    assert bpe.decode(cut) == "\ufffd"


def test_ids_from_numpy_and_ids_that_do_not_exist(bpe):
    numpy = pytest.importorskip("numpy")
    assert bpe.decode(numpy.array(bpe.encode("they"), dtype=numpy.int32)) == "they"
    for wrong in (bpe.vocab_size, -1, 10**9):
        with pytest.raises(UserError, match=rf"id {wrong} is not"):
            bpe.decode([5, wrong])
    with pytest.raises(TypeError):
        bpe.decode([3.5])


def test_special_tokens_in_a_text(bpe):
    ids = bpe.encode("[CLS]they[SEP]<|endoftext|>")
    assert ids == [2, *bpe.encode("they"), 3, 5] and bpe.special_id("[CLS]") == 2
    assert not set(bpe.encode("[CLS]they[SEP]", allow_special=False)) & set(range(6)), (
        "specials were not allowed"
    )
    assert bpe.encode("[cls]") == bpe.encode("[cls]", allow_special=False)
    with pytest.raises(UserError, match=r"\[CSL\].*did you mean '\[CLS\]'"):
        bpe.special_id("[CSL]")


def test_the_longest_special_token_wins():
    bpe = BPE.train(["x"], 300, ["<a>", "<a><a>", "<a>b"])
    assert bpe.encode("<a><a><a>b<a>") == [1, 2, 0], (
        "of two special tokens at one place the longer one counts"
    )
    assert bpe.encode("<a> <a>.*") == [0, *bpe.encode(" "), 0, *bpe.encode(".*")]


def test_a_special_token_that_the_vocabulary_lacks_gets_the_next_id():
    plain = BPE.train(["abab"], 257)
    bpe = BPE(plain.vocab, plain.merges, ["<new>", "<newer>"])
    assert bpe.encode("ab<newer><new>") == [256, 258, 257] and bpe.vocab_size == 259
    assert BPE(plain.vocab | {999: b"zz"}, plain.merges).vocab_size == 1000, (
        "an embedding needs a row for each id"
    )
    assert 257 not in plain.vocab, "the vocabulary handed over was changed"


def test_the_constructor_refuses_what_cannot_encode(bpe):
    with pytest.raises(UserError, match=r"b'a'"):
        BPE({i: token for i, token in bpe.vocab.items() if token != b"a"}, [])
    with pytest.raises(UserError, match=r"b'zzz'"):
        BPE(bpe.vocab, [(b"z", b"zz")])
    with pytest.raises(UserError, match="regular expression"):
        BPE(bpe.vocab, bpe.merges, pattern="(a")
    with pytest.raises(UserError, match=r"\\\\p\{L\}"):
        BPE(bpe.vocab, bpe.merges, pattern=r"\p{L}+")


def test_a_very_long_pre_token_comes_back_whole():
    rng = random.Random(7)
    bpe = BPE.train([random_text(rng, "abcd", 9) + " " for _ in range(300)], 600)
    text = random_text(rng, "abcd", 60_000)
    # a pass over the whole pre-token for each merge would take minutes here
    assert bpe.decode(bpe.encode(text)) == text


def test_the_cache_is_bounded(monkeypatch, bpe):
    monkeypatch.setattr(tokenizer, "CACHE", 8)
    small = BPE(bpe.vocab, bpe.merges, bpe.special_tokens)
    text = " ".join(map(str, range(500))) + " again" * 50
    assert small.encode(text) == bpe.encode(text)
    info = small._merge_cached.cache_info()
    assert info.currsize <= 8 and info.hits >= 49, "repeated pre-tokens are remembered, and not all of them"


# Streams


@pytest.mark.parametrize("pattern", [None, r"\w+|\W"])
def test_a_stream_gives_the_ids_of_the_joined_text_wherever_it_is_cut(monkeypatch, bpe, pattern):
    monkeypatch.setattr(tokenizer, "CHUNK", 4)
    specials = (*SPECIAL_TOKENS, "[SEP][SEP]", "[SEP] x")
    stream = BPE(bpe.vocab, bpe.merges, specials, pattern)
    rng = random.Random(8)
    words = [
        "they",
        "'ll",
        "'",
        "l",
        "  ",
        "\n",
        " ",
        "é",
        "漢",
        "12",
        "!",
        *specials,
        "[SE",
        "P]",
        "\x1c",
        "don't",
        "s",
    ]
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
    assert list(bpe.encode_iterable(text)) == bpe.encode(text), (
        'hold back two pre-tokens: "\'", "l" may be "\'ll"'
    )


def test_a_stream_is_read_as_it_is_used(bpe):
    seen = []

    def lines():
        for i in range(10_000):
            seen.append(i)
            yield "they say the theme\n"

    ids = bpe.encode_iterable(lines())
    assert next(ids) == bpe.encode("they say")[0]
    assert len(seen) < 3000, "the whole input was read before the first id"


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


@pytest.mark.parametrize("pattern", [None, r"\S+|\s", "[a-c]+|(.)"])
def test_save_and_load_keep_the_ids(tmp_path, pattern):
    trained = BPE.train([MIXED * 2, "caf\xe9 abcabc"], 330, SPECIAL_TOKENS, pattern)
    trained.save(tmp_path / "tokenizer.json")
    loaded = BPE.load(str(tmp_path / "tokenizer.json"))
    assert loaded.pattern == pattern, "the pattern was lost: the ids change silently"
    assert (loaded.vocab, loaded.merges, loaded.special_tokens) == (
        trained.vocab,
        trained.merges,
        SPECIAL_TOKENS,
    )
    for text in (MIXED, "abcabc, the [SEP] café  \n"):
        assert loaded.encode(text) == trained.encode(text)
    assert BPE.train([MIXED], 330, pattern=r"\S+|\s").encode(MIXED) != BPE.train([MIXED], 330).encode(MIXED)


def test_the_file_is_readable_json_that_keeps_every_byte(tmp_path, bpe):
    tokens = [b"\xc3", b"\xa9", b"\xed\xa0\x80", b'\xff\x00"\\', "é\u2028".encode(), b"\\udcff", b"\\x41"]
    vocab = bpe.vocab | {1000 + i: token for i, token in enumerate(tokens)}
    BPE(vocab, [*bpe.merges, (b"\xc3", b"\xa9")] if "é".encode() in bpe.vocab.values() else bpe.merges).save(
        tmp_path / "t"
    )
    assert BPE.load(tmp_path / "t").vocab == vocab
    text = (tmp_path / "t").read_text("utf-8")
    assert '"they"' in text or '" they"' in text, "tokens stand there as text"
    assert "é\u2028" in text and "\\udcc3" in text, "UTF-8 as itself, a lone byte c3 as \\udcc3"
    assert json.loads(text)["vocab"]["0"] == "[PAD]"


def test_saving_replaces_the_file_at_once_or_not_at_all(tmp_path, bpe, monkeypatch):
    path = tmp_path / "tokenizer.json"
    BPE.train(["old"], 256).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="tokenizer.json.*disk full"):
        bpe.save(path)
    assert path.read_bytes() == before, "the old file must stay whole until the new one is"
    monkeypatch.undo()
    bpe.save(path)
    assert BPE.load(path).vocab == bpe.vocab


def damaged_files(bpe, folder):
    bpe.save(folder / "good.json")
    good = (folder / "good.json").read_text("utf-8")
    data = json.loads(good)
    yield "truncated", good[: len(good) // 2].encode()
    yield "empty", b""
    yield "binary", b"\xff\xfe\x00"
    yield "foreign", b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
    yield "another format", json.dumps(data | {"format": "another"}).encode()
    yield "a list", b"[1, 2]"
    yield "no vocab", json.dumps({k: v for k, v in data.items() if k != "vocab"}).encode()
    yield "an id that is no number", json.dumps(data | {"vocab": {"x": "a"}}).encode()
    yield "a token that is no text", json.dumps(data | {"vocab": data["vocab"] | {"9": 7}}).encode()
    yield "a merge of three", json.dumps(data | {"merges": [["a", "b", "c"]]}).encode()
    yield "an unknown merge", json.dumps(data | {"merges": [["~", "~~"]]}).encode()
    yield "no pattern", json.dumps(data | {"pattern": 5}).encode()
    yield "special twice", json.dumps(data | {"special_tokens": ["[SEP]", "[SEP]"]}).encode()


def test_damaged_and_foreign_files_are_named(tmp_path, bpe):
    for what, content in damaged_files(bpe, tmp_path):
        path = tmp_path / f"{what}.json"
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            BPE.load(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value), (
            f"{what}: name the file, in one line"
        )
    with pytest.raises(UserError, match="missing.json"):
        BPE.load(tmp_path / "missing.json")


# GPT-2's files


def gpt2_name(token):
    """A token as GPT-2's files write it: bytes without a glyph of their own move to U+0100 and on."""
    moved = [byte for byte in range(256) if not (33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte)]
    return "".join(chr(256 + moved.index(byte)) if byte in moved else chr(byte) for byte in token)


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
    assert gpt2_name(b" \n") == "ĠĊ" and loaded.vocab == trained.vocab and loaded.merges == trained.merges
    assert loaded.encode(text + "<|endoftext|>") == trained.encode(text) + [450], "<|endoftext|> is special"
    names = json.loads((tmp_path / "vocab.json").read_text()) | {"<a mask>": 451}
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    specials = ["<s>", "<a mask>", "<|endoftext|>"]
    named = BPE.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt", specials)
    assert [named.special_id(token) for token in specials] == [452, 451, 450], (
        "special tokens stand there as they are"
    )


def test_damaged_gpt2_files_are_named(tmp_path, bpe):
    vocab, merges = write_gpt2(bpe, tmp_path)
    good_vocab, good_merges = vocab.read_text(), merges.read_text("utf-8")
    for bad_vocab, bad_merges in [
        (good_vocab[:500], good_merges),
        ('{"a b": 1}', good_merges),
        ("[]", good_merges),
        (good_vocab, good_merges + "one two three\n"),
        (good_vocab, good_merges + "unknown pair\n"),
        (good_vocab, "<html>"),
    ]:
        vocab.write_text(bad_vocab)
        merges.write_text(bad_merges, "utf-8")
        with pytest.raises(UserError, match="vocab.json.*merges.txt"):
            BPE.from_gpt2(vocab, merges)
    with pytest.raises(UserError, match="nowhere"):
        BPE.from_gpt2(tmp_path / "nowhere.json", merges)
