"""One field of a dataclass as a flag: from the words after it to the value of its type, and back.

The field's type says which words may follow, apart by a space or by `=`:

    int, float, str             one word; a whole number such as 0 is a float too
    bool                        nothing for true: --compile; --no-compile or --compile false for false
    Literal["pre", "post"]      one of these words
    X | None                    none, or what X takes
    tuple[X, ...], list[X]      one or more words; commas separate too (--shots 0,1,2) unless X is str
"""

import ast
import inspect
import io
import math
import shlex
import textwrap
import tokenize
import types
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
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
