"""How a model answers: by the label whose tokens are the likeliest continuation of the prompt.

    prompt -> log p(label | prompt) -> score of each label -> answer

Source: Brown et al. 2020, section 2.4; calibration: Zhao et al. 2021, "Calibrate Before Use", section 5.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.config import ModelConfig
from ..model.draft import pad
from ..model.generate import check_decoder, check_prompt, evaluation_mode
from ..model.sampling import next_token_distributions
from ..tokenizer.rows import END, batches_by_length, decoder_begin, prompt_ids, text_ids
from .prompts import PromptFormat, Question

SCORES = ("sum", "mean", "calibrated")
MOST_TOKENS = 2**14  # of a batch, with any shared beginning: a large model's caches must fit into memory
WORTH_SHARING = 16  # tokens; a shorter shared beginning is read again in each prompt
CONTENT_FREE = ("N/A", "[MASK]", "")  # texts that call for no label: Zhao et al. 2021, section 5


def label_tokens(tokenizer, prompt_format: PromptFormat, config: ModelConfig) -> list[tuple[int, ...]]:
    """Return the ids of each label, as they follow a prompt."""
    if config.kind == "decoder":
        labels = [tuple(tokenizer.encode(text, False)) for text in prompt_format.continuations()]
        follows = tokenizer.encode(prompt_format.ending(), False) or [tokenizer.special_id(END)]
    else:
        labels = [tuple(text_ids(tokenizer, config, word)) for word in prompt_format.words.values()]
        follows = [tokenizer.special_id("[SEP]")]
    # If one label is the beginning of another ("new", "news"), all get the token that follows a label in the
    # prompt: without it, the longer label could never be likelier than the shorter one.
    nested = any(a != b and b[: len(a)] == a for a in labels for b in labels)
    return [(*label, follows[0]) for label in labels] if nested else labels


def positions_needed(tokenizer, config, prompt_format: PromptFormat, questions, score: str) -> int:
    """Return how many positions the longest prompt takes for a score; in a decoder, with its label."""
    n_label = max(map(len, label_tokens(tokenizer, prompt_format, config)))
    texts = CONTENT_FREE if score == "calibrated" else ()
    asked = (prompt for q in questions for prompt in (q, *(replace(q, text=text) for text in texts)))
    n_prompt = max(len(prompt_ids(tokenizer, config, p)) for p in set(map(prompt_format.prompt, asked)))
    return n_prompt + (n_label - 1 if config.kind == "decoder" else 0)


@torch.inference_mode()
def label_log_likelihoods(model, tokenizer, prompts: Sequence[str], labels, batch_size=128) -> Tensor:
    """Return log p(label | prompt) in nats, (N, n_label); UserError if the model cannot read a prompt."""
    check_decoder(model)
    # Equal prompts are read once: calibration repeats the same few texts after the same examples.
    distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    rows = [prompt_ids(tokenizer, model.config, prompt) for prompt in distinct]
    n_more = 0 if model.encoder else max(map(len, labels)) - 1  # a label's last token is scored, not read
    for row in rows:
        check_prompt(row + [0] * n_more, "a prompt with its examples (--shots)", model.config)
    lengths = [*map(len, rows)]
    batch_size = min(batch_size, max(1, MOST_TOKENS // (max(lengths) + n_more)))
    result = torch.empty(len(rows), len(labels))
    start = decoder_begin(tokenizer) if model.encoder else []
    # What all rows begin with is read once, but no row's last token (not with ALiBi: it counts padding).
    shared = len([*takewhile(lambda ids: len({*ids}) == 1, zip(*(row[:-1] for row in rows), strict=False))])
    with evaluation_mode(model):
        caches = None
        if shared >= WORTH_SHARING and not model.encoder and model.config.positions != "alibi":
            caches = model.new_caches(shared)
            model.decode(torch.tensor([rows[0][:shared]], device=model.tokens.weight.device), caches=caches)
            rows = [row[shared:] for row in rows]
        for chosen in batches_by_length(lengths, batch_size):  # equal lengths need no padding
            result[chosen] = batch_likelihoods(model, [rows[i] for i in chosen], labels, start, caches).cpu()
    return result[[distinct[prompt] for prompt in prompts]]


def batch_likelihoods(model, prompts, labels: list[tuple[int, ...]], start: list[int], caches=None) -> Tensor:
    """Return (B, n_label): log p(label | prompt) = sum over t of log p(label_t | prompt, label_<t).

    `prompts`: B lists of ids; an encoder reads them, if there is one, and its decoder begins with `start`.
    `caches`: keys and values of the tokens before all prompts; None: there are none.
    """
    device = model.tokens.weight.device
    encoder_ids = encoder_mask = hidden = None
    if model.encoder:
        encoder_ids, encoder_mask = pad(prompts, 0, "right", device)  # (B, S)
        prompts = [start] * len(prompts)
    scores = torch.empty(len(prompts), len(labels), device=device)
    # One pass scores all labels that differ only in their last token. If every label is a single token, one
    # pass is enough: its last distribution has the probability of each label.
    for head in {label[:-1] for label in labels}:
        # Padded on the left: labels stand in the same columns. The last 0 is a placeholder, never read.
        ids, mask = pad([[*prompt, *head, 0] for prompt in prompts], 0, "left", device)  # (B, T)
        if caches:
            B, T = ids.shape  # of what follows the S tokens in the caches
            mask = torch.ones_like(ids) if mask is None else mask
            seen = F.pad(mask[:, :-1], (caches[0][0].length, 0), value=1)  # (B, S + T - 1)
            copies = [(own.repeated(B, T), cross) for own, cross in caches]
            hidden = model.decode(ids[:, :-1], seen, caches=copies)[-1]  # (B, T - 1, D)
        inputs = (model, ids, mask, encoder_ids, encoder_mask)
        n_prompt = ids.shape[1] - len(head) - 1
        log_probs = next_token_distributions(*inputs, n_prompt=n_prompt, hidden=hidden)  # (B, L, V)
        of_head = sum(log_probs[:, t, token] for t, token in enumerate(head))  # (B,), or 0
        for i, label in enumerate(labels):
            if label[:-1] == head:
                scores[:, i] = log_probs[:, -1, label[-1]] + of_head
    return scores


def label_scores(model, tokenizer, prompt_format: PromptFormat, questions, score: str = "sum") -> Tensor:
    """Return the score of each label for each question, (N, n_label); the highest is the answer.

    `sum`: log p(label | prompt). `mean`: that / the number of the label's tokens.
    `calibrated`: log of p(label) / its mean over prompts with the texts CONTENT_FREE, each p normalised over
    the labels: a label that is likely for any text wins no more often. Differs from Zhao et al.: the whole
    label counts, not only its first token.
    """
    labels = label_tokens(tokenizer, prompt_format, model.config)

    def likelihoods(asked: Sequence[Question]) -> Tensor:
        return label_log_likelihoods(model, tokenizer, [prompt_format.prompt(q) for q in asked], labels)

    scores = likelihoods(questions)
    if score == "mean":
        return scores / torch.tensor([len(label) for label in labels])  # else long labels would score lower
    if score == "calibrated":
        free = [likelihoods([replace(q, text=text) for q in questions]) for text in CONTENT_FREE]
        # The log of a mean, by logsumexp: a softmax is 0, its log -inf, 104 nats below the likeliest label.
        expected = torch.stack(free).log_softmax(-1).logsumexp(0) - math.log(len(free))  # (N, n_label)
        return scores.log_softmax(-1) - expected
    return scores


def answers(model, tokenizer, prompt_format: PromptFormat, questions, score: str = "sum") -> list[str]:
    """Return the label with the highest score for each question."""
    best = label_scores(model, tokenizer, prompt_format, questions, score).argmax(-1).tolist()
    return [list(prompt_format.words)[i] for i in best]


def accuracy(model, tokenizer, prompt_format: PromptFormat, questions, score: str = "sum") -> float:
    """Return the share of questions that the model answers correctly."""
    given = answers(model, tokenizer, prompt_format, questions, score)
    return sum(a == q.label for a, q in zip(given, questions, strict=True)) / len(questions)
