"""Files damaged in thousands of ways are read rightly, or refused in one line that names them."""

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from unittest import mock

import damage
import pytest
import small
import torch
from damage import faults, told
from intact import Squares, layer, table, write_all

import extract
import finetune
import minilm
from minilm.checkpoint import load_tokenizer
from minilm.continued.run import continued_command
from minilm.extraction.run import read_parts
from minilm.finetuning.comparison import example_lines
from minilm.finetuning.run import load_finetuned, load_parts
from minilm.finetuning.settings import TASKS, FinetuningSettings
from minilm.huggingface import tokenizers
from minilm.model.config import ModelConfig
from minilm.plumbing import script
from minilm.plumbing.errors import UserError, as_line
from minilm.plumbing.folders import read_json, read_log
from minilm.plumbing.settings import parts_of
from minilm.pretraining.report import lowest_loss
from minilm.pretraining.run import PretrainingSettings, with_recipe
from minilm.reinforcement.preferences import load_preferences
from minilm.reinforcement.settings import ReinforceSettings
from minilm.texts.corpus import load_corpus
from minilm.texts.pairs import load_pairs
from minilm.training.checkpoints import Run
from minilm.training.loop import make_optimizer, train_step

N, FIRST = 10_000, 40  # damages of each kind of file, and how many of them every run of the tests makes
TEXT = "Ana sells bread, e a M\u00f4nica n\u00e3o."


def read_run(path: Path) -> None:
    """Read the folder of a model of ours, as every script does, and a text with it."""
    model, tokenizer = minilm.load(path.parent)
    if tokenizer is not None:
        model.hidden_states(torch.tensor([read_text(tokenizer)[: model.config.max_positions]]))


def read_published(path: Path) -> None:
    """Read the folder of a published model."""
    read_run(path)


def read_vocabulary(path: Path) -> None:
    """Read the tokenizer of a published model."""
    tokenizer, _ = tokenizers.read_tokenizer(path.parent, read_json(path.parent / "config.json"))
    if tokenizer is not None:
        read_text(tokenizer)


def read_tokenizer(path: Path) -> None:
    """Read a tokenizer of ours."""
    read_text(load_tokenizer(path))


def read_text(tokenizer) -> list[int]:
    """Return the ids of a text, and ask the tokenizer all else that is asked of it."""
    tokenizer.encode_located(TEXT)
    tokenizer.decode(tokenizer.encode(TEXT))
    return tokenizer.encode(TEXT)


def go_on(path: Path) -> None:
    """Go on with a run for the length of one step."""
    model = layer()
    optimizer = make_optimizer(model, 0.1)
    run = Run(model, Squares(), optimizer, small.settings(resume=True), path.parent, None, 2, None)
    train_step(model, Squares(), optimizer, small.settings(), run.step)
    run.best.note(dict(loss=1.0), model)
    assert isinstance(run.best.state["n_worse"], int)
    if run.best.state["model"]:
        model.load_state_dict(run.best.state["model"])
    run.progress.seconds()


def resumed(settings_class: type, overrides: type | None = None) -> Callable:
    """Return what --resume makes of a run's settings, which must be of the types of the fields."""

    def read(path: Path) -> None:
        asked = dict(resume=True, out=str(path.parent)), {}
        with mock.patch.object(script, "parse", return_value=asked):
            given, others = script.read_command(settings_class, "", lambda _: "", overrides)
        check_types(given, settings_class)
        if overrides:
            check_types(others, overrides)
        with suppress(UserError):  # a number below its least is told by its flag
            settings_class(**given)

    return read


def check_types(values: dict, settings_class: type) -> None:
    """Compare values with the types of the fields of a class."""
    kinds = {field.name: parts_of(field.type) for field in fields(settings_class)}
    for name, value in values.items():
        assert name in kinds, f"a value that is no field is taken over: {name:.100}"
        parts = [part for key, part in kinds[name].items() if key != "..."]
        plain = {part for part in parts if isinstance(part, type)} | ({int} if float in parts else set())
        words = [part for part in parts if not isinstance(part, type)]
        right = isinstance(value, tuple) == ("..." in kinds[name]) or (value is None and None in words)
        for one in value if isinstance(value, tuple) else [value]:
            right &= type(one) in plain or any(type(one) is type(word) and one == word for word in words)
        assert right, f"a value is not of its field's type: {name} {value!r:.100}"


def start_from(path: Path) -> None:
    """Take over the settings of a run that another begins with."""
    given = continued_command(dict(init=str(path.parent)), {})
    check_types(given, PretrainingSettings)
    with suppress(UserError):
        with_recipe(PretrainingSettings(**given))


def predict(path: Path) -> None:
    """Load a fine-tuned folder, and tell what it says of a text."""
    model, task = load_finetuned(path.parent)
    known = {"tagging": (TEXT.split(),), "span": (TEXT, "Who sells bread?")}
    seen = known.get(task.name, (TEXT,) * (len(task.fields) - 1))
    for prediction in task.predict(model, [(*seen, None)], 4):
        task.written(prediction.guess)
        example_lines(task, prediction)


def learn(task: str) -> Callable:
    """Return what finetune.py does with a file of examples of a task."""

    def read(path: Path) -> None:
        for parts in load_parts(FinetuningSettings(task=task, data=(str(path),), seeds=(0,))):
            TASKS[task].learn(parts.train, small.tokenizer())

    return read


KINDS = {
    "run/config.json": read_run,
    "run/tokenizer.json": read_tokenizer,
    "run/model.safetensors": read_run,
    "trainer/trainer.pt": go_on,
    "run/log.jsonl": lambda path: lowest_loss(read_log(path.parent), 0.0),
    "run/results.json": read_json,  # no script reads more of it than that it is there
    "run/settings.json": resumed(PretrainingSettings, ModelConfig),
    "start/settings.json": start_from,
    "finetune/settings.json": resumed(FinetuningSettings),
    "reinforce/settings.json": resumed(ReinforceSettings),
    "wordpiece/tokenizer.json": read_tokenizer,
    "classification/task.json": predict,
    "similarity/task.json": predict,
    "tagging/task.json": predict,
    "span/task.json": predict,
    "labels.tsv/labels.tsv": learn("classification"),
    "labels.csv/labels.csv": learn("classification"),
    "labels.jsonl/labels.jsonl": learn("classification"),
    "pairs.jsonl/pairs.jsonl": learn("pair"),
    "scores.csv/scores.csv": learn("similarity"),
    "words.conll/words.conll": learn("tagging"),
    "squad1.json/squad1.json": learn("span"),
    "squad2.json/squad2.json": learn("span"),
    "sources.tsv/sources.tsv": lambda path: load_pairs(str(path)),
    "preferences.jsonl/preferences.jsonl": lambda path: load_preferences(str(path), None, 9, 0),
    "texts.txt/texts.txt": lambda path: load_corpus(str(path)),
    "texts.jsonl/texts.jsonl": lambda path: read_parts(str(path), None, None, 0),
    "texts.txt.gz/texts.txt.gz": lambda path: load_corpus(str(path)),
    "bert/config.json": read_published,
    "bert/vocab.txt": read_vocabulary,
    "bert/model.safetensors": read_published,
    "bert-json/tokenizer.json": read_vocabulary,
    "gpt2/config.json": read_published,
    "gpt2/tokenizer.json": read_vocabulary,
}
ALIKE = Counter((Path(kind).name, read) for kind, read in KINDS.items())  # which share the damages
LATER = pytest.mark.reliability


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a folder with a whole file of each kind."""
    return write_all(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("part", ["first", pytest.param("rest", marks=LATER)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(kind, part, root):
    path, read = root / kind, KINDS[kind]
    read(path)  # whole, it is read
    first, n = (each // ALIKE[path.name, read] for each in (FIRST, N))
    content = damage.damage(path, [root / other for other in KINDS])
    found = faults(path, read, content, range(first) if part == "first" else range(first, n))
    if found:
        pytest.fail(told(found, kind), pytrace=False)


def refused(read: Callable, within: float = damage.SECONDS) -> Callable:
    """Return a reader that fails where this one does not refuse a file, or takes more seconds for it."""

    def read_on(path: Path) -> None:
        began = time.perf_counter()
        try:
            found = read(path)
        finally:
            assert time.perf_counter() - began < within, f"it takes more than {within} seconds"
        raise AssertionError(f"it is read as {found!r:.100}")

    return read_on


HUGE = dict(n_layer=10**9, vocab_size=10**9, max_positions=10**18)
THEIRS = dict(n_layer="num_hidden_layers", vocab_size="vocab_size", max_positions="max_position_embeddings")


@pytest.mark.parametrize("field", HUGE)
@pytest.mark.parametrize("folder", ["run", "bert"])
def test_a_model_too_large_to_be_meant_is_refused_before_it_is_built(folder, field, root):
    ours = dict(n_layer="n_decoder_layer") | {name: name for name in ("vocab_size", "max_positions")}
    path, key = root / folder / "config.json", (THEIRS if folder == "bert" else ours)[field]
    huge = json.dumps(read_json(path) | {key: HUGE[field]}).encode()
    assert not (found := faults(path, refused(read_run, within=1), lambda _: huge, [0])), found


@LATER
@pytest.mark.parametrize("byte", [b"\x00", b"a"])
def test_a_gz_file_that_unpacks_to_far_more_is_refused(byte, root):
    bomb = gzip.compress(byte * 10**8, 1, mtime=0) * 40  # a .gz file may consist of several
    found = faults(root / "texts.txt.gz/texts.txt.gz", refused(load_corpus), lambda _: bomb, [0])
    assert not found, found


def test_a_long_label_is_cut_where_it_is_told(tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    rows = [(text, "red" if "red" in text else "other") for text in small.documents(30)]
    train.write_text(table(("text", "label"), rows))
    test.write_text(table(("text", "label"), [("Ana sat.", damage.LONG), *rows[:9]]))
    with pytest.raises(UserError) as caught:
        load_parts(FinetuningSettings(data=(str(train),), test=str(test), seeds=(0,)))
    assert damage.fault(as_line(caught.value), ["test.csv"]) is None, caught.value


@pytest.mark.parametrize("module", [finetune, extract])
def test_a_label_that_gives_orders_to_the_terminal_is_escaped(module, run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = dict.fromkeys(small.documents(60))
    rows = [(text, "\x1b[31mred" if "red" in text else "other") for text in texts]
    Path("rows.csv").write_text(table(("text", "label"), rows))
    minilm.save(small.model("masked"), small.tokenizer(), "model")
    more = "--steps 2 --no-compare --seeds 0" if module is finetune else "--draws 2 --labels 1"
    code, out, err = run_script(module, *f"--model model --data rows.csv --device cpu {more}".split())
    assert code == 0 and "\x1b" not in out + err, err
    assert r"\x1b[31mred" in out, "the label is not told"
