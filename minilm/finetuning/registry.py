"""The tasks, by the name that --task takes."""

from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from .classification import Classification, Pair
from .similarity import Similarity
from .span import Span
from .tagging import Tagging
from .tasks import Task
from .text_to_text import TextToText

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, Pair, Similarity, Tagging, Span, TextToText)
}


def check_kind(task: str, config: ModelConfig, where: str) -> None:
    """Raise UserError, with what the model can do, where it is of a kind that cannot do the task."""
    if config.kind not in TASKS[task].kinds:
        possible = ", ".join(name for name, entry in TASKS.items() if config.kind in entry.kinds)
        needed = " or ".join(TASKS[task].kinds)
        raise UserError(
            f"--task {task} needs a model of kind {needed}, and {where} is of kind {config.kind}; "
            f"it can do --task {possible}"
        )
