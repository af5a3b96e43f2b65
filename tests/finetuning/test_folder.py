"""Grades finetuning/folder.py: what a fine-tuned folder holds, and that it says the same again."""

import json

import pytest
import small
import torch
import tuned

import minilm
from minilm.finetuning.comparison import prepared
from minilm.finetuning.folder import (
    confusion_rows,
    load_finetuned,
    save_task,
    write_confusion,
    write_predictions,
)
from minilm.finetuning.similarity import Similarity
from minilm.finetuning.tasks import Prediction
from minilm.plumbing.errors import UserError


def saved(tmp_path, tune: str = "all"):
    task = tuned.classification()
    model = prepared(tuned.body(), task, tuned.settings(), tune).eval()
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.3)
    minilm.save(model, small.tokenizer(), tmp_path / "run")
    save_task(tmp_path / "run", task)
    return tmp_path / "run", model, task


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_what_is_loaded_predicts_the_same(tmp_path, tune):
    folder, model, task = saved(tmp_path, tune)
    loaded, known = load_finetuned(folder)
    assert (known.name, known.context, known.known) == (task.name, task.context, task.known)
    examples = tuned.labelled(7)
    for a, b in zip(task.predict(model, examples, 3), known.predict(loaded, examples, 3), strict=True):
        assert a.guess == b.guess and a.probability == pytest.approx(b.probability, abs=1e-4)


@pytest.mark.parametrize("pairs", ["together", "apart"])
def test_a_pair_is_read_as_it_was_learnt(tmp_path, pairs):
    scored = [("Ana ran.", "Rui ran.", 4.5), ("A lamp.", "Two red pens.", 0.5), ("Bread.", "Pens.", 1.0)]
    known = Similarity.learn(scored)
    task = Similarity(small.tokenizer(), tuned.config(), tuned.CONTEXT, known, pairs=pairs)
    model = prepared(tuned.body(), task, tuned.settings(), "all").eval()
    minilm.save(model, small.tokenizer(), tmp_path / "run")
    save_task(tmp_path / "run", task)
    loaded, again = load_finetuned(tmp_path / "run")
    assert again.apart == (pairs == "apart") and loaded.head.on == model.head.on
    guesses = [[p.guess for p in t.predict(m, scored, 2)] for t, m in ((task, model), (again, loaded))]
    assert guesses[0] == pytest.approx(guesses[1], abs=1e-5)


def test_the_body_alone_loads_as_any_model(tmp_path):
    folder, model, _ = saved(tmp_path)
    body, _ = minilm.load(folder)
    small.assert_equal(dict(body.state_dict()), {n: model.state_dict()[n] for n in body.state_dict()})


def test_a_folder_that_is_not_fine_tuned(tmp_path):
    folder, *_ = saved(tmp_path)
    whole = json.loads((folder / "task.json").read_text())
    options = (dict(options=3), dict(options=dict(speed=1)), dict(options=dict(pairs="apart")))
    for broken in (
        whole | dict(task="sleep"),
        whole | dict(known=None),
        dict(task="classification"),
        *(whole | option for option in options),
    ):
        (folder / "task.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match="task.json: not a task of ours"):
            load_finetuned(folder)
    (folder / "task.json").unlink()
    with pytest.raises(UserError, match="not fine-tuned, no task.json in it; python finetune.py --model"):
        load_finetuned(folder)
    with pytest.raises(UserError, match="no such folder"):
        load_finetuned(tmp_path / "absent")


def test_predictions_are_lines_of_four_cells(tmp_path):
    task, path = tuned.classification(), tmp_path / "p.tsv"
    predictions = [Prediction("a\tb\nc", "x", "y", 0.51239), Prediction("d", None, "y")]
    write_predictions(path, task, predictions)
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        ["text", "truth", "prediction", "probability"],
        ["a b c", "x", "y", "0.5124"],
        ["d", "", "y", ""],
    ]


def test_confusion_has_a_row_for_each_truth(tmp_path):
    predictions = [Prediction("", t, g) for t, g in zip("aabbb", "abbba", strict=True)]
    rows = confusion_rows(["a", "b", "c"], predictions)
    assert rows == [("a", 1, 1, 0), ("b", 1, 2, 0), ("c", 0, 0, 0)]
    write_confusion(tmp_path, ["a", "b", "c"], rows)
    text = (tmp_path / "confusion.tsv").read_text(encoding="utf-8")
    assert text.splitlines() == ["truth\ta\tb\tc", "a\t1\t1\t0", "b\t1\t2\t0", "c\t0\t0\t0"]
