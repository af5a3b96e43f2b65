"""Text out of a model: from prompts to continuations, for decoders and encoder-decoders.

    generate    ids in, ids out: what most programs need
    sample      the same with the log-probabilities, for reinforcement learning

The texts that are being written stand in `draft.py`, how the next token is chosen in `sampling.py`, and the
search for the likeliest text in `beam_search.py`.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..plumbing.errors import UserError, suggest
from .beam_search import beam_search
from .draft import Draft, pad
from .sampling import PLAIN, SamplingRule, draw, uniform_numbers


@dataclass
class Sample:
    """What `sample` wrote: S columns of prompts, padded on the left, then n columns of new tokens."""

    ids: Tensor  # (B, S + n), of the decoder
    mask: Tensor  # (B, S + n), true for real tokens: the prompt, and the new ones up to the end
    log_probs: Tensor  # (B, n), of the new tokens under the rule that drew them, in nats; 0 after the end
    n_prompt: int  # S
    encoder_ids: Tensor | None = None  # (B, S_encoder), what an encoder-decoder read, padded on the right
    encoder_mask: Tensor | None = None


def generate(
    model,
    input_ids,
    max_new_tokens: int = 50,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    n_beam: int = 1,
    eos_id: int | None = None,
    seed: int | Sequence[int] = 0,
    *,
    repetition_penalty: float = 1.0,
    min_new_tokens: int = 0,
    forbidden_ids: Sequence[int] = (),
    **options,
):
    """Continue the prompts, or with an encoder-decoder write a text for each.

    Args:
        model: a decoder or an encoder-decoder. It runs without dropout and is left as it was.
        input_ids: one prompt, a list of ids or a (T,) tensor; or several, a list of such prompts of any
            lengths or a (B, T) tensor. An encoder-decoder's encoder reads them.
        temperature: 0 takes the likeliest token (greedy); see `SamplingRule` for it and the next ones.
        n_beam: above 1, beam search, which draws nothing: leave temperature, top_k and top_p alone.
        eos_id: the token that ends a text; it is kept.
        seed: the same seed gives the same text every time; see `uniform_numbers` for batches.
        repetition_penalty, min_new_tokens, forbidden_ids: see `SamplingRule`.
        options: those of `sample`.

    Returns:
        The prompts with their new tokens; of an encoder-decoder the decoder's ids alone, `decoder_start_id`
        first. For one prompt, one text of the same type; for a list, a list of lists, without padding; for a
        (B, T) tensor, a (B, T + n) tensor with `pad_id` after each end.

    Raises:
        UserError: for a setting outside its range, or a prompt that the model cannot read.
    """
    forbidden = tuple(int(token) for token in forbidden_ids)
    rule = SamplingRule(repetition_penalty, forbidden, min_new_tokens, eos_id, temperature, top_k, top_p)
    written = sample(model, input_ids, max_new_tokens, rule, seed, n_beam, **options)
    if isinstance(input_ids, Tensor) and input_ids.dim() == 2:
        if model.config.kind == "encoder-decoder":
            return written.ids
        return torch.cat([input_ids, written.ids[:, written.n_prompt :].to(input_ids.device)], dim=1)
    texts = [ids[mask] for ids, mask in zip(written.ids, written.mask, strict=True)]
    if isinstance(input_ids, Tensor):
        return texts[0]
    return texts[0].tolist() if _is_one_prompt(_plain_rows(input_ids)) else [text.tolist() for text in texts]


def sample(
    model,
    input_ids,
    max_new_tokens: int = 50,
    rule: SamplingRule = PLAIN,
    seed: int | Sequence[int] = 0,
    n_beam: int = 1,
    *,
    length_penalty: float = 0.6,
    attention_mask: Tensor | None = None,
    decoder_start_id: int | Sequence[int] | None = None,
    pad_id: int | None = None,
    overflow: str = "slide",
    use_cache: bool = True,
    watch: Callable[[Tensor], None] | None = None,
) -> Sample:
    """Write like `generate`, under `rule`, and return the texts with their log-probabilities.

    `sampling.token_log_probabilities` gives the same numbers for the same texts.

    Args:
        length_penalty: of the beam search, see `beam_search.length_normaliser`.
        attention_mask: (B, T), 0 for padding, where `input_ids` is a padded (B, T) tensor.
        decoder_start_id: what an encoder-decoder's decoder starts from: one id, or several.
        pad_id: the filling of shorter texts; none: `eos_id`, or 0 without one.
        overflow: what a text does that has as many tokens as the model has positions: "slide" forgets the
            oldest quarter of what it sees and goes on, "stop" ends.
        use_cache: without, each step computes the whole text again, with the same result.
        watch: called with each new token (B,) as soon as it is drawn; a beam search calls it never.

    Raises:
        UserError: see `generate`.
    """
    pad_id = (rule.eos_id or 0) if pad_id is None else pad_id
    check_settings(model, max_new_tokens, rule, n_beam, length_penalty, pad_id, overflow)
    prompts = read_prompts(input_ids, attention_mask, model.config)
    device = model.tokens.weight.device
    encoder_ids = encoder_mask = memory = None
    with torch.inference_mode(), evaluation_mode(model):
        if model.encoder is not None:
            encoder_ids, encoder_mask = pad(prompts, pad_id, "right", device)
            memory = model.encode(encoder_ids, encoder_mask)[-1]  # (B, S_encoder, D)
            prompts = [decoder_prompt(decoder_start_id, model.config)] * len(prompts)
        room = [model.config.max_positions - len(prompt) for prompt in prompts]
        limits = [min(max_new_tokens, left) if overflow == "stop" else max_new_tokens for left in room]
        draft = Draft(model, prompts, max(limits), pad_id, memory, encoder_mask, use_cache)
        if rule.repetition_penalty != 1:
            draft.seen = draft.tokens_seen()
        limits = torch.tensor(limits, device=device)
        if n_beam > 1:
            new = beam_search(draft, replace(rule, temperature=1.0), limits, n_beam, length_penalty, pad_id)
        else:
            new = write(draft, rule, limits, seed, pad_id, watch)
    return join(prompts, pad_id, *new, encoder_ids, encoder_mask)


def join(prompts, pad_id: int, new_ids, log_probs, n_new, encoder_ids, encoder_mask) -> Sample:
    """Put the prompts before the new tokens (B, n), of which row i has n_new[i]; drop columns of padding."""
    n = int(n_new.max())
    prompt_ids, prompt_mask = pad(prompts, pad_id, "left", new_ids.device)  # (B, S)
    if prompt_mask is None:
        prompt_mask = torch.ones_like(prompt_ids, dtype=torch.bool)
    new_mask = torch.arange(n, device=n_new.device) < n_new[:, None]  # (B, n)
    ids = torch.cat([prompt_ids, new_ids[:, :n]], dim=1)  # (B, S + n)
    mask = torch.cat([prompt_mask, new_mask], dim=1)
    # Made in inference mode, these could not take part in a loss; copies made outside of it can.
    encoder_ids, encoder_mask = (x if x is None else x.clone() for x in (encoder_ids, encoder_mask))
    return Sample(ids, mask, log_probs[:, :n].clone(), prompt_ids.shape[1], encoder_ids, encoder_mask)


def write(
    draft: Draft, rule: SamplingRule, limits: Tensor, seed, pad_id: int, watch=None
) -> tuple[Tensor, ...]:
    """Draw token after token until each text has ended or has its limit (B,) of new tokens.

    `watch`, if any, is called with each token (B,) that is drawn.

    Returns the new tokens (B, n), their log-probabilities (B, n), and how many there are (B,).
    """
    n_prompt, n_step = draft.length, int(limits.max())
    uniform = uniform_numbers(seed, len(limits), n_step, limits.device)  # (B, n_step)
    ended = limits <= 0
    for step in range(n_step):
        log_probs = rule.log_probabilities(draft.next_logits(), draft.seen, step)  # (B, V)
        token = draw(log_probs, uniform[:, step])  # (B,)
        draft.append(token, log_probs.gather(1, token[:, None])[:, 0])
        if watch:
            watch(token)
        if rule.eos_id is not None:
            ended |= (token == rule.eos_id) | (limits <= step + 1)
            if ended.all():
                break
    ids, log_probs = draft.ids[:, n_prompt:], draft.log_probs[:, n_prompt:]  # (B, n)
    # A text that had ended was written on until the others had: that part goes.
    is_end = ids == (-1 if rule.eos_id is None else rule.eos_id)
    real = (is_end.cumsum(1) - is_end.long() == 0) & (
        torch.arange(n_step, device=ids.device) < limits[:, None]
    )
    return ids.masked_fill(~real, pad_id), log_probs.masked_fill(~real, 0.0), real.sum(1)


def read_prompts(input_ids, attention_mask: Tensor | None, config) -> list[list[int]]:
    """Return the prompts as lists of ids, without padding; `input_ids` as in `generate`.

    Raises:
        UserError: for a prompt that is empty, too long, or not made of the vocabulary's ids.
    """
    rows = _plain_rows(input_ids)
    if attention_mask is not None:
        shapes = tuple(getattr(input_ids, "shape", ())), tuple(attention_mask.shape)
        if shapes[0] != shapes[1] or len(shapes[1]) != 2:
            raise UserError(f"attention_mask {shapes[1]}: needs input_ids as a tensor (B, T) of that shape")
        rows = [ids[mask].tolist() for ids, mask in zip(input_ids, attention_mask.bool(), strict=True)]
    prompts = [rows] if _is_one_prompt(rows) else [list(row) for row in rows]
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, f"prompt {i}", config)
    return prompts


def check_prompt(prompt: list[int], name: str, config) -> None:
    """Raise UserError where the model cannot read the prompt."""
    if not prompt:
        raise UserError(f"{name} is empty: begin it with one token, for example the one that separates texts")
    if len(prompt) > config.max_positions:
        raise UserError(
            f"{name} has {len(prompt)} tokens, but the model has {config.max_positions} positions: shorten it"
        )
    for token in prompt:
        if not isinstance(token, int) or not 0 <= token < config.vocab_size:
            raise UserError(
                f"{name} has the id {token}: ids are whole numbers from 0 to {config.vocab_size - 1}"
            )


@contextmanager
def evaluation_mode(model):
    """Switch dropout off, and afterwards each module back to what it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_decoder(model) -> None:
    """Raise UserError, which says what it can do instead, for a model that cannot write."""
    if model.decoder is None:
        raise UserError(
            "this model is an encoder and cannot continue a text: it gives embeddings (extract.py) and fills "
            "blanks (its logits where the text has [MASK]); to write, take a decoder such as gpt-tiny"
        )


def check_settings(model, max_new_tokens, rule, n_beam, length_penalty, pad_id, overflow) -> None:
    """Raise UserError for a model that cannot write, or a setting outside its range."""
    check_decoder(model)
    config = model.config
    if max_new_tokens < 0:
        raise UserError(f"max-new-tokens {max_new_tokens}: must be 0 or more")
    if n_beam < 1:
        raise UserError(f"n-beam {n_beam}: must be 1 (no search) or more")
    if n_beam > 1 and (rule.temperature not in (0, 1) or rule.top_k or rule.top_p):
        raise UserError(f"n-beam {n_beam}: beam search draws nothing; leave out temperature, top-k and top-p")
    if length_penalty < 0:
        raise UserError(f"length penalty {length_penalty}: must be 0 (short texts win) or more")
    if overflow not in ("slide", "stop"):
        raise UserError(
            f"overflow {overflow}: must be slide or stop{suggest(str(overflow), ['slide', 'stop'])}"
        )
    if not 0 <= pad_id < config.vocab_size:
        raise UserError(f"pad_id {pad_id}: the vocabulary has the ids 0 to {config.vocab_size - 1}")
    rule.check_ids(config.vocab_size)


def decoder_prompt(decoder_start_id: int | Sequence[int] | None, config) -> list[int]:
    """Return what an encoder-decoder's decoder starts from, as a list of ids."""
    if decoder_start_id is None:
        raise UserError("an encoder-decoder needs decoder_start_id: the token with which its texts begin")
    prompt = [decoder_start_id] if isinstance(decoder_start_id, int) else list(decoder_start_id)
    check_prompt(prompt, "decoder_start_id", config)
    return prompt


def _plain_rows(input_ids) -> list:
    return [row.tolist() if hasattr(row, "tolist") else row for row in input_ids]


def _is_one_prompt(rows: list) -> bool:
    return not any(isinstance(row, Sequence) for row in rows)
