"""The default questions of regime 6: only the prompt tells the model their labels.

Three kinds of question on the documents of `world.few_shot`, each asked after k examples:

    new_pairings    which label has this thing's place? place and label were never together in training
    nonce_keys      which label had this key before? the key is no word and had every label in training
    story_items     as new_pairings, for a thing that training has only in stories

`train.py --objective causal --data world:few-shot` asks them too: the log shows when the ability appears.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..pretraining.causal import Causal
from ..pretraining.run import Pretraining, PretrainingSettings
from ..world import LABEL_WORDS, N_PAIRS, few_shot_pairs
from .prompts import PromptFormat, Question
from .scores import answers

_TABLE = (  # task, kind and items for `few_shot_pairs`, name in the tables
    ("new_pairings", "category", "known", "category, pairing never seen in training"),
    ("nonce_keys", "lookup", "nonce", "lookup, key that is no word"),
    ("story_items", "category", "stories", "category, thing known from stories only"),
)
TASKS = {task: dict(kind=kind, items=items) for task, kind, items, _ in _TABLE}
NAMES = {task: name for task, *_, name in _TABLE}
CHANCE = 1 / len(LABEL_WORDS)
FORMAT = PromptFormat({label: label for label in LABEL_WORDS}, template=" {text} {label}", separator="")
PROBE_SHOTS = N_PAIRS - 1
N_PROBE = 100  # questions of each task, asked at each evaluation
TEST_SEED = 2_000_003  # added to the seed, so that no question is a training document


def questions(task: str, k: int, n: int, seed: int, start: int = 0) -> list[Question]:
    """Return the questions start to start + n - 1 of a task, each after k examples of its own."""
    how = dict(split="test", n_pairs=k + 1, **TASKS[task])
    documents = (few_shot_pairs(seed + TEST_SEED, index, **how) for index in range(start, start + n))
    return [Question(tuple(pairs[:-1]), *pairs[-1]) for pairs in documents]


class InContext(Causal):
    """GPT on few-shot documents: training is exactly that of `causal.py`; validation also asks questions."""

    def __init__(self, corpus, tokenizer, context: int, batch_size: int, seed: int = 0):
        super().__init__(corpus, tokenizer, context, batch_size, seed)
        self.asked = [(task, q) for task in TASKS for q in questions(task, PROBE_SHOTS, N_PROBE, seed)]

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return `Causal.batch`; in validation also `probes`: each row's question numbers, padded with -1."""
        batch = super().batch(step, split)
        if split == "train":
            return batch
        n_row = len(batch["input_ids"])
        # Row i of N has the questions i, i + N, i + 2 N ..., so each part of the batch asks its own.
        number = np.arange(n_row * int(np.ceil(len(self.asked) / n_row))).reshape(-1, n_row).T  # (N, P)
        return batch | dict(probes=torch.from_numpy(np.where(number < len(self.asked), number, -1)))

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `Causal.loss`; for validation also the share of right answers to each task's questions."""
        loss, metrics = super().loss(model, batch)
        if "probes" not in batch:
            return loss, metrics
        right = dict.fromkeys(TASKS, 0.0)
        asked = [self.asked[i] for i in batch["probes"][batch["probes"] >= 0].tolist()]
        given = answers(model, self.tokenizer, FORMAT, [q for _, q in asked]) if asked else []
        for (task, question), answer in zip(asked, given, strict=True):
            right[task] += (answer == question.label) / N_PROBE  # shares, so that parts of a batch add up
        return loss, metrics | {task: loss.new_tensor(share) for task, share in right.items()}


class FewShot(Pretraining):
    """The pre-training of such a GPT, from which `prompt.py` starts."""

    defaults: ClassVar[dict] = dict(objective="causal", model="gpt-alibi-tiny")

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        super().__init__(settings, overrides)
        self.name, self.then = "in-context", "python prompt.py --model {run}"
        self.row = self.row._replace(objective=InContext)

    def closing(self, objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
        """Return what `Pretraining.closing` does, with a further row for each task."""
        [(rows, header)], results, examples = super().closing(objective, model, before, after)
        rows += [(name, before[task], after[task], CHANCE, "chance") for task, name in NAMES.items()]
        return [(rows, header)], results, examples
