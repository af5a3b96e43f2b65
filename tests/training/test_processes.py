"""Grades training/processes.py: several processes train what one trains, whole or shared out."""

import os
import signal
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import small
import torch
import torch.distributed as dist
from forked import end_of_fork, start_fork

from minilm.plumbing import script
from minilm.plumbing.folders import read_log
from minilm.pretraining.masked import Masked
from minilm.training import checkpoints, loop, objective, processes
from minilm.training.checkpoints import gathered, load_trainer, placed
from minilm.training.loop import train, train_step

KINDS, SHARES = ("causal", "masked"), ("all", "part")
# In double precision: Adam divides a gradient by its own size, so where the true gradient is 0 (a key's bias)
# it turns the rounding errors of float32 into whole steps.
HOW = dict(steps=4, accumulate=2, log_every=1, eval_every=2)


class WithFirst(Masked):
    """BERT's objective that also reads the first position alone, as a classifier does."""

    def loss(self, model, batch):
        loss, metrics = super().loss(model, batch)
        first = model.encode(batch["input_ids"], batch["attention_mask"], n_first=1)[-1]  # (B, 1, D)
        loss = loss + first[..., 0].sum() / small.BATCH_SIZE
        return loss, metrics | dict(loss=loss)


def objective_of(kind: str):
    """Return the objective of a kind on the small text."""
    if kind == "causal":
        return small.objective(kind)
    return WithFirst(small.corpus(), small.tokenizer(), small.CONTEXT, small.BATCH_SIZE)


def be_one_of_several(root: Path) -> None:
    """Be a process that trains in ROOT/KIND-SHARE, and leaves its weights in KIND-SHARE-RANK.pt."""
    torch.set_num_threads(1)
    with script.process_group("cpu"):
        for kind in KINDS:
            for share in SHARES:
                model, how = small.model(kind).double(), small.settings(**HOW, shard=share == "part")
                train(model, objective_of(kind), how, root / f"{kind}-{share}", patience=9)
                kinds = {type(p) for p in model.parameters()}
                assert kinds == {torch.nn.Parameter}, "what comes back is whole"
                torch.save(model.state_dict(), root / f"{kind}-{share}-{script.process_rank()}.pt")
        last = script.process_rank() == script.process_count() - 1
        for share in SHARES:  # what one process has begun
            how = small.settings(**HOW, shard=share == "part", resume=True)
            model, begun = small.model("causal", seed=1).double(), root / f"begun-{share}"
            train(model, small.objective("causal"), how, begun, patience=9)
            # and what is begun here, until the last process is told to stop
            model, how = small.model("causal").double(), small.settings(**HOW, shard=share == "part")
            try:
                objective = told(1, signal.SIGTERM if last else 0)
                train(model, objective, how, root / f"stopped-{share}", patience=9)
            except KeyboardInterrupt as stop:
                assert "step 2 of 4" in str(stop), stop
                is_saved = (root / f"stopped-{share}/trainer.pt").exists()
                assert is_saved, "one left while another saves: all end"
            else:
                raise AssertionError("a signal to one of several processes is lost")
        try:
            train(small.model("causal"), told(2, last and signal.SIGKILL), small.settings(steps=9))
        except RuntimeError as error:
            print(error, flush=True)
            os._exit(0)  # the end of the block would wait for the other
        else:
            raise AssertionError("it goes on without the other")


def told(step: int, number: int):
    """Return GPT's objective, which sends its process a signal in a step; 0: none."""
    act = lambda: number and os.kill(os.getpid(), number) or None
    return small.Disturbed(small.objective("causal"), step, act)


def with_processes(n: int, work, folder: Path, codes: list[int]) -> list[str]:
    """Do work(folder) in n processes at once, told what torchrun tells them; return what each said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE=str(n))
    ranks = [dict(RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(n)]
    running = [start_fork(work, folder, folder=folder, **group, **rank) for rank in ranks]
    try:
        ends = [end_of_fork(process, folder) for process in running]
    finally:
        for process in running:  # one that waits for another that has failed would wait for ever
            process.kill()
    assert [code for code, _ in ends] == codes, ends
    return [told for _, told in ends]


def trained(folder: Path, kind: str = "causal", objective=None, seed: int = 0, **changes) -> dict:
    """Train with one process in a folder, and return the weights."""
    folder.mkdir(exist_ok=True)
    model = small.model(kind, seed=seed).double()
    train(model, objective or objective_of(kind), small.settings(**HOW | changes), folder, patience=9)
    return model.state_dict()


def assert_same(found: dict, expected: dict, what: str) -> None:
    assert list(found) == list(expected), what
    error = max(float((found[name] - expected[name]).abs().max()) for name in expected)
    assert error < 1e-9, f"{what}: the weights differ by {error}"


@pytest.mark.forks
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.reliability)])
def test_several_processes_train_as_one(n, tmp_path):
    for name in [f"{kind}-{share}" for kind in (*KINDS, "stopped") for share in SHARES]:
        (tmp_path / name).mkdir()
    for share in SHARES:
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / f"begun-{share}", objective=told(1, signal.SIGINT))
    said = with_processes(n, be_one_of_several, tmp_path, [0] * (n - 1) + [-9])
    assert "gloo" in said[0], f"by this word a script knows that another process has ended: {said[0]}"
    for kind in KINDS:
        expected = trained(tmp_path / kind, kind)
        for share in SHARES:
            what, folder = f"{kind}, {share} of the weights in each process", tmp_path / f"{kind}-{share}"
            for rank in range(n):
                found = torch.load(tmp_path / f"{kind}-{share}-{rank}.pt", weights_only=True)
                assert_same(found, expected, f"{what}, process {rank}")
            logs = read_log(folder), read_log(tmp_path / kind)
            ours, theirs = ([line["step"] for line in log] for log in logs)
            assert ours == theirs, "the first alone writes"
            for name in ("loss", "gradient_norm"):
                ours, theirs = ([line[name] for line in log if name in line] for log in logs)
                assert ours == pytest.approx(theirs, rel=1e-6), f"{what}: not {name} of the whole batch"
            state, other = load_trainer(folder), load_trainer(tmp_path / kind)
            assert_same(state["model"], other["model"], f"{what}, in trainer.pt")
            assert_same(state["stopping"]["model"], other["stopping"]["model"], f"{what}, the best weights")
            for name, moments in state["optimizer"].items():
                assert_same(moments, other["optimizer"][name], f"{what}, moments of {name}")
    for share in SHARES:
        found = load_trainer(tmp_path / f"begun-{share}")["model"]
        assert_same(found, load_trainer(tmp_path / "causal")["model"], f"begun by one process, {share}")
        assert load_trainer(tmp_path / f"stopped-{share}")["step"] == 2, "all stop after the same step"
        found = trained(tmp_path / f"stopped-{share}", seed=1, resume=True)
        assert_same(found, load_trainer(tmp_path / "causal")["model"], f"ended by one process, {share}")


@contextmanager
def group_of_one():
    """Be the only process of a group."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    try:
        yield
    finally:
        # A thread of gloo drops the last gradients that it has summed, for which it needs Python's lock; the
        # end of a group waits for that thread and keeps the lock: left at once, both may wait for ever.
        time.sleep(0.05)
        dist.destroy_process_group()


no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_gpu)])


@DEVICES
@pytest.mark.parametrize("shard", [False, True])
def test_each_process_learns_from_its_own_rows_and_exchanges_once_a_step(shard, device, monkeypatch):
    objective, settings = small.objective("causal"), small.settings(accumulate=2, shard=shard)
    whole, seen = objective.batch(3, "train"), []
    with group_of_one():
        model = small.model("causal").to(device)
        optimizer = loop.make_optimizer(model, 0.1)
        trained, together = processes.share(model, objective, optimizer, settings)
        assert (trained is model) != shard
        validation = together.batch(3, "validation")
        assert len(validation["input_ids"]) == len(objective.batch(0, "validation")["input_ids"])
        monkeypatch.setattr(processes, "process_count", lambda: 3)
        for rank in range(3):
            monkeypatch.setattr(processes, "process_rank", lambda rank=rank: rank)
            seen.append(together.batch(3, "train")["input_ids"])
        assert torch.equal(torch.cat(seen), whole["input_ids"]), "no row twice, and none left out"
        assert [len(rows) for rows in seen] == [2, 2, 3]
        monkeypatch.undo()
        flags = []
        for batch in loop.micro_batches(together.batch(3, "train"), 2):
            together.loss(trained, loop.to_device(batch, torch.device(device)))[0].backward()
            flags.append(together.engine.require_backward_grad_sync)
        assert flags == [False, True], "gradients travel with the last micro-batch alone"


@pytest.mark.parametrize("unused", [False, True])
def test_only_a_model_with_a_weight_that_no_loss_has_is_searched_for_such_weights(unused):
    model, objective = small.model("causal"), small.objective("causal")
    model.extra = torch.nn.Parameter(torch.ones(1)) if unused else None
    with group_of_one():
        _, together = processes.share(model, objective, loop.make_optimizer(model, 0.1), small.settings())
    assert together.engine.find_unused_parameters == unused, "without need it costs time, and a warning"
    assert all(p.grad is None for p in model.parameters()), "what was tried leaves no gradient behind"


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("shard", [False, True])
def test_what_three_processes_have_adds_up(shard, learns, monkeypatch):
    engine = Mock(return_value=(torch.tensor(2.0), dict(loss=torch.tensor(2.0))))
    for module in (processes, script):
        monkeypatch.setattr(module, "process_count", lambda: 3)
    monkeypatch.setattr(script.dist, "all_reduce", lambda values: values.mul_(3))
    together = processes.Together(None, engine, small.settings(shard=shard))
    together.n_left = 1
    with torch.set_grad_enabled(learns):
        loss, metrics = together.loss(None, {})
    assert loss == 6 and metrics == dict(loss=2), "the engines divide by the number of processes"
    assert engine.reshard.called == (shard and not learns), "a backward pass does it by itself"
    norm = SimpleNamespace(full_tensor=lambda: 0.5) if shard else 0.5
    found = together.total(dict(loss=torch.tensor(2.0), right=torch.tensor(1.0)), norm, 10, 0.1)
    assert found == (dict(loss=6.0, right=3.0), 0.5, 30, 0.1), "metrics and tokens are those of all"


@DEVICES
def test_what_is_shared_out_becomes_whole_again(device):
    model, objective = small.model("masked").to(device), small.objective("masked")
    settings = small.settings(shard=True)
    optimizer = loop.make_optimizer(model, 0.1)
    with group_of_one():
        twin, together = processes.share(model, objective, optimizer, settings)
        assert {p for group in optimizer.param_groups for p in group["params"]} == set(twin.parameters())
        small.assert_equal(gathered(dict(twin.state_dict())), dict(model.state_dict()))
        forgotten = gathered(dict(twin.state_dict()) | dict(step=3), is_kept=False)
        assert {*forgotten.values()} == {None, 3}, "one process keeps what is whole: others lack the memory"
        for value in (torch.rand(3, 2), torch.tensor(7.0)):
            for like in (*twin.parameters(), *model.parameters()):
                found = gathered(placed(value, like)).cpu()
                assert torch.equal(found, value), "of other shapes it stays whole"
        for p in twin.parameters():
            value = torch.rand(p.shape)
            assert type(placed(value, p)) is type(p.data) and torch.equal(gathered(placed(value, p)), value)
        found = together.total(*train_step(twin, together, optimizer, settings, 1))
    metrics, *rest = train_step(model, objective, loop.make_optimizer(model, 0.1), settings, 1)
    assert [float(v) for v in found[1:]] == pytest.approx([float(v) for v in rest], rel=1e-4)
    found, expected = ({n: float(v) for n, v in each.items()} for each in (found[0], metrics))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shard", [False, True])
def test_a_run_goes_on_whether_shared_out_or_not(shard, tmp_path, monkeypatch):
    """One process that takes itself for one of several; real ones are graded above."""
    expected = trained(tmp_path / "alone")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", objective=told(1, signal.SIGINT))
    with group_of_one():
        for module in (checkpoints, loop, objective):
            monkeypatch.setattr(module, "process_count", lambda: 2)
        found = trained(tmp_path / "parts", seed=1, resume=True, shard=shard)
    assert_same(found, expected, "what comes back to the model")
    assert_same(load_trainer(tmp_path / "parts")["model"], expected, "what is kept")
