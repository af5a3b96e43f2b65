"""Grades tokenizer/base.py: a special token by its name or by an alias."""

import pytest

from minilm.plumbing.errors import UserError
from minilm.tokenizer.base import check_aliases, special_id
from minilm.tokenizer.bpe import BPE

IDS = {"</s>": 2, "[PAD]": 5}
ALIASES = {"[SEP]": "</s>", "[PAD]": "</s>"}


def test_a_name_comes_before_an_alias():
    assert special_id("</s>", IDS, ALIASES) == special_id("[SEP]", IDS, ALIASES) == 2
    assert special_id("[PAD]", IDS, ALIASES) == 5, "a token of that name is there"


def test_a_name_that_is_not_known():
    with pytest.raises(UserError, match=r"'\[SEPP\]' is no special token here \(did you mean '\[SEP\]'"):
        special_id("[SEPP]", IDS, ALIASES)


def test_aliases_are_checked_and_copied():
    given = {"[SEP]": "</s>"}
    found = check_aliases(given, ["</s>"])
    assert found == given and found is not given and check_aliases(None, []) == {}
    with pytest.raises(UserError, match=r"alias '\[SEP\]' stands for '</s>', which is no special token"):
        check_aliases(given, ["<s>"])


def test_a_bpe_keeps_its_aliases(tmp_path):
    plain = BPE.train(["a b"], 258, ["<s>", "</s>"])
    bpe = BPE(plain.vocab, plain.merges, plain.special_tokens, aliases={"[CLS]": "<s>"})
    assert bpe.special_id("[CLS]") == bpe.special_id("<s>") == 0
    assert bpe.encode("[CLS]") == plain.encode("[CLS]"), "in a text an alias is nothing special"
    bpe.save(tmp_path / "tokenizer.json")
    assert BPE.load(tmp_path / "tokenizer.json").special_id("[CLS]") == 0
    assert bpe.extend(["ab ab"], 1).aliases == bpe.aliases
    text = (tmp_path / "tokenizer.json").read_text("utf-8").replace('"aliases"', '"other"')
    (tmp_path / "old.json").write_text(text, encoding="utf-8")
    assert BPE.load(tmp_path / "old.json").aliases == {}, "a file from before there were aliases"
