"""Sizes that are unequal everywhere, so that a swapped axis fails, and small models of every kind in them."""

import torch
from torch import nn

from minilm.model.config import ModelConfig
from minilm.model.transformer import Transformer, build

B, T, S, V, D, H, F = 2, 5, 7, 31, 12, 3, 20
KINDS = {"encoder": (2, 0), "decoder": (0, 2), "encoder-decoder": (1, 2)}
POSITIONS = ModelConfig.__annotations__["positions"].__args__
PAD = {  # of S columns: two rows, the first of them three tokens short
    "left": torch.tensor([[0] * 3 + [1] * 4, [1] * 7]),
    "right": torch.tensor([[1] * 4 + [0] * 3, [1] * 7]),
}
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5]]


def config(kind: str = "encoder", **fields) -> ModelConfig:
    """A small model without dropout, with these fields changed."""
    encoder, decoder = KINDS[kind]
    sizes = dict(vocab_size=V, n_encoder_layer=encoder, n_decoder_layer=decoder, d_model=D, n_head=H, d_ff=F)
    return ModelConfig(**(sizes | dict(max_positions=10, dropout=0.0, attention_dropout=0.0) | fields))


def randomise(module: nn.Module, std: float = 0.5) -> nn.Module:
    """Give all parameters different values, so that leaving out a norm or bias is noticed."""
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module


def model(kind: str = "encoder", **fields) -> Transformer:
    """A model with different values in all parameters."""
    return randomise(build(config(kind, **fields)).eval(), 0.4)


def writer(kind: str = "decoder", **fields) -> Transformer:
    """A fresh model with a vocabulary of 11 tokens and 16 positions, for tests that write texts."""
    return build(config(kind, **dict(vocab_size=11, max_positions=16, init_std=0.3) | fields)).eval()


def ids(rows: int, length: int, vocab_size: int = V) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(vocab_size, (rows, length))


def inputs(kind: str, rows: int = B) -> dict:
    """Arguments of `forward`: segments for an encoder, and a text of its own for a decoder that has one."""
    if kind == "decoder":
        return dict(input_ids=ids(rows, T))
    given = dict(input_ids=ids(rows, S), token_type_ids=torch.randint(2, (rows, S)))
    return given | (dict(decoder_input_ids=ids(rows, T)) if kind == "encoder-decoder" else {})
