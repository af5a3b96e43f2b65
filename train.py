"""Regimes 1 and 2: a model learns a language from random weights, or goes on learning on text of a domain.

    python train.py                             BERT: masked tokens and next sentence
    python train.py --objective causal          GPT: the next token
    python train.py --objective denoising       BART: rebuild a text from a damaged one
    python train.py --objective translation     the Transformer of 2017: English to Portuguese
    python train.py --objective distillation    DistilBERT: a student of runs/masked
    python train.py --data corpus/ notes.txt    your own text (.txt, .jsonl, folders and .gz of these)
    python train.py --init runs/masked --data world:reports     continued training

Without more flags each takes one to two minutes on two CPU cores, on the embedded world. The same command
scales by flags alone: --model bert-base --data corpus/ --device cuda --precision bf16.
"""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from minilm import cli
from minilm.atomic import write_json
from minilm.config import ModelConfig
from minilm.devices import choose_device, process_group, process_rank
from minilm.errors import UserError
from minilm.flags import option_of
from minilm.pretraining import continued
from minilm.pretraining.registry import (
    OBJECTIVES,
    check_fit,
    closing,
    copied_student,
    fresh_model,
    load_texts,
    make_objective,
    make_tokenizer,
)
from minilm.recipes import with_recipe
from minilm.runs import RESULTS, SETTINGS, choose_folder, find_run, read_settings
from minilm.training import TrainingSettings, train


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    """What is learnt, by what, from what."""

    objective: Literal[tuple(OBJECTIVES)] = "masked"  # what the model has to predict
    model: str | None = None  # preset to start from, with random weights; none: the tiny one of the objective
    data: tuple[str, ...] | None = None  # world, world:reports, python-docs, or your files and folders
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
        if self.context is not None and self.context < 8:
            raise UserError(f"--context {self.context}: must be 8 or more")
        if not 0 < self.mask_share <= 1:
            raise UserError(f"--mask-share {self.mask_share}: must be above 0 and at most 1")
        if not 0 <= self.replay < 1 or self.extend_vocabulary < 0:
            raise UserError("--replay must lie in [0, 1) and --extend-vocabulary must not be below 0")


def read_command() -> tuple[Settings, dict]:
    """Return the settings, and the fields of the model that flags change, of this command line."""
    given, overrides = cli.parse_given(Settings, ModelConfig, description=__doc__)
    settings, saved = Settings(**given), {}
    if settings.resume:
        folder = choose_folder(settings.objective, settings.out, settings.overwrite, resume=True)
        saved, others = read_settings(folder, Settings)
        saved |= dict(overwrite=False)  # how the run began is no longer of interest
        given["out"], overrides = str(folder), others | overrides
    elif settings.init:
        if settings.objective == "distillation":
            raise UserError("--init: a student begins with its teacher's layers; give --teacher alone")
        if overrides:
            raise UserError(f"{option_of(next(iter(overrides)))}: with --init the model is that of the run")
        kept = {"objective", "model", "context"}.union(*(entry.options for entry in OBJECTIVES.values()))
        saved = continued.start_settings(settings, given, kept)
    return with_recipe(Settings(**saved | given)), overrides


def main() -> int:
    """Train, and print what was learnt beside what a trivial method reaches."""
    settings, overrides = read_command()
    with redirect_stdout(None if process_rank() else sys.stdout):  # of several processes the first speaks
        if settings.objective == "distillation" and settings.teacher is None:
            settings = replace(settings, teacher=str(newest_teacher(settings)))
        pretrain(settings, overrides)
    return 0


def newest_teacher(settings: Settings) -> Path:
    """Return the newest finished runs/masked; where there is none, train the default one first."""
    if find_run("masked") is None:
        print("No finished runs/masked to learn from yet, so the default one is trained first.")
        pretrain(with_recipe(Settings(seed=settings.seed, device=settings.device)), {})
    return find_run("masked")


def pretrain(settings: Settings, overrides: dict) -> None:
    """Read the text, make or load the model, train it, and keep it in a run folder."""
    device = choose_device(settings.device)
    corpus = load_texts(settings)
    print(corpus.summary(), *corpus.notes, sep="\n")
    start = continued.Start(settings, corpus) if settings.init else None
    if start:
        model, tokenizer = start.model, start.tokenizer
    elif settings.objective == "distillation":
        model, tokenizer = copied_student(settings, overrides)
    else:
        tokenizer = make_tokenizer(settings, corpus)
        model = fresh_model(settings, overrides, tokenizer)
    check_fit(settings, model.config)
    model.to(device)
    objective = make_objective(settings, start.mixed if start else corpus, tokenizer)
    name = settings.objective + ("-continued" if settings.init else "")
    folder = run_folder(settings, name)
    if process_rank() == 0:
        write_json(folder / SETTINGS, cli.settings_dict(settings) | overrides)
    cli.show(settings, overrides)
    with process_group(device):
        outcome = train(model, objective, settings, folder, tokenizer)
        if process_rank() == 0:
            close(settings, model, objective, outcome, folder, start)


def run_folder(settings: Settings, name: str) -> Path:
    """Return the folder of this run. Of several processes the first makes it; the others write nothing."""
    if settings.resume or process_rank():
        return Path(settings.out or "runs")
    return choose_folder(name, settings.out, settings.overwrite)


def close(settings: Settings, model, objective, outcome: dict, folder: Path, start) -> None:
    """Print the closing tables and the examples, and write results.json: the run is finished."""
    before, after, entry = outcome["before"], outcome["after"], OBJECTIVES[settings.objective]
    rows, results, examples = closing(settings, objective, model, before, after)
    print("\n" + cli.table(rows, entry.header), *["", *examples, ""], sep="\n")
    if start:
        rows, more = start.closing(model)
        print(cli.table(rows, continued.HEADER) + "\n")
        results |= more
    results |= dict(loss_before=before["loss"], loss_after=after["loss"])
    results |= dict(bits_per_byte=after["bits_per_byte"], tokens_per_second=outcome["tokens_per_second"])
    results |= dict(parameters=model.n_parameters(), seconds=outcome["seconds"], seed=settings.seed)
    write_json(folder / RESULTS, {k: v for k, v in results.items() if v is not None})
    print(f"Saved in {folder} ({model.n_parameters():,} weights, {outcome['seconds']:.0f} s).")
    print(f"Next: {entry.next_command}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
