"""What a case of the benchmarks is, and the peers that stand beside ours: the same shape, random weights."""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from minilm.huggingface.configs import from_model_config
from minilm.model.config import ModelConfig

OURS, MATRIX, STEP = "minilm", "matrix product", "training step"


@dataclass
class Case:
    """One thing that is measured: a turn of ours, and of whatever does the same."""

    sides: dict[str, Callable[[], object] | None]  # a turn of each, ours first; None: it is not here
    aims: dict[str, float] = field(default_factory=dict)  # of a side, for the figure that `run.figure` gives
    work: tuple[float, str] = (1, "turns")  # of a turn of ours: 768, "tokens"
    flops: float = 0.0  # of its matrix products; 0: they are not what counts
    dtype: torch.dtype = torch.float32  # of these
    device: str = "cpu"  # where all sides compute
    same: Callable[[object, object], bool] | None = None  # whether ours and a peer's turn gave the same


def peer(module: str, make: Callable[[], object]):
    """Return what `make` does where a module is installed, else None."""
    return make() if importlib.util.find_spec(module) else None


def transformers_model(config: ModelConfig, name: str | None = None, **more):
    """Return transformers' model of this shape, with all heads of pre-training or as the class `name`."""
    import transformers

    transformers.logging.set_verbosity_error()
    kind = {"encoder": "bert", "decoder": "gpt2"}.get(config.kind, "bart")
    kind = "llama" if config.positions == "rope" else kind
    values = from_model_config(config, kind)
    if kind == "gpt2":  # its own ids lie outside a small vocabulary
        values |= dict(bos_token_id=0, eos_token_id=None, pad_token_id=0)
    del values["model_type"], values["dtype"]
    theirs = transformers.AutoConfig.for_model(kind, **values | more)
    return getattr(transformers, name or values["architectures"][0])(theirs)


def nanogpt_model(config: ModelConfig):
    """Return nanoGPT's model of this shape; the module is that of `run.py --nanogpt`."""
    import nanogpt

    shape = dict(n_layer=config.n_decoder_layer, n_head=config.n_head, n_embd=config.d_model)
    shape |= dict(block_size=config.max_positions, vocab_size=config.vocab_size, dropout=config.dropout)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its size
        return nanogpt.GPT(nanogpt.GPTConfig(**shape))
