"""Grades plumbing/devices.py: which device, which precision, and what several processes share.

Two real processes train in tests/test_training_resume.py; here their messages are played.
"""

import pytest
import torch

from minilm.plumbing import devices
from minilm.plumbing.devices import (
    autocast,
    choose_device,
    process_count,
    process_group,
    process_rank,
    sum_over_processes,
)
from minilm.plumbing.errors import UserError


@pytest.fixture
def hardware(monkeypatch):
    """Return a function that says which devices PyTorch finds."""

    def found(cuda: bool = False, mps: bool = False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def second_of_two(monkeypatch):
    """Be the second of two processes, as torchrun says it; the first one's tensors are equal to ours."""
    for name, value in dict(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1).items():
        monkeypatch.setenv(name, str(value))
    messages = []

    def all_reduce(tensor):
        messages.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr(devices.dist, "all_reduce", all_reduce)
    return messages


def test_auto_takes_a_cuda_gpu_and_else_the_cpu(hardware):
    hardware()
    assert choose_device("auto") == torch.device("cpu")
    hardware(cuda=True)
    assert choose_device("auto") == torch.device("cuda")
    hardware(mps=True)
    assert choose_device("auto") == torch.device("cpu"), "Apple's GPU is taken on request only"


def test_a_device_that_is_there_is_taken(hardware):
    hardware(cuda=True, mps=True)
    for name in ("cpu", "cuda", "mps"):
        assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(("name", "other"), [("cuda", "mps"), ("mps", "cuda")])
def test_a_device_that_is_not_there_is_an_error(hardware, name, other):
    hardware(**{other: True})
    with pytest.raises(UserError, match=f"--device {name}.*--device cpu"):
        choose_device(name)


def test_each_process_has_its_own_gpu(hardware, second_of_two):
    hardware(cuda=True)
    assert (process_rank(), process_count()) == (1, 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")


def test_bf16_is_for_matrix_products_and_on_request():
    a, cpu = torch.rand(3, 4), torch.device("cpu")
    with autocast("bf16", cpu):
        assert (a @ a.T).dtype == torch.bfloat16
        assert (a + a).dtype == torch.float32
    with autocast("fp32", cpu):
        assert (a @ a.T).dtype == torch.float32


def test_one_process_joins_no_group_and_sums_nothing(hardware, monkeypatch):
    def never(*_):
        raise AssertionError("one process has nobody to talk to")

    monkeypatch.setattr(devices.dist, "init_process_group", never)
    monkeypatch.setattr(devices.dist, "all_reduce", never)
    assert (process_rank(), process_count()) == (0, 1)
    with process_group(torch.device("cpu")):
        value = torch.arange(3.0)
        sum_over_processes([value])
    assert value.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "nccl")])
def test_a_group_is_joined_and_left(second_of_two, monkeypatch, device, backend):
    calls = []
    monkeypatch.setattr(devices.dist, "init_process_group", lambda name: calls.append(name))
    monkeypatch.setattr(devices.dist, "destroy_process_group", lambda: calls.append("left"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(device.index))
    with pytest.raises(ZeroDivisionError), process_group(torch.device(device)):
        raise ZeroDivisionError
    assert calls == ([] if device == "cpu" else [1]) + [backend, "left"], "left even where the work fails"


def test_tensors_are_summed_in_place_and_in_one_message(second_of_two):
    tensors = [torch.arange(6.0).view(2, 3), torch.tensor(5.0), torch.arange(4.0).view(4, 1).T]
    expected = [2 * tensor for tensor in tensors]
    same = list(tensors)
    sum_over_processes(tensors)
    assert all(a is b for a, b in zip(tensors, same, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True)), (
        "values went to wrong places"
    )
    assert second_of_two == [11], "a message for each tensor is slow"
    sum_over_processes([])
    assert second_of_two == [11]
