"""The examples of a task (tuples, see `tasks.py`): read, split into three parts, checked, written."""

import csv
import io
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..extraction.probe import split
from ..plumbing.errors import UserError, suggest
from ..plumbing.folders import atomic_write
from ..texts.corpus import VALIDATION_SHARE
from ..texts.files import kind, one_line
from ..texts.tables import read_conll, read_squad, read_table, row

# What holds a task's examples (`Task.files`), in words.
FILES = dict(table=".tsv, .csv or .jsonl", conll="CoNLL columns", squad="SQuAD 1.1 or 2.0 (.json)")


class Parts(NamedTuple):
    """The examples of a task in three parts."""

    train: list[tuple]  # to learn from
    validation: list[tuple]  # to watch during training
    test: list[tuple]  # to measure on


def names_of(settings) -> tuple[str, str, str]:
    """Return names for the training, validation and test examples, for messages."""
    name = " and ".join(settings.data or ("world",))
    if settings.domain:
        return name, name, f"{name}, with words that are not in the training set"
    watched = settings.validation or f"{name}, the held-out validation set (--validation FILE for another)"
    apart = f"{name}, the held-out test set (--test FILE for another)"
    return name, watched, settings.test or (apart if settings.patience else watched)


def read_parts(task, settings) -> list[Parts]:
    """Return the `Parts` of the user's files for each seed; print how many examples are in training too."""
    files = (settings.data, task.has_truth), ([settings.validation], task.has_truth), ([settings.test], True)
    given = [read_examples(task, paths, settings.skip_bad, truth) for paths, truth in files]
    learnt = {one_line(str(example[:-1])) for example in given[0]}
    for name, part in zip((settings.validation, settings.test), given[1:], strict=True):
        if again := sum(one_line(str(example[:-1])) in learnt for example in part):
            print(f"{name}: {again:,} of {len(part):,} examples are also in {' and '.join(settings.data)}")
    # Errors in the whole of --data are reported before examples are held out.
    check_parts(Parts(given[0], [], []), task, names_of(settings))
    labels_of = (lambda example: task.truths([example])) if task.closed else None
    how = dict(n=settings.n_examples, labels_of=labels_of, selects=settings.patience > 0)
    return [cut(*given, seed, name=" ".join(settings.data), **how) for seed in settings.seeds]


def read_examples(task, paths: Iterable, skip_bad=False, truth=True) -> list[tuple]:
    """Return the examples of all given files; without `truth` the last field may be missing, becomes None."""
    examples, fields = [], task.fields
    wanted, spare = (fields, ()) if truth else (fields[:-1], fields[-1:])
    for path in filter(None, paths):
        try:
            if task.files == "conll":
                rows = read_conll(path, skip_bad, tagged=truth)
            elif task.files == "squad" and (truth or kind(path) == ".json"):
                rows = read_squad(path, skip_bad, answered=truth)
            else:
                rows = read_table(path, wanted, skip_bad, spare, scored if truth and task.is_number else row)
        except UserError as error:
            reads = f"this task reads {FILES[task.files]} with {', '.join(wanted)}"
            raise UserError(f"{error} ({reads})") from None
        examples += rows if truth else [(*one[: len(wanted)], None) for one in rows]
    return examples


def scored(fields: Sequence[str], where: str, *cells) -> tuple:
    """Return a row's fields, the last as a number: 4,5 is 4.5; UserError for text and for 4,500 (unclear)."""
    *texts, label = row(fields, where, *cells, is_number=True)
    with suppress(ValueError):
        if math.isfinite(value := float(label.replace(",", ".") if "," in label[-3:-1] else label)):
            return (*texts, value)
    raise UserError(f"{where}: the label {label!r} is not a number; expected one such as 4.5 or 4500")


def cut(given: list, watched: list, test: list, seed, n=None, labels_of=None, selects=False, name="--data"):
    """Return the `Parts`; an empty `watched` becomes a tenth of `given`, an empty `test` becomes `watched`.

    `selects`: `watched` decides when to stop, so the test is another tenth. `n`: number of training examples,
    drawn by the seed; with `labels_of` (example -> its labels) the labels take turns as long as they last.
    """
    size = max(1, len(given) // VALIDATION_SHARE)
    if not watched:
        given, watched = split(given, size, f"watched {seed}", labels_of)
    if selects and not test:
        given, test = split(given, size, f"measured {seed}", labels_of)
    if given and (not watched or (selects and not test)):
        raise UserError(f"{name}: holding out examples would lose a label: give --validation and --test")
    if n is not None and n < len(given):
        given = random.Random(f"examples {seed}").sample(given, len(given) if labels_of else n)
    if labels_of and n is not None and n < len(given):
        seen, turns = Counter(), []
        for labels in map(labels_of, given):
            turns.append(min(seen[label] for label in labels))  # examples before it with its rarest label
            seen.update(labels)
        given = [given[i] for i in sorted(sorted(range(len(given)), key=turns.__getitem__)[:n])]
        if len({label for example in given for label in labels_of(example)}) < len(seen):
            raise UserError(f"--n-examples {n}: too few for an example of each of the {len(seen)} labels")
    return Parts(given, watched, test or watched)


def check_parts(parts: Parts, task, names: Sequence[str]) -> None:
    """Raise UserError if all training truths are the same: nothing can be learnt; `names`: of the parts.

    For a `closed` task also if a validation or test truth does not occur in training.
    """
    known, what = None, task.fields[-1]
    for part, name in zip(parts, names, strict=True):
        try:
            found = task.truths(part)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        known = known or set(found)  # the training truths
        if len(known) < 2 and known != {None}:  # {None}: training needs no truth
            same = f"all training examples ({len(part)}) have the {what} {[*found, 0][0]!r:.40}"
            raise UserError(f"{name}: {same if part else 'only one text'}; expected two different ones")
        unknown = Counter(truth for truth in found if truth not in known).most_common(5)
        if unknown and task.closed:
            told = ", ".join(f"{t!r} ({n:,} times)" for t, n in unknown) + suggest(unknown[0][0], known)
            raise UserError(f"{name}: {what} not in the training set: {told}; train on it or leave it out")


def texts_in(example) -> list[str]:
    """Return all texts in an example, its truth included, from lists and tuples at any depth."""
    if isinstance(example, (list, tuple)):
        return [text for part in example for text in texts_in(part)]
    return [example] if isinstance(example, str) else []


def write_rows(path: Path, rows: Iterable[Sequence]) -> None:
    """Write tab-separated lines, quoted for `csv` and spreadsheets; white space in a cell becomes a space."""
    file = io.StringIO(newline="")
    cells = ([" ".join(str(cell).split()) for cell in row] for row in rows)
    csv.writer(file, "excel-tab", lineterminator="\n").writerows(cells)
    atomic_write(path, file.getvalue())


def write_predictions(task, predictions: list, path: Path) -> None:
    """Write predictions.tsv: text, truth, prediction and probability of each example."""
    rows = [("text", "truth", "prediction", "probability")]
    for p in predictions:
        chance = "" if p.probability is None else f"{p.probability:.4f}"
        rows.append((p.text, "" if p.truth is None else task.written(p.truth), task.written(p.guess), chance))
    write_rows(path, rows)
