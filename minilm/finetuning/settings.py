"""The flags of fine-tuning, their defaults, and which of them go together."""

import re
from dataclasses import dataclass
from typing import Literal

from .. import world
from ..model.config import ModelConfig
from ..plumbing.errors import UserError, suggest
from ..plumbing.script import process_count
from ..training.loop import TrainingSettings
from .classification import Classification, Pair
from .contrastive import Contrastive
from .lora import TARGETS
from .moving import TIMES
from .similarity import Similarity
from .span import Span
from .tagging import Tagging
from .tasks import Task
from .text_to_text import TextToText

_ALL = (Classification, Pair, Similarity, Contrastive, Tagging, Span, TextToText)
TASKS: dict[str, type[Task]] = {task.name: task for task in _ALL}
PAIRS = dict(pair="together", similarity="apart", contrastive="apart")  # default of --pairs
EPOCHS = 4  # over a user's examples; Devlin et al. 2019: 2 to 4


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings(TrainingSettings):
    """The task, its examples, and which weights are trained."""

    task: Literal[tuple(TASKS)] = "classification"  # what the model has to do
    model: str | None = None  # run, Hugging Face folder, preset; none: runs/masked (text-to-text: denoising)
    data: tuple[str, ...] | None = None  # files of examples, or world:portuguese; none: the embedded world
    validation: str | None = None  # file of validation examples; none: a tenth of --data
    test: str | None = None  # file of test examples; none: the validation set (--patience: another tenth)
    predict: str | None = None  # a file of examples without labels: the fine-tuned --model predicts them
    skip_bad: bool = False  # leave out malformed examples, and count them
    n_examples: int | None = None  # training examples to use, drawn by the seed; none: all (world: by recipe)
    context: int | None = None  # longest row, in tokens; none: as in the model's own training
    pairs: Literal["together", "apart"] | None = None  # texts in one row or two; none: apart for similarity
    tune: str = "all"  # weights that are trained: all, head, bias, lora, or last:N (N blocks and the head)
    compare: bool = True  # train again for the closing table: from random weights, the head alone, LoRA
    seeds: tuple[int, ...] | None = None  # one run each, with own examples and head; averaged; none: 1 or 10
    lora_rank: int = 8  # rank of what LoRA adds to a matrix
    lora_alpha: float = 16.0  # LoRA adds alpha / rank times its product
    lora_targets: tuple[Literal[TARGETS], ...] = ("q", "v")  # matrices that LoRA adds to
    layer_decay: float = 1.0  # a block's learning rate is this times that of the block above
    unfreeze_every: int = 0  # steps until one more block is trained, from the top down (0: all at once)
    patience: int = 0  # stop after this many evaluations without a lower loss; keep the best (0: never)

    def __post_init__(self):
        super().__post_init__()
        ways = [way.replace("last", "last:N") for way in TIMES]
        if not re.fullmatch("|".join(ways).replace("N", r"[1-9]\d*"), self.tune):
            raise UserError(f"--tune {self.tune}: expected {', '.join(ways)}{suggest(self.tune, ways)}")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--layer-decay {self.layer_decay}: must be above 0 and at most 1")
        least = dict(unfreeze_every=0, patience=0, n_examples=1, lora_rank=1, seeds=0)
        least["batch_size"] = 1 if TASKS[self.task].has_truth else 2  # contrastive: one other pair
        self.check_least(least | dict(context=TASKS[self.task].least_context))
        self.refuse(self.task not in ("pair", "similarity"), ("pairs",), "needs --task pair or similarity")
        if not (TASKS[self.task].has_truth or self.domain or self.test):
            raise UserError(f"--task {self.task}: needs --test FILE, pairs with a number as label")
        if not TASKS[self.task].has_truth and self.accumulate * process_count() > 1:
            raise UserError(f"--task {self.task}: a batch must stay whole: no --accumulate, one process")
        self.refuse(self.domain and not self.predict, ("test", "validation", "skip_bad"), "needs --data FILE")
        used = {"task", "model", "predict", "skip_bad", "batch_size", "device", "out", "overwrite"}
        self.refuse(self.predict, {*vars(self)} - used, "does not go with --predict")

    @property
    def domain(self) -> str | None:
        """The domain of the embedded world that the examples come from; None: they are the user's own."""
        return world.SOURCES.get(" ".join(self.data or ("world",)))


def check_fit(settings: FinetuningSettings, config: ModelConfig) -> None:
    """Raise UserError if the model cannot do what the settings ask."""
    task, kind = TASKS[settings.task], config.kind
    if kind not in task.kinds:
        possible = ", ".join(name for name, other in TASKS.items() if kind in other.kinds)
        needed = f"--task {task.name} needs a model of kind {' or '.join(task.kinds)}"
        raise UserError(f"{needed}, but {settings.model} is of kind {kind}; it can do --task {possible}")
    if settings.context > config.max_positions:
        raise UserError(f"--context {settings.context} is above the model's {config.max_positions} positions")
    if settings.lora_rank > config.d_model and (settings.compare or settings.tune == "lora"):
        raise UserError(f"--lora-rank {settings.lora_rank} is above the model's width, {config.d_model}")
    if "gate" in settings.lora_targets and not (config.gated or settings.resume):
        raise UserError("--lora-targets gate: the model's blocks have no gate; use q v or up down")
    if settings.tune.startswith("last:") and int(settings.tune[5:]) > config.n_layer:
        raise UserError(f"--tune {settings.tune}: the model has {config.n_layer} blocks")
    if settings.tune == "head" and not task.has_head:
        raise UserError("--tune head: this task has no head of its own; use all, bias, lora or last:N")


def with_recipe(settings: FinetuningSettings, n_example: int) -> FinetuningSettings:
    """Return the settings with all defaults filled in but `lr`, which depends on the way to tune."""
    recipe = dict(batch_size=32, schedule="linear", weight_decay=0.01)
    recipe |= TASKS[settings.task].recipe if settings.domain else {}
    n_row = settings.batch_size or recipe["batch_size"]
    recipe.setdefault("steps", max(100, -(-EPOCHS * n_example // n_row)))
    recipe["warmup"] = (settings.steps or recipe["steps"]) // 10
    return settings.filled_in(recipe)
