"""Grades huggingface/exporting.py: what was read comes back; what has no equivalent is refused."""

from dataclasses import asdict, replace

import published
import pytest
import torch

import minilm
from minilm.huggingface import exporting
from minilm.huggingface.exporting import export_model, rust_tokenizer, special_ids, target, write_tokenizer
from minilm.huggingface.tokenizers import read_tokenizer
from minilm.model.config import PRESETS, ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_json, write_json
from minilm.plumbing.safetensors import read_tensors
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS, token_name
from minilm.tokenizer.rows import text_end
from minilm.tokenizer.wordpiece import WordPiece

SIZES = dict(vocab_size=270, d_model=12, n_head=3, d_ff=20, max_positions=9)


def small(name: str, **changes) -> ModelConfig:
    """Return a preset at a small size."""
    config = asdict(PRESETS[name]) | SIZES
    two = {name: min(2, config[name]) for name in ("n_encoder_layer", "n_decoder_layer")}
    return ModelConfig(**config | two | changes)


@pytest.fixture(scope="module")
def bpe():
    return BPE.train(["a b c ab"], 270, SPECIAL_TOKENS)


@pytest.mark.parametrize("kind", published.CONFIGS)
def test_a_published_model_comes_back_as_it_was(kind, tmp_path):
    folder = published.folder(tmp_path / "published", kind)
    export_model(*minilm.load(folder), tmp_path / "back")
    config = read_json(tmp_path / "back" / "config.json")
    assert config["model_type"] == kind
    known = read_json(folder / "config.json")
    assert known.items() <= {**config, "n_ctx": known.get("n_ctx")}.items()
    before, after = (read_tensors(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    for name, tensor in after.items():
        original = before.get(name, before.get(name.removeprefix("transformer.")))
        if kind == "roberta" and ("position" in name or "token_type" in name):
            continue  # the one row of segments has gone into the positions
        if "embed_positions" in name:
            tensor, original = tensor[2:], original[2:]  # nobody uses the first two
        assert torch.equal(tensor, original), name
    one, two = minilm.load(folder)[0], minilm.load(tmp_path / "back")[0]
    ids = torch.tensor([[5, 6, 7, 8]])
    decoder_ids = ids[:, 1:] if kind == "bart" else None
    difference = one(ids, decoder_input_ids=decoder_ids) - two(ids, decoder_input_ids=decoder_ids)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize(("name", "changes", "kind"), [
    ("gpt-tiny", {}, "gpt2"),
    ("gpt-tiny", dict(positions="sinusoidal", position_offset=1), "gpt2"),
    ("gpt-tiny", dict(n_kv_head=3, d_head=4), "gpt2"),  # the widths of any model
    ("llama-tiny", dict(n_kv_head=1), "llama"),
    ("llama-tiny", dict(n_kv_head=None, d_head=6, tie_embeddings=False), "llama"),
    ("llama-tiny", dict(n_kv_head=1, biases="qkv", rope_theta=30.0), "qwen2"),
    ("llama-tiny", dict(n_kv_head=1, d_head=6, qk_norm=True), "qwen3"),
    ("bert-tiny", dict(head_transform=True), "megatron-bert"),
    ("distilbert-tiny", dict(head_transform=True, positions="sinusoidal"), "megatron-bert"),
    ("bart-tiny", dict(positions="learned"), "blenderbot"),
    ("transformer-tiny", {}, "blenderbot"),
    ("transformer-base", dict(embedding_norm=True), "bart"),
    ("bert-base", dict(n_segments=0), "bert"),
    ("bert-base", dict(tie_embeddings=False), "bert"),
    ("distilbert", {}, "distilbert"),
    ("distilbert", dict(norm_eps=1e-5), "bert"),
])  # fmt: skip
def test_our_models_come_back_with_their_numbers(name, changes, kind, bpe, tmp_path):
    model = build(small(name, **changes)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    export_model(model, bpe, tmp_path / "out")
    assert read_json(tmp_path / "out" / "config.json")["model_type"] == kind
    again, tokenizer = minilm.load(tmp_path / "out")
    ids = torch.tensor([[5, 6, 7, 8]])
    decoder_ids = ids[:, 1:] if model.config.kind == "encoder-decoder" else None
    found, expected = (m(ids, decoder_input_ids=decoder_ids) for m in (again, model))
    assert (found - expected).abs().max() < 1e-5
    assert tokenizer.encode("abc [SEP] é") == bpe.encode("abc [SEP] é")


@pytest.mark.parametrize(("name", "changes", "flags"), [
    ("bart-tiny", {}, "--positions learned"),
    ("transformer-base", {}, "--embedding-norm"),
    ("gpt2", dict(norm="post"), "--norm pre --final-norm --no-embedding-norm"),
    ("gpt-tiny", dict(head_transform=True, head_bias=True), "--no-head-transform --no-head-bias"),
    ("gpt-tiny", dict(n_decoder_layer=1, head_transform=True), "--no-head-transform"),
    ("llama-tiny", dict(n_kv_head=1, gated=False, norm_kind="layer"), "--norm-kind rms --gated"),
    ("llama-tiny", dict(n_kv_head=1, biases="all"), "--biases none"),
    ("llama-tiny", dict(n_kv_head=1, biases="qkv", qk_norm=True), "--no-qk-norm"),
    ("gpt-tiny", dict(qk_norm=True), "--no-qk-norm"),
    ("gpt-tiny", dict(norm_kind="rms", gated=True), "--norm-kind layer --no-gated"),
    ("gpt-tiny", dict(biases="qkv"), "--biases all"),
    ("gpt-tiny", dict(n_kv_head=1, d_head=10), "--n-kv-head 3 --d-head 4"),
    ("gpt-tiny", dict(d_head=5), "--d-head 4"),
    ("gpt-tiny", dict(scale_embeddings=True), "--no-scale-embeddings"),
    ("bert-tiny", dict(final_norm=False, embedding_norm=True), "--no-embedding-norm --final-norm"),
    ("bert-base", dict(final_norm=True), "--no-final-norm"),
    ("transformer-tiny", dict(tie_embeddings=False), "--tie-embeddings"),
    ("bart-base", dict(norm_eps=1e-6), "--norm-eps 1e-5"),
    ("bart-base", dict(n_segments=1), "--n-segments 0"),
    ("bart-base", dict(pooler=True), "--no-pooler --no-next-sentence"),
])  # fmt: skip
def test_what_has_no_equivalent_is_refused_with_the_flags_that_help(name, changes, flags, bpe):
    with pytest.raises(UserError) as caught:
        target(small(name, **changes), bpe, "runs/x")
    message = str(caught.value)
    assert message.startswith("runs/x: transformers has no") and f"with {flags} can be exported" in message
    for flag in flags.split(" --"):
        field, _, value = flag.removeprefix("--").replace("-", "_").partition(" ")
        value = int(value) if value.isdigit() else value
        value = 1e-5 if field == "norm_eps" else not field.startswith("no_") if value == "" else value
        changes = changes | {field.removeprefix("no_"): value}
    assert target(small(name, **changes), bpe, "runs/x"), "the flags do help"


def test_an_encoder_without_the_dense_layer_goes_without_its_head(bpe, tmp_path, capsys):
    notes = export_model(build(small("bert-tiny")), bpe, tmp_path / "out")
    assert len(notes) == 1 and "--head-transform" in notes[0] and notes[0] in capsys.readouterr().err
    tensors = read_tensors(tmp_path / "out" / "model.safetensors")
    assert not any(name.startswith("cls.predictions") for name in tensors)
    assert "cls.seq_relationship.weight" in tensors
    notes = export_model(build(small("distilbert-tiny")), bpe, tmp_path / "out2")
    assert any("no pooler" in note for note in notes)


def test_an_untied_head_has_its_bias_twice():
    for tied in (True, False):
        tensors, _ = exporting.their_tensors(build(small("bert-base", tie_embeddings=tied)), "bert")
        assert ("cls.predictions.decoder.bias" in tensors) != tied, "there the one inside the head is added"
    assert tensors["cls.predictions.decoder.bias"] is tensors["cls.predictions.bias"]


def test_a_bias_that_ours_lacks_is_zero_there():
    tensors, _ = exporting.their_tensors(build(small("transformer-tiny")), "blenderbot")
    assert torch.equal(tensors["final_logits_bias"], torch.zeros(1, SIZES["vocab_size"]))


def test_nothing_is_overwritten(bpe, tmp_path):
    (tmp_path / "empty").mkdir()
    export_model(build(small("gpt-tiny")), bpe, tmp_path / "empty")
    (tmp_path / "mine").write_text("x")
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UserError, match=f"{taken} exists already"):
            export_model(build(small("gpt-tiny")), bpe, taken)


@pytest.mark.parametrize("objective", ["translation", "masked", "causal"])
def test_a_run_folder(objective, bpe, tmp_path):
    name = dict(translation="transformer-tiny", masked="bert-base", causal="gpt-tiny")[objective]
    minilm.save(build(small(name)), bpe, tmp_path / "run")
    write_json(tmp_path / "run" / "settings.json", dict(objective=objective, out="translation"))
    minilm.export(tmp_path / "run", tmp_path / "out")
    rule = read_json(tmp_path / "out" / "tokenizer.json")["post_processor"]
    around = [] if rule is None else [part["SpecialToken"]["id"] for part in rule["single"][::2]]
    assert around == ([] if objective == "causal" else ["[CLS]", "[SEP]"]), "as the model had it in training"


def test_which_post_norm_encoder(bpe):
    offset = small("distilbert", position_offset=bpe.special_id("[PAD]") + 1)
    far = replace(offset, position_offset=4)
    for config, tokenizer, kind in (
        (small("distilbert"), bpe, "distilbert"),
        (small("distilbert"), None, "distilbert"),
        (small("bert-base"), BPE.train([], 256), "bert"),  # without padding
        (offset, bpe, "roberta"),
        (far, bpe, "distilbert"),  # positions are told by the padding
        (far, None, "roberta"),
    ):
        assert target(config, tokenizer, "x") == kind


def test_special_ids(bpe):
    plain = BPE.train([], 256)
    found = [exporting.optional_id(tokenizer, "[PAD]") for tokenizer in (bpe, plain, None)]
    assert found == [bpe.special_id("[PAD]"), None, None]
    cls, sep, pad, end = map(bpe.special_id, ("[CLS]", "[SEP]", "[PAD]", "<|endoftext|>"))
    ids = dict(bos_token_id=end, eos_token_id=end, pad_token_id=pad)
    assert special_ids(bpe, "gpt2", small("gpt2")) == ids
    ids = special_ids(bpe, "bart", small("bart-base"))
    assert ids["decoder_start_token_id"] == cls == ids["bos_token_id"] and ids["eos_token_id"] == sep
    assert ids["forced_eos_token_id"] is None
    bart = BPE(bpe.vocab, bpe.merges, SPECIAL_TOKENS, aliases={"[START]": "[SEP]"})
    assert special_ids(bart, "bart", small("bart-base"))["decoder_start_token_id"] == sep
    assert special_ids(None, "roberta", small("distilbert", position_offset=2)) == {"pad_token_id": 1}
    assert special_ids(plain, "bert", small("bert-base"))["eos_token_id"] is None


def test_positions_of_bart_begin_with_two_that_nobody_uses():
    model = build(small("bart-base", position_offset=1))
    rows = exporting.their_tensors(model, "bart")[0]["model.decoder.embed_positions.weight"]
    assert torch.equal(rows[2:], model.decoder.embeddings.position.weight[1:]) and rows[:2].eq(0).all()


# Tokenizers


def test_a_bpe_there_and_back(bpe, tmp_path):
    write_tokenizer(bpe, tmp_path, small("bert-base", max_positions=77))
    again, notes = read_tokenizer(tmp_path, {"model_type": "bert"})
    text, ids = "a b ab\n[SEP] é漢", list(map(bpe.special_id, SPECIAL_TOKENS))
    assert again.encode(text) == bpe.encode(text) and notes == []
    assert list(map(again.special_id, SPECIAL_TOKENS)) == ids
    settings = read_json(tmp_path / "tokenizer_config.json")
    assert settings["model_max_length"] == 77 and settings["eos_token"] == "[SEP]"
    assert settings["pad_token"] == "[PAD]" and settings["mask_token"] == "[MASK]"
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["clean_up_tokenization_spaces"] is False
    gpt2 = BPE({**bpe.vocab, 300: b"<|end|>"}, bpe.merges, ["<|end|>"], aliases={"<|endoftext|>": "<|end|>"})
    write_tokenizer(gpt2, tmp_path, small("gpt2"))
    settings = read_json(tmp_path / "tokenizer_config.json")
    named = {name: token for name, token in settings.items() if name.endswith("_token")}
    assert named == {"bos_token": "<|end|>", "eos_token": "<|end|>"}
    aliases = {"<|endoftext|>": "<|end|>", "[CLS]": "<|begin|>"}
    other = BPE(bpe.vocab, bpe.merges, ["<|begin|>", "<|end|>"], aliases=aliases)
    each = {"bos": "[CLS]", "eos": "<|endoftext|>"}
    assert exporting.begin_and_end(other, small("gpt2")) == each
    chat = BPE(bpe.vocab, bpe.merges, ["<|begin|>", "<|endoftext|>"], aliases={"[CLS]": "<|begin|>"})
    assert exporting.begin_and_end(chat, small("gpt2"))["bos"] == "<|endoftext|>", "one for both"


def test_what_stands_around_texts(bpe):
    def names(rule: list[dict]) -> list[tuple]:
        return [(part["id"], part["type_id"]) for entry in rule for part in entry.values()]

    rule = rust_tokenizer(bpe, True)["post_processor"]
    assert names(rule["pair"]) == [("[CLS]", 0), ("A", 0), ("[SEP]", 0), ("B", 1), ("[SEP]", 1)]
    assert rule["special_tokens"]["[SEP]"]["ids"] == [bpe.special_id("[SEP]")]
    assert rust_tokenizer(bpe)["post_processor"] is None
    other = BPE.train(["a"], 260, ["<s>", "</s>"])
    other.aliases = {"[CLS]": "<s>", "[SEP]": "</s>"}
    first = rust_tokenizer(other, True)["post_processor"]["single"][0]
    assert first == {"SpecialToken": {"id": "<s>", "type_id": 0}}


def test_a_wordpiece_there_and_back(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "##c", "\u2028", "é", "covid"]
    switches = dict(lower_case=False, strip_accents=True, chinese_characters=False)
    wordpiece = WordPiece(tokens, added_tokens=["covid"], **switches)
    write_tokenizer(wordpiece, tmp_path, small("bert-base"))
    assert read_json(tmp_path / "added_tokens.json") == {"covid": 9}
    again, _ = read_tokenizer(tmp_path, {"model_type": "bert"})
    assert (again.tokens, again.added_tokens) == (wordpiece.tokens, ("covid",))
    assert (again.lower_case, again.strip_accents, again.chinese_characters) == (False, True, False)


def test_the_rust_library_is_told_to_change_nothing_of_a_text(bpe):
    as_bytes = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    data = rust_tokenizer(bpe)
    assert data["model"]["vocab"]["[MASK]"] == bpe.special_id("[MASK]")
    assert len(data["model"]["vocab"]) == bpe.vocab_size
    assert data["model"]["merges"][0] == [token_name(token) for token in bpe.merges[0]]
    assert (data["version"], data["pre_tokenizer"], data["decoder"]) == ("1.0", as_bytes, as_bytes)
    untouched = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    added = [dict(id=i, content=token, special=True) | untouched for i, token in enumerate(SPECIAL_TOKENS)]
    assert data["added_tokens"] == added
    word = BPE(bpe.vocab | {300: b"word"}, bpe.merges, SPECIAL_TOKENS, added_tokens=["word"])
    plain = dict(id=300, content="word", special=False)
    assert rust_tokenizer(word)["added_tokens"][-1] == plain | untouched

    def cutter(pattern: str) -> dict:
        return rust_tokenizer(BPE.train(["a"], 256, pattern=pattern))["pre_tokenizer"]

    digits = dict(type="Digits", individual_digits=True)
    assert cutter("gpt2, digits apart") == dict(type="Sequence", pretokenizers=[digits, as_bytes])
    split, after = cutter("gpt4")["pretokenizers"]
    assert split.pop("pattern")["Regex"].startswith("(?i:'s|'t|")
    assert split == dict(type="Split", behavior="Isolated", invert=False)
    assert after == as_bytes | dict(use_regex=False), "it is cut already"


def test_a_decoders_texts_end_there_as_they_do_here(bpe, tmp_path):
    export_model(build(small("gpt-tiny")), bpe, tmp_path / "out")
    settings = read_json(tmp_path / "out" / "tokenizer_config.json")
    assert settings["eos_token"] == "<|endoftext|>"
    assert settings["bos_token"] == "<|endoftext|>", "what stood before a text in training"
    assert read_json(tmp_path / "out" / "config.json")["eos_token_id"] == text_end(bpe)
    assert text_end(minilm.load(tmp_path / "out")[1]) == text_end(bpe), "[SEP] ends no text of a GPT"


def test_all_ends_of_a_chat_model_go_along(tmp_path):
    tokenizer, model = BPE.train([], 270, SPECIAL_TOKENS), build(small("llama-tiny", n_kv_head=1))
    for ends in ((), (5, 260)):
        tokenizer.ends, folder = ends, tmp_path / f"{ends}"
        export_model(model, tokenizer, folder)
        assert (folder / "generation_config.json").exists() == bool(ends)
        assert minilm.load(folder)[1].ends == ends, "it would write on behind the end of a turn"


def test_pairs_have_segments_there_where_the_model_has_some(bpe, tmp_path):
    for n_segments in (0, 2):
        model, folder = build(small("bert-base", n_segments=n_segments)), tmp_path / str(n_segments)
        export_model(model, bpe, folder)
        inputs = read_json(folder / "tokenizer_config.json")["model_input_names"]
        assert ("token_type_ids" in inputs) == (n_segments == 2), "else transformers reads a pair as one text"


def test_who_opens_a_qwen2_is_told_how_to_read_texts(bpe, tmp_path):
    config = small("llama-tiny", n_kv_head=1, biases="qkv")
    (note,) = export_model(build(config), bpe, tmp_path / "ours")
    assert "PreTrainedTokenizerFast" in note, "AutoTokenizer cuts digits, say, by another rule than ours"
    as_qwen2 = BPE(bpe.vocab, bpe.merges, SPECIAL_TOKENS, pattern="gpt4, digits apart")
    assert export_model(build(config), as_qwen2, tmp_path / "theirs") == []


def test_a_sentence_model_reads_as_far_there_as_here(bpe, tmp_path, monkeypatch):
    for longest in (None, 5):
        monkeypatch.setattr(bpe, "longest", longest)
        folder = tmp_path / f"{longest}"
        export_model(build(small("bert-base", max_positions=9)), bpe, folder)
        assert read_json(folder / "tokenizer_config.json")["model_max_length"] == (longest or 9)
        assert minilm.load(folder)[1].longest == longest, "long texts would get other vectors"
