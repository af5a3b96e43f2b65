"""Grades checkpoint.py: loading gives back what was saved, a kill loses nothing, resuming is safe."""

import copy
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch

import minilm
from minilm import checkpoint
from minilm.model.config import PRESETS, ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import append_log, choose_folder, read_log, trim_log
from minilm.plumbing.safetensors import read_tensors, write_tensors
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.wordpiece import SPECIAL_TOKENS, WordPiece
from minilm.training import checkpoints

SIZES = dict(vocab_size=11, n_encoder_layer=1, d_model=6, n_head=2, d_ff=10, max_positions=7)
SMALL = ModelConfig(**SIZES, dropout=0.5)


@pytest.fixture
def model():
    return build(SMALL)


@pytest.fixture(scope="module")
def tokenizer():
    return BPE.train(["to be or not to be"], 270)


def test_load_gives_back_what_was_saved(model, tokenizer, tmp_path):
    checkpoint.save(model, tokenizer, tmp_path / "run")
    loaded, loaded_tokenizer = checkpoint.load(tmp_path / "run")
    assert loaded.config == SMALL
    assert not loaded.training, "a loaded model is for use: dropout must be off"
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(loaded(ids), model.eval()(ids))
    assert loaded_tokenizer.encode("to be") == tokenizer.encode("to be")
    assert minilm.load is checkpoint.load
    assert minilm.save is checkpoint.save


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
        ('{"format": "minilm", "n_encoder_layer": 1, "d_model": 7, "n_head": 2}', "7 is no multiple"),
        ('{"d_model": 6}', '"format": "minilm" is missing'),
        ('{"model_type": "bert"}', "no weights in it"),  # a published folder
        ('{"model_type": "brt"}', r"'brt' is not supported \(did you mean 'bert'\?\); expected bert, "),
    ],
)
def test_a_config_that_is_wrong_or_foreign(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    for read in (checkpoint.load, checkpoint.load_config):
        with pytest.raises(UserError, match=message) as caught:
            read(tmp_path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("changes", [dict(), dict(dropout=0, init_std=None), dict(init_std=1, norm="post")])
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
    gpt2 = replace(PRESETS["gpt2"], vocab_size=11, n_decoder_layer=1, d_model=6, n_head=2, d_ff=10)
    checkpoint.exporting.export_model(build(gpt2), None, tmp_path / "theirs")
    assert checkpoint.load_config(tmp_path / "theirs") == gpt2
    assert checkpoint.load(tmp_path / "theirs")[0].config == gpt2


class Killed(BaseException):
    """Stands for the moment at which a process dies."""


def constant(value: float) -> torch.nn.Module:
    """A model whose weights are all `value`, so that a mixture of two steps is seen at once."""
    model = build(SMALL)
    for weight in model.state_dict().values():
        weight.fill_(value)
    return model


def save_step(folder, step: int, tokenizer=None) -> None:
    """What the loop does at a checkpoint."""
    append_log(folder, {"step": step, "split": "train", "loss": 1 / step})
    state = constant(step).state_dict()
    checkpoint.save_description(folder, constant(step), tokenizer)
    checkpoint.save_weights(folder, constant(step))
    moments = {
        name: dict(step=torch.tensor(step), exp_avg=t, exp_avg_sq=t)
        for name, t in state.items() if name in checkpoints.trained_weights(constant(step))
    }  # fmt: skip
    rest = dict(seconds=0.5, before=None, stopping=dict(loss=1.0, n_worse=0, model=None), objective=None)
    checkpoints.save_trainer(folder, rest | dict(step=step, model=state, optimizer=moments))


def test_a_body_is_loaded_without_the_head_beside_it(tmp_path):
    checkpoint.save(constant(2), None, tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    write_tensors(path, read_tensors(path) | {"head.dense.weight": torch.ones(2, 3)})
    assert steps_in(checkpoint.load(tmp_path / "run")[0].state_dict()) == {2.0}
    write_tensors(path, read_tensors(path) | {"heap": torch.ones(2, 3)})
    with pytest.raises(UserError, match="1 unexpected .heap"):
        checkpoint.load(tmp_path / "run")


def steps_in(state: dict[str, torch.Tensor]) -> set[float]:
    return {value for tensor in state.values() for value in tensor.unique().tolist()}


def moments_in(state: dict) -> set[float]:
    return {value for moments in state["optimizer"].values() for value in steps_in(moments)}


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_leaves_one_step_whole(tokenizer, tmp_path, monkeypatch, after):
    (tmp_path / "first").mkdir()
    save_step(tmp_path / "first", 1, tokenizer)
    real, seen = os.replace, set()
    for kill_at in range(1, 5):
        folder = tmp_path / f"killed-{kill_at}"
        shutil.copytree(tmp_path / "first", folder)
        count = 0

        def replace(source, target, kill_at=kill_at):
            nonlocal count
            count += 1
            if count == kill_at and not after:
                raise Killed
            real(source, target)
            if count == kill_at and after:
                raise Killed

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            save_step(folder, 2, tokenizer)
        monkeypatch.setattr(os, "replace", real)
        state = checkpoints.load_trainer(folder)
        assert steps_in(state["model"]) == moments_in(state) == {state["step"]}, kill_at
        weights = steps_in(checkpoint.load(folder)[0].state_dict())
        assert weights in ({1.0}, {2.0}), "the weights to load must be of one step"
        trim_log(folder, lambda line, last=state["step"]: line["step"] <= last)
        assert [record["step"] for record in read_log(folder)] == list(range(1, state["step"] + 1))
        seen.add((state["step"], *weights))
    assert (1, 1.0) in seen
    assert (1, 2.0) in seen, "the kill between two files is the case that matters"


@pytest.mark.reliability
def test_a_real_kill_leaves_one_step_whole(tmp_path):
    root = Path(checkpoint.__file__).parents[1]
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_checkpoint import save_step\n"
        "from itertools import count\nfrom pathlib import Path\n"
        "for step in count(1):\n"
        "    save_step(Path(sys.argv[1]), step)\n"
        "    print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        time.sleep(random.random() * 0.2)
        process.kill()
    state = checkpoints.load_trainer(tmp_path)
    assert steps_in(state["model"]) == moments_in(state) == {state["step"]}
    (weights,) = steps_in(checkpoint.load(tmp_path)[0].state_dict())
    assert weights in (state["step"], state["step"] + 1)
    logged = [record["step"] for record in read_log(tmp_path)]
    assert logged[: state["step"]] == list(range(1, state["step"] + 1))
    folder = choose_folder("x", out=str(tmp_path), resume=True)
    save_step(folder, state["step"] + 1)
    assert not list(folder.glob("*.tmp")), "leftovers of a kill are cleaned up"


def test_a_trainer_state_comes_back(tmp_path):
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3, 2)}}
    group = {"lr": 1e-3, "betas": (0.9, 0.98), "fused": None, "amsgrad": False, "params": [0]}
    state = {"step": 3, "model": {"w": torch.randn(2, 3)}, "random": torch.get_rng_state()}
    state |= {"optimizer": {"state": moments, "param_groups": [group]}, "before": {"x": 1.5}}
    checkpoints.save_trainer(tmp_path, state)
    found = checkpoints.load_trainer(tmp_path)
    assert (found["step"], found["before"]) == (3, {"x": 1.5})
    assert found["optimizer"]["param_groups"] == [group], "a tuple must stay a tuple, none must stay none"
    pairs = [(found["model"]["w"], state["model"]["w"]), (found["random"], state["random"])]
    pairs += [(found["optimizer"]["state"][0][name], moments[0][name]) for name in moments[0]]
    assert all(torch.equal(a, b) for a, b in pairs)


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
        (lambda state: state.update(before=3), "'before' is 3, expected object|none"),
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
    for data in (b"", b"text", b"PK"):
        (tmp_path / "trainer.pt").write_bytes(data)
        with pytest.raises(UserError, match="damaged.*; --overwrite without --resume starts over"):
            checkpoints.load_trainer(tmp_path)


def test_a_damaged_trainer_file_is_one_line(tmp_path):
    checkpoints.save_trainer(tmp_path, {"step": 1, "model": constant(1).state_dict()})
    data = (tmp_path / "trainer.pt").read_bytes()
    draw = random.Random(0)
    refused = 0
    for trial in range(150):
        damaged = bytearray(data)
        if trial < 30:
            damaged = damaged[: draw.randrange(len(data))]
        else:  # in the pickle, which comes first
            damaged[draw.randrange(min(1500, len(data)))] ^= 1 << draw.randrange(8)
        (tmp_path / "trainer.pt").write_bytes(damaged)
        try:
            checkpoints.load_trainer(tmp_path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 30, "at least every file that is cut off must be refused"


def test_the_head_of_a_fine_tuned_model_alone_is_left_out(tmp_path):
    model = small.model("masked")
    tensors = dict(model.state_dict())
    checkpoint.load_weights(tmp_path, model, tensors | {"head.linear.weight": torch.zeros(2)})
    with pytest.raises(UserError, match="heads"):
        checkpoint.load_weights(tmp_path, model, tensors | {"heads.weight": torch.zeros(2)})
