"""What the tests of regime 5 share: tiny policies, pairs with a plain preference, an environment, a run."""

import copy
import random

import pytest
import small
import torch

from minilm.checkpoint import save
from minilm.model.config import ModelConfig
from minilm.model.sampling import SamplingRule
from minilm.model.transformer import build
from minilm.reinforcement import run
from minilm.reinforcement.preferences import Preferences, encode_prompts
from minilm.reinforcement.rollout import Environment, Policy, Rollout, draw_answers, score_answers
from minilm.reinforcement.settings import ReinforceSettings
from minilm.tokenizer.rows import END

PROMPTS = ["Ana likes", "Rui", "The old baker found two red", "Ana sells a lamp. The", "Rui found bread on"]


def tiny_gpt(seed: int = 0, **changes):
    """Return a decoder of 64 positions for the small tokenizer."""
    torch.manual_seed(seed)
    sizes = dict(vocab_size=small.tokenizer().vocab_size, d_model=12, n_head=3, d_ff=20, n_decoder_layer=1)
    rest = dict(max_positions=64, final_norm=True, dropout=0.0, attention_dropout=0.0)
    return build(ModelConfig(**sizes | rest | changes))


def move(model, size: float = 0.05) -> None:
    """Change the weights of a model."""
    for parameter in model.parameters():
        parameter.data += size * torch.randn_like(parameter)


def plain_pairs(n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Return pairs in which the answer about bread is preferred to the one about a lamp."""
    draw, ends = random.Random(seed), [".", " on Monday."]
    names, verbs = ["Ana", "Rui", "The old baker", "Ana and Rui"], ["sells", "found", "likes"]
    prompts = (f"{draw.choice(names)} {draw.choice(verbs)}" for _ in range(n))
    return [(prompt, "bread" + draw.choice(ends), "a lamp" + draw.choice(ends)) for prompt in prompts]


class MeanId:
    """A reward without a model: the mean id of the new tokens, in hundreds."""

    def scores(self, rollout: Rollout, texts) -> torch.Tensor:
        new = (rollout.ids * rollout.mask)[:, rollout.n_prompt :]
        return new.sum(1) / rollout.lengths.clamp(min=1) / 100


@pytest.fixture
def gpt():
    return tiny_gpt()


@pytest.fixture
def make_gpt():
    return tiny_gpt


@pytest.fixture
def pairs():
    return plain_pairs


@pytest.fixture
def moved(gpt):
    """A policy whose weights have moved away from `gpt`."""
    policy = copy.deepcopy(gpt)
    move(policy)
    return policy


@pytest.fixture
def preferences():
    """Pairs and prompts; the judge likes a text that has "e"."""
    other, judge = ["Ana likes bread. Ana", "Two red pens"], lambda text: "e" in text
    return Preferences("plain", plain_pairs(40), plain_pairs(9, seed=1), PROMPTS, other, judge)


@pytest.fixture
def rule():
    return SamplingRule(eos_id=small.tokenizer().special_id(END), temperature=0.8)


@pytest.fixture
def settings():
    """Settings of a short run; call it with what is to differ."""

    def make(**changes) -> ReinforceSettings:
        short = dict(steps=4, batch_size=6, max_new_tokens=7, log_every=2, save_every=2, lr=3e-3, warmup=0)
        without_ppo = {"prompts", "preferences", "reward", "rounds"} & set(changes)
        if changes.get("algorithm") == "dpo" and without_ppo:
            short = dict(max_new_tokens=7, log_every=2, save_every=2)  # PPO's flags would be refused
        short |= dict(reward_batch_size=4, device="cpu")
        alone = not changes.get("contrast", True) or {"ablate", "reward_function"} & set(changes)
        short |= {} if alone and changes.get("algorithm") != "dpo" else dict(dpo_steps=3)
        if not {"reward", "reward_function"} & set(changes):  # one that is given is not trained
            short["reward_steps"] = 3
        return ReinforceSettings(**short | changes)

    return make


@pytest.fixture
def env(gpt, preferences, rule):
    both = preferences.prompts, preferences.test_prompts
    prompts = (encode_prompts(small.tokenizer(), texts, gpt.config, 7) for texts in both)
    reference = copy.deepcopy(gpt).requires_grad_(False)
    return Environment(small.tokenizer(), reference, rule, 7, *prompts, preferences.judge, MeanId())


@pytest.fixture
def rollout(gpt, env):
    """Scored answers of unequal lengths, by a policy that has moved away from the reference.

    Row 2 came to an end; the others did not.
    """
    policy = Policy(gpt, zero_value_head=False)
    move(gpt, 0.02)
    found = draw_answers(gpt, env, env.prompts, seed=3)
    n = found.ids.shape[1] - found.n_prompt
    for row, length in enumerate([n, 3, 5, 1, 4]):
        found.mask[row, found.n_prompt + length :] = False
    found.ended = torch.tensor([False, False, True, False, False])
    return score_answers(found, policy, env)


@pytest.fixture
def reinforcement(gpt, preferences, settings, tmp_path, monkeypatch):
    """A function that makes a run on the plain preferences, in a folder of its own."""
    save(gpt, small.tokenizer(), tmp_path / "gpt")
    monkeypatch.setattr(run, "load_preferences", lambda *_: copy.deepcopy(preferences))

    def make(folder: str = "run", **changes) -> run.Reinforcement:
        made = run.Reinforcement(settings(model=str(tmp_path / "gpt"), **changes))
        made.folder = tmp_path / folder
        made.folder.mkdir(exist_ok=True)
        made.env.reward = MeanId()
        return made

    return make
