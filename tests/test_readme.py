"""Grades README.md: each command and each program in it runs, at a tiny size and without a network."""

import gzip
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from minilm import cli, world
from minilm.config import PRESETS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
COMMAND = re.compile(r"(?:python|torchrun --nproc-per-node \d+) ([a-z]+\.py[^`\n]*)")
TINY = "--steps 2 --batch-size 4 --vocab-size 280 --context 32 --accumulate 1 --device cpu --precision fp32"
SMALL_SHAPE = "--d-model 8 --n-head 2 --d-ff 8"


def commands() -> list[str]:
    """Return the commands of the README that start a script of the project, in order, each once."""
    return list(dict.fromkeys(match.strip() for match in COMMAND.findall(README)))


def tiny(command: str) -> list[str]:
    """Return the words of a command with flags behind it that make it small; a later flag wins."""
    words = [word for word in shlex.split(command) if word != "--compile"] + shlex.split(TINY)
    if "--data" not in words and "translation" not in words:
        words += ["--data", "notes.txt"]
    if "--model" in words:
        model = PRESETS[words[words.index("--model") + 1]]
        words += shlex.split(SMALL_SHAPE)
        words += ["--n-encoder-layer", "1"] if model.n_encoder_layer else []
        words += ["--n-decoder-layer", "1"] if model.n_decoder_layer else []
    if "--resume" in words:
        words += ["--steps", "3"]
    return words


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the user's files that the README names."""
    texts = world.documents(60)
    (tmp_path / "corpus").mkdir()
    for name in ("notes.txt", "shakespeare.txt", "corpus/a.txt"):
        (tmp_path / name).write_text("\n\n".join(texts), encoding="utf-8")
    for side in ("en", "de"):
        (tmp_path / f"captions.{side}").write_text("\n".join(texts), encoding="utf-8")
    with gzip.open(tmp_path / "more.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    monkeypatch.chdir(tmp_path)


def test_the_readme_has_its_two_commands():
    assert "python -m pip install -e . && python train.py" in README
    assert "python -m pip install -e . && python -m pytest" in README


def test_every_command_and_every_program_of_the_readme_runs(workplace, monkeypatch, capsys):
    assert len(commands()) >= 8, "the README's commands were not found"
    for command in commands():
        if "--help" in command:
            continue
        script, *words = tiny(command)
        monkeypatch.setattr(sys, "argv", [script, *words])
        code = cli.run(importlib.import_module(script.removesuffix(".py")).main)
        assert code == 0, f"README command fails: {command}\n{capsys.readouterr().err[-500:]}"
    programs = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(programs) >= 2, "the README's programs were not found"
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})  # noqa: S102 - our own text


def test_every_file_that_the_readme_names_exists():
    names = re.findall(r"`((?:minilm|tests)/[\w/]+\.py)`", README)
    assert names, "the README names no file"
    root = Path(__file__).parent.parent
    assert [name for name in names if not (root / name).exists()] == []
