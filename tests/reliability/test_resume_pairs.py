"""Grades finetune.py --resume where other weights move than before: it goes on only if they are the same."""

import re
import shutil
from itertools import permutations
from pathlib import Path

import pytest
from reliability.runs import COMMANDS, essential
from small import assert_equal, check_error, ctrl_c, succeed

import finetune
import train
from minilm.finetuning.tasks import FineTuning
from minilm.training.checkpoints import load_trainer

COMMAND = "--model encoder --data table.tsv --no-compare --seeds 5 --batch-size 4 --steps 6 --device cpu"
HOW = "--layer-decay {} --unfreeze-every {}"
ALL_WEIGHTS = [f"--tune all {HOW.format(*how)}" for how in ((1.0, 0), (0.5, 0), (1.0, 2))]
WAYS = {f"--tune {tune} {HOW.format(1.0, 0)}": tune for tune in ("head", "bias", "lora", "last:1")}
WAYS |= dict.fromkeys(ALL_WEIGHTS, "all")
# A way before the stop, and ways to go on; two in the ordinary run.
MARKED = [pytest.param(before, [*WAYS], marks=pytest.mark.reliability) for before in WAYS]
CASES = pytest.mark.parametrize(
    "before, afters", [(ALL_WEIGHTS[0], [next(iter(WAYS)), ALL_WEIGHTS[1]]), *MARKED]
)
A_WEIGHT = re.compile(r"'?\b(head|pooler|tokens|encoder)\.[\w.]+")


@pytest.fixture
def stopped(home, run_script):
    """A function that fine-tunes in one of the ways into a folder, stopped after half of the steps."""

    def stop(way: str, folder: str) -> None:
        with ctrl_c(FineTuning, at=2):
            code, _, err = run_script(finetune, *COMMAND.split(), *way.split(), "--out", folder)
        assert code == 130 and "after step 3 of 6" in err, err

    return stop


def check(outcome: tuple[int, str, str], folder: str, settings: bytes, is_same: bool, what: str) -> None:
    """Check that a run has gone on where the same weights move, and else has changed nothing and says why."""
    code, out, err = outcome
    if is_same:
        assert code == 0 and Path(folder, "results.json").exists(), f"{what}: {err}"
    else:
        assert code == 2, f"{what}: weights go on with the moments of others, exit code {code}"
        check_error((code, out, essential(err)), "trainer.pt")
        assert A_WEIGHT.search(err), f"{what}: no weight is named in: {err}"
        assert Path(folder, "settings.json").read_bytes() == settings, f"{what}: a refused run was changed"


@CASES
def test_flags_that_let_other_weights_move_are_refused(before, afters, stopped, run_script):
    stopped(before, "mine")
    settings = Path("mine/settings.json").read_bytes()
    for number, after in enumerate(afters):
        shutil.copytree("mine", folder := f"mine-{number}")
        outcome = run_script(finetune, "--resume", "--out", folder, *after.split())
        check(outcome, folder, settings, WAYS[before] == WAYS[after], f"{before}, then {after}")


@CASES
def test_the_checkpoint_of_another_run_is_refused(before, afters, stopped, run_script):
    stopped(before, "other")
    for number, own in enumerate(afters):
        stopped(own, folder := f"mine-{number}")
        settings = Path(folder, "settings.json").read_bytes()
        shutil.copy("other/trainer.pt", folder)
        outcome = run_script(finetune, "--resume", "--out", folder)
        what = f"the checkpoint of {before} in a run with {own}"
        check(outcome, folder, settings, WAYS[before] == WAYS[own], what)


def test_the_checkpoint_of_another_script_is_refused(stopped, run_script):
    succeed(run_script(train, *COMMANDS["masked"].split()[1:], "--steps", "2", "--out", "other"))
    stopped("--tune all", "mine")
    settings = Path("mine/settings.json").read_bytes()
    shutil.copy("other/trainer.pt", "mine")
    outcome = run_script(finetune, "--resume", "--out", "mine")
    check(outcome, "mine", settings, False, "the checkpoint of a pre-training")


@pytest.mark.reliability
def test_moments_stay_with_their_weights_whatever_their_rate(stopped, run_script):
    for before, after in permutations(ALL_WEIGHTS, 2):
        stopped(before, "mine")
        moments = load_trainer("mine")["optimizer"]
        succeed(run_script(finetune, *f"--resume --out mine --steps 3 {after}".split()))
        assert_equal(load_trainer("mine")["optimizer"], moments, f"{before}, then {after}: moments")
        shutil.rmtree("mine")
