"""Grades checkpoint.py: loading gives back what was saved; what is missing or foreign is named."""

import json
import os
from pathlib import Path

import pytest
import torch

import minilm
from minilm import checkpoint
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


def constant(value: float) -> dict[str, torch.Tensor]:
    """Weights that are all `value`, so that a mixture of two steps is seen at once."""
    return {name: torch.full_like(tensor, value) for name, tensor in build(SMALL).state_dict().items()}


def steps_in(state: dict[str, torch.Tensor]) -> set[float]:
    return {value for tensor in state.values() for value in tensor.unique().tolist()}


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
    assert load(tmp_path / "run", device="cpu")[1] is None
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["format"] == "minilm"


def test_load_goes_to_the_device(model, tmp_path):
    save(model, None, tmp_path / "run")
    assert next(load(tmp_path / "run", device="meta")[0].parameters()).device.type == "meta"


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
        ('{"format": "minilm", "n_encoder_layer": 1, "d_model": 7, "n_head": 2}', "7 is not divisible"),
        ('{"d_model": 6}', '"format": "minilm" is missing'),
        ('{"model_type": "bert"}', "no weights in it"),  # a published folder
        ('{"model_type": "brt"}', r"'brt' is none of ours \(did you mean 'bert'\?\): bert, "),
    ],
)
def test_a_config_that_is_wrong_or_foreign(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_config_comes_back(tmp_path):
    save_model(tmp_path, {}, SMALL.to_dict())
    assert load_config(str(tmp_path)) == SMALL


def test_values_fit_the_types_of_fields():
    from typing import Literal

    fitting = [
        (3, int),
        (3, float),
        (0.5, float),
        (None, float | None),
        (2, float | None),
        ("a", Literal["a"]),
    ]
    wrong = [
        (3.0, int),
        (True, int),
        (True, float),
        ("3", int),
        ("x", float | None),
        ("b", Literal["a"]),
        (1, bool),
    ]
    assert all(checkpoint.fits(value, hint) for value, hint in fitting)
    assert not any(checkpoint.fits(value, hint) for value, hint in wrong)


def test_weights_of_another_model_are_refused(model, tmp_path):
    save(model, None, tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(tmp_path / "run", {**before, "more": torch.zeros(1)}, SMALL.to_dict())
    with pytest.raises(UserError, match=r"model\.safetensors does not fit the model: 1 unexpected \(more\)"):
        load_weights(tmp_path / "run", model)
    save_model(tmp_path / "run", constant(3), SMALL.to_dict())
    load_weights(tmp_path / "run", model)
    assert steps_in(model.state_dict()) == {3.0}


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
