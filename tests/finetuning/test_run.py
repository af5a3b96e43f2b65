"""Grades finetuning/run.py: a whole run, what it leaves, and one line for each mistake."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import small
import tuned

import minilm
from minilm.finetuning import examples, run
from minilm.finetuning.folder import load_finetuned
from minilm.finetuning.registry import TASKS
from minilm.finetuning.settings import FinetuningSettings
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import RUN_FILES, TASK_FILES, write_json


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with models of three kinds; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examples, "WORLD_VALIDATION", 6)
    monkeypatch.setattr(examples, "WORLD_TEST", 8)
    for kind in tuned.KINDS:
        minilm.save(tuned.body(kind, max_positions=160), small.tokenizer(), kind)
    lines = [f"{text}\t{label}" for text, label in tuned.labelled(24)]
    Path("train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def settings(**changes) -> FinetuningSettings:
    """Return settings of a run of two steps."""
    short = dict(model="encoder", steps=2, batch_size=4, device="cpu", lora_rank=2, n_examples=12)
    return FinetuningSettings(**short | changes)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_on_the_world_and_again_on_what_it_left(task, capsys):
    model = "encoder-decoder" if task == "text-to-text" else "encoder"
    folder = run.finetune(settings(task=task, model=model, seeds=(0,)))
    out = capsys.readouterr().out
    assert folder == Path("runs") / task and f"Saved in {folder}" in out
    assert f"Next: python finetune.py --model {folder} --predict FILE" in out
    assert "from random weights" in out and "LoRA, rank 2" in out
    files = {path.name for path in folder.iterdir()}
    has_classes = task in ("classification", "pair")
    assert files == set(RUN_FILES) | set(TASK_FILES) - (set() if has_classes else {"confusion.tsv"})
    found = results(folder)
    expected = {"score", "metric", "majority_score", "scratch_score", "lora_score", "moving_weights"}
    expected |= {"seconds", "seed"} | ({"head_score"} if task != "text-to-text" else set())
    assert set(found) == expected and found["metric"] == TASKS[task].metric
    assert len((folder / "predictions.tsv").read_text(encoding="utf-8").splitlines()) == 9
    loaded, again = load_finetuned(folder)
    test = TASKS[task].world(8, examples.TEST_SEED, held_out=True)
    assert again.score(again.predict(loaded, test, 3))[again.metric] == pytest.approx(found["score"])


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_classification_runs_on_every_kind(kind):
    folder = run.finetune(settings(model=kind, data=("train.tsv",), compare=False))
    assert results(folder).keys() >= {"score", "majority_score"} and "lora_score" not in results(folder)


def test_the_test_set_is_predicted_once(monkeypatch):
    asked, task = [], TASKS["classification"]
    plain = task.predict
    monkeypatch.setattr(task, "predict", lambda *args: asked.append(args[2]) or plain(*args))
    run.finetune(settings(data=("train.tsv",), seeds=(0,), compare=False))
    assert len(asked) == 1, "once for predictions.tsv, and again for the score"


def test_several_seeds_give_a_mean_and_a_deviation(capsys):
    folder = run.finetune(settings(data=("train.tsv",), seeds=(3, 4, 5), compare=False))
    out = capsys.readouterr().out
    assert "±" in out and "the model of seed 3" in out
    alone = [
        results(run.finetune(settings(data=("train.tsv",), seeds=(seed,), compare=False)))["score"]
        for seed in (3, 4, 5)
    ]
    assert results(folder)["score"] == pytest.approx(sum(alone) / 3)
    assert results(folder)["score_deviation"] >= 0


def test_a_tuned_way_has_its_own_figure():
    for tune in ("head", "lora"):
        found = results(run.finetune(settings(data=("train.tsv",), tune=tune)))
        assert found[f"{tune}_score"] == found["score"] and "all_score" in found


def test_the_context_is_that_of_the_models_own_training():
    write_json(Path("encoder/settings.json"), dict(context=24))
    made, body, tokenizer = run.load_body(settings())
    assert made.context == 24 and body.config.kind == "encoder" and tokenizer.vocab_size == 300
    assert run.load_body(settings(model="decoder"))[0].context == 160
    with pytest.raises(UserError, match="--context 161 is above the model's 160 positions"):
        run.load_body(settings(context=161))


def test_the_newest_run_is_taken_where_no_model_is_named(monkeypatch):
    seen = []
    monkeypatch.setattr(
        run, "newest_or_train", lambda start, seed, device: seen.append(start) or Path("encoder")
    )
    assert run.load_body(settings(model=None))[0].model == "encoder"
    monkeypatch.setattr(
        run, "newest_or_train", lambda start, seed, device: seen.append(start) or Path("decoder")
    )
    run.load_body(settings(model=None, task="text-to-text"))
    assert seen == ["masked", "denoising"]


def test_class_weights_reach_the_task():
    made = settings(class_weights=True, data=("train.tsv",), context=40)
    parts = examples.load_examples(made)
    parts.train = [e for e in parts.train if e[1] == "shop"] + [e for e in parts.train if e[1] != "shop"][:1]
    task = run.make_task(made, tuned.body(), small.tokenizer(), parts)
    assert len(set(task.weights)) == 2
    assert set(
        run.make_task(replace(made, class_weights=False), tuned.body(), small.tokenizer(), parts).weights
    ) == {1}


def test_two_texts_meet_where_the_flag_says():
    for task, pairs, expected in (
        ("pair", None, "text"),
        ("pair", "apart", "apart"),
        ("similarity", None, "apart"),
        ("similarity", "together", "text"),
    ):
        made = settings(task=task, pairs=pairs, context=40)
        parts = examples.load_examples(made)
        task = run.make_task(made, tuned.body(), small.tokenizer(), parts)
        assert task.head().on == expected, made.task


def test_predictions_of_new_texts(capsys):
    folder = run.finetune(settings(data=("train.tsv",), compare=False))
    Path("new.tsv").write_text("Bread! Ana.\nPens! Rui sells a lamp.\n", encoding="utf-8")
    capsys.readouterr()
    out = run.predict(settings(model=str(folder), predict="new.tsv"))
    lines = (out / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["text", "Bread! Ana.", "Pens! Rui sells a lamp."]
    assert {line.split("\t")[2] for line in lines[1:]} <= {"bakery", "shop", "school"}
    assert f"Saved 2 predictions of {folder} in {out}" in capsys.readouterr().out
    newest = run.predict(settings(model=None, predict="new.tsv"))
    assert newest != out, "the newest finished run of the task serves, nothing is overwritten"
    with pytest.raises(UserError, match="encoder: not fine-tuned, no task.json in it"):
        run.predict(settings(predict="new.tsv"))
    with pytest.raises(UserError, match="no finished runs/tagging"):
        run.predict(settings(model=None, task="tagging", predict="new.tsv"))


@pytest.mark.parametrize(
    "task, line",
    [("pair", "a\tb"), ("similarity", "a\tb"), ("tagging", "a"), ("span", "a b\tc"), ("text-to-text", "a")],
)
def test_every_task_reads_texts_without_truths(task, line):
    model = "encoder-decoder" if task == "text-to-text" else "encoder"
    folder = run.finetune(settings(task=task, model=model, compare=False))
    Path("new.tsv").write_text(line + "\n", encoding="utf-8")
    out = run.predict(settings(model=str(folder), predict="new.tsv"))
    assert len((out / "predictions.tsv").read_text(encoding="utf-8").splitlines()) == 2


def test_a_model_that_cannot_is_one_line():
    with pytest.raises(UserError, match="--task span needs a model of kind encoder, and decoder is of kind"):
        run.finetune(settings(model="decoder", task="span"))
    minilm.save(tuned.body(), None, "bare")
    with pytest.raises(UserError, match="bare: no tokenizer in it"):
        run.finetune(settings(model="bare"))


def test_what_is_cut_is_told(capsys):
    run.finetune(settings(data=("train.tsv",), context=8, compare=False))
    assert "rows to --context 8 tokens" in capsys.readouterr().out


def test_a_preset_begins_from_random_weights_and_the_words_of_the_examples():
    assert run.words_in(("a b", ["c", ("d", 3)], None, 2.5)) == ["a b", "c", "d"]
    made = settings(model="bert-tiny", data=("train.tsv",), compare=False)
    body, tokenizer = run.fresh_body(made, "cpu")
    again, _ = run.fresh_body(made, "cpu")
    small.assert_equal(dict(body.state_dict()), dict(again.state_dict()))
    assert body.config.d_model == 64 and body.config.vocab_size == tokenizer.vocab_size
    assert len(tokenizer.encode("Bread")) == 1, "the tokenizer has seen the examples"
    assert results(run.finetune(made))["moving_weights"] > 100_000
