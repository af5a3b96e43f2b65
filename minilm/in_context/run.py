"""A GPT that learns to read examples, and what is asked of it."""

from typing import ClassVar

from ..pretraining.run import Pretraining, PretrainingSettings
from .objective import InContext
from .questions import CHANCE, NAMES


class FewShot(Pretraining):
    """GPT on few-shot documents: it is asked on the way (`objective.py`), and `prompt.py` starts from it."""

    defaults: ClassVar[dict] = dict(objective="causal", model="gpt-alibi-tiny")

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        super().__init__(settings, overrides)
        self.name, self.then = "in-context", "python prompt.py"
        self.row = self.row._replace(objective=InContext)

    @staticmethod
    def fits(settings: PretrainingSettings) -> bool:
        """Say whether a command asks for such a run."""
        return settings.objective == "causal" and settings.data[0].startswith("world:few-shot")

    def closing(self, objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
        """As in `Pretraining`, with a row for each task."""
        [(rows, header)], results, examples = super().closing(objective, model, before, after)
        rows += [(name, before[task], after[task], CHANCE, "chance") for task, name in NAMES.items()]
        return [(rows, header)], results, examples
