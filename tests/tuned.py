"""What the tests of fine-tuning share: small models of each kind, and examples that are learnt at once."""

from dataclasses import replace

import small
import torch

from minilm.finetuning.classification import Classification
from minilm.finetuning.settings import FinetuningSettings
from minilm.finetuning.tasks import Examples
from minilm.model.config import ModelConfig
from minilm.model.transformer import build

KINDS = ("encoder", "decoder", "encoder-decoder")
CONTEXT = 40


def config(kind: str = "encoder", **changes) -> ModelConfig:
    """Return the shape of a model of a kind: two blocks a stack, unequal sizes."""
    shape = {
        "encoder": dict(n_encoder_layer=2, n_segments=2, pooler=True, next_sentence=True),
        "decoder": dict(n_decoder_layer=2),
        "encoder-decoder": dict(n_encoder_layer=2, n_decoder_layer=1),
    }[kind]
    sizes = dict(
        vocab_size=small.tokenizer().vocab_size, d_model=12, n_head=3, d_ff=20, max_positions=CONTEXT
    )
    made = ModelConfig(**sizes, **shape, final_norm=True, dropout=0.0, attention_dropout=0.0)
    return replace(made, **changes)


def body(kind: str = "encoder", seed: int = 0, **changes) -> torch.nn.Module:
    """Return a model with random weights drawn from the seed."""
    torch.manual_seed(seed)
    return build(config(kind, **changes)).eval()


def labelled(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return texts of unequal length that begin with what is sold, and have the place as label, in turn."""
    goods = dict(bakery="Bread", shop="Lamps", school="Pens")
    labels = list(goods)
    texts = [text.split(".")[0] for text in small.documents(n, seed)]
    return [(f"{goods[labels[i % 3]]}! {text}.", labels[i % 3]) for i, text in enumerate(texts)]


def examples(n: int = 15) -> Examples:
    """Return labelled texts in three parts."""
    return Examples(labelled(n), labelled(6, seed=1), labelled(9, seed=2), "small")


def classification(model_config: ModelConfig | None = None, **options) -> Classification:
    """Return the task of `labelled`."""
    known = Classification.learn(labelled(15))
    return Classification(small.tokenizer(), model_config or config(), CONTEXT, known, **options)


def settings(**changes) -> FinetuningSettings:
    """Return settings of a short run with these changes."""
    short = dict(
        steps=4, batch_size=5, warmup=1, schedule="linear", weight_decay=0.1, lr=5e-3, context=CONTEXT
    )
    return FinetuningSettings(**short | dict(seeds=(0,), eval_every=100) | changes)
