"""Published checkpoints in and out: folders of Hugging Face's transformers.

    load        a folder, or hf:NAME -> our model and tokenizer
    export      a run folder -> a folder that transformers opens
    download    NAME -> the folder in the cache that holds it

What each architecture calls its weights stands in `names.py`, what its config.json says in `configs.py`.
"""

import importlib

# `export` reads a run folder, which `checkpoint.py` knows and this room does not.
_HOMES = dict.fromkeys(("load", "load_config", "download"), "minilm.huggingface.loading")
_HOMES |= {"export": "minilm.checkpoint"}

__all__ = ["download", "export", "load", "load_config"]


def __getattr__(name: str):
    """Import a public name the first time that it is asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
