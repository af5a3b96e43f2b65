"""A step of PPO, beside the same step written on Hugging Face's `generate` and forward.

64 prompts of 21 tokens, 20 new tokens each, 3 passes of 2 minibatches; policy, reference and reward model
have the shape of gpt-tiny. Both learn by `minilm.reinforcement.ppo`, so that only the models, what draws and
what scores differ.
"""

import copy
from collections.abc import Callable
from itertools import count

import torch
from benchmarks.case import OURS, Case, peer, transformers_model

from minilm.model.config import PRESETS
from minilm.model.sampling import SamplingRule
from minilm.model.transformer import build
from minilm.reinforcement.ppo import PPO, PPODetails, make_batch
from minilm.reinforcement.reward import RewardModel
from minilm.reinforcement.rollout import Environment, Policy, Rollout, draw_answers, score_answers
from minilm.training.loop import TrainingSettings
from minilm.training.machine import quick_products

B, N_PROMPT, N_NEW = 64, 21, 20
SHAPE = PRESETS["gpt-tiny"]
RULE = SamplingRule(temperature=0.7)
DETAILS = PPODetails(missing_end_score=None)
SETTINGS = TrainingSettings(batch_size=B)


def learn(policy, optimizer, rollout: Rollout, scores: torch.Tensor, number: int) -> None:
    """Make the update of a step, which is the same for both."""
    objective = PPO(Environment(None, None, RULE, N_NEW, [], []), DETAILS)
    batch = make_batch(rollout, scores, 0.1, DETAILS)
    objective.learn(policy, optimizer, batch, SETTINGS, number, 1e-4)


def our_step(prompts: torch.Tensor) -> Callable:
    """Return a function that makes one step of PPO with this project's models."""
    policy, reward = Policy(build(SHAPE)), RewardModel(build(SHAPE)).eval()
    reference = copy.deepcopy(policy.model).requires_grad_(False)
    env = Environment(None, reference, RULE, N_NEW, [], [])
    optimizer, numbers = torch.optim.Adam(policy.parameters(), lr=1e-4), count()

    def step() -> torch.Tensor:
        number = next(numbers)
        with quick_products("fp32", torch.device("cpu")):
            rollout = draw_answers(policy.model, env, prompts.tolist(), number)
            score_answers(rollout, policy, env)
            learn(policy, optimizer, rollout, reward.scores(rollout, []), number)
        return rollout.ids

    return step


def chosen(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V) -> log-probabilities (B, n) of the new tokens."""
    scaled = logits[:, N_PROMPT - 1 : -1] / RULE.temperature
    return scaled.log_softmax(-1).gather(2, ids[:, N_PROMPT:, None])[..., 0]


class TransformersPolicy(torch.nn.Module):
    """The policy as one writes it on top of the library: logits of the whole text, then those needed."""

    def __init__(self):
        super().__init__()
        self.model, self.value_head = transformers_model(SHAPE), torch.nn.Linear(SHAPE.d_model, 1)

    def forward(self, ids, mask, n_prompt, rule):
        """Return log-probabilities and values (B, n) of the new tokens."""
        out = self.model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        values = self.value_head(out.hidden_states[-1][:, n_prompt - 1 : -1])[..., 0]  # (B, n)
        return chosen(out.logits, ids), values


def transformers_step(prompts: torch.Tensor) -> Callable:
    """Return the same function with GPT-2 of that shape from transformers."""
    policy, reference = TransformersPolicy().eval(), transformers_model(SHAPE).eval()
    trunk, head = transformers_model(SHAPE, "GPT2Model").eval(), torch.nn.Linear(SHAPE.d_model, 1)
    optimizer, numbers = torch.optim.Adam(policy.parameters(), lr=1e-4), count()
    given = dict(max_new_tokens=N_NEW, do_sample=True, top_k=0, temperature=RULE.temperature, use_cache=True)

    def step() -> torch.Tensor:
        with torch.no_grad():
            ids = policy.model.generate(prompts, attention_mask=torch.ones_like(prompts), **given)
            mask = torch.ones_like(ids, dtype=torch.bool)
            rollout = Rollout(ids, mask, N_PROMPT, torch.zeros(B, dtype=torch.bool))
            rollout.log_probs, rollout.values = policy(ids, mask, N_PROMPT, RULE)
            logits = reference(ids, attention_mask=mask, use_cache=False).logits  # (B, T, V)
            rollout.reference_log_probs = chosen(logits, ids)
            states = trunk(ids, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, D)
            scores = head(states[:, -1])[:, 0]
        learn(policy, optimizer, rollout, scores, next(numbers))
        return ids

    return step


def ppo() -> Case:
    """Sample, score, learn."""
    prompts = torch.randint(SHAPE.vocab_size, (B, N_PROMPT))
    theirs = peer("transformers", lambda: transformers_step(prompts))
    how = dict(work=(B, "sequences"), same=lambda ours, theirs: ours.shape == theirs.shape)
    return Case({OURS: our_step(prompts), "transformers": theirs}, {"transformers": 1.5}, **how)


CASES = {"ppo": ppo}
