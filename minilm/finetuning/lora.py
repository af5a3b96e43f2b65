"""LoRA: the weights stay, and beside a matrix a product of two thin ones learns what is to change.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, equation 3:

    h = W x + (alpha / r) B A x        W (out, in) rests; A (r, in) and B (out, r) move

B starts as zeros, so the model starts as it was. Once trained, W + (alpha / r) B A is a matrix like any
other: what is saved has no trace of LoRA, and computing with it costs nothing more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.transformer import Transformer
from ..plumbing.errors import UserError, suggest

# What --lora-targets names, and the layers that it stands for.
TARGETS = {
    "q": ("self_attention.q", "cross_attention.q"),
    "k": ("self_attention.k", "cross_attention.k"),
    "v": ("self_attention.v", "cross_attention.v"),
    "out": ("self_attention.out", "cross_attention.out"),
    "up": ("feed_forward.up",),
    "down": ("feed_forward.down",),
}
A, B = "lora_a", "lora_b"


class LoRALinear(nn.Linear):
    """A linear layer and its thin addition; weight and bias keep their names.

    Differs from the paper: no dropout on x before A.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias, self.scale = layer.weight, layer.bias, alpha / rank
        a = torch.randn(rank, layer.in_features) * layer.in_features**-0.5
        self.lora_a = nn.Parameter(a.to(layer.weight.device))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return (
            F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale
        )

    def merged_weight(self) -> Tensor:
        """Return the one matrix (out, in) that computes the same."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


def check_lora(width: int, rank: int, targets: tuple[str, ...]) -> None:
    """Raise UserError for a rank below 1 or above the model's width, or a target that there is not."""
    if not 1 <= rank <= width:
        raise UserError(f"--lora-rank {rank}: must be from 1 to the model's width, {width}")
    for target in targets:
        if target not in TARGETS:
            there_are = f"{suggest(target, TARGETS)}; there are {', '.join(TARGETS)}"
            raise UserError(f"--lora-targets {target}: no such layer{there_are}")


def add_lora(model: Transformer, rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    """Replace the target layers of all blocks by LoRA layers; the matrices A are drawn by torch's generator.

    Raises UserError as `check_lora`.
    """
    check_lora(model.config.d_model, rank, targets)
    endings = tuple(ending for target in targets for ending in TARGETS[target])
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.endswith(endings):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, LoRALinear(layer, rank, alpha))


def lora_names(model: nn.Module) -> list[str]:
    """Return the names of the thin matrices."""
    return [name for name, _ in model.named_parameters() if name.endswith((A, B))]


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of the model without LoRA that computes the same; its names are the usual ones."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith((A, B))}
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            state[f"{name}.weight"] = layer.merged_weight().detach()
    return state
