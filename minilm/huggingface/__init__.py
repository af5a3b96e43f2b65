"""Published checkpoints in and out: folders of Hugging Face's transformers.

    load        a folder, or hf:NAME -> our model and tokenizer
    export      a run folder -> a folder that transformers opens
    download    NAME -> the folder in the cache that holds it

What each architecture calls its weights stands in `names.py`, what its config.json says in `configs.py`.
"""

import importlib

__all__ = ["download", "export", "load", "load_config"]


def __getattr__(name: str):
    """Import a public name the first time that it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # `export` reads a run folder, which `checkpoint.py` knows and this room does not.
    home = "minilm.checkpoint" if name == "export" else "minilm.huggingface.loading"
    return getattr(importlib.import_module(home), name)
