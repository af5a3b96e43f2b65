"""Published checkpoints in (`load`, `download`) and out (`export`), as folders of transformers."""

import importlib

from .loading import download, load


def export(run_folder, folder) -> list[str]:
    """Convert a run folder, as `checkpoint.export`, which imports this package."""
    return importlib.import_module("minilm.checkpoint").export(run_folder, folder)
