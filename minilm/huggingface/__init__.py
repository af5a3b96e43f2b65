"""Published checkpoints in and out: folders of Hugging Face's transformers.

    load        a folder, or hf:NAME -> our model and tokenizer
    export      a run folder -> a folder that transformers opens
    download    NAME -> the folder in the cache that holds it

What each architecture calls its weights stands in `names.py`, what its config.json says in `configs.py`.
"""

import importlib

from .loading import download, load


def __getattr__(name: str):
    if name == "export":  # it reads a run folder, which `checkpoint.py` knows and this room does not
        return importlib.import_module("minilm.checkpoint").export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
