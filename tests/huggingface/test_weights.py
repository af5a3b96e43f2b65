"""Grades huggingface/weights.py: files, shards, pickles refused, and GPT-2's turned matrices."""

import json
import pickle

import pytest
import torch

from minilm.huggingface.weights import can_be_cut, pack, read_file, read_weights, unpack
from minilm.model.config import ModelConfig
from minilm.plumbing.errors import UserError
from minilm.plumbing.safetensors import write_tensors

CONFIG = ModelConfig(vocab_size=5, n_decoder_layer=1, d_model=4, n_head=2)


@pytest.fixture
def shards(tmp_path):
    for number, name in enumerate("abc"):
        write_tensors(tmp_path / f"model-{number}.safetensors", {name: torch.full((2,), float(number))})
    listed = {name: f"model-{number}.safetensors" for number, name in enumerate("abc")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return tmp_path


def test_shards_are_put_together(shards):
    assert {name: t.tolist() for name, t in read_weights(shards).items()} == dict(
        a=[0, 0], b=[1, 1], c=[2, 2]
    )


def test_a_shard_that_is_missing_or_incomplete(shards):
    write_tensors(shards / "model-1.safetensors", {"other": torch.zeros(1)})
    with pytest.raises(UserError, match="b is not in model-1.safetensors, where .*index.json says it is"):
        read_weights(shards)
    (shards / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match="the shard model-1.safetensors is missing"):
        read_weights(shards)


@pytest.mark.parametrize("text", ['{"weight_map": {"a": "../a"}}', '{"weight_map": {"a": 3}}', "{}"])
def test_an_index_that_leads_elsewhere(tmp_path, text):
    write_tensors(tmp_path.parent / "a", {"a": torch.zeros(1)})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="index.json: (no weight_map|'../a' is not the name of a file)"):
        read_weights(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(
        UserError, match="no weights in it; expected one of model.safetensors, .*pytorch_model.bin"
    ):
        read_weights(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_weights_are_read_and_code_is_not(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "pytorch_model.bin")
    assert read_weights(tmp_path)["a"].tolist() == [0, 1, 2]
    torch.save({"a": torch.arange(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert read_file(tmp_path / "old.bin")["a"].tolist() == [0, 1, 2], "files from before PyTorch 1.6"

    class Code:
        def __reduce__(self):
            return print, ("this must not run",)

    torch.save({"a": Code()}, tmp_path / "code.bin")
    with pytest.raises(UserError, match="code.bin: refused, .*could run code"):
        read_file(tmp_path / "code.bin")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Code()))
    with pytest.raises(UserError, match="plain.bin: (refused|damaged)"):
        read_file(tmp_path / "plain.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "pytorch_model.bin").read_bytes()[:100])
    with pytest.raises(UserError, match="cut.bin: damaged"):
        read_file(tmp_path / "cut.bin")
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(UserError, match="list.bin: not a dictionary of tensors"):
        read_file(tmp_path / "list.bin")


def test_gpt2_is_turned_and_cut_in_three():
    D = 4
    fused, bias = torch.randn(D, 3 * D), torch.randn(3 * D)
    stem = "transformer.h.7.attn.c_attn"
    up = torch.randn(D, 9)
    given = {f"{stem}.weight": fused, f"{stem}.bias": bias, "transformer.h.7.mlp.c_fc.weight": up}
    given["transformer.wte.weight"] = torch.randn(5, D)
    found = unpack(given, "gpt2", CONFIG)
    x = torch.randn(2, D)
    q, k, v = (x @ fused + bias).split(D, dim=-1)
    for part, expected in zip("qkv", (q, k, v), strict=True):
        mine = torch.nn.functional.linear(x, found[f"{stem}.{part}.weight"], found[f"{stem}.{part}.bias"])
        assert torch.allclose(mine, expected, atol=1e-6), f"{part} is another third of c_attn"
    assert torch.equal(found["transformer.h.7.mlp.c_fc.weight"], up.T)
    assert torch.equal(found["transformer.wte.weight"], given["transformer.wte.weight"]), "embeddings stay"
    back = pack(found, "gpt2")
    assert set(back) == set(given) and all(torch.equal(back[name], given[name]) for name in given)


def test_the_bias_of_bart_is_a_row():
    found = unpack({"final_logits_bias": torch.arange(5.0)[None]}, "bart", CONFIG)
    assert found["final_logits.bias"].shape == (5,)
    assert pack(found, "bart")["final_logits_bias"].shape == (1, 5)


def test_a_lone_segment_goes_into_the_positions():
    given = {"bert.embeddings.token_type_embeddings.weight": torch.ones(1, 4)}
    given |= {"bert.embeddings.position_embeddings.weight": torch.arange(8.0).view(2, 4)}
    found = unpack(given, "bert", CONFIG)
    assert list(found) == ["bert.embeddings.position_embeddings.weight"]
    assert found["bert.embeddings.position_embeddings.weight"][1].tolist() == [5, 6, 7, 8]
    assert given["bert.embeddings.position_embeddings.weight"][1, 0] == 4, "the given tensors stay"


def test_half_precision_becomes_whole():
    found = unpack(
        {"a": torch.ones(2).bfloat16(), "b": torch.ones(2).half(), "c": torch.ones(2).int()}, "bert", CONFIG
    )
    assert [t.dtype for t in found.values()] == [torch.float32, torch.float32, torch.int32]


def test_a_fused_matrix_of_another_shape_is_left_as_it_is():
    assert (
        can_be_cut(torch.zeros(6, 2)) and not can_be_cut(torch.zeros(7)) and not can_be_cut(torch.tensor(1.0))
    )
    stem = "transformer.h.0.attn.c_attn"
    assert list(unpack({f"{stem}.bias": torch.zeros(7)}, "gpt2", CONFIG)) == [f"{stem}.bias"]
