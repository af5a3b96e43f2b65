"""Grades plumbing/settings.py: from the words of a command line to the values of a dataclass, and back."""

import argparse
import importlib
import math
import os
import shlex
import sys
from dataclasses import dataclass, fields
from typing import Literal, Optional

import pytest
import small

from minilm.plumbing import settings as module
from minilm.plumbing.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Settings(module.CommonSettings):
    """Pre-training.

    lr: no flag, but a line of the docstring.
    """

    task: Literal["masked", "causal"] = "masked"  # what to learn # of two
    data: tuple[str, ...] = ("world",)  # 100% of the files
    shots: tuple[int, ...] = (0, 1)  # examples
    lr: float = 3e-3  # highest learning rate
    reward: float = 0.0  # of the end
    steps: int | None = None  # optimizer steps
    clip: float | None = 1.0
    vocab_size: int | None = None  # of the tokenizer
    nsp: bool = True  # next sentence
    prompt: str = ""  # text to go on from
    model: str | None = None  # a folder
    seed: int = 7  # redeclared


@dataclass(frozen=True)
class Shape:
    """The shape of a model."""

    vocab_size: int = 100  # of the model
    d_model: int = 64  # width
    pre_norm: bool = True  # norm first


def given(*words: str) -> dict:
    return module.parse(Settings, argv=list(words))[0]


GOOD = [
    (int, {"12": 12, "-3": -3}),
    (float, {"0": 0.0, "3e-4": 3e-4, "-1e-3": -1e-3}),
    (str, {"a=b,c": "a=b,c", "": "", "none": "none"}),
    (bool, {"true": True, "False": False}),
    (int | None, {"none": None, "5": 5}),
    (Optional[float], {"0.5": 0.5}),  # noqa: UP045
    (str | None, {"None": None, "nine": "nine"}),
    (Literal["Pre", "post"], {"pre": "Pre"}),
    (Literal["all", 2] | int, {"all": "all", "2": 2, "4": 4}),
    (float | int, {"4": 4, "4.0": 4.0}),
    (tuple[int, ...], {"0,1,2": (0, 1, 2), "0 1,2": (0, 1, 2)}),
    (tuple[str, ...], {"a,b.txt none": ("a,b.txt", "none")}),
    (tuple[int | Literal["all"], ...], {"1,all": (1, "all")}),
    (tuple[int, ...] | None, {"none": None, "1": (1,)}),
]
BAD = [
    (int, ["1.5", "x", "1 2", "none", "integer"]),
    (float, ["nan", "inf", "1,5"]),
    (bool, ["maybe", "true true"]),
    (int | None, ["nil"]),
    (Literal["pre", "post"], ["pro"]),
    (tuple[int, ...], ["1,,2", ""]),
    (tuple[int, ...] | None, ["1,none"]),
]


@pytest.mark.parametrize(("hint", "values"), GOOD)
def test_words_become_a_value_of_the_type_and_back(hint, values):
    for words, value in values.items():
        found = module.value_of(module.parts_of(hint), words.split(" "))
        assert found == value, f"{words} for {hint}"
        assert type(found) is type(value), f"{words} for {hint}: {found!r} has the wrong type"
        assert module.value_of(module.parts_of(hint), module.words_of(value)) == value


@pytest.mark.parametrize(("hint", "words"), [(hint, words) for hint, lines in BAD for words in lines])
def test_words_that_do_not_fit_are_refused(hint, words):
    for given_words in (words.split(" "), []):
        with pytest.raises(ValueError):
            module.value_of(module.parts_of(hint), given_words)
    with pytest.raises(ValueError):
        module.value_of(module.parts_of(tuple[str, ...]), [])


def test_one_and_true_are_not_the_same_word():
    words = [module.words_of(value) for value in (1, True, 0.0, (1, 2), (1, "a"))]
    assert words == [["1"], ["true"], ["0.0"], ["1,2"], ["1", "a"]]


def test_kinds_are_named_for_people():
    hints = [int, bool, float | None, int | Literal["a", "b"], tuple[str, ...], tuple[int, ...] | None]
    kinds = ["integer", "true|false", "number|none", "integer|a|b", "text ...", "integer|none ..."]
    assert [module.kind_of(hint) for hint in hints] == kinds


def test_parts_of_a_union_leave_those_of_its_members_alone():
    assert module.parts_of(bool | None) == {"true": True, "false": False, "none": None}
    assert module.parts_of(bool) == {"true": True, "false": False}


def test_every_kind_of_field():
    line = "--task causal --data a=b.txt c,d.pt --shots 0,1,2 --lr 0 --steps 9 --no-nsp --prompt=x=y --seed 3"
    first = dict(task="causal", data=("a=b.txt", "c,d.pt"), shots=(0, 1, 2))
    assert given(*line.split()) == first | dict(lr=0, steps=9, nsp=False, prompt="x=y", seed=3)


def test_what_is_not_given_is_absent(monkeypatch):
    assert module.parse(Settings, Shape, []) == ({}, {})
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "7"])
    assert module.parse(Settings) == ({"seed": 7}, {}), "a flag typed with its default's value is given"


def test_values_that_begin_with_a_dash():
    for word in ("-1", "-0.5", "-.5", "-1e-3"):
        assert given("--reward", word) == given(f"--reward={word}") == {"reward": float(word)}
    assert given("--shots", "-1,-2") == {"shots": (-1, -2)}
    assert given("--prompt", "-5 degrees") == {"prompt": "-5 degrees"}
    assert given("--prompt", "-") == {"prompt": "-"}


def test_a_switch_in_all_its_forms():
    yes = ["--nsp", "--nsp=true", "--no-nsp --nsp", "--no-nsp false"]
    assert all(given(*line.split()) == {"nsp": True} for line in yes)
    assert all(given(*line.split()) == {"nsp": False} for line in ["--no-nsp", "--nsp false"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--stepz 3", r"unknown flag --stepz \(did you mean '--steps'\?\); --help"),
        ("--stepz=3", r"unknown flag --stepz \(did you mean '--steps'\?\)"),
        ("--step 3", r"unknown flag --step \(did you mean '--steps'\?\)"),  # no abbreviations
        ("--vocab_size 3", r"unknown flag --vocab_size \(did you mean '--vocab-size'\?\)"),
        ("-lr 3", r"unknown flag -lr \(did you mean '--lr'\?\)"),
        ("--no-npp", r"unknown flag --no-npp \(did you mean '--no-nsp'\?\)"),
        ("file.txt", "'file.txt' belongs to no flag; --help"),
        ("--no-nsp=1", r"--no-nsp 1: expected true\|false$"),
        ("--steps 1.5", r"--steps 1\.5: expected integer\|none$"),
        ("--lr fast", "--lr fast: expected number$"),
        ("--lr numbr", "--lr numbr: expected number$"),
        ("--lr 1 2", "--lr 1 2: expected number$"),
        ("--lr", "--lr without a value: expected number$"),
        ("--lr --nsp", "--lr without a value: expected number$"),
        ("--shots 0,x", "--shots 0,x: expected integer"),
        ("--device gpu", r"--device gpu: expected auto\|cpu\|cuda\|mps \(did you mean 'cpu'\?\)"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(line, message, capsys):
    with pytest.raises(UserError, match=message) as caught:
        given(*line.split())
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", ""), "argparse's page of usage must not be printed"


def test_overrides_are_the_given_fields_of_the_second_class():
    argv = ["--d-model", "64", "--no-pre-norm", "--lr", "1", "--vocab-size", "7"]
    found, overrides = module.parse(Settings, Shape, argv)
    assert overrides == {"d_model": 64, "pre_norm": False}
    assert found == {"lr": 1.0, "vocab_size": 7}, "a name of both belongs to the settings"


def helps_of(settings_class: type) -> dict[str, str]:
    """Return the help text of each flag by its field."""
    parser = argparse.ArgumentParser(add_help=False)
    module.add_flags(parser, settings_class)
    return {action.dest: action.help for action in parser._actions}


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("train", "PretrainingSettings"),
        ("extract", "ExtractionSettings"),
        ("finetune", "FinetuningSettings"),
        ("reinforce", "ReinforceSettings"),
        ("prompt", "PromptSettings"),
        ("minilm.model.config", "ModelConfig"),
    ],
)
def test_every_field_is_a_flag_with_a_comment(where, name):
    cls = getattr(importlib.import_module(where), name)
    helps = helps_of(cls)
    assert helps.keys() == {field.name for field in fields(cls)}
    bare = [module.option_of(name) for name, text in helps.items() if text.startswith(" (default")]
    assert not bare, f"no comment in the line of {', '.join(bare)}"


def test_a_field_has_the_comment_of_the_class_that_declares_it():
    helps = helps_of(Settings)
    assert [*helps].index("prompt") < [*helps].index("device"), "own fields first"
    assert helps["task"] == "what to learn # of two (default masked)"
    assert helps["clip"] == " (default 1.0)"
    assert (helps["seed"], helps["lr"]) == ("redeclared (default 7)", "highest learning rate (default 0.003)")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed_and_leaves_with_0(option, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    with pytest.raises(SystemExit) as caught:
        module.parse(Settings, Shape, ["--lr", "1", option], "Train a model.\n\n    train.py  like this")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: train.py ")
    for part in [
        "Train a model.\n\n    train.py  like this\n",
        "\nPre-training:\n",
        "\nFlags that every script takes:\n",
        "\nThe shape of a model:\n  A flag that is not given keeps the preset's value.\n",
        "\n  --lr number\n      highest learning rate (default 0.003)\n",
        "\n  --nsp, --no-nsp\n",
        "\n      100% of the files (default world)\n",
        "\n      examples (default 0,1)\n",
        "\n      text to go on from (default empty)\n",
        "\n      width\n",
    ]:
        assert part in text, part
    assert text.count("--vocab-size") == 1
    assert max(map(len, text.splitlines())) <= 100


def test_a_folder_is_typed_as_the_shell_reads_it():
    """To POSIX's shell a backslash means something, to cmd.exe ' does not."""
    right = {"posix": r"--out 'runs\a' 'b c' ''", "nt": r'--out runs\a "b c" ""'}
    assert module.typed("out", (r"runs\a", "b c", "")) == right[os.name]


@pytest.mark.parametrize("line", ["", "--no-nsp --lr -1e-3 --shots -1,2 --data 'a b' c", "--prompt=-x"])
def test_the_shown_command_reads_back_as_the_same_settings(line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dir/train.py"])
    argv = [*shlex.split(line), "--d-model", "32", "--clip", "none"]
    found, overrides = module.parse(Settings, Shape, argv)
    settings = Settings(**found)
    module.show(settings, overrides)
    text = capsys.readouterr().out
    program, *argv = shlex.split(text)
    assert program == "train.py" and argv[:2] != ["--d-model", "32"], "the script's own settings first"
    found, again = module.parse(Settings, Shape, argv)
    assert (Settings(**found), again) == (settings, overrides)
    assert "--clip" in argv and "--task" not in argv, "a flag's default says nothing of this run"
    module.show(settings, overrides, script="other.py")
    assert capsys.readouterr().out.startswith("other.py ")


def test_common_settings_are_those_of_every_script():
    expected = dict(out=None, seed=0, device="auto", precision="auto")
    expected |= dict(compile=False, overwrite=False, plot=False)
    found = {field.name: field.default for field in fields(module.CommonSettings)}
    assert found == expected, "the READMEs' figures were measured with these"


def test_a_flag_that_would_be_ignored_is_refused():
    names = ("lr", "nsp", "shots")
    Settings(steps=3, lr=3e-3, nsp=True).refuse(True, names, "is no default, or none of these")
    for fields_given, told in (
        (dict(lr=0.5), "--lr 0.5"), (dict(nsp=False), "--no-nsp"), (dict(shots=(1, 2)), "--shots 1,2"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^{told} means nothing here$"):
            Settings(**fields_given).refuse(True, names, "means nothing here")
        Settings(**fields_given).refuse(None, names, "means nothing here")


def test_a_picture_needs_the_package_that_draws_it(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: "a package")
    assert Settings(plot=True).plot
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs matplotlib: python -m pip install -e "\.\[plots\]"'):
        Settings(plot=True)


def test_a_field_below_its_least_value_is_named_by_its_flag():
    with pytest.raises(UserError, match="--vocab-size 2: must be 3 or more"):
        Settings(vocab_size=2).check_least(dict(lr=0, vocab_size=3))
    Settings(vocab_size=3, lr=0.0, steps=None).check_least(dict(lr=0, vocab_size=3, steps=1))
    with pytest.raises(UserError, match="--shots 1: must be 2"):
        Settings(shots=(2, 1)).check_least(dict(shots=2))


def test_what_a_run_reads_from_is_not_overwritten_by_it():
    with pytest.raises(UserError, match=r"--overwrite would delete --model ./runs/../runs/a/"):
        Settings(model="./runs/../runs/a/", out="runs/a", overwrite=True)
    Settings(model="runs/a", out="runs/b", overwrite=True)
    Settings(model="runs/a", out="runs/a")  # choose_folder says that it exists


def test_only_what_is_none_is_filled_in():
    settings = module.CommonSettings(seed=0).filled_in(dict(seed=7, out="here", not_a_field=3))
    assert (settings.seed, settings.out) == (0, "here"), "0 is a value, not a gap"


@pytest.mark.parametrize(("hint", "right", "wrong"), [
    (int, (0, 5, -3), (True, 1.0, "1", None, [1])), (float, (1, 0.5), (True, math.inf, math.nan, "1")),
    (str, ("", "a"), (1, None)), (bool, (True, False), (1, 0, "true")), (int | None, (None, 3), (False, 0.5)),
    (dict, ({}, {"a": 1}), ([], None, "a")), (dict | None, (None, {}), ([],)), (int, (), ({},)),
    (tuple[int, ...], ([], [1, 2], (3,)), ([1, "a"], 1, None, [True])),
    (tuple[int, ...] | None, (None, [1]), ([None], 0)),
    (Literal["a", 1], ("a", 1), (True, 1.0, "b", None)),
])  # fmt: skip
def test_values_of_a_file_are_of_their_type(hint, right, wrong):
    for value in right:
        found = module.checked("a.json", dict(n=value), dict(n=hint))
        assert found == dict(n=tuple(value) if isinstance(value, list) else value)
    for value in wrong:
        with pytest.raises(UserError, match="a.json: 'n' is .*, expected"):
            module.checked("a.json", dict(n=value), dict(n=hint))


def test_a_number_beyond_all_floats_is_none():
    with pytest.raises(UserError, match="a.json: 'n' is 10000.*, expected number"):
        module.checked("a.json", dict(n=10**400), dict(n=float))


def test_a_name_may_be_missing_where_not_all_is_asked_for():
    with pytest.raises(UserError, match="a.json: 'n' is missing"):
        module.checked("a.json", dict(other=1), dict(n=int))
    assert module.checked("a.json", dict(other=[1]), dict(n=int), whole=False) == dict(other=(1,))
    with pytest.raises(UserError) as caught:
        module.checked("a.json", dict(n="z" * 300), dict(n=int))
    assert str(caught.value).count("z") == 99, "a quote and 99 letters are enough"


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(module.CommonSettings(), by_name=True)
