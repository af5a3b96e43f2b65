"""Grades plumbing/settings.py: the words after a flag become a value of the field's type, and back."""

import shlex
from dataclasses import MISSING, dataclass, field
from typing import Literal, Optional

import pytest

from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import (
    Flag,
    as_typed,
    comments_of,
    flags_of,
    heading_of,
    kind_of,
    named_values,
    option_of,
    value_of,
    words_for,
)


@dataclass
class Base:
    """What all have.

    More about it.
    """

    seed: int = 0  # draws # the numbers
    out: str | None = None  # where to


@dataclass
class Child(Base):
    task: Literal[
        "a",  # one
        "b",
    ] = "a"  # or other
    lr: float = field(default=1e-3, metadata={"help": "learning rate"})  # not this
    shots: list[int] = field(default_factory=lambda: [0, 1])
    seed: int = 7  # redeclared
    hidden: int = field(default=3, init=False)  # not a flag


@dataclass
class Needs:
    d_model: int  # width


GOOD = [
    (int, ["12"], 12),
    (int, ["-3"], -3),
    (float, ["0"], 0.0),
    (float, ["1"], 1.0),
    (float, ["3e-4"], 3e-4),
    (float, ["-1e-3"], -1e-3),
    (str, ["a=b,c"], "a=b,c"),
    (str, [""], ""),
    (bool, [], True),
    (bool, ["true"], True),
    (bool, ["False"], False),
    (int | None, ["none"], None),
    (int | None, ["5"], 5),
    (Optional[float], ["0.5"], 0.5),  # noqa: UP045
    (str | None, ["none"], None),
    (str | None, ["nine"], "nine"),
    (Literal["pre", "post"], ["post"], "post"),
    (Literal[1, 2], ["2"], 2),
    (int | Literal["all"], ["all"], "all"),
    (Literal["all"] | int, ["4"], 4),
    (float | int, ["4"], 4),
    (tuple[int, ...], ["0,1,2"], (0, 1, 2)),
    (tuple[int, ...], ["0", "1,2"], (0, 1, 2)),
    (list[float], ["0.5,1"], [0.5, 1.0]),
    (tuple[str, ...], ["a,b.txt", "c"], ("a,b.txt", "c")),
    (tuple[Literal["cls", "mean"], ...], ["cls,mean"], ("cls", "mean")),
    (tuple[int, ...] | None, ["none"], None),
]
BAD = [
    (int, ["1.5"]),
    (int, ["x"]),
    (int, []),
    (int, ["1", "2"]),
    (float, ["nan"]),
    (float, ["inf"]),
    (float, ["1,5"]),
    (str, []),
    (str, ["two", "words"]),
    (bool, ["maybe"]),
    (bool, ["true", "true"]),
    (int | None, ["nil"]),
    (Literal["pre", "post"], ["Pre"]),
    (Literal["pre", "post"], []),
    (tuple[int, ...], ["1,,2"]),
    (tuple[int, ...], []),
    (tuple[str, ...], []),
]


@pytest.mark.parametrize(("hint", "words", "value"), GOOD)
def test_words_become_a_value_of_the_type(hint, words, value):
    found = value_of(hint, words)
    assert found == value, f"{words} for {hint}"
    assert type(found) is type(value), f"{words} for {hint}: {found!r} has the wrong type"


@pytest.mark.parametrize(("hint", "words"), BAD)
def test_words_that_do_not_fit_are_refused(hint, words):
    with pytest.raises(ValueError):
        value_of(hint, words)


def test_a_type_that_no_flag_can_hold_is_a_bug_and_not_the_users_mistake():
    with pytest.raises(TypeError, match="dict"):
        value_of(dict, ["x"])


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (int, "integer"),
        (float, "number"),
        (str, "text"),
        (bool, "true|false"),
        (int | None, "integer|none"),
        (Literal["pre", "post"], "pre|post"),
        (int | Literal["all"], "integer|all"),
        (tuple[int, ...], "integer,..."),
        (tuple[str, ...], "text ..."),
    ],
)
def test_kinds_are_named_for_people(hint, kind):
    assert kind_of(hint) == kind


def test_named_values_of_nested_types():
    assert named_values(Literal["a", 3] | None) == {"a": "a", "3": 3, "none": None}
    assert named_values(int) == {}
    assert named_values(tuple[bool, ...]) == {"true": True, "false": False}
    assert named_values(bool) == {"true": True, "false": False}, "asking for a union must not change bool's"


@pytest.mark.parametrize(("hint", "words", "value"), GOOD)
def test_a_value_becomes_words_that_mean_the_same(hint, words, value):
    assert value_of(hint, words_for(value)) == value


def test_one_and_true_are_not_the_same_word():
    assert words_for(1) == ["1"]
    assert words_for(0.0) == ["0.0"]
    assert words_for(True) == ["true"]


def test_read_names_flag_value_and_type():
    flag = Flag("n_head", int | None, None, "", "")
    assert flag.read(["4"]) == 4
    with pytest.raises(UserError, match=r"--n-head 1\.5: expected integer\|none$"):
        flag.read(["1.5"])
    with pytest.raises(UserError, match="--n-head without a value: expected integer"):
        flag.read([])


def test_read_suggests_the_nearest_choice():
    flag = Flag("device", Literal["auto", "cpu", "cuda"], "auto", "", "")
    with pytest.raises(UserError, match=r"--device gpu: expected auto\|cpu\|cuda \(did you mean 'cpu'\?\)"):
        flag.read(["gpu"])


def test_comments_at_the_end_of_a_fields_lines():
    assert comments_of(Base) == {"seed": "draws # the numbers", "out": "where to"}
    assert comments_of(Child)["task"] == "one or other", "a field of several lines has the comments of all"
    assert comments_of(Child)["shots"] == ""


def test_a_class_without_source_has_no_comments():
    scope = {}
    exec("class Typed:\n    x: int = 0  # lost\n", {"__name__": "nowhere"}, scope)  # noqa: S102
    assert comments_of(scope["Typed"]) == {}


def test_heading_is_the_first_line_of_the_docstring_or_the_name():
    assert heading_of(Base) == "What all have."
    assert heading_of(Child) == "Child", "the signature that @dataclass writes is no docstring"


def test_flags_of_a_dataclass_that_inherits():
    flags = {flag.name: flag for flag in flags_of(Child)}
    assert list(flags) == ["task", "lr", "shots", "seed", "out"], (
        "own fields first, each once, none without init"
    )
    assert [flags[name].group for name in flags] == ["Child"] * 4 + ["What all have."]
    assert flags["out"].help == "where to", "the comment of an inherited field is in the parent's source"
    assert flags["seed"].help == "redeclared"
    assert flags["seed"].default == 7
    assert flags["lr"].help == "learning rate", "metadata goes before the comment"
    assert flags["shots"].default == [0, 1]
    assert flags["out"].hint == str | None


def test_a_field_without_a_default():
    (flag,) = flags_of(Needs)
    assert flag.default is MISSING
    assert flag.option == "--d-model"


def test_option_of_a_field():
    assert option_of("n_decoder_layer") == "--n-decoder-layer"


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (True, "--x-y"),
        (False, "--no-x-y"),
        (None, "--x-y none"),
        (0.003, "--x-y 0.003"),
        (-1e-05, "--x-y=-1e-05"),
        ((-1, 2), "--x-y=-1,2"),
        ("a b", "--x-y 'a b'"),
        (("a b", "c"), "--x-y 'a b' c"),
    ],
)
def test_a_field_as_it_is_typed_into_a_shell(value, typed):
    assert as_typed("x_y", value) == typed
    assert shlex.split(typed)
