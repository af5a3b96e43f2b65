"""LoRA: the weights stay, and beside a matrix a product of two thin ones learns what is to change.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, equation 3:

    h = W x + (alpha / r) B A x        W (out, in) rests; A (r, in) and B (out, r) move

Once trained, W + (alpha / r) B A is a matrix like any other: what is saved has no trace of LoRA, and to
compute with it costs nothing more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = ("q", "k", "v", "out", "gate", "up", "down")  # layers of a block: of attention, of feed-forward
THIN = ("lora_a", "lora_b")  # how the names of the thin matrices end


class LoRALinear(nn.Linear):
    """A linear layer and its thin addition; weight and bias keep their names.

    Differs from the paper: no dropout on x before A.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float):
        nn.Module.__init__(self)  # not that of nn.Linear, which would draw new weights
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias, self.scale = layer.weight, layer.bias, alpha / rank
        a = torch.randn(rank, layer.in_features) * layer.in_features**-0.5
        self.lora_a = nn.Parameter(a.to(layer.weight))
        # B starts at zero: B A x is 0, so the model starts as it was. Were A zero too, neither would move:
        # B's gradient is a product with A x, and A's one with B.
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        plain = F.linear(x, self.weight, self.bias)
        return plain + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale  # by way of (..., r)


def add_lora(model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    """Replace the layers named in `targets` in all blocks; the matrices A are drawn by torch's generator."""
    for name, layer in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        if own in targets and ".blocks." in name:
            setattr(model.get_submodule(parent), own, LoRALinear(layer, rank, alpha))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of the model without LoRA that computes the same; its names are the usual ones."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(THIN)}
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            state[f"{name}.weight"] = (layer.weight + layer.scale * layer.lora_b @ layer.lora_a).detach()
    return state
