"""Grades checkpoint.py: a kill loses nothing, resuming is safe, the log goes on where it was."""

import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm import checkpoint
from minilm.checkpoint import check_trainer, load, load_trainer, save_model, save_trainer
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import append_log, choose_folder, read_log, trim_log
from minilm.tokenizer.bpe import BPE

SMALL = ModelConfig(
    vocab_size=11, n_encoder_layer=1, d_model=6, n_head=2, d_ff=10, max_positions=7, dropout=0.5
)


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
    append_log(folder, {"step": step, "loss": 1 / step})
    state = constant(step).state_dict()
    save_model(folder, constant(step), tokenizer)
    save_trainer(folder, {"step": step, "model": state, "optimizer": [state]})


def steps_in(state: dict[str, torch.Tensor]) -> set[float]:
    return {value for tensor in state.values() for value in tensor.unique().tolist()}


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_leaves_one_step_whole(tmp_path, monkeypatch, after):
    tokenizer = BPE.train(["to be or not to be"], 270)
    save_step_to = tmp_path / "first"
    save_step_to.mkdir()
    save_step(save_step_to, 1, tokenizer)
    real, seen = os.replace, set()
    for kill_at in range(1, 5):
        folder = tmp_path / f"killed-{kill_at}"
        shutil.copytree(save_step_to, folder)
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
        state = load_trainer(folder)
        assert steps_in(state["model"]) == steps_in(state["optimizer"][0]) == {state["step"]}, kill_at
        weights = steps_in(load(folder)[0].state_dict())
        assert weights in ({1.0}, {2.0}), "the weights to load must be of one step"
        trim_log(folder, state["step"])
        assert [record["step"] for record in read_log(folder)] == list(range(1, state["step"] + 1))
        seen.add((state["step"], *weights))
    assert (1, 1.0) in seen
    assert (1, 2.0) in seen, "the kill between two files is the case that matters"


def test_a_real_kill_leaves_one_step_whole(tmp_path):
    root = Path(checkpoint.__file__).parents[1]
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_checkpoint_resume import save_step\n"
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
    state = load_trainer(tmp_path)
    assert steps_in(state["model"]) == steps_in(state["optimizer"][0]) == {state["step"]}
    (weights,) = steps_in(load(tmp_path)[0].state_dict())
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
    save_trainer(
        tmp_path, state | {"optimizer": {"state": moments, "param_groups": [group]}, "before": {"x": 1.5}}
    )
    found = load_trainer(tmp_path)
    assert (found["step"], found["before"]) == (3, {"x": 1.5})
    assert found["optimizer"]["param_groups"] == [group], "a tuple must stay a tuple, none must stay none"
    pairs = [(found["model"]["w"], state["model"]["w"]), (found["random"], state["random"])]
    pairs += [(found["optimizer"]["state"][0][name], moments[0][name]) for name in moments[0]]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert load_trainer(tmp_path, device="meta")["model"]["w"].device.type == "meta"


def test_a_state_that_could_not_be_loaded_is_told_when_it_is_saved(tmp_path):
    save_trainer(tmp_path, {"a": [1, (2.0, None, "x", True, torch.nn.Parameter(torch.ones(1)))], 3: {}})
    for value in (np.float64(1), np.zeros(2), Path("x"), Attack(tmp_path)):
        with pytest.raises(ValueError, match=r"trainer\.pt: a trainer state holds plain data and tensors"):
            save_trainer(tmp_path, {"step": 1, "model": {}, "deep": [value]})


def test_the_trainer_state_of_another_model_is_refused(tmp_path):
    save_step(tmp_path, 1)
    check_trainer(tmp_path, constant(2))
    with pytest.raises(UserError, match=r"trainer\.pt does not fit the model"):
        check_trainer(tmp_path, torch.nn.Linear(2, 3))


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
        with pytest.raises(UserError, match=r"trainer\.pt: damaged, or more than plain"):
            load_trainer(tmp_path)
        assert not (tmp_path / "broken-in").exists(), "loading has run the code of the file"


def test_a_foreign_trainer_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no trainer\.pt"):
        load_trainer(tmp_path)
    for value in ([1], {"step": 1}, torch.ones(2)):
        torch.save(value, tmp_path / "trainer.pt")
        with pytest.raises(UserError, match="not a trainer state of ours"):
            load_trainer(tmp_path)
    for data in (b"", b"text", b"PK"):
        (tmp_path / "trainer.pt").write_bytes(data)
        with pytest.raises(UserError, match="damaged.*; --overwrite starts the run anew"):
            load_trainer(tmp_path)


def test_a_damaged_trainer_file_is_one_line(tmp_path):
    save_trainer(tmp_path, {"step": 1, "model": constant(1).state_dict()})
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
            load_trainer(tmp_path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 30, "at least every file that is cut off must be refused"
