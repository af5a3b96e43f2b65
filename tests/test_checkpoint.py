"""Grades checkpoint.py: loading gives back what was saved, a kill loses nothing, resuming is safe."""

import copy
import itertools
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch

from minilm import checkpoint
from minilm.model.config import PRESETS, ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import append_log, read_log, trim_log
from minilm.plumbing.safetensors import write_tensors
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.wordpiece import SPECIAL_TOKENS, WordPiece
from minilm.training import checkpoints

SIZES = dict(vocab_size=300, n_encoder_layer=1, d_model=6, n_head=2, d_ff=10, max_positions=7)
SMALL = ModelConfig(**SIZES, dropout=0.5)


@pytest.fixture
def model():
    return build(SMALL)


@pytest.fixture(scope="module")
def tokenizer():
    return BPE.train(["to be or not to be"], 270)


def test_load_gives_back_what_was_saved(model, tmp_path):
    checkpoint.save(model, None, tmp_path / "run")
    loaded, _ = checkpoint.load(tmp_path / "run")
    assert loaded.config == SMALL
    assert not loaded.training, "a loaded model is for use: dropout must be off"
    small.assert_equal(loaded.state_dict(), model.state_dict())
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(loaded(ids), model.eval()(ids))


def test_a_folder_without_a_tokenizer(model, tmp_path):
    checkpoint.save(model, None, tmp_path / "run")
    loaded, loaded_tokenizer = checkpoint.load(tmp_path / "run", device="meta")
    assert loaded_tokenizer is None and loaded.tokens.weight.device.type == "meta"
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["format"] == "minilm"


def test_save_overwrites_nothing_unless_asked(model, tokenizer, tmp_path):
    checkpoint.save(model, tokenizer, tmp_path / "run")
    other = build(SMALL)
    with pytest.raises(UserError, match=r"run exists already.*overwrite=True"):
        checkpoint.save(other, None, tmp_path / "run")
    assert torch.equal(checkpoint.load(tmp_path / "run")[0].tokens.weight, model.tokens.weight)
    checkpoint.save(other, None, tmp_path / "run", overwrite=True)
    loaded, loaded_tokenizer = checkpoint.load(tmp_path / "run")
    assert torch.equal(loaded.tokens.weight, other.tokens.weight)
    assert loaded_tokenizer is None, "the tokenizer of the model before was left"
    (tmp_path / "mine").mkdir()
    checkpoint.save(model, None, tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a run folder of minilm \(it holds "):
        checkpoint.save(model, None, tmp_path / "mine", overwrite=True)
    with pytest.raises(UserError, match="exists already"):
        checkpoint.save(model, None, tmp_path / "mine" / "config.json")


def test_the_weights_are_written_last(model, tokenizer, tmp_path, monkeypatch):
    """A folder that holds weights must hold all that is needed to load them."""
    written, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(Path(b).name), real(a, b)))
    checkpoint.save(model, tokenizer, tmp_path / "run")
    assert written == ["config.json", "tokenizer.json", "model.safetensors"]


def test_load_names_what_is_missing(model, tmp_path):
    checkpoint.save(model, None, tmp_path / "masked")
    with pytest.raises(UserError, match=r"maskd: .*no such folder \(did you mean '.*masked'"):
        checkpoint.load(tmp_path / "maskd")
    (tmp_path / "masked" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors in it"):
        checkpoint.load(tmp_path / "masked")
    (tmp_path / "masked" / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json in it"):
        checkpoint.load(tmp_path / "masked")


@pytest.mark.parametrize(("text", "message"), [
    ('{"format": "minilm",\n"d_model": }', "not JSON .*line 2"),
    ('{"format": "minilm", "d_modle": 6}', r"unknown model field 'd_modle' \(did you mean 'd_model'"),
    ('{"format": "minilm", "d_model": "6"}', r"'d_model' is '6', expected integer"),
    ('{"format": "minilm", "init_std": "x"}', r"'init_std' is 'x', expected number\|none"),
    ('{"format": "minilm", "norm": null}', r"'norm' is None, expected post\|pre"),
    ('{"format": "minilm", "n_encoder_layer": 1, "d_model": 7, "n_head": 2}', "7 is no multiple"),
    ('{"d_model": 6}', '"format": "minilm" is missing'),
    ('{"model_type": "bert"}', "no weights in it"),  # a published folder
    ('{"model_type": "brt"}', r"'brt' is not supported \(did you mean 'bert'\?\); expected bert, "),
])  # fmt: skip
def test_a_config_that_is_wrong_or_foreign(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    for read in (checkpoint.load, checkpoint.load_config):
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("changes", [dict(dropout=0, init_std=None), dict(init_std=1, norm="post")])
def test_the_config_comes_back(tmp_path, changes):
    config = replace(SMALL, **changes)
    checkpoint.save_description(tmp_path, build(config))
    assert checkpoint.load_config(str(tmp_path)) == config


def test_weights_simpler_than_the_trained_ones_are_saved(model, tmp_path):
    class Merged(torch.nn.Module):
        """What LoRA and PPO train: more than is loaded."""

        config, merged_state = SMALL, staticmethod(model.state_dict)

    for name, trained in dict(merged=Merged(), compiled=torch.compile(model)).items():
        checkpoint.save(trained, None, tmp_path / name)
        assert torch.equal(checkpoint.load(tmp_path / name)[0].tokens.weight, model.tokens.weight), name


def test_weights_of_another_model_are_refused(model, tmp_path):
    checkpoint.save(model, None, tmp_path)
    other = build(replace(SMALL, final_norm=True))
    with pytest.raises(UserError, match=r"model\.safetensors does not fit the model: 2 missing"):
        checkpoint.load_weights(tmp_path, other)
    checkpoint.write_tensors(tmp_path / "model.safetensors", {"trunk.tokens.weight": model.tokens.weight})
    with pytest.raises(UserError, match="a reward model, which only reinforce.py --reward takes"):
        checkpoint.load(tmp_path)
    checkpoint.save(model, None, tmp_path, overwrite=True)
    other = build(SMALL)
    checkpoint.load_weights(tmp_path, other)
    assert torch.equal(other.tokens.weight, model.tokens.weight)


def test_both_kinds_of_tokenizer_come_back(model, tokenizer, tmp_path):
    wordpiece = WordPiece([*SPECIAL_TOKENS, "to", "be"], lower_case=False)
    for name, saved in (("bpe", tokenizer), ("wordpiece", wordpiece)):
        checkpoint.save(model, saved, tmp_path / name)
        again = checkpoint.load_tokenizer(tmp_path / name / "tokenizer.json")
        for found in (checkpoint.load(tmp_path / name)[1], again):
            assert type(found) is type(saved) and found.encode("to be To") == saved.encode("to be To")
    (tmp_path / "other.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(UserError, match="other.json: cannot be read as a tokenizer saved by minilm"):
        checkpoint.load_tokenizer(tmp_path / "other.json")


def test_a_tokenizer_of_another_model_is_refused(model, tmp_path):
    checkpoint.save(model, None, tmp_path / "run")
    n = model.config.vocab_size
    BPE({i: str(i).encode() for i in range(n + 1)}, []).save(tmp_path / "run" / "tokenizer.json")
    with pytest.raises(UserError, match=f"tokenizer.json: {n + 1} ids, but the model has {n}: another"):
        checkpoint.load(tmp_path / "run")


def test_export_says_that_a_head_is_left_out(model, tmp_path, monkeypatch):
    checkpoint.save(model, None, tmp_path)
    monkeypatch.setattr(checkpoint.exporting, "export_model", lambda *given: given[2:])
    assert checkpoint.export(tmp_path, "out") == ("out", str(tmp_path), [])
    model.head = torch.nn.Linear(8, 2)
    checkpoint.save(model, None, tmp_path, overwrite=True)
    del model.head
    assert "the fine-tuned head is left out" in checkpoint.export(tmp_path, "out")[2][0]


def test_published_models_are_told_from_runs(model, tmp_path):
    checkpoint.save(model, None, tmp_path / "run")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text('{"model_type": "bert"}')
    paths = ["hf:owner/name", tmp_path / "published", tmp_path / "run", tmp_path / "none"]
    assert [checkpoint.is_published(path) for path in paths] == [True, True, False, False]


def test_the_config_of_a_published_folder_is_one_of_ours(tmp_path):
    gpt2 = replace(PRESETS["gpt2"], vocab_size=300, n_decoder_layer=1, d_model=6, n_head=2, d_ff=10)
    checkpoint.exporting.export_model(build(gpt2), None, tmp_path / "theirs")
    assert checkpoint.load_config(tmp_path / "theirs") == gpt2
    assert checkpoint.load(tmp_path / "theirs")[0].config == gpt2


def test_a_body_is_loaded_without_the_head_beside_it(model, tmp_path):
    checkpoint.save(model, None, tmp_path)
    path, tensors = tmp_path / "model.safetensors", model.state_dict()
    write_tensors(path, tensors | {"head.dense.weight": torch.ones(2, 3)})
    assert torch.equal(checkpoint.load(tmp_path)[0].tokens.weight, model.tokens.weight)
    write_tensors(path, tensors | {"heads": torch.ones(2, 3)})
    with pytest.raises(UserError, match="1 unexpected .heads"):
        checkpoint.load(tmp_path)


class Killed(BaseException):
    """Stands for the moment at which a process dies."""


def constant(value: float) -> torch.nn.Module:
    """A model whose weights are all `value`, so that a mixture of two steps is seen at once."""
    model = build(SMALL)
    for weight in model.state_dict().values():
        weight.fill_(value)
    return model


def save_step(folder, step: int) -> None:
    """What the loop does at a checkpoint."""
    append_log(folder, {"step": step, "split": "train", "loss": 1 / step})
    model, stopping = constant(step), dict(loss=1.0, n_worse=0, model=None)
    moments = {
        name: dict(step=torch.tensor(step), exp_avg=p.detach(), exp_avg_sq=p.detach())
        for name, p in checkpoints.trained_weights(model).items()
    }
    state = dict(step=step, seconds=0.5, before=None, stopping=stopping, objective=None)
    checkpoints.save_trainer(folder, state | dict(model=model.state_dict(), optimizer=moments))
    checkpoint.save_weights(folder, model)


def steps_in(state: dict[str, torch.Tensor]) -> set[float]:
    return {value for tensor in state.values() for value in tensor.unique().tolist()}


@pytest.mark.parametrize(("kill_at", "step"), [(1, 1), (2, 2)], ids=["trainer.pt", "model.safetensors"])
def test_a_kill_before_a_file_is_replaced_leaves_one_step_whole(tmp_path, monkeypatch, kill_at, step):
    checkpoint.save_description(tmp_path, constant(1))
    save_step(tmp_path, 1)
    real, number = os.replace, itertools.count(1)

    def replace(source, target):
        if next(number) == kill_at:
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        save_step(tmp_path, 2)
    state = checkpoints.load_trainer(tmp_path)
    assert steps_in(state["model"]) == {state["step"]} == {step}
    assert steps_in(checkpoint.load(tmp_path)[0].state_dict()) == {1.0}, "the weights to load are of one step"
    monkeypatch.setattr(os, "replace", real)
    trim_log(tmp_path, lambda line: line["step"] <= step)
    assert [record["step"] for record in read_log(tmp_path)] == list(range(1, step + 1))


def test_a_trainer_state_comes_back(tmp_path):
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3, 2)}}
    group = {"lr": 1e-3, "betas": (0.9, 0.98), "fused": None, "amsgrad": False, "params": [0]}
    state = {"step": 3, "model": {"w": torch.randn(2, 3)}, "random": torch.get_rng_state()}
    state |= {"optimizer": {"state": moments, "param_groups": [group]}, "before": {"x": 1.5}}
    checkpoints.save_trainer(tmp_path, state)
    small.assert_equal(checkpoints.load_trainer(tmp_path), state)


def test_a_state_that_could_not_be_loaded_is_told_when_it_is_saved(tmp_path):
    deep = (2.0, None, "x", True, torch.nn.Parameter(torch.ones(1)))
    checkpoints.save_trainer(tmp_path, {"a": [1, deep], 3: {}})
    for value in (np.float64(1), np.zeros(2), Path("x"), Attack(tmp_path)):
        with pytest.raises(ValueError, match=r"trainer\.pt: a trainer state holds plain data and tensors"):
            checkpoints.save_trainer(tmp_path, {"step": 1, "model": {}, "deep": [value]})


def test_the_trainer_state_of_another_model_is_refused(tmp_path):
    save_step(tmp_path, 1)
    checkpoints.check_trainer(tmp_path, constant(2))
    with pytest.raises(UserError, match=r"trainer\.pt does not fit the model"):
        checkpoints.check_trainer(tmp_path, torch.nn.Linear(2, 3))


def test_moments_are_those_of_the_same_weights(tmp_path):
    """Taken by position they would lie on others: a crash, or a wrong step without a word."""
    save_step(tmp_path, 1)
    good = checkpoints.load_trainer(tmp_path)
    name, rests = "tokens.weight", constant(2)
    rests.get_parameter(name).requires_grad_(False)
    with pytest.raises(UserError, match=rf"'{name}' was trained in this run, and is not now"):
        checkpoints.check_trainer(tmp_path, rests)
    for spoil, said in (
        (lambda state: state["optimizer"].pop(name), f"'{name}' was not trained in this run, and is now"),
        (lambda state: state["optimizer"].update({name: 3}), "expected object"),
        (
            lambda state: state["optimizer"][name].pop("exp_avg"),
            f"'{name}' does not fit the model: 1 missing .exp_avg",
        ),
        (lambda state: state["optimizer"][name].update(exp_avg=torch.ones(5)), "1 of wrong shape .exp_avg"),
        (lambda state: state["optimizer"][name].update(exp_avg="x"), "1 of wrong shape .exp_avg"),
        (lambda state: state["stopping"].update(n_worse="x"), "'n_worse' is 'x', expected integer"),
        (lambda state: state["stopping"].update(model={}), "missing .tokens.weight"),
        (lambda state: state["model"].update({name: 1.0}), "1 of wrong shape"),
        (lambda state: state.update(step=1.0), "'step' is 1.0, expected integer"),
        (lambda state: state.update(before=3), r"'before' is 3, expected object\|none"),
    ):
        state = copy.deepcopy(good)
        spoil(state)
        checkpoints.save_trainer(tmp_path, state)
        with pytest.raises(UserError, match=rf"trainer\.pt.*{said}"):
            checkpoints.check_trainer(tmp_path, constant(2))
    good["optimizer"][name] = {}
    checkpoints.save_trainer(tmp_path, good)
    checkpoints.check_trainer(tmp_path, constant(2))


class Attack:
    """A pickle that runs code where it is loaded without care."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "trainer.pt"
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))):
        write({"step": 1, "model": {}, "x": Attack(tmp_path / "broken-in")}, path)
        with pytest.raises(UserError, match=r"trainer\.pt: damaged, or holds more than plain"):
            checkpoints.load_trainer(tmp_path)
        assert not (tmp_path / "broken-in").exists(), "loading has run the code of the file"


def test_a_foreign_trainer_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no trainer\.pt"):
        checkpoints.load_trainer(tmp_path)
    for value in ([1], {"step": 1}, torch.ones(2)):
        torch.save(value, tmp_path / "trainer.pt")
        with pytest.raises(UserError, match="not the state of a training run|'model' is missing"):
            checkpoints.load_trainer(tmp_path)
    checkpoints.save_trainer(tmp_path, {"step": 1, "model": {}})
    whole = (tmp_path / "trainer.pt").read_bytes()
    for data in (b"", b"text", b"PK", whole[:-100]):
        (tmp_path / "trainer.pt").write_bytes(data)
        with pytest.raises(UserError, match="damaged.*; --overwrite without --resume starts over"):
            checkpoints.load_trainer(tmp_path)
