"""The reward model: a GPT with one number for its head, learnt from which of two answers was preferred.

Source: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", equation 1, in the form for
pairs of Stiennon et al. 2020, "Learning to summarize from human feedback", section 3.4.
"""

import copy
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import load_config, load_weights
from ..model.pooling import last_token
from ..model.transformer import Transformer, build
from ..plumbing.errors import UserError
from ..plumbing.folders import TOKENIZER
from ..tokenizer.bpe import BPE
from .preferences import PairObjective
from .rollout import Rollout


class RewardModel(nn.Module):
    """A decoder and a scalar head on the last real token: the end of the text, which has seen all of it."""

    def __init__(self, trunk: Transformer):
        super().__init__()
        self.config, self.trunk = trunk.config, trunk
        D = trunk.config.d_model
        self.head = nn.Linear(D, 1)
        # Stiennon et al. 2020, appendix B.1: the rewards begin small, whatever the width
        nn.init.normal_(self.head.weight, std=(D + 1) ** -0.5)
        nn.init.zeros_(self.head.bias)

    @property
    def encoder(self) -> None:
        """None: the trunk is a decoder. `training.train` asks for both stacks."""

    @property
    def decoder(self) -> nn.Module:
        """The stack of the trunk."""
        return self.trunk.decoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Texts (B, T) with their mask, 1 for real tokens, padded on either side -> rewards (B,)."""
        hidden = self.trunk.hidden_states(ids, mask)[-1]  # (B, T, D)
        return self.head(last_token(hidden, mask))[:, 0]


class BradleyTerry(PairObjective):
    """The reward of the chosen answer is to be above that of the rejected one."""

    name = "reward"

    def loss(self, model: RewardModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of -log sigmoid(r(chosen) - r(rejected)); Stiennon et al. 2020, section 3.4.

        Metrics: `loss` (nats a pair), `accuracy` (share of the pairs whose chosen answer has the higher
        reward), `margin` (mean difference of the two rewards).
        """
        B, two, T = batch["input_ids"].shape
        ids, mask = batch["input_ids"].view(-1, T), batch["attention_mask"].view(-1, T)  # (2 B, T)
        rewards = model(ids, mask).view(B, two)
        margin = rewards[:, 0] - rewards[:, 1]  # (B,)
        n = batch["n_pair"]
        loss = -F.logsigmoid(margin).sum() / n
        return loss, dict(loss=loss, accuracy=(margin > 0).sum() / n, margin=margin.sum() / n)


def reward_model_from(policy: Transformer, seed: int) -> RewardModel:
    """Return a reward model that starts from a copy of the policy's weights; `seed` draws its head."""
    torch.manual_seed(seed)
    trunk = copy.deepcopy(policy).requires_grad_(True)  # a frozen reference may be what it starts from
    return RewardModel(trunk).to(policy.tokens.weight.device)


def load_reward_model(folder: str | Path, tokenizer: BPE, device: str = "cpu") -> RewardModel:
    """Return the reward model of a folder.

    Raises:
        UserError: where the folder holds no reward model, or one that reads other tokens than `tokenizer`.
    """
    folder = Path(folder)
    model = RewardModel(build(load_config(folder)))
    if not (folder / TOKENIZER).exists():
        raise UserError(f"{folder}: no {TOKENIZER} in it, so what its reward model reads is unknown")
    other = BPE.load(folder / TOKENIZER)
    if (other.vocab, other.merges) != (tokenizer.vocab, tokenizer.merges):
        raise UserError(
            f"--reward {folder}: its reward model has another tokenizer than the policy, so it would read "
            "other texts than are written; train one from this policy (leave --reward out)"
        )
    try:
        load_weights(folder, model)
    except UserError as error:
        raise UserError(f"{error}; is it a reward model? reinforce.py writes one into RUN/reward") from None
    return model.to(device).eval()


def load_function(name: str) -> Callable[[str, str], float]:
    """Return the function that `module:function` names; it takes a prompt and an answer.

    Raises:
        UserError: where there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(f"--reward-function {name}: expected module:function, as in my_rules:short_answer")
    sys.path.insert(0, "")  # the folder in which the command was given, as for `python -m`
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - whatever the user's module does
        raise UserError(f"--reward-function {name}: cannot import {module_name} ({error})") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"--reward-function {name}: no function {function_name} in {module_name}")
    return function


class LearnedReward:
    """The score of a reward model."""

    def __init__(self, model: RewardModel):
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, rollout: Rollout, texts: list[tuple[str, str]]) -> Tensor:
        return self.model(rollout.ids, rollout.mask).float()


class RuleReward:
    """The score of a function of prompt and answer."""

    def __init__(self, function: Callable[[str, str], float]):
        self.function = function

    def __call__(self, rollout: Rollout, texts: list[tuple[str, str]]) -> Tensor:
        scores = [self.score(prompt, answer.strip()) for prompt, answer in texts]
        return torch.tensor(scores, dtype=torch.float32, device=rollout.ids.device)

    def score(self, prompt: str, answer: str) -> float:
        """Return the function's number; UserError, naming the text, where it gives none."""
        try:
            value = float(self.function(prompt, answer))
        except Exception as error:  # noqa: BLE001 - whatever the user's function does
            what = f"raised {type(error).__name__} ({error})"
            raise UserError(f"the reward function {what} for {prompt!r} and the answer {answer!r}") from None
        if not math.isfinite(value):
            raise UserError(f"the reward function gave {value} for {prompt!r} and the answer {answer!r}")
        return value


class Normalised:
    """A reward shifted and scaled to mean 0 and deviation 1 on samples of the reference policy.

    Source: Ziegler et al. 2019, section 2. So the KL coefficient means the same for every reward.
    """

    def __init__(self, reward, rollout: Rollout, texts: list[tuple[str, str]], on: bool = True):
        self.reward, self.mean, self.deviation = reward, 0.0, 1.0
        if on:
            scores = reward(rollout, texts)
            self.mean, spread = float(scores.mean()), float(scores.std(correction=0))
            self.deviation = spread if spread > 1e-6 else 1.0  # a reward that is the same for all texts

    def __call__(self, rollout: Rollout, texts: list[tuple[str, str]]) -> Tensor:
        return (self.reward(rollout, texts) - self.mean) / self.deviation


def confidence_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval (Wilson 1927) of a share that was counted over n cases."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half
