"""Preferences -> rows of ids: which of two answers to a prompt somebody liked better.

A row looks as it did in pre-training: <|endoftext|> prompt answer <|endoftext|>, one space between prompt and
answer. Reward model and DPO learn from the same rows; PPO needs prompts alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import world
from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..texts.corpus import split_by_hash
from ..texts.files import kind, read_jsonl, read_text, string_field
from ..texts.tables import read_table
from ..tokenizer.rows import END, prompt_ids
from ..training.objective import Objective

HELD_OUT_PAIRS, TRAIN_PROMPTS, TEST_PROMPTS = 1000, 3000, 1000  # of the embedded world
HELD_OUT_SEED = 1_000_003  # added to the seed for what nothing is trained on
Pair = tuple[str, str, str]  # prompt, chosen, rejected


@dataclass
class Preferences:
    """What a run learns from, and what it is measured on; no prompt is in both."""

    name: str
    pairs: list[Pair]
    held_out_pairs: list[Pair]
    prompts: list[str]
    test_prompts: list[str]
    judge: Callable[[str], bool] | None = None  # the true preference on whole texts, where it is known
    own_held_out_pairs: list[Pair] = field(default_factory=list)  # of answers that the policy wrote itself

    def summary(self) -> str:
        """Return one line: how many pairs and prompts there are."""
        return (
            f"{self.name}: {len(self.pairs):,} pairs and {len(self.held_out_pairs):,} held-out ones, "
            f"{len(self.prompts):,} prompts and {len(self.test_prompts):,} held-out ones"
        )


def load_preferences(
    preferences: str | None, prompts: str | None, n_pairs: int, seed: int, needs_pairs: bool = True
) -> Preferences:
    """Return the pairs and prompts of the user's files; without any, those of the embedded world.

    Without a file of prompts, the prompts of the pairs serve. About a tenth of the prompts, with all their
    pairs, is held out. `needs_pairs` False lets a file of prompts stand alone.

    Raises:
        UserError: for whatever is wrong in a file, or too little to hold anything out.
    """
    if not preferences and not prompts:
        return world_preferences(n_pairs, seed)
    if needs_pairs and not preferences:
        raise UserError(
            f"--prompts {prompts}: the pairs to learn from are missing; add --preferences FILE, or say what "
            "is good by --reward FOLDER or --reward-function module:function"
        )
    pairs = read_pairs(preferences) if preferences else []
    train, held_out = split_prompts([prompt for prompt, _, _ in pairs], preferences, seed)
    result = Preferences(preferences or prompts, [], [], train, held_out)
    for pair in pairs:
        (result.held_out_pairs if pair[0] in set(held_out) else result.pairs).append(pair)
    if prompts:
        result.prompts, result.test_prompts = split_prompts(read_prompts(prompts), prompts, seed)
    return result


def world_preferences(n_pairs: int, seed: int) -> Preferences:
    """Return pairs of the embedded world (`world.preferences`) with the judge that made them."""
    pairs = world.preferences(n_pairs, seed)
    seen = {prompt for prompt, _, _ in pairs}
    prompts = world.preference_prompts(TRAIN_PROMPTS, seed + 1)
    seen |= set(prompts)
    other_pairs = world.preferences(2 * HELD_OUT_PAIRS, seed + HELD_OUT_SEED)
    other_prompts = world.preference_prompts(2 * TEST_PROMPTS, seed + HELD_OUT_SEED + 1)
    held_out = [pair for pair in other_pairs if pair[0] not in seen][:HELD_OUT_PAIRS]
    test = [prompt for prompt in other_prompts if prompt not in seen][:TEST_PROMPTS]
    return Preferences("world", pairs, held_out, prompts, test, world.judge)


def split_prompts(prompts: list[str], path: str | None, seed: int) -> tuple[list[str], list[str]]:
    """Return (train, held out), each prompt once; UserError where there are fewer than two."""
    if not prompts:
        return [], []
    train, held_out = split_by_hash(dict.fromkeys(prompts), seed)
    if not train:
        raise UserError(f"{path}: one prompt alone; at least two different ones are needed, one to hold out")
    return train, held_out


def read_pairs(path: str | Path) -> list[Pair]:
    """Return the (prompt, chosen, rejected) of a .jsonl, .tsv or .csv file.

    Raises:
        UserError: see `tables.read_table`; and for a pair whose two answers are the same.
    """
    rows, _ = read_table(path, ("prompt", "chosen", "rejected"))
    for number, (prompt, chosen, rejected) in enumerate(rows, start=1):
        if chosen == rejected:
            raise UserError(
                f"{path}, pair {number} ({prompt[:30]!r}): chosen and rejected are both {chosen[:40]!r}; "
                "nothing can be learnt from a tie, leave it out"
            )
    return rows


def read_prompts(path: str | Path) -> list[str]:
    """Return the prompts of a .txt file, one a line, or of a .jsonl file with `prompt`.

    Raises:
        UserError: for an empty prompt, another kind of file, or no prompt at all.
    """
    path = Path(path)
    if kind(path) == ".jsonl":
        found = [(where, string_field(record, "prompt", where).strip()) for where, record in read_jsonl(path)]
    elif kind(path) == ".txt":
        lines = read_text(path).rstrip().split("\n")
        found = [(f"{path}, line {n}", line.strip()) for n, line in enumerate(lines, start=1)]
    else:
        raise UserError(f"{path}: prompts of kind {kind(path) or '(no suffix)'!r}; expected .txt or .jsonl")
    for where, prompt in found:
        if not prompt:
            raise UserError(f"{where}: an empty prompt; give one prompt a line")
    if not found:
        raise UserError(f"{path}: no prompts; give one a line")
    return [prompt for _, prompt in found]


def answer_ids(tokenizer, answer: str) -> list[int]:
    """Return the ids of an answer as it follows its prompt: a space, the answer, <|endoftext|>."""
    return [*tokenizer.encode(" " + answer, allow_special=False), tokenizer.special_id(END)]


def encode_prompts(
    tokenizer, prompts: list[str], config: ModelConfig, max_new_tokens: int
) -> list[list[int]]:
    """Return the ids of each prompt; UserError for one after which the answer does not fit."""
    rows = [prompt_ids(tokenizer, config, prompt) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) + max_new_tokens > config.max_positions:
            raise UserError(
                f"the prompt {prompt[:40]!r} has {len(row)} tokens, which leaves no room for "
                f"--max-new-tokens {max_new_tokens} in the model's {config.max_positions} positions: shorten "
                "one of the two"
            )
    return rows


class PairObjective(Objective):
    """Batches of pairs; what is made of them is the business of the reward model and of DPO."""

    def __init__(
        self,
        preferences: Preferences,
        tokenizer,
        config: ModelConfig,
        batch_size: int,
        seed: int = 0,
    ):
        super().__init__(tokenizer, config.max_positions, batch_size, seed)
        self.config = config
        self.rows = {
            "train": self.padded(preferences.pairs),
            "validation": self.padded(preferences.held_out_pairs),
        }

    def padded(self, pairs: list[Pair]) -> dict[str, np.ndarray]:
        """Return ids (N, 2, T), chosen first, with their lengths (N, 2) and those of the prompts (N,)."""
        prompts = [prompt_ids(self.tokenizer, self.config, prompt) for prompt, _, _ in pairs]
        answers = [[answer_ids(self.tokenizer, answer) for answer in pair[1:]] for pair in pairs]
        lengths = np.array(
            [[len(p) + len(a) for a in two] for p, two in zip(prompts, answers, strict=True)]
        )  # (N, 2)
        if lengths.max() > self.context:
            prompt = pairs[lengths.max(1).argmax()][0]
            raise UserError(
                f"the pair of the prompt {prompt[:40]!r} has {lengths.max()} tokens, but the model has "
                f"{self.context} positions: shorten it or leave it out"
            )
        ids = np.full((len(pairs), 2, lengths.max()), self.tokenizer.special_id(END))
        for i, (prompt, two) in enumerate(zip(prompts, answers, strict=True)):
            for j, answer in enumerate(two):
                ids[i, j, : lengths[i, j]] = prompt + answer
        return dict(ids=ids, lengths=lengths, n_prompt=np.array([len(prompt) for prompt in prompts]))

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return input_ids and attention_mask (B, 2, T), n_prompt (B,) and the number of pairs, n_pair."""
        rows = self.rows[split]
        chosen = np.arange(len(rows["ids"]))
        if split == "train":
            chosen = self.generator(step, split).integers(0, len(chosen), self.batch_size)
        lengths = rows["lengths"][chosen]  # (B, 2)
        T = lengths.max()
        return dict(
            input_ids=torch.from_numpy(rows["ids"][chosen, :, :T]),
            attention_mask=torch.from_numpy(np.arange(T) < lengths[..., None]),
            n_prompt=torch.from_numpy(rows["n_prompt"][chosen]),
            n_pair=torch.tensor(float(len(chosen))),
        )
