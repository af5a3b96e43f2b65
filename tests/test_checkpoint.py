"""Grades checkpoint.py: loading gives back what was saved; what is missing or foreign is named."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import minilm
from minilm.checkpoint import is_published, load, load_config, load_tokenizer, load_weights, save, save_model
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.wordpiece import SPECIAL_TOKENS, WordPiece

SMALL = ModelConfig(
    vocab_size=11, n_encoder_layer=1, d_model=6, n_head=2, d_ff=10, max_positions=7, dropout=0.5
)


@pytest.fixture
def model():
    return build(SMALL)


@pytest.fixture(scope="module")
def tokenizer():
    return BPE.train(["to be or not to be"], 270)


def test_load_gives_back_what_was_saved(model, tokenizer, tmp_path):
    save(model, tokenizer, tmp_path / "run")
    loaded, loaded_tokenizer = load(tmp_path / "run")
    assert loaded.config == SMALL
    assert not loaded.training, "a loaded model is for use: dropout must be off"
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(loaded(ids), model.eval()(ids))
    assert loaded_tokenizer.encode("to be") == tokenizer.encode("to be")
    assert minilm.load is load
    assert minilm.save is save


def test_a_folder_without_a_tokenizer(model, tmp_path):
    save(model, None, tmp_path / "run")
    loaded, loaded_tokenizer = load(tmp_path / "run", device="meta")
    assert loaded_tokenizer is None and loaded.tokens.weight.device.type == "meta"
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["format"] == "minilm"


def test_save_overwrites_nothing_unless_asked(model, tmp_path):
    save(model, None, tmp_path / "run")
    other = build(SMALL)
    with pytest.raises(UserError, match=r"run exists already.*overwrite=True"):
        save(other, None, tmp_path / "run")
    assert torch.equal(load(tmp_path / "run")[0].tokens.weight, model.tokens.weight)
    save(other, None, tmp_path / "run", overwrite=True)
    assert torch.equal(load(tmp_path / "run")[0].tokens.weight, other.tokens.weight)
    (tmp_path / "empty").mkdir()
    save(model, None, tmp_path / "empty")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not a run folder of ours \(it holds thesis.txt\)"):
        save(model, None, tmp_path / "mine", overwrite=True)
    with pytest.raises(UserError, match="exists already"):
        save(model, None, tmp_path / "mine" / "thesis.txt")


def test_save_leaves_no_tokenizer_of_the_model_before(model, tokenizer, tmp_path):
    save(model, tokenizer, tmp_path / "run")
    save(model, None, tmp_path / "run", overwrite=True)
    assert load(tmp_path / "run")[1] is None


def test_the_weights_are_written_last(model, tokenizer, tmp_path, monkeypatch):
    """A folder that holds weights must hold all that is needed to load them."""
    written, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(Path(b).name), real(a, b)))
    save(model, tokenizer, tmp_path / "run")
    assert written == ["config.json", "tokenizer.json", "model.safetensors"]


def test_load_names_what_is_missing(model, tmp_path):
    save(model, None, tmp_path / "masked")
    with pytest.raises(
        UserError, match=r"maskd: not a run folder of ours, no such folder \(did you mean '.*masked'"
    ):
        load(tmp_path / "maskd")
    (tmp_path / "masked" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors in it"):
        load(tmp_path / "masked")
    (tmp_path / "masked" / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json in it"):
        load(tmp_path / "masked")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "minilm",\n"d_model": }', "not JSON .*line 2"),
        ('{"format": "minilm", "d_modle": 6}', r"unknown model field 'd_modle' \(did you mean 'd_model'"),
        ('{"format": "minilm", "d_model": "6"}', r"'d_model' is '6', expected integer"),
        ('{"format": "minilm", "d_model": true}', r"'d_model' is True, expected integer"),
        ('{"format": "minilm", "d_model": 6.0}', r"'d_model' is 6.0, expected integer"),
        ('{"format": "minilm", "dropout": true}', r"'dropout' is True, expected number"),
        ('{"format": "minilm", "init_std": "x"}', r"'init_std' is 'x', expected number|none"),
        ('{"format": "minilm", "pooler": 1}', r"'pooler' is 1, expected true|false"),
        ('{"format": "minilm", "norm": null}', r"'norm' is None, expected post|pre"),
        ('{"format": "minilm", "n_encoder_layer": 1, "d_model": 7, "n_head": 2}', "7 is not divisible"),
        ('{"d_model": 6}', '"format": "minilm" is missing'),
        ('{"model_type": "bert"}', "no weights in it"),  # a published folder
        ('{"model_type": "brt"}', r"'brt' is none of ours \(did you mean 'bert'\?\): bert, "),
    ],
)
def test_a_config_that_is_wrong_or_foreign(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    for read in (load, load_config):
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("changes", [dict(), dict(dropout=0, init_std=None), dict(init_std=1, norm="post")])
def test_the_config_comes_back(tmp_path, changes):
    config = replace(SMALL, **changes)
    save_model(tmp_path, build(config))
    assert load_config(str(tmp_path)) == config


def test_weights_simpler_than_the_trained_ones_are_saved(model, tmp_path):
    class Merged(torch.nn.Module):
        """What LoRA and PPO train: more than is loaded."""

        config, merged_state = SMALL, staticmethod(model.state_dict)

    save_model(tmp_path, Merged())
    assert torch.equal(load(tmp_path)[0].tokens.weight, model.tokens.weight)


def test_weights_of_another_model_are_refused(model, tmp_path):
    save(model, None, tmp_path)
    other = build(replace(SMALL, final_norm=True))
    with pytest.raises(UserError, match=r"model\.safetensors does not fit the model: 2 missing"):
        load_weights(tmp_path, other)
    other = build(SMALL)
    load_weights(tmp_path, other)
    assert torch.equal(other.tokens.weight, model.tokens.weight)


def test_both_kinds_of_tokenizer_come_back(model, tokenizer, tmp_path):
    wordpiece = WordPiece([*SPECIAL_TOKENS, "to", "be"], lower_case=False)
    for name, saved in (("bpe", tokenizer), ("wordpiece", wordpiece)):
        save(model, saved, tmp_path / name)
        for found in (load(tmp_path / name)[1], load_tokenizer(tmp_path / name / "tokenizer.json")):
            assert type(found) is type(saved) and found.encode("to be To") == saved.encode("to be To")
    (tmp_path / "other.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(UserError, match="other.json: cannot be read as a tokenizer saved by minilm"):
        load_tokenizer(tmp_path / "other.json")


def test_published_models_are_told_from_runs(model, tmp_path):
    save(model, None, tmp_path / "run")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text('{"model_type": "bert"}')
    paths = ["hf:owner/name", tmp_path / "published", tmp_path / "run", tmp_path / "none"]
    assert [is_published(path) for path in paths] == [True, True, False, False]
