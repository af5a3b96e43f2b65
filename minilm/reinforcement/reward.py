"""The reward: a GPT with a scalar head, trained on pairs of answers of which one is preferred; or a rule.

Source: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", equation 1, in the form for
pairs of Stiennon et al. 2020, "Learning to summarize from human feedback", section 3.4.
"""

import copy
import math
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import load_config, load_tokenizer, load_weights, read_weights
from ..model.pooling import last_token
from ..model.transformer import Transformer, build_for_weights
from ..plumbing.errors import UserError
from ..plumbing.folders import CONFIG, TOKENIZER
from ..tokenizer.base import Tokenizer
from ..training.loop import TrainingSettings
from ..training.metrics import share_interval
from ..training.objective import evaluate
from .preferences import Pair, PairObjective
from .rollout import Environment, Rollout, draw_answers

N_SAMPLE = 512  # answers that give the mean and deviation of a reward


class RewardModel(nn.Module):
    """A decoder with a scalar head on the last real token, the end of the text, which has seen all of it."""

    def __init__(self, trunk: Transformer):
        super().__init__()
        self.config, self.trunk = trunk.config, trunk
        D = trunk.config.d_model
        self.head = nn.Linear(D, 1)
        # Stiennon et al. 2020, appendix B.1: the rewards begin small, whatever the width
        nn.init.normal_(self.head.weight, std=(D + 1) ** -0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the rewards (B,) of texts (B, T), padded on either side; the mask is 1 for real tokens."""
        hidden = self.trunk.hidden_states(ids, mask)[-1]  # (B, T, D)
        return self.head(last_token(hidden, mask))[:, 0].float()  # float32, under autocast too

    @torch.no_grad()
    def scores(self, rollout: Rollout, texts: list[tuple[str, str]]) -> Tensor:
        """Return the rewards of a rollout's whole texts, (B,)."""
        return self(rollout.ids, rollout.mask)


class BradleyTerry(PairObjective):
    """The objective of a reward model, which gives each whole text its reward."""

    def rewards(self, model: RewardModel, batch: dict[str, Tensor]) -> Tensor:
        """Return the rewards of both texts of each pair, (B, 2)."""
        ids, mask = (batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask"))  # (2 B, T)
        return model(ids, mask).unflatten(0, (-1, 2))


def reward_model_from(policy: Transformer, seed: int) -> RewardModel:
    """Return a reward model that starts from a copy of the policy's weights; `seed` draws its head."""
    torch.manual_seed(seed)
    trunk = copy.deepcopy(policy).requires_grad_(True)  # the policy given may be the frozen reference
    return RewardModel(trunk).to(policy.tokens.weight.device)


def load_reward_model(folder: str | Path, tokenizer: Tokenizer, device: str = "cpu") -> RewardModel:
    """Return the reward model of a folder; UserError if there is none, or if its tokenizer is another."""
    config, other = load_config(folder), load_tokenizer(Path(folder) / TOKENIZER)
    if any(getattr(other, name, None) != getattr(tokenizer, name) for name in tokenizer.SAVED):
        raise UserError(f"--reward {folder}: its tokenizer is not the policy's; leave --reward out")
    tensors = read_weights(folder)
    model = RewardModel(build_for_weights(config, tensors, Path(folder) / CONFIG))
    if "head.weight" not in tensors:
        raise UserError(f"--reward {folder}: not a reward model; reinforce.py writes one into RUN/reward")
    load_weights(folder, model, tensors)
    return model.to(device).eval()


def held_out_accuracy(model: RewardModel, objective: BradleyTerry, pairs: list[Pair]) -> tuple:
    """Return the share of correctly ranked pairs, and both ends of its 95 % interval."""
    objective.rows["validation"] = objective.encode(pairs)
    share = evaluate(model, objective, TrainingSettings(batch_size=objective.batch_size))["accuracy"]
    share = round(share * len(pairs)) / len(pairs)  # a sum of float32 may be above 1
    return share, *share_interval(share, len(pairs))


def load_function(name: str) -> Callable[[str, str], float]:
    """Return the function that `module:function` names; UserError where there is none."""
    sys.path.insert(0, "")  # the folder in which the command was given, as for `python -m`
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # noqa: BLE001 - whatever the user's module does
        raise UserError(f"--reward-function {name}: cannot import it ({error})") from None
    if not callable(function):
        raise UserError(f"--reward-function {name}: expected module:function, as in my_rules:short_answer")
    return function


class Rule:
    """A user's function of prompt and answer; UserError, with the text, if it gives no finite number."""

    def __init__(self, function: Callable[[str, str], float]):
        self.function = function

    def scores(self, rollout: Rollout, texts: list[tuple[str, str]]) -> Tensor:
        """Return the function's number for each text, (B,)."""
        scores = []
        for prompt, answer in texts:
            text = f"for the prompt {prompt!r} and the answer {answer.strip()!r}"
            try:
                scores.append(float(self.function(prompt, answer.strip())))
            except Exception as error:  # noqa: BLE001 - whatever the user's function does
                raise UserError(f"the reward function gives no number ({error!r}) {text}") from None
            if not math.isfinite(scores[-1]):
                raise UserError(f"the reward function returned {scores[-1]}, not a finite number, {text}")
        return torch.tensor(scores, dtype=torch.float32, device=rollout.ids.device)


class Normalised:
    """A reward with mean 0 and deviation 1 on the reference's samples (Ziegler et al. 2019, section 2)."""

    def __init__(self, reward, env: Environment, seed: int):
        # answers to training prompts: nothing in training may depend on the test prompts
        chosen = np.random.default_rng(seed).integers(0, len(env.prompts), N_SAMPLE)
        rollout = draw_answers(env.reference, env, [env.prompts[i] for i in chosen], seed)
        scores = reward.scores(rollout, env.texts(rollout))
        self.reward, self.mean, spread = reward, float(scores.mean()), float(scores.std(correction=0))
        self.deviation = spread if spread > 1e-6 else 1.0  # 1: all texts get the same reward

    def scores(self, rollout: Rollout, texts: list[tuple[str, str]]) -> Tensor:
        """Return the reward's scores, shifted and scaled, (B,)."""
        return (self.reward.scores(rollout, texts) - self.mean) / self.deviation
