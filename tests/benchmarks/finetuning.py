"""A training step of fine-tuning at the shape of BERT-base, beside the same model in transformers.

    python tests/benchmarks/finetuning.py

Both have random weights and the same shape, batch, dropout, clipping and fused AdamW. They take turns, and
the shortest step of each counts: the one that other programs disturbed least. Exit status 1 where ours is
slower. What makes the difference is the last block: the head reads [CLS] alone, so ours computes that alone.
"""

import sys
import time

import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from minilm.finetuning.heads import Head, put_head_on
from minilm.finetuning.settings import FinetuningSettings
from minilm.finetuning.tasks import LabelledRows
from minilm.model.config import PRESETS
from minilm.model.transformer import build
from minilm.tokenizer.rows import RaggedRows
from minilm.training.loop import BETAS, make_optimizer, train_step

N_ROW, LENGTH, N_CLASS, N_TURN = 4, 64, 3, 12


class SameBatch:
    """One batch for every step, and the loss of `Classification`."""

    update = None  # its step is that of the loop

    def __init__(self):
        ids = torch.randint(1000, 30000, (N_ROW, LENGTH)).tolist()
        texts = RaggedRows(ids, n_first=[LENGTH] * N_ROW)
        self.rows = LabelledRows(texts, torch.arange(N_ROW) % N_CLASS)

    def batch(self, step, split):
        return self.rows.batch(range(N_ROW))

    def loss(self, model, batch):
        loss = torch.nn.functional.cross_entropy(model.output(batch), batch["labels"])
        return loss, dict(loss=loss)


def ours(objective: SameBatch):
    """Return a function that takes one step of ours."""
    config = PRESETS["bert-base"]
    model = put_head_on(build(config), Head(config, N_CLASS, "text")).train()
    settings = FinetuningSettings(steps=100, batch_size=N_ROW, lr=3e-5, warmup=10, schedule="linear")
    optimizer = make_optimizer(model, 0.01)
    return lambda: train_step(model, objective, optimizer, settings, 0)


def theirs(objective: SameBatch):
    """Return a function that takes one step of transformers' model."""
    logging.set_verbosity_error()
    model = BertForSequenceClassification(BertConfig(num_labels=N_CLASS)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.01, betas=BETAS, fused=True)

    def step():
        batch = objective.batch(0, "train")
        names = ("input_ids", "attention_mask", "token_type_ids", "labels")
        model(**{name: batch[name] for name in names}).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> int:
    """Print the seconds of a step on both sides, and their ratio."""
    torch.manual_seed(0)
    objective = SameBatch()
    steps = {"ours": ours(objective), "transformers": theirs(objective)}
    best = dict.fromkeys(steps, float("inf"))
    for turn in range(N_TURN + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:  # the first one makes the optimiser's state
                best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        print(f"{name:13s} {seconds:.3f} s a step of {N_ROW} x {LENGTH} tokens")
    ratio = best["ours"] / best["transformers"]
    print(f"ours takes {ratio:.2f} of the time of transformers (at most 1)")
    return int(ratio > 1)


if __name__ == "__main__":
    sys.exit(main())
