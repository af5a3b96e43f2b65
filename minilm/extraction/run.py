"""Regime 3 from its flags to its tables: texts with or without labels in, an .npz of vectors out."""

import re
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np

from .. import world
from ..plumbing.errors import UserError
from ..plumbing.folders import atomic_write
from ..plumbing.script import begin, finish
from ..plumbing.settings import CommonSettings, typed
from ..pretraining.run import start_model
from ..texts.files import kind, one_line, read_documents, read_jsonl, read_lines, text_files
from ..texts.tables import SUFFIXES, read_conll, read_table
from ..tokenizer.rows import RaggedRows, word_rows
from .features import Pooling, checked_rows, cut_note, extract, extract_tokens, n_layer, nearest, reading
from .layers import control_table, probe_tables
from .probe import split

FEATURES = "features.npz"
WORLD_TRAIN, WORLD_TEST = 384, 600  # stories: 64 per place to draw labels from, 100 per place to test on
WORLD_SEEDS = (2_000_003, 2_000_023, 2_000_033)  # added to the seed: other stories than those of pre-training
WORLD_SENTENCES = 384
Example = tuple[str, str | None]  # text, label if there is one


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings(CommonSettings):
    """What is read, from which model, and what for."""

    model: str | None = None  # run folder or Hugging Face folder; none: the newest runs/masked
    data: str = "world"  # world, world:portuguese, or a file: texts, labelled texts, or tagged words (.conll)
    test: str | None = None  # labelled file to test the probe on; none: a quarter of --data
    layer: int | Literal["all"] = -1  # 0: embeddings, n: after n blocks, -1: after the last block
    pooling: Pooling = "mean"  # how the vectors of a text's tokens become one
    tokens: bool = False  # one vector per token (tagged text: per word), not per text; also with --probe
    probe: bool = True  # train a softmax regression on the vectors; not given: only if there are labels
    labels: tuple[int | Literal["all"], ...] = (1, 4, 16, "all")  # labels per class; layer table: the first
    draws: int = 10  # how many times the labels are drawn anew; tables show the mean
    similar: str | None = None  # list the texts nearest to this one
    tokens_per_batch: int | None = None  # of a batch, with padding; none: 1,024 on a CPU, 16,384 on a GPU

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict(draws=1, tokens_per_batch=1, labels=1))
        if self.similar is not None and not self.similar.strip():
            raise UserError("--similar is empty: give a text to compare with")
        of_probe = ("labels", "draws", "plot")
        self.refuse(self.tokens, ("similar", "test", "pooling", *of_probe), "does not go with --tokens")
        self.refuse(not self.probe, of_probe, "needs a probe: give texts with labels, and no --no-probe")
        self.refuse(self.layer == "all", ("similar", "tokens"), "reads one layer: give --layer a number")


def extract_features(given: dict) -> Path:
    """Extract vectors as the flags say and return the run folder; `given`: the flags of the command line."""
    settings, asked = ExtractionSettings(**given), given.get("probe")  # asked: None if not given
    if settings.tokens:
        read, parts = token_columns, read_tagged(settings.data, asked, settings.seed)
    else:
        read, parts = text_columns, read_parts(settings.data, settings.test, asked, settings.seed)
    settings = replace(settings, probe=asked is not False and "test" in parts)
    source, model, tokenizer = start_model(settings.model, "masked", settings, reads_only=True)
    for stack in filter(None, (model.encoder, model.decoder) if settings.compile else ()):
        stack.compile(dynamic=True)
    whose = " (the states are the encoder's)" if model.config.kind == "encoder-decoder" else ""
    print(f"Reading {source}: {model.config.kind}{whose}, {n_layer(model.config)} blocks.")
    if model.config.kind == "decoder" and settings.pooling == "cls":
        print("--pooling cls: a decoder's first token sees only itself: texts look alike; take last or mean")
    layers = range(n_layer(model.config) + 1) if settings.layer == "all" else [settings.layer]
    readings = [reading(model.config, layer, settings.pooling) for layer in layers]
    folder, began = begin("features", settings), time.perf_counter()
    how = dict(tokens_per_batch=settings.tokens_per_batch, precision=settings.precision)
    columns, results, lines = read(settings, model, tokenizer, parts, readings, how)
    arrays = {name: np.array(column) for name, column in columns.items() if column is not None}
    atomic_write(folder / FEATURES, lambda file: np.savez(file, **arrays))  # readable without pickle
    lines.append(f"{len(columns['embeddings']):,} vectors, one per text or token: {folder / FEATURES}")
    data = typed("data", "world" if kind(settings.data) == ".conll" else settings.data)
    then = f"python extract.py {typed('model', source)} {data} --similar TEXT"
    then += " --no-probe" if asked is False else ""
    finish(folder, settings, [], lines, results, time.perf_counter() - began, then)
    return folder


def text_columns(settings, model, tokenizer, parts: dict, readings: list, how: dict) -> tuple:
    """Return the columns of the .npz (one entry per text), the figures, and the lines to print."""
    texts, labels = zip(*(example for part in parts.values() for example in part), strict=True)
    rows = tell_cut(checked_rows(tokenizer, model.config, texts))
    found = extract(model, rows, readings, **how)  # (n, D) each
    vectors = np.stack(found, axis=1) if settings.layer == "all" else found[0]  # (n, n_layer + 1, D), (n, D)
    begun = tuple(text[:1000] for text in texts)  # in an array each entry is as wide as the longest
    columns = dict(embeddings=vectors, texts=begun, labels=None if None in labels else labels)
    columns["split"] = [name for name, part in parts.items() for _ in part]
    figures, lines = {}, []
    if settings.probe:
        drawn = settings.labels, settings.draws, settings.seed
        figures, lines = probe_tables(model, rows, parts, readings[-1], found[-1], *drawn, how)
    if settings.similar:
        query = extract(model, tell_cut(checked_rows(tokenizer, model.config, [settings.similar])), readings)
        near = [f"  {cosine:.3f}  {one_line(texts[i])[:200]}" for i, cosine in nearest(found[0], query[0][0])]
        lines += [f"Nearest to {settings.similar!r}, by cosine:", "", *near, ""]
    return columns, dict(n_text=len(texts), width=vectors.shape[-1]) | figures, lines


def token_columns(settings, model, tokenizer, parts: dict, readings: list, how: dict) -> tuple:
    """Return the same as `text_columns`, per token, or for tagged stories and .conll files per word."""
    config, sentences = model.config, [sentence for part in parts.values() for sentence in part]
    if "train" in parts:
        longest = tokenizer.longest or config.max_positions
        rows, places = word_rows(tokenizer, config, [words for words, _ in sentences], longest)
        kept = [(pair, len(found)) for pair, found in zip(sentences, places, strict=True)]  # some are cut
        names, tags = ([item for pair, n in kept for item in pair[column][:n]] for column in (0, 1))
    else:
        rows = checked_rows(tokenizer, config, [text for text, _ in sentences])
        names, tags = [tokenizer.decode([i]) for i in rows.ids.tolist()], None
        places = [range(n) for n in rows.lengths]
    states = extract_tokens(model, tell_cut(rows), readings[0].layer, **how)
    vectors = np.concatenate([hidden[found] for hidden, found in zip(states, places, strict=True)])  # (N, D)
    text_of = np.repeat(np.arange(len(rows)), [len(found) for found in places])  # each vector's text
    columns = dict(embeddings=vectors, tokens=names, text_of=text_of, labels=tags)
    figures, lines = {}, []
    if settings.probe:
        words = names, tags, text_of >= len(parts["train"])
        figures, lines = control_table(model, rows, places, readings[0].layer, *words, settings.seed, how)
    return columns, dict(n_text=len(rows), n_token=len(vectors), width=config.d_model) | figures, lines


def tell_cut(rows: RaggedRows) -> RaggedRows:
    """Print how many texts were too long for the model, if any, and return the rows."""
    if rows.n_cut:
        print(cut_note(rows), file=sys.stderr)
    return rows


def read_parts(data: str, test: str | None, probe: bool | None, seed: int) -> dict[str, list[Example]]:
    """Return the examples by part, with a `test` if `probe` (None: if there are labels); or UserError."""
    labelled = partial(world.labelled, domain=world.SOURCES.get(data))
    if data in world.SOURCES and test is None:  # things and verbs of `unseen` stand in no labelled text
        sizes = dict(train=WORLD_TRAIN, test=WORLD_TEST, unseen=WORLD_TEST)
        drawn = zip(sizes.items(), WORLD_SEEDS, strict=True)
        return {name: labelled(n, seed + far, held_out=name == "unseen") for (name, n), far in drawn}
    train = labelled(WORLD_TRAIN, seed + WORLD_SEEDS[0]) if data in world.SOURCES else read_examples(data)
    parts = dict(train=train) if test is None else dict(train=train, test=read_examples(test))
    if probe is False or (probe is None and test is None and train[0][1] is None):
        return parts
    known, seen = {label for _, label in train}, {one_line(text) for text, _ in train}
    if again := sum(one_line(text) in seen for text, _ in parts.get("test", ())):
        print(f"{test}: {again:,} of {len(parts['test']):,} texts are also in {data}")
    for part, source in zip(parts.values(), (data, test), strict=False):
        if any(label is None for _, label in part):
            raise UserError(f"{source} has no labels: give a .tsv with text and label, or --no-probe")
        if unknown := [label for _, label in part if label not in known]:
            raise UserError(f"{source}: the label {unknown[0]!r} has no example in {data}: add one")
    if len(known) == 1:
        raise UserError(f"{data} has only one label, {[*known]}: give two or more, or --no-probe")
    if test is None:
        learnt, tested = split(train, max(1, len(train) // 4), seed, itemgetter(slice(1, None)))
        if not tested:
            raise UserError(f"{data}: no label has a second text to test on; give --test FILE or --no-probe")
        parts = dict(train=learnt, test=tested)
    return parts


def read_tagged(data: str, probe: bool | None, seed: int) -> dict[str, list[tuple[list[str], list[str]]]]:
    """Return sentences as (words, tags), by part; with `probe` a quarter is `test`; plain text: one part."""
    found = read_conll(data) if kind(data) == ".conll" else []
    if domain := world.SOURCES.get(data):
        found = world.tagging(WORLD_SENTENCES, seed, domain=domain)
    if not probe:
        return dict(train=found) if found else dict(texts=read_examples(data))
    learnt, tested = split(found, max(1, len(found) // 4), seed, itemgetter(1)) if found else ([], [])
    if not tested or len({tag for _, tags in learnt for tag in tags}) < 2:
        raise UserError(f"--tokens --probe: {data} needs two or more tags (.conll), and sentences to test on")
    return dict(train=learnt, test=tested)


def read_examples(path: str) -> list[Example]:
    """Return (text, label) of a file or folder; label None in a .txt, a folder, a table without labels."""
    file = Path(path)
    if file.is_dir() or kind(file) not in SUFFIXES:
        texts = [text for each in text_files(file) for text in read_documents(each)]
        if not texts:
            raise UserError(f"{path}: no text in it")
        if len(texts) == 1 and (n_line := len(texts[0].splitlines())) > 1:
            print(f"{path}: its {n_line:,} lines are one text; a blank line separates texts", file=sys.stderr)
        return [(text, None) for text in texts]
    if kind(file) == ".jsonl":
        labelled = any("label" in record for _, record in read_jsonl(file))
    else:
        first = next(read_lines(file), ("", ""))[1].lower()
        header = {cell.strip(' "\r') for cell in re.split("[\t,;]", first)}
        labelled = not {"text"} <= header <= {"text", "id", "index"}  # another column may be labels
    if not labelled:
        return [(text, None) for (text,) in read_table(file, ("text",))]
    return read_table(file, ("text", "label"))
