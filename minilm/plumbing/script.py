"""How each of the five scripts begins and ends: device, command, the run's folder, closing table, exit code.

`torchrun --nproc-per-node 8 train.py ...` starts eight processes and tells each its number by the environment
variables RANK, WORLD_SIZE and LOCAL_RANK. Without these there is one process.
"""

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from . import folders
from .errors import CONTROLS, UserError, as_line
from .folders import RESULTS, SETTINGS, TRAINER, choose_folder, locked, process_rank, unlock, write_json
from .settings import parse, show, typed, words_of


def choose_device(name: str) -> torch.device:
    """Set up and return the device `name` (auto: CUDA's GPU, else the CPU); UserError if it is not there."""
    is_there = dict(cpu=True, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    if name == "auto":
        name = "cuda" if is_there["cuda"] else "cpu"  # mps only on request: its results differ a little
    if not is_there[name]:
        raise UserError(f"--device {name}: PyTorch finds no such GPU here; use --device cpu (or auto)")
    torch.set_float32_matmul_precision("high" if name == "cuda" else "highest")  # high: fast TF32 products
    number = ":" + os.environ["LOCAL_RANK"] if name == "cuda" and process_count() > 1 else ""
    return torch.device(name + number)


def process_count() -> int:
    """Return how many processes share a step."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def with_bar(items: Iterable, what: str) -> Iterable:
    """Iterate over the items; at a terminal, show a progress bar after five seconds."""
    return tqdm(items, what, delay=5, disable=True if process_rank() else None, leave=False, ncols=100)


@contextmanager
def process_group(device_name: str = "auto"):
    """Join the other processes for the length of a `with` block: all run the same code, the first prints."""
    if process_count() == 1:
        yield
        return
    if (device := choose_device(device_name)).type == "cuda":
        if device.index >= (n_gpu := torch.cuda.device_count()):
            raise UserError(f"more processes than GPUs on this machine: torchrun --nproc-per-node {n_gpu}")
        torch.cuda.set_device(device)  # else each process would also take memory of the first GPU
    # torchrun answers at once or is gone; but the first process may tokenise a large text for hours
    store, rank, n = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=1), store=store, rank=rank, world_size=n)
    try:
        with redirect_stdout(None) if process_rank() else nullcontext():
            yield
        with suppress(RuntimeError):  # a process that has failed is gone
            dist.all_reduce(torch.zeros(1))  # none leaves while another still reads from it
    finally:
        dist.destroy_process_group()


def from_first(make: Callable):
    """Return in every process what `make()` returns in the first one; the others wait for it."""
    made = [make() if process_rank() == 0 else None]
    if process_count() > 1:
        dist.broadcast_object_list(made)
    return made[0]


def added_up(metrics: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return each metric (0-d, on one device) summed over all processes, which wait here for each other."""
    values = torch.stack([*metrics.values()])
    if process_count() > 1:
        dist.all_reduce(values)
    return dict(zip(metrics, values, strict=True))


def read_command(settings_class: type, description: str, name_of: Callable, override_class=None) -> tuple:
    """Return (given, overrides) as `parse` does; with --resume, on top of what the run began with."""
    given, overrides = parse(settings_class, override_class, description=description)
    if given.get("resume"):
        folder = choose_folder(name_of(given), given.get("out"), given.get("overwrite", False), resume=True)
        saved, others = folders.read_settings(folder, settings_class, override_class)
        if (code := saved.pop("reward_function", None)) and "reward_function" not in given:
            raise UserError(f"{folder / SETTINGS}: its reward is code; to run it: --reward-function {code}")
        for name, value in ({**given, **overrides} if process_rank() == 0 else {}).items():
            before = (saved | others).get(name, "the preset's")
            if before != value and name not in ("out", "resume"):
                told = f"{typed(name, value)} (before: {' '.join(words_of(before))})"
                if name in ("tokenizer", "vocab_size", "extend_vocabulary", "new_rows"):
                    raise UserError(f"{told}: a resumed run keeps what it began with")
                print(as_line(told), file=sys.stderr)
        given = saved | dict(overwrite=False) | given | dict(out=str(folder))  # it overwrote when it began
        overrides = others | overrides
    return given, overrides


def begin(name: str, settings, overrides: dict | None = None, script: str | None = None) -> Path:
    """Return the folder of a run of this name, with its settings in it; print the command (of `script`)."""
    made = lambda: choose_folder(name, settings.out, settings.overwrite, getattr(settings, "resume", None))
    folder = Path(settings.out) if getattr(settings, "resume", False) else from_first(made)
    write_json(folder / SETTINGS, asdict(settings) | (overrides or {}))
    show(settings, overrides, script)
    return folder


def finish(folder: Path, settings, tables: list, lines: list[str], results: dict, seconds: float, then: str):
    """Write results.json, print the closing tables (rows, header), the lines and what to try `then`."""
    results = results | dict(seconds=seconds, seed=settings.seed)
    write_json(folder / RESULTS, {name: value for name, value in results.items() if value is not None})
    for rows, header in tables:  # after the file: whoever reads them may have left
        print("\n" + table(rows, header))
    print("", *lines, *curve(folders.read_log(folder)), "", sep="\n")
    from_first(lambda: unlock(folder))  # the others wait until all is written
    print(f"Saved in {folder} ({seconds:.0f} s).\nNext: {then}")


def curve(log: list[dict], width: int = 30) -> list[str]:
    """Return lines that draw a log's loss (or reward) as blocks between its ends; none for under 3 values."""
    name = "reward" if log and "reward" in log[-1] else "loss"
    parts = [[line[name] for line in log if line["split"] == split] for split in ("train", "validation")]
    split, values = ("train", parts[0]) if len(parts[0]) > len(parts[1]) else ("validation", parts[1])
    if len(values) < 3:
        return []
    n = min(width, len(values))
    drawn = [values[i * (len(values) - 1) // (n - 1)] for i in range(n)]
    low, height = min(drawn), max(drawn) - min(drawn)
    blocks = "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / (height or 1))] for value in drawn)
    return ["", f"{split} {name}  {values[0]:.3f} {blocks} {values[-1]:.3f}"]


def table(rows, header) -> str:
    """Return rows under their header as aligned text; columns of numbers are right-aligned."""
    columns = []
    for name, *values in zip(header, *rows, strict=True):
        cells = [name, *(cell(value) for value in values)]
        numeric = all(value is None or isinstance(value, (int, float)) for value in values)
        width = max(map(len, cells))
        columns.append([text.rjust(width) if numeric else text.ljust(width) for text in cells])
    head, *body = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([head, "-" * max(map(len, [head, *body])), *body])


def cell(value) -> str:
    """Return the text of one cell of a table: 110,106,428 or 0.123, or 1.0e-05 instead of 0.000."""
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value + 0.0:,.3f}"  # + 0.0: no "-0.000"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def prepare_streams_and_signals() -> None:
    """Treat SIGTERM as Ctrl-C; let streams take any character, and write none that a terminal would obey."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a cluster stops a run by SIGTERM
        signal.signal(number, signal.default_int_handler)
    for name, mode in dict(stdin="r", stdout="w", stderr="w").items():
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process lives
    for stream in (sys.stdout, sys.stderr):  # those of Jupyter, IDLE and Spyder take any character
        getattr(stream, "reconfigure", dict)(errors="backslashreplace")  # for one that its encoding lacks
    # Labels, texts and names come from others: no terminal may obey control characters in them.
    sys.stdout.write = lambda text, write=sys.stdout.write: write(text.translate(CONTROLS))
    os.environ["PYTHON_COLORS"] = "0"  # Python 3.14 colours help by control characters: they would show


def exit_code(main) -> int:
    """Call `main()` and return the exit code: what `main` returns (none: 0), or a code for how it ended.

    2: a UserError, or an error of the system: a full disk, a folder that may not be read, too little memory.
    130: Ctrl-C. 141: the reader of a pipe has left (`| head`). A bug keeps its traceback (code 1).
    """
    code = 1  # of a bug
    if process_count() > 1:  # a gloo thread may free a tensor while Python ends: an abort
        atexit.register(lambda: (unlock(), sys.stdout.flush(), os._exit(code)))
    prepare_streams_and_signals()
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except SystemExit as end:  # from --help
        return (code := end.code)
    except KeyboardInterrupt as stop:
        kept = next((path.parent for path in reversed(locked) if (path.parent / TRAINER).exists()), None)
        way_out = f"; to go on: --resume {typed('out', kept)}" if kept else ": there is nothing to resume"
        code, told = 130, str(stop) or f"stopped by Ctrl-C{way_out}"
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            # Python flushes stdout once more when it ends; if nobody reads it, that would print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return (code := 141)
        code, told = 2, as_line(f"error: {error.filename or 'output'}: {error.strerror or error}")
    except UserError as error:
        code, told = 2, as_line(f"error: {error}")
    except (MemoryError, RuntimeError) as error:  # the latter: PyTorch's, on a CPU or a GPU
        told = str(error)
        way_out = "smaller batches and shorter texts need less memory (flags: --help)"
        if process_count() > 1 and (isinstance(error, dist.DistError) or "gloo" in told):
            told = f"another of {process_count()} processes has ended, see above"
            way_out = "to go on: the same command with --resume"
        elif isinstance(error, RuntimeError) and ("memory" not in told or "illegal" in told):
            raise
        code, told = 2, as_line(f"error: {told.partition(chr(10))[0] or 'out of memory'}; {way_out}")
    if process_rank() and (code == 130 or "another of" in told):
        return code  # the first process reports it for all
    if process_count() > 1:  # the first reports what all met; the others wait until torchrun ends them
        signal.signal(signal.SIGTERM, signal.SIG_DFL if process_rank() else signal.SIG_IGN)
        time.sleep(5 if process_rank() else 0)
    with suppress(OSError):  # stderr may be closed too
        print(told, file=sys.stderr)
    return code
