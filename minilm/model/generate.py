"""Text generation: `generate` returns ids like those given, `sample` prompts and new tokens, padded."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..plumbing.errors import UserError
from .beam_search import Beam
from .draft import Draft, pad
from .sampling import PLAIN, SamplingRule, draw, uniform_numbers


@dataclass
class Sample:
    """What `sample` wrote: S columns of prompts, padded on the left, then n columns of new tokens."""

    ids: Tensor  # (B, S + n), of the decoder
    mask: Tensor  # (B, S + n), true for real tokens: the prompt, and the new ones up to the end
    n_prompt: int  # S


def generate(
    model, input_ids, max_new_tokens: int = 50, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, n_beam: int = 1, eos_id: int | None = None, seed: int | Sequence[int] = 0,
    *, forbidden_ids: Sequence[int] = (), **options,
):  # fmt: skip
    """Continue the prompts with a decoder, or with an encoder-decoder write a text for each.

    Args:
        input_ids: one prompt, a list of ids or a (T,) tensor; or several, a list of such prompts of any
            lengths or a (B, T) tensor. An encoder-decoder's encoder reads them.
        temperature, top_k, top_p, eos_id, forbidden_ids: see `SamplingRule`; temperature 0 is greedy.
        n_beam: above 1, beam search, which draws nothing: leave temperature, top_k and top_p alone.
        seed: the same seed gives the same text, see `uniform_numbers`. options: further ones of `sample`.

    Returns prompts and new tokens with their end token (of an encoder-decoder: the decoder's ids). One prompt
    gives one text of the same type, a list gives lists without padding, a (B, T) tensor one (B, T + n) with
    `pad_id` after each end. Raises UserError for a bad setting, or a prompt that the model cannot read.
    """
    rule = SamplingRule(tuple(forbidden_ids), temperature, top_k, top_p, eos_id)
    written = sample(model, input_ids, max_new_tokens, rule, seed, n_beam, **options)
    if isinstance(input_ids, Tensor) and input_ids.dim() == 2:
        if model.encoder is not None:
            return written.ids
        return torch.cat([input_ids, written.ids[:, written.n_prompt :].to(input_ids.device)], dim=1)
    texts = [ids[mask] for ids, mask in zip(written.ids, written.mask, strict=True)]
    if isinstance(input_ids, Tensor):
        return texts[0]
    return [text.tolist() for text in texts] if listed(input_ids)[1] else texts[0].tolist()


def sample(
    model, input_ids, max_new_tokens: int = 50, rule: SamplingRule = PLAIN, seed: int | Sequence[int] = 0,
    n_beam: int = 1, *, length_penalty: float = 0.6, decoder_start_id: int | Sequence[int] | None = None,
    pad_id: int | None = None, overflow: str = "slide", watch: Callable[[Tensor], None] | None = None,
) -> Sample:  # fmt: skip
    """Generate like `generate`; return prompts and new tokens as padded columns.

    Args:
        length_penalty: for beam search, see `length_normaliser`.
        decoder_start_id: what an encoder-decoder's decoder starts from: one id, or several.
        pad_id: the id that pads shorter texts; none: `eos_id`, or 0 without one.
        overflow: if a text fills all positions, "slide" drops its oldest quarter, "stop" ends the text.
        watch: called at each step with the new tokens (B,), as soon as they are drawn; not by beam search.
    """
    pad_id = (rule.eos_id or 0) if pad_id is None else pad_id
    check_settings(model, max_new_tokens, rule, n_beam, length_penalty, pad_id, overflow)
    prompts, _ = listed(input_ids)
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, f"prompt {i}", model.config)
    device = model.tokens.weight.device
    with torch.inference_mode(), evaluation_mode(model):
        memory = memory_mask = None
        if model.encoder is not None:
            encoder_ids, memory_mask = pad(prompts, pad_id, "right", device)
            memory = model.encode(encoder_ids, memory_mask)[-1]  # (B, S_encoder, D), once for all steps
            start = [decoder_start_id] if isinstance(decoder_start_id, int) else list(decoder_start_id or ())
            check_prompt(start, "decoder_start_id (what an encoder-decoder begins with)", model.config)
            prompts = [start] * len(prompts)
        room = [model.config.max_positions - len(prompt) for prompt in prompts]
        limits = [min(max_new_tokens, left) if overflow == "stop" else max_new_tokens for left in room]
        draft = Draft(model, prompts, max(limits), pad_id, memory, memory_mask)
        limits = torch.tensor(limits, device=device)
        if n_beam > 1:
            beam = Beam(draft, replace(rule, temperature=1.0), limits, n_beam, length_penalty, pad_id)
            new_ids, n_new = beam.search()
        else:
            new_ids, n_new = write(draft, rule, limits, seed, pad_id, watch)
    n = int(n_new.max())
    prompt_ids, prompt_mask = pad(prompts, pad_id, "left", device)  # (B, S)
    prompt_mask = torch.ones_like(prompt_ids, dtype=torch.bool) if prompt_mask is None else prompt_mask
    new_mask = torch.arange(n, device=device) < n_new[:, None]  # (B, n)
    ids, mask = torch.cat([prompt_ids, new_ids[:, :n]], dim=1), torch.cat([prompt_mask, new_mask], dim=1)
    return Sample(ids, mask, prompt_ids.shape[1])


def write(draft: Draft, rule: SamplingRule, limits: Tensor, seed, pad_id: int, watch=None) -> tuple:
    """Draw tokens up to each text's end or limit (B,); return the new ids (B, n) and lengths (B,)."""
    n_prompt, n_step = draft.length, int(limits.max())
    uniform = uniform_numbers(seed, len(limits), n_step, limits.device)  # (B, n_step)
    ended = False
    for t in range(n_step):
        token = draw(rule.log_probabilities(draft.next_logits()), uniform[:, t])  # (B, V) -> (B,)
        draft.append(token)
        if watch:
            watch(token)
        if rule.eos_id is not None:
            ended = ended | (token == rule.eos_id) | (limits <= t + 1)
            if ended.all():
                break
    ids = draft.ids[:, n_prompt:]  # (B, n)
    # A text that ended before the others was continued with them: those tokens become padding.
    is_end = ids == (-1 if rule.eos_id is None else rule.eos_id)
    before_end = is_end.cumsum(1) - is_end.long() == 0  # true at the first end token, too
    real = before_end & (torch.arange(n_step, device=ids.device) < limits[:, None])
    return ids.masked_fill(~real, pad_id), real.sum(1)


@contextmanager
def evaluation_mode(model):
    """Switch dropout off in this context; then give each module its earlier mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def listed(input_ids) -> tuple[list[list[int]], bool]:
    """Return `input_ids` as a list of prompts, and whether they were a list of prompts or a single one."""
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in input_ids]
    several = any(isinstance(row, Sequence) for row in rows)
    return [list(row) for row in rows] if several else [rows], several


def check_prompt(prompt: list[int], name: str, config) -> None:
    """Raise UserError if the model cannot read the prompt."""
    n, limit, last = len(prompt), config.max_positions, config.vocab_size - 1
    if not prompt:
        raise UserError(f"{name} is empty: begin it with one token, for example the one that separates texts")
    if n > limit:
        raise UserError(f"{name} has {n} tokens, but the model has {limit} positions: shorten it")
    for token in prompt:
        if not isinstance(token, int) or not 0 <= token <= last:
            raise UserError(f"{name} has the id {token}: ids are whole numbers from 0 to {last}")


def check_decoder(model) -> None:
    """Raise UserError for a model without a decoder; the message says what such a model can do."""
    if model.decoder is None:
        raise UserError("an encoder cannot write text (embeddings: extract.py); use a decoder (runs/causal)")


def check_settings(model, max_new_tokens, rule, n_beam, length_penalty, pad_id, overflow) -> None:
    """Raise UserError for a model without a decoder, or a setting outside its range."""
    check_decoder(model)
    V, draws = model.config.vocab_size, rule.temperature not in (0, 1) or rule.top_k or rule.top_p
    ends = (rule.eos_id, *rule.other_ends) if rule.other_ends or rule.eos_id is not None else ()
    bad = [i for i in (pad_id, *rule.forbidden_ids, *ends) if i is None or not 0 <= i < V]
    for wrong, message in [
        (max_new_tokens < 0, f"max-new-tokens {max_new_tokens}: must be 0 or more"),
        (n_beam < 1, f"n-beam {n_beam}: must be 1 (no search) or more"),
        (n_beam > 1 and draws, f"n-beam {n_beam} does not sample: leave out temperature, top-k and top-p"),
        (length_penalty < 0, f"length penalty {length_penalty}: must be 0 (short texts win) or more"),
        (overflow not in ("slide", "stop"), f"overflow {overflow}: must be slide or stop"),
        (bad, f"pad_id, ends or forbidden_ids {bad}: the vocabulary has the ids 0 to {V - 1}"),
        (len({*rule.forbidden_ids}) == V, "forbidden_ids: no token of the vocabulary is left; allow one"),
    ]:
        if wrong:
            raise UserError(message)
