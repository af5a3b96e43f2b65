"""The command line of every script: a dataclass becomes flags, errors become one line, results a table.

    @dataclass(frozen=True, kw_only=True)
    class Settings(CommonSettings):
        steps: int = 2000  # optimizer steps
        data: tuple[str, ...] = ("world",)  # sources, files and folders

    settings = parse(Settings)                  python train.py --steps 500 --data a.txt b.txt

The field `d_model` is the flag `--d-model`, the comment on its line is its help text, and its type says which
words may follow, apart by a space or by `=`:

    int, float, str             one word; a whole number such as 0 is a float too
    bool                        nothing for true: --compile; --no-compile or --compile false for false
    Literal["pre", "post"]      one of these words
    X | None                    none, or what X takes
    tuple[X, ...], list[X]      one or more words; commas separate too (--shots 0,1,2) unless X is str
"""

import argparse
import ast
import inspect
import io
import json
import math
import os
import shlex
import sys
import textwrap
import tokenize
import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import UserError, suggest

# Words that stand for one value of a type.
NAMED_VALUES = {bool: {"true": True, "false": False}, types.NoneType: {"none": None}}


@dataclass(frozen=True)
class Flag:
    """One field of a dataclass, as a flag."""

    name: str  # the field's
    hint: Any  # the field's type
    default: Any  # MISSING where the field has none
    help: str  # the comment at the end of the field's line, or metadata={"help": ...}
    group: str  # heading in the help: first line of the docstring of the class that declares the field

    @property
    def option(self) -> str:
        """The field's name as it is typed: `--d-model`."""
        return option_of(self.name)

    def read(self, words: list[str]):
        """Return the value that the words after the flag stand for; UserError where they do not fit."""
        try:
            return value_of(self.hint, words)
        except ValueError:
            near = suggest(words[-1], named_values(self.hint)) if words else ""
            found = " ".join([self.option, *words]) + ("" if words else " without a value")
            raise UserError(f"{found}: expected {kind_of(self.hint)}{near}") from None


def flags_of(settings_class: type) -> list[Flag]:
    """Return a flag for each field of a dataclass: its own first, then those that it inherits."""
    hints = typing.get_type_hints(settings_class)
    by_name = {field.name: field for field in fields(settings_class) if field.init}
    flags = {}
    for declaring in filter(is_dataclass, settings_class.__mro__):
        comments, heading = comments_of(declaring), heading_of(declaring)
        for name in inspect.get_annotations(declaring):
            if name in by_name and name not in flags:
                field = by_name[name]
                made = field.default if field.default_factory is MISSING else field.default_factory()
                text = field.metadata.get("help") or comments.get(name, "")
                flags[name] = Flag(name, hints[name], made, text, heading)
    return list(flags.values())


def heading_of(cls: type) -> str:
    """Return the first line of a dataclass's docstring, or its name where it has none of its own."""
    lines = (cls.__doc__ or "").strip().splitlines()
    written = lines and not lines[0].startswith(cls.__name__ + "(")  # else by @dataclass: the signature
    return lines[0] if written else cls.__name__


def comments_of(cls: type) -> dict[str, str]:
    """Map the fields that `cls` itself declares to the comments on their lines, read from its source."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # typed at a prompt: there is no source to read
        return {}
    comments = {}  # line number -> comment
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    (definition,) = ast.parse(source).body
    by_name = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign):
            lines = range(node.lineno, node.end_lineno + 1)
            by_name[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return by_name


def value_of(hint, words: list[str]):
    """Turn the words after a flag into a value of the type `hint`; ValueError where they do not fit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # The narrow ones first: "none" is a word too, and 3 a number.
        for option in sorted(inner, key=lambda option: (option is str, option is float)):
            try:
                return value_of(option, words)
            except ValueError:
                continue
        raise ValueError
    if origin in (tuple, list):
        parts = words if inner[0] is str else [part for word in words for part in word.split(",")]
        if not parts:
            raise ValueError
        return origin(value_of(inner[0], [part]) for part in parts)
    if hint is bool and not words:
        return True
    (word,) = words  # a ValueError where there are none or several
    if origin is Literal or hint in NAMED_VALUES:
        word = word if origin is Literal else word.lower()  # Python's True and None too
        if word not in named_values(hint):
            raise ValueError
        return named_values(hint)[word]
    if hint not in (int, float, str):
        raise TypeError(f"no flag can hold a value of type {hint}")
    if hint is float and not math.isfinite(float(word)):
        raise ValueError
    return hint(word)


def named_values(hint) -> dict[str, Any]:
    """Return the words that stand for one value each, in this type or in those that it is made of."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return {str(value): value for value in inner}
    named = NAMED_VALUES.get(hint, {})
    for part in inner:
        named = named | named_values(part)
    return named


def kind_of(hint) -> str:
    """Name what fits the type, for errors and for the help: `integer|none`, `pre|post`, `text ...`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return "|".join(kind_of(option) for option in inner)
    if origin in (tuple, list):
        return kind_of(inner[0]) + (" ..." if inner[0] is str else ",...")
    return {int: "integer", float: "number", str: "text"}.get(hint) or "|".join(named_values(hint))


def words_for(value) -> list[str]:
    """Return the words that `value_of` turns back into `value`."""
    if isinstance(value, (tuple, list)):
        parts = [word for part in value for word in words_for(part)]
        return parts if any(isinstance(part, str) for part in value) else [",".join(parts)]
    names = {word: named for values in NAMED_VALUES.values() for word, named in values.items()}
    return [word for word, named in names.items() if named is value] or [str(value)]


def option_of(name: str) -> str:
    """Return the flag of the field `name`: `d_model` -> `--d-model`."""
    return "--" + name.replace("_", "-")


def as_typed(name: str, value) -> str:
    """Return the field's flag with its value, as typed into a shell: `--data 'my file.txt' world`."""
    option = option_of(name)
    if isinstance(value, bool):
        return option if value else "--no-" + option[2:]
    words = words_for(value)
    separator = "=" if words[0].startswith("-") else " "  # or a value such as -1 would look like a flag
    return option + separator + " ".join(shlex.quote(word) for word in words)


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
