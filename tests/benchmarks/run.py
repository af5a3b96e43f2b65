"""One table of ratios: ours beside the machine's matrix rate, nanoGPT, transformers and `tokenizers`.

    python tests/benchmarks/run.py [--only causal,batch-*] [--rounds 9] [--threads 2] [--nanogpt DIR]
    python tests/benchmarks/run.py --profile gpt2

The sides of a case take turns, so that a busy machine disturbs all of them alike. A line has the median of a
side's times and their least and most; then how many times as fast ours is (the median over the rounds, in
brackets from the fastest turn of each, and least and most), or another share; then the aim, where there is
one. DIR holds nanoGPT's model.py. What is not installed is left out. All of it goes into --json FILE. Exit
status 1 where --check is given and a median misses its aim.
"""

import argparse
import datetime
import gc
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])

import torch
from benchmarks import batches, ppo, steps, texts, vectors, writing
from benchmarks.case import MATRIX, OURS, STEP, Case

from minilm.plumbing.errors import UserError, suggest
from minilm.plumbing.folders import write_json
from minilm.plumbing.script import exit_code
from minilm.training.machine import quick_products

CASES = dict(item for file in (steps, writing, ppo, vectors, texts, batches) for item in file.CASES.items())
PEERS = ("transformers", "tokenizers")
N = dict(cpu=2048, cuda=8192)  # rows and columns of the product that the machine's rate is measured with


def choose(wished: str | None, names) -> list[str]:
    """Return the names that one of the patterns between the commas fits, all for none; or UserError."""
    patterns = (wished or "*").split(",")
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            near = suggest(pattern, names)
            raise UserError(f"no case {pattern!r}{near}; there are: {', '.join(names)}")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def product(a: torch.Tensor, b: torch.Tensor) -> None:
    """Multiply two matrices by the library that a step takes."""
    with quick_products("fp32" if a.dtype == torch.float32 else "bf16", a.device):
        a @ b


def take_turns(case: Case, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side's turns; UserError where a peer's first turn gave something else."""
    sides = {name: side for name, side in case.sides.items() if side}
    if case.flops:
        n = N[case.device]
        a, b = torch.randn(2, n, n, device=case.device).to(case.dtype)
        sides[MATRIX] = lambda: product(a, b)
    wait = torch.cuda.synchronize if case.device == "cuda" else lambda: None
    ours = sides[OURS]()  # the first turn of each warms up
    for name in list(sides)[1:]:
        theirs = sides[name]()
        if case.same and not case.same(ours, theirs):
            raise UserError(f"{name} gives something else than {OURS}: they cannot be compared")
    del ours, theirs
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            wait()
            start = time.perf_counter()
            side()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def figure(case: Case, side: str, ours: float, theirs: float) -> float:
    """Return what is told of a side, from the seconds of a turn of ours and of its own."""
    if side == MATRIX:  # the share of the machine's rate that our matrix products reach
        return case.flops / ours / (2 * N[case.device] ** 3 / theirs)
    if side == STEP:  # the share of making a batch in the time of both
        return ours / (ours + theirs)
    return theirs / ours  # how many times as fast ours is


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the least and the most."""
    return dict(median=median(values), least=min(values), most=max(values))


def rows(case: Case, seconds: dict[str, list[float]]) -> list[dict]:
    """Return what is to be told of each side that took part: its times, its figure, its aim."""
    found = [dict(side=OURS, seconds=spread(seconds[OURS]), rate=case.work[0] / median(seconds[OURS]))]
    for side in list(seconds)[1:]:
        pairs = zip(seconds[OURS], seconds[side], strict=True)
        told = spread([figure(case, side, *pair) for pair in pairs])
        told["fastest"] = figure(case, side, min(seconds[OURS]), min(seconds[side]))
        row = dict(side=side, seconds=spread(seconds[side]), figure=told)
        if aim := case.aims.get(side):
            row |= dict(aim=aim, reached=told["median"] <= aim if side == STEP else told["median"] >= aim)
        found.append(row)
    return found


def line(name: str, row: dict, unit: str) -> str:
    """Return a row as a line of the table."""
    times = "{median:11,.1f} ms {least:11,.1f} – {most:<11,.1f}"
    times = times.format(**{key: 1000 * value for key, value in row["seconds"].items()})
    if row["side"] == OURS:
        return f"{name:23}{OURS:15}{times}{row['rate']:,.{0 if row['rate'] >= 100 else 1}f} {unit}/s"
    form = ".1%" if row["side"] in (MATRIX, STEP) else ".2f"
    told = {key: format(value, form) for key, value in row["figure"].items()}
    told = "{median:>6} ({fastest})  {least} – {most}".format(**told)
    aim = ""
    if "aim" in row:
        bound = "at most" if row["side"] == STEP else "at least"
        aim = f"{bound} {format(row['aim'], form)}{'' if row['reached'] else ': missed'}"
    return f"{name:23}{row['side']:15}{times}{told:34}{aim}".rstrip()


def processor() -> str:
    """Return the name of the processor, as far as the system knows it."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", file.read_text()) if file.exists() else []
    name = [*names, platform.processor() or platform.machine()][0]
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def conditions(args) -> dict:
    """Return what the figures depend on: the machine, the versions, the day."""
    found = dict(date=datetime.date.today().isoformat(), processor=processor(), cores=os.cpu_count())
    found |= dict(threads=args.threads, rounds=args.rounds, python=platform.python_version())
    versions = {name: importlib.metadata.version(name) for name in PEERS if importlib.util.find_spec(name)}
    gpu = dict(gpu=torch.cuda.get_device_name()) if torch.cuda.is_available() else {}
    return found | gpu | dict(torch=torch.__version__) | versions


def load_nanogpt(folder: str) -> None:
    """Make nanoGPT's model.py the module `nanogpt`; UserError where it is not there."""
    path = Path(folder) / "model.py"
    if not path.is_file():
        raise UserError(f"--nanogpt {folder}: no model.py in it; get it from github.com/karpathy/nanoGPT")
    spec = importlib.util.spec_from_file_location("nanogpt", path)
    sys.modules["nanogpt"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["nanogpt"])


def profile(case: Case) -> str:
    """Return a table of the operators that take most of a turn of ours."""
    case.sides[OURS]()
    with torch.profiler.profile() as seen:
        case.sides[OURS]()
    return seen.key_averages().table(f"self_{case.device}_time_total", 15, 40 if case.device == "cpu" else 60)


def measured(name: str, case: Case, rounds: int) -> dict:
    """Print the lines of a case, and return its rows and all its times."""
    seconds = take_turns(case, rounds)
    found = dict(rows=rows(case, seconds), work=case.work, flops=case.flops, seconds=seconds)
    print(*(line(name, row, case.work[1]) for row in found["rows"]), sep="\n", flush=True)
    return found


def arguments() -> argparse.Namespace:
    """Read the command line; UserError for a number below 1."""
    how = dict(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser = argparse.ArgumentParser(description=__doc__, **how)
    add = parser.add_argument
    add("--only", metavar="NAMES", help=f"with commas between, * for anything: {', '.join(CASES)}")
    add("--rounds", type=int, default=9, help="turns of each side")
    add("--threads", type=int, default=2, help="of PyTorch and of the library tokenizers")
    add("--nanogpt", metavar="DIR", help="a folder with nanoGPT's model.py")
    add("--profile", metavar="NAMES", help="only tell what takes the time in a turn of ours")
    add("--check", action="store_true", help="exit status 1 where an aim is missed")
    add("--json", default="runs/benchmarks.json", metavar="FILE", help="where all times and figures go")
    args = parser.parse_args()
    for flag, value in (("rounds", args.rounds), ("threads", args.threads)):
        if value < 1:
            raise UserError(f"--{flag} {value}: must be 1 or more")
    return args


def main() -> int:
    """Measure the chosen cases and print a line a side."""
    args = arguments()
    torch.set_num_threads(args.threads)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # of the Rust library
    if args.nanogpt:
        load_nanogpt(args.nanogpt)
    names, found, file = choose(args.profile or args.only, CASES), conditions(args), Path(args.json)
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    found["cases"] = {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.manual_seed(0)
        case = CASES[name]()
        for side in (side for side, turn in case.sides.items() if turn is None):
            print(f"{name:23}{side:15}left out: not here (pip install -e .[parity], --nanogpt DIR)")
        if case.sides[OURS] and args.profile:
            print(name, profile(case), sep="\n")
        elif case.sides[OURS]:
            found["cases"][name] = measured(name, case, args.rounds)
            write_json(file, found)  # each time: what was measured stays, whatever comes
        del case
        gc.collect()  # a large model goes before the next comes
    told = [row for case in found["cases"].values() for row in case["rows"]]
    return int(args.check and not all(row.get("reached", True) for row in told))


if __name__ == "__main__":
    sys.exit(exit_code(main))
