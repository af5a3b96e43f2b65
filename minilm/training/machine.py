"""What this machine does fastest for this model now: its library, precision, number of threads."""

import ctypes
import os
import sys
import timeit
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import cache

import torch

LARGE = 50_000_000  # weights from which on 16 bits are tried: small models stay in 32, and their figures too
WORTH = 1.2  # times as fast, or the digits that are lost are lost for nothing
TINY = 5_000_000  # weights up to which the threads are tried: a larger step is work enough for all of them


def seconds(work: Callable, n: int) -> float:
    """Return the shortest of n times that the work takes: the one that other programs disturbed least."""
    return min(timeit.repeat(work, repeat=n, number=1))


def keep_memory() -> None:
    """Let a step have the memory of the one before it: from the system it would come anew, page by page."""
    with suppress(AttributeError, OSError, TypeError):  # without glibc, as on macOS and Windows
        for option, most in ((-1, 2**31 - 1), (-3, 2**25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            ctypes.CDLL(None).mallopt(option, most)


@cache
def fastest_library() -> str:
    """Return which library is to multiply float32 matrices: "ieee" stands for MKL, "bf16" for oneDNN.

    PyTorch brings both along and asks MKL, which takes twice as long on some processors (Zen 5 of AMD). By
    `bf16` PyTorch allows oneDNN to round factors to 16 bits, which it does only where the processor has
    circuits for such products (AMX): they differ, and MKL stays.
    """
    x = torch.arange(2.0**16).sin().view(256, 256)
    times, products, n_thread = [], [], torch.get_num_threads()
    torch.set_num_threads(1)  # the one that other programs disturb least
    for library in ("ieee", "bf16"):
        torch.backends.mkldnn.matmul.fp32_precision = library
        times.append(seconds(lambda: x @ x, 9))
        products.append(x @ x)
    torch.set_num_threads(n_thread)
    is_exact = torch.allclose(*products, atol=1e-4)
    return "bf16" if is_exact and times[0] > 1.5 * times[1] else "ieee"


@contextmanager
def quick_products(precision: str, device: torch.device):
    """While it lasts, a CPU takes the faster library; for few rows, as in writing, that is MKL."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    if precision != "bf16" and device.type == "cpu":
        torch.backends.mkldnn.matmul.fp32_precision = fastest_library()
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def settled_precision(asked: str, model: torch.nn.Module) -> str:
    """Return fp32 or bf16 for `--precision`; auto: bf16 for a large model where a product of it is faster."""
    if asked != "auto":
        return asked
    kind, n_weight = next(model.parameters()).device.type, sum(p.numel() for p in model.parameters())
    if kind not in ("cpu", "cuda") or n_weight < LARGE:
        return "fp32"
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    products = [torch.ones(1024, 1024, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    with quick_products("fp32", torch.device(kind)):
        slow, fast = (seconds(lambda x=x: x @ x, 5) for x in products)
    if slow < WORTH * fast:
        return "fp32"
    print(f"--precision bf16: {slow / fast:.1f} times as fast as fp32 on this processor", file=sys.stderr)
    return "bf16"


def settle_threads(model: torch.nn.Module, rehearse: Callable) -> None:
    """Keep the number of threads with which a step, `rehearse()`, is fastest, unless OMP_NUM_THREADS is set.

    Threads wait for each other after every operation: fewer are faster for a tiny model, or where other
    programs want the cores (one step in ten may take a second there). The choice changes the last digits of
    a run, so it is told.
    """
    most = torch.get_num_threads()
    if most == 1 or "OMP_NUM_THREADS" in os.environ or sum(p.numel() for p in model.parameters()) > TINY:
        return
    rehearse()  # the first one makes room in memory
    n, times = most, {n: [] for n in (most, *(2**k for k in range(most) if 2**k < most))}
    while len(times[n]) < 10:  # a race of ten steps: whoever has taken the least time does the next one
        n = min(times, key=lambda n: sum(times[n]))
        torch.set_num_threads(n)
        times[n].append(timeit.timeit(rehearse, number=1))
    if n < most:
        print(f"{n} of {most} threads are fastest now (OMP_NUM_THREADS={most} for all)", file=sys.stderr)
