"""The optional supervised start: the policy learns to answer from the chosen answers, before any reward.

Source: Stiennon et al. 2020, section 3.1; Ouyang et al. 2022, "InstructGPT", section 3.1, step 1.
"""

import torch
from torch import Tensor

from ..training.objective import IGNORED, count_correct, summed_cross_entropy
from .preferences import PairObjective


class Supervised(PairObjective):
    """Predict the tokens of the chosen answer, given its prompt; the prompt's own tokens are no labels."""

    name = "supervised"

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return input_ids and labels (B, T) of the chosen answers, and the number of labels."""
        pairs = super().batch(step, split)
        ids, mask = pairs["input_ids"][:, 0], pairs["attention_mask"][:, 0]  # (B, T + 1)
        is_answer = torch.arange(ids.shape[1]) >= pairs["n_prompt"][:, None]
        labels = ids.masked_fill(~(mask & is_answer), IGNORED)[:, 1:]
        n_label = (labels != IGNORED).sum().float()
        return dict(input_ids=ids[:, :-1], labels=labels, n_label=n_label.clamp(min=1))

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over the answers' tokens in nats; metrics `loss` and `accuracy`."""
        logits = model(batch["input_ids"])  # (B, T, V)
        loss = summed_cross_entropy(logits, batch["labels"]) / batch["n_label"]
        return loss, dict(loss=loss, accuracy=count_correct(logits, batch["labels"]) / batch["n_label"])
