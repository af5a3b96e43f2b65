"""LoRA: the weights are frozen; a product of two thin matrices, added to a matrix, learns its change.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, equation 3:

    h = W x + (alpha / r) B A x        W (out, in) is frozen; A (r, in) and B (out, r) move

After training, W + (alpha / r) B A is one matrix: a saved model has no trace of LoRA, and using it costs
nothing more. Differs from the paper: no dropout on x before A.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = ("q", "k", "v", "out", "gate", "up", "down")  # layers of a block: attention's, then feed-forward's
THIN = ("lora_a", "lora_b")  # suffixes of the names of A and B


class LoRALinear(nn.Linear):
    """A linear layer plus scale B A x, where scale is alpha / r; weight and bias keep their names."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float):
        nn.Module.__init__(self)  # not nn.Linear's, which would draw new weights
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias, self.scale = layer.weight, layer.bias, alpha / rank
        a = torch.randn(rank, layer.in_features) * layer.in_features**-0.5
        self.lora_a = nn.Parameter(a.to(layer.weight))
        # B starts at zero, so B A x is 0 and the model starts unchanged. If A were zero too, neither would
        # ever move: the gradient of B has the factor A x, and the gradient of A has the factor B.
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return h of equation 3, with the layer's bias added: x (..., in) -> (..., out)."""
        plain = F.linear(x, self.weight, self.bias)
        return plain + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale  # through (..., r)


def add_lora(model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    """Replace the layers named in `targets` in all blocks by `LoRALinear`; torch's generator draws each A."""
    for name, layer in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        if own in targets and ".blocks." in name:
            setattr(model.get_submodule(parent), own, LoRALinear(layer, rank, alpha))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of an equal model without LoRA: the products are added to the matrices."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(THIN)}
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            state[f"{name}.weight"] = (layer.weight + layer.scale * layer.lora_b @ layer.lora_a).detach()
    return state
