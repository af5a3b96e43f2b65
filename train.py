"""Regime 1, pre-training: a model learns a language from random weights.

    python train.py                             BERT: masked tokens and next sentence
    python train.py --objective causal          GPT: the next token
    python train.py --data corpus/ notes.txt    your own text (.txt, .jsonl, folders and .gz of these)

Without more flags each takes about two minutes on two CPU cores, on the embedded world. The same command
scales by flags alone: --model bert-base --data corpus/ --device cuda --precision bf16.
"""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from minilm import cli
from minilm.atomic import write_json
from minilm.config import ModelConfig, preset
from minilm.data import load_corpus
from minilm.devices import choose_device, process_group, process_rank
from minilm.errors import UserError
from minilm.models import build
from minilm.pretraining.causal import Causal
from minilm.pretraining.closing import HEADER, causal_closing, masked_closing
from minilm.pretraining.masked import Masked
from minilm.recipes import with_recipe
from minilm.runs import RESULTS, SETTINGS, TOKENIZER, choose_folder, read_settings
from minilm.tokenizer import BPE, SPECIAL_TOKENS
from minilm.training import TrainingSettings, train


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    """What is learnt, by what, from what."""

    objective: Literal["masked", "causal"] = "masked"  # what the model has to predict
    model: str | None = None  # preset to start from, with random weights; none: the tiny one of the objective
    data: tuple[str, ...] | None = None  # world, world:reports, python-docs, or your files and folders
    errors: Literal["strict", "replace"] = "strict"  # replace: read on over bytes that are not UTF-8
    tokenizer: str | None = None  # a tokenizer.json; none: a BPE is trained on the data
    vocab_size: int | None = None  # tokens of the BPE that is trained
    context: int | None = None  # tokens a row
    mask_share: float = 0.15  # masked: share of the tokens that are hidden
    whole_word: bool = False  # masked: hide all tokens of a word or none
    next_sentence: bool = True  # masked: also ask whether text B follows text A; no: RoBERTa's rows

    def __post_init__(self):
        super().__post_init__()
        if self.context is not None and self.context < 8:
            raise UserError(f"--context {self.context}: must be 8 or more")
        if not 0 < self.mask_share <= 1:
            raise UserError(f"--mask-share {self.mask_share}: must be above 0 and at most 1")


CLOSINGS = {"masked": masked_closing, "causal": causal_closing}
NEXT = {
    "masked": "python train.py --objective causal",
    "causal": "python train.py --objective causal --data YOUR.txt, or --positions alibi on the same stories",
}


def make_model(settings: Settings, overrides: dict, tokenizer: BPE) -> torch.nn.Module:
    """Return the preset with the flags' changes, and random weights drawn from the seed."""
    config = preset(settings.model)
    changes = dict(vocab_size=tokenizer.vocab_size)
    if config.next_sentence and not settings.next_sentence:
        changes |= dict(next_sentence=False, pooler=False, n_segments=0)
    config = replace(config, **changes | overrides)
    if settings.context > config.max_positions:
        raise UserError(
            f"--context {settings.context} is above the model's {config.max_positions} positions; "
            f"give a smaller --context or --max-positions {settings.context}"
        )
    kind = {"masked": "encoder", "causal": "decoder"}[settings.objective]
    if config.kind != kind:
        raise UserError(
            f"--objective {settings.objective} trains a model of kind {kind}, "
            f"and {settings.model} is of kind {config.kind}"
        )
    torch.manual_seed(settings.seed)
    return build(config)


def make_objective(settings: Settings, corpus, tokenizer: BPE):
    """Return the objective that the settings name."""
    common = (corpus, tokenizer, settings.context, settings.batch_size, settings.seed)
    if settings.objective == "causal":
        return Causal(*common)
    return Masked(*common, settings.next_sentence, settings.mask_share, settings.whole_word)


def run_folder(settings: Settings) -> Path:
    """Return the folder of this run. Of several processes the first makes it; the others write nothing."""
    if process_rank() and not settings.resume:
        return Path(settings.out or "runs")
    return choose_folder(settings.objective, settings.out, settings.overwrite, settings.resume)


def saved_settings(settings: Settings, given: dict, overrides: dict) -> tuple[Settings, dict]:
    """Return the settings and overrides of the run to continue, with the flags that were given on top."""
    folder = choose_folder(settings.objective, settings.out, settings.overwrite, resume=True)
    own, others = read_settings(folder, Settings)
    own |= dict(overwrite=False)  # how the run began is no longer of interest
    return Settings(**own | given | dict(out=str(folder))), others | overrides


def main() -> int:
    """Train, and print what was learnt beside what a trivial method reaches."""
    given, overrides = cli.parse_given(Settings, ModelConfig, description=__doc__)
    settings = Settings(**given)
    if settings.resume:
        settings, overrides = saved_settings(settings, given, overrides)
    settings = with_recipe(settings)
    with redirect_stdout(None if process_rank() else sys.stdout):  # of several processes the first speaks
        pretrain(settings, overrides)
    return 0


def pretrain(settings: Settings, overrides: dict) -> None:
    """Read the text, make what the settings name, train it, and keep it in a run folder."""
    device = choose_device(settings.device)
    corpus = load_corpus(settings.data, settings.seed, errors=settings.errors)
    print(corpus.summary(), *corpus.notes, sep="\n")
    if settings.tokenizer or settings.resume:
        tokenizer = BPE.load(settings.tokenizer or Path(settings.out) / TOKENIZER)
    else:
        tokenizer = BPE.train(corpus.train, settings.vocab_size, SPECIAL_TOKENS)
    model = make_model(settings, overrides, tokenizer).to(device)
    objective = make_objective(settings, corpus, tokenizer)
    folder = run_folder(settings)
    if process_rank() == 0:
        write_json(folder / SETTINGS, cli.settings_dict(settings) | overrides)
    cli.show(settings, overrides)
    with process_group(device):
        outcome = train(model, objective, settings, folder, tokenizer)
        if process_rank() == 0:
            close(settings, model, objective, outcome, folder)


def close(settings: Settings, model, objective, outcome: dict, folder: Path) -> None:
    """Print the closing table and the examples, and write results.json: the run is finished."""
    before, after = outcome["before"], outcome["after"]
    rows, results, examples = CLOSINGS[settings.objective](objective, model, before, after)
    results |= dict(
        loss_before=before["loss"], loss_after=after["loss"], bits_per_byte=after["bits_per_byte"]
    )
    results |= dict(parameters=model.n_parameters(), tokens_per_second=outcome["tokens_per_second"])
    results |= dict(seconds=outcome["seconds"], seed=settings.seed)
    print("\n" + cli.table(rows, HEADER), *["", *examples, ""], sep="\n")
    write_json(folder / RESULTS, {k: v for k, v in results.items() if v is not None})
    print(f"Saved in {folder} ({model.n_parameters():,} weights, {outcome['seconds']:.0f} s).")
    print(f"Next: {NEXT[settings.objective]}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
