"""Grades huggingface/loading.py: downloads where everything fails, files, each weight's place."""

import hashlib
import json
import os
import pickle
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import published
import pytest
import torch

import minilm
from minilm import checkpoint
from minilm.extraction import embed
from minilm.huggingface import loading
from minilm.huggingface.loading import download, load, read_weights, unpack
from minilm.in_context.terminal import Writer
from minilm.model.config import ModelConfig
from minilm.plumbing.errors import UserError
from minilm.plumbing.safetensors import read_tensors, write_tensors
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.wordpiece import WordPiece

SAFE, INDEX = "model.safetensors", "model.safetensors.index.json"
D = published.D


def refused(match: str, call, *arguments) -> None:
    """Check that a call raises a UserError of one line that matches the pattern."""
    with pytest.raises(UserError, match=match) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value), "an error for the user is one line"


# Downloading


class Hub:
    """What the server has and does; `log` are the paths that were asked for."""

    def __init__(self, folder: Path):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.log, self.cut, self.corrupt, self.broken, self.status = [], {}, set(), set(), 200

    def answer(self, request) -> None:
        self.log.append(request.path)
        name, path = request.path.rsplit("/", 1)[-1], request.path
        if self.status != 200:
            return request.send_error(self.status)
        if path.startswith("/api/models/owner/model/revision/"):
            files = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            for entry in files:
                if entry["rfilename"].endswith(".safetensors"):  # of large files there is a SHA-256
                    entry["lfs"] = {"sha256": hashlib.sha256(self.files[entry["rfilename"]]).hexdigest()}
            data = json.dumps({"siblings": files}).encode()
        elif path.startswith("/owner/model/resolve/") and name == SAFE:  # large files live on another server
            request.send_response(302)
            request.send_header("Location", "/cdn" + path)
            return request.end_headers()
        elif "/owner/model/resolve/" in path and name in self.files:
            data = self.files[name]
        else:
            return request.send_error(401)
        request.send_response(200)
        if name in self.broken:
            request.send_header("Transfer-Encoding", "chunked")
            data = b"5\r\n" + data[:5] + b"\r\nff\r\n" + data[5:9]
        else:
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        data = data.replace(b"a", b"b") if name in self.corrupt else data
        request.wfile.write(data[: self.cut.get(name, len(data))])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(published.folder(tmp_path / "bert", "bert"))
    methods = dict(do_GET=lambda request: hub.answer(request), log_message=lambda *_: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (BaseHTTPRequestHandler,), methods))
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("MINILM_CACHE", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield hub
    server.shutdown()
    server.server_close()


def test_a_published_model_by_its_name(hub, tmp_path, capsys):
    more = ("special_tokens_map.json", "added_tokens.json", "generation_config.json")
    hub.files |= dict.fromkeys((*more, "sentence_bert_config.json"), b"{}")
    model, tokenizer = minilm.load("hf:owner/model")
    assert model.config.n_encoder_layer == 2 and tokenizer.vocab_size == len(published.BERT_TOKENS)
    folder = tmp_path / "cache" / "owner--model"
    assert "downloading into" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {*hub.files, "download.json"}, "nothing half is left"
    assert all((folder / name).read_bytes() == data for name, data in hub.files.items())
    asked = len(hub.log)
    assert minilm.load("hf:owner/model")[0].config == model.config and download("owner/model") == folder
    assert len(hub.log) == asked, "a complete folder asks nothing of the network"
    assert download("owner/model@v1.0").name == "owner--model@v1.0", "a revision has a folder of its own"
    assert all("/main?" in path or "/main/" in path for path in hub.log[:asked]), "no revision: the newest"
    assert all("/v1.0?" in path or "/v1.0/" in path for path in hub.log[asked:])


@pytest.mark.parametrize("file", ["vocab.txt", SAFE])
def test_no_half_file_is_taken_for_whole(hub, tmp_path, file):
    folder, n = tmp_path / "cache" / "owner--model", len(hub.files[file])
    cut_off = f"{file}: .*(cut off after {n // 3:,} of {n:,} bytes|invalid hash).*run the command again"
    in_between = f"hf:owner/model {file}: the network failed .*IncompleteRead"
    for cut, broken, message in (({file: n // 3}, set(), cut_off), ({}, {file}, in_between)):
        hub.cut, hub.broken = cut, broken
        refused(message, download, "owner/model")
        assert {path.name for path in folder.iterdir()} <= {*hub.files} - {file}, "no half file has the name"
    hub.broken = set()
    asked = len(hub.log)
    (folder / file).write_bytes(hub.files[file][:-1])  # as a copy that was cut off
    assert (download("owner/model") / file).read_bytes() == hub.files[file]
    assert not any("/main/config.json" in path for path in hub.log[asked:]), "what is there is not asked for"


def test_a_corrupted_file_is_not_kept(hub, tmp_path):
    hub.corrupt.add(SAFE)
    refused(f"{SAFE}: an unexpected answer .*hash.*run the command again", download, "owner/model")
    assert not list((tmp_path / "cache" / "owner--model").glob(f"{SAFE}*"))


def test_a_published_model_in_shards(hub):
    whole = hub.files.pop(SAFE)
    hub.files |= {"a.safetensors": whole, "b.safetensors": whole}
    hub.files[INDEX] = b'{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}'
    folder = download("owner/model")
    assert all((folder / name).read_bytes() == whole for name in ("a.safetensors", "b.safetensors"))
    assert {path.name for path in folder.iterdir()} == {*hub.files, "download.json"}
    asked = len(hub.log)
    assert download("owner/model") == folder and len(hub.log) == asked, "a complete folder asks nothing"
    hub.files[INDEX] = b'{"weight_map": {"x": "../../x.safetensors"}}'
    refused(r"index.json: .* has '../../x.safetensors', expected .* beside", download, "owner/model@other")
    hub.files[INDEX] = b'{"weight_map": {"x": "c.safetensors"}}'
    refused("hf:owner/model@third: http.* has no c.safetensors of it", download, "owner/model@third")
    hub.files[SAFE] = whole
    one = download("owner/model@fourth")
    assert (one / SAFE).exists() and not (one / INDEX).exists(), "of both the one file is enough"


def test_what_is_not_there(hub, monkeypatch, tmp_path):
    refused("hf:owner/nobody: the server answers 401 .*no such model, or it", download, "owner/nobody")
    hub.files["pytorch_model.bin"] = hub.files.pop(SAFE)
    refused(f"has no {SAFE} of it; only safetensors can be downloaded", download, "owner/model")
    hub.status = 404
    refused("hf:owner/model: the server answers 404 .*no such model, or it", download, "owner/model")
    hub.status = 503
    refused(r"hf:owner/model: the server answers 503 \([^;]*\)$", download, "owner/model")
    for name in ("../x", "a/b/c", "", "/etc", "a/..", "a b"):
        refused("not the name of a model", download, name)
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    refused("hf:owner/model: an unexpected answer .*unknown url type", download, "owner/model")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    refused("hf:owner/model: the network failed .*refused", download, "owner/model", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_time_limit_for_the_network_alone():
    with pytest.raises(UserError, match="^x: an unexpected answer .*siblings"), loading.network("x"):
        assert socket.getdefaulttimeout() == 30, "seconds without a byte"
        raise KeyError("siblings")
    assert socket.getdefaulttimeout() is None


def test_the_cache_is_at_home_by_default(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("MINILM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path)), monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows'
    assert download("owner/model") == tmp_path / ".cache" / "minilm" / "owner--model"


# Files of weights


def test_pickled_weights_are_read_and_code_is_not(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "pytorch_model.bin")
    assert read_weights(tmp_path)["a"].tolist() == [0, 1, 2]
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    torch.save({"a": torch.arange(3)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path)["a"].tolist() == [0, 1, 2], "files from before PyTorch 1.6"

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    torch.save({"a": Code()}, tmp_path / "code.bin")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Code()))
    (tmp_path / "cut.bin").write_bytes(whole[:100])
    torch.save([1, 2], tmp_path / "list.bin")
    torch.save({3: torch.ones(2)}, tmp_path / "number.bin")
    reasons = {"list.bin": r"\('list' object has no attribute 'items'\)"}
    for name in ("code.bin", "plain.bin", "cut.bin", "list.bin", "number.bin"):
        (tmp_path / name).replace(tmp_path / "pytorch_model.bin")
        told = "pytorch_model.bin: damaged, or more than named tensors " + reasons.get(name, "")
        refused(told, read_weights, tmp_path)
    assert not (tmp_path / "it ran").exists()


def test_weights_in_shards_are_put_together(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    whole, ids = read_tensors(folder / SAFE), torch.tensor([[1, 5, 6, 2]])
    expected = load(folder)[0](ids)
    listed = {name: f"model-{i % 3}.safetensors" for i, name in enumerate(whole)}
    (folder / SAFE).unlink()
    for file in {*listed.values()}:
        write_tensors(folder / file, {name: whole[name] for name in whole if listed[name] == file})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    assert torch.equal(load(folder)[0](ids), expected), "all shards, each tensor once"
    torch.save({}, folder / "pytorch_model.bin")
    assert torch.equal(load(folder)[0](ids), expected), "shards come before a pickle"
    write_tensors(folder / SAFE, {name: 0 * x for name, x in whole.items()})
    assert load(folder)[0].tokens.weight.abs().max() == 0, "and one whole file before shards"
    (folder / SAFE).unlink()
    write_tensors(folder / "model-2.safetensors", {})
    refused("does not fit the model: .* missing", load, folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-2.safetensors"):
        load(folder)


ELSEWHERE = ("../a.safetensors", "a.safetensors/../b", 3, "a.bin")


@pytest.mark.parametrize("index", [{}, dict(weight_map=[]), *(dict(weight_map=dict(a=f)) for f in ELSEWHERE)])
def test_an_index_that_leads_elsewhere(tmp_path, index):
    (tmp_path / INDEX).write_text(json.dumps(index))
    refused("index.json: ('?weight_map'? (has .*, expected|is))", read_weights, tmp_path)
    (tmp_path / INDEX).unlink()
    refused("no weights in it; expected model.safetensors, .*_model.bin", read_weights, tmp_path)


# Tensors that are laid out unlike ours

CONFIG = ModelConfig(vocab_size=5, n_decoder_layer=1, d_model=4, n_head=2)


def test_gpt2_is_turned_and_cut_in_three():
    D, stem = 4, "transformer.h.7.attn.c_attn"
    fused, bias, up = torch.randn(D, 3 * D), torch.randn(3 * D), torch.randn(D, 9)
    given = {f"{stem}.weight": fused, f"{stem}.bias": bias, "transformer.h.7.mlp.c_fc.weight": up}
    given["transformer.wte.weight"] = torch.randn(5, D)
    found = unpack(given, CONFIG)
    x = torch.randn(2, D)
    for part, expected in zip("qkv", (x @ fused + bias).split(D, dim=-1), strict=True):
        mine = torch.nn.functional.linear(x, found[f"{stem}.{part}.weight"], found[f"{stem}.{part}.bias"])
        assert torch.allclose(mine, expected, atol=1e-6), f"{part} is another third of c_attn"
    assert torch.equal(found["transformer.h.7.mlp.c_fc.weight"], up.T)
    assert torch.equal(found["transformer.wte.weight"], given["transformer.wte.weight"]), "embeddings stay"
    for odd in (torch.zeros(7), torch.zeros(8), torch.tensor(1.0)):
        assert list(unpack({f"{stem}.bias": odd}, CONFIG)) == [f"{stem}.bias"], "told later"


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_get_the_asked_precision(stored, dtype, tmp_path):
    """Half precision becomes whole, for training; weights that are only read may stay at half."""
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    tensors = {name: t.to(stored) for name, t in read_tensors(folder / "model.safetensors").items()}
    write_tensors(folder / "model.safetensors", tensors)
    model, _ = load(folder, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(model.tokens.weight, tensors["wte.weight"].to(dtype))
    assert model.decoder.blocks[0].self_attention.q.weight.is_contiguous(), "products would be slower"
    assert model.tokens.weight.requires_grad


def test_weights_that_are_no_floats_are_refused(tmp_path):
    tensors = published.bert() | published.bert_heads()
    name = "bert.embeddings.word_embeddings.weight"
    folder = published.folder(tmp_path / "bert", "bert", tensors | {name: tensors[name].to(torch.int8)})
    refused(f"{name} holds torch.int8, expected floats", load, folder)


def test_a_lone_segment_goes_into_the_positions():
    given = {"bert.embeddings.token_type_embeddings.weight": torch.ones(1, 4)}
    given |= {"bert.embeddings.position_embeddings.weight": torch.arange(8.0).view(2, 4)}
    found = unpack(given, CONFIG)
    assert list(found) == ["bert.embeddings.position_embeddings.weight"]
    assert found["bert.embeddings.position_embeddings.weight"][1].tolist() == [5, 6, 7, 8]
    assert given["bert.embeddings.position_embeddings.weight"][1, 0] == 4, "the given tensors stay"
    segments, positions = given
    for odd in ({segments: torch.ones(1, 4)}, {segments: torch.ones(1, 4), positions: torch.ones(2, 3)}):
        assert unpack(odd, CONFIG).keys() == odd.keys(), "told later"


# Some weights of ours, and where they stand in the files that `published` writes.
PLACES = """
bert encoder.blocks.0.feed_forward_norm.bias bert.encoder.layer.0.output.LayerNorm.bias
bert next_sentence.weight cls.seq_relationship.weight
bert vocabulary.norm.weight cls.predictions.transform.LayerNorm.weight
distilbert encoder.blocks.1.self_attention.out.bias distilbert.transformer.layer.1.attention.out_lin.bias
distilbert vocabulary.dense.bias vocab_transform.bias
roberta encoder.blocks.1.self_attention.v.bias roberta.encoder.layer.1.attention.self.value.bias
gpt2 decoder.norm.bias ln_f.bias
bart encoder.embeddings.position.weight model.encoder.embed_positions.weight
"""


@pytest.mark.parametrize("kind", published.CONFIGS)
def test_weights_stand_at_their_places(kind, tmp_path, capsys):
    folder = published.folder(tmp_path / kind, kind)
    model, tokenizer = minilm.load(folder)
    stored, state = read_tensors(folder / SAFE), model.state_dict()
    for its_kind, ours, theirs in map(str.split, PLACES.strip().splitlines()):
        assert its_kind != kind or torch.equal(state[ours], stored[theirs]), ours
    assert not model.training and capsys.readouterr().err == "", "nothing is missing, so nothing is said"
    assert isinstance(tokenizer, WordPiece if "bert" in kind and kind != "roberta" else BPE)
    assert model.config == checkpoint.load_config(folder)
    decoder_ids = torch.tensor([[2, 5]]) if kind == "bart" else None
    assert model(torch.tensor([[5, 6, 7]]), decoder_input_ids=decoder_ids).isfinite().all()


def test_old_names(tmp_path):
    V = published.bpe(published.SPECIALS["gpt2"]).vocab_size
    models = []
    for prefix in ("", "transformer."):
        torch.manual_seed(3)
        models.append(load(published.folder(tmp_path / f"{prefix}a", "gpt2", published.gpt2(V, prefix)))[0])
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    tensors, old = published.bert() | published.bert_heads(), {}
    for name, tensor in tensors.items():  # the norms of the first BERT
        old[name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")] = tensor
    model, _ = load(published.folder(tmp_path / "old", "bert", old))
    assert torch.equal(model.encoder.embeddings.norm.bias, tensors["bert.embeddings.LayerNorm.bias"])


def test_an_export_of_sentence_transformers_has_no_heads(tmp_path, capsys):
    bare = published.bert("")
    bare |= {"pooler.dense.weight": torch.eye(D), "pooler.dense.bias": torch.zeros(D)}
    model, _ = load(published.folder(tmp_path / "bare", "bert", bare))
    note = capsys.readouterr().err
    assert "drawn at random" in note and "cls.seq_relationship" in note and "cls.predictions" in note
    assert "pooler" not in note and torch.equal(model.pooler.weight, torch.eye(D))


@pytest.mark.filterwarnings("ignore:.*cut")
@pytest.mark.parametrize("longest, kept", [(9, 9), (40, published.P), (None, published.P)])
def test_a_model_of_text_vectors_says_how_much_of_a_text_it_reads(longest, kept, tmp_path):
    folder = published.folder(tmp_path / "bert", "bert")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    texts = "ana sell " * 40, "ana sell " * ((kept - 2) // 2) + "ana" * (kept % 2)
    vectors = embed(*load(folder), texts)
    np.testing.assert_allclose(*vectors, atol=1e-6, err_msg="read on beyond max_seq_length")


@pytest.mark.parametrize("said, ends", [(5, (5,)), ([5, 9], (5, 9)), (None, ())])
def test_a_model_says_at_which_tokens_it_stops(said, ends, tmp_path):
    """generation_config.json: one end, several (of a text, of a turn), or none; how to draw is not taken."""
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    said = json.dumps({"eos_token_id": said, "temperature": 0.1, "do_sample": True})
    (folder / "generation_config.json").write_text(said)
    model, tokenizer = load(folder)
    assert tokenizer.ends == ends
    with torch.no_grad():  # whatever it reads, the likeliest token is id 9
        model.decoder.norm.weight.zero_()
        model.decoder.norm.bias.copy_(model.tokens.weight[9])
        model.tokens.weight[9] *= 50
    text = Writer(model, tokenizer, temperature=0.0).write("Ana")
    assert (text == "") == (9 in ends), f"stops at {ends}, wrote {text!r}"


@pytest.mark.parametrize("said", ["5", [5, None], True, 2.0, [5, 10**6], -1])
def test_ends_that_are_no_ids_are_named(said, tmp_path):
    folder = published.folder(tmp_path / "gpt2", "gpt2")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
    refused(r"generation_config\.json: eos_token_id .* is no id of the model", load, folder)


def test_weights_that_do_not_fit_are_named(tmp_path):
    whole = published.bert() | published.bert_heads()
    key, twice = "bert.encoder.layer.1.attention.self.key.weight", "bert.embeddings.LayerNorm.gamma"
    wrong = {
        "unexpected": (whole | {"adapter.weight": torch.zeros(2, D)}, r"1 unexpected \(adapter"),
        "missing": ({name: t for name, t in whole.items() if name != key}, rf"1 missing \({key}\)"),
        "shape": (whole | {key: torch.zeros(D, 11)}, rf"{key}: \[{D}, 11\], expected \[{D}, {D}\]"),
        "twice": (whole | {twice: torch.ones(D)}, "LayerNorm.weight is there twice"),
    }
    for name, (tensors, message) in wrong.items():
        folder = published.folder(tmp_path / name, "bert", tensors)
        refused(f"^{re.escape(str(folder))}.*{message}", load, folder)


@pytest.mark.parametrize("head", ["classifier.weight", "classifier.out_proj.bias", "qa_outputs.weight"])
def test_the_head_of_a_task_is_left_out_with_a_word(head, tmp_path, capsys):
    whole = published.bert() | published.bert_heads()
    plain, _ = load(published.folder(tmp_path / "plain", "bert", whole))
    capsys.readouterr()
    found, _ = load(published.folder(tmp_path / "tuned", "bert", whole | {head: torch.zeros(2, D)}))
    assert f"left out {head}, part of a task head" in capsys.readouterr().err
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_names_in_a_folder_cannot_steer_the_terminal(tmp_path, capsys):
    tensors = published.bert() | published.bert_heads() | {"classifier.\x1b]0;a\x07\nerror": torch.zeros(2)}
    load(published.folder(tmp_path / "bert", "bert", tensors))
    assert r"left out classifier.\x1b]0;a\x07 error, part" in capsys.readouterr().err


def test_folders_that_are_not_whole(tmp_path, capsys):
    folder = published.folder(tmp_path / "bert", "bert")
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("extra\n")
    refused("config.json: vocab_size 97, but the vocabulary has 98 ids", load, folder)
    (folder / "vocab.txt").unlink()
    assert load(folder)[1] is None and "no vocabulary" in capsys.readouterr().err
    (folder / "config.json").write_text('{"model_type": "t5"}')
    (folder / SAFE).unlink()
    for read in (minilm.load, checkpoint.load_config):  # before the weights are looked for
        refused("config.json: model_type 't5' is not supported", read, folder)


def test_second_names(tmp_path):
    shared, copy = "model.shared.weight", "model.encoder.embed_tokens.weight"
    given = published.bart(published.bpe(published.SPECIALS["bart"]).vocab_size)
    matrix, other = given[shared], torch.ones_like(given[shared])
    for name in ("both", "the copy alone"):
        tensors = {n: t for n, t in given.items() if n != shared or name == "both"} | {copy: matrix}
        model, _ = load(published.folder(tmp_path / name, "bart", tensors))
        assert torch.equal(model.tokens.weight, matrix), name
    folder = published.folder(tmp_path / "other", "bart", given | {copy: other})
    refused(f"{copy} and {shared} differ, but config.json ties them", load, folder)
    bert, head = published.bert() | published.bert_heads(), "cls.predictions.decoder"
    n = len(published.BERT_TOKENS)
    bert[f"{head}.bias"] = torch.ones(n)
    for tied, expected in ((True, bert["cls.predictions.bias"]), (False, bert[f"{head}.bias"])):
        bert |= {} if tied else {f"{head}.weight": torch.ones(n, D)}
        folder = published.folder(tmp_path / f"tied {tied}", "bert", bert, tie_word_embeddings=tied)
        assert torch.equal(load(folder)[0].vocabulary.bias, expected), "an untied head has its own"
