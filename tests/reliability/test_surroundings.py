"""Grades runs on a machine that is full, odd, or in use by others: they end rightly, or in one line."""

import os
import random
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from forked import end_of_fork
from reliability.runs import COMMANDS, assert_same_run, end, essential, finished, fork, has_traceback, start
from small import check_error, contents, succeed

import train
from minilm.checkpoint import load
from minilm.training.checkpoints import load_trainer

resource = pytest.importorskip("resource", reason="needs the limits and signals of Unix")
SEED, MASKED, ENDLESS = 13, COMMANDS["masked"], f"{COMMANDS['masked']} --steps 100000"
MINE, WHOLE = Path("mine"), Path("whole")
reliability, pytestmark = pytest.mark.reliability, pytest.mark.forks


def some(ordinary: int, marked: int):
    """Return numbers of a test: a few of them belong to the ordinary run."""
    return [*range(ordinary), *(pytest.param(n, marks=reliability) for n in range(ordinary, marked))]


@pytest.fixture
def script(home, run_script):
    """A function that runs train.py in this process with flags: exit code, standard output and error."""
    return lambda flags: run_script(train, *flags.split())


@pytest.fixture
def half(script, home):
    """A run in WHOLE, and the same in MINE: killed after its third checkpoint."""
    succeed(script(f"{MASKED.partition(' ')[2]} --out {WHOLE}"))
    assert end_of_fork(fork(f"{MASKED} --out {MINE}", home, kill_at=10), home)[0] == -signal.SIGKILL


@contextmanager
def room_for(n_byte: int):
    """Let no file be longer, as on a disk that is full."""
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_byte, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)


@pytest.mark.parametrize("number", some(1, 12))
def test_a_full_disk_costs_nothing_that_was_saved(number, script, half):
    most = Path(MINE, "trainer.pt").stat().st_size
    n_byte = int(most ** random.Random(f"{SEED} {number}").random())
    with room_for(n_byte):
        outcome = script(f"--resume --out {MINE}")
    what = f"room for {n_byte} bytes, seed {SEED}, case {number}"
    code, out, err = outcome
    assert code == 2, f"{what}: {err}"
    check_error((code, out, essential(err)), str(MINE), "cannot be written")
    assert load_trainer(MINE)["step"] >= 3 and load(MINE), what
    assert script(f"--resume --out {MINE}")[0] == 0, what
    assert_same_run(MINE, WHOLE)


@pytest.mark.parametrize("number", some(0, 6))
def test_a_run_that_began_on_a_full_disk_can_be_replaced(number, script, half):
    n_byte = int(Path(WHOLE, "trainer.pt").stat().st_size ** random.Random(f"{SEED} {number}").random())
    with room_for(n_byte):
        code, out, err = script(f"{MASKED.partition(' ')[2]} --out new")
    check_error((code, out, essential(err)), "new", "cannot be written")
    succeed(script(f"{MASKED.partition(' ')[2]} --out new --overwrite"))
    assert_same_run(Path("new"), WHOLE)


@reliability
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("command", [
    MASKED,
    COMMANDS["head"],
    "extract.py --model encoder --data texts.txt --device cpu",
    "prompt.py --model decoder --prompt Ana --device cpu",
    "prompt.py --model decoder --data table.tsv --n-draw 1 --n-test 4 --device cpu",
])  # fmt: skip
def test_output_that_cannot_be_written_is_one_line(command, home):
    for stream in ("stdout", "stderr"):
        with open("/dev/full", "wb") as full:
            code, out, err = finished(command, home, **{stream: full})
        if stream == "stdout":
            check_error((code, out, err), "No space left")
        else:  # where nothing can be told, the code is all
            assert code in (0, 2, 120), f"exit code {code}, which is a traceback"  # 120: Python's last flush


def test_a_log_whose_last_line_is_cut_off_is_gone_on_with(script, half):
    log = Path(MINE, "log.jsonl").read_bytes()
    n = len(log.splitlines()[-1])
    for cut in (log + log[-n : -n // 2], log[:-1], log[: -n // 2]):
        shutil.copytree(MINE, "copy", dirs_exist_ok=True)
        Path("copy/log.jsonl").write_bytes(cut)
        succeed(script("--resume --out copy"))
        if len(cut) >= len(log) - 1:  # else a step is lost
            assert_same_run(Path("copy"), WHOLE)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_is_read_only_is_one_line(script, half):
    MINE.chmod(0o555)
    try:
        for flags in (f"{MASKED.partition(' ')[2]} --out {MINE} --overwrite", f"--resume --out {MINE}"):
            code, out, err = script(flags)
            check_error((code, out, essential(err)), str(MINE))
    finally:
        MINE.chmod(0o755)
    succeed(script(f"--resume --out {MINE}"))
    assert_same_run(MINE, WHOLE)


def wait_for(is_so) -> None:
    """Wait for something that must come within a minute."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.005)


@reliability
@pytest.mark.parametrize("number", range(6))
def test_a_folder_that_goes_away_ends_the_run_in_one_line(number, home):
    process = fork(f"{ENDLESS} --out {MINE}", home)
    wait_for(Path(MINE, "trainer.pt").exists)
    time.sleep(random.Random(f"{SEED} {number}").uniform(0, 0.1))
    if number % 2:
        MINE.rename("moved")
    else:
        while MINE.exists():
            shutil.rmtree(MINE, ignore_errors=True)
    code, told = end_of_fork(process, home)
    assert code == 2 and "Traceback" not in told and told.splitlines()[-1].startswith("error: "), told
    if number % 2:
        n_step = load_trainer("moved")["step"] + 3
        code, told = end_of_fork(fork(f"train.py --resume --out moved --steps {n_step}", home), home)
        assert code == 0 and load_trainer("moved")["step"] == n_step, told


@reliability
def test_a_run_whose_folder_has_gone_does_not_write_into_another_of_its_name(home):
    seldom = "--save-every 200 --log-every 200 --eval-every 1000"  # so that it is stopped between two files
    process = fork(f"{ENDLESS} {seldom} --out {MINE}", home)
    wait_for(Path(MINE, "model.safetensors").exists)
    os.kill(process.pid, signal.SIGSTOP)
    MINE.rename("moved")
    assert end_of_fork(fork(f"{MASKED} --out {MINE}", home), home)[0] == 0
    before = contents(MINE)
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: not process.is_alive() or contents(MINE) != before)
    code, told = end_of_fork(process, home, 1)
    assert contents(MINE) == before, "the run of another was written into"
    assert code == 2 and "Traceback" not in told, told


@reliability
@pytest.mark.parametrize("flags", [f"{ENDLESS} --overwrite", "train.py --resume"])
@pytest.mark.parametrize("number", range(4))
def test_of_two_runs_in_one_folder_one_goes_on(number, flags, home):
    assert end_of_fork(fork(f"{ENDLESS} --out {MINE}", home, kill_at=10), home)[0] == -signal.SIGKILL
    runs = [fork(f"{flags} --out {MINE}", home)]
    time.sleep(random.Random(f"{SEED} {number}").uniform(0, 0.1))
    runs.append(fork(f"{flags} --out {MINE}", home))
    wait_for(lambda: not all(run.is_alive() for run in runs))
    loser, winner = sorted(runs, key=lambda run: run.is_alive())
    code, told = end_of_fork(loser, home)
    assert code == 2 and told.splitlines()[-1].startswith("error: ") and "Traceback" not in told, told
    assert "another process is writing there" in told, "why the folder cannot be had is not said"
    wait_for(Path(MINE, "trainer.pt").exists)
    os.kill(winner.pid, signal.SIGINT)
    code, told = end_of_fork(winner, home)
    assert code == 130 and load_trainer(MINE), told


ASCII = dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
UNDER = {
    "stdout closed": ["bash", "-c", '"$@" >&-', "-"],
    "stdin closed": ["bash", "-c", '"$@" <&-', "-"],
    "stderr closed": ["bash", "-c", '"$@" 2>&-', "-"],
    "all closed": ["bash", "-c", '"$@" <&- >&- 2>&-', "-"],
    "no HOME": ["env", "-u", "HOME"],
    "ASCII": ["env", *(f"{name}={value}" for name, value in ASCII.items())],
    "no environment": ["env", "-i", "OMP_NUM_THREADS=1"],
}


@reliability
@pytest.mark.parametrize("under", UNDER)
def test_a_run_does_not_mind(under, home):
    command = COMMANDS["translation"]
    assert end_of_fork(fork(f"{command} --out {WHOLE}", home), home)[0] == 0
    code, _, err = finished(f"{command} --out {MINE}", home, under=UNDER[under])
    assert code == 0 and not err, err
    assert_same_run(MINE, WHOLE)


@reliability
@pytest.mark.parametrize("text", ["Olá", "-"])
@pytest.mark.parametrize("under", ["stdin closed", "all closed", "no environment"])
def test_a_prompt_does_not_mind(under, text, home):
    command = "prompt.py --model decoder --max-new-tokens 4 --device cpu --prompt"
    code, out, err = finished(command, home, text.encode(), under=UNDER[under])
    assert code == 0 and not err, err
    assert text == "-" or under == "all closed" or out.startswith("Ol"), out


@reliability
@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_need_not_be_utf_8(home):
    shutil.copy("texts.txt", data := b"caf\xe9.txt")
    out = b"l\xe1"
    command = MASKED.replace("--data texts.txt", "")
    for words in ([command, "--data", data, "--out", out], ["train.py --resume --steps 30", "--out", out]):
        code, _, err = finished(words[0], home, *words[1:])
        assert code == 0, err
    code, out, err = finished("train.py --resume --out", home, b"not th\xe9re")
    check_error((code, out, err), "not th")


@pytest.mark.parametrize("number", some(1, 15))
def test_ctrl_c_during_the_imports_shows_no_traceback(number, home):
    draw = random.Random(f"{SEED} {number}")
    command = draw.choice(["train.py", "finetune.py", "extract.py", "prompt.py"]) + " --help"
    moment = draw.uniform(0.05, 1.2)
    process = start(command, home)
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    what = f"{command}, Ctrl-C after {moment:.2f} s, seed {SEED}: exit code {code}\n{err}"
    assert code in (0, 130, -signal.SIGINT) and not has_traceback(command, err), what
