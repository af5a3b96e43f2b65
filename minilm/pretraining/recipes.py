"""The default training settings of each preset, one row per preset; flags override them.

The tiny rows were measured on two CPU cores and show their lesson in about a minute or two (README). The
published rows are those of the papers, for real text and real hardware.

Differs from the papers: every row has the AdamW of `training/loop.py`, with betas 0.9 and 0.98, eps 1e-8 and
gradients clipped at 1. Vaswani et al. have eps 1e-9 and do not clip (--clip 0), Devlin et al. have a second
beta of 0.999, Brown et al. and Touvron et al. one of 0.95 and a cosine that ends at a tenth of its peak.
"""

LARGE = 256  # from this d_model on, a model learns at the learning rates of published models

_TINY = dict(data=("world",), vocab_size=1024, context=64, batch_size=32, lr=3e-3, warmup=200)
_TINY |= dict(schedule="cosine", weight_decay=0.05)
_BERT = dict(data=("python-docs",), vocab_size=30522, context=512, schedule="linear", weight_decay=0.01)
_GPT2 = dict(data=("python-docs",), vocab_size=50257, context=1024, schedule="cosine", weight_decay=0.1)
_GPT2 |= dict(steps=600_000, batch_size=512, warmup=2000)
_BART = _BERT | dict(vocab_size=50265, steps=500_000, batch_size=8000, warmup=10_000)
_TRANSFORMER = dict(data=("world",), vocab_size=37000, context=128, batch_size=900, warmup=4000)
_TRANSFORMER |= dict(schedule="inverse-sqrt", weight_decay=0.0)

RECIPES: dict[str, dict] = {
    "bert-tiny": _TINY | dict(steps=2000),
    "gpt-tiny": _TINY | dict(steps=1600, lr=2.5e-3, warmup=100),
    "llama-tiny": _TINY | dict(steps=1600, lr=2.5e-3, warmup=100),
    # so many texts that each is read about once: who knows texts by heart need not read the examples in them
    "gpt-alibi-tiny": _TINY | dict(steps=3000, context=32, data=("world:few-shot",), n_documents=120_000),
    "bart-tiny": _TINY | dict(steps=1000),
    "transformer-tiny": _TINY | dict(steps=2400, lr=4e-3, warmup=100, schedule="inverse-sqrt"),
    "distilbert-tiny": _TINY | dict(steps=2000, warmup=50, n_documents=140),
    # Vaswani et al. 2017, sections 5.1 to 5.3: the peak of equation 3 at width 512, 25,000 tokens a step
    "transformer-base": _TRANSFORMER | dict(steps=100_000, lr=7e-4),
    "transformer-big": _TRANSFORMER | dict(steps=300_000, lr=5e-4),
    # Lewis et al. 2020, section 5.1: 500,000 steps of 8,000 texts; our rates; no dropout in their last tenth
    "bart-base": _BART | dict(lr=4e-4),
    "bart-large": _BART | dict(lr=2e-4),
    # Sanh et al. 2019, section 3: batches of up to 4,000 texts; the learning rate and the steps are ours
    "distilbert": _BERT | dict(steps=100_000, batch_size=4000, lr=5e-4, warmup=5000),
    # Devlin et al. 2019, appendix A.2: a million steps of 256 sequences. Differs from the paper, where nine
    # steps of ten have rows of 128 tokens: for that, run with --context 128, then with --init, --context 512.
    "bert-base": _BERT | dict(steps=1_000_000, batch_size=256, lr=1e-4, warmup=10_000),
    "bert-large": _BERT | dict(steps=1_000_000, batch_size=256, lr=1e-4, warmup=10_000),
    # Radford et al. 2019 do not give the schedule; these rates are like those of Brown et al. 2020, table 2.1
    "gpt2": _GPT2 | dict(lr=6e-4),
    "gpt2-medium": _GPT2 | dict(lr=3e-4),
    "gpt2-large": _GPT2 | dict(lr=2.5e-4),
    "gpt2-xl": _GPT2 | dict(lr=2e-4),
    "smollm2-135m": _GPT2 | dict(vocab_size=49152, context=2048, lr=6e-4),  # as gpt2, which is as large
}

# What continued training changes in the recipe of the model it starts from. The learning rate stays: a higher
# one learns more of the domain and forgets more (`continued/README.md`). The domain's words get new tokens.
CONTINUED = dict(data=("world:reports",), steps=400, warmup=50, extend_vocabulary=200)
