"""Grades huggingface/vocabulary_files.py: our tokenizers in the files of others."""

import json

import pytest

from minilm.huggingface.tokenizers import read_tokenizer
from minilm.huggingface.vocabulary_files import roles_of, rust_tokenizer, template, write_tokenizer
from minilm.plumbing.errors import UserError
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS, token_name
from minilm.tokenizer.wordpiece import WordPiece

TEXT = "a b ab\n[SEP] é漢"
FRAME = ("[CLS]", "[SEP]")


@pytest.fixture(scope="module")
def bpe():
    return BPE.train(["ab ab abc é"], 275, SPECIAL_TOKENS)


def test_a_bpe_there_and_back(bpe, tmp_path):
    write_tokenizer(bpe, tmp_path, FRAME, 77)
    again, notes = read_tokenizer(tmp_path, {"model_type": "bert"})
    assert again.encode(TEXT) == bpe.encode(TEXT) and notes == []
    assert [again.special_id(token) for token in SPECIAL_TOKENS] == [
        bpe.special_id(token) for token in SPECIAL_TOKENS
    ]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 77


def test_the_file_of_the_rust_library(bpe):
    data = rust_tokenizer(bpe, FRAME)
    assert data["model"]["vocab"]["[MASK]"] == bpe.special_id("[MASK]")
    assert len(data["model"]["vocab"]) == bpe.vocab_size
    assert data["model"]["merges"][0] == [token_name(token) for token in bpe.merges[0]]
    assert [entry["content"] for entry in data["added_tokens"]] == list(SPECIAL_TOKENS)
    assert data["pre_tokenizer"]["add_prefix_space"] is False, "our encode adds none"


def test_what_stands_around_texts(bpe):
    rule = template(bpe, FRAME)
    names = [next(iter(part.values()))["id"] for part in rule["pair"]]
    assert names == ["[CLS]", "A", "[SEP]", "B", "[SEP]"]
    assert [next(iter(part.values()))["type_id"] for part in rule["pair"]] == [0, 0, 0, 1, 1]
    assert rule["special_tokens"]["[SEP]"]["ids"] == [bpe.special_id("[SEP]")]
    assert template(bpe, (None, None)) is None
    assert [next(iter(part.values()))["id"] for part in template(bpe, (None, "[SEP]"))["single"]] == [
        "A",
        "[SEP]",
    ]
    other = BPE.train(["a"], 260, ["<s>", "</s>"])
    other.aliases = {"[CLS]": "<s>", "[SEP]": "</s>"}
    assert template(other, FRAME)["single"][0] == {"SpecialToken": {"id": "<s>", "type_id": 0}}


def test_roles(bpe):
    roles = roles_of(bpe)
    assert roles["pad_token"] == "[PAD]" and roles["mask_token"] == "[MASK]" and roles["eos_token"] == "[SEP]"
    gpt2 = BPE({**bpe.vocab, 300: b"<|end|>"}, bpe.merges, ["<|end|>"], aliases={"<|endoftext|>": "<|end|>"})
    assert roles_of(gpt2) == {"eos_token": "<|end|>"}


def test_a_wordpiece_there_and_back(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "##c", "\u2028", "é"]
    wordpiece = WordPiece(tokens, lower_case=False, strip_accents=True, chinese_characters=False)
    write_tokenizer(wordpiece, tmp_path, FRAME, 9)
    again, _ = read_tokenizer(tmp_path, {"model_type": "bert"})
    assert again.tokens == wordpiece.tokens
    assert (again.lower_case, again.strip_accents, again.chinese_characters) == (False, True, False)


def test_a_pattern_of_its_own_is_refused(tmp_path):
    with pytest.raises(UserError, match="pattern of its own"):
        write_tokenizer(BPE.train(["a"], 256, pattern=r"\w+"), tmp_path, FRAME, 9)
