"""Published checkpoints in and out: folders of Hugging Face's transformers.

    load        a folder, or hf:NAME -> our model and tokenizer
    export      a run folder -> a folder that transformers opens
    download    NAME -> the folder in the cache that holds it

What each architecture calls its weights stands in `names.py`, what its config.json says in `configs.py`.
Files of weights are read in `weights.py`, vocabularies in `vocabularies.py`, and written in
`vocabulary_files.py`.
"""

import importlib

_HOMES = {"load": "loading", "load_config": "loading", "export": "exporting", "download": "downloading"}

__all__ = ["download", "export", "load", "load_config"]


def __getattr__(name: str):
    """Import a public name the first time that it is asked for, so that the package needs no cycle."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
