"""Grades finetune.py: regime 4 from the command line, and one line for each mistake of the user."""

import json
import re
from pathlib import Path

import pytest
import small
import torch
from small import check_error, contents, ctrl_c, succeed

import finetune
import minilm
from minilm.finetuning import run
from minilm.finetuning.tasks import FineTuning
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.training.checkpoints import load_trainer

TINY = "--model body --steps 3 --batch-size 4 --lora-rank 2 --device cpu"


@pytest.fixture
def script(tmp_path, monkeypatch, run_script):
    """Return a function that runs finetune.py with flags in a folder of its own: code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "WORLD_VALIDATION", 6)
    monkeypatch.setattr(run, "WORLD_TEST", 8)
    shape = dict(n_encoder_layer=2, n_segments=2, pooler=True, d_model=8, n_head=2, d_ff=12)
    shape |= dict(max_positions=128)
    torch.manual_seed(0)
    body = build(ModelConfig(vocab_size=small.tokenizer().vocab_size, **shape, dropout=0.1))
    minilm.save(body, small.tokenizer(), "body")

    tiny = lambda flags: TINY.partition(" --steps")[0] if "--predict" in flags else TINY  # nothing is learnt
    return lambda flags="": run_script(finetune, *tiny(flags).split(), *flags.split())


def write(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def test_the_default_compares_the_ways_to_tune(script):
    out = succeed(script("--seeds 0,1"))
    for row in ("majority class", "all, from random weights", "head only", "LoRA, rank 2", "all weights"):
        assert row in out
    assert "true, taken for:" in out and out.count("(it is: ") == 3
    check_error(script("--out runs/classification"), "exists: ", "add --resume")
    succeed(script("--out runs/classification --overwrite --seeds 0 --no-compare"))
    succeed(script("--seeds 0 --no-compare"))
    assert Path("runs/classification-2").is_dir()


MOVES = ("--tune lora", "--tune head", "--layer-decay 0.8 --unfreeze-every 1 --patience 9 --eval-every 1")


@pytest.mark.parametrize("flags", MOVES)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(script, flags):
    with ctrl_c(FineTuning, at=1):
        code, _, err = script(f"--seeds 5 --no-compare {flags}")
    assert code == 130 and "stopped after step 2 of 3" in err
    out = succeed(script("--resume --out runs/classification"))
    assert all(flag in out for flag in flags.split()), "the settings of the run that goes on"
    succeed(script(f"--seeds 5 --no-compare {flags} --out whole"))
    stopped, whole = (load_trainer(name) for name in ("runs/classification", "whole"))
    small.assert_equal(stopped | dict(seconds=0), whole | dict(seconds=0))


def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(script):
    write("three.tsv", "".join(f"Ana {i}.\tx\nRui {i}.\ty\nBo {i}.\tz\n" for i in range(8)))
    succeed(script("--seeds 0 --no-compare --out mine"))
    before = contents("mine")
    shape, fewer = "trainer.pt does not fit the model", "has made 3 steps, more than the 2 asked for"
    for flags, told in (("--data three.tsv", shape), ("--tune lora", shape), ("--steps 2", fewer)):
        code, _, err = script(f"--resume --out mine {flags}")
        assert code == 2 and told in err
        assert contents("mine") == before


@pytest.mark.parametrize(("task", "row", "change", "what"), [
    ("classification", "Ana {n}.\t{i}\n", ("9\n", "5\n"), "labels"),
    ("similarity", "Ana.\tRui {n}.\t{i}\n", ("9\n", "90\n"), "mean"),
])  # fmt: skip
def test_a_head_goes_on_with_the_truths_that_it_was_trained_for(script, task, row, change, what):
    """Labels of other names may fit the shape of the head: the run would end at chance, and not say why."""
    rows = "".join(row.format(n=n, i=n % 3 + 7) for n in range(24))
    write("one.tsv", rows)
    write("two.tsv", rows.replace(*change))
    succeed(script(f"--task {task} --data one.tsv --test one.tsv --seeds 0 --no-compare --out mine"))
    if what == "mean":  # of other threads, or in 32 bits as once
        saved = json.loads(Path("mine/task.json").read_text())
        saved["known"]["mean"] *= 1 + 1e-7
        Path("mine/task.json").write_text(json.dumps(saved))
        succeed(script("--resume --out mine"))
    before = contents("mine")
    code, _, err = script("--resume --out mine --data two.tsv --test two.tsv")
    assert code == 2 and f"mine: trained with other {what}: resume with its own examples" in err
    assert contents("mine") == before


def test_a_resume_with_a_damaged_task_is_one_line(script):
    succeed(script("--seeds 0 --no-compare --out mine"))
    write("mine/task.json", '{"known": ["x"]}')
    check_error(script("--resume --out mine"), "task.json")


def test_a_start_with_damaged_settings_is_one_line(script):
    write("body/settings.json", '{"context": "x"}')
    check_error(script("--seeds 0 --no-compare"), "settings.json: 'context' is 'x', expected integer")


def test_a_resume_needs_no_flag_that_the_run_knows(script):
    succeed(script("--task pair --n-examples 8 --no-compare --out two"))
    succeed(script("--resume --out two --pairs together"))  # the task is that of the run, so --pairs fits it


def test_a_mistake_in_the_examples_of_a_later_seed_comes_first(script):
    write("rare.tsv", "".join(f"Ana {i}.\tx\nRui {i}.\ty\n" for i in range(8)) + "Bo.\tz\n")
    seeds = ",".join(map(str, range(40)))
    succeed(script(f"--data rare.tsv --steps 1 --no-compare --seeds {seeds}"))  # the one z is not held out
    write("same.tsv", "Ana.\tx\nRui.\ty\n" * 8)
    outcome = script("--data same.tsv --no-compare --seeds 0,1 --out other")
    check_error(outcome, "holding out examples would lose a label")
    assert not Path("other").exists()


BAD = [
    ("--data absent.tsv --model runs/masked", "absent.tsv: no such file"),  # before a model is trained
    ("--data empty.tsv", "empty.tsv, line 2: 'text' is empty"),
    ("--data good.tsv --test other.tsv", "'z' (2 times)"),
    ("--task tagging --data bad.conll", "tag 'y': expected O, or"),
    ("--task span --data good.tsv", "good.tsv: not JSON"),
    ("--task text-to-text", "it can do --task classification, pair, similarity, contrastive, tagging, span"),
    ("--n-examples 2", "world: label not in the training set: "),
    ("--predict good.tsv", "body: no task.json"),
    ("--tune lastt:1", "expected all, head, bias, lora, last:N (did you mean"),
    ("--lora-targets q qq", "--lora-targets q qq: expected q|k|v|out|gate|up|down ... (did you mean 'q'?)"),
    ("--tun all", "unknown flag --tun (did you mean '--tune'?)"),
]


@pytest.mark.parametrize("flags, expected", BAD)
def test_a_mistake_is_one_line_and_leaves_no_folder(script, flags, expected):
    write("good.tsv", "".join(f"Ana {i}.\tx\nRui {i}.\ty\n" for i in range(6)))
    write("bad.conll", "Ana B-x\n\nRui y\n")
    write("empty.tsv", "Ana.\tx\n\ty\n")
    write("other.tsv", "Ana.\tx\nBo.\tz\nCy.\tz\n")
    check_error(script(flags), expected)
    assert not Path("runs").exists(), "a mistake must be told before a folder is made"


@pytest.mark.parametrize("task, label", [
    ("classification", r"labels  [a-z]+\n"), ("tagging", r"labels .* B-person"),
    ("span", r"labels  \d+  \d+"), ("similarity", r"labels  -?\d\.\d+"),
])  # fmt: skip
def test_a_batch_is_shown_and_nothing_is_trained(script, task, label):
    out = succeed(script(f"--task {task} --show-batch 1"))
    assert "row 0" in out and re.search(label, out), out
    assert sorted(path.name for path in Path().iterdir()) == ["body"], "a folder is left behind"
