"""Grades plumbing/folders.py: which folder a run writes into, and that nothing of anybody's is lost."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import pytest

from minilm.plumbing import folders
from minilm.plumbing.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(path, *names, config='{"format": "minilm"}'):
    """Make a run folder with these files."""
    os.makedirs(path)
    for name in names:
        Path(path, name).write_text(config if name == "config.json" else "old")


def test_a_run_without_out_gets_the_next_free_name_and_says_so(capsys):
    names = [folders.choose_folder("masked").as_posix() for _ in range(3)]
    assert names == ["runs/masked", "runs/masked-2", "runs/masked-3"]
    told = [f"There are runs of this name already: this one goes into {Path(name)}." for name in names[1:]]
    assert capsys.readouterr().out.splitlines() == told, "of a free name nothing has to be said"


def test_the_next_number_is_above_the_highest():
    os.makedirs("runs")
    Path("runs/masked").write_text("a file of the name")
    assert folders.choose_folder("masked").name == "masked-2"
    run("runs/masked-10")
    assert folders.choose_folder("masked").name == "masked-11", "the newest run must have the highest number"


def test_processes_that_choose_at_once_never_share_a_folder():
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: folders.choose_folder("masked"), range(24)))) == 24


def test_a_name_taken_between_looking_and_making_is_passed_over(monkeypatch):
    run("runs/masked", "log.jsonl")
    monkeypatch.setattr(folders, "numbered", lambda name: {})
    assert folders.choose_folder("masked").name == "masked-2"


def test_out_is_made_with_the_folders_above_it():
    assert folders.choose_folder("masked", out="a/b/c").as_posix() == "a/b/c"
    assert {*os.listdir("a/b/c")} == {"lock", "log.jsonl"}, "an empty log marks the folder as a run"


def test_an_out_that_exists_is_an_error_that_names_the_flags_that_help():
    run("vectors", "log.jsonl")
    with pytest.raises(UserError, match=r"--out vectors exists: give another, or add --overwrite"):
        folders.choose_folder("features", out="vectors")  # there is nothing to resume
    run("mine", "log.jsonl", "trainer.pt")
    with pytest.raises(UserError, match=r"--out mine exists.*--resume.*--overwrite"):
        folders.choose_folder("masked", out="mine")
    assert Path("mine/log.jsonl").read_text() == "old"


def test_overwrite_replaces_a_run_and_keeps_what_is_not_of_the_run():
    run("mine", *folders.RUN_FILES, *folders.TASK_FILES, "trainer.pt.99.tmp", "notes.txt")
    os.makedirs("mine/pictures")
    assert folders.choose_folder("masked", out="mine", overwrite=True).name == "mine"
    assert sorted(os.listdir("mine")) == ["lock", "log.jsonl", "notes.txt", "pictures"]
    assert os.path.getsize("mine/log.jsonl") == 0
    assert {*os.listdir(folders.choose_folder("masked", "new", overwrite=True))} == {"lock", "log.jsonl"}


@pytest.mark.parametrize(
    ("names", "config", "ours"),
    [
        ([], "", True),
        (["lock"], "", True),
        (["log.jsonl"], "", True),  # killed before its first checkpoint
        (["log.jsonl", "settings.json", "features.npy"], "", True),
        (["config.json", "model.safetensors", "notes.txt"], '{"format": "minilm"}', True),
        (["config.json", "model.safetensors", "tokenizer.json"], '{"model_type": "bert"}', False),
        (["settings.json", "launch.json", "trainer.pt.99.tmp"], "", False),
        (["settings.json"], "", False),
        (["log.jsonl", "thesis.txt"], "", False),
        (["thesis.txt"], "", False),
    ],
)
def test_only_a_run_folder_of_ours_is_emptied(names, config, ours, tmp_path):
    run("folder", *names, config=config)
    if ours:
        folders.empty_run_folder(tmp_path / "folder")
        assert set(os.listdir("folder")) == set(names) - set(folders.RUN_FILES)
    else:
        with pytest.raises(UserError, match="not a run folder of minilm .* not replaced"):
            folders.choose_folder("masked", out="folder", overwrite=True)
        assert sorted(os.listdir("folder")) == sorted(names)


def test_a_file_is_not_a_run_folder():
    Path("mine").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="^--out mine is a file: give a folder$"):
            folders.choose_folder("masked", "mine", overwrite)
    with pytest.raises(NotADirectoryError, match="mine"):
        folders.choose_folder("masked", "mine/in")
    assert Path("mine").read_text() == "mine"


def test_emptying_deletes_what_marks_a_run_last(tmp_path, monkeypatch):
    """Killed in the middle, the folder must still be a run folder that --overwrite takes."""
    run("mine", *folders.RUN_FILES)
    deleted = []
    monkeypatch.setattr(folders.Path, "unlink", lambda path, missing_ok: deleted.append(path.name))
    folders.empty_run_folder(tmp_path / "mine")
    assert deleted[0] == "results.json", "a run that is being deleted is no finished run"
    assert deleted[-1] == "log.jsonl"


def test_resume_of_what_cannot_be_resumed():
    run("runs/mine", "log.jsonl")
    for out, message in [
        ("runs/mine", r"no trainer\.pt in runs/mine; --overwrite without --resume starts over$"),
        ("runs/mime", r"in runs/mime \(did you mean 'runs/mine'\?\)"),
        (None, "no trainer.pt in any unfinished runs/masked; give the run's folder with --out"),
    ]:
        with pytest.raises(UserError, match=message):
            folders.choose_folder("masked", out=out, resume=True)
    assert os.listdir("runs") == ["mine"], "a refused --resume makes no folder"


@pytest.mark.parametrize("out", [None, "runs/masked-3"])
def test_resume_continues_in_the_newest_interrupted_run_or_in_out(out):
    run("runs/masked", "trainer.pt")
    for name in ("masked-2", "masked-3"):
        run(f"runs/{name}", "trainer.pt", "log.jsonl", "trainer.pt.5.tmp")
    run("runs/masked-4", "log.jsonl")
    run("runs/masked-5", "trainer.pt", "results.json")
    run("runs/causal-9", "trainer.pt")
    assert folders.choose_folder("masked", out, resume=True).name == "masked-3"
    assert sorted(os.listdir("runs/masked-3")) == ["lock", "log.jsonl", "trainer.pt"], "leftovers alone go"
    assert Path("runs/masked-2/trainer.pt.5.tmp").exists(), "another run's are left"


def test_flags_that_contradict_each_other():
    with pytest.raises(UserError, match="--overwrite and --resume"):
        folders.choose_folder("masked", out="mine", overwrite=True, resume=True)
    with pytest.raises(UserError, match="--overwrite needs --out"):
        folders.choose_folder("masked", overwrite=True)
    assert os.listdir() == []


def test_the_newest_finished_run_is_found():
    assert folders.find_run("masked") is None, "not even a folder runs/ is there"
    for name in ["masked", "masked-9", "masked-10"]:
        run(f"runs/{name}", "results.json")
    run("runs/masked-11", "model.safetensors")
    assert folders.find_run("masked").as_posix() == "runs/masked-10", "10 is newer than 9, 11 is not finished"
    assert folders.find_run("causal") is None


def test_runs_by_number():
    others = ["aab-3", "a+b-0", "a+b-x", "a+b-03", "a+b-2-4", "xa+b-50", "c-70"]
    for name in ["a+b-10", "a+b-2", "a+b", *others]:
        assert folders.make_folder(Path("runs", name)) is True
        assert folders.make_folder(Path("runs", name)) is False, "it was there"
    found = [(n, path.name) for n, path in folders.numbered("a+b").items()]
    assert found == [(1, "a+b"), (2, "a+b-2"), (10, "a+b-10")]


def test_near_runs_suggests_folders_only(tmp_path):
    run("runs/masked")
    Path("runs/maskad").write_text("")
    assert folders.near_runs(Path("runs/maskd")) == f" (did you mean '{Path('runs/masked')}'?)"
    assert folders.near_runs(Path("runs/masked")) == folders.near_runs(tmp_path / "nowhere" / "masked") == ""


@dataclass
class Settings:
    steps: int = 1
    data: tuple[str, ...] = ()


@dataclass
class Overrides:
    n_head: int = 1


def test_saved_settings_are_read_back(tmp_path):
    with pytest.raises(UserError, match="no settings.json"):
        folders.read_settings(tmp_path, Settings)
    (tmp_path / "settings.json").write_text('{"steps": 7, "data": ["a", "b"], "n_head": 2}')
    own, others = folders.read_settings(tmp_path, Settings, Overrides)
    assert own == {"steps": 7, "data": ("a", "b")}, "JSON's lists are tuples of the settings"
    assert others == {"n_head": 2}
    with pytest.raises(UserError, match="settings.json: 'n_head' is not a setting of this script"):
        folders.read_settings(tmp_path, Settings)
    (tmp_path / "settings.json").write_text('{"steps": 7, "data": ["a", "b"], "gone": false, "none": null}')
    assert folders.read_settings(tmp_path, Settings)[0] == own, "off, a flag that is no more changes nothing"
    wrong = {'{"steps": true}': "'steps' is True", '{"steps": 1, "n_head": null}': "'n_head' is None"}
    for text, said in wrong.items():
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(UserError, match=said):
            folders.read_settings(tmp_path, Settings, Overrides)
    (tmp_path / "settings.json").write_text('{"task": "pair", "data": ["a"]}')
    with pytest.raises(UserError, match="settings.json: no 'steps' in it, so it is .* another script"):
        folders.read_settings(tmp_path, Settings)


def test_texts_and_functions_are_written():
    for content in ("ã\n", lambda file: file.write(b"\xc3\xa3\n")):
        folders.atomic_write("a.bin", content)
        assert Path("a.bin").read_bytes() == b"\xc3\xa3\n"
        assert os.listdir() == ["a.bin"], "the file beside must be gone"


def test_a_kill_before_the_renaming_leaves_the_old_file(monkeypatch):
    path = os.path.join("deep", "er", "a.txt")
    os.makedirs(os.path.dirname(path))
    folders.atomic_write(path, "old")

    def kill(source, target):
        assert Path(path).read_text() == "old", "the target must not be touched before the renaming"
        assert Path(source).read_text() == "new", "the new content must be complete before the renaming"
        told = "from another folder, on another disk perhaps, a renaming would be a copy: it can be cut off"
        assert target == path and os.path.dirname(source) == os.path.dirname(path), told
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        folders.atomic_write(path, "new")
    assert Path(path).read_text() == "old"


def test_the_bytes_are_on_disk_before_the_renaming(monkeypatch):
    calls, real = [], (os.fsync, os.replace)
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.fstat(fd).st_size), real[0](fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real[1](a, b)))
    folders.atomic_write("a", "x")
    assert calls == [1, "replace"], "the size at fsync, which writes what has left Python's buffer"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside():
    folders.atomic_write("a.txt", "old")
    with pytest.raises(ZeroDivisionError):
        folders.atomic_write("a.txt", lambda file: file.write(b"half") / 0)
    assert (Path("a.txt").read_text(), os.listdir()) == ("old", ["a.txt"])


def test_what_the_system_refuses_is_a_user_error():
    Path("file").write_text("")
    for path in ("none/a.txt", "file/a.txt"):
        with pytest.raises(UserError, match=r"a\.txt: cannot be written \("):
            folders.atomic_write(path, "x")


@pytest.mark.parametrize("n_busy", [3, 99])
def test_on_windows_a_file_that_is_read_just_now_is_waited_for(n_busy, monkeypatch):
    tries, slept, real = [], [], os.replace

    def replace(old, new):
        tries.append(new)
        if len(tries) <= n_busy:
            raise PermissionError(13, "in use")
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(folders.time, "sleep", slept.append)
    if os.name != "posix" and n_busy == 3:
        folders.atomic_write("a.txt", "x")
        assert Path("a.txt").read_text() == "x"
    else:
        with pytest.raises(UserError, match="a.txt: cannot be written .in use"):
            folders.atomic_write("a.txt", "x")
        assert not os.listdir()
    assert sum(slept) < 10 and (len(tries) == 1 or os.name != "posix"), "elsewhere the refusal is final"


def test_what_cannot_be_deleted_either_is_a_user_error(monkeypatch):
    monkeypatch.setattr(os, "replace", Mock(side_effect=PermissionError(13, "in use")))
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=PermissionError(13, "in use")))
    monkeypatch.setattr(folders.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match="a.txt: cannot be written .in use"):
        folders.atomic_write("a.txt", "x")


def test_leftovers_are_removed_and_nothing_else(tmp_path, monkeypatch):
    others = ["model.safetensors", "mine.tmp", "123.tmp", "a.b.tmp", "a.1.tmp.txt", "thesis.2.tmp"]
    seen = ["model.safetensors.123.tmp"]
    monkeypatch.setattr(os, "replace", lambda source, target: seen.append(os.path.basename(source)))
    folders.atomic_write("a.txt", "x")
    for name in seen + others:
        Path(name).write_text("")
    folders.remove_leftovers(tmp_path)
    assert sorted(os.listdir()) == sorted(others), f"a killed writer leaves {seen[1]}"


def test_a_leftover_that_another_process_has_removed_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.Path, "iterdir", lambda path: iter([path / "a.pt.5.tmp"]))
    folders.remove_leftovers(tmp_path)


def test_json_is_read_as_it_was_written():
    value = {"name": "ação", "loss": 0.1, "shots": [1, None]}
    folders.write_json("a.json", value)
    assert folders.read_json("a.json") == value
    assert folders.read_json("none.json", optional=True) == {}
    assert folders.read_json("a.json", optional=True) == value
    text = Path("a.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "name": "ação",\n') and text.endswith("\n}\n"), "as people read it"


def test_wrong_json_names_file_and_place():
    with pytest.raises(FileNotFoundError, match="a.json"):
        folders.read_json("a.json")
    for data, message in {
        b'{"a": 1,\n "b": }': "not JSON .*line 2",
        b"[1]": r"expected a JSON object, found '\[1\]'",
        b'{"a": "\xff"}': "not JSON .*position 7",
        b"[" * 10**5: "not JSON",
    }.items():
        Path("a.json").write_bytes(data)
        with pytest.raises(UserError, match=rf"a\.json: {message}"):
            folders.read_json("a.json")


def record(step: int, split: str = "train", **more) -> dict:
    return dict(step=step, split=split, loss=1 / (step + 1)) | more


def test_the_log_comes_back_and_is_on_disk_at_once(tmp_path):
    assert folders.read_log(tmp_path) == []
    records = [record(1), record(2, note="a\nb ç")]
    for n, line in enumerate(records, start=1):
        folders.append_log(tmp_path, line)
        assert folders.read_log(tmp_path) == records[:n]
    assert len(Path("log.jsonl").read_text().splitlines()) == 2, "one line a record"


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    folders.append_log(tmp_path, record(1))
    folders.append_log(tmp_path, record(2, note="ç"))
    data = Path("log.jsonl").read_bytes()
    for length in range(data.index(b"\n") + 1, len(data) - 1):
        for end in (b"", b"\n"):
            Path("log.jsonl").write_bytes(data[:length] + end)
            assert folders.read_log(tmp_path) == [record(1)]
    folders.trim_log(tmp_path, lambda line: True)
    folders.append_log(tmp_path, record(2))
    assert folders.read_log(tmp_path) == [record(1), record(2)], "after a cut line the next is on its own"


@pytest.mark.parametrize("line", ['{"st', "7", '{"step": 1}', '{"step": 1.5, "split": "train", "loss": 1}'])
def test_a_bad_line_in_the_middle_is_named(tmp_path, line):
    Path("log.jsonl").write_text("\n".join([json.dumps(record(1)), line, json.dumps(record(3))]))
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: not a line of a log"):
        folders.read_log(tmp_path)


def test_a_resumed_log_equals_an_uninterrupted_one(tmp_path):
    def write(first: int):
        for step in range(first, 7):
            folders.append_log(tmp_path, record(step))
            folders.append_log(tmp_path, record(step, "validation"))

    write(0)
    whole = Path("log.jsonl").read_bytes()
    folders.trim_log(tmp_path, lambda line: line["step"] <= 4)
    assert len(folders.read_log(tmp_path)) == 10
    write(5)
    assert Path("log.jsonl").read_bytes() == whole


def test_one_process_a_folder(tmp_path):
    code = "import pretended_windows\n" if "pretended_windows" in sys.modules else ""
    code += "import sys; from minilm.plumbing import folders; from pathlib import Path\n"
    code += "folders.lock(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    root = Path(folders.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"mine"
        with pytest.raises(UserError, match="another process is writing there; wait, or give another --out"):
            folders.lock(tmp_path)
        other.kill()
    folders.lock(tmp_path)
    folders.lock(tmp_path)
    assert (tmp_path / "lock").exists()
    with pytest.raises(FileNotFoundError):
        folders.lock(tmp_path / "none")
    folders.unlock()
    assert not (tmp_path / "lock").exists()


@pytest.mark.skipif(os.name == "nt", reason="no lockf on Windows")
def test_a_disk_without_locks_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.lockf", Mock(side_effect=OSError(38, "Function not implemented")))
    with pytest.raises(UserError, match="lock: no locks on this disk.*not implemented.*; give another"):
        folders.lock(tmp_path)


def test_runs_that_is_a_link_to_nothing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(tmp_path / "gone", target_is_directory=True)
    with pytest.raises(UserError, match="^runs.masked: a folder above it is a link to nothing"):
        folders.choose_folder("masked")


def test_a_lock_that_cannot_be_given_up_is_not_taken_for_another(tmp_path, monkeypatch):
    folders.lock(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", Mock(side_effect=PermissionError))
        folders.unlock()
    assert len(folders.locked) == (os.name == "posix"), "it is closed on Windows, and open elsewhere"
    folders.lock(tmp_path)
    assert all(not file.closed for file in folders.locked.values())


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no file that is open")
def test_a_lock_that_somebody_deletes_is_no_longer_held(tmp_path, monkeypatch):
    folders.lock(tmp_path)
    (path,) = folders.locked
    assert folders.is_held(path)
    path.unlink()
    monkeypatch.setattr(Path, "exists", lambda path: True)  # a moment ago
    assert not folders.is_held(path)


def test_of_several_processes_the_first_alone_holds_the_folder_and_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    folders.lock(tmp_path)
    folders.write_json(tmp_path / "results.json", {})
    folders.append_log(tmp_path, dict(step=1))
    assert not list(tmp_path.iterdir()), "with --resume each would find the lock of the first one there"
    monkeypatch.setenv("RANK", "0")
    folders.lock(tmp_path)
    assert (tmp_path / "lock").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no folder of which a file is open")
def test_the_folder_of_another_run_is_left_alone(tmp_path):
    """Moved away, a folder may be followed by another of its name: that one's files are not ours."""
    folder = tmp_path / "mine"
    folder.mkdir()
    folders.lock(folder)
    folders.append_log(folder, record(1))
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    (folder / "lock").write_text("7")
    told = "mine: deleted, or now another run's folder: nothing more is written"
    with pytest.raises(UserError, match=told):
        folders.append_log(folder, record(2))
    with pytest.raises(UserError, match=told):
        folders.write_json(folder / "x", {})
    folders.unlock()
    assert {path.name for path in folder.iterdir()} == {"lock"}, "another's lock is deleted"


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    # what torch.save raises, by the place where the disk is full
    save = Mock(side_effect=RuntimeError("PytorchStreamWriter failed writing file data/0\nframe #0"))
    with pytest.raises(UserError, match="x: cannot be written .PytorchStreamWriter failed .* data/0.$"):
        folders.atomic_write(tmp_path / "x", save)
    full = Mock(side_effect=OSError(28, "No space left on device"))
    (hidden := RuntimeError("unexpected pos 448 vs 336")).__context__ = full.side_effect  # torch.save's, too
    with pytest.raises(UserError, match="x: cannot be written .No space left on device.$"):
        folders.atomic_write(tmp_path / "x", Mock(side_effect=hidden))
    monkeypatch.setattr(folders, "open", full, raising=False)
    with pytest.raises(UserError, match="log.jsonl: cannot be written .No space left"):
        folders.append_log(tmp_path, record(1))
