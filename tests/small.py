"""What several test files share: a text, a tokenizer, objectives and models that train in milliseconds."""

import json
import os
import random
import signal
import zlib
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch

from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.pretraining.causal import Causal
from minilm.pretraining.masked import Masked
from minilm.texts.corpus import Corpus
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.training.loop import TrainingSettings
from minilm.training.objective import IGNORED

CONTEXT, BATCH_SIZE = 24, 7


def in_shell(command: str) -> str:
    """Return a command as the system's shell reads it; on Windows ' is a letter."""
    return command if os.name == "posix" else command.replace("'", '"')


def documents(n: int, seed: int = 0) -> list[str]:
    """Return n texts of two to five sentences."""
    draw = random.Random(seed)

    def sentence() -> str:
        who = draw.choice(["Ana", "Rui", "The old baker"])
        what = draw.choice(["bread", "a lamp", "two red pens"])
        return f"{who} {draw.choice(['sells', 'found', 'likes'])} {what}{draw.choice(['', ' on Monday'])}."

    return [" ".join(sentence() for _ in range(draw.randint(2, 5))) for _ in range(n)]


@cache
def tokenizer() -> BPE:
    """Return a BPE with all special tokens and a few merges."""
    return BPE.train(documents(40), 300, SPECIAL_TOKENS)


def corpus() -> Corpus:
    """Return 40 texts to train on, and 5 others."""
    return Corpus("small", documents(40, seed=1), documents(5, seed=2))


class RaggedCausal(Causal):
    """GPT's objective on rows that hold very different numbers of labels."""

    def batch(self, step: int, split: str) -> dict[str, torch.Tensor]:
        batch = super().batch(step, split)
        for row, labels in enumerate(batch["labels"]):
            labels[2 + 5 * row % CONTEXT :] = IGNORED
        return batch | dict(n_label=(batch["labels"] != IGNORED).sum().float())


def objective(kind: str, batch_size: int = BATCH_SIZE):
    """Return the objective `causal` or `masked` on the small text."""
    return dict(causal=RaggedCausal, masked=Masked)[kind](corpus(), tokenizer(), CONTEXT, batch_size)


def model(kind: str, dropout: float = 0.0, seed: int = 0) -> torch.nn.Module:
    """Return a model for the objective `kind`, with random weights drawn from the seed."""
    if kind == "masked":
        shape = dict(n_encoder_layer=1, n_segments=2, pooler=True, next_sentence=True)
    else:
        shape = dict(n_decoder_layer=1, final_norm=True)
    torch.manual_seed(seed)
    sizes = dict(vocab_size=tokenizer().vocab_size, d_model=8, n_head=2, d_ff=12, max_positions=CONTEXT)
    return build(ModelConfig(**sizes, **shape, dropout=dropout, attention_dropout=dropout))


def settings(**changes) -> TrainingSettings:
    """Return settings of a short run with these changes."""
    short = dict(steps=6, batch_size=BATCH_SIZE, lr=3e-3, warmup=2, schedule="linear", weight_decay=0.1)
    return TrainingSettings(**short | dict(eval_every=100) | changes)


class Disturbed:
    """An objective that does something else when the batch of one training step is made.

    `act()` is called at `step`, counted from 0. Where it returns a number the loss is multiplied by it.
    """

    update = state = None

    def __init__(self, objective, step: int, act):
        self.objective, self.step, self.act = objective, step, act

    def batch(self, step: int, split: str) -> dict[str, torch.Tensor]:
        batch = self.objective.batch(step, split)
        factor = self.act() if split == "train" and step == self.step else None
        return batch if factor is None else batch | dict(factor=torch.tensor(factor))

    def loss(self, model, batch: dict[str, torch.Tensor]) -> tuple:
        loss, metrics = self.objective.loss(model, batch)
        loss = loss * batch.get("factor", 1.0)
        return loss, metrics | dict(loss=loss)


def assert_equal(found, expected, where: str = "state") -> None:
    """Compare nested dictionaries, lists and tuples of tensors and plain values, bit for bit."""
    assert type(found) is type(expected), f"{where}: {type(found)}, expected {type(expected)}"
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_equal(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_equal(a, b, f"{where}[{i}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), f"{where} differs by {(found - expected).abs().max()}"
    else:
        assert found == expected, f"{where}: {found}, expected {expected}"


def results(folder: str) -> dict:
    """Return the figures that a run has written into its folder."""
    return json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))


def check_error(outcome: tuple[int, str, str], *words: str) -> None:
    """Check how a script failed: exit code 2, and one line that begins with "error:" and has all words."""
    code, _, err = outcome
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for word in words:
        assert word in err, f"{word!r} is not named in: {err}"


def succeed(outcome: tuple[int, str, str]) -> str:
    """Check that a script ended with exit code 0, and return its standard output."""
    code, out, err = outcome
    assert code == 0, err
    return out


def contents(folder) -> dict[str, bytes]:
    """Return what is in each file of a folder, by its name."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@contextmanager
def ctrl_c(objective: type, at: int):
    """Let Ctrl-C come whenever an objective of this class makes the batch of step `at`, counted from 0."""
    plain = objective.batch

    def batch(self, step: int, split: str):
        if split == "train" and step == at:
            signal.raise_signal(signal.SIGINT)
        return plain(self, step, split)

    with mock.patch.object(objective, "batch", batch):
        yield


def learn(objective, model, n_step: int, lr: float) -> None:
    """Train the model for some steps, as plainly as can be."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.98))
    for step in range(n_step):
        optimizer.zero_grad()
        objective.loss(model, objective.batch(step, "train"))[0].backward()
        optimizer.step()


def commonest(labels: torch.Tensor) -> int:
    """Return the label that occurs most, for a model that says it all the time and is right at times."""
    return int(labels[labels != IGNORED].mode().values)


def within_5_sigma(count: int, n: int, share: float) -> bool:
    """Whether `count` of n independent draws fits a chance of `share` each."""
    return abs(count - n * share) <= 5 * (n * share * (1 - share)) ** 0.5 + 1e-9


def fingerprint(*values) -> str:
    """Return eight hexadecimal digits that change with anything in the values: texts that READMEs measure."""
    return f"{zlib.crc32(repr(values).encode()):08x}"


def fingerprint_of_batches(objective) -> str:
    """Return that of two batches to learn from, and of the batch that a run is measured on."""
    batches = objective.batch(0, "train"), objective.batch(7, "train"), objective.batch(0, "validation")
    return fingerprint([{name: value.tolist() for name, value in batch.items()} for batch in batches])


def assert_fixed(made, by_name: bool = False) -> None:
    """Assert that no field of a dataclass can be set, and with `by_name` that none is given by its place."""
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(made)[0].name, None)
    if by_name:
        with pytest.raises(TypeError, match="positional argument"):
            type(made)(None)
