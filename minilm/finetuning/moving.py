"""Which weights move, and how fast: the one flag that makes the difference between the kinds of fine-tuning.

--tune head      the head alone; the model extracts features ("classifier only": type I of some courses)
--tune last:N    the head and the last N blocks
--tune lora      the head and a thin addition to each matrix (`lora.py`)
--tune all       everything that the output depends on ("classifier and model": their type II)
"""

import re

from ..model.config import ModelConfig
from ..plumbing.errors import UserError, suggest
from .heads import HEAD, WithHead
from .lora import add_lora, lora_names

WAYS = ("all", "head", "lora", "last:N")
BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.")


def n_last(tune: str) -> int | None:
    """Return N of `last:N`, None for the other ways; UserError for a way that there is not."""
    match = re.fullmatch(r"last:(\d+)", tune)
    if match and int(match[1]) > 0:
        return int(match[1])
    if tune in ("all", "head", "lora"):
        return None
    raise UserError(f"--tune {tune}: expected {', '.join(WAYS)} (N: 1 or more blocks){suggest(tune, WAYS)}")


def depth_of(name: str, config: ModelConfig) -> int:
    """Return how deep a weight lies: 0 the embeddings, 1 to n_layer the blocks, n_layer + 1 all above.

    The decoder's blocks come after the encoder's, and a stack's final norm goes with its last block.
    """
    block = BLOCK.match(name)
    if block:
        return int(block[2]) + 1 + (config.n_encoder_layer if block[1] == "decoder" else 0)
    if name.startswith("tokens.") or ".embeddings." in name:
        return 0
    if name.startswith("encoder.norm."):
        return config.n_encoder_layer
    return config.n_layer if name.startswith("decoder.norm.") else config.n_layer + 1


def let_move(
    model: WithHead, tune: str, rank: int = 8, alpha: float = 16.0, targets: tuple[str, ...] = ("q", "v")
) -> None:
    """Let the weights move that `tune` names; `lora` adds its matrices, drawn by torch's generator.

    Raises:
        UserError: for a `tune` that there is not, more blocks than the model has, and `head` without one.
    """
    n = n_last(tune)
    if tune == "head" and model.head is None:
        raise UserError("--tune head: this task has no head of its own; use all, lora or last:N")
    if n is not None and n > model.config.n_layer:
        raise UserError(f"--tune {tune}: the model has {model.config.n_layer} blocks")
    in_use = [name for name, _ in model.named_parameters() if model.in_use(name)]
    if tune == "lora":
        add_lora(model, rank, alpha, targets)
        model.move([name for name in in_use if name.startswith(HEAD)] + lora_names(model))
    elif tune == "head":
        model.move([name for name in in_use if name.startswith(HEAD)])
    elif n is not None:
        lowest = model.config.n_layer + 1 - n
        model.move([name for name in in_use if depth_of(name, model.config) >= lowest])
    else:
        model.move(in_use)


def pace_of(config: ModelConfig, layer_decay: float, unfreeze_every: int):
    """Return the `pace` of `training.make_optimizer`: how fast a weight moves, and from which step.

    `layer_decay` xi: each block learns at xi times the rate of the one above it (Howard and Ruder 2018,
    "discriminative fine-tuning", section 3.2; 1: all at the same). `unfreeze_every` n: the head moves from
    the start, and every n steps one block more, from the top down ("gradual unfreezing", section 3.3; 0: all
    from the start). Differs from the paper: Adam's moments of a block that waits are kept up already.
    """
    top = config.n_layer + 1

    def pace(name: str) -> tuple[float, int]:
        below = top - depth_of(name, config)
        return layer_decay**below, unfreeze_every * below

    return pace
