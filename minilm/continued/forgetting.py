"""Regime 2, continued training: train a checkpoint further on text of a domain, with the same objective.

The model partly forgets what it learnt before, so it is evaluated on both texts, before and after. Replay
mixes some of the earlier text into the domain's, so that less is forgotten.

Sources: Howard and Ruder 2018, "ULMFiT", 3.2; Gururangan et al. 2020, "Don't Stop Pretraining", section 3.
"""

import random
from dataclasses import replace

import torch

from ..model.transformer import build
from ..plumbing.errors import UserError
from ..plumbing.script import choose_device
from ..pretraining.recipes import LARGE, RECIPES
from ..pretraining.run import Pretraining, PretrainingSettings, check_fit, load_reader, settings_of
from ..texts.corpus import Corpus, without
from ..training.loop import train
from ..training.objective import evaluate
from .new_tokens import extend_vocabulary

HEADER = ("", "general: loss", "bits per byte", "domain: loss", "bits per byte")


class Continued(Pretraining):
    """A run that starts from `settings.init` and trains on the domain's text, with replay of earlier text."""

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        super().__init__(settings, overrides)
        self.name, self.then = f"{self.name}-continued", "python extract.py --model {run}"
        settings.refuse(settings.objective == "translation", ("replay",), "mixes in documents, not pairs")

    def start(self, corpus) -> tuple:
        """Evaluate the model on both texts; return it, with rows for new tokens if any, and the tokenizer."""
        s = self.settings
        model, tokenizer = load_reader(s.init, choose_device(s.device).type)
        check_fit(s, model.config)
        known, saved = dict(data=("world",)), settings_of(s.init)
        if saved and (saved["objective"] == "translation") == (s.objective == "translation"):
            known = {n: saved[n] for n in ("data", "seed", "n_documents") if n in saved}  # its seed drew them
        else:  # published, or of pairs where this run reads texts
            print(f"--init {s.init}: its texts are unknown, perhaps validation's; general text: the world's")
        try:
            self.domain, self.general = corpus, Pretraining(replace(s, **known)).texts()
        except UserError as error:
            raise UserError(f"--init {s.init} is evaluated on its own training texts too: {error}") from None
        self.general.train = without(self.general.train, corpus.validation)  # no validation text is replayed
        s.refuse(not len(self.general.train), ("replay",), "has no text left: all is in the validation set")
        self.general.validation = without(self.general.validation, corpus.train) or self.general.validation
        self.before = self.measure(model, tokenizer)
        if s.extend_vocabulary:
            n_old, tokenizer = tokenizer.vocab_size, tokenizer.extend(corpus.texts(), s.extend_vocabulary)
            print(f"{tokenizer.vocab_size - n_old:,} new tokens in the vocabulary")
            torch.manual_seed(s.seed)
            model = extend_vocabulary(model, tokenizer, n_old, s.new_rows)
        return model, tokenizer

    def objective(self, corpus, tokenizer):
        """Return the objective as in `Pretraining`, with replay."""
        if self.settings.replay:
            corpus = with_replay(corpus, self.general, self.settings.replay, self.settings.seed)
        return super().objective(corpus, tokenizer)

    def measure(self, model, tokenizer) -> tuple[float, ...]:
        """Return loss and bits per byte on the general text, then loss and bits per byte on the domain's."""
        figures = []
        for corpus in (self.general, self.domain):
            metrics = evaluate(model, super().objective(corpus, tokenizer), self.settings)
            figures += [metrics["loss"], metrics.get("bits_per_byte")]
        return tuple(figures)

    def closing(self, objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
        """Return the closing of `Pretraining`, with a table of what was learnt and what was forgotten."""
        tables, results, examples = super().closing(objective, model, before, after)
        settings, tokenizer = self.settings, objective.tokenizer
        measured = self.measure(model, tokenizer)
        rows = [("before", *self.before), (f"after, lr {settings.lr:g}", *measured)]
        for i, name in enumerate(("general_loss", "general_bits", "domain_loss")):  # the columns of `HEADER`
            results |= {f"{name}_before": self.before[i], f"{name}_after": measured[i]}
        # Fair to training from scratch: the recipe's rate, and for a small model a larger one (few steps).
        is_small = model.config.d_model < LARGE
        rate = RECIPES[self.row.model if is_small else settings.model]["lr"]  # not a published preset's
        for lr in (rate, 3 * rate) if is_small else (rate,):
            label = f"domain only, from scratch, lr {lr:g}"
            torch.manual_seed(settings.seed)
            zero = build(model.config).to(model.tokens.weight.device)
            train(zero, super().objective(self.domain, tokenizer), replace(settings, lr=lr), label=label)
            rows.append((label, *self.measure(zero, tokenizer)))
        results["scratch_domain_loss"] = min(row[3] for row in rows[2:])  # 3: the domain's loss
        return [*tables, (rows, HEADER)], results, examples


def with_replay(domain: Corpus, general: Corpus, share: float, seed: int) -> Corpus:
    """Return the domain's corpus with general training documents mixed in that make up `share` of the bytes.

    They are drawn by `seed`, each once before any comes again, and shuffled in. Validation stays the
    domain's. Source: Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal".
    """
    wanted = share / (1 - share) * domain.train_bytes  # share = wanted / (wanted + train_bytes)
    rng, extra, n_byte = random.Random(f"replay {seed}"), [], 0
    while n_byte < wanted:
        for i in rng.sample(range(len(general.train)), len(general.train)):
            if n_byte >= wanted:
                break
            extra.append(document := general.train[i])
            n_byte += len(document.encode())
    mixed = [*domain.train, *extra]
    rng.shuffle(mixed)
    return replace(domain, train=mixed)
