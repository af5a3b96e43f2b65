"""Run folders and the files in them: nothing existing is overwritten, nothing is ever half written.

A folder is claimed by making it, which the system lets only one process do: two runs never share one.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from .errors import UserError, suggest

RUNS = Path("runs")  # under the folder that a script is started in
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
TRAINER, SETTINGS, LOG, RESULTS = "trainer.pt", "settings.json", "log.jsonl", "results.json"
# In the order in which --overwrite deletes them: what marks a folder as a run of ours goes last.
RUN_FILES = (RESULTS, WEIGHTS, TRAINER, TOKENIZER, SETTINGS, CONFIG, LOG)
TASK_FILES = TASK, PREDICTIONS, CONFUSION = "task.json", "predictions.tsv", "confusion.tsv"  # of fine-tuning
FORMAT = "minilm"  # "format" in config.json
LEFTOVER = re.compile(r".+\.\d+\.tmp")  # NAME.PID.tmp, of a process that was killed while writing


def choose_folder(name: str, out: str | None = None, overwrite: bool = False, resume: bool = False) -> Path:
    """Return a run's folder: `out`, emptied by `overwrite`, kept by `resume`; or the next `runs/name`."""
    if overwrite and resume:
        raise UserError("--overwrite and --resume: one replaces a run, the other continues it; give one")
    if overwrite and out is None:
        raise UserError("--overwrite needs --out FOLDER; without --out every run has a new folder")
    if resume:
        runs = [Path(out)] if out else [r for r in numbered(name).values() if not (r / RESULTS).exists()]
        resumable = [run for run in runs if (run / TRAINER).exists()]
        if not resumable:
            where = f"{out}{near_runs(runs[0])}" if out else f"an unfinished {RUNS / name}; name it by --out"
            raise UserError(f"--resume: nothing to continue, no {TRAINER} in {where}")
        remove_leftovers(resumable[-1])
        return resumable[-1]
    if out is None:
        number = max(numbered(name), default=0) + 1
        while not make_folder(folder := RUNS / (name if number == 1 else f"{name}-{number}")):
            number += 1  # another process took it just now
    elif overwrite and Path(out).exists():
        empty_run_folder(folder := Path(out))
    elif not make_folder(folder := Path(out)):
        go_on = "--resume to continue it or " if (folder / TRAINER).exists() else ""
        raise UserError(f"--out {folder} exists: name another, or add {go_on}--overwrite to replace it")
    (folder / LOG).touch()  # marks it as ours even when the run is killed before its first checkpoint
    return folder


def numbered(name: str) -> dict[int, Path]:
    """Return what has the name of such a run under runs/, by number and in its order: `name-2` is 2."""
    pattern = re.compile(re.escape(name) + r"(?:-([1-9]\d*))?")
    return dict(sorted((int(m[1] or 1), run) for run in RUNS.glob("*") if (m := pattern.fullmatch(run.name))))


def find_run(name: str) -> Path | None:
    """Return the finished run of this name (it has a results.json) with the highest number; else None."""
    return next((run for run in reversed(numbered(name).values()) if (run / RESULTS).exists()), None)


def near_runs(folder: Path) -> str:
    """Return a suggestion for a folder that is not there: the nearest name beside it."""
    return "" if folder.exists() else suggest(str(folder), filter(Path.is_dir, folder.parent.glob("*")))


def make_folder(folder: Path) -> bool:
    """Make a folder and those above it. False where it was there: of two processes one alone gets True."""
    try:
        folder.mkdir(parents=True)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from None


def empty_run_folder(folder: Path) -> None:
    """Delete the files of a run, and nothing else; UserError unless the folder is a run folder of ours."""
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a run folder")
    names = [path.name for path in folder.iterdir()]
    foreign = [n for n in names if n not in (*RUN_FILES, *TASK_FILES) and not LEFTOVER.fullmatch(n)]
    ours = not names or (LOG in names and (SETTINGS in names or not foreign))
    if not (ours or read_json(folder / CONFIG, optional=True).get("format") == FORMAT):
        found = (foreign or names)[0]
        raise UserError(f"{folder} is not a run folder of ours (it holds {found}): not replaced")
    remove_leftovers(folder)
    for name in (RESULTS, *TASK_FILES, *RUN_FILES):
        (folder / name).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed while writing left in a folder."""
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def atomic_write(path: str | Path, content: bytes | str | Callable) -> None:
    """Write bytes, a text, or what a function writes into a file: never seen half written."""
    beside = Path(f"{path}.{os.getpid()}.tmp")  # which takes the name in one step, once it is whole
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


def write_json(path: str | Path, value) -> None:
    """Write `value` as readable JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, optional: bool = False) -> dict:
    """Return the JSON object in a file, {} where an `optional` one is not there; UserError names the line."""
    if optional and not Path(path).exists():
        return {}
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object was expected, found {type(value).__name__}")
    return value


def read_settings(folder: Path, settings_class: type) -> tuple[dict, dict]:
    """Return (settings, overrides) of a run: the fields of the class, tuples again, and what is left."""
    if not (folder / SETTINGS).exists():
        raise UserError(f"{folder}: not a run to go on from, no {SETTINGS} in it{near_runs(folder)}")
    saved = {k: tuple(v) if isinstance(v, list) else v for k, v in read_json(folder / SETTINGS).items()}
    mark = next(iter(settings_class.__annotations__))  # --objective, --task, --algorithm: each has its own
    if mark not in saved:
        raise UserError(f"{folder / SETTINGS}: no {mark!r} in it, so it is the run of another script")
    return {each.name: saved.pop(each.name) for each in fields(settings_class) if each.name in saved}, saved


def append_log(folder: str | Path, record: dict) -> None:
    """Add one JSON object as a line to log.jsonl. Log step N before saving step N: see `trim_log`."""
    with open(Path(folder) / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_log(folder: str | Path) -> list[dict]:
    """Return the records of log.jsonl, if there is one; a last line that a kill has cut off is left out."""
    path = Path(folder) / LOG
    *lines, _cut_off = path.read_bytes().split(b"\n") if path.exists() else [b""]
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
