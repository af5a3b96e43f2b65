"""The transformer: the input representation, the feed-forward part, a block, and a stack of blocks.

Encoder and decoder are the same stack. They differ in the mask (a decoder's position attends to none after
it) and in cross-attention (its blocks also attend to the encoder's output). Vaswani et al. 2017, section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..plumbing.errors import UserError
from .attention import BLOCKED, MultiHeadAttention, alibi_bias, rotary_cos_sin
from .config import ModelConfig

ACTIVATIONS = dict(relu=F.relu, gelu=F.gelu, silu=F.silu)  # silu: x * sigmoid(x)
ACTIVATIONS["gelu_tanh"] = nn.GELU("tanh")  # GPT-2's, Hendrycks and Gimpel 2016


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps), times a weight (Zhang and Sennrich 2019, equation 4): no mean, no bias."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x: (..., D) -> (..., D)."""
        y = x.float()  # bfloat16 has two to three digits; rounded to x.dtype before the weight, as in LLaMA
        y = y * (y.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return self.weight * y.to(x.dtype)


def new_norm(config: ModelConfig) -> nn.Module:
    """Return a new norm layer of the kind that `config` names."""
    return (RMSNorm if config.norm_kind == "rms" else nn.LayerNorm)(config.d_model, eps=config.norm_eps)


def sinusoidal_positions(n_position: int, d_model: int) -> Tensor:
    """Return (n_position, D): sines in even columns, cosines in odd (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(n_position, dtype=torch.float64)[:, None]  # (n_position, 1)
    # Wavelengths from 2 pi to 10000 * 2 pi: fast columns tell neighbours apart, slow ones near from far.
    rate = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)  # (D / 2,)
    table = torch.zeros(n_position, d_model, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : d_model // 2]
    return table.float()


def token_positions(attention_mask: Tensor | None, n_query: int, n_past: int, device) -> Tensor:
    """Return the position of each query, (T,) or (B, T): how many real tokens of its row come before it."""
    if attention_mask is None:
        return torch.arange(n_past, n_past + n_query, device=device)
    # Padding does not count, so a text gets the same positions whichever side is padded.
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -n_query:]  # 0 0 1 1 1 -> 0 0 0 1 2


def padding_bias(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a mask (B, S) into a bias (B, 1, 1, S) for the scores: 1, real -> 0; 0, padding -> `BLOCKED`."""
    return None if attention_mask is None else (attention_mask == 0)[:, None, None, :].to(dtype) * BLOCKED


def real_indices(attention_mask: Tensor | None) -> Tensor | None:
    """Return the indices in (B * T,) of a mask's real tokens, if few, else None: copying costs time, too."""
    if attention_mask is None or attention_mask.device.type != "cpu" or torch.compiler.is_compiling():
        return None  # the CPU would have to wait until a GPU has counted them
    real = attention_mask.flatten().nonzero()[:, 0]  # (N,)
    return real if len(real) <= 0.6 * attention_mask.numel() else None


class InputRepresentation(nn.Module):
    """Token vectors + positions + segments: what the first block reads (Devlin et al. 2019, figure 2)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        D, n_position = config.d_model, config.max_positions + config.position_offset
        self.offset = config.position_offset
        # Token vectors tied to the output matrix are small, sinusoids have size 1: scale up (section 3.4).
        self.scale = D**0.5 if config.scale_embeddings else 1.0
        self.position = nn.Embedding(n_position, D) if config.positions == "learned" else None
        sinusoid = sinusoidal_positions(n_position, D) if config.positions == "sinusoidal" else None
        self.register_buffer("sinusoid", sinusoid, persistent=False)
        self.segment = nn.Embedding(config.n_segments, D) if config.n_segments else None
        self.norm = new_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_vectors: Tensor, positions: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Turn token vectors (B, T, D), positions (T,) or (B, T), segments (B, T) into states (B, T, D)."""
        x = token_vectors if self.scale == 1 else token_vectors * self.scale
        if self.position is not None:
            x = x + self.position(positions + self.offset)  # (B, T, D) + (T, D) or (B, T, D)
        elif self.sinusoid is not None:  # neither: ALiBi's bias or a rotation gives distances
            x = x + self.sinusoid[positions + self.offset]
        if self.segment is not None:  # a single text is text A: + (D,), else + (B, T, D)
            x = x + (self.segment.weight[0] if token_type_ids is None else self.segment(token_type_ids))
        return self.dropout(self.norm(x))


class FeedForward(nn.Module):
    """Two linear layers with an activation between, the same at each position (Vaswani et al. 2017, 3.3)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        bias = config.biases == "all"
        self.gate = nn.Linear(config.d_model, config.d_ff, bias) if config.gated else None
        self.up = nn.Linear(config.d_model, config.d_ff, bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, F) -> (B, T, D)."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        # Shazeer 2020, "GLU Variants Improve Transformer", equation 6: one layer scales (gates) the other.
        return self.down(self.activation(self.gate(x)) * self.up(x))

    def forward_unpadded(self, x: Tensor, real: Tensor) -> Tensor:
        """Compute `forward` at the `real` tokens (N,) of x (B, T, D) only; padding, never read, gets 0."""
        y = self(x.flatten(0, 1)[real])  # (N, D)
        return y.new_zeros(x.shape).flatten(0, 1).index_copy(0, real, y).view_as(x)


class Block(nn.Module):
    """Self-attention, cross-attention (in a decoder that reads an encoder's output), feed-forward."""

    def __init__(self, config: ModelConfig, cross: bool):
        super().__init__()
        self.pre = config.norm == "pre"
        sizes = config.d_model, config.n_head, config.attention_dropout, config.n_kv_head, config.d_head
        d_head = config.d_head or config.d_model // config.n_head
        norms = [RMSNorm(d_head, config.norm_eps) for _ in "qk"] if config.qk_norm else None
        self.self_attention = MultiHeadAttention(*sizes, config.biases, norms)
        self.self_attention_norm = new_norm(config)
        self.cross_attention = MultiHeadAttention(*sizes, config.biases) if cross else None
        self.cross_attention_norm = new_norm(config) if cross else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = new_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, bias, causal, memory=None, memory_bias=None, cos_sin=None, real=None, cache=None):
        """Map x (B, T, D) to (B, T, D); memory (B, S, D): the encoder's, if any; others: `Stack.prepare`."""
        own, cross = cache or (None, None)  # caches of this text's keys and values, and of memory's
        x = self.add(x, self.self_attention, self.self_attention_norm, None, bias, causal, own, cos_sin)
        if self.cross_attention is not None:
            x = self.add(x, self.cross_attention, self.cross_attention_norm, memory, memory_bias, cache=cross)
        if real is not None:
            return self.add(x, self.feed_forward.forward_unpadded, self.feed_forward_norm, real)
        return self.add(x, self.feed_forward, self.feed_forward_norm)

    def add(self, x: Tensor, part, norm: nn.Module, *args, **options) -> Tensor:
        """Add part(x, *args, **options) to the stream x (B, T, D), with `norm` (pre or post) and dropout."""
        # post, as in 2017: norm(x + part(x)). The gradient passes through every norm on its way back, so deep
        #     stacks need a long warm-up (Xiong et al. 2020).
        # pre, as in GPT-2: x + part(norm(x)). No norm touches the stream x on its way to the end, nor its
        #     gradient on the way back: deep stacks train easily. x grows with each sum, until the final norm.
        change = part(norm(x) if self.pre else x, *args, **options)
        if self.training:  # else dropout does nothing, but its call takes 5 % of the time of a new token
            change = self.dropout(change)
        return x + change if self.pre else norm(x + change)

    def forward_at(self, chosen, x, bias, causal, memory, memory_bias, cos_sin=None, real=None) -> Tensor:
        """Return `forward(x, ...)[:, chosen]`, (B, n, D); if `causal`, chosen must be slice(-n, None)."""
        norm = self.self_attention_norm
        h = norm(x) if self.pre else x  # (B, T, D): all T give keys and values, only n are computed further
        if bias is not None and bias.shape[2] > 1:  # a row for each query
            bias = bias[:, :, chosen]  # (., ., T, S) -> (., ., n, S)
        change = self.dropout(self.self_attention(h, None, bias, causal, None, cos_sin, chosen))  # (B, n, D)
        x = x[:, chosen] + change if self.pre else norm(x[:, chosen] + change)
        if self.cross_attention is not None:
            x = self.add(x, self.cross_attention, self.cross_attention_norm, memory, memory_bias)
        return self.add(x, self.feed_forward, self.feed_forward_norm)


class Stack(nn.Module):
    """The input representation and n_layer blocks: an encoder, or with `causal` a decoder."""

    def __init__(self, config: ModelConfig, n_layer: int, causal: bool, cross: bool = False):
        super().__init__()
        self.config, self.causal = config, causal
        self.embeddings = InputRepresentation(config)
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(n_layer))
        self.norm = new_norm(config) if config.final_norm else nn.Identity()

    def forward(
        self, vectors, attention_mask=None, token_type_ids=None, memory=None, memory_mask=None, caches=None
    ) -> tuple[Tensor, ...]:
        """Return n_layer + 1 hidden states (B, T, D): the input made of `vectors`, then each block's output.

        `vectors`: token vectors (B, T, D). `attention_mask` (B, S): 1 real, 0 padding. `token_type_ids` (B,
        T): 0 text A, 1 text B. `memory`: the encoder's last states (B, S, D), with their mask. `caches`: one
        pair a block (`new_caches`), if `vectors` are only the T newest of S tokens; without caches, S = T.
        """
        n_past = caches[0][0].length if caches else 0
        x, *sight = self.prepare(vectors, attention_mask, token_type_ids, memory, memory_mask, n_past)
        states = [x]
        for i, block in enumerate(self.blocks):
            states.append(block(states[-1], *sight, caches[i] if caches else None))
        return (*states[:-1], self.norm(states[-1]))

    def forward_at(self, chosen: slice, *args) -> tuple[Tensor, ...]:
        """Return `forward(*args)` without caches; the last states hold only the chosen ones, (B, n, D)."""
        x, *sight = self.prepare(*args)
        states = [x]
        for block in self.blocks[:-1]:  # all positions: the last block attends to them
            states.append(block(states[-1], *sight))
        return (*states, self.norm(self.blocks[-1].forward_at(chosen, states[-1], *sight)))

    def prepare(
        self, vectors, attention_mask=None, token_type_ids=None, memory=None, memory_mask=None, n_past=0
    ) -> tuple:
        """Return the first block's input, and the other arguments of all blocks: masks, memory, rotations."""
        T, limit = vectors.shape[1], self.config.max_positions
        S = n_past + T
        if S > limit:
            raise UserError(f"{S} tokens, but the model has {limit} positions: cut the text")
        if attention_mask is not None and attention_mask.shape[1] != S:  # it could broadcast to a wrong mask
            raise ValueError(f"attention_mask has {attention_mask.shape[1]} columns for {S} positions")
        positions = token_positions(attention_mask, T, n_past, vectors.device)
        x = self.embeddings(vectors, positions, token_type_ids)
        bias = padding_bias(attention_mask, x.dtype)  # (B, 1, 1, S) or none
        if self.config.positions == "alibi":
            penalty = alibi_bias(self.config.n_head, T, S, x.device).to(x.dtype)[None]  # (1, H, T, S)
            bias = penalty if bias is None else bias + penalty  # (B, H, T, S)
        cos_sin = None
        if self.config.positions == "rope":
            d_head = self.blocks[0].self_attention.d_head
            cos_sin = rotary_cos_sin(positions, d_head, self.config.rope_theta)  # (2, .., T, d_head / 2)
        memory_bias = None if memory is None else padding_bias(memory_mask, x.dtype)
        causal = False if T == 1 else self.causal  # one newest token may attend to all before it
        return x, bias, causal, memory, memory_bias, cos_sin, None if n_past else real_indices(attention_mask)
