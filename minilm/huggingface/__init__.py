"""Published checkpoints in (`load`, `download`) and out (`export`), as folders of transformers."""

import importlib

from .loading import download, load


def __getattr__(name: str):
    if name == "export":  # it reads a run folder, which only `checkpoint.py` can
        return importlib.import_module("minilm.checkpoint").export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
