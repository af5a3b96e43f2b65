"""Grades finetune.py: regime 4 from the command line, and one line for each mistake of the user."""

import json
import signal
import sys
from pathlib import Path

import pytest
import small
import torch

import finetune
import minilm
from minilm.finetuning import run
from minilm.finetuning.tasks import FineTuning
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.terminal import exit_code

TINY = "--model body --steps 3 --batch-size 4 --lora-rank 2 --device cpu"


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Return a function that runs finetune.py with flags in a folder of its own: code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "WORLD_VALIDATION", 6)
    monkeypatch.setattr(run, "WORLD_TEST", 8)
    shape = dict(
        n_encoder_layer=2, n_segments=2, pooler=True, d_model=8, n_head=2, d_ff=12, max_positions=128
    )
    torch.manual_seed(0)
    body = build(ModelConfig(vocab_size=small.tokenizer().vocab_size, **shape, dropout=0.1))
    minilm.save(body, small.tokenizer(), "body")

    def call(flags: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["finetune.py", *TINY.split(), *flags.split()])
        capsys.readouterr()
        code = exit_code(finetune.main)
        return code, *capsys.readouterr()

    return call


def write(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def test_the_default_compares_the_ways_to_tune(script):
    code, out, err = script("--seeds 0,1")
    assert code == 0, err
    for row in ("majority class", "all, from random weights", "head only", "LoRA, rank 2", "all weights"):
        assert row in out
    assert "true, taken for:" in out and out.count("(it is: ") == 3
    found = json.loads(Path("runs/classification/results.json").read_text())
    assert found["metric"] == "accuracy" and found["seed"] == 0
    code, _, err = script("--out runs/classification")
    assert code == 2 and "exists: " in err and "add --resume" in err
    code, _, err = script("--out runs/classification --overwrite --seeds 0 --no-compare")
    assert code == 0, err
    assert script("--seeds 0 --no-compare")[0] == 0 and Path("runs/classification-2").is_dir()


def test_a_stopped_run_goes_on(script, monkeypatch):
    batch = FineTuning.batch

    def interrupted(self, step, split):
        if split == "train" and step == 1:
            signal.raise_signal(signal.SIGINT)
        return batch(self, step, split)

    monkeypatch.setattr(FineTuning, "batch", interrupted)
    code, _, err = script("--seeds 5 --no-compare --tune lora")
    assert code == 130 and "stopped after step 2 of 3" in err
    monkeypatch.setattr(FineTuning, "batch", batch)
    code, out, err = script("--resume --out runs/classification")
    assert code == 0, err
    assert "--tune lora" in out and "--no-compare" in out, "the settings of the run that goes on"
    assert script("--seeds 5 --no-compare --tune lora --out whole")[0] == 0
    stopped, whole = (minilm.load(name)[0].state_dict() for name in ("runs/classification", "whole"))
    small.assert_equal(stopped, whole)


def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(script):
    write("three.tsv", "Ana.\tx\nRui.\ty\nBo.\tz\n" * 8)
    assert script("--seeds 0 --no-compare --out mine")[0] == 0
    before = {path.name: path.read_bytes() for path in Path("mine").iterdir()}
    for flags in ("--data three.tsv", "--tune lora"):
        code, _, err = script(f"--resume --out mine {flags}")
        assert code == 2 and "trainer.pt does not fit the model" in err
        assert {path.name: path.read_bytes() for path in Path("mine").iterdir()} == before


def test_a_resume_needs_no_flag_that_the_run_knows(script):
    assert script("--task pair --n-examples 8 --no-compare --out two")[0] == 0
    code, _, err = script("--resume --out two --pairs together")
    assert code == 0, err  # the task is that of the run, so --pairs fits it


def test_a_mistake_in_the_examples_of_a_later_seed_comes_first(script):
    write("rare.tsv", "Ana.\tx\nRui.\ty\n" * 8 + "Bo.\tz\n")  # some seed watches the only z
    code, _, err = script(f"--data rare.tsv --no-compare --seeds {','.join(map(str, range(40)))}")
    assert code == 2 and "rare.tsv, the part that is watched (--validation FILE for another)" in err
    assert "'z' (1 times)" in err and not Path("runs").exists()


def test_files_are_read_before_a_model_is_trained(script):
    assert script("--data absent.tsv --model runs/masked")[2].startswith("error: absent.tsv: no such file")


BAD = {
    "no such file": ("--data absent.tsv", "absent.tsv: no such file"),
    "a single class": ("--data one.tsv", "one.tsv: of 4 examples to learn from all have the label 'x'"),
    "an empty text": ("--data empty.tsv", "empty.tsv, line 2: nothing in 'text'"),
    "a missing column": ("--data column.csv", "column.csv, line 2: found 1 columns, expected 2"),
    "semicolons": ("--data semicolons.csv", "expected 2 (with text, label); separated by semicolons?"),
    "a header of other names": ("--data header.tsv", "header.tsv, line 1: found the header"),
    "a quote never closed": ("--data quote.csv", "quote.csv, line 2: "),
    "unknown labels": ("--data good.tsv --test other.tsv", "'z' (2 times)"),
    "too few examples": ("--data good.tsv --n-examples 1", "--n-examples 1: fewer examples than the 2"),
    "conll": ("--task tagging --data bad.conll", "bad.conll, line 2: one column 'ran'"),
    "squad": ("--task span --data bad.json", "answer 'Rui' at 0, where the context has 'Ana'"),
    "scores": ("--task similarity --data pair.tsv", "the label 'x' is no number"),
    "kind": ("--task text-to-text", "it can do --task classification, pair, similarity, tagging, span"),
    "not fine-tuned": ("--predict good.tsv", "body: not fine-tuned, no task.json"),
    "way": (
        "--tune lastt:1",
        "--tune lastt:1: expected all, head, lora, or last:N, N blocks or more (did you mean",
    ),
    "rank": ("--lora-rank 99", "--lora-rank 99 is above the model's width, 8"),
    "flag": ("--tun all", "unknown flag --tun (did you mean '--tune'?)"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line_and_leaves_no_folder(script, mistake):
    write("good.tsv", "Ana.\tx\nRui.\ty\n" * 6)
    write("one.tsv", "Ana.\tx\n" * 5)
    write("empty.tsv", "Ana.\tx\n\ty\n")
    write("column.csv", "Ana,x\nRui\n")
    write("semicolons.csv", "text;label\nAna;x\n")
    write("header.tsv", "sentence\tlabel\nAna.\tx\n")
    write("quote.csv", 'Ana,x\n"Rui,y\n')
    write("other.tsv", "Ana.\tx\nBo.\tz\nCy.\tz\n")
    write("bad.conll", "Ana B-a\nran\n")
    write("pair.tsv", "a\tb\tx\n")
    asked = dict(question="Who?", answers=[dict(text="Rui", answer_start=0)])
    write("bad.json", json.dumps({"data": [{"paragraphs": [{"context": "Ana ran.", "qas": [asked]}]}]}))
    flags, expected = BAD[mistake]
    code, _, err = script(flags)
    assert code == 2 and len(err.strip().splitlines()) == 1, err
    assert expected in err
    assert not Path("runs").exists(), "a mistake must be told before a folder is made"


def test_bad_answers_are_left_out_and_counted_on_request(script):
    asked = [
        dict(question="Who?", answers=[dict(text=name, answer_start=0)]) for name in ["Ana"] * 9 + ["Rui"]
    ]
    write("some.json", json.dumps({"data": [{"paragraphs": [{"context": "Ana ran.", "qas": asked}]}]}))
    code, out, err = script("--task span --data some.json --skip-bad --no-compare")
    assert code == 0, err
    assert "left out 1 examples (--skip-bad)" in out


def test_predictions_of_a_file(script):
    assert script("--seeds 0 --no-compare")[0] == 0
    write("new.tsv", "Ana sells bread.\nRui found a lamp.\n")
    code, out, err = script("--model runs/classification --predict new.tsv")
    assert code == 0, err
    assert "Saved 2 predictions of runs/classification" in out
    assert len(Path("runs/predictions/predictions.tsv").read_text().splitlines()) == 3


def test_help_names_the_tasks(script):
    with pytest.raises(SystemExit):
        script("--help")
