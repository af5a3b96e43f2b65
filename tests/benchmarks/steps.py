"""Training steps: ours as the loop takes them, on a batch that is made already; peers' as users write them.

All sides of a case have the same shape, dropout, batch, clipping and fused AdamW, and random weights. Ours
tells its metrics besides. Dropout is 0 beside nanoGPT, whose default that is, and at the small shapes, as it
is in our presets of that size; else that of the papers.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace

import torch
from benchmarks.case import MATRIX, OURS, Case, nanogpt_model, peer, transformers_model
from torch import Tensor

from minilm.finetuning.classification import Classification
from minilm.finetuning.heads import Head, put_head_on
from minilm.model.blocks import Stack
from minilm.model.config import PRESETS, ModelConfig
from minilm.model.transformer import Transformer, build
from minilm.pretraining.causal import Causal
from minilm.pretraining.denoising import Denoising
from minilm.pretraining.masked import Masked
from minilm.training.loop import BETAS, TrainingSettings, make_optimizer, train_step
from minilm.training.machine import keep_memory, quick_products
from minilm.training.objective import IGNORED, autocast, tensors

NO_DROPOUT = dict(dropout=0.0, attention_dropout=0.0)
SMALL = dict(vocab_size=4096, d_model=128, n_head=4, d_ff=512, **NO_DROPOUT)
BERT, BART = PRESETS["bert-base"], PRESETS["bart-base"]
GPT2 = replace(PRESETS["gpt2"], vocab_size=30522, **NO_DROPOUT)
# nanoGPT's own vocabulary size; a GPU multiplies faster where all sizes are multiples of 64
NANO_GPT2 = replace(GPT2, vocab_size=50304)
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)
SMALL_GPT2 = replace(PRESETS["gpt2"], n_decoder_layer=4, **SMALL)
SMALL_BERT = replace(BERT, n_encoder_layer=4, **SMALL)
SMALL_BART = replace(BART, n_encoder_layer=4, n_decoder_layer=4, **SMALL)


def our_step(model, loss: Callable, batch: dict[str, Tensor], precision="fp32", device="cpu") -> Callable:
    """Return a function that takes one step of the loop, with the loss of an objective on the same batch."""
    how = dict(steps=10**6, lr=1e-4, warmup=1, schedule="constant", weight_decay=0.1, precision=precision)
    settings, steps = TrainingSettings(**how, batch_size=len(batch["input_ids"])), count()
    objective = SimpleNamespace(update=None, batch=lambda step, split: batch, loss=loss)
    model.to(device).train()
    if device == "cuda":  # as --compile does
        for stack in (module for module in model.modules() if isinstance(module, Stack)):
            stack.compile()
    optimizer = make_optimizer(model, settings.weight_decay)
    keep_memory()  # from here on for peers too

    def step() -> None:
        with quick_products(precision, torch.device(device)):
            train_step(model, objective, optimizer, settings, next(steps))

    return step


def their_step(model, loss: Callable, precision: str = "fp32", device="cpu") -> Callable:
    """Return a function that takes one step as users write it; `loss` is given the model."""
    model.to(device)
    if device == "cuda":
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-4, BETAS, weight_decay=0.1, fused=True)

    def step() -> None:
        with autocast(precision, torch.device(device)):
            total = loss(model)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def transformers_step(batch, config: ModelConfig, name=None, precision="fp32", device="cpu", **more):
    """Return the step of transformers' model on a batch with its labels, or None without the library."""

    def make() -> Callable:
        there = {key: value.to(device) for key, value in batch.items()}
        model = transformers_model(config, name, **more)
        return their_step(model, lambda model: model(**there).loss, precision, device)

    return peer("transformers", make)


def flops(model: Transformer, n_row: int, T: int, n_label: int) -> float:
    """Return the flops of the matrix products of a step; each stack reads n_row texts of T tokens.

    A product of n rows with a matrix of m weights is 2 n m forward and twice that backward.
    """
    config, n_token = model.config, n_row * T
    stacks = [stack for stack in (model.encoder, model.decoder) if stack is not None]
    in_blocks = sum(p.numel() for stack in stacks for p in stack.blocks.parameters() if p.dim() == 2)
    in_head = config.d_model * (config.vocab_size + config.d_model * config.head_transform)
    # Tokens that each token looks at, over all layers: under a causal mask half of T. Scores and sums of
    # values are two products for each.
    n_seen = config.n_encoder_layer * T + config.n_decoder_layer * (T / 2 + T * bool(config.n_encoder_layer))
    return 6 * (n_token * in_blocks + n_label * in_head + 2 * n_token * n_seen * config.d_model)


def objective_of(kind: type, **fields):
    """Return an objective without a corpus and a tokenizer, whose loss alone serves."""
    made = object.__new__(kind)
    vars(made).update(fields)
    return made


def causal(config: ModelConfig, B: int, T: int, aims: dict, precision="fp32", device="cpu") -> Case:
    """GPT: predict each token from those before it."""
    config = replace(config, max_positions=T)
    windows = torch.randint(config.vocab_size, (B, T + 1)).numpy()
    batch = tensors(dict(input_ids=windows[:, :-1], labels=windows[:, 1:], n_label=B * T, n_byte=4 * B * T))
    ids, labels, model = batch["input_ids"], batch["labels"], build(config)
    there = ids.to(device), labels.to(device)
    only_fp32 = precision == "bf16" and device == "cpu"  # so is nanoGPT's own script on a processor
    how = dict(precision="fp32" if only_fp32 else precision, device=device)
    nanogpt = None
    if config.positions == "learned":
        nanogpt = peer("nanogpt", lambda: their_step(nanogpt_model(config), lambda m: m(*there)[1], **how))
    theirs = transformers_step(dict(input_ids=ids, labels=ids), config, precision=precision, device=device)
    ours = our_step(model, objective_of(Causal).loss, batch, precision, device)
    how = dict(work=(B * T, "tokens"), flops=flops(model, B, T, B * T), dtype=DTYPES[precision])
    name = "nanoGPT fp32" if only_fp32 else "nanoGPT"
    return Case({OURS: ours, name: nanogpt, "transformers": theirs}, aims, device=device, **how)


def masked(config: ModelConfig, B: int, T: int, aims: dict, is_padded=False, **how) -> Case:
    """BERT: predict hidden tokens, and whether text B follows text A; `is_padded`: half of all is padding."""
    config, P = replace(config, max_positions=T), round(0.15 * T / (1 + is_padded))
    lengths = torch.linspace(P + 1, T, B).round()[:, None] if is_padded else T  # (B, 1)
    real = (torch.arange(T) < lengths).expand(B, T)
    ids = torch.randint(config.vocab_size, (B, T))
    positions = (torch.rand(B, T) - 1.0 * real).argsort(1)[:, :P]  # (B, P), of real tokens
    labels, follows = torch.randint(config.vocab_size, (B, P)), torch.arange(B) % 2
    segments = (torch.arange(T) >= T // 2).long().expand(B, T)
    batch = dict(input_ids=ids, attention_mask=real.long(), token_type_ids=segments)
    places = torch.full((B, T), IGNORED).scatter(1, positions, labels)  # where transformers wants its labels
    theirs = transformers_step(batch | dict(labels=places, next_sentence_label=follows), config, **how)
    batch |= dict(next_sentence_labels=follows, masked_positions=positions, masked_labels=labels)
    batch |= tensors(dict(n_row=B, n_masked=B * P, n_byte=4 * B * P))
    model = build(config)
    ours = our_step(model, objective_of(Masked, next_sentence=True).loss, batch, **how)
    more = dict(work=(B * T, "tokens"), flops=flops(model, B, T, B * P), device=how.get("device", "cpu"))
    more["dtype"] = DTYPES[how.get("precision", "fp32")]
    return Case({OURS: ours, "transformers": theirs}, aims, **more)


def denoising(config: ModelConfig, B: int, T: int, aims: dict, **how) -> Case:
    """BART: rebuild a spoilt text; encoder and decoder read T tokens each, those of one are told."""
    config = replace(config, max_positions=T)
    ids, labels = torch.randint(5, config.vocab_size, (2, B, T))
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
    theirs = transformers_step(batch | dict(labels=labels), config, **how)
    batch |= dict(labels=labels, decoder_input_ids=labels.roll(1, 1))
    batch["survived"] = (torch.rand(B, T) < 0.7).long()
    batch |= tensors(dict.fromkeys(("n_label", "n_kept", "n_lost"), B * T) | dict(n_byte=4 * B * T))
    model = build(config)
    ours = our_step(model, objective_of(Denoising).loss, batch, **how)
    more = dict(work=(B * T, "tokens"), flops=flops(model, B, T, B * T), device=how.get("device", "cpu"))
    more["dtype"] = DTYPES[how.get("precision", "fp32")]
    return Case({OURS: ours, "transformers": theirs}, aims, **more)


def finetuning(B: int = 4, T: int = 64, n_class: int = 3) -> Case:
    """Classify texts. What makes a difference: nobody reads the last block but at [CLS]."""
    ids = torch.randint(1000, 30000, (B, T))
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids))
    batch["labels"] = torch.arange(B) % n_class
    theirs = transformers_step(batch, BERT, "BertForSequenceClassification", num_labels=n_class)
    batch |= dict(weights=torch.ones(B)) | tensors(dict(n_row=B, n_label=B))
    model = put_head_on(build(BERT), Head(BERT, n_class, "text"))
    ours = our_step(model, objective_of(Classification).loss, batch)
    return Case({OURS: ours, "transformers": theirs}, {"transformers": 1.0}, work=(B * T, "tokens"))


def on_gpu(make: Callable, config: ModelConfig, B: int, T: int, aims: dict) -> Case:
    """The same on a GPU, where there is one: in bf16, all sides compiled; theirs finds its batch there."""
    if not torch.cuda.is_available():
        return Case({OURS: None})
    return make(config, B, T, aims, precision="bf16", device="cuda")


CASES = {
    "causal": partial(causal, SMALL_GPT2, 12, 64, {"nanoGPT": 1.25, "transformers": 1.5}),
    "masked": partial(masked, SMALL_BERT, 12, 128, {"transformers": 1.7}),
    "masked-padded": partial(masked, SMALL_BERT, 12, 128, {"transformers": 1.7}, is_padded=True),
    "encoder-decoder": partial(denoising, SMALL_BART, 12, 64, {"transformers": 1.3}),
    "gpt2": partial(causal, GPT2, 4, 128, {"nanoGPT": 1.15, "transformers": 1.15, MATRIX: 0.75}),
    "gpt2-bf16": partial(causal, GPT2, 4, 128, {"nanoGPT fp32": 1.8}, "bf16"),
    "bert-base": partial(masked, BERT, 4, 128, {"transformers": 1.3, MATRIX: 0.85}),
    "bart-base": partial(denoising, BART, 4, 128, {"transformers": 1.2}),
    "finetuning": finetuning,
    "gpu-gpt2": partial(on_gpu, causal, NANO_GPT2, 32, 1024, {"nanoGPT": 1.0, MATRIX: 0.45}),
    "gpu-bert-base": partial(on_gpu, masked, BERT, 64, 512, {}),
    "gpu-bart-base": partial(on_gpu, denoising, BART, 32, 512, {}),
    "gpu-smollm2": partial(on_gpu, causal, PRESETS["smollm2-135m"], 16, 1024, {}),
}
