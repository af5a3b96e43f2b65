"""Which weights move (are trained), and how fast: the kinds of fine-tuning differ by this one flag.

--tune head      the head alone; the model extracts features ("classifier only": type I of some courses)
--tune last:N    the head and the last N blocks
--tune bias      the head and all biases, those of the norms too (BitFit: Ben Zaken et al. 2022, section 3)
--tune lora      the head and a thin addition to some matrices (`--lora-targets`, `lora.py`)
--tune all       everything that the output depends on ("classifier and model": their type II)
"""

import re

from ..model.config import ModelConfig
from .heads import HEAD, WithHead
from .lora import THIN, add_lora

BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.")
# Learning rate of a small model: SMALL, or the task's own, times TIMES; new weights have further to go.
SMALL, TIMES = 1e-3, dict(all=1, head=10, bias=30, lora=5, last=1)
PUBLISHED = dict(all=5e-5, last=3e-4, head=1e-1, lora=3e-3, bias=3e-3, scratch=3e-4)  # width 256 on: README


def depth_of(name: str, config: ModelConfig) -> int:
    """Return the level of a weight: 1 to n_layer blocks (encoder first), n_layer + 1 heads, 0 all else."""
    if block := BLOCK.match(name):
        return int(block[2]) + 1 + (config.n_encoder_layer if block[1] == "decoder" else 0)
    of_last_block = {"encoder.norm": config.n_encoder_layer, "decoder.norm": config.n_layer}
    other = 0 if name.startswith(("tokens.", "encoder.", "decoder.")) else config.n_layer + 1
    return of_last_block.get(name.rpartition(".")[0], other)


def let_move(model: WithHead, tune: str, rank: int = 8, alpha: float = 16.0, targets=("q", "v")) -> None:
    """Let the weights that `tune` names move and freeze all others; torch's generator draws LoRA's A."""
    way, _, n_block = tune.partition(":")
    if way == "lora":
        add_lora(model, rank, alpha, targets)
    for name, parameter in model.named_parameters():
        moves = name.startswith(HEAD) or name.endswith(THIN)  # new weights always move
        if way == "bias":
            moves |= name.endswith(".bias") and model.in_use(name)
        elif way in ("all", "last"):
            lowest = 0 if way == "all" else model.config.n_layer + 1 - int(n_block)
            moves = model.in_use(name) and depth_of(name, model.config) >= lowest
        parameter.requires_grad_(moves)
    model.train(model.training)  # switches dropout off in frozen parts


def share_and_start(name: str, config: ModelConfig, layer_decay: float, unfreeze_every: int):
    """Return a weight's share of the learning rate, and the first step in which it moves.

    `layer_decay`: a block's learning rate is that of the block above it times this (Howard and Ruder 2018,
    "discriminative fine-tuning", section 3.2: 1 / 2.6; 1: all blocks learn alike). `unfreeze_every`: at first
    only the head moves; after every so many steps (there: an epoch) one more block does, from the top down
    ("gradual unfreezing", section 3.3; 0: all blocks from the start).
    """
    # Low blocks know words in general, high blocks know the old task. The low ones are worth keeping, and the
    # first gradients, which come from a head that has learnt nothing yet, would spoil them.
    below = config.n_layer + 1 - depth_of(name, config)
    return layer_decay**below, unfreeze_every * below
