"""The command line of every script: the fields of a dataclass are its flags, read by argparse.

    @dataclass(frozen=True, kw_only=True)
    class Settings(CommonSettings):
        steps: int = 2000  # optimizer steps
        data: tuple[str, ...] = ("world",)  # sources, files and folders

The field `d_model` is the flag `--d-model`, the comment on its line is its help text, and its type says which
words may follow: for a Literal one of its values, for `X | None` also `none`, for a tuple several, separated
by commas too (--shots 0,1,2) unless they are texts; for a bool nothing (--compile, --no-compile) or `false`.
"""

import argparse
import importlib.util
import inspect
import math
import os
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

from .errors import UserError, suggest

WIDTH = 100  # columns of the help and of a printed batch
quoted = shlex.join  # words as the system's shell reads them
if os.name != "posix":  # to cmd.exe ' is no quote
    quoted = lambda words: " ".join(f'"{w}"' if re.search(r"^$|[^\w:./\\,=-]", w) else w for w in words)
NAMES = {int: {"integer": int}, float: {"number": float}, str: {"text": str}, NoneType: {"none": None}}
NAMES |= {bool: {"true": True, "false": False}, dict: {"object": dict}}


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """Flags that every script takes."""

    out: str | None = None  # folder of this run; none: the next free one under runs/
    seed: int = 0  # the same seed gives the same weights, batches and samples
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: a CUDA GPU if there is one, else cpu
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 to train a large model, if faster
    compile: bool = False  # let torch.compile fuse the model: a slow first step, faster ones after it
    overwrite: bool = False  # replace the run that is already in --out
    plot: bool = False  # draw a picture of the run at its end (needs matplotlib)

    def __post_init__(self):
        if self.plot:
            need_matplotlib()
        for name in ("model", "init", "teacher", "reward") if self.out and self.overwrite else ():
            source = getattr(self, name, None)
            if source and Path(source).resolve() == Path(self.out).resolve():
                raise UserError(f"--overwrite would delete {option_of(name)} {source}: give another --out")

    def check_least(self, least: dict[str, float]) -> None:
        """Raise UserError if a setting, or an item of a tuple, is a number below its least value."""
        for name, bound in least.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else [values]:
                if isinstance(value, (int, float)) and value < bound:
                    raise UserError(f"{option_of(name)} {value}: must be {bound} or more")

    def refuse(self, when, names: tuple | set, why: str) -> None:
        """Raise UserError, with the reason, for the first of these flags set `when` it would be ignored."""
        for field in fields(self) if when else ():
            if field.name in names and (value := getattr(self, field.name)) != field.default:
                raise UserError(f"{typed(field.name, value)} {why}")

    def filled_in(self, recipe: dict):
        """Return these settings; each field that is none takes the recipe's value, if there is one."""
        return replace(self, **{n: value for n, value in recipe.items() if getattr(self, n, "") is None})


def need_matplotlib() -> None:
    """Raise UserError if matplotlib, which draws pictures, is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('a picture needs matplotlib: python -m pip install -e ".[plots]"')


def parse(settings_class: type, override_class=None, argv=None, description="") -> tuple[dict, dict]:
    """Return (given, overrides): the fields of two dataclasses that `argv` gives (none: the command line)."""
    how = dict(usage="%(prog)s [--flag value ...]", description=description, allow_abbrev=False)
    how["formatter_class"] = partial(Help, max_help_position=6, width=WIDTH)
    parser = argparse.ArgumentParser(**how, argument_default=argparse.SUPPRESS)  # flags not given are absent
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # else -1e-3 and -1,-2 would be taken for flags
    names = {field.name for field in fields(settings_class)}
    add_flags(parser, settings_class)
    if override_class:
        add_flags(parser, override_class, taken=names)
    namespace, rest = parser.parse_known_args(argv)
    if rest:
        word = rest[0].partition("=")[0]
        unknown = f"unknown flag {word}{suggest(word, parser._option_string_actions)}"
        what = unknown if word.startswith("-") else f"{rest[0]!r} belongs to no flag"
        raise UserError(f"{what}; --help lists all flags")
    given = vars(namespace)
    return given, {name: given.pop(name) for name in list(given) if name not in names}


def add_flags(parser: argparse.ArgumentParser, settings_class: type, taken=frozenset()) -> None:
    """Add a flag to the parser for each field, the class's own first; none whose name is `taken`."""
    missing = {field.name: field for field in fields(settings_class) if field.name not in taken}
    for declaring in filter(is_dataclass, settings_class.__mro__):
        note = "A flag that is not given keeps the preset's value." if taken else None
        group = parser.add_argument_group(declaring.__doc__.partition(".")[0], note)
        lines = re.findall(r"^    (\w+): .*?(?:  # (.*))?$", inspect.getsource(declaring), re.MULTILINE)
        for name, comment in dict(lines).items():
            if field := missing.pop(name, None):
                options = [option_of(name)] + ([option_of("no_" + name)] if field.type is bool else [])
                default = "" if taken else f" (default {' '.join(words_of(field.default)) or 'empty'})"
                how = dict(dest=name, action=Read, nargs="*", const=field.type)
                group.add_argument(*options, **how, help=(comment + default).replace("%", "%%"))


class Help(argparse.RawDescriptionHelpFormatter):
    """The page of `--help`: each flag with the kind of its value, and under it the comment."""

    def _format_action_invocation(self, action) -> str:
        kind = "" if action.const in (None, bool) else kind_of(action.const)
        return f"{', '.join(action.option_strings)} {kind}".rstrip()


class Read(argparse.Action):
    """Turn the words after a flag into a value of its field's type, which argparse keeps as `const`."""

    def __call__(self, parser, namespace, words: list[str], option: str):
        parts = parts_of(self.const)
        try:
            value = value_of(parts, ["true"] if self.const is bool and not words else words)
        except ValueError:
            found = " ".join([option, *(words or ["without a value"])])
            near = suggest(words[-1], parts.keys() - {"integer", "number", "text"}) if words else ""
            raise UserError(f"{found}: expected {kind_of(self.const)}{near}") from None
        setattr(namespace, self.dest, value if option == option_of(self.dest) else not value)  # --no-compile


def option_of(name: str) -> str:
    """Return the flag of a field: `d_model` -> `--d-model`."""
    return "--" + name.replace("_", "-")


def parts_of(hint) -> dict:
    """Return the parts of a type by name: {"integer": int, "none": None}; of a tuple, "...": its items'."""
    if get_origin(hint) is Literal:
        return {str(value): value for value in get_args(hint)}
    parts = NAMES.get(hint, {})
    for argument in get_args(hint):
        parts = parts | parts_of(argument)
    return parts | {"...": parts} if get_origin(hint) is tuple else parts


def kind_of(hint) -> str:
    """Return what fits a type, in words for errors and help: `integer|none`, `pre|post`, `text ...`."""
    names = parts_of(hint)
    return "|".join(name for name in names if name != "...") + (" ..." if "..." in names else "")


def value_of(parts: dict, words: list[str]):
    """Return the value that words mean in a type made of `parts`; ValueError if they do not fit."""
    if "..." in parts and words and (words != ["none"] or "none" not in parts):
        words = words if "text" in parts else ",".join(words).split(",")
        return tuple(value_of(parts["..."], [word]) for word in words)
    (word,) = words  # raises a ValueError for none or several
    for name, part in parts.items():
        if name.lower() == word.lower() and not isinstance(part, type):
            return part
    for kind in (int, float, str):  # from the narrowest to the widest: 3 is a number too, and anything a text
        with suppress(ValueError):
            if kind in parts.values() and (kind is not float or math.isfinite(float(word))):
                return kind(word)
    raise ValueError


def fits(value, parts: dict) -> bool:
    """Say whether a value from a file has a type made of `parts`; in JSON, a list stands for a tuple."""
    if "..." in parts and value is not None:
        return isinstance(value, (list, tuple)) and all(fits(item, parts["..."]) for item in value)
    if isinstance(value, dict):
        return dict in parts.values()
    if float in parts.values() and type(value) in (int, float):
        return abs(value) < 1e308  # JSON has NaN, and integers beyond any float
    # type() and not isinstance(): to Python true is an int, and equal to 1.
    return any(type(value) is part or type(value) is type(part) and value == part for part in parts.values())


def checked(where, values: dict, types: dict, whole: bool = True) -> dict:
    """Return a file's values, lists as tuples; UserError for a wrong type or, if `whole`, a missing name."""
    for name, hint in types.items():
        if whole and name not in values:
            raise UserError(f"{where}: {name!r} is missing")
        if name in values and not fits(values[name], parts_of(hint)):
            raise UserError(f"{where}: {name!r} is {values[name]!r:.100}, expected {kind_of(hint)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def words_of(value) -> list[str]:
    """Return the words for a value: `none`, `true`, `0.003`; for a tuple of numbers one word: `1,2`."""
    if isinstance(value, tuple):
        words = [word for item in value for word in words_of(item)]
        return words if any(isinstance(item, str) for item in value) else [",".join(words)]
    return [str(value).lower() if value is None or isinstance(value, bool) else str(value)]


def typed(name: str, value) -> str:
    """Return how a field's value is typed: `--d-model 32`, `--no-compile`, `--lr=-1`."""
    if isinstance(value, bool):
        return option_of(name if value else "no_" + name)
    words = words_of(value)
    return option_of(name) + ("=" if words[0].startswith("-") else " ") + quoted(words)


def show(settings, overrides: dict | None = None, script: str | None = None) -> None:
    """Print the command that gives these settings: every flag whose value is not its default."""
    given = {f.name: value for f in fields(settings) if (value := getattr(settings, f.name)) != f.default}
    own_first = {name: given[name] for name in (*type(settings).__annotations__, *given) if name in given}
    flags = [typed(name, value) for name, value in (own_first | (overrides or {})).items()]
    print(script or os.path.basename(sys.argv[0]), *flags)
