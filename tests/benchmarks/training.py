"""Measures a training step of a gpt2-shaped model against the machine's own matrix products and transformers.

    python tests/benchmarks/training.py

Two threads, float32. The steps of both models take turns, and the fastest of each are compared, so that a
busy machine does not decide. Without transformers that comparison is left out. Exit status 1 where a step
reaches less than 70 % of the rate of a plain matrix product, or is slower than the other model's.
"""

import importlib.util
import sys
import time

import numpy as np
import torch

from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.training.loop import BETAS, make_optimizer
from minilm.training.objective import summed_cross_entropy

ROUNDS = 12
B, T, V = 8, 256, 8192
SHAPE = dict(d_model=512, n_head=8, d_ff=2048, n_decoder_layer=4)
TARGET = 0.7


def our_step():
    """Return a function that takes one training step of our model, and its matrix products' flops a step."""
    sizes = dict(vocab_size=V, max_positions=T, dropout=0.0)
    config = ModelConfig(final_norm=True, activation="gelu_tanh", **sizes, **SHAPE)
    config = ModelConfig(**config.to_dict() | dict(attention_dropout=0.0))
    model = build(config).train()
    optimizer = make_optimizer(model, 0.1)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    n_weight = sum(p.numel() for p in model.decoder.blocks.parameters() if p.dim() == 2) + V * config.d_model
    # forward and backward: 2 + 4 flops a weight and token, and the two (T, T) products of attention
    flops = 6 * B * T * n_weight + 6 * 2 * B * T * T * config.d_model * config.n_decoder_layer

    def step(ids):
        logits = model(ids[:, :-1])
        loss = summed_cross_entropy(logits, ids[:, 1:]) / ids[:, 1:].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, flops


def their_step():
    """Return a function that takes one training step of the same model in transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    shape = dict(n_embd=SHAPE["d_model"], n_head=SHAPE["n_head"], n_layer=SHAPE["n_decoder_layer"])
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=T, **shape, **dropout)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=BETAS, fused=True)

    def step(ids):
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def product_rate() -> float:
    """Return the flops a second of a matrix product of a shape that the model has."""
    a, b = torch.randn(B * T, SHAPE["d_model"]), torch.randn(SHAPE["d_model"], SHAPE["d_ff"])
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    return 10 * 2 * a.numel() * b.shape[1] / (time.perf_counter() - start)


def seconds(step, ids) -> float:
    """Return how long one step takes."""
    start = time.perf_counter()
    step(ids)
    return time.perf_counter() - start


def main() -> int:
    """Measure and print the ratios."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, V, (B, T + 1)))
    ours, flops = our_step()
    theirs = their_step() if importlib.util.find_spec("transformers") else None
    rates, our_times, their_times = [], [], []
    for _ in range(ROUNDS):
        rates.append(product_rate())
        our_times.append(seconds(ours, ids))
        if theirs:
            their_times.append(seconds(theirs, ids))
    share = flops / min(our_times) / max(rates)
    print(f"our step {min(our_times):.2f} s: {share:.0%} of a matrix product's rate (at least {TARGET:.0%})")
    missed = share < TARGET
    if theirs:
        ratio = min(their_times) / min(our_times)
        print(f"transformers {min(their_times):.2f} s: ours is {ratio:.2f} times as fast (at least 1)")
        missed |= ratio < 1
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
