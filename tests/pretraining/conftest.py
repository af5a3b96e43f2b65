"""Objectives that the baselines and the closing tables are graded on."""

import pytest
import torch

from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.pretraining.denoising import Denoising
from minilm.pretraining.masked import Masked
from minilm.texts.corpus import Corpus


@pytest.fixture(scope="session")
def as_in_readmes():
    """A function that compares a fingerprint with that of what the READMEs' figures were measured on."""

    def compare(found: str, expected: str) -> None:
        told = "other texts or draws than those of the READMEs' figures: see the other failures, if any"
        assert found == expected, told

    return compare


@pytest.fixture(scope="session")
def shaken():
    """A function that moves all weights at random: with logits near 0 every loss would look alike."""

    def shake(model, by: float, seed: int):
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(by * torch.randn_like(p))
        return model

    return shake


@pytest.fixture
def objective(world_corpus, world_bpe):
    return Masked(world_corpus, world_bpe, 64, 16, seed=3)


@pytest.fixture
def tiny(byte_bpe):
    """Documents so short that everything can be counted by hand; a token is a letter."""
    train = ["Aab q. Bbb q.", "Cab z. Ddd z.", "Acb k. Bad k.", "Cac w. Dda w."]
    validation = ["Abb x. Bbc x.", "Aaa y. Bba y.", "Acc q. Bdd q.", "Cca v. Bab v."]
    return Masked(Corpus("tiny", train, validation), byte_bpe, 24, 6, seed=3)


@pytest.fixture
def denoising(byte_bpe):
    """The same for BART: words that stand still or move, and a document of one long sentence."""
    train = ["Aab q. Bbb q. Qa.", "Kkkkkkkkk kkkkkkkkkkk.", "Cab z. Ddd z.", "Acb k. Bad k.", "Cac w. Dda w."]
    validation = ["Akb k. Bkc k. Xxx a.", "Aak y. Bka k.", "Akk q. Bdk q.", "Cka v. Bak v.", "Dkk v."]
    return Denoising(Corpus("tiny", train, validation), byte_bpe, 30, 3, seed=3)


@pytest.fixture
def denoiser(byte_bpe):
    """A small BART for it, with two rows of the vocabulary that stand for no token."""
    torch.manual_seed(0)
    sizes = dict(n_encoder_layer=1, n_decoder_layer=1, d_model=12, n_head=3, d_ff=20)
    config = dict(max_positions=40, final_norm=True, head_bias=True, dropout=0.0, attention_dropout=0.0)
    return build(ModelConfig(vocab_size=len(byte_bpe.vocab) + 2, **config | sizes)).eval()
