"""Grades huggingface/tokenizers.py: every layout of files gives the same ids and roles."""

import json

import published
import pytest

from minilm.huggingface.tokenizers import (
    added_tokens,
    aliases,
    check_byte_level,
    known_tokenizer,
    optional_json,
    read_bpe,
    read_tokenizer,
    read_wordpiece,
    special_roles,
    start_alias,
    token_list,
    with_added,
)
from minilm.plumbing.errors import UserError
from minilm.tokenizer.bpe import BPE

TEXT = "Ana sells Bread, résumé <mask> [MASK] 12"


def write(path, **files):
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "bart"])
def test_roles_of_published_bpes(kind, tmp_path):
    folder = published.folder(tmp_path / kind, kind)
    tokenizer, notes = read_tokenizer(folder, {"model_type": kind})
    original = published.bpe(published.SPECIALS[kind])
    assert tokenizer.encode(TEXT) == original.encode(TEXT) and notes == []
    if kind == "gpt2":
        names = {"[CLS]": "<|endoftext|>", "[SEP]": "<|endoftext|>", "[PAD]": "<|endoftext|>"}
        with pytest.raises(UserError, match=r"'\[MASK\]' is no special token here"):
            tokenizer.special_id("[MASK]")
    else:
        names = {
            "[CLS]": "<s>",
            "[SEP]": "</s>",
            "[PAD]": "<pad>",
            "[MASK]": "<mask>",
            "<|endoftext|>": "</s>",
        }
    for ours, theirs in names.items():
        assert tokenizer.special_id(ours) == original.special_id(theirs), ours
    tokenizer.save(tmp_path / "saved.json")
    again = BPE.load(tmp_path / "saved.json")
    assert again.special_id("[SEP]") == tokenizer.special_id("[SEP]"), "roles are kept with the tokenizer"
    assert again.extend(["zzz zzz"], 1).special_id("[SEP]") == tokenizer.special_id("[SEP]")


@pytest.mark.parametrize("pairs", [True, False])
def test_a_bpe_in_one_file(pairs, tmp_path):
    folder = published.folder(tmp_path / "roberta", "roberta")
    ids = json.loads((folder / "vocab.json").read_text())
    merges = [line.split(" ") for line in (folder / "merges.txt").read_text().split("\n")[1:-1]]
    special = [{"id": ids.pop(token), "content": token} for token in published.SPECIALS["roberta"]]
    expected, _ = read_bpe(folder, {}, {}, "roberta")
    (folder / "vocab.json").unlink(), (folder / "merges.txt").unlink()
    model = {"type": "BPE", "vocab": ids, "merges": merges if pairs else [" ".join(pair) for pair in merges]}
    write(folder, tokenizer={"model": model, "pre_tokenizer": {"type": "ByteLevel"}, "added_tokens": special})
    tokenizer, _ = read_tokenizer(folder, {"model_type": "roberta"})
    assert tokenizer.encode(TEXT) == expected.encode(TEXT)
    assert tokenizer.special_id("[MASK]") == expected.special_id("<mask>")


def test_a_wordpiece_in_one_file_or_in_a_list(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    expected, _ = read_tokenizer(folder, {"model_type": "bert"})
    assert expected.tokens == tuple(published.BERT_TOKENS) and expected.special_id("<|endoftext|>") == 4
    (folder / "vocab.txt").unlink()
    vocab = {token: i for i, token in enumerate(published.BERT_TOKENS)}
    write(folder, tokenizer={"model": {"type": "WordPiece", "vocab": vocab}})
    assert read_tokenizer(folder, {"model_type": "bert"})[0].encode(TEXT) == expected.encode(TEXT)


def test_switches_of_tokenizer_config(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    normalizer = {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False}
    one = read_wordpiece(folder, {"normalizer": normalizer}, {})
    assert (one.lower_case, one.strip_accents, one.chinese_characters) == (False, True, False)
    settings = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    two = read_wordpiece(folder, {"normalizer": normalizer}, settings)
    assert (two.lower_case, two.strip_accents, two.chinese_characters) == (True, None, True)
    default = read_wordpiece(folder, {}, {})
    assert (default.lower_case, default.strip_accents, default.chinese_characters) == (True, None, True)


def test_other_names_of_special_tokens(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    write(
        folder,
        special_tokens_map={"mask_token": {"content": "[unused0]"}},
        tokenizer_config={"sep_token": "."},
    )
    tokenizer, _ = read_tokenizer(folder, {"model_type": "bert"})
    assert tokenizer.special_id("[MASK]") == 1 and "[MASK]" not in tokenizer.special_tokens
    assert tokenizer.special_id("[SEP]") == published.BERT_TOKENS.index(".")
    assert special_roles(folder, {"sep_token": "x", "cls_token": None}) == {"mask": "[unused0]", "sep": "x"}


def test_added_tokens(tmp_path):
    folder = published.folder(tmp_path / "roberta", "roberta")
    n = read_bpe(folder, {}, {}, "roberta")[0].vocab_size
    write(folder, added_tokens={"<user>": n})
    tokenizer, _ = read_bpe(folder, {}, {}, "roberta")
    assert tokenizer.encode("a<user>b")[1] == n == tokenizer.special_id("<user>")
    assert added_tokens(folder, {"added_tokens": [{"content": "<x>", "id": 3}]}) == {"<x>": 3, "<user>": n}
    assert with_added(["a"], {"cls": "a"}, {"b": 1}, folder) == (["a", "b"], ["a", "b"])
    with pytest.raises(UserError, match="do not follow"):
        with_added(["a"], {}, {"b": 2}, folder)


def test_a_space_before_every_text_is_said(tmp_path):
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    write(folder, tokenizer_config={"add_prefix_space": True})
    assert "encode(' ' + text)" in read_tokenizer(folder, {"model_type": "gpt2"})[1][0]


def test_spaces_that_a_mask_drops_are_said(tmp_path):
    folder = published.folder(tmp_path / "roberta", "roberta")
    n = read_bpe(folder, {}, {}, "roberta")[0].special_id("[MASK]")
    tokens = [{"id": 0, "content": "<s>", "lstrip": False}, {"id": n, "content": "<mask>", "lstrip": True}]
    write(folder, tokenizer={"added_tokens": tokens})
    notes = read_tokenizer(folder, {"model_type": "roberta"})[1]
    assert notes == ["its tokenizer drops the spaces before <mask>: write none there"]


def test_vocabularies_that_we_do_not_have(tmp_path):
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    (folder / "merges.txt").write_text("#version: 0.2\na\n")
    with pytest.raises(UserError, match="vocab.json: cannot be read as a byte-level BPE"):
        read_tokenizer(folder, {"model_type": "gpt2"})
    (folder / "merges.txt").unlink()
    write(folder, tokenizer={"model": {"type": "Unigram"}})
    with pytest.raises(
        UserError, match="tokenizer.json: a tokenizer of type 'Unigram'; ours are WordPiece and BPE"
    ):
        read_tokenizer(folder, {"model_type": "gpt2"})
    for cutter in ({"type": "Metaspace"}, {"type": "ByteLevel", "use_regex": False}, None):
        with pytest.raises(UserError, match="x: it cuts text by"):
            check_byte_level({"pre_tokenizer": cutter}, "x")
    with pytest.raises(UserError, match="'NFC'"):
        check_byte_level({"pre_tokenizer": {"type": "ByteLevel"}, "normalizer": {"type": "NFC"}}, "x")
    with pytest.raises(UserError, match="the ids of its vocabulary are not 0, 1, 2"):
        token_list({"a": 0, "b": 2}, "x")


def test_where_a_decoder_starts(tmp_path):
    tokenizer, _ = read_tokenizer(published.folder(tmp_path / "bart", "bart"), {"model_type": "bart"})
    assert tokenizer.special_id("[START]") == 2 == tokenizer.special_id("</s>")
    assert start_alias(tokenizer, {"model_type": "bart", "decoder_start_token_id": 0}) == {}, "that is [CLS]"
    assert start_alias(tokenizer, {"model_type": "bart", "decoder_start_token_id": 99}) == {}
    assert start_alias(tokenizer, {"model_type": "roberta"}) == {}, "no decoder"


@pytest.mark.parametrize(
    "whole",
    [
        {"model": [1]},
        {"model": {"type": "WordPiece", "vocab": [["[UNK]", -1.0]]}},
        {"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"type": "BPE", "vocab": {}, "merges": [3]}, "pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0}}, "added_tokens": [{"id": 3}]},
        {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0}}, "normalizer": "x"},
    ],
)
def test_damaged_files_are_named(whole, tmp_path):
    write(tmp_path, tokenizer=whole)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_tokenizer(tmp_path, {"model_type": "bert"})


def test_parts(tmp_path):
    assert token_list({"b": 1, "a": 0}, "x") == ["a", "b"]
    assert optional_json(tmp_path / "none.json") == {}
    assert known_tokenizer(tmp_path, {"model_type": "bert"})[0] is None
    assert aliases({"eos": "</s>", "cls": "[CLS]"}, ["</s>", "[CLS]"]) == {
        **dict.fromkeys(["[SEP]", "[PAD]", "<|endoftext|>"], "</s>")
    }
