"""The run of DistilBERT: it begins with layers of its teacher, and asks the teacher all the way."""

from dataclasses import replace

import torch

from ..plumbing.errors import UserError
from ..plumbing.script import choose_device
from ..tokenizer.bpe import BPE
from ..training.objective import Objective
from .distillation import initial_student
from .run import Pretraining, PretrainingSettings, load_reader, newest_or_train


class Distilling(Pretraining):
    """A student begins with layers of its teacher: the newest runs/masked, where none is named."""

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        if settings.teacher is None:
            teacher = newest_or_train("masked", settings.seed, settings.device)
            settings = replace(settings, teacher=str(teacher))
        super().__init__(settings, overrides)

    def texts(self):
        """Return all texts: the closing table compares the student with one that saw them all."""
        return Pretraining(replace(self.settings, n_documents=None)).texts()

    def start(self, corpus) -> tuple[torch.nn.Module, BPE]:
        """Return a student made of the teacher's layers, and the teacher's tokenizer."""
        if set(self.overrides) - {"n_encoder_layer"}:
            raise UserError("a student has its teacher's shape: only --n-encoder-layer may differ")
        self.teacher, tokenizer = load_reader(self.settings.teacher)
        return initial_student(self.teacher, self.overrides.get("n_encoder_layer")), tokenizer

    def objective(self, corpus, tokenizer: BPE, **more) -> Objective:
        """As in `Pretraining`, with the teacher."""
        device = choose_device(self.settings.device)
        return super().objective(corpus, tokenizer, teacher=self.teacher.to(device))
