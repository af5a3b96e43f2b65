"""What a fine-tuned folder holds beyond a run folder: the task, the head, the predictions.

task.json           the task's name, what it knows of the labels, tokens a row, its options
model.safetensors   the body's weights under their usual names, the head's as `head. ...`
predictions.tsv     text, truth, prediction, probability of each test example
confusion.tsv       of a task with classes: rows are truths, columns predictions
"""

import csv
import io
from pathlib import Path

from ..checkpoint import load, load_weights
from ..plumbing.errors import UserError
from ..plumbing.folders import CONFUSION, PREDICTIONS, TASK, atomic_write, read_json, write_json
from ..training import metrics
from .heads import WithHead
from .registry import TASKS
from .settings import ON_PAIRS
from .tasks import Prediction, Task


def save_task(folder: Path, task: Task) -> None:
    """Write task.json."""
    saved = dict(task=task.name, context=task.context, known=task.known, options=task.options)
    write_json(folder / TASK, saved)


def load_finetuned(folder: str | Path, device: str = "cpu") -> tuple[WithHead, Task]:
    """Return (model, task) of a fine-tuned folder; UserError where it is none."""
    folder = Path(folder)
    body, tokenizer = load(folder, device)
    if not (folder / TASK).exists():
        raise UserError(
            f"{folder}: not fine-tuned, no {TASK} in it; python finetune.py --model {folder} does that first"
        )
    saved = read_json(folder / TASK)
    name, known, context = (saved.get(key) for key in ("task", "known", "context"))
    options = saved.get("options", {})
    kinds = isinstance(known, dict), isinstance(context, int), isinstance(options, dict)
    if name not in TASKS or not all(kinds) or set(options) - ({"pairs"} if name in ON_PAIRS else set()):
        raise UserError(f"{folder / TASK}: not a task of ours; expected task, known, context and options")
    task = TASKS[name](tokenizer, body.config, context, known, **options)
    model = WithHead(body.config, task.head())
    load_weights(folder, model)
    return model.to(device).eval(), task


def write_predictions(path: Path, task: Task, predictions: list[Prediction]) -> None:
    """Write a line for each prediction; a cell is one line, its tabs are spaces."""
    lines = ["text\ttruth\tprediction\tprobability"]
    for p in predictions:
        truth = "" if p.truth is None else task.written(p.truth)
        probability = "" if p.probability is None else f"{p.probability:.4f}"
        lines.append("\t".join([" ".join(p.text.split()), truth, task.written(p.guess), probability]))
    atomic_write(path, "\n".join(lines) + "\n")


def confusion_rows(labels: list[str], predictions: list[Prediction]) -> list[tuple]:
    """Return a row for each true label: the label, then how often it was taken for which."""
    index = {label: i for i, label in enumerate(labels)}
    truth, guess = [index[p.truth] for p in predictions], [index[p.guess] for p in predictions]
    counts = metrics.confusion_matrix(truth, guess, len(labels))  # (C, C)
    return [(label, *row) for label, row in zip(labels, counts.tolist(), strict=True)]


def write_confusion(folder: Path, labels: list[str], rows: list[tuple]) -> None:
    """Write confusion.tsv."""
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([("truth", *labels), *rows])
    atomic_write(folder / CONFUSION, text.getvalue())


__all__ = [
    "PREDICTIONS",
    "confusion_rows",
    "load_finetuned",
    "save_task",
    "write_confusion",
    "write_predictions",
]
