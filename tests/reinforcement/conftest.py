"""What the tests of regime 5 share: tiny policies, pairs with a plain preference, a task."""

import random

import pytest
import small
import torch

from minilm.model.config import ModelConfig
from minilm.model.sampling import SamplingRule
from minilm.model.transformer import build
from minilm.reinforcement.loop import Task
from minilm.reinforcement.preferences import Preferences, encode_prompts
from minilm.reinforcement.rollout import Policy, Rollout, draw_answers, frozen_copy, score_answers
from minilm.reinforcement.settings import ReinforceSettings
from minilm.tokenizer.rows import END

PROMPTS = ["Ana likes", "Rui", "The old baker found two red", "Ana sells a lamp. The", "Rui found bread on"]


def tiny_gpt(seed: int = 0, **changes):
    """Return a decoder of 64 positions for the small tokenizer."""
    torch.manual_seed(seed)
    sizes = dict(vocab_size=small.tokenizer().vocab_size, d_model=12, n_head=3, d_ff=20, n_decoder_layer=1)
    rest = dict(max_positions=64, final_norm=True, dropout=0.0, attention_dropout=0.0)
    return build(ModelConfig(**sizes | rest | changes))


def plain_pairs(n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Return pairs in which the answer about bread is preferred to the one about a lamp."""
    draw = random.Random(seed)
    names = ["Ana", "Rui", "The old baker", "Ana and Rui"]
    return [
        (
            f"{draw.choice(names)} {draw.choice(['sells', 'found', 'likes'])}",
            "bread" + draw.choice([".", " on Monday."]),
            "a lamp" + draw.choice([".", " on Monday."]),
        )
        for _ in range(n)
    ]


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
def preferences():
    """Pairs and prompts; the judge likes a text that has "e"."""
    other = ["Ana likes bread. Ana", "Two red pens"]
    judge = lambda text: "e" in text
    return Preferences("plain", plain_pairs(40), plain_pairs(9, seed=1), PROMPTS, other, judge)


@pytest.fixture
def rule():
    return SamplingRule(eos_id=small.tokenizer().special_id(END), temperature=0.8)


@pytest.fixture
def settings():
    """Settings of a short run; call it with what is to differ."""

    def make(**changes) -> ReinforceSettings:
        short = dict(
            steps=4, batch_size=6, max_new_tokens=7, log_every=2, save_every=2, lr=3e-3, device="cpu"
        )
        short |= dict(warmup=0, reward_steps=3, reward_batch_size=4, dpo_steps=3, n_pairs=20)
        return ReinforceSettings(**short | changes)

    return make


def mean_id(rollout: Rollout, texts) -> torch.Tensor:
    """A reward without a model: the mean id of the new tokens, in hundreds."""
    return (rollout.ids * rollout.mask)[:, rollout.n_prompt :].sum(1) / rollout.lengths.clamp(min=1) / 100


@pytest.fixture
def task(gpt, preferences, rule):
    tokenizer = small.tokenizer()
    prompts, test = (
        encode_prompts(tokenizer, texts, gpt.config, 7)
        for texts in (preferences.prompts, preferences.test_prompts)
    )
    return Task(preferences, tokenizer, frozen_copy(gpt), rule, prompts, test, mean_id)


@pytest.fixture
def rollout(gpt, task, rule):
    """Scored answers of unequal lengths, by a policy that has left the reference.

    Row 2 came to an end; the others did not.
    """
    policy = Policy(gpt, zero_value_head=False).eval()
    for parameter in gpt.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    found = draw_answers(gpt, task.prompts, rule, 7, seed=3)
    n = found.ids.shape[1] - found.n_prompt
    for row, length in enumerate([n, 3, 5, 1, 4]):
        found.mask[row, found.n_prompt + length :] = False
    found.ended = torch.tensor([False, False, True, False, False])
    return score_answers(found, policy, task.reference, rule)
