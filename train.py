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
from dataclasses import replace

from minilm.continued import run as continued
from minilm.model.config import ModelConfig
from minilm.plumbing.devices import process_rank
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import choose_folder, read_settings
from minilm.plumbing.settings import option_of, parse
from minilm.plumbing.terminal import exit_code
from minilm.pretraining.recipes import with_recipe
from minilm.pretraining.registry import OBJECTIVES
from minilm.pretraining.run import newest_or_train, pretrain
from minilm.pretraining.settings import PretrainingSettings


def read_command() -> tuple[PretrainingSettings, dict]:
    """Return the settings, and the fields of the model that flags change, of this command line."""
    given, overrides = parse(PretrainingSettings, ModelConfig, description=__doc__)
    settings, saved = PretrainingSettings(**given), {}
    if settings.resume:
        folder = choose_folder(settings.objective, settings.out, settings.overwrite, resume=True)
        saved, others = read_settings(folder, PretrainingSettings)
        saved |= dict(overwrite=False)  # how the run began is no longer of interest
        given["out"], overrides = str(folder), others | overrides
    elif settings.init:
        if settings.objective == "distillation":
            raise UserError("--init: a student begins with its teacher's layers; give --teacher alone")
        for name in (*overrides, *({"model", "tokenizer"} & given.keys())):
            raise UserError(f"{option_of(name)}: with --init model and tokenizer are those of the run")
        kept = {"objective", "model", "context"}.union(*(entry.options for entry in OBJECTIVES.values()))
        saved = continued.start_settings(settings, given, kept)
    return with_recipe(PretrainingSettings(**saved | given)), overrides


def main() -> int:
    """Train, and print what was learnt beside what a trivial method reaches."""
    settings, overrides = read_command()
    with redirect_stdout(None if process_rank() else sys.stdout):  # of several processes the first speaks
        if settings.objective == "distillation" and settings.teacher is None:
            teacher = newest_or_train("masked", settings.seed, settings.device)
            settings = replace(settings, teacher=str(teacher))
        pretrain(settings, overrides)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
