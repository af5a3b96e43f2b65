"""Regime 2, continued training: the same objective goes on, from a checkpoint, on text of a domain.

Sources: Howard and Ruder 2018, "ULMFiT", section 3.2; Gururangan et al. 2020, "Don't Stop Pretraining",
section 3. What was learnt before is partly forgotten; replay keeps some of it (`replay.py`).
"""

from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint import CONFIG, is_published, load_config
from ..model.transformer import build
from ..plumbing.errors import UserError
from ..plumbing.folders import SETTINGS, read_json, read_settings
from ..plumbing.script import choose_device, process_count
from ..plumbing.settings import option_of
from ..pretraining.recipes import DEFAULT_MODEL, LARGE, RECIPES
from ..pretraining.run import (
    OBJECTIVES,
    Pretraining,
    PretrainingSettings,
    check_fit,
    load_reader,
    texts_for_tokenizer,
)
from ..training.checkpoints import evaluate
from ..training.loop import train
from .new_tokens import extend_vocabulary
from .replay import with_replay

# Of a model that no pre-training run of ours has left.
OBJECTIVE_OF = {"encoder": "masked", "decoder": "causal", "encoder-decoder": "denoising"}
LARGE_MODEL = dict(masked="bert-base", causal="gpt2", denoising="bart-base", translation="bart-base")
# A published model's weights are better than any that a few hundred steps make: a small rate, as in
# fine-tuning (Devlin et al. 2019, appendix A.3).
PUBLISHED = dict(steps=400, batch_size=16, lr=5e-5, warmup=50)

HEADER = ("", "general: loss", "bits per byte", "domain: loss", "bits per byte")


class Continued(Pretraining):
    """A run that goes on from `settings.init`, on the domain's text and some of the text known before."""

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        super().__init__(settings, overrides)
        self.name += "-continued"
        if settings.replay and settings.objective == "translation":
            raise UserError("--replay mixes in documents, and translation learns from pairs: leave it out")

    def start(self, corpus) -> tuple:
        """Return the model, with rows for new tokens if asked for, and the tokenizer; measure both first."""
        s = self.settings
        model, tokenizer = load_reader(s.init, choose_device(s.device).type)
        check_fit(s, model.config)
        saved = settings_of(s.init)
        # Its seed too: that of this run would choose as validation what the model has read.
        known = {name: saved[name] for name in ("data", "seed") if name in saved}
        known = dict(data=("world",)) | known  # nobody has the text that a published model knew
        self.domain, self.general = corpus, Pretraining(replace(s, **known)).texts()
        self.before = self.measure(model, tokenizer)
        if s.extend_vocabulary:
            tokenizer = tokenizer.extend(texts_for_tokenizer(corpus), s.extend_vocabulary)
            torch.manual_seed(s.seed)
            model = extend_vocabulary(model, tokenizer, s.new_rows)
        return model, tokenizer

    def objective(self, corpus, tokenizer, **more):
        """As in `Pretraining`, with replay."""
        if self.settings.replay:
            corpus = with_replay(corpus, self.general, self.settings.replay, self.settings.seed)
        return super().objective(corpus, tokenizer, **more)

    def measure(self, model, tokenizer) -> tuple[float, ...]:
        """Return the loss and the bits per byte on the general text, then both on the domain's."""
        figures = []
        for corpus in (self.general, self.domain):
            metrics = evaluate(model, super().objective(corpus, tokenizer), self.settings)
            figures += [metrics["loss"], metrics["bits_per_byte"]]
        return tuple(figures)

    def closing(self, objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
        """As in `Pretraining`, with a table of both texts before and after: what was learnt and forgotten."""
        tables, results, examples = super().closing(objective, model, before, after)
        settings, tokenizer = self.settings, objective.tokenizer
        measured = self.measure(model, tokenizer)
        rows = [("before", *self.before), ("after", *measured)]
        results |= dict(general_loss_before=self.before[0], general_loss_after=measured[0])
        results |= dict(domain_loss_before=self.before[2], domain_loss_after=measured[2])
        if process_count() == 1:  # the others have left, and a step waits for the gradients of all
            torch.manual_seed(settings.seed)
            zero = build(model.config).to(model.tokens.weight.device)
            train(zero, super().objective(self.domain, tokenizer), settings, label="from zero")
            rows.append(("the domain alone, from zero", *self.measure(zero, tokenizer)))
            results["scratch_domain_loss"] = rows[-1][3]
        return [*tables, (rows, HEADER)], results, examples


def settings_of(start: str) -> dict:
    """Return the settings of a pre-training run; none for a model that came about otherwise."""
    folder = Path(start)
    known = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    if is_published(start) or ((folder / CONFIG).exists() and "objective" not in known):
        return {}
    return read_settings(folder, PretrainingSettings)[0]


def continued_command(given: dict, overrides: dict) -> dict:
    """Return what is given on the command line, laid over what a continued run takes over from its start.

    Of a pre-training run these are objective, model, context and options of its settings. Another model
    gets the objective that fits its kind, the recipe of the preset most like it, and PUBLISHED if it is so or
    large. UserError for flags that the start has decided already.
    """
    if given.get("objective") == "distillation":
        raise UserError("--init: a student begins with its teacher's layers; give --teacher alone")
    for name in (*overrides, *({"model", "tokenizer"} & given.keys())):
        raise UserError(f"{option_of(name)}: with --init model and tokenizer are those of the run")
    saved = settings_of(given["init"])
    if saved:
        kept = {"objective", "model", "context"}.union(*(row.options for row in OBJECTIVES.values()))
        return {name: value for name, value in saved.items() if name in kept} | given
    config = load_config(given["init"])
    is_small = config.d_model < LARGE and not is_published(given["init"])
    objective = given.get("objective") or OBJECTIVE_OF[config.kind]
    model = (DEFAULT_MODEL if is_small else LARGE_MODEL)[objective]
    context = min(RECIPES[model]["context"], config.max_positions)
    saved = dict(objective=objective, model=model, context=context, next_sentence=config.next_sentence)
    return saved | ({} if is_small else PUBLISHED) | given
