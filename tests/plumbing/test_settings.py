"""Grades plumbing/settings.py: command lines, their errors, the help, the closing table, exit codes."""

import json
import shlex
import sys
from dataclasses import dataclass, fields
from typing import Literal

import pytest

from minilm.model.config import ModelConfig
from minilm.plumbing import settings as cli
from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import (
    CommonSettings,
    Flag,
    Parser,
    flags_of,
    parse,
    parse_given,
    parse_with_overrides,
    settings_dict,
    show,
)


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Pre-training."""

    task: Literal["masked", "causal"] = "masked"  # what to learn
    data: tuple[str, ...] = ("world",)  # 100% of the files
    shots: tuple[int, ...] = (0, 1)  # examples
    lr: float = 3e-3  # highest learning rate
    reward: float = 0.0  # of the end
    steps: int | None = None  # optimizer steps
    vocab_size: int | None = None  # of the tokenizer
    nsp: bool = True  # next sentence
    prompt: str = ""  # text to go on from


@dataclass(frozen=True)
class Shape:
    """The shape of a model."""

    vocab_size: int = 100  # of the model
    d_model: int = 64  # width
    pre_norm: bool = True  # norm first


@dataclass(frozen=True)
class Needs:
    model: str  # which model


def test_nothing_given_is_the_defaults():
    assert parse(Settings, []) == Settings()


def test_every_kind_of_field():
    line = (
        "--task causal --data a=b.txt c,d.pt --shots 0,1,2 --lr 0 --steps 20 --no-nsp --prompt=x=y --seed 3"
    )
    expected = Settings(
        task="causal",
        data=("a=b.txt", "c,d.pt"),
        shots=(0, 1, 2),
        lr=0.0,
        steps=20,
        nsp=False,
        prompt="x=y",
        seed=3,
    )
    assert parse(Settings, line.split()) == expected


@pytest.mark.parametrize("word", ["-1", "-0.5", "-.5", "-1e-3"])
@pytest.mark.parametrize("form", ["--reward {}", "--reward={}"])
def test_negative_numbers_are_values(form, word):
    assert parse(Settings, form.format(word).split()).reward == float(word)


def test_negative_numbers_in_a_list():
    assert parse(Settings, ["--shots", "-1,-2"]).shots == (-1, -2)
    assert parse(Settings, ["--prompt", "-5 degrees"]).prompt == "-5 degrees"
    assert cli.attach_negatives(["--a", "-1", "--b=2", "-3", "-x"]) == ["--a=-1", "--b=2", "-3", "-x"]


def test_a_switch_in_all_its_forms():
    for line, value in [
        ("--nsp", 1),
        ("--no-nsp", 0),
        ("--nsp false", 0),
        ("--nsp=true", 1),
        ("--no-nsp --nsp", 1),
    ]:
        assert parse(Settings, line.split()).nsp is bool(value), line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--stepz 3", r"unknown flag --stepz \(did you mean '--steps'\?\)"),
        ("--stepz=3", r"unknown flag --stepz \(did you mean '--steps'\?\)"),
        ("--step 3", r"unknown flag --step \(did you mean '--steps'\?\)"),  # no abbreviations
        ("--vocab_size 3", r"unknown flag --vocab_size \(did you mean '--vocab-size'\?\)"),
        ("-lr 3", r"unknown flag -lr \(did you mean '--lr'\?\)"),
        ("--no-npp", r"unknown flag --no-npp \(did you mean '--no-nsp'\?\)"),
        ("file.txt", "'file.txt' belongs to no flag"),
        ("--no-nsp false", "'false' belongs to no flag"),
        ("--no-nsp=1", "--no-nsp"),
        ("--steps 1.5", r"--steps 1\.5: expected integer\|none$"),
        ("--lr fast", "--lr fast: expected number$"),
        ("--lr 1 2", "--lr 1 2: expected number$"),
        ("--lr", "--lr without a value: expected number$"),
        ("--lr --nsp", "--lr without a value: expected number$"),
        ("--shots 0,x", "--shots 0,x: expected integer"),
        ("--device gpu", r"--device gpu: expected auto\|cpu\|cuda\|mps \(did you mean 'cpu'\?\)"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(line, message, capsys):
    with pytest.raises(UserError, match=message) as caught:
        parse(Settings, line.split())
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", ""), "argparse's page of usage must not be printed"


def test_argparse_errors_are_user_errors():
    with pytest.raises(UserError, match="^--x: no$"):
        Parser().error("argument --x: no")


def test_a_field_without_a_default_is_required():
    assert parse(Needs, ["--model", "bert"]).model == "bert"
    with pytest.raises(UserError, match=r"--model is missing: expected text \(which model\)"):
        parse(Needs, [])


def test_the_command_line_is_the_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "5"])
    assert parse(Settings).seed == 5


def test_overrides_are_those_given_and_no_others():
    settings, overrides = parse_with_overrides(
        Settings, Shape, ["--d-model", "32", "--no-pre-norm", "--lr", "1"]
    )
    assert settings == Settings(lr=1.0)
    assert overrides == {"d_model": 32, "pre_norm": False}
    assert parse_with_overrides(Settings, Shape, []) == (Settings(), {})
    given = parse_with_overrides(Settings, Shape, ["--d-model", "64"])[1]
    assert given == {"d_model": 64}, "a value that equals the default is given all the same"


def test_a_name_of_both_belongs_to_the_settings():
    settings, overrides = parse_with_overrides(Settings, Shape, ["--vocab-size", "7"])
    assert (settings.vocab_size, overrides) == (7, {})


def test_given_are_the_typed_flags_and_no_defaults():
    given, overrides = parse_given(CommonSettings, ModelConfig, ["--seed", "0", "--n-head", "3"])
    assert given == {"seed": 0}, "a flag typed with its default's value counts as given"
    assert overrides == {"n_head": 3}
    assert parse_given(Needs, None, []) == ({}, {}), "what is missing may come from a saved run"


def test_every_field_of_the_model_is_a_flag_with_help():
    for flag in flags_of(ModelConfig):
        assert flag.help, f"{flag.option} has no comment in config.py"
        words = ["0.5"] if flag.hint is float else [] if flag.hint is bool else None
        if words is not None:
            overrides = parse_with_overrides(CommonSettings, ModelConfig, [flag.option, *words])[1]
            assert list(overrides) == [flag.name]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed_and_leaves_with_0(option, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    with pytest.raises(SystemExit) as caught:
        parse_with_overrides(Settings, Shape, ["--lr", "1", option], "Train a model.")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: train.py ")
    for part in ["Train a model.", "Pre-training.", "What every script takes.", "The shape of a model."]:
        assert part in text
    for flag in flags_of(Settings) + flags_of(Shape)[1:]:
        assert flag.option in text
        assert flag.help in text
    assert text.count("--vocab-size") == 1


def test_help_shows_kinds_and_defaults():
    flags = [
        Flag("lr", float, 3e-3, "rate", "Own"),
        Flag("nsp", bool, True, "next", "Own"),
        Flag("shots", tuple[int, ...], (0, 1), "examples", "Own"),
        Flag("need", str, cli.MISSING, "must be", "Own"),
        Flag("long", int, 0, "so long that it is broken: " + "x" * 56 + " not --in-a-word", "Own"),
    ]
    lines = cli.help_text(flags, [Flag("d_model", int, 64, "width", "Shape")], "").splitlines()
    assert "  --lr number" in lines
    assert "      rate (default 0.003)" in lines
    assert "  --nsp, --no-nsp" in lines
    assert "      examples (default 0,1)" in lines
    assert "      must be (required)" in lines
    assert "      width" in lines, "an override has no default of its own"
    assert any("--in-a-word" in line for line in lines)


@pytest.mark.parametrize(
    "line", ["", "--no-nsp --lr -1e-3 --shots -1,2 --data 'a b' c", '--prompt "it\'s" --seed 2']
)
def test_the_shown_command_reads_back_as_the_same_settings(line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dir/train.py"])
    settings, overrides = parse_with_overrides(Settings, Shape, shlex.split(line) + ["--d-model", "32"])
    show(settings, overrides)
    text = capsys.readouterr().out
    assert all(len(row) <= cli.WIDTH + 2 for row in text.splitlines()), "long commands are broken"
    program, *argv = shlex.split(text.replace("\\\n", ""))
    assert program == "train.py" == cli.program()
    assert parse_with_overrides(Settings, Shape, argv) == (settings, overrides)
    assert "--lr" in text, "defaults are written out"
    show(settings, overrides, script="other.py")
    assert capsys.readouterr().out.startswith("other.py ")


def test_command_leaves_out_what_is_none_by_default_only():
    assert not any(part.startswith("--steps") for part in cli.command(Settings()))

    @dataclass(frozen=True)
    class Clipped:
        clip: float | None = 1.0

    assert cli.command(Clipped(clip=None)) == ["--clip none"]


def test_settings_dict_is_json():
    values = settings_dict(Settings(data=("a", "b")))
    assert list(values) == [field.name for field in fields(Settings)]
    assert json.loads(json.dumps(values)) == values, "a tuple must be a list by now"


def test_common_settings_are_those_of_every_script():
    names = {field.name for field in fields(CommonSettings)}
    assert names == {"out", "seed", "device", "precision", "compile", "overwrite"}


def test_a_field_below_its_least_value_is_named_by_its_flag():
    with pytest.raises(UserError, match="--vocab-size 2: must be 3 or more"):
        Settings(vocab_size=2).check_least(dict(lr=0, vocab_size=3))
    Settings(vocab_size=3, lr=0.0, steps=None).check_least(dict(lr=0, vocab_size=3, steps=1))


def test_what_a_run_reads_from_is_not_overwritten_by_it():
    @dataclass(frozen=True, kw_only=True)
    class FromModel(cli.CommonSettings):
        """Reads a model."""

        model: str | None = None  # a folder

    with pytest.raises(UserError, match=r"--out runs/a --overwrite would delete --model ./runs/../runs/a/"):
        FromModel(model="./runs/../runs/a/", out="runs/a", overwrite=True)
    FromModel(model="runs/a", out="runs/b", overwrite=True)
    FromModel(model="runs/a", out="runs/a")  # choose_folder says that it exists
    assert all(flag.help for flag in flags_of(CommonSettings))
    with pytest.raises(AttributeError):
        CommonSettings().seed = 1
