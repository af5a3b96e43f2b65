"""Whole commands by torchrun: they come to what one process comes to; a death is said once."""

import json
import os
import signal
import subprocess
import sys

import pytest
import small
import tuned
from reliability.runs import COMMANDS, ENVIRONMENT, finished, words_of

import minilm
from minilm.plumbing.folders import read_log
from minilm.training.checkpoints import load_trainer

pytestmark = pytest.mark.reliability

# Runs a script whose process of a RANK gets a SIGNAL in a training step.
DISTURBED = """
import os, runpy, sys
from minilm.pretraining.causal import Causal
plain, (rank, number), sys.argv = Causal.batch, map(int, sys.argv[1:3]), sys.argv[3:]
def batch(self, step, split):
    if (split, step, os.environ["RANK"]) == ("train", 13, str(rank)):
        os.kill(os.getpid(), number)
    return plain(self, step, split)
Causal.batch = batch
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def still(home):
    """A folder whose models have no dropout, which is another in each process."""
    for kind in ("encoder", "decoder"):
        body = tuned.body(kind, max_positions=256, dropout=0.0, attention_dropout=0.0)
        minilm.save(body, small.tokenizer(), home / kind, overwrite=True)
    return home


def torchrun(n: int, words: list[str], folder) -> tuple[int, str, list[str]]:
    """Return exit code, standard output, and the lines of errors that are ours."""
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *words]
    how = dict(capture_output=True, text=True, timeout=300)
    done = subprocess.run(call, cwd=folder, env=os.environ | ENVIRONMENT, check=False, **how)
    said = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "stopped "))]
    print(done.stderr)  # shown where a test fails
    return done.returncode, done.stdout, said


@pytest.mark.parametrize(("n", "shard"), [(2, ""), (3, "--shard")])
@pytest.mark.parametrize(
    "name", ["causal", "distillation", "continued", "lora", "all", "patience", "ppo", "dpo"]
)
def test_a_command_comes_to_what_one_process_comes_to(name, n, shard, still):
    command = COMMANDS[name]
    if command.startswith("train.py"):
        command += " --accumulate 2 --batch-size 6" + " --dropout 0" * (name == "causal")
    elif command.startswith("reinforce.py") and shard:
        pytest.skip("has no --shard")
    parts = ("", "reward") if name in ("ppo", "dpo") else ("",)
    assert finished(f"{command} --out one", still)[0] == 0
    code, out, said = torchrun(n, words_of(f"{command} --out many {shard}"), still)
    assert (code, said, out.count("Saved in many")) == (0, [], 1), "the first process alone speaks"
    for folder in parts:
        one, many = (still / each / folder for each in ("one", "many"))
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in many.iterdir())
        lines = [read_log(each) for each in (one, many)]
        for ours, theirs in zip(*lines, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4), (ours, theirs)
    one, many = (json.loads((still / each / "results.json").read_text()) for each in ("one", "many"))
    assert one.keys() == many.keys()


@pytest.mark.parametrize(
    "command",
    ["extract.py --model encoder --draws 1 --labels 1", "prompt.py --model decoder --n-draw 1 --n-test 4"],
)
def test_what_trains_nothing_is_done_once(command, home):
    code, out, said = torchrun(2, words_of(f"{command} --out many"), home)
    assert (code, said, out.count("Saved in many")) == (0, [], 1), "the first process alone speaks"
    assert (home / "many" / "results.json").exists()


@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGKILL), (2, signal.SIGTERM), (0, signal.SIGINT)])
@pytest.mark.parametrize("shard", ["", "--shard"])
def test_a_process_that_dies_or_is_told_to_stop_ends_all_with_one_line(rank, number, shard, home):
    (home / "disturbed.py").write_text(DISTURBED, encoding="utf-8")
    words = words_of(f"{COMMANDS['causal']} --out many {shard}")
    code, _, said = torchrun(3, ["disturbed.py", str(rank), str(int(number)), *words], home)
    expected = "error: another of 3 processes has ended, see above; " * (number == signal.SIGKILL)
    assert code != 0 and len(said) == 1, said
    assert said[0].startswith(expected or "stopped after step 14 of 24, saved; to go on: --resume"), said
    assert "to go on: " in said[0] and "--resume" in said[0]
    assert load_trainer(home / "many")["step"] == (12 if expected else 14)
    minilm.load(home / "many")
    code, _, said = torchrun(2, words_of("train.py --resume --out many"), home)
    assert (code, said) == (0, []) and load_trainer(home / "many")["step"] == 24


def test_a_mistake_is_told_once(home):
    code, _, said = torchrun(3, words_of(f"{COMMANDS['causal']} --data nothing.txt"), home)
    assert code != 0 and len(said) == 1 and "nothing.txt" in said[0]
