"""Measures what making a batch costs beside the training step that uses it, at the default recipes.

    python tests/benchmarks/batches.py

Two threads, the embedded world. Batches and steps take turns, and the fastest of each are compared, so that a
busy machine does not decide. Exit status 1 where making a batch takes more than 5 % of the whole.
"""

import sys
import tempfile
import time

import torch

from minilm.checkpoint import save
from minilm.pretraining.noise import NOISES
from minilm.pretraining.run import KINDS, Pretraining, PretrainingSettings, with_recipe
from minilm.training.loop import make_optimizer, train_step

ROUNDS = 60
TARGET = 0.05
COMMANDS = {
    "causal": dict(objective="causal"),
    "masked": dict(objective="masked"),
    "masked, --no-next-sentence": dict(objective="masked", next_sentence=False),
    "masked, --whole-word": dict(objective="masked", whole_word=True),
    "denoising": dict(objective="denoising"),
    "denoising, all five noises": dict(objective="denoising", noise=",".join(NOISES)),
    "translation": dict(objective="translation"),
    "distillation": dict(objective="distillation"),
}


class Prepared:
    """An objective whose batch is made already, so that a step is timed without it."""

    update = None

    def __init__(self, objective, batch):
        self.loss = objective.loss
        self.batch = lambda step, split: batch


def measure(command: dict, teacher: str) -> tuple[float, float]:
    """Return the fewest seconds of making a batch, and of a training step without making it."""
    settings = with_recipe(PretrainingSettings(**command, device="cpu", teacher=teacher))
    run = KINDS.get(settings.objective, Pretraining)(settings)
    corpus = run.texts()
    model, tokenizer = run.start(corpus)
    objective = run.objective(corpus, tokenizer)
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


def random_teacher(folder: str) -> str:
    """Save a teacher with random weights, which costs what a trained one costs, and return its folder."""
    run = Pretraining(with_recipe(PretrainingSettings(objective="masked")))
    save(*run.start(run.texts()), folder)
    return folder


def main() -> int:
    """Measure each objective and print the ratios."""
    torch.set_num_threads(2)
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        teacher = random_teacher(folder)
        for name, command in COMMANDS.items():
            batch, step = measure(command, teacher)
            share = batch / (batch + step)
            missed |= share > TARGET
            times = f"batch {1000 * batch:6.2f} ms  step {1000 * step:6.1f} ms"
            print(f"{name:28}{times}  batches take {share:.1%} of the time (at most {TARGET:.0%})")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
