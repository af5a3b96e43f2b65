"""A whole pre-training run: text, tokenizer, model, training, closing table, run folder.

`train.py` is this with flags. The later regimes call `start_model` for a model to start from.

To add an objective: a class (`training/objective.py` says what it has to do), its closing in `report.py`, a
row of OBJECTIVES below, its flags in `PretrainingSettings`, and in `recipes.py` the model that it trains.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch

from ..checkpoint import check_trainer, load, load_tokenizer
from ..model.config import ModelConfig, preset
from ..model.transformer import build
from ..plumbing.devices import choose_device, process_count, process_group, process_rank
from ..plumbing.errors import UserError
from ..plumbing.folders import TOKENIZER, find_run
from ..plumbing.script import begin, finish
from ..texts.corpus import load_corpus
from ..texts.pairs import load_pairs
from ..tokenizer.bpe import BPE, SPECIAL_TOKENS
from ..training.loop import TrainingSettings, train
from ..training.objective import Objective
from . import report
from .causal import Causal
from .denoising import Denoising
from .distillation import Distillation, initial_student
from .masked import Masked
from .recipes import with_recipe
from .translation import Translation


class Row(NamedTuple):
    """What a run has to know of its objective."""

    objective: type[Objective]
    kind: str  # of the models that it trains: `ModelConfig.kind`
    closing: Callable  # of `report.py`
    then: str  # what to try after it
    options: tuple[str, ...] = ()  # settings that are arguments of the class
    header: tuple[str, ...] = report.HEADER


OBJECTIVES: dict[str, Row] = {
    "masked": Row(
        Masked,
        "encoder",
        report.masked_closing,
        "python train.py --objective causal",
        ("next_sentence", "mask_share", "whole_word"),
    ),
    "causal": Row(
        Causal,
        "decoder",
        report.causal_closing,
        "python train.py --init runs/causal --data world:reports",
    ),
    "denoising": Row(
        Denoising,
        "encoder-decoder",
        report.denoising_closing,
        "python train.py --objective denoising --noise deletion",
        ("noise",),
    ),
    "translation": Row(
        Translation,
        "encoder-decoder",
        report.translation_closing,
        "python train.py --objective translation --label-smoothing 0",
        ("label_smoothing",),
    ),
    "distillation": Row(
        Distillation,
        "encoder",
        report.distillation_closing,
        "python train.py --objective distillation --soft-weight 0",
        ("temperature", "soft_weight", "masked_weight", "cosine_weight")
        + ("n_documents", "mask_share", "whole_word"),
        report.STUDENTS_HEADER,
    ),
}


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(TrainingSettings):
    """What is learnt, by what, from what."""

    objective: Literal[tuple(OBJECTIVES)] = "masked"  # what the model has to predict
    model: str | None = None  # preset to start from, with random weights; none: the tiny one of the objective
    data: tuple[str, ...] | None = None  # world, world:reports, world:few-shot, python-docs, or your files
    n_documents: int | None = None  # training documents or pairs to use; none: all (of the world 20,000)
    errors: Literal["strict", "replace"] = "strict"  # replace: read on over bytes that are not UTF-8
    skip_bad: bool = False  # translation: leave out and count pairs with an empty side
    tokenizer: str | None = None  # a tokenizer.json; none: a BPE is trained on the data
    vocab_size: int | None = None  # tokens of the BPE that is trained
    context: int | None = None  # tokens a row
    mask_share: float = 0.15  # masked: share of the tokens that are hidden
    whole_word: bool = False  # masked: hide all tokens of a word or none
    next_sentence: bool = True  # masked: also ask whether text B follows text A; no: RoBERTa's rows
    noise: str = "infilling,permutation"  # denoising: masking, deletion, infilling, permutation, rotation
    label_smoothing: float = 0.1  # translation: share of the target that goes to all other tokens
    teacher: str | None = None  # distillation: the teacher's folder, or hf:NAME; none: the newest runs/masked
    temperature: float = 2.0  # distillation: divides the logits of both before the softmax
    soft_weight: float = 5.0  # distillation: weight of the teacher's probabilities
    masked_weight: float = 2.0  # distillation: weight of the hidden tokens themselves
    cosine_weight: float = 1.0  # distillation: weight of the angle between both hidden states
    init: str | None = None  # run or Hugging Face folder, or hf:NAME, to start from: continued training
    extend_vocabulary: int = 0  # with --init: so many new tokens, learnt from the domain's text
    new_rows: Literal["mean", "zeros", "random"] = "mean"  # what the rows of new tokens start as
    replay: float = 0.0  # with --init: share of general text mixed in, against forgetting

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict(context=8, n_documents=1))
        if not 0 < self.mask_share <= 1:
            raise UserError(f"--mask-share {self.mask_share}: must be above 0 and at most 1")
        if not 0 <= self.replay < 1 or self.extend_vocabulary < 0:
            raise UserError("--replay must lie in [0, 1) and --extend-vocabulary must not be below 0")
        if (self.replay or self.extend_vocabulary) and not (self.init or self.resume):
            raise UserError("--replay and --extend-vocabulary need a model to go on with: add --init FOLDER")


class Pretraining:
    """One run, from its settings to its closing table; all weights start from zero.

    Other kinds of run change a step of it: `Distilling` below, continued training (`continued/run.py`), the
    GPT that learns to read examples (`in_context/run.py`).

    Args:
        overrides: fields of the model that differ from its preset.
    """

    defaults: ClassVar[dict] = {}  # settings of the run that `newest_or_train` makes

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        self.settings, self.overrides = settings, overrides or {}
        self.row = OBJECTIVES[settings.objective]
        self.name, self.then = settings.objective, self.row.then

    def texts(self):
        """Return the Corpus, or for translation the Pairs, that the settings name."""
        s = self.settings
        if s.objective == "translation":
            return load_pairs(s.data, s.seed, s.n_documents, s.skip_bad)
        return load_corpus(s.data, s.seed, s.n_documents, s.errors)

    def start(self, corpus) -> tuple[torch.nn.Module, BPE]:
        """Return the model that training begins with, and its tokenizer."""
        s, config = self.settings, preset(self.settings.model)
        if s.resume and not s.tokenizer:
            tokenizer = load_tokenizer(Path(s.out) / TOKENIZER)
        elif s.tokenizer:
            tokenizer = load_tokenizer(s.tokenizer)
        else:
            tokenizer = BPE.train(texts_for_tokenizer(corpus), s.vocab_size, SPECIAL_TOKENS)
        changes = dict(vocab_size=tokenizer.vocab_size)
        if config.next_sentence and not s.next_sentence:
            changes |= dict(next_sentence=False, pooler=False, n_segments=0)
        config = replace(config, **changes | self.overrides)
        torch.manual_seed(s.seed)
        return build(config), tokenizer

    def objective(self, corpus, tokenizer: BPE, **more) -> Objective:
        """Return what is learnt from the texts; `more` are further arguments of its class."""
        s = self.settings
        options = {name: getattr(s, name) for name in self.row.options} | more
        return self.row.objective(corpus, tokenizer, s.context, s.batch_size, s.seed, **options)

    def closing(self, objective: Objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
        """Return the closing tables, the figures for results.json, and the lines of the examples."""
        rows, results, examples = self.row.closing(objective, model, before, after, self.settings)
        return [(rows, self.row.header)], results, examples

    def run(self) -> Path:
        """Read the text, make or load the model, train it, and return the run folder that keeps it."""
        settings, device = self.settings, choose_device(self.settings.device)
        corpus = self.texts()
        print(corpus.summary(), *corpus.notes, sep="\n")
        model, tokenizer = self.start(corpus)
        check_fit(settings, model.config)
        model.to(device)
        objective = self.objective(corpus, tokenizer)
        for note in objective.notes:
            print(note)
        if settings.resume:  # asked before anything is written: flags that do not fit leave the run as it was
            check_trainer(settings.out, model)
        folder = begin(self.name, settings, self.overrides, "train.py")
        with process_group(device):
            outcome = train(model, objective, settings, folder, tokenizer)
            if process_rank() == 0:
                before, after = outcome["before"], outcome["after"]
                tables, results, examples = self.closing(objective, model, before, after)
                results |= dict(loss_before=before["loss"], loss_after=after["loss"])
                results |= dict(bits_per_byte=after["bits_per_byte"], parameters=model.n_parameters())
                results |= dict(tokens_per_second=outcome["tokens_per_second"])
                lines = [*examples, "", f"{model.n_parameters():,} weights."]
                finish(folder, settings, tables, lines, results, outcome["seconds"], self.then)
        return folder


class Distilling(Pretraining):
    """A student begins with layers of its teacher: the newest runs/masked, where none is named."""

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        if settings.teacher is None:
            teacher = newest_or_train("masked", settings.seed, settings.device)
            settings = replace(settings, teacher=str(teacher))
        super().__init__(settings, overrides)

    def texts(self):
        """Return all texts: the closing table compares the student with one that saw them all."""
        return load_corpus(self.settings.data, self.settings.seed, None, self.settings.errors)

    def start(self, corpus) -> tuple[torch.nn.Module, BPE]:
        """Return a student made of the teacher's layers, and the teacher's tokenizer."""
        if set(self.overrides) - {"n_encoder_layer"}:
            raise UserError(
                "a student has its teacher's shape: of the model's flags only --n-encoder-layer fits"
            )
        teacher, tokenizer = load(self.settings.teacher)
        if tokenizer is None:
            raise UserError(
                f"{self.settings.teacher}: no tokenizer in it, and the student shares its teacher's"
            )
        return initial_student(teacher, self.overrides.get("n_encoder_layer")), tokenizer

    def objective(self, corpus, tokenizer: BPE, **more) -> Objective:
        """As in `Pretraining`, with the teacher."""
        teacher, teacher_tokenizer = load(self.settings.teacher, choose_device(self.settings.device).type)
        return super().objective(corpus, tokenizer, teacher=teacher, teacher_tokenizer=teacher_tokenizer)


def texts_for_tokenizer(corpus) -> list[str]:
    """Return the training texts; of pairs both sides, since one vocabulary serves both languages."""
    return corpus.texts() if hasattr(corpus, "texts") else corpus.train


def check_fit(settings: PretrainingSettings, config: ModelConfig) -> None:
    """Raise UserError unless the objective trains such models, and rows fit the positions."""
    if settings.context > config.max_positions:
        raise UserError(
            f"--context {settings.context} is above the model's {config.max_positions} positions; "
            f"give a smaller --context or --max-positions {settings.context}"
        )
    name, kind = settings.init or settings.model, OBJECTIVES[settings.objective].kind
    if kind != config.kind:
        fitting = " or ".join(name for name, row in OBJECTIVES.items() if row.kind == config.kind)
        raise UserError(
            f"--objective {settings.objective} trains a model of kind {kind}, and {name} is of kind "
            f"{config.kind}; it fits --objective {fitting}"
        )
    if settings.objective == "masked" and settings.next_sentence and not config.next_sentence:
        raise UserError(f"{name} has no head for the next sentence: add --no-next-sentence")


def kind_of_run(objective: str) -> type[Pretraining]:
    """Return which kind of run trains with this objective, from random weights or a teacher's."""
    return Distilling if objective == "distillation" else Pretraining


def newest_or_train(
    name: str, seed: int = 0, device: str = "auto", kind: type[Pretraining] | None = None
) -> Path:
    """Return the newest finished run of a name under runs/; where there is none, train the default one.

    The name is that of an objective, or that of the `kind` of run. The tokenizer, the weights and the text
    of the default are drawn from `seed`.

    Raises:
        UserError: where it is not there and several processes ask, of which the first alone knows its folder.
    """
    found = find_run(name)
    if found is None and process_count() > 1:
        what_to_do = f"python train.py --objective {name} makes one"
        raise UserError(f"no finished runs/{name} to start from: {what_to_do}")
    if found is None:
        print(f"No finished runs/{name} to start from yet, so the default one is trained first.")
        kind = kind or kind_of_run(name)
        settings = PretrainingSettings(**dict(objective=name) | kind.defaults, seed=seed, device=device)
        found = kind(with_recipe(settings)).run()
    return found


def start_model(
    source: str | None, name: str, settings, kind: type[Pretraining] | None = None
) -> tuple[Path | str, torch.nn.Module, BPE]:
    """Return (folder, model, tokenizer) that a later regime starts from: `source`, or the default run `name`.

    Raises:
        UserError: where there is no tokenizer, without which no text can be read.
    """
    source = source or newest_or_train(name, settings.seed, settings.device, kind)
    model, tokenizer = load(source, str(choose_device(settings.device)))
    if tokenizer is None:
        raise UserError(f"{source}: no tokenizer in it, and text cannot be read without one")
    return source, model, tokenizer
