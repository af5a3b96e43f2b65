"""Measures a step of PPO against the same step written on Hugging Face's `generate` and forward.

    python tests/benchmarks/ppo.py

64 prompts of 21 tokens, 20 new tokens each, 3 passes of 2 minibatches; policy, reference and reward model
have the shape of gpt-tiny; two threads. Both learn by `minilm.reinforcement.ppo`, so that only the models,
what draws and what scores differ. They take turns, and the shortest time of each counts. Exit
status 1 where the ratio falls short.
"""

import copy
import sys
import time

import torch

from minilm.model.config import PRESETS
from minilm.model.sampling import SamplingRule
from minilm.model.transformer import build
from minilm.reinforcement.ppo import PPO, PPODetails, make_batch
from minilm.reinforcement.reward import RewardModel
from minilm.reinforcement.rollout import Environment, Policy, Rollout, draw_answers, score_answers
from minilm.training.loop import TrainingSettings

B, N_PROMPT, N_NEW, ROUNDS, TARGET = 64, 21, 20, 7, 1.5
SHAPE = PRESETS["gpt-tiny"]
RULE = SamplingRule(temperature=0.7)
DETAILS = PPODetails(missing_end_score=None)
SETTINGS = TrainingSettings(batch_size=B)


def learn(policy, optimizer, rollout: Rollout, scores: torch.Tensor, number: int) -> None:
    """Make the update of a step, which is the same for both."""
    objective = PPO(Environment(None, None, RULE, N_NEW, [], []), DETAILS)
    batch = make_batch(rollout, scores, 0.1, DETAILS)
    objective.learn(policy, optimizer, batch, SETTINGS, number, 1e-4)


def ours():
    """Return a function that makes one step of PPO with this project's models."""
    policy, reward = Policy(build(SHAPE)), RewardModel(build(SHAPE)).eval()
    reference = copy.deepcopy(policy.model).requires_grad_(False)
    env = Environment(None, reference, RULE, N_NEW, [], [])
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-4)

    def step(prompts: torch.Tensor, number: int) -> torch.Tensor:
        rollout = draw_answers(policy.model, env, prompts.tolist(), number)
        score_answers(rollout, policy, env)
        learn(policy, optimizer, rollout, reward.scores(rollout, []), number)
        return rollout.ids

    return step


def hugging_face():
    """Return the same function with GPT-2 of that shape from transformers, or none without the library."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model
    except ImportError:
        return None
    shape = dict(vocab_size=SHAPE.vocab_size, n_positions=SHAPE.max_positions, n_embd=SHAPE.d_model)
    shape |= dict(n_layer=SHAPE.n_decoder_layer, n_head=SHAPE.n_head, resid_pdrop=0.0, embd_pdrop=0.0)
    config = GPT2Config(**shape, attn_pdrop=0.0, bos_token_id=0, eos_token_id=None, pad_token_id=0)

    class HuggingFacePolicy(torch.nn.Module):
        """The policy as one writes it on top of the library: logits of the whole text, then those needed."""

        def __init__(self):
            super().__init__()
            self.model, self.value_head = GPT2LMHeadModel(config), torch.nn.Linear(SHAPE.d_model, 1)

        def forward(self, ids, mask, n_prompt, rule):
            out = self.model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
            values = self.value_head(out.hidden_states[-1][:, n_prompt - 1 : -1])[..., 0]  # (B, n)
            return chosen(out.logits, ids, n_prompt), values

    def chosen(logits, ids, n_prompt):
        """Logits (B, T, V) -> log-probabilities (B, n) of the new tokens."""
        scaled = logits[:, n_prompt - 1 : -1] / RULE.temperature
        return scaled.log_softmax(-1).gather(2, ids[:, n_prompt:, None])[..., 0]

    policy, reference = HuggingFacePolicy().eval(), GPT2LMHeadModel(config).eval()
    trunk, head = GPT2Model(config).eval(), torch.nn.Linear(SHAPE.d_model, 1)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-4)
    given = dict(max_new_tokens=N_NEW, do_sample=True, top_k=0, temperature=RULE.temperature, use_cache=True)

    def step(prompts: torch.Tensor, number: int) -> torch.Tensor:
        with torch.no_grad():
            ids = policy.model.generate(prompts, attention_mask=torch.ones_like(prompts), **given)
            mask = torch.ones_like(ids, dtype=torch.bool)
            rollout = Rollout(ids, mask, N_PROMPT, torch.zeros(B, dtype=torch.bool))
            rollout.log_probs, rollout.values = policy(ids, mask, N_PROMPT, RULE)
            logits = reference(ids, attention_mask=mask, use_cache=False).logits
            rollout.reference_log_probs = chosen(logits, ids, N_PROMPT)
            last = trunk(ids, attention_mask=mask, use_cache=False).last_hidden_state[:, -1]
            scores = head(last)[:, 0]
        learn(policy, optimizer, rollout, scores, number)
        return ids

    return step


def main() -> int:
    """Time both in turn and print the ratio."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    steps = {"minilm": ours(), "transformers": hugging_face()}
    if steps["transformers"] is None:
        print("transformers is not installed: left out (pip install -e .[parity])")
        del steps["transformers"]
    times = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        prompts = torch.randint(SHAPE.vocab_size, (B, N_PROMPT))
        for name, step in steps.items():
            start = time.perf_counter()
            ids = step(prompts, number)
            taken = time.perf_counter() - start
            assert ids.shape == (B, N_PROMPT + N_NEW), "not all wrote as much"
            if number:  # the first round warms up
                times[name].append(taken)
    shortest = {name: min(values) for name, values in times.items()}
    for name, taken in shortest.items():
        print(f"{name:14}{taken:8.3f} s a step  {B / taken:8.0f} sequences/s")
    if len(shortest) < 2:
        return 0
    ratio = shortest["transformers"] / shortest["minilm"]
    print(f"minilm is {ratio:.2f} times as fast (at least {TARGET})")
    return int(ratio < TARGET)


if __name__ == "__main__":
    sys.exit(main())
