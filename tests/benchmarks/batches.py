"""What making a batch costs beside the training step that uses it, at the default recipes on the world."""

import tempfile
from functools import partial
from itertools import count

from benchmarks.case import OURS, STEP, Case
from benchmarks.steps import our_step

from minilm.checkpoint import save
from minilm.pretraining.noise import NOISES
from minilm.pretraining.run import Distilling, Pretraining, PretrainingSettings, with_recipe


def batch_making(**command) -> Case:
    """The batches of a default command, given by its flags: a new one each turn, and steps on the first."""
    with tempfile.TemporaryDirectory() as folder:
        if command["objective"] == "distillation":  # a teacher with random weights costs what another costs
            run = Pretraining(with_recipe(PretrainingSettings(objective="masked")))
            save(*run.start(run.texts()), folder)
            command["teacher"] = folder
        settings = with_recipe(PretrainingSettings(**command, device="cpu"))
        run = (Distilling if settings.teacher else Pretraining)(settings)
        corpus = run.texts()
        model, tokenizer = run.start(corpus)
        objective = run.objective(corpus, tokenizer)
    numbers = count()
    sides = {OURS: lambda: objective.batch(next(numbers), "train")}
    sides[STEP] = our_step(model, objective.loss, objective.batch(0, "train"))
    return Case(sides, {STEP: 0.05}, work=(settings.batch_size, "rows"))


COMMANDS = {
    "batch-causal": dict(objective="causal"),
    "batch-masked": dict(objective="masked"),
    "batch-no-next-sentence": dict(objective="masked", next_sentence=False),
    "batch-whole-word": dict(objective="masked", whole_word=True),
    "batch-denoising": dict(objective="denoising"),
    "batch-all-noises": dict(objective="denoising", noise=",".join(NOISES)),
    "batch-translation": dict(objective="translation"),
    "batch-distillation": dict(objective="distillation"),
}
CASES = {name: partial(batch_making, **command) for name, command in COMMANDS.items()}
