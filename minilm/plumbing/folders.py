"""Run folders and the files in them: nothing existing is overwritten, nothing is ever half written."""

import atexit
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from .errors import UserError, suggest
from .settings import checked

RUNS = Path("runs")  # in the folder where a script is started
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
TRAINER, SETTINGS, LOG, RESULTS = "trainer.pt", "settings.json", "log.jsonl", "results.json"
# In the order in which --overwrite deletes them: what marks a folder as a run of ours goes last.
RUN_FILES = (RESULTS, WEIGHTS, TRAINER, TOKENIZER, SETTINGS, CONFIG, LOG)
LOCK = "lock"  # kept open by the process that writes into the folder
TASK_FILES = TASK, PREDICTIONS, CONFUSION = "task.json", "predictions.tsv", "confusion.tsv"  # of fine-tuning
FORMAT = "minilm"  # the value of "format" in config.json
LEFTOVER = re.compile(r".+\.[a-z]+\.\d+\.tmp")  # A.B.PID.tmp, of a process that was killed while writing
RECORD = dict(step=int, split=str, loss=float)  # the fields that each line of log.jsonl has, and their types
locked: dict[Path, object] = {}  # this process's locks, open files: closing one unlocks it


def choose_folder(name: str, out: str | None = None, overwrite: bool = False, resume: bool = False) -> Path:
    """Return `out`, emptied if `overwrite`, kept if `resume` (none: no such flag); or a new `runs/name`."""
    if overwrite and resume:
        raise UserError("--overwrite and --resume: one replaces a run, the other continues it; give only one")
    if overwrite and out is None:
        raise UserError("--overwrite needs --out FOLDER; without --out every run gets a new folder")
    if resume:
        runs = [Path(out)] if out else [r for r in numbered(name).values() if not (r / RESULTS).exists()]
        resumable = [run for run in runs if (run / TRAINER).exists()]
        if not resumable:
            where = f"any unfinished {RUNS / name}; give the run's folder with --out"
            where = f"{out}{near_runs(runs[0])}; --overwrite without --resume starts over" if out else where
            raise UserError(f"--resume: no {TRAINER} in {where}")
        lock(resumable[-1])
        remove_leftovers(resumable[-1])
        return resumable[-1]
    if out is None:
        number = max(numbered(name), default=0) + 1
        while not make_folder(folder := RUNS / (name if number == 1 else f"{name}-{number}")):
            number += 1  # another process has just taken it
        if number > 1:
            print(f"There are runs of this name already: this one goes into {folder}.")
    elif overwrite and Path(out).is_dir():
        empty_run_folder(folder := Path(out), lock)
    elif not make_folder(folder := Path(out)):
        go_on = "--resume to continue it or " if resume is False and (folder / TRAINER).exists() else ""
        told = f"exists: give another, or add {go_on}--overwrite to replace it"
        raise UserError(f"--out {folder} {told if folder.is_dir() else 'is a file: give a folder'}")
    lock(folder)
    (folder / LOG).touch()  # marks it as ours even when the run is killed before its first checkpoint
    return folder


def process_rank() -> int:
    """Return the rank of this process, from 0: of several that share a run, only rank 0 writes files."""
    return int(os.environ.get("RANK", "0"))


def lock(folder: Path) -> None:
    """Lock a folder for this process until it ends; UserError if another process is writing there."""
    path = folder.resolve() / LOCK
    if path in locked or process_rank():
        return
    busy = BlockingIOError if os.name == "posix" else (PermissionError, FileExistsError)
    try:
        if os.name == "posix":
            import fcntl

            file = open(path, "a")  # noqa: SIM115 - kept open
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            path.unlink(missing_ok=True)  # Windows deletes no open file: a deleted one had no owner
            file = open(path, "x")  # noqa: SIM115
    except busy:
        raise UserError(f"{folder}: another process is writing there; wait, or give another --out") from None
    except OSError as error:
        told = f"{path}: no locks on this disk ({error.strerror}), perhaps Lustre or NFS; give another --out"
        raise error if error.filename else UserError(told) from None  # a filename: of open()
    locked[path] = file
    if not is_held(path):
        del locked[path]
        lock(folder)  # its owner has just ended and deleted the file


def is_held(path: Path) -> bool:
    """Say whether a lock is still ours: its folder may be gone, or replaced by another run's."""
    with suppress(FileNotFoundError, NotADirectoryError):  # Windows moves no folder with an open file
        return os.name != "posix" or os.path.samestat(os.fstat(locked[path].fileno()), path.stat())
    return False


def may_write(folder: Path) -> bool:
    """Say whether this process writes files for all; UserError if its folder now belongs to another run."""
    path = folder.resolve() / LOCK
    if path in locked and not is_held(path):
        raise UserError(f"{folder}: deleted, or now another run's folder: nothing more is written into it")
    return process_rank() == 0


@atexit.register
def unlock(*folders: Path) -> None:
    """Unlock these folders, or all that this process has locked."""
    for path in [folder.resolve() / LOCK for folder in folders] or [*locked]:
        with suppress(OSError, KeyError):  # a folder that is gone or read-only, or has no lock
            if os.name != "posix":
                locked.pop(path).close()  # first: Windows deletes no open file
            if is_held(path):
                path.unlink()
            locked.pop(path).close()


def numbered(name: str) -> dict[int, Path]:
    """Return the runs of this name under runs/ by their numbers, in order: `name` is 1, `name-2` is 2."""
    pattern = re.compile(re.escape(name) + r"(?:-([1-9]\d*))?")
    return dict(sorted((int(m[1] or 1), run) for run in RUNS.glob("*") if (m := pattern.fullmatch(run.name))))


def find_run(name: str) -> Path | None:
    """Return the finished run of this name (it has a results.json) with the highest number; else None."""
    return next((run for run in reversed(numbered(name).values()) if (run / RESULTS).exists()), None)


def near_runs(folder: Path) -> str:
    """Return a suggestion for a folder that does not exist: the nearest name beside it."""
    return "" if folder.exists() else suggest(str(folder), filter(Path.is_dir, folder.parent.glob("*")))


def make_folder(folder: Path) -> bool:
    """Make a folder and its parents; return False if it exists. Of two processes, only one gets True."""
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        return True
    if not os.path.lexists(folder):
        raise UserError(f"{folder}: a folder above it is a link to nothing: make what it names, or remove it")
    return False


def empty_run_folder(folder: Path, claim: Callable[[Path], None] = lambda folder: None) -> None:
    """Delete the files of a run, and nothing else; UserError unless it is a run folder, free to claim."""
    names, known = [path.name for path in folder.iterdir()], (*RUN_FILES, *TASK_FILES, LOCK)
    foreign = [name for name in names if name not in known and not LEFTOVER.fullmatch(name)]
    ours = {*names} <= {LOCK} or (LOG in names and (SETTINGS in names or not foreign))
    if not (ours or read_json(folder / CONFIG, optional=True).get("format") == FORMAT):
        found = (foreign or names)[0]
        raise UserError(f"{folder} is not a run folder of minilm (it holds {found}): not replaced")
    claim(folder)
    remove_leftovers(folder)
    for name in (RESULTS, *TASK_FILES, *RUN_FILES):
        (folder / name).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while writing into a folder."""
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def atomic_write(path: str | Path, content: str | Callable) -> None:
    """Write a file that is never seen half written: a text, or what a function writes into a binary file."""
    if not may_write(Path(path).parent):
        return
    beside = Path(f"{path}.{os.getpid()}.tmp")  # renamed to `path` in one step, once it is complete
    try:
        with open(beside, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode("utf-8", "backslashreplace"))  # \udcxx, of names that are no UTF-8
            file.flush()
            os.fsync(file.fileno())  # the bytes reach the disk before the name does
        for _ in range(0 if os.name == "posix" else 50):  # Windows: a virus scanner may have it open
            with suppress(PermissionError):
                os.replace(beside, path)
                break
            time.sleep(0.1)
        else:
            os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # the latter: from torch.save, if the disk is full
        told = [getattr(each, "strerror", None) for each in (error, error.__context__)]  # torch.save hides it
        reason = told[0] or told[1] or str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be written ({reason})") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_json(path: str | Path, value) -> None:
    """Write `value` as readable JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, optional: bool = False) -> dict:
    """Return the JSON object in a file ({} if an `optional` file is missing); UserError names the line."""
    return {} if optional and not Path(path).exists() else json_object(Path(path).read_bytes(), path)


def json_object(text: str | bytes, where) -> dict:
    """Return the JSON object in a text; for any other text, a UserError that begins with `where`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}), expected one object, found {text[:40]!r}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found {str(value)[:40]!r}")
    return value


def read_settings(folder: Path, settings_class: type, override_class=None) -> tuple[dict, dict]:
    """Return (settings, overrides) of a run, the saved fields of both classes; UserError for a wrong type."""
    if not (path := folder / SETTINGS).exists():
        raise UserError(f"{folder}: not a run that can be continued, no {SETTINGS} in it{near_runs(folder)}")
    saved, mark = read_json(path), next(iter(settings_class.__annotations__))
    if mark not in saved:  # the first field is --objective, --task or --algorithm, by script
        raise UserError(f"{path}: no {mark!r} in it, so it is a run of another script")
    parts = []
    for each in filter(None, (settings_class, override_class)):
        types = {field.name: field.type for field in fields(each)}
        known = {name: saved.pop(name) for name in types if name in saved}
        parts.append(checked(path, known, types, whole=False))
    if unknown := [name for name, value in saved.items() if value]:  # an old one that was off does no harm
        raise UserError(f"{path}: {unknown[0]!r} is not a setting of this script")
    return parts[0], {} if override_class is None else parts[1]


def append_log(folder: str | Path, record: dict) -> None:
    """Add one record to log.jsonl, as a line of JSON. Log step N before you save step N: see `trim_log`."""
    if not may_write(Path(folder)):
        return
    try:
        with open(Path(folder) / LOG, "ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise UserError(f"{Path(folder) / LOG}: cannot be written ({error.strerror})") from None


def read_log(folder: str | Path) -> list[dict]:
    """Return the records of log.jsonl, if any, but not a last line that was cut off; or UserError."""
    path = Path(folder) / LOG
    lines, records = path.read_bytes().splitlines() if path.exists() else [], []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(checked("record", json.loads(line), RECORD))
        except (ValueError, TypeError, RecursionError) as error:
            if number < len(lines):
                raise UserError(f"{path}, line {number}: not a line of a log ({error})") from None
    return records


def trim_log(folder: str | Path, keep: Callable[[dict], bool]) -> None:
    """Remove from log.jsonl the records that `keep` rejects, and a last line that was cut off."""
    kept = [record for record in read_log(folder) if keep(record)]
    atomic_write(Path(folder) / LOG, "".join(json.dumps(record) + "\n" for record in kept))
