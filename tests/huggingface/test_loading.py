"""Grades huggingface/loading.py: each weight at its place, what is missing or foreign named."""

import json

import published
import pytest
import torch

import minilm
from minilm import checkpoint
from minilm.huggingface.loading import config_of, fill, load, load_config, named_weights, without_copies
from minilm.huggingface.names import NAMES
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.plumbing.safetensors import read_tensors, write_tensors
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.wordpiece import WordPiece

KINDS = list(published.CONFIGS)
# Some weights of ours, and where they stand in the files that `published` writes.
PLACES = {
    "bert": {
        "encoder.blocks.1.self_attention.k.weight": "bert.encoder.layer.1.attention.self.key.weight",
        "encoder.blocks.0.feed_forward_norm.bias": "bert.encoder.layer.0.output.LayerNorm.bias",
        "next_sentence.weight": "cls.seq_relationship.weight",
        "vocabulary.norm.weight": "cls.predictions.transform.LayerNorm.weight",
    },
    "distilbert": {
        "encoder.blocks.1.self_attention.out.bias": "distilbert.transformer.layer.1.attention.out_lin.bias",
        "vocabulary.dense.bias": "vocab_transform.bias",
    },
    "roberta": {
        "encoder.blocks.1.self_attention.v.bias": "roberta.encoder.layer.1.attention.self.value.bias",
        "vocabulary.bias": "lm_head.bias",
    },
    "gpt2": {"tokens.weight": "wte.weight", "decoder.norm.bias": "ln_f.bias"},
    "bart": {
        "decoder.blocks.0.cross_attention.q.weight": "model.decoder.layers.0.encoder_attn.q_proj.weight",
        "encoder.embeddings.position.weight": "model.encoder.embed_positions.weight",
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stand_at_their_places(kind, tmp_path, capsys):
    folder = published.folder(tmp_path / kind, kind)
    model, tokenizer = minilm.load(folder)
    stored, state = read_tensors(folder / "model.safetensors"), model.state_dict()
    for ours, theirs in PLACES[kind].items():
        assert torch.equal(state[ours], stored[theirs]), ours
    assert not model.training and capsys.readouterr().err == "", "nothing is missing, so nothing is said"
    assert isinstance(tokenizer, WordPiece if "bert" in kind and kind != "roberta" else BPE)
    assert model.config == load_config(folder) == checkpoint.load_config(folder)
    logits = model(
        torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([[2, 5]]) if kind == "bart" else None
    )
    assert logits.isfinite().all()


def test_a_lone_segment_is_in_every_position(tmp_path):
    folder = published.folder(tmp_path / "roberta", "roberta")
    model, _ = load(folder)
    stored = read_tensors(folder / "model.safetensors")
    embeddings = "roberta.embeddings."
    expected = stored[f"{embeddings}word_embeddings.weight"][[7, 8]]
    expected = expected + stored[f"{embeddings}position_embeddings.weight"][[2, 3]]  # 0 and 1 are not counted
    expected = expected + stored[f"{embeddings}token_type_embeddings.weight"][0]
    expected = torch.nn.functional.layer_norm(
        expected, (12,), stored[f"{embeddings}LayerNorm.weight"], stored[f"{embeddings}LayerNorm.bias"]
    )
    assert torch.allclose(model.hidden_states(torch.tensor([[7, 8]]))[0][0], expected, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_old_and_new_prefixes(prefix, tmp_path):
    V = published.bpe(published.SPECIALS["gpt2"]).vocab_size
    torch.manual_seed(3)
    model, _ = load(published.folder(tmp_path / "a", "gpt2", published.gpt2(V, prefix)))
    torch.manual_seed(3)
    other, _ = load(published.folder(tmp_path / "b", "gpt2", published.gpt2(V, "transformer.")))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_norms_of_the_first_bert(tmp_path):
    tensors = published.bert() | published.bert_heads()
    old = {
        n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t
        for n, t in tensors.items()
    }
    model, _ = load(published.folder(tmp_path / "old", "bert", old))
    assert torch.equal(model.encoder.embeddings.norm.bias, tensors["bert.embeddings.LayerNorm.bias"])


def test_an_export_of_sentence_transformers_has_no_heads(tmp_path, capsys):
    bare = published.bert("")
    bare |= {"pooler.dense.weight": torch.eye(12), "pooler.dense.bias": torch.zeros(12)}
    model, _ = load(published.folder(tmp_path / "bare", "bert", bare))
    note = capsys.readouterr().err
    assert "drawn at random" in note and "cls.seq_relationship" in note and "cls.predictions" in note
    assert "pooler" not in note and torch.equal(model.pooler.weight, torch.eye(12))


def without(tensors: dict, *names: str) -> dict:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_weights_that_do_not_fit_are_named(tmp_path):
    whole = published.bert() | published.bert_heads()
    key = "bert.encoder.layer.1.attention.self.key.weight"
    wrong = {
        "unexpected": (
            whole | {"classifier.weight": torch.zeros(2, 12)},
            r"1 unexpected \(classifier.weight\)",
        ),
        "missing": (without(whole, key), rf"1 missing \({key}\)"),
        "shape": (whole | {key: torch.zeros(12, 11)}, rf"{key}: \[12, 11\], expected \[12, 12\]"),
        "twice": (
            whole | {"bert.embeddings.LayerNorm.gamma": torch.ones(12)},
            "LayerNorm.weight stands there twice",
        ),
    }
    for name, (tensors, message) in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            load(published.folder(tmp_path / name, "bert", tensors))
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_more_ids_than_rows(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("extra\n")
    with pytest.raises(UserError, match="the vocabulary has 98 ids, and the model rows for 97"):
        load(folder)


def test_an_unknown_kind_is_said_before_the_weights_are_read(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    (folder / "config.json").write_text('{"model_type": "t5"}')
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="config.json: model_type 't5' is none of ours"):
        minilm.load(folder)
    with pytest.raises(UserError, match="'t5'"):
        load_config(folder)


def test_a_folder_without_vocabulary(tmp_path, capsys):
    folder = published.folder(tmp_path / "bert", "bert")
    (folder / "vocab.txt").unlink()
    assert load(folder)[1] is None and "no vocabulary" in capsys.readouterr().err


def test_second_names():
    names, one, two = NAMES["bart"], torch.zeros(1), torch.ones(1)
    shared, copy = "model.shared.weight", "model.encoder.embed_tokens.weight"
    assert without_copies({shared: one, copy: two}, names, {shared}) == {shared: one}
    assert without_copies({copy: two}, names, {shared}) == {shared: two}, "some files have the copy alone"
    bert, matrix = NAMES["bert"], "cls.predictions.decoder"
    given = {f"{matrix}.weight": one, f"{matrix}.bias": two, "cls.predictions.bias": one}
    untied = without_copies(given, bert, {f"{matrix}.weight", "cls.predictions.bias"})
    assert untied == {f"{matrix}.weight": one, "cls.predictions.bias": two}, (
        "of an untied head, this is added"
    )


def test_parts(tmp_path):
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    values = json.loads((folder / "config.json").read_text())
    tensors = named_weights(folder, values)
    assert "transformer.h.0.attn.c_attn.weight" in tensors and not any(
        "masked_bias" in name for name in tensors
    )
    model = build(config_of(folder, values, tensors))
    assert fill(model, tensors, "gpt2", folder) == []
    write_tensors(folder / "model.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="missing"):
        load(folder)
