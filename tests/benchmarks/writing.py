"""A decoder that writes, and one that answers after examples: 4 layers of width 128, random weights."""

import random
from dataclasses import replace

import torch
from benchmarks.case import OURS, Case, nanogpt_model, peer, transformers_model

from minilm import world
from minilm.in_context.prompts import PromptFormat, draw_questions
from minilm.in_context.scores import label_log_likelihoods, label_tokens
from minilm.model.config import PRESETS
from minilm.model.generate import generate
from minilm.model.transformer import build
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.tokenizer.rows import prompt_ids

SHAPE = replace(PRESETS["gpt2"], n_decoder_layer=4, d_model=128, n_head=4, d_ff=512, max_positions=128)
B, N_PROMPT, N_NEW = 8, 16, 112
N_EXAMPLE, N_QUESTION, ROWS = 8, 64, 32  # ROWS of a batch of transformers


@torch.no_grad()
def without_cache(model, ids: torch.Tensor) -> torch.Tensor:
    """Write the plain way: for each token read the whole text, and draw from the last logits."""
    for _ in range(N_NEW):
        logits = model(ids)[:, -1]  # (B, V)
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    return ids


def generation() -> Case:
    """Sample 112 tokens after each of 8 prompts of 16."""
    config = replace(SHAPE, vocab_size=1000)
    model, ids = build(config).eval(), torch.randint(config.vocab_size, (B, N_PROMPT))

    def transformers():
        theirs, how = transformers_model(config).eval(), dict(max_new_tokens=N_NEW, do_sample=True, top_k=0)
        return lambda: theirs.generate(ids, attention_mask=torch.ones_like(ids), use_cache=True, **how)

    def nanogpt():
        theirs = nanogpt_model(config).eval()
        return lambda: theirs.generate(ids, N_NEW)

    sides = {OURS: lambda: generate(model, ids, max_new_tokens=N_NEW)}
    sides["no cache"] = lambda: without_cache(model, ids)
    sides |= {"nanoGPT": peer("nanogpt", nanogpt), "transformers": peer("transformers", transformers)}
    aims = {"no cache": 3.0, "transformers": 3.5}
    return Case(sides, aims, (B * N_NEW, "tokens"), same=lambda ours, theirs: ours.shape == theirs.shape)


def few_shot() -> Case:
    """Choose one of two labels for each of 64 texts, all after the same 8 examples.

    A user of transformers pads the whole prompts on the left, 32 at once, and reads the labels' logits behind
    the last token.
    """
    tokenizer = BPE.train(world.documents(400), 1024, SPECIAL_TOKENS)
    config = replace(SHAPE, vocab_size=tokenizer.vocab_size, max_positions=1024)
    stories = world.draw(N_EXAMPLE + N_QUESTION, held_out=False)
    examples = [(" ".join(s.sentences[1:]), "happy" if s.happy else "unhappy") for s in stories]
    random.Random(0).shuffle(examples)
    shape = PromptFormat(dict(happy="happy", unhappy="sad"))
    questions = draw_questions(examples[:N_EXAMPLE], examples[N_EXAMPLE:], N_EXAMPLE, seed=0)
    prompts = [shape.prompt(question) for question in questions]
    labels = label_tokens(tokenizer, shape, config)
    model, ends = build(config).eval(), torch.tensor([label[0] for label in labels])

    @torch.inference_mode()
    def transformers_answers(theirs) -> torch.Tensor:
        rows = [prompt_ids(tokenizer, config, prompt) for prompt in prompts]
        found = []
        for start in range(0, len(rows), ROWS):
            batch = rows[start : start + ROWS]
            T = max(map(len, batch))
            ids = torch.tensor([[0] * (T - len(row)) + row for row in batch])  # (B, T)
            mask = torch.tensor([[0] * (T - len(row)) + [1] * len(row) for row in batch])
            places = (mask.cumsum(1) - 1).clamp(min=0)
            logits = theirs(ids, attention_mask=mask, position_ids=places, logits_to_keep=1).logits
            found.append(logits[:, -1].log_softmax(-1)[:, ends])  # (B, n_label)
        return torch.cat(found)

    def transformers():
        theirs = transformers_model(config).eval()
        return lambda: transformers_answers(theirs)

    sides = {OURS: lambda: label_log_likelihoods(model, tokenizer, prompts, labels)}
    sides["transformers"] = peer("transformers", transformers)
    assert all(len(label) == 1 for label in labels), "each label is one token"
    return Case(sides, {}, (N_QUESTION, "questions"), same=lambda ours, theirs: ours.shape == theirs.shape)


CASES = {"generation": generation, "few-shot": few_shot}
