"""Regime 2, continued training: the same objective goes on, from a checkpoint, on text of a domain.

Sources: Howard and Ruder 2018, "ULMFiT", section 3.2; Gururangan et al. 2020, "Don't Stop Pretraining",
section 3. What was learnt before is partly forgotten; some of the earlier text, mixed in again ("replay",
Robins 1995), keeps it.
"""

import random
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..checkpoint import CONFIG, is_published, load, load_config
from ..model.transformer import Transformer, build
from ..plumbing.devices import choose_device, process_count
from ..plumbing.errors import UserError
from ..plumbing.folders import SETTINGS, read_json, read_settings
from ..pretraining.recipes import DEFAULT_MODEL, LARGE, RECIPES
from ..pretraining.registry import check_fit, load_texts, make_objective, texts_for_tokenizer
from ..texts.corpus import Corpus
from ..tokenizer.bpe import BPE
from ..training.checkpoints import evaluate
from ..training.loop import TrainingSettings, train
from ..training.objective import Objective
from .new_tokens import extend_vocabulary

# Of a model that no pre-training run of ours has left.
OBJECTIVE_OF = {"encoder": "masked", "decoder": "causal", "encoder-decoder": "denoising"}
LARGE_MODEL = dict(masked="bert-base", causal="gpt2", denoising="bart-base", translation="bart-base")
# What a published model goes on with where the flags do not say. Its weights are far better than any that a
# few hundred steps make, so the rate is small, as in fine-tuning (Devlin et al. 2019, appendix A.3).
PUBLISHED = dict(steps=400, batch_size=16, lr=5e-5, warmup=50)

HEADER = ("", "general: loss", "bits per byte", "domain: loss", "bits per byte")


def with_replay(domain: Corpus, general: Corpus, share: float, seed: int) -> Corpus:
    """Return the domain's corpus with so many general training documents that they make `share` of the bytes.

    The general documents are drawn by `seed`, and drawn again where there are too few. The validation part
    stays the domain's.
    """
    wanted = share / (1 - share) * domain.train_bytes
    rng, extra, n_byte = random.Random(f"replay {seed}"), [], 0
    while n_byte < wanted:
        for document in rng.sample(general.train, len(general.train)):
            if n_byte >= wanted:
                break
            extra.append(document)
            n_byte += len(document.encode())
    mixed = domain.train + extra
    rng.shuffle(mixed)
    return replace(domain, train=mixed)


def train_from_zero(model: Transformer, objective: Objective, settings: TrainingSettings) -> nn.Module:
    """Return a model of the same shape, trained on the domain alone for the same steps: the comparison."""
    torch.manual_seed(settings.seed)
    fresh = build(model.config).to(model.tokens.weight.device)
    train(fresh, objective, settings, label="from zero")
    return fresh


def settings_of(start: str, settings_class: type) -> dict:
    """Return the settings of a pre-training run; none for a model that came about in another way.

    It may be published, fine-tuned, or saved by a program. UserError where there is no model at all.
    """
    folder = Path(start)
    known = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    if is_published(start) or ((folder / CONFIG).exists() and "objective" not in known):
        return {}
    return read_settings(folder, settings_class)[0]


def start_settings(settings, given: dict, kept: set[str]) -> dict:
    """Return the settings that a continued run takes over from what `settings.init` names.

    Those of a pre-training run are in its settings.json, and `kept` says which of them go on. Another model
    has none: it gets the objective that fits its kind, the recipe of the preset most like it, its own
    positions as the limit of the context, and if it is published or large the steps of PUBLISHED. `given`:
    the settings of the command line.
    """
    saved = settings_of(settings.init, type(settings))
    if saved:
        return {name: value for name, value in saved.items() if name in kept}
    config = load_config(settings.init)
    is_small = config.d_model < LARGE and not is_published(settings.init)
    objective = given.get("objective") or OBJECTIVE_OF[config.kind]
    model = (DEFAULT_MODEL if is_small else LARGE_MODEL)[objective]
    context = min(RECIPES[model]["context"], config.max_positions)
    saved = dict(objective=objective, model=model, context=context, next_sentence=config.next_sentence)
    return saved | ({} if is_small else PUBLISHED)


class Start:
    """The checkpoint that a continued run starts from, the text it knew, and the domain's text."""

    def __init__(self, settings, domain: Corpus):
        self.settings, self.domain = settings, domain
        if settings.replay and settings.objective == "translation":
            raise UserError("--replay mixes in documents, and translation learns from pairs: leave it out")
        model, tokenizer = load(settings.init, choose_device(settings.device).type)
        if tokenizer is None:
            raise UserError(f"{settings.init}: no tokenizer in it, so no text can be read")
        check_fit(settings, model.config)
        known = dict(data=("world",))  # nobody has the text that a published model knew
        saved = settings_of(settings.init, type(settings))
        # Its seed too: that of this run would deal out as validation what the model has read.
        known |= {name: saved[name] for name in ("data", "seed") if name in saved}
        self.general = load_texts(replace(settings, **known))
        self.before = self.look(model, tokenizer)
        if settings.extend_vocabulary:
            tokenizer = tokenizer.extend(texts_for_tokenizer(domain), settings.extend_vocabulary)
            torch.manual_seed(settings.seed)
            model = extend_vocabulary(model, tokenizer, settings.new_rows)
        self.model, self.tokenizer = model, tokenizer
        self.mixed = domain
        if settings.replay:
            self.mixed = with_replay(domain, self.general, settings.replay, settings.seed)

    def look(self, model: Transformer, tokenizer: BPE) -> tuple[float, ...]:
        """Return the loss and the bits per byte on the general text, then both on the domain's."""
        figures = []
        for corpus in (self.general, self.domain):
            metrics = evaluate(model, make_objective(self.settings, corpus, tokenizer), self.settings)
            figures += [metrics["loss"], metrics["bits_per_byte"]]
        return tuple(figures)

    def closing(self, model: Transformer) -> tuple[list[tuple], dict[str, float]]:
        """Return the rows under HEADER and the figures for results.json: both texts, before and after.

        The model from zero is left out where several processes share the work: one alone closes a run.
        """
        after = self.look(model, self.tokenizer)
        rows = [("before", *self.before), ("after", *after)]
        names = ("general_loss_before", "general_loss_after", "domain_loss_before", "domain_loss_after")
        values = (self.before[0], after[0], self.before[2], after[2])
        results = dict(zip(names, values, strict=True))
        if process_count() == 1:
            alone = make_objective(self.settings, self.domain, self.tokenizer)
            zero = self.look(train_from_zero(model, alone, self.settings), self.tokenizer)
            rows.append(("the domain alone, from zero", *zero))
            results["scratch_domain_loss"] = zero[2]
        return rows, results
