"""Which folder a run writes into: nothing existing is overwritten, and two runs never share one.

`runs/masked` is the first run of that name, `runs/masked-2` the second. A folder is claimed by making it,
which the operating system lets only one process do.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

from .errors import UserError, suggest

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
TRAINER, SETTINGS, LOG, RESULTS = "trainer.pt", "settings.json", "log.jsonl", "results.json"
# In the order in which --overwrite deletes them: what marks a folder as a run of ours goes last.
RUN_FILES = (RESULTS, WEIGHTS, TRAINER, TOKENIZER, SETTINGS, CONFIG, LOG)
# What fine-tuning adds: the task and its labels, what it says of the test examples, who is taken for whom.
TASK, PREDICTIONS, CONFUSION = "task.json", "predictions.tsv", "confusion.tsv"
TASK_FILES = (PREDICTIONS, CONFUSION, TASK)
FORMAT = "minilm"  # "format" in config.json
LEFTOVER = re.compile(r".+\.\d+\.tmp")


def choose_folder(
    name: str, out: str | None = None, overwrite: bool = False, resume: bool = False, root: str = "runs"
) -> Path:
    """Return the folder of a run, made if it is new. Nothing existing is overwritten unless asked for.

    Without `out`: `root/name`, or `root/name-2` and so on where that is taken; with `resume` the newest of
    these that was interrupted. With an `out` that exists: `resume` continues it, `overwrite` empties it.
    Otherwise UserError.
    """
    if overwrite and resume:
        raise UserError("--overwrite and --resume: one replaces a run, the other continues it; give one")
    if out is None:
        if overwrite:
            raise UserError("--overwrite needs --out FOLDER; without --out every run has a new folder")
        return newest_interrupted(name, root) if resume else next_folder(name, root)
    folder = Path(out)
    if resume:
        if not (folder / TRAINER).exists():
            what = f"no {TRAINER} in it" if folder.exists() else f"no such folder{near_runs(folder)}"
            raise UserError(f"--resume: nothing to continue in {folder}, {what}")
        remove_leftovers(folder)
        return folder
    if overwrite and folder.exists():
        empty_run_folder(folder)
    elif not make_folder(folder):
        resumable = (folder / TRAINER).exists()
        way = "add --resume to continue it or" if resumable else "choose another name, or add"
        raise UserError(f"--out {folder} exists: {way} --overwrite to replace it")
    (folder / LOG).touch()  # marks it as ours even when the run is killed before its first checkpoint
    return folder


def next_folder(name: str, root: str) -> Path:
    """Make and return `root/name`, or with the number after the highest there is."""
    number = max(numbered(name, root), default=0)
    while True:
        number += 1
        folder = Path(root) / (name if number == 1 else f"{name}-{number}")
        if make_folder(folder):  # else another process took it just now
            (folder / LOG).touch()
            return folder


def numbered(name: str, root: str) -> dict[int, Path]:
    """Return what has the name of such a run in `root`, by number: `name` is 1, `name-2` is 2."""
    pattern = re.compile(re.escape(name) + r"(?:-([1-9]\d*))?")
    paths = Path(root).iterdir() if Path(root).is_dir() else ()
    matches = ((pattern.fullmatch(path.name), path) for path in paths)
    return {int(match[1] or 1): path for match, path in matches if match}


def find_run(name: str, root: str = "runs") -> Path | None:
    """Return the finished run of this name (it has a results.json) with the highest number; else None."""
    finished = {n: path for n, path in numbered(name, root).items() if (path / RESULTS).exists()}
    return finished[max(finished)] if finished else None


def newest_interrupted(name: str, root: str) -> Path:
    """Return the newest run of this name that has a checkpoint and no results; UserError without one."""
    runs = numbered(name, root).items()
    open_runs = {n: p for n, p in runs if (p / TRAINER).exists() and not (p / RESULTS).exists()}
    if not open_runs:
        raise UserError(
            f"--resume: no interrupted run of {Path(root) / name} has a checkpoint; name it by --out"
        )
    remove_leftovers(open_runs[max(open_runs)])
    return open_runs[max(open_runs)]


def make_folder(folder: Path, exist_ok: bool = False) -> bool:
    """Make a folder and those above it. False where it was there: of two processes one alone gets True."""
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from None
    return True


def empty_run_folder(folder: Path) -> None:
    """Delete the files of a run, and nothing else; UserError unless the folder is a run folder of ours."""
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a run folder")
    names = [path.name for path in folder.iterdir()]
    foreign = [
        name for name in names if name not in (*TASK_FILES, *RUN_FILES) and not LEFTOVER.fullmatch(name)
    ]
    ours = not names or (LOG in names and (SETTINGS in names or not foreign))
    if CONFIG in names and not ours:
        ours = read_json(folder / CONFIG).get("format") == FORMAT
    if not ours:
        raise UserError(
            f"{folder} is not a run folder of ours (it holds {(foreign or names)[0]}): not replaced"
        )
    remove_leftovers(folder)
    for name in (RESULTS, *TASK_FILES, *RUN_FILES):
        (folder / name).unlink(missing_ok=True)


def read_settings(folder: Path, settings_class: type) -> tuple[dict, dict]:
    """Return (settings, overrides) that settings.json of a run holds: fields of the class, and others.

    Lists become tuples again. UserError where the file is missing, broken, or that of another script.
    """
    path = folder / SETTINGS
    if not path.exists():
        raise UserError(f"{folder}: not a run to go on from, no {SETTINGS} in it{near_runs(folder)}")
    names = {field.name for field in fields(settings_class)}
    saved = {k: tuple(v) if isinstance(v, list) else v for k, v in read_json(path).items()}
    mark = next(iter(settings_class.__annotations__))  # --objective, --task, --algorithm: each has its own
    if mark not in saved:
        raise UserError(f"{path}: no {mark!r} in it, so it is the run of another script")
    own = {name: value for name, value in saved.items() if name in names}
    return own, {name: value for name, value in saved.items() if name not in names}


def near_runs(folder: Path) -> str:
    """Return a suggestion for a folder that is not there: the nearest name beside it."""
    if folder.exists() or not folder.parent.is_dir():
        return ""
    return suggest(str(folder), [path for path in folder.parent.iterdir() if path.is_dir()])


def atomic_write(path: str | Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file that is never seen half written: bytes, a text, or what a function writes into a file.

    Where anything fails the old file stays as it was. UserError where the system refuses: no such folder, no
    permission, no space left.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # the bytes reach the disk before the name does
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if beside.exists():
            beside.unlink()


def remove_leftovers(folder: str | Path) -> None:
    """Delete what processes that were killed while writing left in a folder: `NAME.PID.tmp`."""
    for path in Path(folder).iterdir():
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: str | Path, value) -> None:
    """Write `value` as readable JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict:
    """Return the JSON object in a file; UserError names the file and the line of what is wrong."""
    try:
        value = json.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise UserError(f"{path}: JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object was expected, found {type(value).__name__}")
    return value


def append_log(folder: str | Path, record: dict) -> None:
    """Add one JSON object as a line to log.jsonl. Log step N before saving step N: see `trim_log`."""
    with open(Path(folder) / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_log(folder: str | Path) -> list[dict]:
    """Return the records of log.jsonl, none where there is no log.

    A last line without its end was cut off by a kill and is left out. UserError for any other bad line.
    """
    path = Path(folder) / LOG
    if not path.exists():
        return []
    *lines, _cut_off = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from None
    return records


def trim_log(folder: str | Path, step: int) -> None:
    """Drop the records after `step`, to which a resumed run goes back, and a line that was cut off."""
    kept = [record for record in read_log(folder) if record.get("step", 0) <= step]
    atomic_write(Path(folder) / LOG, "".join(json.dumps(record) + "\n" for record in kept))
