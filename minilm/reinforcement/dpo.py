"""Direct preference optimisation: pairs train the policy directly, without reward model and sampling.

Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
"""

import torch
from torch import Tensor

from ..model.sampling import token_log_probabilities
from ..model.transformer import Transformer
from .preferences import PairObjective
from .rollout import Environment


class DirectPreference(PairObjective):
    """A Bradley-Terry model: an answer's reward is beta log (its probability / that under the reference)."""

    def __init__(self, preferences, env: Environment, batch_size: int, seed: int = 0, beta: float = 0.1):
        super().__init__(preferences, env, batch_size, seed)
        self.beta = beta

    def rewards(self, model: Transformer, batch: dict[str, Tensor]) -> Tensor:
        """Return the implicit rewards r = beta (log pi(answer) - log reference(answer)), (B, 2).

        With them the loss, -log sigmoid(r(chosen) - r(rejected)), is equation 7. If `chosen_reward` is below
        0 and `margin` above 0, both answers have become less likely than under the reference.
        """
        with torch.no_grad():
            before = answer_log_probabilities(self.reference, batch)
        return self.beta * (answer_log_probabilities(model, batch) - before)


def answer_log_probabilities(model: Transformer, batch: dict[str, Tensor]) -> Tensor:
    """Return log p(whole answer | prompt), (B, 2), for both answers of each pair of `PairObjective.batch`."""
    ids, mask = (batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask"))  # (2 B, T)
    log_probs = token_log_probabilities(model, ids, mask)  # (2 B, T - 1), 0 for padding
    column = torch.arange(1, ids.shape[1], device=ids.device)  # columns of the tokens that are scored
    in_answer = column >= batch["n_prompt"].repeat_interleave(2)[:, None]  # (2 B, T - 1)
    return (log_probs * in_answer).sum(1).unflatten(0, (-1, 2))  # (B, 2)
