"""Grades plumbing/folders.py: which folder a run writes into, and that nothing of anybody's is lost."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from minilm.plumbing import folders as runs
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import (
    choose_folder,
    empty_run_folder,
    find_run,
    make_folder,
    near_runs,
    newest_interrupted,
    read_settings,
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(path, *names, config='{"format": "minilm"}'):
    """Make a run folder with these files."""
    os.makedirs(path)
    for name in names:
        with open(f"{path}/{name}", "w") as file:
            file.write(config if name == "config.json" else "old")
    return path


def test_a_run_without_out_gets_the_next_free_name():
    names = [choose_folder("masked").as_posix() for _ in range(3)]
    assert names == ["runs/masked", "runs/masked-2", "runs/masked-3"]
    assert choose_folder("causal", root="else").as_posix() == "else/causal"


def test_the_next_number_is_above_the_highest():
    for name in ["masked-2", "masked-10", "masked-x", "masked-03", "masked-2-4", "unmasked-50", "causal-70"]:
        run(f"runs/{name}")
    assert choose_folder("masked").name == "masked-11", "the newest run must have the highest number"


def test_a_file_of_the_name_is_not_overwritten():
    os.makedirs("runs")
    with open("runs/masked", "w") as file:
        file.write("mine")
    assert choose_folder("masked").name == "masked-2"


def test_processes_that_choose_at_once_never_share_a_folder():
    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(lambda _: choose_folder("masked"), range(24)))
    assert len(set(chosen)) == 24


def test_a_name_taken_between_looking_and_making_is_passed_over(monkeypatch):
    run("runs/masked", "log.jsonl")
    monkeypatch.setattr(runs, "numbered", lambda name, root: {})
    assert choose_folder("masked").name == "masked-2"


def test_out_is_made_with_the_folders_above_it():
    assert choose_folder("masked", out="a/b/c").as_posix() == "a/b/c"
    assert os.listdir("a/b/c") == ["log.jsonl"], "an empty log marks the folder as a run"


def test_an_out_that_exists_is_an_error_that_names_the_flags_that_help():
    run("vectors", "log.jsonl")
    with pytest.raises(UserError, match=r"--out vectors exists: choose another name, or add --overwrite"):
        choose_folder("features", out="vectors")  # there is nothing to resume
    run("mine", "log.jsonl", "trainer.pt")
    with pytest.raises(UserError, match=r"--out mine exists.*--resume.*--overwrite"):
        choose_folder("masked", out="mine")
    assert open("mine/log.jsonl").read() == "old"  # noqa: SIM115


def test_overwrite_replaces_a_run_and_keeps_what_is_not_of_the_run():
    run("mine", *runs.RUN_FILES, "trainer.pt.99.tmp", "notes.txt")
    os.makedirs("mine/pictures")
    assert choose_folder("masked", out="mine", overwrite=True).name == "mine"
    assert sorted(os.listdir("mine")) == ["log.jsonl", "notes.txt", "pictures"]
    assert os.path.getsize("mine/log.jsonl") == 0


def test_overwrite_of_what_does_not_exist_is_a_new_run():
    assert os.listdir(choose_folder("masked", out="new", overwrite=True)) == ["log.jsonl"]


@pytest.mark.parametrize(
    ("names", "config", "ours"),
    [
        ([], "", True),
        (["log.jsonl"], "", True),  # killed before its first checkpoint
        (["log.jsonl", "settings.json", "features.npy"], "", True),
        (["config.json", "model.safetensors", "notes.txt"], '{"format": "minilm"}', True),
        (["config.json", "model.safetensors", "tokenizer.json"], '{"model_type": "bert"}', False),
        (["settings.json", "launch.json"], "", False),
        (["settings.json"], "", False),
        (["log.jsonl", "thesis.txt"], "", False),
        (["thesis.txt"], "", False),
    ],
)
def test_only_a_run_folder_of_ours_is_emptied(names, config, ours, tmp_path):
    run("folder", *names, config=config)
    if ours:
        empty_run_folder(tmp_path / "folder")
        assert set(os.listdir("folder")) == set(names) - set(runs.RUN_FILES)
    else:
        with pytest.raises(UserError, match="not a run folder of ours .* not replaced"):
            choose_folder("masked", out="folder", overwrite=True)
        assert sorted(os.listdir("folder")) == sorted(names)


def test_a_file_is_not_a_run_folder(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        choose_folder("masked", out="mine", overwrite=True)
    with pytest.raises(UserError, match="exists"):
        choose_folder("masked", out="mine")
    with pytest.raises(UserError, match="cannot be made"):
        choose_folder("masked", out="mine/inside")
    assert (tmp_path / "mine").read_text() == "mine"


def test_emptying_deletes_what_marks_a_run_last(tmp_path, monkeypatch):
    """Killed in the middle, the folder must still be a run folder that --overwrite takes."""
    run("mine", *runs.RUN_FILES)
    deleted = []
    monkeypatch.setattr(runs.Path, "unlink", lambda path, missing_ok: deleted.append(path.name))
    empty_run_folder(tmp_path / "mine")
    assert deleted[0] == "results.json", "a run that is being deleted is no finished run"
    assert deleted[-1] == "log.jsonl"


def test_resume_continues_in_the_same_folder():
    run("mine", "trainer.pt", "log.jsonl", "model.safetensors.12.tmp")
    assert choose_folder("masked", out="mine", resume=True).name == "mine"
    assert sorted(os.listdir("mine")) == ["log.jsonl", "trainer.pt"], (
        "leftovers of the kill are gone, no more"
    )


def test_resume_of_what_cannot_be_resumed():
    run("runs/mine", "log.jsonl")
    with pytest.raises(UserError, match=r"nothing to continue in runs/mine, no trainer\.pt"):
        choose_folder("masked", out="runs/mine", resume=True)
    with pytest.raises(UserError, match=r"no such folder \(did you mean 'runs/mine'\?\)"):
        choose_folder("masked", out="runs/mime", resume=True)
    with pytest.raises(UserError, match="no interrupted run of runs/masked"):
        choose_folder("masked", resume=True)
    assert os.listdir("runs") == ["mine"], "a refused --resume makes no folder"


def test_resume_without_out_takes_the_newest_interrupted_run():
    run("runs/masked", "trainer.pt")
    run("runs/masked-2", "trainer.pt", "trainer.pt.5.tmp")
    run("runs/masked-3", "log.jsonl")
    run("runs/masked-4", "trainer.pt", "results.json")
    run("runs/causal-9", "trainer.pt")
    assert choose_folder("masked", resume=True).name == "masked-2"
    assert os.listdir("runs/masked-2") == ["trainer.pt"]
    assert newest_interrupted("causal", "runs").name == "causal-9"


def test_flags_that_contradict_each_other():
    with pytest.raises(UserError, match="--overwrite and --resume"):
        choose_folder("masked", out="mine", overwrite=True, resume=True)
    with pytest.raises(UserError, match="--overwrite needs --out"):
        choose_folder("masked", overwrite=True)
    assert os.listdir() == []


def test_the_newest_finished_run_is_found():
    assert find_run("masked") is None
    for name in ["masked", "masked-2", "masked-9", "masked-10"]:
        run(f"runs/{name}", "results.json")
    run("runs/masked-11", "model.safetensors")
    run("runs/masked-x", "results.json")
    assert find_run("masked").as_posix() == "runs/masked-10", "10 is newer than 9, 11 is not finished"
    assert find_run("causal") is None
    assert find_run("masked", root="nowhere") is None


def test_runs_by_number():
    for name in ["a+b", "a+b-2", "aab-3", "a+b-0", "a+b-x"]:
        run(f"runs/{name}")
    assert {n: p.name for n, p in runs.numbered("a+b", "runs").items()} == {1: "a+b", 2: "a+b-2"}


def test_next_folder_makes_it():
    assert runs.next_folder("masked", "else").is_dir()


def test_make_folder_says_whether_it_is_new(tmp_path):
    assert make_folder(tmp_path / "a" / "b") is True
    assert make_folder(tmp_path / "a" / "b") is False
    assert make_folder(tmp_path / "a" / "b", exist_ok=True) is True


@dataclass
class Settings:
    steps: int = 1
    data: tuple[str, ...] = ()


def test_saved_settings_are_read_back(tmp_path):
    (tmp_path / "settings.json").write_text('{"steps": 7, "data": ["a", "b"], "n_head": 2}')
    own, others = read_settings(tmp_path, Settings)
    assert own == {"steps": 7, "data": ("a", "b")}, "JSON's lists are tuples of the settings"
    assert others == {"n_head": 2}


def test_settings_that_are_missing(tmp_path):
    with pytest.raises(UserError, match="no settings.json"):
        read_settings(tmp_path, Settings)


def test_the_settings_of_another_script_are_not_read(tmp_path):
    (tmp_path / "settings.json").write_text('{"task": "pair", "data": ["a"]}')
    with pytest.raises(
        UserError, match="settings.json: no 'steps' in it, so it is the run of another script"
    ):
        read_settings(tmp_path, Settings)


def test_near_runs_suggests_folders_only(tmp_path):
    run("runs/masked")
    (tmp_path / "runs" / "maskad").write_text("")
    assert near_runs(tmp_path / "runs" / "maskd").endswith("masked'?)")
    assert near_runs(tmp_path / "runs" / "masked") == ""
    assert near_runs(tmp_path / "nowhere" / "masked") == ""


def test_a_fine_tuned_folder_is_replaced_whole(tmp_path):
    run("mine", *runs.RUN_FILES, *runs.TASK_FILES)
    empty_run_folder(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == []
