"""minilm: six regimes of training a language model on one hand-written transformer.

A regime is three things: where the batches come from, what the loss is, which weights move (are trained).

Shapes, everywhere in the code:

    B  batch: sequences processed at once
    T  positions of the sequence of the queries (the inputs)
    S  positions of the sequence of the keys and values; S = T in self-attention without a cache
    D  d_model: numbers per position
    H  n_head: attention heads, each of d_head = D / H numbers
    F  d_ff: inner width of the feed-forward part
    V  vocab_size: tokens of the vocabulary
    P  masked positions kept per sequence

The names for programs are `load`, `save`, `export`, `build`, `generate`, `embed`, `PRESETS` and `BPE`. They
are imported on first use, so that `import minilm` costs nothing.
"""

import importlib.util

_HOMES = dict.fromkeys(("load", "save", "export"), "checkpoint")
_HOMES |= dict(build="model.transformer", generate="model.generate", PRESETS="model.config")
_HOMES |= dict(embed="extraction.features", BPE="tokenizer.bpe")

__all__ = ["BPE", "PRESETS", "build", "embed", "export", "generate", "load", "save"]


def __getattr__(name: str):
    """Import a public name, or a module of the package, when it is first used (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module 'minilm' has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__():
    return sorted([*globals(), *_HOMES])
