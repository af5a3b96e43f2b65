"""Grades huggingface/exporting.py: what was read comes back; what has no equivalent is refused."""

import json
from dataclasses import replace

import published
import pytest
import torch

import minilm
from minilm.huggingface.exporting import (
    encoder_kind,
    export,
    frame,
    optional_id,
    special_ids,
    target,
    their_tensors,
)
from minilm.model.config import PRESETS, ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.plumbing.safetensors import read_tensors
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS

SIZES = dict(vocab_size=270, d_model=12, n_head=3, d_ff=20, max_positions=9)


def small(name: str, **changes) -> ModelConfig:
    """Return a preset at a small size."""
    config = PRESETS[name].to_dict() | SIZES
    return ModelConfig(
        **config | {n: min(2, config[n]) for n in ("n_encoder_layer", "n_decoder_layer")} | changes
    )


@pytest.fixture(scope="module")
def bpe():
    return BPE.train(["a b c"], 270, SPECIAL_TOKENS)


@pytest.mark.parametrize("kind", published.CONFIGS)
def test_a_published_model_comes_back_as_it_was(kind, tmp_path):
    folder = published.folder(tmp_path / "published", kind)
    minilm.save(*minilm.load(folder), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["model_type"] == kind
    known = json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in known if key != "n_ctx"} == {
        k: v for k, v in known.items() if k != "n_ctx"
    }
    before, after = (
        read_tensors(folder / "model.safetensors"),
        read_tensors(tmp_path / "back" / "model.safetensors"),
    )
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


@pytest.mark.parametrize(
    ("name", "changes", "kind"),
    [
        ("gpt-tiny", {}, "gpt2"),
        ("gpt-tiny", dict(positions="sinusoidal", position_offset=1), "gpt2"),
        ("bert-tiny", dict(head_transform=True), "megatron-bert"),
        ("distilbert-tiny", dict(head_transform=True, positions="sinusoidal"), "megatron-bert"),
        ("bart-tiny", dict(positions="learned"), "blenderbot"),
        ("transformer-tiny", {}, "blenderbot"),
        ("transformer-base", dict(embedding_norm=True), "bart"),
        ("bert-base", dict(n_segments=0), "bert"),
        ("bert-base", dict(tie_embeddings=False), "bert"),
        ("distilbert", {}, "distilbert"),
        ("distilbert", dict(norm_eps=1e-5), "bert"),
    ],
)
def test_our_models_come_back_with_their_numbers(name, changes, kind, bpe, tmp_path):
    model = build(small(name, **changes)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    minilm.save(model, bpe, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == kind
    again, tokenizer = minilm.load(tmp_path / "out")
    ids = torch.tensor([[5, 6, 7, 8]])
    decoder_ids = ids[:, 1:] if model.config.kind == "encoder-decoder" else None
    found, expected = (m(ids, decoder_input_ids=decoder_ids) for m in (again, model))
    assert (found - expected).abs().max() < 1e-5
    assert tokenizer.encode("abc [SEP] é") == bpe.encode("abc [SEP] é")


@pytest.mark.parametrize(
    ("name", "changes", "flags"),
    [
        ("bart-tiny", {}, "--positions learned"),
        ("transformer-base", {}, "--embedding-norm"),
        ("gpt2", dict(norm="post"), "--norm pre --final-norm --no-embedding-norm"),
        ("gpt-tiny", dict(head_transform=True, head_bias=True), "--no-head-transform --no-head-bias"),
        ("gpt-tiny", dict(scale_embeddings=True), "--no-scale-embeddings"),
        ("bert-tiny", dict(final_norm=False, embedding_norm=True), "--no-embedding-norm --final-norm"),
        ("bert-base", dict(final_norm=True), "--no-final-norm"),
        ("transformer-tiny", dict(tie_embeddings=False), "--tie-embeddings"),
        ("bart-base", dict(norm_eps=1e-6), "--norm-eps 1e-5"),
    ],
)
def test_what_has_no_equivalent_is_refused_with_the_flags_that_help(name, changes, flags, bpe):
    with pytest.raises(UserError) as caught:
        target(small(name, **changes), bpe, "runs/x")
    message = str(caught.value)
    assert message.startswith("runs/x: transformers has no") and f"with {flags} can be exported" in message
    settled = {}
    for flag in flags.split(" --"):
        field, _, value = flag.removeprefix("--").partition(" ")
        settled[field.removeprefix("no-").replace("-", "_")] = value or not field.startswith("no-")
    if "norm_eps" in settled:
        settled["norm_eps"] = float(settled["norm_eps"])
    assert target(small(name, **changes | settled), bpe, "runs/x"), "the flags do help"


def test_an_encoder_without_the_dense_layer_goes_without_its_head(bpe, tmp_path, capsys):
    minilm.save(build(small("bert-tiny")), bpe, tmp_path / "run")
    notes = export(tmp_path / "run", tmp_path / "out")
    assert len(notes) == 1 and "--head-transform" in notes[0] and notes[0] in capsys.readouterr().err
    tensors = read_tensors(tmp_path / "out" / "model.safetensors")
    assert not any(name.startswith("cls.predictions") for name in tensors)
    assert "cls.seq_relationship.weight" in tensors
    minilm.save(build(small("distilbert-tiny")), bpe, tmp_path / "run2")
    assert any("no pooler" in note for note in export(tmp_path / "run2", tmp_path / "out2"))


def test_nothing_is_overwritten(bpe, tmp_path):
    minilm.save(build(small("gpt-tiny")), bpe, tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="out exists already"):
        export(tmp_path / "run", tmp_path / "out")


def test_which_post_norm_encoder(bpe):
    assert encoder_kind(small("distilbert"), bpe) == "distilbert"
    assert encoder_kind(small("bert-base"), bpe) == "bert"
    offset = small("distilbert", position_offset=bpe.special_id("[PAD]") + 1)
    assert encoder_kind(offset, bpe) == "roberta"
    assert encoder_kind(replace(offset, position_offset=4), bpe) == "distilbert", (
        "positions are told by the padding"
    )
    assert encoder_kind(replace(offset, position_offset=4), None) == "roberta"


def test_special_ids(bpe):
    plain = BPE.train([], 256)
    assert [optional_id(t, "[PAD]") for t in (bpe, plain, None)] == [bpe.special_id("[PAD]"), None, None]
    assert encoder_kind(small("bert-base"), plain) == "bert", "a tokenizer without padding is no obstacle"
    cls, sep, pad, end = map(bpe.special_id, ("[CLS]", "[SEP]", "[PAD]", "<|endoftext|>"))
    assert special_ids(bpe, "gpt2", small("gpt2")) == dict(
        bos_token_id=end, eos_token_id=end, pad_token_id=pad
    )
    ids = special_ids(bpe, "bart", small("bart-base"))
    assert ids["decoder_start_token_id"] == cls == ids["bos_token_id"] and ids["eos_token_id"] == sep
    published_bart = BPE(bpe.vocab, bpe.merges, SPECIAL_TOKENS, aliases={"[START]": "[SEP]"})
    assert special_ids(published_bart, "bart", small("bart-base"))["decoder_start_token_id"] == sep
    assert special_ids(None, "roberta", small("distilbert", position_offset=2)) == {"pad_token_id": 1}
    assert special_ids(BPE.train([], 256), "bert", small("bert-base"))["eos_token_id"] is None


def test_what_stands_around_a_text(tmp_path):
    assert frame(small("gpt2"), tmp_path) == (None, None)
    assert frame(small("bert-base"), tmp_path) == ("[CLS]", "[SEP]")
    (tmp_path / "settings.json").write_text('{"objective": "denoising", "out": "translation"}')
    assert frame(small("bart-base"), tmp_path) == ("[CLS]", "[SEP]"), "a name of a folder is no objective"
    (tmp_path / "settings.json").write_text('{"objective": "translation"}')
    assert frame(small("transformer-tiny"), tmp_path) == (None, "[SEP]")


def test_positions_are_laid_out_as_they_have_them():
    model = build(small("bart-base", position_offset=1))
    tensors, _ = their_tensors(model, "bart")
    rows = tensors["model.decoder.embed_positions.weight"]
    assert torch.equal(rows[2:], model.decoder.embeddings.position.weight[1:]) and rows[:2].eq(0).all()
    model = build(small("transformer-tiny"))
    tensors, _ = their_tensors(model, "blenderbot")
    assert torch.equal(tensors["model.encoder.embed_positions.weight"], model.encoder.embeddings.sinusoid)
    assert tensors["final_logits_bias"].shape == (1, 270)
