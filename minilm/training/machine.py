"""What is fastest on this machine for this model now: matrix library, precision, number of threads."""

import ctypes
import os
import sys
import timeit
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import cache, partial

import torch

LARGE = 50_000_000  # weights; models of at least this many may use bf16, smaller ones keep fp32's figures
WORTH = 1.2  # bf16 must be this many times as fast as fp32: else it is not worth the digits it loses
TINY = 5_000_000  # weights; up to this many, threads are tried: larger models keep all threads busy


def seconds(n: int, *works: Callable) -> list[float]:
    """Return each work's shortest of n timings, the one least disturbed by others; the works take turns."""
    turns = [[timeit.timeit(work, number=1) for work in works] for _ in range(n)]
    return [min(times) for times in zip(*turns, strict=True)]


def keep_memory() -> None:
    """Let each step reuse the memory of the one before: new memory would come page by page, which is slow."""
    with suppress(AttributeError, OSError, TypeError):  # without glibc, as on macOS and Windows
        for option, most in ((-1, 2**31 - 1), (-3, 2**25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            ctypes.CDLL(None).mallopt(option, most)


@cache
def fastest_library() -> str:
    """Return the setting of the faster library for float32 products: "ieee" means MKL, "bf16" oneDNN.

    PyTorch contains both and uses MKL, which takes twice as long on some processors (Zen 5 of AMD). The
    setting "bf16" allows oneDNN to round factors to 16 bits. It does so only if the processor has circuits
    for such products (AMX): then the two results differ, and we keep MKL.
    """

    def product(library: str) -> torch.Tensor:
        torch.backends.mkldnn.matmul.fp32_precision = library
        return x @ x

    x, n_thread = torch.arange(2.0**16).sin().view(256, 256), torch.get_num_threads()
    torch.set_num_threads(1)  # a single thread is disturbed least by other programs
    by_mkl, by_onednn = seconds(20, partial(product, "ieee"), partial(product, "bf16"))
    torch.set_num_threads(n_thread)
    is_exact = torch.allclose(product("ieee"), product("bf16"), atol=1e-4)
    return "bf16" if is_exact and by_mkl > 1.5 * by_onednn else "ieee"


@contextmanager
def quick_products(precision: str, device: torch.device):
    """A context in which a CPU uses the faster library; not for generation: with few rows MKL is faster."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    if precision != "bf16" and device.type == "cpu":
        torch.backends.mkldnn.matmul.fp32_precision = fastest_library()
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def settled_precision(asked: str, model: torch.nn.Module) -> str:
    """Return fp32 or bf16 for `--precision`; auto: bf16 for a large model, if a GPU has it or a CPU gains."""
    if asked != "auto":
        return asked
    kind, n_weight = next(model.parameters()).device.type, sum(p.numel() for p in model.parameters())
    if kind not in ("cpu", "cuda") or n_weight < LARGE:
        return "fp32"
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    products = [torch.ones(1024, 1024, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    with quick_products("fp32", torch.device(kind)):
        slow, fast = seconds(5, *(lambda x=x: x @ x for x in products))
    if slow < WORTH * fast:
        return "fp32"
    print(f"--precision bf16: {slow / fast:.1f} times as fast as fp32 on this processor", file=sys.stderr)
    return "bf16"


def settle_threads(model: torch.nn.Module, rehearse: Callable) -> None:
    """Set the number of threads with which a step, `rehearse()`, is fastest, unless OMP_NUM_THREADS is set.

    Threads wait for each other after every operation, so fewer are faster for a tiny model or on a busy
    machine (one step in ten may take a second). The choice changes a run's last digits, so it is printed.
    """
    most = torch.get_num_threads()
    if most == 1 or "OMP_NUM_THREADS" in os.environ or sum(p.numel() for p in model.parameters()) > TINY:
        return
    rehearse()  # the first call also allocates memory
    n, times = most, {n: [] for n in (most, *(2**k for k in range(most) if 2**k < most))}
    while len(times[n]) < 10:  # a race to ten steps: the number with the least total time goes next
        n = min(times, key=lambda n: sum(times[n]))
        torch.set_num_threads(n)
        times[n].append(timeit.timeit(rehearse, number=1))
    if n < most:
        print(f"using {n} of {most} threads, the fastest now (OMP_NUM_THREADS={most}: all)", file=sys.stderr)
