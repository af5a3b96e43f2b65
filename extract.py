"""Regime 3: a trained model is read, not trained. Its hidden states become the features of your texts.

    python extract.py                                       stories -> their place: a probe on runs/masked
    python extract.py --model runs/causal --pooling last    another model, another way to read it
    python extract.py --data reviews.tsv --test more.tsv    your texts and labels (.tsv, .csv, .jsonl)
    python extract.py --data notes.txt --similar "a query"  the nearest of your texts (.txt, .jsonl, folders)
    python extract.py --data tags.conll --tokens            one vector a word (of other files: a token)

--model takes a run folder or a Hugging Face folder. The vectors are in features.npz of the run's folder:
`numpy.load("runs/features/features.npz")["embeddings"]`, float32, beside `texts`, `labels` and `split`.
"""

import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

import minilm
from minilm.extraction.feature_files import FEATURES, Examples, read_parts, save_features, save_texts
from minilm.extraction.features import (
    Pooling,
    Reading,
    checked_rows,
    embed,
    extract,
    n_layer,
    nearest,
    reading,
)
from minilm.extraction.probe_table import report
from minilm.extraction.token_features import read_tokens, token_columns
from minilm.plumbing.devices import choose_device
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import RESULTS, SETTINGS, choose_folder, write_json
from minilm.plumbing.settings import CommonSettings, parse, show
from minilm.plumbing.terminal import exit_code
from minilm.pretraining.run import newest_or_train

NEXT = 'python extract.py --layer 1 --pooling cls --similar "Ana cooked some soup."'


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


def open_model(settings: ExtractionSettings):
    """Return (model, tokenizer) of --model, on the device; UserError where there is no tokenizer."""
    path = settings.model or newest_or_train("masked", settings.seed, settings.device)
    model, tokenizer = minilm.load(path, str(choose_device(settings.device)))
    if tokenizer is None:
        raise UserError(f"{path}: no tokenizer in it, and text cannot be read without one")
    if settings.compile:
        for stack in filter(None, (model.encoder, model.decoder)):
            stack.compile(dynamic=True)
    whose = " (the states are the encoder's)" if model.config.kind == "encoder-decoder" else ""
    print(f"Reading {path}: {model.config.kind}{whose}, {n_layer(model.config)} blocks.")
    if model.config.kind == "decoder" and settings.pooling == "cls":
        print("cls: a decoder's first token sees itself alone, so all texts look alike; take last or mean.")
    return model, tokenizer


def chosen_readings(settings: ExtractionSettings, config) -> list[Reading]:
    """Return what is saved: the reading of the flags, or with --layer all that of every layer."""
    if settings.layer == "all":
        return [reading(config, layer, settings.pooling) for layer in range(n_layer(config) + 1)]
    return [reading(config, settings.layer, settings.pooling)]


def read_texts(settings, folder: Path, model, tokenizer, parts: dict[str, Examples], how: dict) -> dict:
    """Save the vectors of all texts, print what is asked about them, and return the figures."""
    texts = [text for part in parts.values() for text in part.texts]
    rows = checked_rows(tokenizer, model.config, texts)
    wanted = chosen_readings(settings, model.config)
    found = extract(model, rows, wanted, **how)  # (n, D) each
    saved = np.stack(found, axis=1) if settings.layer == "all" else found[0]  # (n, L + 1, D) or (n, D)
    save_texts(folder / FEATURES, saved, parts)
    results = dict(n_text=len(texts), width=saved.shape[-1])
    if settings.probe:
        results |= report(model, rows, parts, wanted[-1], found[-1], settings, how)
    if settings.similar:
        query = embed(model, tokenizer, [settings.similar], *wanted[0])[0]
        lines = [f"  {cosine:.3f}  {texts[i]}" for i, cosine in nearest(found[0], query)]
        print(f"Nearest to {settings.similar!r}:", "", *lines, "", sep="\n")
    return results


def read_words(settings, folder: Path, model, tokenizer, how: dict) -> dict:
    """Save the vectors of all tokens or words, and return the figures."""
    tokens = read_tokens(settings.data, tokenizer, model.config, settings.seed)
    columns = token_columns(model, tokens, chosen_readings(settings, model.config)[-1].layer, **how)
    save_features(folder / FEATURES, **columns)
    return dict(n_text=len(tokens.rows), n_token=len(columns["tokens"]), width=model.config.d_model)


def main() -> int:
    """Read the texts, and print what a linear probe finds in their vectors beside two baselines."""
    given, _ = parse(ExtractionSettings, description=__doc__)
    settings, asked = ExtractionSettings(**given), given.get("probe")
    if settings.tokens and asked:
        raise UserError("--tokens --probe: the probe reads one vector a text; give one of the two")
    parts = {} if settings.tokens else read_parts(settings.data, settings.test, asked, settings.seed)
    settings = replace(settings, probe=asked is not False and "test" in parts)
    model, tokenizer = open_model(settings)
    chosen_readings(settings, model.config)  # a layer that is not there is said before a folder is made
    folder = choose_folder("features", settings.out, settings.overwrite)
    (folder / FEATURES).unlink(missing_ok=True)  # --overwrite
    write_json(folder / SETTINGS, asdict(settings))
    show(settings)
    print()
    began = time.perf_counter()
    how = dict(tokens_per_batch=settings.tokens_per_batch, precision=settings.precision, progress=True)
    if settings.tokens:
        results = read_words(settings, folder, model, tokenizer, how)
    else:
        results = read_texts(settings, folder, model, tokenizer, parts, how)
    seconds = time.perf_counter() - began
    write_json(folder / RESULTS, results | dict(seconds=seconds, seed=settings.seed))
    print(f"Saved in {folder} ({FEATURES}, {seconds:.0f} s).")
    print(f"Next: {NEXT}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
