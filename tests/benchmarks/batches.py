"""Measures what making a batch costs beside the training step that uses it, at the default recipes.

    python tests/benchmarks/batches.py

Two threads, the embedded world. Batches and steps take turns, and the fastest of each are compared, so that a
busy machine does not decide. Exit status 1 where making a batch takes more than 5 % of the whole.
"""

import sys
import time
from dataclasses import replace

import torch

from minilm.config import preset
from minilm.data import load_corpus
from minilm.models import build
from minilm.pretraining.causal import Causal
from minilm.pretraining.masked import Masked
from minilm.recipes import DEFAULT_MODEL, RECIPES
from minilm.tokenizer import BPE, SPECIAL_TOKENS
from minilm.training import TrainingSettings, make_optimizer, train_step

ROUNDS = 60
TARGET = 0.05
OBJECTIVES = {
    "causal": Causal,
    "masked": Masked,
    "masked, --no-next-sentence": lambda *args: Masked(*args, next_sentence=False),
    "masked, --whole-word": lambda *args: Masked(*args, whole_word=True),
}


class Prepared:
    """An objective whose batch is made already, so that a step is timed without it."""

    def __init__(self, objective, batch):
        self.loss = objective.loss
        self.batch = lambda step, split: batch


def measure(name: str, corpus, tokenizer: BPE) -> tuple[float, float]:
    """Return the fewest seconds of making a batch, and of a training step without making it."""
    model_name = DEFAULT_MODEL[name.split(",")[0]]
    recipe = RECIPES[model_name]
    objective = OBJECTIVES[name](corpus, tokenizer, recipe["context"], recipe["batch_size"])
    config = replace(preset(model_name), vocab_size=len(tokenizer.vocab))
    if not getattr(objective, "next_sentence", True):
        config = replace(config, next_sentence=False, pooler=False, n_segments=0)
    names = ("steps", "batch_size", "lr", "warmup", "schedule", "weight_decay")
    settings = TrainingSettings(**{key: recipe[key] for key in names})
    model = build(config)
    optimizer = make_optimizer(model, settings.weight_decay)
    batches, steps = [], []
    for step in range(ROUNDS):
        start = time.perf_counter()
        batch = objective.batch(step, "train")
        middle = time.perf_counter()
        train_step(model, Prepared(objective, batch), optimizer, settings, step)
        batches.append(middle - start)
        steps.append(time.perf_counter() - middle)
    return min(batches), min(steps)


def main() -> int:
    """Measure each objective and print the ratios."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    corpus = load_corpus("world", n_documents=4000)
    tokenizer = BPE.train(corpus.train, 1024, SPECIAL_TOKENS)
    missed = False
    for name in OBJECTIVES:
        batch, step = measure(name, corpus, tokenizer)
        share = batch / (batch + step)
        missed |= share > TARGET
        times = f"batch {1000 * batch:6.2f} ms  step {1000 * step:6.1f} ms"
        print(f"{name:28}{times}  batches take {share:.1%} of the time (at most {TARGET:.0%})")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
