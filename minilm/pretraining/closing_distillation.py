"""What a distillation run ends with: the student beside its teacher, and beside students that had none.

The student's own figures prove little: it began with the teacher's weights, and the texts teach too. So the
same student learns again, from the same batches in the same steps, without its teacher, and with label
smoothing, since soft targets might help just by being soft. The last rows are trained on all texts, where a
teacher has little left to say.
"""

import copy
import time

from torch import Tensor

from ..model.transformer import Transformer
from ..plumbing.devices import process_count
from ..training.checkpoints import evaluate
from ..training.loop import TrainingSettings, train
from ..training.objective import micro_batches
from .distillation import Distillation, initial_student
from .masked import predict_masked
from .report import fill_examples

HEADER = ("", "weights", "in blocks", "texts/s", "hidden tokens right", "their loss (nats)")
SMOOTHING = 0.1  # Vaswani et al. 2017, section 5.4


class Smoothed(Distillation):
    """Label smoothing: a teacher that knows nothing and finds all tokens of V equally likely."""

    def ask_teacher(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return hidden states (B, T, D) and logits (B, P, V), all 0."""
        (B, T), P = batch["input_ids"].shape, batch["masked_positions"].shape[1]
        config, zeros = self.teacher.config, batch["n_masked"].new_zeros
        return zeros(B, T, config.d_model), zeros(B, P, config.vocab_size)


def distillation_closing(
    objective: Distillation,
    model: Transformer,
    before: dict,
    after: dict,
    settings: TrainingSettings,
    controls: bool = True,
) -> tuple[list, dict, list[str]]:
    """Return the table's rows (under HEADER), the figures for results.json, and three filled-in blanks.

    With `controls` the other students are trained too, each as long as the first one; where several processes
    share the work none is. All are measured on the same validation texts.
    """
    teacher = objective.teacher
    figures = dict(teacher=evaluate(teacher, objective, settings), student=after)
    labels = dict(teacher="teacher", student=f"student, {count_of(objective)}")
    speed = dict(teacher=texts_per_second(objective, teacher), student=texts_per_second(objective, model))
    if controls and process_count() == 1:
        for name, (label, other) in other_lessons(objective).items():
            student = train_again(model, other, settings, label.strip())
            figures[name], labels[name] = evaluate(student, objective, settings), label
    rows = []
    for name, figure in figures.items():
        shape, per_second = (teacher, speed["teacher"]) if name == "teacher" else (model, speed["student"])
        sizes = (shape.n_parameters(), block_weights(shape), round(per_second))
        rows.append((labels[name], *sizes, figure["masked_accuracy"], figure["masked_loss"]))
    rows.insert(1, ("its layers as copied", *sizes, before["masked_accuracy"], before["masked_loss"]))
    results = {f"{name}_accuracy": figure["masked_accuracy"] for name, figure in figures.items()}
    results |= {f"{name}_loss": figure["masked_loss"] for name, figure in figures.items()}
    results["student_block_fraction"] = block_weights(model) / block_weights(teacher)
    results["student_speedup"] = speed["student"] / speed["teacher"]
    return rows, results, ["Blanks that the student filled in:", "", *fill_examples(objective, model)]


def other_lessons(objective: Distillation) -> dict[str, tuple[str, Distillation]]:
    """Return what the other students learn from: name in results.json -> label in the table, objective."""
    alone = dict(soft_weight=0.0, masked_weight=1.0, cosine_weight=0.0)
    smooth = dict(soft_weight=SMOOTHING, masked_weight=1 - SMOOTHING, cosine_weight=0.0, temperature=1.0)
    lessons = {
        "control": ("  without its teacher", variant(objective, **alone)),
        "smoothed": ("  with label smoothing", variant(objective, Smoothed, **smooth)),
    }
    if len(objective.all_texts.train) > len(objective.corpus.train):
        every = variant(objective, n_documents=None)
        lessons["student_all_texts"] = (f"student, {count_of(every)}", every)
        alone_all = variant(objective, n_documents=None, **alone)
        lessons["control_all_texts"] = ("  without its teacher", alone_all)
    return lessons


def variant(objective: Distillation, kind: type = Distillation, **changes) -> Distillation:
    """Return an objective of the same texts, seed and teacher with these changes."""
    names = ("teacher", "temperature", "n_documents", "mask_share", "whole_word")
    own = {name: getattr(objective, name) for name in names}
    own |= {f"{term}_weight": weight for term, weight in objective.weights.items()}
    common = (objective.tokenizer, objective.context, objective.batch_size, objective.seed)
    return kind(objective.all_texts, *common, **own | changes)


def train_again(
    model: Transformer, objective: Distillation, settings: TrainingSettings, name: str
) -> Transformer:
    """Return the student `model` trained anew with another objective, from the teacher's layers on."""
    student = copy.deepcopy(model)
    first = initial_student(objective.teacher, model.config.n_encoder_layer)
    student.load_state_dict(first.state_dict())
    train(student, objective, settings, label=name)
    return student


def count_of(objective: Distillation) -> str:
    """Return how many texts the objective learns from: "100 texts"."""
    return f"{len(objective.corpus.train):,} texts"


def block_weights(model: Transformer) -> int:
    """Return how many weights the blocks have: what a student saves, since the embeddings stay."""
    return sum(p.numel() for p in model.encoder.blocks.parameters())


def texts_per_second(objective: Distillation, model: Transformer, n_try: int = 10) -> float:
    """Return how many validation rows the model predicts in a second, in the best of `n_try` measurements."""
    batch = objective.batch(0, "validation")
    n_row = len(batch["input_ids"])
    part = micro_batches(batch, -(-n_row // objective.batch_size))[0]
    seconds = []
    for _ in range(n_try):
        began = time.perf_counter()
        predict_masked(model, part)
        seconds.append(time.perf_counter() - began)
    return len(part["input_ids"]) / min(seconds)
