"""Grades training/machine.py: what is chosen when one way is faster than the other."""

import ctypes
import timeit
from dataclasses import replace
from functools import partial
from itertools import cycle, pairwise
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import small
import torch

from minilm.extraction.features import hidden_batches
from minilm.model.attention import fast_attention
from minilm.model.generate import generate
from minilm.model.transformer import build
from minilm.tokenizer.rows import RaggedRows
from minilm.training import machine
from minilm.training.loop import rehearse, train
from minilm.training.objective import evaluate

LIBRARIES = ("ieee", "bf16")


def library(chosen: str | None = None) -> str:
    """Return which library multiplies now; choose one first, if asked."""
    if chosen:
        torch.backends.mkldnn.matmul.fp32_precision = chosen
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def tf32():
    """Begin with a setting that this program does not know, and put back the one before."""
    before = library()
    library("tf32")
    yield
    library(before)


@pytest.fixture
def clock(monkeypatch):
    """A function that says how long each next piece of work takes; it is done all the same, in small."""
    monkeypatch.setattr(torch, "ones", lambda *shape, dtype: torch.zeros(2, 2, dtype=dtype))
    monkeypatch.setattr(machine, "fastest_library", lambda: "ieee")

    def times(*taken: float):
        left = list(taken)

        def seconds(n, *works):
            return [work() is None or left.pop(0) for work in works]

        monkeypatch.setattr(machine, "seconds", seconds)
        return left

    return times


@pytest.fixture
def threads(monkeypatch):
    """Four threads, and what is set in their place."""
    count = [4]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[-1])
    monkeypatch.setattr(torch, "set_num_threads", count.append)
    return count


def test_the_shortest_time_counts_and_works_take_turns(monkeypatch):
    """One after the other, a program that begins in between would slow down the second alone."""
    done, taken = [], iter([5.0, 7.0, 1.5, 9.0, 3.0, 8.0])
    monkeypatch.setattr(machine.timeit, "timeit", lambda work, number: work() or next(taken))
    works = partial(done.append, "MKL"), partial(done.append, "oneDNN")
    assert machine.seconds(3, *works) == [1.5, 7.0] and done == ["MKL", "oneDNN"] * 3


class Measured:
    """A matrix whose product oneDNN rounds to 16 bits, where `rounds` is true; notes who multiplies it."""

    def __init__(self, rounds: bool):
        self.rounds, self.seen = rounds, []

    def sin(self):
        return self

    def view(self, *shape):
        return self

    def __matmul__(self, other):
        self.seen.append((library(), torch.get_num_threads()))
        product = torch.linspace(-1, 1, 100)
        return product.bfloat16().float() if self.rounds and library() == "bf16" else product


@pytest.mark.parametrize(
    ("mkl", "rounds", "expected"),
    [(1.6, False, "bf16"), (1.4, False, "ieee"), (9.0, True, "ieee")],
)
def test_the_faster_library_is_taken_where_it_is_as_exact(mkl, rounds, expected, threads, tf32, monkeypatch):
    left, matrix = [mkl, 1.0], Measured(rounds)
    monkeypatch.setattr(torch, "arange", lambda n: matrix)
    timed = lambda n, *works: [work() is None or left.pop(0) for work in works]
    monkeypatch.setattr(machine, "seconds", timed)
    assert machine.fastest_library.__wrapped__() == expected, "figures of fp32 are of seven digits"
    assert matrix.seen == [(n, k) for k in (1, 4) for n in LIBRARIES], "timed on one thread, then compared"
    assert threads == [4, 1, 4]


@pytest.mark.parametrize(
    ("precision", "device", "inside"),
    [("fp32", "cpu", "bf16"), ("auto", "cpu", "bf16"), ("bf16", "cpu", "tf32"), ("fp32", "cuda", "tf32")],
)
def test_a_library_is_left_behind_as_it_was_found(precision, device, inside, tf32, monkeypatch):
    monkeypatch.setattr(machine, "fastest_library", lambda: "bf16")
    with pytest.raises(ZeroDivisionError), machine.quick_products(precision, torch.device(device)):
        assert library() == inside
        raise ZeroDivisionError
    assert library() == "tf32", "after an error too"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chosen", LIBRARIES)
def test_who_multiplies_much_takes_the_faster_library(chosen, precision, monkeypatch, tmp_path):
    """Training, evaluating and reading vectors do; writing multiplies a few rows at a time, and does not."""
    expected = chosen if precision == "fp32" else library()
    monkeypatch.setattr(machine, "fastest_library", lambda: chosen)
    model, objective, seen, before = small.model("causal"), small.objective("causal"), [], library()
    model.tokens.register_forward_hook(lambda *_: seen.append(library()))
    model.tokens.weight.register_hook(lambda gradient: seen.append(library()))
    settings = small.settings(steps=2, precision=precision)
    for name, work in dict(
        train=lambda: train(model, objective, settings, tmp_path, small.tokenizer()),
        rehearse=lambda: rehearse(model, objective, settings),
        evaluate=lambda: evaluate(model, objective, settings),
        hidden_batches=lambda: [*hidden_batches(model, RaggedRows([[5, 6, 7]]), precision=precision)],
    ).items():
        seen.clear()
        work()
        told = f"{name} of {precision} multiplies by {set(seen)}: float32 by the faster library, bf16 as ever"
        assert set(seen) == {expected} and library() == before, told
    seen.clear()
    generate(model, [[5, 6]], 3)
    assert set(seen) == {before}


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_precision_of_a_gpu_is_the_business_of_the_program_that_has_set_it(precision, monkeypatch):
    """Once it has, PyTorch's older functions (`get_float32_matmul_precision`) refuse to tell any."""
    monkeypatch.setattr(machine, "fastest_library", machine.fastest_library.__wrapped__)
    q = torch.randn(1, 2, 3, 4)
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        fast_attention(q, q, q)
        with machine.quick_products("fp32", q.device):
            fast_attention(q, q, q)
        assert torch.backends.cuda.matmul.fp32_precision == precision, "what is set is that of the CPU alone"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_both_libraries_train_alike(kind, monkeypatch):
    weights = {}
    for name in (*LIBRARIES, "bf16"):
        monkeypatch.setattr(machine, "fastest_library", lambda name=name: name)
        model = small.model(kind, dropout=0.2)
        plain = torch.optim.SGD(model.parameters())  # Adam would make large what differs by rounding alone
        train(model, small.objective(kind), small.settings(steps=8, lr=0.1), optimizer=plain)
        found = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert name not in weights or torch.equal(weights[name], found), "another run, other weights"
        weights[name] = found
    first, second = weights.values()
    assert torch.allclose(first, second, atol=1e-5), "more than the last digits"


def test_memory_is_kept_where_there_is_glibc(monkeypatch):
    asked, libc = [], SimpleNamespace(mallopt=lambda *given: asked.append(given))
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: libc)
    machine.keep_memory()
    trim, mmap = -1, -3  # malloc.h; a threshold of mmap above 32 MB is refused
    assert dict(asked) == {trim: 2**31 - 1, mmap: 2**25}


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_elsewhere_memory_is_the_system_s_business(error, monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", Mock(side_effect=error))
    machine.keep_memory()


@pytest.mark.skipif(not hasattr(ctypes.pythonapi, "mallopt"), reason="a system without glibc")
def test_a_step_takes_no_memory_from_the_system():
    """Each of its pages would be filled with zeros by the system, and a tenth of a small step is that."""
    resource = pytest.importorskip("resource")
    taken, objective = [], small.objective("causal")
    counted = lambda *which, plain=objective.batch: taken.append(pages()) or plain(*which)
    pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    objective.batch = counted
    torch.manual_seed(0)
    wide = replace(small.model("causal").config, d_model=64, d_ff=2048)
    train(build(wide), objective, small.settings(steps=40))
    steps = [after - before for before, after in pairwise(taken)]
    assert sorted(steps)[len(steps) // 2] < 20, f"pages by step: {steps}"


def with_weights(n: int, device: str = "cpu") -> SimpleNamespace:
    """A model of n weights that take no memory."""
    weight = SimpleNamespace(device=torch.device(device), numel=lambda: n)
    return SimpleNamespace(parameters=lambda: iter([weight]))


@pytest.mark.parametrize(
    ("asked", "n_weight", "slow", "expected"),
    [
        ("auto", 50_000_000, 2.4, "bf16"),
        ("auto", 50_000_000, 2.3, "fp32"),  # not worth the digits that it loses
        ("auto", 49_999_999, 9.0, "fp32"),  # small: the figures in the READMEs are of 32 bits
        ("fp32", 50_000_000, 9.0, "fp32"),
        ("bf16", 50_000_000, 0.1, "bf16"),
    ],
)
def test_a_large_model_learns_in_the_precision_that_is_faster(asked, n_weight, slow, expected, clock, capsys):
    left = clock(slow, 2.0)
    assert machine.settled_precision(asked, with_weights(n_weight)) == expected
    is_open = (asked, n_weight) == ("auto", 50_000_000)
    assert left == ([] if is_open else [slow, 2.0]), "what is small or was asked for needs no measuring"
    told = "--precision bf16: 1.2 times as fast as fp32" in capsys.readouterr().err
    assert told == (is_open and expected == "bf16"), "what was chosen for the user is told"


def test_16_bits_are_compared_with_the_faster_library(monkeypatch):
    seen = []
    monkeypatch.setattr(machine, "fastest_library", lambda: "bf16")
    monkeypatch.setattr(machine, "seconds", lambda n, *works: [seen.append(library()) or 1.0 for _ in works])
    assert machine.settled_precision("auto", with_weights(10**8)) == "fp32"
    assert seen == ["bf16"] * 2, "bf16 is worth its lost digits beside what fp32 can do, not beside less"


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_has_16_bits_or_not(has, expected, monkeypatch):
    asked = []
    there = lambda including_emulation: asked.append(including_emulation) or has
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", there)
    assert machine.settled_precision("auto", with_weights(10**8, "cuda")) == expected
    assert asked == [False], "emulated they are slow"
    assert machine.settled_precision("auto", with_weights(10**6, "cuda")) == "fp32"
    assert machine.settled_precision("auto", with_weights(10**8, "mps")) == "fp32"


@pytest.mark.parametrize(
    ("n_weight", "n_thread", "asked", "is_tried"),
    [
        (5_000_000, 4, None, True),
        (5_000_001, 4, None, False),  # a step takes too long to be done thirty times
        (5_000_000, 1, None, False),  # there is nothing to choose
        (5_000_000, 4, "3", False),  # it was asked for: OMP_NUM_THREADS=3
    ],
)
def test_who_tries_the_threads(n_weight, n_thread, asked, is_tried, threads, monkeypatch):
    tried, threads[:] = [], [n_thread]
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    machine.settle_threads(with_weights(n_weight), lambda: tried.append(1))
    assert bool(tried) == (len(threads) > 1) == is_tried


@pytest.mark.parametrize(
    ("steps", "best"),  # how long the steps of 4 threads, of 1 and of 2 take, again and again
    [
        (((0.2,), (0.5,), (0.3,)), 4),
        (((2.0,), (0.1,), (0.3,)), 1),
        (((0.2,), (0.3,), (0.1,)), 2),
        (((0.02,) * 8 + (1.3,), (0.03,), (0.04,)), 1),  # beside two busy programs
        (((0.2,), (0.3, 0.1), (0.3,)), 4),  # as quick as one thread, which has not taken less
    ],
)
def test_the_fastest_number_of_threads_stays(steps, best, threads, capsys, monkeypatch):
    """The shortest step says what is possible, not what a run will take: a slow one in ten counts."""
    left, taken = dict(zip((4, 1, 2), map(cycle, steps), strict=True)), {4: [], 1: [], 2: []}

    def rehearse():
        taken[threads[-1]].append(next(left[threads[-1]]) if seconds_passed() else 9.0)

    def seconds_passed() -> float:
        return sum(sum(times) for times in taken.values())

    clock = {name: partial(getattr(timeit, name), timer=seconds_passed) for name in ("timeit", "repeat")}
    monkeypatch.setattr(machine, "timeit", SimpleNamespace(**clock))
    machine.settle_threads(torch.nn.Linear(2, 2), rehearse)
    assert threads[-1] == best, "the number whose ten steps took the least time"
    del taken[4][0]  # the first step of all makes room in memory: it says nothing
    for number, times in taken.items():
        assert number == best or sum(times[:-1]) <= sum(taken[best]), "who is slower is not waited for"
    told = capsys.readouterr().err
    assert (f"{best} of 4 threads" in told) == (best < 4), "another number changes the last digits"
