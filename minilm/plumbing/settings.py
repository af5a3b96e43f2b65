"""The command line of every script: a dataclass becomes flags, errors become one line, results a table.

    @dataclass(frozen=True, kw_only=True)
    class Settings(CommonSettings):
        steps: int = 2000  # optimizer steps
        data: tuple[str, ...] = ("world",)  # sources, files and folders

    settings = parse(Settings)                  python train.py --steps 500 --data a.txt b.txt

The field `d_model` is the flag `--d-model`, the comment on its line is its help text, and its type says which
words may follow (`minilm/plumbing/flags.py`).
"""

import argparse
import inspect
import json
import os
import sys
import textwrap
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Literal

from .errors import UserError, suggest
from .flags import Flag, as_typed, flags_of, kind_of, option_of, words_for

WIDTH = 100  # columns of the help and of a printed command


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """What every script takes."""

    out: str | None = None  # folder of this run; none: the next free one under runs/
    seed: int = 0  # the same seed draws the same weights, batches and samples
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: the CUDA GPU where there is one, else cpu
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: matrix products in 16 bits, weights stay in 32
    compile: bool = False  # let torch.compile fuse the model: a slow first step, faster ones after it
    overwrite: bool = False  # replace the run that is already in --out

    def __post_init__(self):
        if self.out is None or not self.overwrite:
            return
        for name in ("model", "init", "teacher", "reward"):
            source = getattr(self, name, None)
            if source and Path(source).resolve() == Path(self.out).resolve():
                raise UserError(
                    f"--out {self.out} --overwrite would delete {option_of(name)} {source}: name another"
                )

    def check_least(self, least: dict[str, float]) -> None:
        """Raise UserError for a field below its least value; one that is none is left alone."""
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"{option_of(name)} {value}: must be {bound} or more")


def parse(settings_class: type, argv: list[str] | None = None, description: str = ""):
    """Return an instance of the dataclass, filled from `argv` (none: the command line).

    Raises UserError for an unknown flag, a value that does not fit, or a field without a default that is not
    given. `-h` and `--help` print the help and leave with SystemExit(0).
    """
    return parse_with_overrides(settings_class, None, argv, description)[0]


def parse_with_overrides(settings_class: type, override_class, argv=None, description: str = ""):
    """Return (settings, overrides): as `parse`, with the fields of a second dataclass as flags too.

    `overrides` is a dictionary of those fields of `override_class` that were given, and of no others: the
    caller lays them over a preset or a saved config, `dataclasses.replace(config, **overrides)`. A name that
    both classes have belongs to the settings.
    """
    given, overrides = parse_given(settings_class, override_class, argv, description)
    for flag in flags_of(settings_class):
        if flag.default is MISSING and flag.name not in given:
            raise UserError(f"{flag.option} is missing: expected {kind_of(flag.hint)} ({flag.help})")
    return settings_class(**given), overrides


def parse_given(settings_class: type, override_class, argv=None, description: str = "") -> tuple[dict, dict]:
    """Return (settings, overrides): as `parse_with_overrides`, of both only the fields that were given.

    A script that continues a run lays them over the settings which that run has saved.
    """
    own = flags_of(settings_class)
    names = {flag.name for flag in own}
    others = [flag for flag in flags_of(override_class) if flag.name not in names] if override_class else []
    words = words_given(own, others, sys.argv[1:] if argv is None else argv, description)
    values = {flag.name: flag.read(words[flag.name]) for flag in own + others if flag.name in words}
    overrides = {flag.name: values.pop(flag.name) for flag in others if flag.name in values}
    return values, overrides


def words_given(own: list[Flag], others: list[Flag], argv: list[str], description: str) -> dict:
    """Return the words after each flag of the command line, by field; what is not given is absent."""
    parser = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    options = ["-h", "--help"]
    parser.add_argument(*options, action="store_true", dest="--help")
    for flag in own + others:
        options.append(flag.option)
        parser.add_argument(flag.option, dest=flag.name, nargs="*")
        if flag.hint is bool:
            options.append("--no-" + flag.option[2:])
            parser.add_argument(options[-1], dest=flag.name, action="store_const", const=["false"])
    namespace, rest = parser.parse_known_args(attach_negatives(argv))
    given = vars(namespace)
    if given.pop("--help", False):
        print(help_text(own, others, description))
        raise SystemExit(0)
    if rest and rest[0].startswith("-"):
        word = rest[0].partition("=")[0]
        raise UserError(f"unknown flag {word}{suggest(word, options)}; --help lists all flags")
    if rest:
        raise UserError(f"{rest[0]!r} belongs to no flag; --help lists all flags")
    return given


class Parser(argparse.ArgumentParser):
    """argparse, which splits the words; an error is a UserError rather than a page of usage."""

    def error(self, message: str):
        """Raise UserError with argparse's message."""
        raise UserError(message.removeprefix("argument "))


def attach_negatives(argv: list[str]) -> list[str]:
    """Write `--lr -1e-3` as `--lr=-1e-3`: argparse takes -1 for a value, but -1e-3 and -1,-2 for flags."""
    joined = []
    for word in argv:
        negative = word[:1] == "-" and word[1:2] in tuple(".0123456789")
        if negative and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def help_text(own: list[Flag], others: list[Flag], description: str) -> str:
    """Return the page of `--help`: a heading per class, then each flag with its kind, comment and default."""
    lines = [f"usage: {program()} [--flag value ...]"] + ["", inspect.cleandoc(description)] * bool(
        description
    )
    group = None
    for flag in own + others:
        if flag.group != group:
            group = flag.group
            lines += ["", group + (" Only what is given changes." if flag in others else "")]
        if flag.hint is bool:
            lines.append(f"  {flag.option}, --no-{flag.option[2:]}")
        else:
            lines.append(f"  {flag.option} {kind_of(flag.hint)}")
        ending = ""
        if flag not in others:
            required = flag.default is MISSING
            ending = "(required)" if required else f"(default {' '.join(words_for(flag.default)) or 'empty'})"
        indent = dict(initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines += textwrap.wrap(f"{flag.help} {ending}", WIDTH, break_on_hyphens=False, **indent)
    return "\n".join(lines)


def program() -> str:
    """Return the name of the script that runs: `train.py`."""
    return os.path.basename(sys.argv[0])


def command(settings, overrides: dict | None = None) -> list[str]:
    """Return the flags that `parse` reads back as the same settings and overrides, quoted for a shell.

    Every default is written out, except one that is none or empty.
    """
    parts = []
    for flag in flags_of(type(settings)):
        value = getattr(settings, flag.name)
        if value != flag.default or value not in (None, (), []):
            parts.append(as_typed(flag.name, value))
    return parts + [as_typed(name, value) for name, value in (overrides or {}).items()]


def show(settings, overrides: dict | None = None, script: str | None = None) -> None:
    """Print the command with its defaults written out, ready to be pasted into a shell.

    `script`: the one that takes these settings, where another one runs.
    """
    lines = [script or program()]
    for part in command(settings, overrides):
        if len(lines[-1]) + 1 + len(part) > WIDTH:
            lines.append("   ")
        lines[-1] += " " + part
    print(" \\\n".join(lines))


def settings_dict(settings) -> dict:
    """Return the fields as a dictionary of what JSON knows: tuples become lists."""
    return json.loads(json.dumps(asdict(settings)))


def table(rows, header, digits: int = 3) -> str:
    """Return rows under their header as aligned text; columns of numbers stand at the right.

    Floats have `digits` places after the point (where that would show 0: 1.0e-05), integers a comma every
    three digits; none is `-`.
    """
    columns = []
    for name, *values in zip(header, *rows, strict=True):
        cells = [name, *(cell(value, digits) for value in values)]
        numeric = all(value is None or isinstance(value, (int, float)) for value in values)
        width = max(map(len, cells))
        columns.append([text.rjust(width) if numeric else text.ljust(width) for text in cells])
    head, *body = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([head, "-" * max(map(len, [head, *body])), *body])


def cell(value, digits: int) -> str:
    """Return the text of one cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.5 * 10**-digits else f"{value:,.{digits}f}"
    return str(value)


def run(main) -> int:
    """Call `main()` and return the exit code: what it returns (none: 0), or that of how it ended.

    2: a UserError, printed as one line. 130: Ctrl-C, told in one line. 141: the reader of a
    pipe has left (`python train.py | head`). Anything else is a bug and keeps its traceback.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(stop if str(stop) else "stopped by Ctrl-C: nothing was being saved", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more when it ends; without a reader that would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
