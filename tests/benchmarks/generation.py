"""Measures minilm.generate against a loop without a cache and, where transformers is installed, against it.

    python tests/benchmarks/generation.py

8 prompts of 16 tokens, 112 new tokens each, sampled from a decoder of 4 layers and width 128, two threads.
They take turns, and the shortest time of each counts: the one that other programs disturbed least. Exit
status 1 where a ratio falls short.
"""

import sys
import time

import torch

import minilm
from minilm.model.config import ModelConfig

B, N_PROMPT, N_NEW, V, D, LAYERS, HEADS = 8, 16, 112, 1000, 128, 4, 4
ROUNDS = 9
TARGETS = {"no cache": 3.0, "transformers": 2.0}


@torch.no_grad()
def without_cache(model, ids):
    """The plain way: for each token, run the model over the whole text and draw from the last logits."""
    model.eval()
    for _ in range(N_NEW):
        logits = model(ids[:, -model.config.max_positions :])[:, -1]
        token = torch.multinomial(logits.softmax(-1), 1)  # (B, 1)
        ids = torch.cat([ids, token], dim=1)
    return ids


def transformers_generate():
    """Return a function that samples from a GPT-2 of the same shape in transformers, or none without it."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        return None
    shape = dict(vocab_size=V, n_positions=128, n_embd=D, n_layer=LAYERS, n_head=HEADS)
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=None, pad_token_id=0)).eval()
    settings = dict(max_new_tokens=N_NEW, do_sample=True, top_k=0, use_cache=True)
    return lambda ids: model.generate(ids, attention_mask=torch.ones_like(ids), **settings)


def seconds(write, ids) -> float:
    start = time.perf_counter()
    result = write(ids)
    assert result.shape == (B, N_PROMPT + N_NEW), "not all wrote as much"
    return time.perf_counter() - start


def main() -> int:
    """Time all writers in turn and print the ratios."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    sizes = dict(vocab_size=V, n_decoder_layer=LAYERS, d_model=D, n_head=HEADS, d_ff=4 * D, max_positions=128)
    model = minilm.build(ModelConfig(**sizes, final_norm=True, activation="gelu_tanh"))
    ids = torch.randint(V, (B, N_PROMPT))
    writers = {
        "minilm": lambda ids: minilm.generate(model, ids, max_new_tokens=N_NEW),
        "no cache": lambda ids: without_cache(model, ids),
        "transformers": transformers_generate(),
    }
    if writers["transformers"] is None:
        print("transformers is not installed: left out (pip install -e .[parity])")
        del writers["transformers"]
    times = {name: [] for name in writers}
    for round_ in range(ROUNDS + 1):
        for name, write in writers.items():
            taken = seconds(write, ids)
            if round_:  # the first round warms up
                times[name].append(taken)
    shortest = {name: min(values) for name, values in times.items()}
    missed = False
    for name, taken in shortest.items():
        line = f"{name:14}{taken:8.3f} s  {B * N_NEW / taken:8.0f} tokens/s"
        if name in TARGETS:
            ratio = taken / shortest["minilm"]
            missed |= ratio < TARGETS[name]
            line += f"  minilm is {ratio:.1f} times as fast (at least {TARGETS[name]:.0f})"
        print(line)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
