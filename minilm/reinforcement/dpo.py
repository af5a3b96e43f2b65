"""Direct preference optimisation: the pairs teach the policy, with no reward model and no sampling.

Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
"""

import torch
from torch import Tensor

from ..model.sampling import token_log_probabilities
from ..model.transformer import Transformer
from .preferences import PairObjective
from .rollout import Environment


class DirectPreference(PairObjective):
    """The policy's own log-probability, beside the reference's, is the reward of a Bradley-Terry model."""

    def __init__(self, preferences, env: Environment, batch_size: int, seed: int = 0, beta: float = 0.1):
        super().__init__(preferences, env, batch_size, seed)
        self.beta = beta

    def rewards(self, model: Transformer, batch: dict[str, Tensor]) -> Tensor:
        """Return the implicit rewards r = beta (log pi(answer) - log reference(answer)), (B, 2).

        With them the loss, -log sigmoid(r(chosen) - r(rejected)), is equation 7. Where the mean reward of the
        chosen answers falls below 0 and `margin` stays above it, both have become less likely.
        """
        with torch.no_grad():
            before = answer_log_probabilities(self.reference, batch)
        return self.beta * (answer_log_probabilities(model, batch) - before)


def answer_log_probabilities(model: Transformer, batch: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of each whole answer of a `PairObjective` batch given its prompt, (B, 2)."""
    ids, mask = (batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask"))  # (2 B, T)
    log_probs = token_log_probabilities(model, ids, mask)  # (2 B, T - 1), 0 for padding
    column = torch.arange(1, ids.shape[1], device=ids.device)  # places of the tokens that are scored
    in_answer = column >= batch["n_prompt"].repeat_interleave(2)[:, None]  # (2 B, T - 1)
    return (log_probs * in_answer).sum(1).unflatten(0, (-1, 2))  # (B, 2)
