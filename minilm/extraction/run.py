"""Regime 3 from its flags to its tables: texts with or without labels in, an .npz of vectors out."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from .. import world
from ..plumbing.errors import UserError
from ..plumbing.folders import atomic_write
from ..plumbing.script import begin, finish
from ..plumbing.settings import CommonSettings
from ..plumbing.terminal import table
from ..pretraining.run import start_model
from ..texts.files import kind, read_documents, read_jsonl, string_field, text_files
from ..texts.tables import SUFFIXES, read_conll, read_table
from .features import Pooling, Reading, checked_rows, embed, extract, n_layer, nearest, reading, tell_cut
from .layers import HEADER, Probe, compare_layers, random_twin, words_as_vectors
from .tokens import extract_tokens, word_rows

FEATURES = "features.npz"
WORLD_TRAIN, WORLD_TEST = 384, 600  # stories: 64 a place to draw labels from, 100 a place to test on
WORLD_SEEDS = (2_000_003, 2_000_023, 2_000_033)  # added to the seed: other stories than those of pre-training
WORLD_SENTENCES = 384
RESULTS = ("probe_accuracy", "random_probe_accuracy", "bag_of_words_accuracy")
NEXT = 'python extract.py --layer 1 --pooling cls --similar "Ana cooked some soup."'

Example = tuple[str, str | None]  # text, label if there is one


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings(CommonSettings):
    """What is read, out of which model, and what for."""

    model: str | None = None  # run folder or Hugging Face folder; none: the newest runs/masked
    data: str = "world"  # world, or your file: texts with labels, texts alone, tagged words (.conll)
    test: str | None = None  # labelled file to test the probe on; none: a quarter of --data
    layer: int | Literal["all"] = -1  # 0: embeddings, 1 and up: after so many blocks, -1: the last
    pooling: Pooling = "mean"  # how the vectors of a text's tokens become one
    tokens: bool = False  # one vector a token (of a .conll file: a word) instead of one a text
    probe: bool = True  # train a softmax regression on the vectors; by itself only where there are labels
    labels: tuple[int | Literal["all"], ...] = (1, 4, 16, "all")  # labels a class; the first compares layers
    draws: int = 10  # how often so many labels are drawn anew; tables show the mean
    similar: str | None = None  # list the texts nearest to this one
    tokens_per_batch: int | None = None  # padding included; none: 1,024 on a CPU, 16,384 on a GPU

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict(draws=1, tokens_per_batch=1))
        if any(n != "all" and n < 1 for n in self.labels):
            raise UserError(f"--labels {' '.join(map(str, self.labels))}: each must be 1 or more, or all")
        if self.similar is not None and not self.similar.strip():
            raise UserError("--similar: an empty query")
        if self.tokens and (self.similar or self.test or self.pooling != "mean"):
            raise UserError("--tokens goes without --similar, --test and --pooling: no text vectors")
        if self.layer == "all" and (self.similar or self.tokens):
            raise UserError("--layer all: --similar and --tokens take one layer, give its number")


def extract_features(given: dict) -> Path:
    """Do what the flags ask for and return the run folder; `given`: those that stand on the command line."""
    settings, asked = ExtractionSettings(**given), given.get("probe")
    if settings.tokens and asked:
        raise UserError("--tokens --probe: the probe reads one vector a text; give one of the two")
    parts = {} if settings.tokens else read_parts(settings.data, settings.test, asked, settings.seed)
    settings = replace(settings, probe=asked is not False and "test" in parts)
    source, model, tokenizer = start_model(settings.model, "masked", settings)
    config = model.config
    if settings.compile:
        for stack in filter(None, (model.encoder, model.decoder)):
            stack.compile(dynamic=True)
    whose = " (the states are the encoder's)" if config.kind == "encoder-decoder" else ""
    print(f"Reading {source}: {config.kind}{whose}, {n_layer(config)} blocks.")
    if config.kind == "decoder" and settings.pooling == "cls":
        print("cls: a decoder's first token sees itself alone, so all texts look alike; take last or mean.")
    layers = range(n_layer(config) + 1) if settings.layer == "all" else [settings.layer]
    readings = [reading(config, layer, settings.pooling) for layer in layers]
    folder, began = begin("features", settings), time.perf_counter()
    how = dict(tokens_per_batch=settings.tokens_per_batch, precision=settings.precision, progress=True)
    if settings.tokens:
        columns, results, lines = token_columns(settings, model, tokenizer, readings[0].layer, how)
    else:
        columns, results, lines = text_columns(settings, model, tokenizer, parts, readings, how)
    # numpy.load(path) reads it without pickle
    arrays = {name: np.array(column) for name, column in columns.items() if column is not None}
    atomic_write(folder / FEATURES, lambda file: np.savez(file, **arrays))
    lines.append(f"Vectors of {len(columns['embeddings']):,} texts or tokens: {folder / FEATURES}")
    finish(folder, settings, [], lines, results, time.perf_counter() - began, NEXT)
    return folder


def text_columns(settings, model, tokenizer, parts: dict, readings: list[Reading], how: dict) -> tuple:
    """Return the columns of the .npz, one entry a text, the figures, and the lines to print."""
    examples = [example for part in parts.values() for example in part]
    texts, labels = zip(*examples, strict=True)
    rows = checked_rows(tokenizer, model.config, texts)
    found = extract(model, rows, readings, **how)  # (n, D) each
    vectors = np.stack(found, axis=1) if settings.layer == "all" else found[0]  # (n, L + 1, D) or (n, D)
    columns = dict(embeddings=vectors, texts=texts, labels=None if None in labels else labels)
    columns["split"] = [name for name, part in parts.items() for _ in part]
    results, lines = dict(n_text=len(texts), width=vectors.shape[-1]), []
    if settings.probe:
        figures, lines = report(model, rows, parts, readings[-1], found[-1], settings, how)
        results |= figures
    if settings.similar:
        query = embed(model, tokenizer, [settings.similar], *readings[0])[0]
        near = [f"  {cosine:.3f}  {texts[i]}" for i, cosine in nearest(found[0], query)]
        lines += [f"Nearest to {settings.similar!r}:", "", *near, ""]
    return columns, results, lines


def token_columns(settings, model, tokenizer, layer: int, how: dict) -> tuple[dict, dict, list[str]]:
    """Return the columns of the .npz, one entry a token or word, the figures, and no lines to print.

    Words are those of a .conll file or of the world's tagged stories; of other files all tokens are read.
    `text_of` is the number of the text that a token belongs to, from 0.
    """
    data, config = settings.data, model.config
    if data != "world" and not data.lower().endswith(".conll"):
        rows = checked_rows(tokenizer, config, [text for text, _ in read_examples(data)])
        names, tags = [[tokenizer.decode([i]) for i in ids] for ids in rows], None
        places = [list(range(n)) for n in rows.lengths]
    else:
        sentences = world.tagging(WORLD_SENTENCES, settings.seed) if data == "world" else read_conll(data)[0]
        rows, places = word_rows(tokenizer, config, [words for words, _ in sentences])
        tell_cut(rows, config)
        cut = [
            (words[: len(found)], tags[: len(found)])
            for (words, tags), found in zip(sentences, places, strict=True)
        ]
        names, tags = zip(*cut, strict=True)
    states = extract_tokens(model, rows, layer, **how)
    vectors = np.concatenate([hidden[found] for hidden, found in zip(states, places, strict=True)])  # (N, D)
    flat = lambda parts: None if parts is None else [item for part in parts for item in part]
    text_of = np.repeat(np.arange(len(rows)), [len(found) for found in places])
    columns = dict(embeddings=vectors, tokens=flat(names), text_of=text_of, labels=flat(tags))
    return columns, dict(n_text=len(rows), n_token=len(vectors), width=config.d_model), []


def report(model, rows, parts: dict, headline: Reading, vectors, settings, how: dict) -> tuple[dict, list]:
    """Return the probe's figures and its tables as lines, with two test texts and their neighbours.

    `rows`, `vectors`: all texts, part after part, and their vectors (N, D) by the reading `headline`, which
    was chosen without the test texts: it is the flags'.
    """
    probe = Probe(classes_of(parts), settings.draws, settings.seed)
    labels, too_many = probe.usable_labels(settings.labels)
    if too_many:
        print(f"Labels a class: {', '.join(map(str, too_many))} left out, a class has fewer examples.")
    twin = random_twin(model, settings.seed)
    sides = [probe.parts(side) for side in (vectors, extract(twin, rows, [headline], **how)[0])]
    sides.append(words_as_vectors(*([text for text, _ in part] for part in parts.values())))
    layer = "" if headline.layer < 0 else f"layer {headline.layer}, "
    titles = {
        1: f"Accuracy of a linear probe on {layer}{headline.pooling}, the mean of {settings.draws} draws:"
    }
    titles[2] = "The same probes, on texts whose things and verbs stand in no labelled text:"
    results, lines = {}, []
    for test in range(1, len(parts)):
        found = probe.label_table(sides, labels, test)
        lines += [titles[test], "", table(found, HEADER), ""]
        unseen = "unseen_" * (test - 1)
        results |= {unseen + name: value for name, value in zip(RESULTS, found[0][1:4], strict=True)}
    header, body = compare_layers(model, twin, rows, probe, labels[0], how)
    lines += [f"Layer x pooling (labels a class: {labels[0]}), in brackets with random weights:", ""]
    lines += [table(body, header), "", "Test texts, and the nearest text to learn from:", ""]
    train, *_, test = parts.values()
    for (text, label), vector in zip(test[:2], vectors[-len(test) :], strict=False):
        ((j, cosine),) = nearest(vectors[: len(train)], vector, 1)
        lines += [f"  {text}  ({label})", f"    {cosine:.3f}  {train[j][0]}  ({train[j][1]})"]
    return results | dict(labels_a_class=labels[0]), [*lines, ""]


def read_parts(data: str, test: str | None, probe: bool | None, seed: int) -> dict[str, list[Example]]:
    """Return the examples by the name of their part: `train`, and where a probe is to be tested `test`.

    `probe` none: where there are labels. The world's stories come without their place word, labelled with
    their place; in a third part, `unseen`, every thing and verb is a word that stands in no labelled text.

    Raises:
        UserError: where a probe is wanted and there are no labels, a single one, or in the test one that
            training does not have.
    """
    if data == "world":
        sizes = dict(train=(WORLD_TRAIN, False), test=(WORLD_TEST, False), unseen=(WORLD_TEST, True))
        parts = {
            name: world.labelled(n, seed + far, held_out=held_out)
            for (name, (n, held_out)), far in zip(sizes.items(), WORLD_SEEDS, strict=True)
        }
        if test is None:
            return parts
        parts = dict(train=parts["train"], test=read_examples(test))
    elif test is not None:
        parts = dict(train=read_examples(data), test=read_examples(test))
    else:
        parts = dict(train=read_examples(data))
        if probe is not False and parts["train"][0][1] is not None:
            classes_of(parts, (data,))  # a single label is said before a split is tried
            parts = split_examples(parts["train"], data, seed)
    if probe or (probe is None and len(parts) > 1):
        classes_of(parts, (data, test or data))
    return parts


def read_examples(path: str) -> list[Example]:
    """Return the texts of a file or folder: labelled from a table, else with none for a label.

    `.tsv` and `.csv` hold text and label; `.jsonl` an object a line with `text` and perhaps `label`; `.txt`
    and folders are documents (`texts/files.py`).

    Raises:
        UserError: for an empty text, and for a label that some lines have and others lack; it names the line.
    """
    file = Path(path)
    if not file.is_dir() and kind(file) in SUFFIXES:
        if kind(file) != ".jsonl" or any("label" in record for _, record in read_jsonl(file)):
            return read_table(file, ("text", "label"))[0]
        texts = []
        for where, record in read_jsonl(file):
            texts.append(string_field(record, "text", where))
            if not texts[-1].strip():
                raise UserError(f"{where}: an empty text, there is nothing to read a vector from")
    else:
        texts = [text for each in text_files(file) for text in read_documents(each)]
    if not texts:
        raise UserError(f"{path}: no text in it")
    return [(text, None) for text in texts]


def split_examples(examples: list[Example], source: str, seed: int) -> dict[str, list[Example]]:
    """Return train and test: a quarter of each class, at least one example, is for testing.

    Raises:
        UserError: for a class with a single example.
    """
    labels, rng, held = np.array([label for _, label in examples]), np.random.default_rng(seed), set()
    for label in sorted(set(labels.tolist())):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            raise UserError(
                f"{source}: the label {label!r} has one example; it takes two, one to learn from and one to "
                "test on (or give --test FILE)"
            )
        held |= set(rows[: max(1, len(rows) // 4)].tolist())
    parts: dict = dict(train=[], test=[])
    for i, example in enumerate(examples):
        parts["test" if i in held else "train"].append(example)
    return parts


def classes_of(parts: dict[str, list[Example]], sources: tuple[str, ...] = ()) -> list[np.ndarray]:
    """Return the classes (n,) of each part: the number of each label among those to learn from, sorted.

    `sources`: where the parts come from, for errors (see `read_parts`).
    """
    for part, source in zip(parts.values(), sources, strict=False):
        if any(label is None for _, label in part):
            raise UserError(
                f"--probe: {source} has no labels; give a .tsv or .csv of text and label, a .jsonl with "
                "both, or --no-probe"
            )
    names = sorted({label for _, label in parts["train"]})
    if len(names) < 2:
        raise UserError(f"--probe: {sources[0]} has the single label {names[0]!r}; it takes two or more")
    number = {name: i for i, name in enumerate(names)}
    for part, source in zip(parts.values(), sources, strict=False):
        unknown = next((label for _, label in part if label not in number), None)
        if unknown is not None:
            raise UserError(f"{source}: the label {unknown!r} is in no example of {sources[0]}")
    return [np.array([number[label] for _, label in part]) for part in parts.values()]
