"""What the tests of kills and odd surroundings share: a tiny command of each script, and how it is run."""

import itertools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import small
import tuned
from forked import ENVIRONMENT, ROOT, start_fork

import minilm
from minilm.plumbing.folders import read_log
from minilm.training.machine import fastest_library
from minilm.world.tasks import translation_pairs

fastest_library()  # once for all forks: were each to time it, two of a kind might differ in the last digits
SMALL_WORLD = Path(__file__).with_name("small_world.py")
SIZES = "--vocab-size 300 --d-model 16 --n-head 2 --d-ff 24 --dropout 0.1"
SHORT = "--seed 5 --batch-size 5 --device cpu --steps 24 --save-every 3 --eval-every 5 --log-every 2"
TEXT = f"{SHORT} --data texts.txt --context 32"
TABLE = f"finetune.py {SHORT} --data table.tsv --model encoder --no-compare"
WORLD = "reinforce.py --seed 5 --batch-size 6 --device cpu --steps 9 --save-every 3 --model decoder"
WORLD += " --n-pairs 20 --max-new-tokens 8 --sampled-prompts 6"
WORLD += " --reward-batch-size 4 --reward-steps 8 --dpo-steps 8"
ONE, BOTH = "--n-encoder-layer 1", "--n-encoder-layer 1 --n-decoder-layer 1"
COMMANDS = {
    "masked": f"train.py {TEXT} {SIZES} {ONE}",
    "causal": f"train.py --objective causal {TEXT} {SIZES} --n-decoder-layer 1",
    "denoising": f"train.py --objective denoising {TEXT} {SIZES} {BOTH}",
    "translation": f"train.py --objective translation {SHORT} --data pairs.tsv {SIZES} {BOTH}",
    "distillation": f"train.py --objective distillation --teacher encoder {TEXT} {ONE}",
    "continued": f"train.py --objective causal --init decoder --extend-vocabulary 5 {TEXT}",
    "head": f"{TABLE} --tune head",
    "lora": f"{TABLE} --tune lora --lora-rank 2",
    "all": f"{TABLE} --layer-decay 0.8 --unfreeze-every 4",
    "patience": f"{TABLE} --lr 0.05 --patience 2 --eval-every 2",
    "ppo": WORLD,
    "dpo": f"{WORLD} --algorithm dpo",
    "grpo": f"{WORLD} --algorithm grpo --group-size 3",
}


def furnish(folder: Path) -> Path:
    """Write what the commands read: texts, labelled texts, pairs, a small BERT and a small GPT."""
    for name, rows in dict(table=tuned.labelled(40), pairs=translation_pairs(60, 0)).items():
        Path(folder, f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    Path(folder, "texts.txt").write_text("\n\n".join(small.documents(60)), encoding="utf-8")
    for kind in ("encoder", "decoder"):
        minilm.save(tuned.body(kind, max_positions=256, dropout=0.1), small.tokenizer(), folder / kind)
    return folder


def words_of(command: str) -> list[str]:
    """Return the words of Python's command line: the script by its path, its flags split at spaces."""
    script, *flags = command.split()
    is_small = script == "reinforce.py" or "--init" in flags
    return [*([str(SMALL_WORLD)] if is_small else []), str(ROOT / script), *flags]


def start(command: str, folder: Path, *more, under=(), **how) -> subprocess.Popen:
    """Start a command in a furnished folder, `under` another; `more`: words that hold spaces or bytes."""
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    call = [*under, sys.executable, *words_of(command), *more]
    return subprocess.Popen(call, cwd=folder, env=os.environ | ENVIRONMENT, **pipes | how)


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for a process; return exit code, standard output, and what is `essential` of standard error."""
    try:
        out, err = ((text or b"").decode(errors="replace") for text in process.communicate(timeout=120))
    finally:
        process.kill()  # where it hangs
    return process.returncode, out, essential(err)


def essential(err: str) -> str:
    """Return standard error without the steps that are told, and flags unlike before."""
    return "".join(line for line in err.splitlines(True) if not line.startswith(("step ", "--")))


def finished(command: str, folder: Path, *more, **how) -> tuple[int, str, str]:
    """Run a command to its end: see `start` and `end`."""
    return end(start(command, folder, *more, **how))


def has_traceback(command: str, told: str) -> bool:
    """Say whether a command has ended with a traceback; before its first line it can do nothing about it."""
    return "Traceback" in told and str(ROOT / command.split()[0]) in told and "plumbing.first" not in told


def fork(command: str, folder: Path, kill_at: int = 0) -> BaseProcess:
    """Start a command in a fork; it is killed before its n-th renaming of a file (0: not at all)."""
    return start_fork(_run, command, kill_at, folder=folder)


def _run(command: str, kill_at: int) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process of one's own
    rename, count = os.replace, itertools.count(1)

    def rename_or_die(*names):
        if next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*names)

    os.replace = rename_or_die
    sys.argv = [str(SMALL_WORLD), *words_of(command)[-len(command.split()) :]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        os._exit(end.code)  # what multiprocessing would still do is no part of a script


def assert_same_run(found: Path, whole: Path) -> None:
    """Compare what a run left that was stopped and went on with one that was not: files, weights, logs."""
    found_files, files = ({str(path.relative_to(run)) for path in run.rglob("*")} for run in (found, whole))
    assert found_files == files, f"a run that went on leaves more or less: {found_files ^ files}"
    for name in sorted(files):
        if name.endswith("model.safetensors"):
            same = (found / name).read_bytes() == (whole / name).read_bytes()
            assert same, f"{name}: other weights than without a stop"
        elif name.endswith("log.jsonl"):
            logs = [read_log((run / name).parent) for run in (found, whole)]
            told = [[(line["step"], line["split"]) for line in log] for log in logs]
            assert told[0] == told[1], f"{name}: a step is missing or told twice"
