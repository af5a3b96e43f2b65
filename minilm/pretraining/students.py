"""The students that a distilled student is compared with: they have no teacher, or many more texts.

A distilled student's own figures prove little: it starts with the teacher's weights, and learns from texts
too. So the same student is trained again on the same batches with the same patience: without its teacher, and
with label smoothing, since soft targets might help just by being soft. If it had only some of the texts, two
more students, with and without the teacher, learn from all of them: there the teacher can add little.
"""

from functools import partial

from torch import Tensor

from ..model.transformer import Transformer
from ..training.machine import seconds
from ..training.objective import micro_batches
from .distillation import Distillation
from .masked import predict_masked

SMOOTHING = 0.1  # Vaswani et al. 2017, section 5.4


class Smoothed(Distillation):
    """Label smoothing: a teacher that knows nothing and gives all V tokens the same probability."""

    def ask_teacher(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, T, D) and logits (B, P, V), all 0."""
        (B, T), P = batch["input_ids"].shape, batch["masked_positions"].shape[1]
        config, zeros = self.teacher.config, batch["n_masked"].new_zeros  # float32, on the batch's device
        return zeros(B, T, config.d_model), zeros(B, P, config.vocab_size)


def other_lessons(objective: Distillation) -> dict[str, tuple[str, Distillation]]:
    """Return the other students' objectives: name in results.json -> (label in the table, objective)."""
    alone = dict(soft_weight=0.0, masked_weight=1.0, cosine_weight=0.0)
    smooth = dict(soft_weight=SMOOTHING, masked_weight=1 - SMOOTHING, cosine_weight=0.0, temperature=1.0)
    lessons = dict(control=("  without its teacher", variant(objective, **alone)))
    lessons["smoothed"] = "  with label smoothing", variant(objective, Smoothed, **smooth)
    if len(objective.all_texts.train) > len(objective.corpus.train):
        every = variant(objective, n_documents=None)
        lessons["student_all_texts"] = f"student, {len(every.corpus.train):,} texts", every
        lessons["control_all_texts"] = "  without its teacher", variant(objective, n_documents=None, **alone)
    return lessons


def variant(objective: Distillation, kind: type = Distillation, **changes) -> Distillation:
    """Return an objective with the same texts, seed, teacher and settings, except for these changes."""
    names = ("teacher", "temperature", "n_documents", "mask_share", "whole_word")
    own = {name: getattr(objective, name) for name in names}
    own |= {f"{term}_weight": weight for term, weight in objective.weights.items()}
    common = (objective.tokenizer, objective.context, objective.batch_size, objective.seed)
    return kind(objective.all_texts, *common, **own | changes)


def block_weights(model: Transformer) -> int:
    """Return the number of weights in the blocks: a student has fewer of these, but the same embeddings."""
    return sum(p.numel() for p in model.encoder.blocks.parameters())


def texts_per_second(objective: Distillation, *models: Transformer) -> dict[Transformer, float]:
    """Return how many validation rows each model predicts per second at the best of ten looks, in turn."""
    batch = objective.batch(0, "validation")
    part = micro_batches(batch, -(-len(batch["input_ids"]) // objective.batch_size))[0]
    times = seconds(10, *(partial(predict_masked, model, part) for model in models))
    return {model: len(part["input_ids"]) / best for model, best in zip(models, times, strict=True)}
