"""How each model is trained where the flags do not say: one row a preset.

The tiny rows were measured on two CPU cores and show their lesson in about a minute or two (README). The
published rows are those of the papers, for real text and real hardware.
"""

from dataclasses import fields, replace
from pathlib import Path

from ..model.config import PRESETS
from ..plumbing.errors import UserError, suggest

LARGE = 256  # d_model from which on a model learns at the rates of published ones

# The preset that an objective trains when --model is not given.
DEFAULT_MODEL = {
    "masked": "bert-tiny",
    "causal": "gpt-tiny",
    "denoising": "bart-tiny",
    "translation": "transformer-tiny",
    "distillation": "distilbert-tiny",
}

_TINY = dict(data=("world",), schedule="cosine", weight_decay=0.05, warmup=200)
_BERT = dict(data=("python-docs",), vocab_size=30522, context=512, schedule="linear", weight_decay=0.01)
_GPT2 = dict(data=("python-docs",), vocab_size=50257, context=1024, schedule="cosine", weight_decay=0.1)
_BART = _BERT | dict(vocab_size=50265, steps=500_000, batch_size=8000, warmup=10_000)
_TRANSFORMER = dict(data=("world",), vocab_size=37000, context=128, batch_size=900, warmup=4000)
_TRANSFORMER |= dict(schedule="inverse-sqrt", weight_decay=0.0)

RECIPES: dict[str, dict] = {
    "bert-tiny": _TINY | dict(vocab_size=1024, context=64, steps=2000, batch_size=32, lr=3e-3),
    "gpt-tiny": _TINY | dict(vocab_size=1024, context=64, steps=1600, batch_size=32, lr=2.5e-3, warmup=100),
    "gpt-alibi-tiny": _TINY
    | dict(vocab_size=1024, context=32, steps=3000, batch_size=32, lr=3e-3)
    # so many texts that none is read twice: memory for single texts would stand in for reading the examples
    | dict(data=("world:few-shot",), n_documents=120_000),
    "bart-tiny": _TINY | dict(vocab_size=1024, context=64, steps=1000, batch_size=32, lr=3e-3),
    "transformer-tiny": _TINY
    | dict(
        vocab_size=1024, context=64, steps=2400, batch_size=32, lr=4e-3, warmup=100, schedule="inverse-sqrt"
    ),
    "distilbert-tiny": _TINY
    | dict(vocab_size=1024, context=64, steps=2000, batch_size=32, lr=3e-3, warmup=50, n_documents=140),
    # Vaswani et al. 2017, sections 5.1 to 5.3: the peak of equation 3 at width 512, 25,000 tokens a step
    "transformer-base": _TRANSFORMER | dict(steps=100_000, lr=7e-4),
    "transformer-big": _TRANSFORMER | dict(steps=300_000, lr=5e-4),
    # Lewis et al. 2020, section 5: 500,000 steps of 8,000 texts for the large model; a rate of ours
    "bart-base": _BART | dict(lr=4e-4),
    "bart-large": _BART | dict(lr=2e-4),
    # Sanh et al. 2019, section 3: batches of up to 4,000 texts; a rate and a length of ours
    "distilbert": _BERT | dict(steps=100_000, batch_size=4000, lr=5e-4, warmup=5000),
    # Devlin et al. 2019, appendix A.2: a million steps of 256 sequences
    "bert-base": _BERT | dict(steps=1_000_000, batch_size=256, lr=1e-4, warmup=10_000),
    "bert-large": _BERT | dict(steps=1_000_000, batch_size=256, lr=1e-4, warmup=10_000),
    # Radford et al. 2019 do not give the schedule; these are of the order of Brown et al. 2020, table 2.1
    "gpt2": _GPT2 | dict(steps=600_000, batch_size=512, lr=6e-4, warmup=2000),
    "gpt2-medium": _GPT2 | dict(steps=600_000, batch_size=512, lr=3e-4, warmup=2000),
    "gpt2-large": _GPT2 | dict(steps=600_000, batch_size=512, lr=2.5e-4, warmup=2000),
    "gpt2-xl": _GPT2 | dict(steps=600_000, batch_size=512, lr=2e-4, warmup=2000),
}

# What continued training changes of the recipe of the model it starts from.
CONTINUED = dict(data=("world:reports",), steps=400, lr=1e-3, warmup=50)


def with_recipe(settings):
    """Return the settings with `model`, and every field that is none, filled in from the model's recipe.

    Raises:
        UserError: where the objective or the preset has no recipe.
    """
    if settings.model is None:
        settings = replace(settings, model=DEFAULT_MODEL[settings.objective])
    if settings.model not in RECIPES:
        known = "" if settings.model in PRESETS else suggest(settings.model, RECIPES)
        if Path(settings.model).is_dir():
            known = ", and a folder is given by --init"
        raise UserError(
            f"--model {settings.model}: no preset that this script trains{known}: {', '.join(RECIPES)}"
        )
    recipe = RECIPES[settings.model] | (CONTINUED if settings.init else {})
    return filled_in(settings, recipe)


def filled_in(settings, recipe: dict):
    """Return the settings with every field that is none taken from the recipe, where that has it."""
    empty = [field.name for field in fields(settings) if getattr(settings, field.name) is None]
    return replace(settings, **{name: recipe[name] for name in empty if name in recipe})
