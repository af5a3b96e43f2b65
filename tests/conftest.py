"""Every test starts with the same random numbers and one thread; small texts, tokenizers and models."""

import gc
import inspect
import os
import random
import sys
from functools import cache

import pytest
import torch

from minilm import world
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.folders import unlock
from minilm.plumbing.script import exit_code
from minilm.texts.corpus import Corpus
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS

pytest_plugins = ["two_at_once"]
# tests are tiny: threads that wait for each other on a busy machine cost five times more
torch.set_num_threads(1)
# the flags of a script are read from the source of its settings: hundreds of times, of the same few classes
inspect.getsource = cache(inspect.getsource)
os.fsync = lambda _: None  # thousands of small files: the disk is not what is tried
if not torch.cuda.is_available():
    torch.manual_seed = torch.default_generator.manual_seed  # else it notes who called it, for a GPU to come
gc.disable()  # until the tests are read


def pytest_collection_finish():
    gc.freeze()  # what is there now stays: not to be gone through again and again
    gc.enable()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    yield
    unlock()


def tagged_documents(n: int, seed: int = 0, most: int = 9) -> list[str]:
    """Documents of 1 to `most` sentences that say which document and sentence they are: "D3 s1 sun tree." """
    rng = random.Random(seed)
    words = ["sun", "tree", "a", "window", "été", "rain", "of", "yesterday"]

    def sentence(d, s):
        return " ".join([f"D{d}", f"s{s}", *rng.choices(words, k=rng.randint(1, 9))]) + "."

    return [" ".join(sentence(d, s) for s in range(rng.randint(1, most))) for d in range(n)]


@pytest.fixture(scope="session")
def documents():
    return tagged_documents


@pytest.fixture(scope="session")
def byte_bpe():
    """One token a byte, after the special tokens."""
    return BPE.train([], 256 + len(SPECIAL_TOKENS), SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def bpe():
    """A tokenizer with merges, some of them inside words and letters."""
    return BPE.train(tagged_documents(60), 330, SPECIAL_TOKENS)


@pytest.fixture(scope="session")
def tagged_corpus():
    texts = tagged_documents(77)
    return Corpus("tagged", texts[:60], texts[60:])


@pytest.fixture(scope="session")
def world_corpus():
    train = world.documents(500)
    validation = [text for text in world.documents(80, start=500) if text not in train][:60]
    return Corpus("world", train, validation, world.log_probability)


@pytest.fixture(scope="session")
def world_bpe(world_corpus):
    return BPE.train(world_corpus.train, 1024, SPECIAL_TOKENS)


@pytest.fixture
def run_script(monkeypatch, capsys):
    """A function that runs a script with arguments: exit code, standard output and error."""

    def run(module, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *words])
        capsys.readouterr()
        code = exit_code(module.main)
        unlock()  # as its process would at its end
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def encoder():
    """A function that builds a small BERT, with random weights by the seed of the test."""

    def make(vocab_size, max_positions=64, pairs=True, **changes):
        heads = dict(n_segments=2, pooler=True, next_sentence=True) if pairs else {}
        sizes = dict(n_encoder_layer=1, d_model=12, n_head=3, d_ff=20, dropout=0.0, attention_dropout=0.0)
        config = dict(vocab_size=vocab_size, max_positions=max_positions, final_norm=True)
        return build(ModelConfig(**config | heads | sizes | changes))

    return make


@pytest.fixture
def decoder():
    """A function that builds a small GPT, with random weights by the seed of the test."""

    def make(vocab_size, max_positions=64, **changes):
        sizes = dict(n_decoder_layer=1, d_model=12, n_head=3, d_ff=20, dropout=0.0, attention_dropout=0.0)
        config = dict(vocab_size=vocab_size, max_positions=max_positions, final_norm=True, head_bias=True)
        return build(ModelConfig(**config | sizes | changes))

    return make


@pytest.fixture
def assert_parts_add_up():
    """A function that compares loss, metrics and gradients of unequal parts of a batch with the whole."""
    from minilm.training.objective import by_length

    def compare(objective, model, batch, n_part):
        def measure(parts):
            model.zero_grad()
            sums = {}
            for part in parts:
                loss, metrics = objective.loss(model, part)
                loss.backward()
                for name, value in {"the loss itself": loss, **metrics}.items():
                    sums[name] = sums.get(name, 0) + value.detach().double()
            return sums, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

        whole, whole_gradient = measure([batch])
        parts, gradient = measure(by_length(batch, n_part))
        for name in whole:
            torch.testing.assert_close(
                parts[name], whole[name], rtol=1e-5, atol=1e-6,
                msg=f"{name}: {parts[name]:.6f} in parts, not {whole[name]:.6f}: divide by the batch's count",
            )  # fmt: skip
        assert whole_gradient, "the loss reaches no weight"
        for name in whole_gradient:
            torch.testing.assert_close(gradient[name], whole_gradient[name], rtol=1e-4, atol=1e-6, msg=name)

    return compare
