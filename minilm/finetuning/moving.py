"""Which weights move, and how fast: the one flag that makes the difference between the kinds of fine-tuning.

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
# Rates: of small models SMALL, or the task's own, so many TIMES (what is new has far to go).
SMALL, TIMES = 1e-3, dict(all=1, last=1, head=10, lora=5, bias=30)
PUBLISHED = dict(all=5e-5, last=3e-4, head=1e-1, lora=3e-3, bias=3e-3, scratch=3e-4)  # width 256 on: README


def depth_of(name: str, config: ModelConfig) -> int:
    """Return how deep a weight lies: 0 embeddings, 1 to n_layer blocks (encoder first), n_layer + 1 above."""
    if block := BLOCK.match(name):
        return int(block[2]) + 1 + (config.n_encoder_layer if block[1] == "decoder" else 0)
    if name.startswith("tokens.") or ".embeddings." in name:
        return 0
    of_last_block = {"encoder.norm": config.n_encoder_layer, "decoder.norm": config.n_layer}
    return of_last_block.get(name.rpartition(".")[0], config.n_layer + 1)


def let_move(model: WithHead, tune: str, rank: int = 8, alpha: float = 16.0, targets=("q", "v")) -> None:
    """Let the weights move that `tune` names, no others; LoRA's matrices are drawn by torch's generator."""
    way, _, n_block = tune.partition(":")
    if way == "lora":
        add_lora(model, rank, alpha, targets)
    for name, parameter in model.named_parameters():
        moves = name.startswith(HEAD) or name.endswith(THIN)  # what is new always moves
        if way == "bias":
            moves |= name.endswith(".bias") and model.in_use(name)
        elif way in ("all", "last"):
            lowest = 0 if way == "all" else model.config.n_layer + 1 - int(n_block)
            moves = model.in_use(name) and depth_of(name, model.config) >= lowest
        parameter.requires_grad_(moves)
    model.train(model.training)  # a part that rests from now on has no dropout


def share_and_start(name: str, config: ModelConfig, layer_decay: float, unfreeze_every: int):
    """Return a weight's share of the learning rate, and the first step in which it moves.

    `layer_decay` xi: each block learns at xi times the rate of the one above it (Howard and Ruder 2018,
    "discriminative fine-tuning", section 3.2: 1 / 2.6; 1: all at the same). `unfreeze_every` n: first the
    head alone, every n steps (there: epoch) one block more from the top ("gradual unfreezing", 3.3; 0: all).
    """
    # Low blocks know words, high ones the old task. What lies deep is worth keeping, and the first gradients
    # that come down from a head which knows nothing yet would spoil it.
    below = config.n_layer + 1 - depth_of(name, config)
    return layer_decay**below, unfreeze_every * below
