"""Grades tokenizer/base.py through both tokenizers: special tokens, decoding, the cache, the file."""

import os
import pickle

import numpy as np
import pytest

from minilm.plumbing.errors import UserError
from minilm.tokenizer import base
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.wordpiece import WordPiece

ALIASES = {"[SEP]": "</s>", "[PAD]": "</s>"}
TOKENS = ["[PAD]", "<s>", "</s>", "</s><s>", "[UNK]", "they", "a", "##b"]
PIECES = ["</s>", "[PAD]", "</s><s>", "<s>", "[UNK]"]


@pytest.fixture(params=[BPE, WordPiece])
def tokenizer(request):
    if request.param is WordPiece:
        return WordPiece(TOKENS, PIECES, ALIASES)
    plain = BPE.train(["they they ab"], 275)
    return BPE(plain.vocab, plain.merges, PIECES, aliases=ALIASES)


def test_a_name_comes_before_an_alias(tokenizer):
    assert tokenizer.special_id("</s>") == tokenizer.special_id("[SEP]")
    assert tokenizer.special_id("[PAD]") != tokenizer.special_id("</s>"), "a token of that name is there"
    with pytest.raises(UserError, match=r"'\[SEPP\]' is not a special token here \(did you mean '\[SEP\]'"):
        tokenizer.special_id("[SEPP]")


def test_an_alias_of_no_special_token():
    pieces = lambda aliases: WordPiece(TOKENS, PIECES, aliases)
    for make in (pieces, lambda aliases: BPE({}, [], (), None, aliases)):
        with pytest.raises(UserError, match=r"alias 'x' stands for 'they', which is not a special token"):
            make({"x": "they"})


def test_special_tokens_in_a_text(tokenizer):
    they, start, end = tokenizer.encode("they"), tokenizer.special_id("<s>"), tokenizer.special_id("</s>")
    assert tokenizer.encode("<s>they</s>they") == [start, *they, end, *they]
    assert not {start, end} & set(tokenizer.encode("<s>they</s>", allow_special=False)), "none were allowed"
    assert tokenizer.encode("</s><s><s>") == [tokenizer.special_id("</s><s>"), start], "longest first"
    assert tokenizer.special_id("[SEP]") not in tokenizer.encode("[SEP]"), "an alias in a text is plain"
    assert tokenizer.encode("<S>") == tokenizer.encode("<S>", allow_special=False), "they have one spelling"


def test_ids_from_numpy_and_ids_that_do_not_exist(tokenizer):
    assert tokenizer.decode(np.array(tokenizer.encode("they they"), dtype=np.int32)).endswith("they they")
    assert tokenizer.decode_bytes(tokenizer.encode("they")).strip() == b"they" and tokenizer.decode([]) == ""
    assert BPE({3: b"a", 9: b"b"}, []).vocab_size == 10, "the greatest id + 1, also where ids are missing"
    for wrong in (tokenizer.vocab_size, -1, 10**9):
        message = rf"id {wrong} is not in the vocabulary of {len(tokenizer.vocab)} ids"
        with pytest.raises(UserError, match=message):
            tokenizer.decode([5, wrong])
    with pytest.raises(TypeError):
        tokenizer.decode([3.5])


def test_the_cache_is_bounded(monkeypatch, tokenizer):
    assert 10_000 < base.CACHE < 100_000, "most words of a text are among so many"
    monkeypatch.setattr(base, "CACHE", 8)
    small = type(tokenizer)(**{name: getattr(tokenizer, name) for name in tokenizer.SAVED})
    text = " ".join(map(str, range(500))) + " again" * 50
    assert small.encode(text) == tokenizer.encode(text)
    info = small._encode_cached.cache_info()
    assert info.currsize <= 8 and info.hits >= 49, "repeated words are remembered, and not all of them"


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    again = type(tokenizer).load(str(tmp_path / "t.json"))
    assert (again.vocab, again.special_tokens, again.aliases) == (tokenizer.vocab, tuple(PIECES), ALIASES)
    assert again.encode("they <s>ab é") == tokenizer.encode("they <s>ab é")
    assert again.aliases is not ALIASES and again.special_id("[SEP]") == tokenizer.special_id("[SEP]")
    other = BPE if type(tokenizer) is WordPiece else WordPiece
    with pytest.raises(UserError, match=f"t.json: cannot be read as a tokenizer .*is not '{other.FORMAT}'"):
        other.load(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError, match="none.json"):
        other.load(tmp_path / "none.json")


def test_saving_replaces_the_file_at_once_or_not_at_all(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    BPE.train(["old"], 256).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="tokenizer.json.*disk full"):
        tokenizer.save(path)
    assert path.read_bytes() == before, "the old file must stay whole until the new one is"


@pytest.mark.parametrize(
    "text", ["\nthey abb,  x ", "they <s>a", "Ana\u0301  sa\u0303o 大字 한국어 q\u0323\u0307"]
)
def test_every_token_knows_its_letters(tokenizer, text):
    ids, places = tokenizer.encode_located(text)
    assert ids == tokenizer.encode(text, allow_special=False) and places == sorted(places)
    read = {i for a, b in places for i in range(a, b)}
    assert read >= {i for i, char in enumerate(text) if not char.isspace()}, "a letter of no token"
    for token, (a, b) in zip(ids, places, strict=True):
        written = tokenizer.vocab[token].decode(errors="ignore").strip()
        told = f"a token stands for {written!r}, its place for {text[a:b]!r}; spaces belong to no place"
        assert text[a:b] in ("", written) or not text.isascii() or written == "[UNK]", told


def test_an_added_token_stands_for_its_own_letters():
    letters = {i: bytes([i]) for i in range(256)}
    tokenizer = BPE(letters | {256: b"<tag>"}, [], added_tokens=("<tag>",))
    ids, places = tokenizer.encode_located("a <tag>b")
    assert ids[-2:] == [256, 98]
    assert places[-2:] == [(2, 7), (7, 8)], "places count from the beginning of the text, not of its part"
    ids, places = tokenizer.encode_located("a<tag>bc d")
    assert ids == tokenizer.encode("a<tag>bc d")
    assert places == [(0, 1), (1, 6), (6, 7), (7, 8), (9, 9), (9, 10)], "what follows it is text again"


@pytest.mark.parametrize("lower_case", [True, False])
def test_an_added_word_is_found_as_the_tokenizer_reads_letters(lower_case):
    pieces = WordPiece([*TOKENS, "<tag>"], PIECES, ALIASES, lower_case, added_tokens=("<tag>",))
    letters = BPE({i: bytes([i]) for i in range(256)} | {256: b"<tag>"}, [], added_tokens=("<tag>",))
    assert pieces.encode("a<tag>")[-1] == len(TOKENS) and letters.encode("a<tag>") == [97, 256]
    assert (pieces.encode("a<TAG>")[-1] == len(TOKENS)) == lower_case and 256 not in letters.encode("a<TAG>")


def test_a_model_may_write_what_a_text_has(tokenizer):
    n, end = tokenizer.vocab_size, tokenizer.special_id("</s>")
    specials = {tokenizer.special_id(token) for token in tokenizer.special_tokens}
    never = tokenizer.never_written(n + 2, end)
    assert {*never} == specials - {end} | {n, n + 1}, "special tokens but the end, and rows without a token"
    assert {*tokenizer.never_written(n, end)} == specials - {end}


def test_how_much_of_a_text_a_model_reads_is_kept_where_it_is_said(tokenizer, tmp_path):
    for longest, ends in ((None, ()), (7, (3, 4))):
        tokenizer.longest, tokenizer.ends = longest, ends
        tokenizer.save(tmp_path / "t.json")
        assert ('"longest"' in (tmp_path / "t.json").read_text(encoding="utf-8")) == (longest is not None)
        read = type(tokenizer).load(tmp_path / "t.json")
        assert (read.longest, read.ends) == (longest, ends), "what the file says, ends as a tuple"
        twin = pickle.loads(pickle.dumps(tokenizer))
        assert (twin.longest, twin.ends) == (longest, ends), "another process reads and writes as this one"


def test_letters_stand_in_the_file_as_they_are(tmp_path):
    BPE({0: "é\u2028".encode(), 1: b"\xff"}, []).save(tmp_path / "t.json")
    written = (tmp_path / "t.json").read_text(encoding="utf-8")
    assert '"é\u2028"' in written and "\\udcff" in written, "people read it; half a letter is escaped"
