"""From settings to what is trained: the objectives by name, their text, tokenizer and model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..checkpoint import load, load_tokenizer
from ..in_context.objective import InContext
from ..model.config import ModelConfig, preset
from ..model.transformer import build
from ..plumbing.devices import choose_device
from ..plumbing.errors import UserError
from ..plumbing.folders import TOKENIZER
from ..texts.corpus import load_corpus
from ..texts.pairs import load_pairs
from ..tokenizer.bpe import BPE, SPECIAL_TOKENS
from ..training.objective import Objective
from .causal import Causal
from .closing_denoising import denoising_closing
from .closing_distillation import HEADER as STUDENT_HEADER
from .closing_distillation import distillation_closing
from .closing_translation import translation_closing
from .denoising import Denoising
from .distillation import Distillation, initial_student
from .masked import Masked
from .report import HEADER, causal_closing, masked_closing
from .translation import Translation


class Entry(NamedTuple):
    """What train.py has to know of an objective."""

    objective: type[Objective]
    kind: str  # of the models that it trains: `ModelConfig.kind`
    closing: Callable  # (objective, model, before, after) -> rows, results, examples
    next_command: str  # what to try after it
    options: tuple[str, ...] = ()  # settings that are arguments of the class
    header: tuple[str, ...] = HEADER


OBJECTIVES: dict[str, Entry] = {
    "masked": Entry(
        Masked,
        "encoder",
        masked_closing,
        "python train.py --objective causal",
        ("next_sentence", "mask_share", "whole_word"),
    ),
    "causal": Entry(
        Causal, "decoder", causal_closing, "python train.py --init runs/causal --data world:reports"
    ),
    "denoising": Entry(
        Denoising,
        "encoder-decoder",
        denoising_closing,
        "python train.py --objective denoising --noise deletion",
        ("noise",),
    ),
    "translation": Entry(
        Translation,
        "encoder-decoder",
        translation_closing,
        "python train.py --objective translation --label-smoothing 0",
        ("label_smoothing",),
    ),
    "distillation": Entry(
        Distillation,
        "encoder",
        distillation_closing,
        "python train.py --objective distillation --soft-weight 0",
        (
            *("temperature", "soft_weight", "masked_weight", "cosine_weight"),
            *("n_documents", "mask_share", "whole_word"),
        ),
        STUDENT_HEADER,
    ),
}


def run_name(settings) -> str:
    """Return the name of the run's folder under runs/: the objective's, or what it becomes on some text."""
    if settings.init:
        return settings.objective + "-continued"
    if settings.objective == "causal" and settings.data[0].startswith("world:few-shot"):
        return "in-context"
    return settings.objective


def load_texts(settings):
    """Return the Corpus, or for translation the Pairs, that the settings name."""
    if settings.objective == "translation":
        return load_pairs(settings.data, settings.seed, settings.n_documents, settings.skip_bad)
    # a student learns from few of the texts, and its closing table compares it with one that saw them all
    n = None if settings.objective == "distillation" else settings.n_documents
    return load_corpus(settings.data, settings.seed, n, settings.errors)


def texts_for_tokenizer(corpus) -> list[str]:
    """Return the training texts; of pairs both sides, since one vocabulary serves both languages."""
    return corpus.texts() if hasattr(corpus, "texts") else corpus.train


def make_objective(settings, corpus, tokenizer: BPE) -> Objective:
    """Return the objective that the settings name."""
    entry = OBJECTIVES[settings.objective]
    options = {name: getattr(settings, name) for name in entry.options}
    if settings.objective == "distillation":
        device = choose_device(settings.device).type
        options["teacher"], options["teacher_tokenizer"] = load(settings.teacher, device)
    make = InContext if run_name(settings) == "in-context" else entry.objective
    return make(corpus, tokenizer, settings.context, settings.batch_size, settings.seed, **options)


def check_fit(settings, config: ModelConfig) -> None:
    """Raise UserError unless the objective trains such models, and rows fit the positions."""
    if settings.context > config.max_positions:
        raise UserError(
            f"--context {settings.context} is above the model's {config.max_positions} positions; "
            f"give a smaller --context or --max-positions {settings.context}"
        )
    if OBJECTIVES[settings.objective].kind != config.kind:
        fitting = " or ".join(name for name, entry in OBJECTIVES.items() if entry.kind == config.kind)
        raise UserError(
            f"--objective {settings.objective} trains a model of kind {OBJECTIVES[settings.objective].kind}, "
            f"and {settings.init or settings.model} is of kind {config.kind}; it fits --objective {fitting}"
        )
    if settings.objective == "masked" and settings.next_sentence and not config.next_sentence:
        name = settings.init or settings.model
        raise UserError(f"{name} has no head for the next sentence: add --no-next-sentence")


def copied_student(settings, overrides: dict) -> tuple[torch.nn.Module, BPE]:
    """Return a student made of the teacher's layers, and the teacher's tokenizer."""
    if set(overrides) - {"n_encoder_layer"}:
        raise UserError("a student has its teacher's shape: of the model's flags only --n-encoder-layer fits")
    teacher, tokenizer = load(settings.teacher)
    if tokenizer is None:
        raise UserError(f"{settings.teacher}: no tokenizer in it, and the student shares its teacher's")
    return initial_student(teacher, overrides.get("n_encoder_layer")), tokenizer


def fresh_model(settings, overrides: dict, tokenizer: BPE) -> torch.nn.Module:
    """Return the preset with the flags' changes, and random weights drawn from the seed."""
    config = preset(settings.model)
    changes = dict(vocab_size=tokenizer.vocab_size)
    if config.next_sentence and not settings.next_sentence:
        changes |= dict(next_sentence=False, pooler=False, n_segments=0)
    config = replace(config, **changes | overrides)
    torch.manual_seed(settings.seed)
    return build(config)


def make_tokenizer(settings, corpus) -> BPE:
    """Return the tokenizer of the settings, that of the run to go on with, or one trained on the text."""
    if settings.resume and not settings.tokenizer:
        return load_tokenizer(Path(settings.out) / TOKENIZER)
    if settings.tokenizer:
        return load_tokenizer(settings.tokenizer)
    return BPE.train(texts_for_tokenizer(corpus), settings.vocab_size, SPECIAL_TOKENS)


def closing(settings, objective: Objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
    """Return rows, results and examples of the objective's closing table."""
    # the students to compare with are trained for it, as long as the first one
    more = (settings,) if settings.objective == "distillation" else ()
    return OBJECTIVES[settings.objective].closing(objective, model, before, after, *more)
