"""A whole pre-training run: text, tokenizer, model, training, closing table, run folder.

`train.py` runs this with its flags. The later regimes call `start_model` for a model to start from.

To add an objective, write its class (a new noise: a `Denoising` with other `rows`), its closing function in
`report.py`, a row of OBJECTIVES, and its flags in `PretrainingSettings`, named as the class's arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch

from ..checkpoint import load, load_config, load_tokenizer
from ..model.config import PRESETS, ModelConfig
from ..model.transformer import build, build_for_weights
from ..plumbing import folders
from ..plumbing.errors import UserError, suggest
from ..plumbing.folders import CONFIG, RUNS, SETTINGS, TOKENIZER, find_run, read_json, read_log, read_settings
from ..plumbing.script import begin, choose_device, finish
from ..plumbing.settings import CommonSettings, quoted, typed
from ..texts.corpus import load_corpus
from ..texts.pairs import load_pairs
from ..tokenizer.bpe import BPE, SPECIAL_TOKENS
from ..training.checkpoints import check_trainer, load_trainer
from ..training.loop import TrainingSettings, make_optimizer, train
from ..training.objective import Objective
from ..training.show_batch import batch_lines
from . import report
from .causal import Causal
from .denoising import Denoising
from .distillation import Distillation, initial_student
from .masked import Masked
from .recipes import CONTINUED, LARGE, RECIPES
from .translation import Translation


class Row(NamedTuple):
    """What a run has to know about its objective."""

    objective: type[Objective]
    closing: Callable  # of `report.py`
    model: str  # preset to train if --model is not given
    then: str  # further flags of train.py to suggest after the run; {run} is its folder


UNTOLD = {*CommonSettings.__annotations__, "teacher", "accumulate", "resume"}  # these do not define a model,
UNTOLD |= {"eval_every", "eval_rows", "save_every", "log_every"}  # so `newest_or_train` does not report them
CONTINUE_ON = {":reports": "", ":portuguese": ":portuguese-reports", ":portuguese-reports": ":portuguese"}
OBJECTIVES: dict[str, Row] = {
    "masked": Row(Masked, report.masked_closing, "bert-tiny", "--whole-word --vocab-size 400"),
    "causal": Row(Causal, report.causal_closing, "gpt-tiny", "--init {run} --data world:reports"),
    "denoising": Row(Denoising, report.denoising_closing, "bart-tiny", "--noise deletion"),
    "translation": Row(Translation, report.translation_closing, "transformer-tiny", "--label-smoothing 0"),
    "distillation": Row(Distillation, report.distillation_closing, "distilbert-tiny", "--soft-weight 0"),
}


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(TrainingSettings):
    """What is learnt, by which model, from which texts."""

    objective: Literal[tuple(OBJECTIVES)] = "masked"  # what the model has to predict
    model: str | None = None  # preset to start from, with random weights; none: the tiny one of the objective
    data: tuple[str, ...] | None = None  # world, world:portuguese, python-docs; your files a.txt:0.7 b/:0.3
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: orthogonal updates for the matrices of the blocks
    n_documents: int | None = None  # training texts; none: all (world 20,000, pairs 5,000, students 140)
    eval_rows: int | None = None  # validation rows; none: what a tenth of the run's time allows; pairs: all
    errors: Literal["strict", "replace"] = "strict"  # replace: read on past bytes that are not UTF-8
    skip_bad: bool = False  # translation: leave out and count pairs with an empty side
    tokenizer: str | None = None  # a tokenizer.json; none: a BPE trained on the data, or the teacher's
    vocab_size: int | None = None  # number of tokens of the BPE that is trained; 262: bytes alone
    context: int | None = None  # tokens per row
    mask_share: float = 0.15  # masked: share of the tokens that are hidden
    whole_word: bool = False  # masked: hide all tokens of a word or none
    next_sentence: bool = True  # masked: also predict whether text B follows text A; no: RoBERTa's rows
    noise: str = "infilling,permutation"  # denoising: masking, deletion, infilling, permutation, rotation
    label_smoothing: float = 0.1  # translation: share of the target spread evenly over all tokens
    teacher: str | None = None  # distillation: the teacher's folder, or hf:NAME; none: the newest runs/masked
    temperature: float = 2.0  # distillation: divides the logits of student and teacher
    soft_weight: float = 5.0  # distillation: weight of the teacher's probabilities
    masked_weight: float = 2.0  # distillation: weight of the loss of the hidden tokens
    cosine_weight: float = 1.0  # distillation: weight of the angle between both models' hidden states
    init: str | None = None  # continued training: run or Hugging Face folder, or hf:NAME, to start from
    extend_vocabulary: int | None = None  # with --init: number of new tokens, learnt from the domain's text
    new_rows: Literal["mean", "zeros", "random"] = "mean"  # initial values of the rows of new tokens
    replay: float = 0.0  # with --init: share of its earlier text mixed in, against forgetting

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict(context=8, n_documents=1, extend_vocabulary=0, eval_rows=1))
        if not 0 < self.mask_share <= 1:
            raise UserError(f"--mask-share {self.mask_share}: must be above 0 and at most 1")
        if not 0 <= self.replay < 1:
            raise UserError(f"--replay {self.replay}: must be at least 0, below 1")
        new, words = not self.resume, ("extend_vocabulary", "new_rows")
        self.refuse(new and self.tokenizer, ("vocab_size",), "does not go with --tokenizer, which fixes it")
        self.refuse(not self.init, ("replay", *words), "needs --init FOLDER (continued training)")
        self.refuse(new and self.extend_vocabulary == 0, ("new_rows",), "needs --extend-vocabulary N")
        used = {name: row.objective.options(vars(self)).keys() for name, row in OBJECTIVES.items()}
        others = set().union(*used.values()) - used[self.objective] - {"n_documents"}
        others |= {"tokenizer", "vocab_size"} if self.objective == "distillation" else {"teacher"}
        others |= {"errors"} if self.objective == "translation" else {"skip_bad"}
        others -= {"next_sentence"} if self.init or self.resume else set()  # said of a start that lacks it
        self.refuse(True, others, f"has no effect with --objective {self.objective}: leave it out")


class Pretraining:
    """One run, from its settings to its closing table; all weights start at random.

    `overrides`: fields of the model's config that differ from its preset. Subclasses change some steps: the
    student `Distilling`, `continued/forgetting.py`, `in_context/questions.py` (a GPT that reads examples).
    """

    defaults: ClassVar[dict] = {}  # settings of the default run in `newest_or_train`

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        self.settings, self.overrides = settings, overrides or {}
        self.row, self.name = OBJECTIVES[settings.objective], settings.objective
        self.then = f"python train.py --objective {self.name} {self.row.then}"

    def texts(self):
        """Return the Corpus, or for translation the Pairs, that the settings name."""
        s = self.settings
        if s.objective == "translation":
            return load_pairs(s.data, s.seed, s.n_documents, s.skip_bad)
        beside = Path(s.out).parent if s.out else RUNS
        corpus = load_corpus(s.data, s.seed, s.n_documents, s.errors, beside / "tokens")
        return corpus.watched(s.eval_rows, s.context) if s.eval_rows else corpus

    def start(self, corpus) -> tuple[torch.nn.Module, BPE]:
        """Return the model that training begins with, and its tokenizer."""
        s, config = self.settings, PRESETS[self.settings.model]
        if s.tokenizer or s.resume:
            tokenizer = load_tokenizer(Path(s.out) / TOKENIZER if s.resume else s.tokenizer)
        else:
            tokenizer = BPE.train(corpus.texts(), s.vocab_size, SPECIAL_TOKENS)
        changes = dict(vocab_size=tokenizer.vocab_size)
        if config.next_sentence and not s.next_sentence:
            changes |= dict(next_sentence=False, pooler=False, n_segments=0)
        config = replace(config, **changes | self.overrides)
        torch.manual_seed(s.seed)
        if s.resume:
            return build_for_weights(config, load_trainer(s.out)["model"], Path(s.out) / SETTINGS), tokenizer
        return build(config), tokenizer

    def objective(self, corpus, tokenizer: BPE, **more) -> Objective:
        """Return the objective on these texts; `more` are further arguments of its class."""
        return self.row.objective(corpus, tokenizer, **self.row.objective.options(vars(self.settings)) | more)

    def closing(self, objective: Objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
        """Return the closing tables, the figures for results.json, and the lines of the examples."""
        rows, results, examples = self.row.closing(objective, model, before, after, self.settings)
        header = report.STUDENTS_HEADER if self.row.objective is Distillation else report.HEADER
        return [(rows, header)], results, examples

    def run(self) -> Path | None:
        """Read the text, make or load the model, train it, return its run folder (None with --show-batch)."""
        settings, device = self.settings, choose_device(self.settings.device)
        corpus = self.texts()
        print(corpus.summary(), *corpus.notes, sep="\n")
        torch.manual_seed(settings.seed)  # for heads that a published checkpoint lacks
        model, tokenizer = self.start(corpus)
        check_fit(settings, model.config)
        objective = self.objective(corpus, tokenizer)
        model.head = objective.head
        model.to(device)
        print(*objective.notes, sep="\n", end="\n" if objective.notes else "")
        if settings.show_batch:
            return print(*batch_lines(objective.batch(0, "train"), tokenizer, settings.show_batch), sep="\n")
        if settings.resume:  # check before anything is written: wrong flags must leave the run as it was
            optimizer = make_optimizer(model, settings.weight_decay, which=settings.optimizer)
            check_trainer(settings.out, model, optimizer, settings.steps)
        folder = begin(self.name, settings, self.overrides, "train.py")
        outcome = train(model, objective, settings, folder, tokenizer, patience=objective.patience)
        before, after, speed = (outcome[name] for name in ("before", "after", "tokens_per_second"))
        tables, results, examples = self.closing(objective, model, before, after)
        results |= dict(loss_before=before["loss"], loss_after=after["loss"], parameters=model.n_parameters())
        results |= dict(bits_per_byte=after.get("bits_per_byte"), tokens_per_second=speed)
        lines = [report.NATS, "", *examples, "", *report.lowest_loss(read_log(folder), after["loss"])]
        lines.append(f"{model.n_parameters():,} weights.")
        source, _, domain = settings.data[0].partition(":")
        then = self.then if source == "world" else "python extract.py --model {run} --data FILE"
        then = then.replace(":reports", CONTINUE_ON.get(":" + domain, ":reports"))
        if "train.py" not in then:  # the other scripts know two worlds
            domain = "portuguese" if "portuguese" in domain else ""
        then += f" --data world:{domain}" if domain and "--data" not in then else ""
        then = then.replace("{run}", quoted([str(folder)]))
        finish(folder, settings, tables, lines, results, outcome["seconds"], then)
        return folder


class Distilling(Pretraining):
    """A run whose student starts with layers of its teacher; default teacher: the newest runs/masked."""

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        teacher = settings.teacher or newest_or_train("masked", settings.seed, settings.device, settings.data)
        lr = RECIPES["distilbert" if load_config(teacher).d_model >= LARGE else "distilbert-tiny"]["lr"]
        super().__init__(replace(settings, teacher=str(teacher)).filled_in(dict(lr=lr)), overrides)
        self.then += " " + typed("teacher", str(teacher))

    def texts(self):
        """Return all texts: the closing table compares the student with others that learn from them all."""
        return Pretraining(replace(self.settings, n_documents=None)).texts()

    def start(self, corpus) -> tuple[torch.nn.Module, BPE]:
        """Return a student made of the teacher's layers, and the teacher's tokenizer."""
        if set(self.overrides) - {"n_encoder_layer"}:
            raise UserError("a student has its teacher's shape: only --n-encoder-layer may differ")
        self.teacher, tokenizer = load_reader(self.settings.teacher, str(choose_device(self.settings.device)))
        return initial_student(self.teacher, self.overrides.get("n_encoder_layer")), tokenizer

    def objective(self, corpus, tokenizer: BPE) -> Objective:
        """Return the objective as in `Pretraining`, with the teacher."""
        return super().objective(corpus, tokenizer, teacher=self.teacher)


def settings_of(start: str | Path) -> dict:
    """Return the settings of a pre-training run and of its model; {} for a model from elsewhere."""
    folder, known = Path(start), read_json(Path(start) / SETTINGS, optional=True)
    if "objective" not in known and ((folder / CONFIG).exists() or not folder.exists()):
        return {}
    saved, overrides = read_settings(folder, PretrainingSettings, ModelConfig)
    return overrides | saved


def with_recipe(settings: PretrainingSettings) -> PretrainingSettings:
    """Return the settings, each None filled in by the model's recipe; UserError if it has no recipe."""
    model = settings.model or OBJECTIVES[settings.objective].model
    if model not in RECIPES:
        known = f"{suggest(model, RECIPES)}; expected {', '.join(RECIPES)}; for a folder give --init"
        raise UserError(f"--model {model}: not a preset that this script trains{known}")
    recipe = RECIPES[model] | (CONTINUED if settings.init else {}) | dict(model=model)
    if settings.objective == "distillation" or settings.init or settings.tokenizer:
        recipe["vocab_size"] = None  # the tokenizer decides
    recipe |= dict(lr=None) if settings.objective == "distillation" else {}  # the teacher's size decides
    steps, warmup = recipe["steps"], recipe["warmup"]
    if settings.warmup is None and (settings.steps or steps) < steps:  # short runs must reach their rate too
        recipe["warmup"] = warmup * settings.steps // steps
        print(f"warm-up: {recipe['warmup']:,} steps, scaled from {warmup:,} of {steps:,} (--warmup sets it)")
    # Nine evaluations of so many rows take a tenth of the run: a row costs a third of a row in training.
    n_row = (settings.steps or steps) * (settings.batch_size or recipe["batch_size"])
    return settings.filled_in(recipe | dict(eval_rows=max(16, min(1024, n_row // 32))))


def check_fit(settings: PretrainingSettings, config: ModelConfig) -> None:
    """Raise UserError unless the objective can train the model, and a row fits into its positions."""
    if (n := settings.context) > config.max_positions:
        more = "" if settings.init or settings.objective == "distillation" else f", or --max-positions {n}"
        raise UserError(f"--context {n} exceeds the model's {config.max_positions} positions: lower it{more}")
    name, objective = settings.init or settings.model, settings.objective
    kinds = {key: PRESETS[row.model].kind for key, row in OBJECTIVES.items()}
    if kinds[objective] != config.kind:
        fitting = " or ".join(key for key in kinds if kinds[key] == config.kind and key != "distillation")
        what = f"--objective {objective} trains a model of kind {kinds[objective]}, but {name} is of kind"
        raise UserError(f"{what} {config.kind}; give --objective {fitting}")
    tells_two = config.next_sentence and config.n_segments > 1
    if objective == "masked" and settings.next_sentence and not tells_two:
        raise UserError(f"{name} has no head, or segments, for the next sentence: add --no-next-sentence")


def newest_or_train(name: str, seed=0, device="auto", data=None, kind: type | None = None) -> Path:
    """Return the newest finished runs/`name`; if none, train its default, in the language of `data`."""
    found, kind = find_run(name), kind or Pretraining
    how = dict(objective=name) | kind.defaults
    how |= dict(data=("world:portuguese",)) if "world:portuguese" in (data or ()) else {}
    usual = with_recipe(PretrainingSettings(**how, seed=seed, device=device))
    command = " ".join(["python train.py", *(typed(flag, value) for flag, value in how.items())])
    if found is None:
        print(f"No finished runs/{name} to start from yet, so the default one is trained first.")
        try:
            return kind(usual).run()
        except KeyboardInterrupt as stop:  # its message must say how to resume train.py
            raise KeyboardInterrupt(str(stop).replace("on: --", "on: python train.py --")) from stop
    own = [typed(n, v) for n, v in settings_of(found).items() if n not in UNTOLD and v != vars(usual).get(n)]
    told = f" It is not the default run of `{command}`: it was trained with {' '.join(own)}." if own else ""
    print(f"Starting from {found}.{told}")
    return found


def start_model(source: str | None, name: str, settings, kind=None, reads_only: bool = False) -> tuple:
    """Return (folder, model, tokenizer) for a later regime to start from: of `source`, or of a run `name`."""
    source = source or newest_or_train(name, settings.seed, settings.device, vars(settings).get("data"), kind)
    torch.manual_seed(settings.seed)
    # Training needs float32: bfloat16 would round small steps away. Frozen weights can save half the memory.
    dtype = torch.bfloat16 if reads_only and settings.precision == "bf16" else torch.float32
    return source, *load_reader(source, str(choose_device(settings.device)), dtype)


def load_reader(source: Path | str, device: str = "cpu", dtype=torch.float32) -> tuple[torch.nn.Module, BPE]:
    """Return the model and the tokenizer of a folder; UserError if it contains no tokenizer."""
    model, tokenizer = load(source, device, dtype)
    if tokenizer is None:
        raise UserError(f"{source}: no tokenizer in it, and text cannot be read without one")
    if (Path(source) / SETTINGS).exists() and not (Path(source) / folders.RESULTS).exists():
        print(f"{source}: a run that is not finished; its weights are those of its last checkpoint")
    return model, tokenizer
