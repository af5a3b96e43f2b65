"""Grades plumbing/script.py: how a run begins and ends, whichever script it is of, and where it runs.

Two real processes train in tests/training/test_loop_resume.py; here their messages are played.
"""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import small
import torch

from minilm.plumbing import script
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import lock, read_json, write_json
from minilm.plumbing.settings import CommonSettings


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Of a script."""

    task: str = "count"  # what is done
    steps: int = 3  # how often
    resume: bool = False  # go on
    reward_function: str | None = None  # code
    note: str | None = None  # any


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(monkeypatch, flags: str) -> tuple[dict, dict]:
    monkeypatch.setattr(sys, "argv", ["script.py", *flags.split()])
    return script.read_command(Settings, "A script.", lambda given: given.get("task", "count"))


def begun(**settings) -> Path:
    """Return the folder of a run that has begun, and can go on."""
    folder = script.begin("count", Settings(**settings))
    Path(folder, "trainer.pt").touch()
    return folder


def fails(error: BaseException):
    """Return a main that ends so."""

    def main():
        raise error

    return main


def test_what_is_given_is_laid_over_the_run_that_goes_on_and_what_is_otherwise_is_said(monkeypatch, capsys):
    assert command(monkeypatch, "--steps 5") == (dict(steps=5), {})
    begun(steps=5, seed=2, precision="fp32", note="\x1b[31mred")
    given, overrides = command(monkeypatch, "--resume --steps 7 --seed 2 --note a")
    expected = Settings(steps=7, seed=2, precision="fp32", resume=True, out="runs/count", note="a")
    assert overrides == {} and Settings(**given) == expected
    assert capsys.readouterr().err == "--steps 7 (before: 5)\n--note a (before: \\x1b[31mred)\n"
    with pytest.raises(UserError, match="in any unfinished runs/sort"):
        command(monkeypatch, "--resume --task sort")


def test_how_a_run_began_is_of_no_interest_when_it_goes_on(monkeypatch):
    begun(out="one", overwrite=True)
    assert command(monkeypatch, "--resume --out one")[0]["overwrite"] is False


def test_code_is_named_on_the_command_line_alone(monkeypatch):
    """A folder of a stranger must not run his code."""
    path = begun() / "settings.json"
    write_json(path, json.loads(path.read_text()) | dict(reward_function="stranger.evil:f"))
    with pytest.raises(UserError, match="its reward is code; to run it: --reward-function stranger.evil:f"):
        command(monkeypatch, "--resume")
    given, _ = command(monkeypatch, "--resume --reward-function mine:f")
    assert given["reward_function"] == "mine:f"


def test_a_bar_waits_five_seconds_and_is_that_of_the_first_process(monkeypatch):
    bar = script.with_bar([3, 1, 2], "pairs")
    assert list(bar) == [3, 1, 2] and len(bar) == 3, "a bar changes nothing"
    seen = []
    monkeypatch.setattr(script, "tqdm", lambda *given, **how: seen.append((given, how)))
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        script.with_bar([], "pairs")
    how = dict(delay=5, leave=False, ncols=100)
    assert seen == [(([], "pairs"), how | dict(disable=is_hidden)) for is_hidden in (None, True)]


def test_of_several_processes_the_first_alone_makes_the_folder_and_tells_the_others(monkeypatch, broadcast):
    monkeypatch.setenv("RANK", "1")
    broadcast.append(Path("new"))
    assert script.begin("count", Settings()) == Path("new") and not Path("new").exists()
    assert script.begin("count", Settings(out="new", resume=True)) == Path("new"), "asked nobody"
    monkeypatch.setenv("RANK", "0")
    assert script.begin("count", Settings(out="new")) == Path("new") and Path("new/settings.json").exists()
    assert broadcast == [Path("new")] * 2
    with pytest.raises(UserError, match="--out new exists"):
        script.begin("count", Settings(out="new"))


def test_a_run_begins_with_its_command(capsys):
    folder = script.begin("count", Settings(steps=4), dict(d_model=8), "train.py")
    assert folder == Path("runs/count")
    saved = json.loads((folder / "settings.json").read_text())
    assert (saved["steps"], saved["d_model"]) == (4, 8)
    printed = capsys.readouterr().out
    assert printed.startswith("train.py --steps 4") and "--d-model 8" in printed


def test_a_run_of_a_script_that_cannot_go_on_has_a_folder_of_its_own():
    assert script.begin("rows", CommonSettings(out="mine")) == Path("mine") and Path("mine/lock").exists()
    with pytest.raises(UserError, match="--out mine exists"):
        script.begin("rows", CommonSettings(out="mine"))


def test_a_run_ends_with_its_table_its_figures_and_what_to_try_next(capsys):
    folder = script.begin("count", Settings(seed=3))
    capsys.readouterr()
    tables = [([("loss", 2.0, 0.5)], ("", "before", "after")), ([("share", 0.25)], ("", "now"))]
    figures = dict(loss=0.5, floor=None)
    script.finish(folder, Settings(seed=3), tables, ["An example."], figures, 61.4, "python more.py")
    assert json.loads((folder / "results.json").read_text()) == dict(loss=0.5, seconds=61.4, seed=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and line[0] not in "-"] == [
        "      before  after",
        "loss   2.000  0.500",
        "         now",
        "share  0.250",
        "An example.",
        "Saved in runs/count (61 s).",
        "Next: python more.py",
    ]


def test_the_curve_of_a_log_falls_as_its_loss_does():
    log = [dict(step=i, split="train", loss=9.0 - i) for i in range(8)]
    log += [dict(step=i, split="validation", loss=99.0) for i in range(7)]
    assert script.curve(log) == ["", "train loss  9.000 █▇▆▅▄▃▂▁ 2.000"], "the split with more lines is drawn"
    assert script.curve(log[:2] + log[8:11]) == ["", "validation loss  99.000 ▁▁▁ 99.000"]
    assert script.curve(log[:3] + log[8:11])[1].startswith("validation"), "of as many, what it has not learnt"
    assert script.curve(log[:2]) == script.curve(log[:1]) == script.curve([]) == [], "two are no curve"


def test_the_curve_of_a_policy_is_its_reward_and_a_long_one_fits_a_line():
    log = [dict(step=i, split="train", loss=0.0, reward=i / 4) for i in range(997)]
    (_, line) = script.curve(log)
    assert line.startswith("train reward  0.000 ▁") and line.endswith("█ 249.000") and len(line) <= 60
    drawn = line.split()[3]
    assert len(drawn) == 30 and drawn[15] == "▅" and list(drawn) == sorted(drawn), "equal steps of the log"


def test_table_aligns_numbers_at_the_right_and_words_at_the_left():
    rows = (row for row in [["accuracy", 0.5, None], ["loss", 10.25, 2]])
    text = script.table(rows, ["", "before", "after"])
    assert text.splitlines() == [
        "          before  after",
        "-----------------------",
        "accuracy   0.500      -",
        "loss      10.250      2",
    ]
    words = script.table([["a", "xxx"], ["bb", "x"]], ["name", "text"])
    assert words.splitlines()[2:] == ["a     xxx", "bb    x"]
    assert script.table([], ["a", "b"]) == "a  b\n----"
    with pytest.raises(ValueError):
        script.table([[1, 2], [3]], ["a", "b"])


def test_cells():
    values = [None, 110106428, 0.12345, 0.0, -0.0, 1e-5, -1e-5, 0.0005, 1, float("nan"), "text"]
    texts = "- 110,106,428 0.123 0.000 0.000 1.0e-05 -1.0e-05 0.001 1 nan text"
    assert [script.cell(value) for value in values] == texts.split()


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (UserError("file.txt:\nline 3"), 2, "error: file.txt: line 3\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C: there is nothing to resume\n"),
        (KeyboardInterrupt("saved in runs/masked"), 130, "saved in runs/masked\n"),
        (OSError(28, "No space left on device"), 2, "error: output: No space left on device\n"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "error: a/b: Permission denied\n"),
        (MemoryError(), 2, "error: out of memory; smaller batches and shorter texts need less memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8"), 2, "error: DefaultCPU"),
        (UserError("a: 'x\x1b[31m\t\u202e'"), 2, "error: a: 'x\\x1b[31m\\t\\u202e'\n"),
        (UserError(f"the user's {'x' * 300!r} isn't {'y' * 99!r}"), 2, f"user's '{'x' * 99}... isn't 'y"),
        (UserError("z " * 5000), 2, ("error: " + "z " * 500)[:1000] + "\n"),
        (UserError("/".join(["z" * 99] * 5)), 2, "error: " + "/".join(["z" * 99] * 5) + "\n"),
    ],
)
def test_an_ending_is_one_line_and_an_exit_code(ending, code, message, capsys):
    assert script.exit_code(fails(ending)) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err, "one line, on stderr"


def test_ctrl_c_in_the_closing_says_how_to_go_on(capsys):
    begun(out="my count")
    assert script.exit_code(fails(KeyboardInterrupt())) == 130
    told = f"to go on: --resume --out '{Path('my count').resolve()}'\n"
    assert capsys.readouterr().err.endswith(small.in_shell(told)), "as the shell reads it"


def test_labels_texts_and_names_cannot_steer_the_terminal(capsys):
    assert script.exit_code(lambda: print("a\tb\n\x1b[31mred\x07 \u202eolá")) == 0
    assert capsys.readouterr().out == "a\tb\n\\x1b[31mred\\x07 \\u202eolá\n"


def test_a_stream_of_jupyter_idle_or_spyder_will_do(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())  # theirs are no TextIOWrapper either
    assert script.exit_code(lambda: print("ol\xe1 \x1b")) == 0 and sys.stdout.getvalue() == "ol\xe1 \\x1b\n"


def test_figures_are_saved_though_nobody_reads_them(monkeypatch, capsys):
    folder = begun(out="r")
    monkeypatch.setattr(script, "print", Mock(side_effect=BrokenPipeError), raising=False)
    with pytest.raises(BrokenPipeError):
        script.finish(folder, Settings(), [([["loss", 1.0]], ["", "after"])], [], {"loss": 1.0}, 2.0, "more")
    assert read_json(folder / "results.json")["loss"] == 1.0


def test_a_help_has_no_colours(monkeypatch, capsys):
    """Python 3.14 gives it some, for a terminal, and the orders would be seen as text."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("PYTHON_COLORS", "1")
    monkeypatch.setattr(sys, "argv", ["script.py", "--help"])
    assert script.exit_code(lambda: script.read_command(Settings, "A script.", None)) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: script.py") and "x1b" not in told and os.environ["PYTHON_COLORS"] == "0"


@pytest.mark.reliability
@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&-", "2>/dev/full", ">/dev/full"])
def test_a_stream_that_is_closed_or_full_ends_no_run(closing):
    code = "from minilm.plumbing.script import exit_code; exit(exit_code(lambda: print('olá', chr(0xdce1))))"
    command = f'{sys.executable} -c "{code}" {closing}'
    how = dict(cwd=Path(script.__file__).parents[2], capture_output=True, text=True)
    ended = subprocess.run(["bash", "-c", command], check=False, **how)
    full = closing == ">/dev/full"
    assert ended.returncode == (2 if full else 0), ended.stderr
    assert ended.stderr == ("error: output: No space left on device\n" if full else "")


LAST = """
import atexit, sys
from pathlib import Path
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import lock
from minilm.plumbing.script import exit_code

def main():
    lock(Path(sys.argv[1]))
    sys.stdout.write("first ")
    {ending}

atexit.register(print, "Python ends", file=sys.stderr)
exit(exit_code(main))
"""


@pytest.mark.reliability
@pytest.mark.parametrize("ending, code", [("print('olá')", 0), ("exit_code(1)", 1), ("raise UserError", 2)])
def test_one_of_several_processes_leaves_without_what_python_does_at_its_end(ending, code, tmp_path):
    """PyTorch's threads may free a tensor then, and abort a run that has saved everything."""
    runs = {}
    for n in ("1", "2"):
        call = [sys.executable, "-c", LAST.format(ending=ending), str(tmp_path / n)]
        environment = os.environ | dict(WORLD_SIZE=n, RANK="0", PYTHONUTF8="1")
        how = dict(cwd=Path(script.__file__).parents[2], env=environment, text=True, encoding="utf-8")
        (tmp_path / n).mkdir()
        runs[n] = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
    for n, run in runs.items():
        out, err = run.communicate()
        assert run.returncode == code and out.startswith("first "), "a line that waited is lost"
        assert ("Python ends" in err) == (n == "1"), err
        assert not (tmp_path / n / "lock").exists(), "the folder stays locked"
        assert ("Traceback" in err) == (code == 1), err


@pytest.mark.parametrize("ending, code", [(None, 0), (UserError("a word"), 2), (SystemExit(0), 0)])
def test_of_several_processes_one_leaves_by_its_own_exit(ending, code, tmp_path, monkeypatch):
    """Real ones end so above."""
    leaves, ends = [], []
    monkeypatch.setattr(script.atexit, "register", leaves.append)
    monkeypatch.setattr(script.os, "_exit", ends.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    lock(tmp_path)
    assert script.exit_code(fails(ending) if ending else lambda: None) == code
    assert (tmp_path / "lock").exists()
    leaves.pop()()
    assert ends == [code], "the code of the run, and not what Python does at its end"
    assert not (tmp_path / "lock").exists(), "the folder stays locked"


def test_what_is_no_failure_is_returned():
    assert [script.exit_code(lambda: None), script.exit_code(lambda: 3)] == [0, 3]


@pytest.mark.parametrize(
    "bug",
    [ValueError("invalid literal"), RuntimeError("sizes do not match"), RuntimeError("CUDA: illegal memory")],
)
def test_what_is_no_mistake_of_the_user_s_keeps_its_traceback(bug):
    with pytest.raises(type(bug), match=str(bug)):
        script.exit_code(fails(bug))


@pytest.mark.reliability
def test_it_is_quiet_where_the_reader_of_a_pipe_has_left():
    reader, writer = os.pipe()
    os.close(reader)
    code = "from minilm.plumbing.script import exit_code; exit(exit_code(lambda: print('x')))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    how = dict(cwd=Path(script.__file__).parents[2], env=environment, stderr=subprocess.PIPE)
    ended = subprocess.run([sys.executable, "-c", code], stdout=writer, check=False, **how)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.fixture
def hardware(monkeypatch):
    """Return a function that says which devices PyTorch finds."""

    def found(cuda: bool = False, mps: bool = False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def second_of_two(monkeypatch):
    """Be the second of two processes, as torchrun says it."""
    monkeypatch.setattr(script.atexit, "register", lambda leave: None)  # pytest ends as ever
    for name, value in dict(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1).items():
        monkeypatch.setenv(name, str(value))


def test_a_device_that_is_there_is_taken_and_auto_takes_a_cuda_gpu_or_the_cpu(hardware, monkeypatch):
    hardware()
    assert script.choose_device("auto") == torch.device("cpu")
    hardware(cuda=True)
    assert script.choose_device("auto") == torch.device("cuda")
    hardware(mps=True)
    assert script.choose_device("auto") == torch.device("cpu"), "Apple's GPU is taken on request only"
    hardware(cuda=True, mps=True)
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    for name, precision in dict(cpu="highest", cuda="high", mps="highest").items():
        assert script.choose_device(name) == torch.device(name)
        assert asked.pop() == precision, "TF32 is for CUDA alone: the figures of a processor stay as they are"


@pytest.mark.parametrize(("name", "other"), [("cuda", "mps"), ("mps", "cuda")])
def test_a_device_that_is_not_there_is_an_error(hardware, name, other):
    hardware(**{other: True})
    with pytest.raises(UserError, match=f"--device {name}.*--device cpu"):
        script.choose_device(name)


def test_each_process_has_its_own_gpu(hardware, second_of_two, monkeypatch):
    hardware(cuda=True)
    assert (script.process_rank(), script.process_count()) == (1, 2)
    assert script.choose_device("auto") == script.choose_device("cuda") == torch.device("cuda", 1)
    assert script.choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="more processes than GPUs .* --nproc-per-node 1"):
        script.process_group("cuda").__enter__()


@pytest.fixture
def broadcast(monkeypatch):
    """What the first process has told, and will tell, while WORLD_SIZE is 2: a list."""
    told = []

    def broadcast_object_list(box):
        if script.process_rank() == 0:
            told.append(box[0])
        box[0] = told[-1]

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(script.dist, "broadcast_object_list", broadcast_object_list)
    return told


def test_what_the_first_makes_all_have(monkeypatch, broadcast):
    assert script.from_first(lambda: 3) == 3 and broadcast == [3]
    monkeypatch.setenv("RANK", "1")
    assert script.from_first(lambda: pytest.fail("the others only wait for it")) == 3


def test_one_process_joins_no_group(hardware, monkeypatch):
    monkeypatch.setattr(script.dist, "init_process_group", None)
    monkeypatch.setattr(script.dist, "broadcast_object_list", None)
    assert (script.process_rank(), script.process_count()) == (0, 1)
    with script.process_group("cuda") as nothing:
        assert nothing is None
    assert script.from_first(lambda: 5) == 5


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "cpu:gloo,cuda:nccl")])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_group_is_joined_and_left_and_the_first_speaks(
    hardware, second_of_two, monkeypatch, capsys, device, backend, rank
):
    hardware(cuda=True)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(rank))
    calls, waits = [], []
    find = lambda url, timeout: waits.append(timeout) or iter([("a store", rank, 2)])

    def join(name, timeout, **found):
        calls.append(name)
        waits.append(timeout)
        assert found == dict(store="a store", rank=rank, world_size=2)

    monkeypatch.setattr(script.dist, "rendezvous", find)
    monkeypatch.setattr(script.dist, "init_process_group", join)
    monkeypatch.setattr(script.dist, "destroy_process_group", lambda: calls.append("left"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(device.index))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ZeroDivisionError), script.process_group(device):
        print("said")
        raise ZeroDivisionError
    assert calls == ([] if device == "cpu" else [rank]) + [backend, "left"], "left even where the work fails"
    assert capsys.readouterr().out == ("" if rank else "said\n")
    told = "a torchrun that is gone is given up, a busy first one is not"
    assert waits[0] < timedelta(hours=1) < waits[1], told
    monkeypatch.setattr(script.dist, "all_reduce", lambda votes: calls.append("all are here"))
    with script.process_group(device):
        pass
    assert calls[-2:] == ["all are here", "left"], "one that leaves early ends the others"


GLOO = "[/gloo/transport/tcp/pair.cc:547] Connection closed"


@pytest.mark.parametrize("error", [RuntimeError(GLOO), torch.distributed.DistBackendError("NCCL")])
def test_of_several_processes_the_one_that_is_left_says_that_another_has_ended(error, monkeypatch, capsys):
    monkeypatch.setattr(script.atexit, "register", lambda leave: None)  # pytest ends as ever
    with pytest.raises(type(error)):
        script.exit_code(fails(error))  # of one process it is a bug
    assert script.exit_code(fails(UserError("a word"))) == 2
    capsys.readouterr()
    assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler, "alone it can be stopped as ever"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(script.time, "sleep", lambda seconds: None)
    assert script.exit_code(fails(error)) == 2
    told = "error: another of 2 processes has ended, see above; to go on: the same command with --resume\n"
    assert capsys.readouterr().err == told
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, "torchrun would cut the message off"
    with pytest.raises(RuntimeError, match="shape"):
        script.exit_code(fails(RuntimeError("shape")))
    monkeypatch.setenv("RANK", "1")
    assert (script.exit_code(fails(error)), capsys.readouterr().err) == (2, ""), "the first says so for all"


def test_the_others_give_the_first_time_to_say_what_all_would_say(second_of_two, monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(script.time, "sleep", waited.append)
    assert script.exit_code(fails(UserError("a word"))) == 2
    assert (waited, capsys.readouterr().err) == ([5], "error: a word\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "torchrun ends it while it waits"
    assert script.exit_code(fails(KeyboardInterrupt("stopped"))) == 130
    assert (waited, capsys.readouterr().err) == ([5], ""), "the first says so for all"
    monkeypatch.setenv("RANK", "0")
    assert script.exit_code(fails(UserError("a word"))) == 2
    assert (waited[1:], capsys.readouterr().err) == ([0], "error: a word\n")
