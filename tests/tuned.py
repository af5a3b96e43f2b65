"""What the tests of fine-tuning share: small models of each kind, and examples that are learnt at once."""

import small
import torch

from minilm.finetuning.classification import Classification
from minilm.finetuning.comparison import prepared, trained
from minilm.finetuning.examples import Parts
from minilm.finetuning.heads import WithHead, put_head_on
from minilm.finetuning.settings import FinetuningSettings
from minilm.finetuning.tasks import Task
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
    shape |= dict(vocab_size=small.tokenizer().vocab_size, d_model=12, n_head=3, d_ff=20)
    shape |= dict(max_positions=CONTEXT, final_norm=True, dropout=0.0, attention_dropout=0.0)
    return ModelConfig(**shape | changes)


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


def parts(n: int = 15) -> Parts:
    """Return labelled texts in three parts."""
    return Parts(labelled(n), labelled(6, seed=1), labelled(9, seed=2))


def task(cls: type[Task] = Classification, train=None, kind="encoder", context=CONTEXT, **options) -> Task:
    """Return a task that has read the training examples (by default `labelled`)."""
    shape = kind if isinstance(kind, ModelConfig) else config(kind)
    known = cls.learn(train or labelled(15), small.tokenizer())
    return cls(small.tokenizer(), shape, context, known, **options)


def settings(**changes) -> FinetuningSettings:
    """Return settings of a short run with these changes."""
    short = dict(steps=4, batch_size=5, warmup=1, schedule="linear", weight_decay=0.1, lr=5e-3)
    short |= dict(context=CONTEXT, seeds=(0,), eval_every=100, compare=False)
    return FinetuningSettings(**short | changes)


def model(made: Task, seed: int = 0) -> WithHead:
    """Return a body of random weights with the head of a task."""
    return put_head_on(body(made.config.kind, seed), made.head()).eval()


def learnt(made: Task, train: list[tuple], test: list[tuple] | None = None, **changes) -> WithHead:
    """Return a model that has learnt a task from examples."""
    own = settings(**dict(lr=2e-2, warmup=5) | changes)
    tuned, objective = prepared(body(made.config.kind), made, Parts(train, train, test or train), own)
    trained(tuned, objective, own)
    return tuned
