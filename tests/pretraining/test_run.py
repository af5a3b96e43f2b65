"""Grades pretraining/run.py: a whole run, and the model that a later regime starts from."""

from pathlib import Path

import pytest
import small

import minilm
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import RUN_FILES
from minilm.pretraining import run
from minilm.pretraining.recipes import with_recipe
from minilm.pretraining.settings import PretrainingSettings
from minilm.texts import corpus as data


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with texts.txt; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n\n".join(small.documents(60)), encoding="utf-8")
    monkeypatch.setattr(data, "WORLD_TRAIN", 30)
    monkeypatch.setattr(data, "WORLD_VALIDATION", 10)


def settings(**changes) -> PretrainingSettings:
    """Return settings of a run of two steps on texts.txt."""
    short = dict(data=("texts.txt",), steps=2, batch_size=5, vocab_size=300, context=32, device="cpu")
    return with_recipe(PretrainingSettings(**short | changes))


SHAPE = dict(d_model=8, n_head=2, d_ff=12)


def test_a_run_returns_the_folder_that_holds_all_of_it(capsys):
    folder = run.pretrain(settings(objective="causal"), SHAPE)
    assert folder == Path("runs/causal")
    assert sorted(path.name for path in folder.iterdir()) == sorted(RUN_FILES)
    assert minilm.load(folder)[0].config.d_ff == 12, "a field of the model that differs from its preset"
    out = capsys.readouterr().out
    assert "train.py --objective causal" in out, "the command of a script that only needs a model is another"
    assert "loss (nats a token)" in out and f"Saved in {folder}" in out and "Next: python train.py" in out


def test_the_newest_finished_run_is_taken(capsys):
    folders = [run.pretrain(settings(objective="causal"), SHAPE) for _ in range(2)]
    capsys.readouterr()
    assert run.newest_or_train("causal") == folders[1]
    assert capsys.readouterr().out == "", "nothing is trained where there is a finished run"
    (folders[1] / "results.json").unlink()
    assert run.newest_or_train("causal") == folders[0], "a run without results.json is not finished"


def test_the_default_one_is_trained_where_there_is_none(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(run, "pretrain", lambda settings: seen.append(settings) or Path("runs/masked"))
    assert run.newest_or_train("masked", seed=3, device="cpu") == Path("runs/masked")
    assert seen == [with_recipe(PretrainingSettings(objective="masked", seed=3, device="cpu"))]
    assert "No finished runs/masked" in capsys.readouterr().out


def test_several_processes_do_not_train_what_they_start_from(monkeypatch):
    """All but the first would take runs/ for its folder, and end when all of it had been trained."""
    monkeypatch.setattr(run, "process_count", lambda: 2)
    with pytest.raises(UserError, match="no finished runs/masked.*train.py --objective masked makes one"):
        run.newest_or_train("masked")


def test_of_several_processes_the_first_alone_makes_the_folder(monkeypatch):
    command = settings(out="new")
    monkeypatch.setenv("RANK", "1")
    assert run.run_folder(command, "masked") == Path("new") and not Path("new").exists()
    monkeypatch.setenv("RANK", "0")
    assert run.run_folder(command, "masked") == Path("new") and Path("new").exists()
    with pytest.raises(UserError, match="--out new exists"):
        run.run_folder(command, "masked")


def test_the_model_of_regime_6_is_found_by_its_own_name(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "pretrain", lambda settings: seen.append(settings) or Path("runs/in-context"))
    assert run.newest_or_train("in-context", seed=3, device="cpu") == Path("runs/in-context")
    want = dict(objective="causal", model="gpt-alibi-tiny", seed=3, device="cpu")
    assert seen == [with_recipe(PretrainingSettings(**want))]
    assert seen[0].data == ("world:few-shot",)


def test_gpt_on_few_shot_documents_is_told_from_other_gpts(capsys):
    few = dict(data=("world:few-shot-no-repeats",), n_documents=40, vocab_size=400, steps=1)
    folder = run.pretrain(settings(objective="causal", **few), SHAPE)
    out = capsys.readouterr().out
    assert folder == Path("runs/in-context"), "runs/causal is the GPT of the stories"
    assert "lookup, key that is no word" in out and "Next: python prompt.py" in out
    assert run.newest_or_train("in-context") == folder
