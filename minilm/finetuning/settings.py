"""The flags of fine-tuning, and what they are where they are not given: one row a task."""

from dataclasses import dataclass
from typing import Literal

from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..pretraining.recipes import LARGE, filled_in
from ..training.loop import TrainingSettings
from .moving import n_last
from .registry import TASKS

ON_PAIRS = ("pair", "similarity")  # tasks on two texts
WITH_CLASSES = ("classification", "pair")


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings(TrainingSettings):
    """What is learnt, from which examples, and which weights move."""

    task: Literal[tuple(TASKS)] = "classification"  # what the model has to do
    model: str | None = None  # run folder, Hugging Face folder, or preset (random weights); none: runs/masked
    data: tuple[str, ...] | None = None  # files of examples to learn from; none: the embedded world
    validation: str | None = None  # file of examples to watch while learning; none: a tenth of --data
    test: str | None = None  # file of examples to measure on; none: those that are watched
    predict: str | None = None  # a file without truths: say what the fine-tuned --model thinks of it
    skip_bad: bool = False  # leave out and count examples that are not as they should be
    n_examples: int | None = None  # examples to learn from, drawn by the seed; none: all (of the world a few)
    context: int | None = None  # most tokens a row; none: as in the model's own training
    pairs: Literal["together", "apart"] | None = None  # both texts in one row, or two; none: similarity apart
    tune: str = "all"  # the weights that move: all, head, lora, or last:N blocks with the head
    compare: bool = True  # train again for the closing table: from random weights, the head alone, LoRA
    seeds: tuple[int, ...] | None = None  # runs with other examples and heads: mean and deviation
    lora_rank: int = 8  # rank of what LoRA adds to a matrix
    lora_alpha: float = 16.0  # LoRA adds alpha / rank times its product
    lora_targets: tuple[str, ...] = ("q", "v")  # matrices that LoRA adds to: q, k, v, out, up, down
    layer_decay: float = 1.0  # each block learns at this times the rate of the one above it
    unfreeze_every: int = 0  # steps after which one block more begins to move, from the top (0: all at once)
    patience: int = 0  # stop after so many evaluations without a lower loss, keep the best (0: all steps)
    class_weights: bool = False  # rare classes count as much as frequent ones

    def __post_init__(self):
        super().__post_init__()
        n_last(self.tune)
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--layer-decay {self.layer_decay}: must be above 0 and at most 1")
        self.check_least(dict(unfreeze_every=0, patience=0, n_examples=1, context=3))
        if self.class_weights and self.task not in WITH_CLASSES:
            raise UserError(f"--class-weights: --task {self.task} has no classes")
        if self.pairs and self.task not in ON_PAIRS:
            raise UserError(f"--pairs {self.pairs}: --task {self.task} does not compare two texts")
        if self.seeds and min(self.seeds) < 0:
            raise UserError(f"--seeds {min(self.seeds)}: must be 0 or more")


# Of our small models on the world: measured on two CPU cores (README).
WORLD = {
    "classification": dict(n_examples=24, steps=100, batch_size=24, n_run=10),
    "pair": dict(n_examples=300, steps=300, batch_size=32),
    "similarity": dict(n_examples=3000, steps=1000, batch_size=32, rate=3e-3),
    "tagging": dict(n_examples=200, steps=200, batch_size=32),
    "span": dict(n_examples=1500, steps=500, batch_size=32),
    "text-to-text": dict(n_examples=3000, steps=200, batch_size=32),
}
# A small model learns at such a rate; a published one at that of Devlin et al. 2019, appendix A.3. What is
# new, a head or LoRA's matrices, has far to go and needs more.
SMALL, PUBLISHED = 1e-3, 3e-5
RATES = {"all": 1, "last": 1, "head": 10, "lora": 5}
EPOCHS = 4  # of a user's examples; Devlin et al. 2019: 2 to 4


def rate_of(settings: FinetuningSettings, config: ModelConfig) -> float:
    """Return the highest learning rate for a way to tune a model of this width."""
    small = WORLD[settings.task].get("rate", SMALL)
    return (small if config.d_model < LARGE else PUBLISHED) * RATES[settings.tune.partition(":")[0]]


def default_seeds(settings: FinetuningSettings) -> tuple[int, ...]:
    """Return the seeds of the runs: one, or ten where the world gives so few examples that luck decides."""
    n = WORLD[settings.task].get("n_run", 1) if settings.data is None else 1
    return tuple(settings.seed * n + i for i in range(n))


def with_recipe(settings: FinetuningSettings, n_example: int) -> FinetuningSettings:
    """Return the settings with every field of the recipe filled in that is none.

    `n_example`: examples to learn from, which give the steps where they are the user's. `lr` stays none
    where it was not given: each way to tune has its own (`rate_of`).
    """
    recipe = dict(batch_size=32, schedule="linear", weight_decay=0.01)
    recipe |= WORLD[settings.task] if settings.data is None else {}
    n_row = settings.batch_size or recipe["batch_size"]
    recipe.setdefault("steps", max(100, -(-EPOCHS * n_example // n_row)))
    recipe["warmup"] = (settings.steps or recipe["steps"]) // 10
    return filled_in(settings, recipe)
