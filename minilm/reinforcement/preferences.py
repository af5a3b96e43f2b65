"""Preferences as rows of ids: which of two answers to a prompt is preferred.

A row looks as it did in pre-training: <|endoftext|> prompt answer <|endoftext|>, one space between prompt and
answer. Reward model and DPO learn from the same rows; PPO needs only prompts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import world
from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..plumbing.script import with_bar
from ..texts.corpus import VALIDATION_SEED, split_by_hash
from ..texts.files import kind, read_lines
from ..texts.tables import read_table
from ..tokenizer.rows import RaggedRows, prompt_ids
from ..training.objective import Objective, tensors
from .rollout import Environment, draw_answers

HELD_OUT_PAIRS, TRAIN_PROMPTS, TEST_PROMPTS = 1000, 3000, 1000  # of the embedded world
PROMPTS_AT_ONCE = 64  # prompts whose answers are drawn in one batch
Pair = tuple[str, str, str]  # prompt, chosen, rejected


@dataclass
class Preferences:
    """The data that a run is trained on and tested on; no pair is in both."""

    name: str
    pairs: list[Pair]
    held_out_pairs: list[Pair]
    prompts: list[str]
    test_prompts: list[str]
    judge: Callable[[str], bool] | None = None  # the true preference for a whole text, if it is known
    own_held_out_pairs: list[Pair] = field(default_factory=list)  # of the policy's own answers


def load_preferences(preferences, prompts, n_pairs: int, seed: int, needs_pairs: bool = True) -> Preferences:
    """Return the pairs and prompts of the user's files; without files, those of the embedded world.

    Without a file of prompts (.txt, one a line, or a table with `prompt`), the prompts of the pairs are used.
    A tenth of them is held out, with all their pairs. UserError for a bad file, a tie, or too few prompts.
    """
    if not preferences and not prompts:
        return world_preferences(n_pairs, seed)
    if needs_pairs and not preferences:
        raise UserError(f"--prompts {prompts}: needs --preferences, --reward or --reward-function too")
    pairs = read_table(preferences, ("prompt", "chosen", "rejected")) if preferences else []
    for number, (_, chosen, rejected) in enumerate(pairs, start=1):
        if chosen == rejected:
            raise UserError(f"{preferences}, pair {number}: chosen and rejected are both {chosen[:40]!r}")
    train, held_out = split_prompts([pair[0] for pair in pairs], preferences) if pairs else ([], [])
    both = [[pair for pair in pairs if pair[0] in part] for part in (set(train), set(held_out))]
    if prompts:
        found = read_lines(prompts) if kind(prompts) == ".txt" else read_table(prompts, ("prompt",))
        train, held_out = split_prompts([row[-1].strip() for row in found], prompts)
        both[0] = [pair for pair in both[0] if pair[0] not in held_out]
        if needs_pairs and not both[0]:
            raise UserError(f"{prompts}: the prompts of all pairs of {preferences} are held out: add pairs")
    return Preferences(preferences or prompts, *both, train, held_out)


def world_preferences(n_pairs: int, seed: int) -> Preferences:
    """Return pairs of the embedded world (`world.preferences`) with the judge that made them."""
    pairs = world.preferences(n_pairs, seed)
    prompts = world.preference_prompts(TRAIN_PROMPTS, seed + 1)
    seen = {prompt for prompt, _, _ in pairs} | set(prompts)
    other_pairs = world.preferences(2 * HELD_OUT_PAIRS, seed + VALIDATION_SEED)
    other_prompts = world.preference_prompts(2 * TEST_PROMPTS, seed + VALIDATION_SEED + 1)
    held_out = [pair for pair in other_pairs if pair[0] not in seen][:HELD_OUT_PAIRS]
    test = [prompt for prompt in other_prompts if prompt not in seen][:TEST_PROMPTS]
    return Preferences("world", pairs, held_out, prompts, test, world.judge)


def split_prompts(prompts: list[str], path: str) -> tuple[list[str], list[str]]:
    """Return (train, held out), each prompt once; UserError for fewer than two."""
    train, held_out = split_by_hash(dict.fromkeys(filter(None, prompts)))
    if not train:
        raise UserError(f"{path}: expected two different prompts or more, of which one is held out")
    return train, held_out


def encode_prompts(tokenizer, prompts: list[str], config: ModelConfig, max_new_tokens: int) -> list[list]:
    """Return the ids of each prompt; UserError if one leaves no room for the answer."""
    rows = [prompt_ids(tokenizer, config, prompt) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) + max_new_tokens > config.max_positions:
            room = f"leaves no room for --max-new-tokens {max_new_tokens} in {config.max_positions} positions"
            raise UserError(f"the prompt {prompt[:40]!r} ({len(row)} tokens) {room}: shorten one of the two")
    return rows


class PairObjective(Objective):
    """The chosen answer should get the higher reward; `reward.py` and `dpo.py` define `rewards`, (B, 2)."""

    def __init__(self, preferences: Preferences, env: Environment, batch_size: int, seed: int = 0):
        super().__init__(env.tokenizer, env.reference.config.max_positions, batch_size, seed)
        self.reference, self.end = env.reference, env.rule.eos_id
        both = dict(train=preferences.pairs, validation=preferences.held_out_pairs)
        self.rows = {split: self.encode(pairs) for split, pairs in both.items()}

    def encode(self, pairs: list[Pair]) -> tuple[RaggedRows, np.ndarray]:
        """Return the whole texts of N pairs as 2 N rows, chosen first, and their prompts' lengths (N,)."""
        texts, n_prompt = [], []
        for prompt, *answers in pairs:
            given = prompt_ids(self.tokenizer, self.reference.config, prompt)
            ids = [self.tokenizer.encode(" " + answer, allow_special=False) for answer in answers]
            texts += [[*given, *answer, self.end] for answer in ids]
            n_prompt.append(len(given))
            if (longest := max(map(len, texts[-2:]))) > self.context:
                what = f"has {longest} tokens, but the model has {self.context} positions"
                raise UserError(f"the pair of the prompt {prompt[:40]!r} {what}: shorten it or leave it out")
        return RaggedRows(texts, self.end), np.array(n_prompt)

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return input_ids and attention_mask (B, 2, T), n_prompt (B,) and the number of pairs, n_pair."""
        rows, n_prompt = self.rows[split]
        n, rng = len(n_prompt), self.generator(step, split)
        chosen = rng.integers(0, n, self.batch_size) if split == "train" else np.arange(n)
        ids, real = rows.padded(2 * chosen[:, None] + np.arange(2))  # (B, 2, T): pair i is rows 2 i, 2 i + 1
        return tensors(dict(input_ids=ids, attention_mask=real, n_prompt=n_prompt[chosen], n_pair=len(ids)))

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over the pairs of -log sigmoid(r(chosen) - r(rejected)), in nats.

        `self.rewards(model, batch)` gives r, (B, 2), chosen first. The sigmoid is the probability that the
        chosen answer is preferred (Bradley and Terry 1952). Metrics: `loss`, `accuracy` (share of pairs with
        r(chosen) > r(rejected)), `margin` (mean of their difference), `chosen_reward` (mean r(chosen)).
        """
        # No dropout, so that both answers and DPO's reference are read alike; DPO begins at exactly log 2.
        rewards, n = self.rewards(model.eval(), batch), batch["n_pair"]  # (B, 2)
        chosen, margin = rewards[:, 0], rewards[:, 0] - rewards[:, 1]  # (B,) each
        each = dict(loss=-F.logsigmoid(margin), accuracy=margin > 0, margin=margin, chosen_reward=chosen)
        metrics = {name: value.sum() / n for name, value in each.items()}  # so that parts of a batch add up
        return metrics["loss"], metrics


def sampled_pairs(model, env: Environment, prompts: list[str], n_answer: int, seed: int, temperature) -> list:
    """Return pairs of a model's own answers, `n_answer` drawn for each prompt; the judge ranks them.

    Without a judge, an answer is better if its `env.reward` is above the mean for its prompt. Why own answers
    (Ziegler et al. 2019, section 2; Stiennon et al. 2020, 3.1): a reward model that never saw a mistake would
    not know grammar. Each answer is in at most one pair; ties and answers without an end are left out.
    """
    env, pairs = replace(env, rule=replace(env.rule, temperature=temperature)), []
    rows = encode_prompts(env.tokenizer, prompts, model.config, env.max_new_tokens)
    for start in with_bar(range(0, len(rows), PROMPTS_AT_ONCE), "pairs"):
        batch = [row for row in rows[start : start + PROMPTS_AT_ONCE] for _ in range(n_answer)]
        rollout = draw_answers(model, env, batch, seed + start)
        # as they will be in a pair: one space after the prompt
        texts = [(prompt, " " + answer.strip()) for prompt, answer in env.texts(rollout)]
        judged, ended = env.judged(texts), rollout.ended.tolist()
        scores = env.reward.scores(rollout, texts) if judged is None else torch.tensor(judged).float()  # (B,)
        groups = scores.view(-1, n_answer)  # (prompts, n_answer)
        better = (groups > groups.mean(1, keepdim=True)).flatten().tolist()  # (B,); none if all are equal
        for i, prompt in enumerate(prompts[start : start + PROMPTS_AT_ONCE]):
            liked, others = {}, {}  # answers in the order of drawing, each once
            for j in range(i * n_answer, (i + 1) * n_answer):
                if ended[j] and (answer := texts[j][1].strip()):
                    (liked if better[j] else others)[answer] = None
            pairs += [(prompt, good, bad) for good, bad in zip(liked, others, strict=False)]
    return pairs
