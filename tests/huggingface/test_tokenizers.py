"""Grades huggingface/tokenizers.py: every layout of files gives the same ids and roles."""

import json

import published
import pytest

from minilm.huggingface import tokenizers
from minilm.huggingface.exporting import write_tokenizer
from minilm.huggingface.tokenizers import read_bpe, read_tokenizer, roles_and_added, specials_and_aliases
from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError

TEXT = "Ana sells Bread, résumé <mask> [MASK] 12"
BERT, GPT2, ROBERTA, BART = ({"model_type": kind} for kind in ("bert", "gpt2", "roberta", "bart"))
BYTES = {"type": "ByteLevel"}
AS_BYTES = {"pre_tokenizer": BYTES}
AS_BERT = {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}}


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
        names = dict.fromkeys(("[CLS]", "[SEP]", "[PAD]"), "<|endoftext|>")
        with pytest.raises(UserError, match=r"'\[MASK\]' is not a special token here"):
            tokenizer.special_id("[MASK]")
    else:
        names = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>"}
        names["<|endoftext|>"] = "</s>"
    for ours, theirs in names.items():
        assert tokenizer.special_id(ours) == original.special_id(theirs), ours
    assert tokenizer.extend(["zzz zzz"], 1).aliases == tokenizer.aliases, "roles are kept"


@pytest.mark.parametrize("pairs", [True, False])
def test_a_bpe_in_one_file(pairs, tmp_path):
    folder = published.folder(tmp_path / "roberta", "roberta")
    ids = json.loads((folder / "vocab.json").read_bytes())
    merges = (folder / "merges.txt").read_text("utf-8").split("\n")[1:-1]
    special = [{"id": ids.pop(token), "content": token} for token in published.SPECIALS["roberta"]]
    expected, _ = read_bpe(folder, {}, {}, ROBERTA)
    (folder / "vocab.json").unlink(), (folder / "merges.txt").unlink()
    model = {"type": "BPE", "vocab": ids, "merges": [line.split(" ") for line in merges] if pairs else merges}
    whole = {"model": model, "pre_tokenizer": BYTES, "added_tokens": special}
    write(folder, tokenizer=whole | ({"normalizer": {"type": "NFC"}} if pairs else {}))
    tokenizer, notes = read_tokenizer(folder, ROBERTA)
    assert any("NFC" in note for note in notes) == pairs, "what ours does not do is told"
    assert tokenizer.encode(TEXT) == expected.encode(TEXT)
    assert tokenizer.special_id("[MASK]") == expected.special_id("<mask>")


def test_a_wordpiece_in_one_file_or_in_a_list(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    with open(folder / "vocab.txt", "a", encoding="utf-8", newline="") as file:
        file.write("\u2028\na\u0085\r\n")
    expected, _ = read_tokenizer(folder, BERT)
    more = ("\u2028", "a\u0085")  # lines end with a line feed and with nothing else
    assert expected.tokens == (*published.BERT_TOKENS, *more) and expected.special_id("<|endoftext|>") == 4
    (folder / "vocab.txt").unlink()
    vocab = {token: i for i, token in reversed(list(enumerate(expected.tokens)))}
    write(folder, tokenizer={"model": {"type": "WordPiece", "vocab": vocab}} | AS_BERT)
    again = read_tokenizer(folder, BERT)[0]
    assert again.tokens == expected.tokens and again.encode(TEXT) == expected.encode(TEXT)


def test_switches_of_tokenizer_config(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    normalizer = {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False}
    settings = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    for whole, said, expected in (
        ({"normalizer": normalizer}, {}, (False, True, False)),
        ({"normalizer": normalizer}, settings, (True, None, True)),
        ({}, {}, (True, None, True)),
    ):
        found = tokenizers.read_wordpiece(folder, whole, said)
        assert (found.lower_case, found.strip_accents, found.chinese_characters) == expected


def test_other_names_of_special_tokens(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    write(folder, special_tokens_map={"mask_token": {"content": "[unused0]"}})
    write(folder, tokenizer_config={"sep_token": "."})
    tokenizer, _ = read_tokenizer(folder, BERT)
    assert tokenizer.special_id("[MASK]") == 1 and "[MASK]" not in tokenizer.special_tokens
    assert tokenizer.special_id("[SEP]") == published.BERT_TOKENS.index(".")
    said = {"sep_token": "x", "cls_token": None, "unk_token": "", "bos_token": 5}
    roles = roles_and_added(folder, {}, said, {"pad": "p", "sep": "s"})[0]
    assert roles == {"mask": "[unused0]", "sep": "x", "pad": "p"}
    known, aliases = {"</s>", "[CLS]", "d", "e"}, dict.fromkeys(["[SEP]", "[PAD]", "<|endoftext|>"], "</s>")
    found = specials_and_aliases({"eos": "</s>", "bos": "</s>", "cls": "[CLS]", "mask": "m"}, {"d": 1}, known)
    assert found == (["</s>", "[CLS]", "d"], aliases), "those that play a role, then those that were added"


def test_added_tokens(tmp_path):
    folder = published.folder(tmp_path / "roberta", "roberta")
    n = read_bpe(folder, {}, {}, ROBERTA)[0].vocab_size
    write(folder, added_tokens={"<user>": n})
    tokenizer, _ = read_bpe(folder, {}, {}, ROBERTA)
    assert tokenizer.encode("a<user>b")[1] == n
    whole = {"added_tokens": [{"content": "<x>", "id": 3}]}
    _, added, words = roles_and_added(folder, whole, {}, {})
    assert added == {"<x>": 3, "<user>": n} and words == ["<user>"], "what a file lists is special by default"
    folder, n = published.folder(tmp_path / "bert", "bert"), len(published.BERT_TOKENS)
    write(folder, added_tokens={"<b>": n + 1, "<a>": n})
    tokenizer, _ = read_tokenizer(folder, BERT)
    assert tokenizer.tokens[n:] == ("<a>", "<b>") and tokenizer.encode("the <b>")[-1] == n + 1
    write(folder, added_tokens={"<b>": n + 1})
    with pytest.raises(UserError, match="are not 0, 1, 2"):
        read_tokenizer(folder, BERT)


@pytest.mark.parametrize("kind, text", [("gpt2", "breadcovid-x, Ana"), ("bert", "bread Covid-X, ana")])
def test_an_added_word_is_one_token_of_a_text(kind, text, tmp_path):
    folder = published.folder(tmp_path / kind, kind)
    plain, _ = read_tokenizer(folder, {"model_type": kind})
    n = plain.vocab_size
    write(folder, tokenizer={"added_tokens": [dict(content="covid-x", id=n, special=False)]})
    write(folder, added_tokens={"covid-x": n, "<new>": n + 1})
    write(folder, tokenizer_config={"additional_special_tokens": ["<new>"]})
    found, _ = read_tokenizer(folder, {"model_type": kind})
    ids = found.encode(text + "<new>", allow_special=False)
    assert len(plain.encode("covid-x")) > 5 and ids.count(n) == 1, "an added word is one token"
    assert n + 1 not in ids, "a special token is read in a text"
    assert "covid-x," in found.decode(ids) and {n, n + 2} - {*found.never_written(n + 3, 0)} == {n}
    found.save(tmp_path / "saved.json")
    (tmp_path / "out").mkdir()
    write_tokenizer(found, tmp_path / "out", PRESETS["gpt2"])
    for again in type(found).load(tmp_path / "saved.json"), read_tokenizer(tmp_path / "out", BERT)[0]:
        assert again.added_tokens == ("covid-x",) and again.encode(text) == found.encode(text), "lost"


def test_what_is_otherwise_there_is_said(tmp_path):
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    write(folder, tokenizer_config={"add_prefix_space": True})
    assert "encode(' ' + text)" in read_tokenizer(folder, GPT2)[1][0]
    model = {"type": "BPE", "vocab": json.loads((folder / "vocab.json").read_text()), "merges": []}
    cutter = BYTES | {"add_prefix_space": True}
    for form in (cutter, {"type": "Sequence", "pretokenizers": [cutter]}):  # one step: a text has one piece
        write(folder, tokenizer_config={}, tokenizer={"model": model, "pre_tokenizer": form})
        assert "encode(' ' + text)" in "".join(read_tokenizer(folder, GPT2)[1]), f"not told of {form}"
    folder = published.folder(tmp_path / "roberta", "roberta")
    n = read_bpe(folder, {}, {}, ROBERTA)[0].special_id("[MASK]")
    for switch in ("lstrip", "rstrip"):
        tokens = [{"id": 0, "content": "<s>", switch: False}, {"id": n, "content": "<mask>", switch: True}]
        write(folder, tokenizer={"added_tokens": tokens})
        told = "its tokenizer drops the spaces beside <mask>: write none there"
        assert read_tokenizer(folder, ROBERTA)[1] == [told]
    folder, n = published.folder(tmp_path / "bert", "bert"), len(published.BERT_TOKENS)
    tokens = [{"id": n, "content": "covid", "single_word": True, "special": False}]
    write(folder, tokenizer={"added_tokens": tokens}, added_tokens={"covid": n})
    assert "finds covid only as a whole word" in read_tokenizer(folder, BERT)[1][0]


def test_an_added_token_of_two_bytes_is_special_and_a_byte_is_not(tmp_path):
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    ids = json.loads((folder / "vocab.json").read_text())
    write(folder, added_tokens={"§": len(ids), "!": ids["!"]})
    write(folder, special_tokens_map={"additional_special_tokens": ["§", "!"]})
    tokenizer, _ = read_tokenizer(folder, GPT2)
    assert "§" in tokenizer.special_tokens and "!" not in tokenizer.special_tokens
    assert tokenizer.encode("a!§")[1:] == [ids["!"], len(ids)]


def test_where_a_decoder_starts(tmp_path):
    folder = published.folder(tmp_path / "bart", "bart")
    tokenizer, _ = read_tokenizer(folder, BART)
    assert tokenizer.special_id("[START]") == 2 == tokenizer.special_id("</s>")
    for values in (BART | {"decoder_start_token_id": 0}, BART | {"decoder_start_token_id": 99}, ROBERTA):
        assert "[START]" not in read_tokenizer(folder, values)[0].aliases, "[CLS], no token, no decoder"
    assert read_tokenizer(folder, {"model_type": "blenderbot"})[0].special_id("[START]") == 1, "by its class"


@pytest.mark.parametrize(("kind", "eos", "end"), [
    ("gpt2", "<|im_end|>", "<|im_end|>"), ("gpt2", "<nowhere>", None), ("roberta", "</s>", None),
])  # fmt: skip
def test_where_a_model_talks_in_turns_their_end_is_known(kind, eos, end, tmp_path):
    folder = published.folder(tmp_path / kind, kind)
    n = read_tokenizer(folder, {"model_type": kind})[0].vocab_size
    write(folder, added_tokens={"<|im_start|>": n, "<|im_end|>": n + 1}, tokenizer_config={"eos_token": eos})
    write(folder, special_tokens_map={"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer, _ = read_tokenizer(folder, {"model_type": kind})
    assert tokenizer.aliases.get("[EOS]") == end


def test_how_text_is_cut_is_known_by_the_steps_of_the_file():
    byte_level = lambda use: {"type": "ByteLevel", "use_regex": use}
    digits = lambda apart: {"type": "Digits", "individual_digits": apart}
    split = {"type": "Split", "pattern": {"Regex": tokenizers._GPT4}}
    each = {"type": "Split", "pattern": {"Regex": tokenizers._GPT4.replace("{1,3}", "")}}
    known = {None: [byte_level(True)], "gpt2, digits apart": [digits(True), byte_level(True)]}
    known |= {"gpt4": [split, byte_level(False)], "gpt4, digits apart": [each, byte_level(False)]}
    cut = lambda *steps: tokenizers.cut_by(
        {"model": {}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps]}}
    )
    assert [cut(*steps) for steps in known.values()] == [(name, []) for name in known]
    for other in ([byte_level(False)], [digits(False), byte_level(True)], [split, byte_level(True)]):
        with pytest.raises(UserError, match="it cuts text by"):
            cut(*other)
    with pytest.raises(UserError, match="a space before each piece"):
        cut(digits(True), byte_level(True) | {"add_prefix_space": True})


PIECES, BPE_MODEL = {"type": "WordPiece", "vocab": {"[UNK]": 0}}, {"type": "BPE"}


@pytest.mark.parametrize(("whole", "message"), [
    ({"model": [1]}, "damaged"),
    (AS_BERT | {"model": {"type": "WordPiece", "vocab": [["[UNK]", -1.0]]}}, "damaged"),
    (AS_BYTES | {"model": BPE_MODEL | {"vocab": {}}}, "damaged"),
    (AS_BYTES | {"model": BPE_MODEL | {"vocab": {}, "merges": [3]}}, "damaged"),
    (AS_BERT | {"model": PIECES, "added_tokens": [{"id": 3}]}, "damaged"),
    ({"model": PIECES, "normalizer": "x"}, "damaged"),
    (AS_BERT | {"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 2}}}, "are not 0, 1, 2"),
    (AS_BERT | {"model": PIECES | {"continuing_subword_prefix": "@@"}}, "prepares text by .*'@@'"),
    # a step that is not there is none, and not BERT's: "The" stays as it is
    (AS_BERT | {"model": PIECES, "normalizer": None}, "prepares text by .*None.*BertNormalizer"),
    (AS_BERT | {"model": PIECES, "pre_tokenizer": None}, "prepares text by .*None.*BertPreTokenizer"),
    ({"model": PIECES, "normalizer": {"type": "Lowercase"}}, "text by .*'Lowercase'.*BertNormalizer"),
    (AS_BERT | {"model": PIECES, "pre_tokenizer": {"type": "Whitespace"}}, "text by .*'Whitespace'"),
    ({"model": {"type": "Unigram"}}, "of type 'Unigram'; only WordPiece and BPE are supported"),
    ({"model": BPE_MODEL}, "it cuts text by .*None"),
    ({"model": BPE_MODEL, "pre_tokenizer": {"type": "Metaspace"}}, "it cuts text by .*'Metaspace'"),
    ({"model": BPE_MODEL, "pre_tokenizer": BYTES | {"use_regex": False}}, "it cuts text by"),
    (AS_BYTES | {"model": BPE_MODEL, "normalizer": {"type": "NFKC"}}, "'NFKC'"),
    (AS_BYTES | {"model": BPE_MODEL | {"ignore_merges": True}}, "ignore_merges"),
    (AS_BYTES | {"model": BPE_MODEL | {"end_of_word_suffix": "</w>"}}, "end_of_word"),
    (AS_BYTES | {"model": BPE_MODEL | {"dropout": 0.1}}, "dropout"),
])  # fmt: skip
def test_damaged_and_foreign_files_are_named(whole, message, tmp_path):
    write(tmp_path, tokenizer=whole)
    with pytest.raises(UserError, match=f"^{tmp_path}: vocab.txt.* cannot be read: .*{message}"):
        read_tokenizer(tmp_path, BERT)
    for name, content in (("merges.txt", "#version: 0.2\na\n"), ("vocab.json", '{"a": 0}')):
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path}: vocab.txt.* cannot be read"):
        read_tokenizer(tmp_path, GPT2)


def test_no_files(tmp_path):
    nothing = None, ["no vocabulary in it, so texts cannot be read"]
    assert read_tokenizer(tmp_path, BERT) == nothing
    for name in ("vocab.json", "merges.txt"):
        folder = published.folder(tmp_path / name, "gpt2")
        (folder / name).unlink()
        assert read_tokenizer(folder, GPT2) == nothing, f"a BPE without its {name}"
