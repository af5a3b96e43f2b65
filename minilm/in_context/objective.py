"""GPT on few-shot documents: the causal objective, with its ability to read examples measured on the way.

`train.py --data world:few-shot` uses it. Training is that of `causal.py` to the bit; each evaluation also
asks the questions of `questions.py`, so that the log shows at which step the ability appears.
"""

import numpy as np
import torch
from torch import Tensor

from ..pretraining.causal import Causal
from .prompts import answers
from .questions import FORMAT, PROBE_SHOTS, TASKS, questions

N_PROBE = 100  # questions of each task


class InContext(Causal):
    """The causal objective; validation metrics also have the accuracy of each task of `in_context.TASKS`."""

    def __init__(self, corpus, tokenizer, context: int, batch_size: int, seed: int = 0):
        super().__init__(corpus, tokenizer, context, batch_size, seed)
        asked = {task: questions(task, PROBE_SHOTS, N_PROBE, seed) for task in TASKS}
        self.questions = [question for of_task in asked.values() for question in of_task]
        self.task_of = [task for task, of_task in asked.items() for _ in of_task]

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """As `Causal.batch`; a validation row (N,) also carries the question that is asked with it, or -1."""
        batch = super().batch(step, split)
        if split == "train":
            return batch
        n_row = len(batch["input_ids"])
        # each row of probes (N, P) has every N-th question: a part of the batch asks its own
        probes = np.full((n_row, -(-len(self.questions) // n_row)), -1)
        probes.T.flat[: len(self.questions)] = np.arange(len(self.questions))
        return batch | dict(probes=torch.from_numpy(probes))

    def loss(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Causal.loss`; the accuracies are shares of all questions, so that parts of a batch add up."""
        loss, metrics = super().loss(model, batch)
        if "probes" in batch:
            metrics |= self.probe(model, batch["probes"][batch["probes"] >= 0].tolist())
        return loss, metrics

    def probe(self, model, asked: list[int]) -> dict[str, Tensor]:
        """Return for each task how many of the questions number `asked` are right, as a share of all."""
        right = dict.fromkeys(TASKS, 0.0)
        if asked:
            given = answers(model, self.tokenizer, FORMAT, [self.questions[i] for i in asked])
            for i, answer in zip(asked, given, strict=True):
                right[self.task_of[i]] += (answer == self.questions[i].label) / N_PROBE
        return {task: torch.tensor(share) for task, share in right.items()}
