"""How each of the five scripts begins and ends: the command, the run's folder, the closing table."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .devices import process_rank
from .folders import RESULTS, SETTINGS, choose_folder, read_settings, write_json
from .settings import parse, show
from .terminal import table


def read_command(
    settings_class: type,
    description: str,
    name_of: Callable[[dict], str],
    override_class: type | None = None,
) -> tuple[dict, dict]:
    """Return (given, overrides), the flags of this command line as in `parse`.

    With --resume they are laid over those of the run that goes on: the one in --out, or the newest that was
    interrupted of the name that `name_of` makes of what is given.
    """
    given, overrides = parse(settings_class, override_class, description=description)
    if given.get("resume"):
        folder = choose_folder(name_of(given), given.get("out"), given.get("overwrite", False), resume=True)
        saved, others = read_settings(folder, settings_class)
        # how the run began, by replacing another one, is no longer of interest
        given = saved | dict(overwrite=False) | given | dict(out=str(folder))
        overrides = others | overrides
    return given, overrides


def begin(name: str, settings, overrides: dict | None = None, script: str | None = None) -> Path:
    """Return the folder of a run of this name, with the command in settings.json, and print the command.

    Of several processes the first makes the folder; the others write nothing into it. `script`: the one that
    takes these settings, where another one runs.
    """
    if process_rank() or getattr(settings, "resume", False):
        folder = Path(settings.out or "runs")
    else:
        folder = choose_folder(name, settings.out, settings.overwrite)
    if process_rank() == 0:
        write_json(folder / SETTINGS, asdict(settings) | (overrides or {}))
    show(settings, overrides, script)
    return folder


def finish(
    folder: Path, settings, tables: list[tuple], lines: list[str], results: dict, seconds: float, then: str
) -> None:
    """Print the closing tables, (rows, header) each, and the lines; write results.json: the run is finished.

    `then`: the command to try next. Results that are none are left out.
    """
    for rows, header in tables:
        print("\n" + table(rows, header))
    print("", *lines, "", sep="\n")
    results = results | dict(seconds=seconds, seed=settings.seed)
    write_json(folder / RESULTS, {name: value for name, value in results.items() if value is not None})
    print(f"Saved in {folder} ({seconds:.0f} s).")
    print(f"Next: {then}")
