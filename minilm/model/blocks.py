"""The transformer: embeddings, the feed-forward part, a block, and a stack of blocks.

Encoder and decoder are the same stack. They differ by the mask (a decoder's position sees no later one) and
by cross-attention (a decoder's block also looks at the encoder's result).

Sources: Vaswani et al. 2017, section 3; Devlin et al. 2019 (segments); Radford et al. 2019 (pre-norm).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..plumbing.errors import UserError
from .attention import BLOCKED, KeyValueCache, MultiHeadAttention, alibi_bias
from .config import ModelConfig

ALL = slice(None)  # positions
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # Hendrycks and Gimpel 2016; GPT-2's
}


def sinusoidal_positions(n_position: int, d_model: int) -> Tensor:
    """Return (n_position, D): sines in even columns, cosines in odd (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(n_position, dtype=torch.float64)[:, None]  # (n_position, 1)
    rate = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)  # (D / 2,)
    table = torch.zeros(n_position, d_model, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : d_model // 2]
    return table.float()


def token_positions(attention_mask: Tensor | None, n_query: int, n_past: int, device) -> Tensor:
    """Return the position of each query, (T,) or (B, T): its count among the real tokens of its row, from 0.

    With a mask (B, S) padding does not count, so a text gets the same positions whichever side is padded.
    """
    if attention_mask is None:
        return torch.arange(n_past, n_past + n_query, device=device)
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -n_query:]


class Embeddings(nn.Module):
    """What is added to the token vectors before the first block: position, segment, norm, dropout."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        D = config.d_model
        self.offset = config.position_offset
        self.scale = D**0.5 if config.scale_embeddings else 1.0
        self.position = self.segment = self.norm = None
        if config.positions == "learned":
            self.position = nn.Embedding(config.max_positions + config.position_offset, D)
        if config.positions == "sinusoidal":
            table = sinusoidal_positions(config.max_positions + config.position_offset, D)
            self.register_buffer("sinusoid", table, persistent=False)
        self.kind = config.positions
        self.max_positions = config.max_positions
        if config.n_segments:
            self.segment = nn.Embedding(config.n_segments, D)
        if config.embedding_norm:
            self.norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_vectors: Tensor, positions: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Token vectors (B, T, D), positions (T,) or (B, T), segments (B, T) -> hidden states (B, T, D)."""
        x = token_vectors if self.scale == 1 else token_vectors * self.scale
        if self.kind == "learned":
            x = x + self.position(positions + self.offset)
        elif self.kind == "sinusoidal":
            x = x + self.sinusoid[positions + self.offset]
        if self.segment is not None:
            if token_type_ids is None:  # a single text is text A
                token_type_ids = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
            x = x + self.segment(token_type_ids)
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x) if self.training else x


class FeedForward(nn.Module):
    """Two layers with a bend between them, the same at every position (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, F) -> (B, T, D)."""
        return self.down(self.activation(self.up(x)))


class BlockCache:
    """The caches of one block: its own earlier positions, and the encoder's text."""

    def __init__(self, max_length: int, memory_length: int = 0):
        self.self_attention = KeyValueCache(max_length)
        self.cross_attention = KeyValueCache(memory_length)

    def reorder(self, rows: Tensor) -> None:
        """See `KeyValueCache.reorder`."""
        self.self_attention.reorder(rows)
        self.cross_attention.reorder(rows)


class Block(nn.Module):
    """Self-attention, cross-attention where there is an encoder to look at, feed-forward.

    Each part is added to the stream x, with the layer norm after the sum (`post`, as in the paper of 2017) or
    before the part (`pre`, as in GPT-2).
    """

    def __init__(self, config: ModelConfig, cross: bool):
        super().__init__()
        D, H = config.d_model, config.n_head
        self.pre = config.norm == "pre"
        self.self_attention = MultiHeadAttention(D, H, config.attention_dropout)
        self.self_attention_norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.cross_attention = MultiHeadAttention(D, H, config.attention_dropout) if cross else None
        self.cross_attention_norm = nn.LayerNorm(D, eps=config.norm_eps) if cross else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def add(self, x: Tensor, part, norm: nn.LayerNorm, wanted: slice = ALL) -> Tensor:
        """x + part(norm(x)) in pre-norm, norm(x + part(x)) in post-norm; (B, T, D) -> (B, T, D).

        `wanted`: the positions that `part` gives, and so does this.
        """
        change = part(norm(x)) if self.pre else part(x)
        x = x if wanted == ALL else x[:, wanted]
        if self.training:  # calling it to change nothing would cost a twentieth of a generated token
            change = self.dropout(change)
        return x + change if self.pre else norm(x + change)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        causal: bool,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        cache: BlockCache | None = None,
        wanted: slice = ALL,
    ) -> Tensor:
        """Hidden states x (B, T, D) -> (B, T, D); memory (B, S, D) is the encoder's result, if any.

        Only the positions that are `wanted` are computed, (B, n_wanted, D): they look at all T, but what the
        others would become is left out.
        """
        own = cache.self_attention if cache else None
        if wanted == ALL:
            look = lambda h: self.self_attention(h, None, bias, causal, own)
        else:
            look = lambda h: self.self_attention(h[:, wanted], h, rows_of(bias, wanted), causal)
        x = self.add(x, look, self.self_attention_norm, wanted)
        if self.cross_attention is not None:
            past = cache.cross_attention if cache else None
            look = lambda h: self.cross_attention(h, memory, memory_bias, False, past)
            x = self.add(x, look, self.cross_attention_norm)
        return self.add(x, self.feed_forward, self.feed_forward_norm)


class Stack(nn.Module):
    """Embeddings and n_layer blocks: an encoder, or with `causal` a decoder."""

    def __init__(self, config: ModelConfig, n_layer: int, causal: bool, cross: bool = False):
        super().__init__()
        self.config = config
        self.causal = causal
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(n_layer))
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps) if config.final_norm else None

    def forward(
        self,
        token_vectors: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        caches: list[BlockCache] | None = None,
        wanted: slice = ALL,
    ) -> tuple[Tensor, ...]:
        """Run all blocks.

        Args:
            token_vectors: (B, T, D), the rows of the token embedding.
            attention_mask: (B, S), 1 for a real token and 0 for padding; with caches S counts the past too,
                else S = T.
            token_type_ids: (B, T), 0 for text A and 1 for text B.
            memory, memory_mask: the encoder's last hidden states (B, S, D) and their mask (B, S).
            caches: one per block, to continue a text of which only the T newest tokens are given.
            wanted: without caches, the positions of the last block that are computed; with `causal` they must
                be the last ones, slice(-n, None).

        Returns:
            n_layer + 1 hidden states (B, T, D): the embeddings first, the last one after the final norm
            (and (B, n_wanted, D) where not all are wanted).

        Raises:
            UserError: where the text is longer than `max_positions`.
            ValueError: where the mask is not (B, S), and for caches where not all positions are wanted.
        """
        if caches and wanted != ALL:  # the last block would keep no keys and values
            raise ValueError("caches need all positions: leave n_last out")
        T = token_vectors.shape[1]
        n_past = caches[0].self_attention.length if caches else 0
        S = n_past + T
        if S > self.config.max_positions:
            raise UserError(
                f"{S} tokens, but the model has {self.config.max_positions} positions: cut the text"
            )
        if attention_mask is not None and attention_mask.shape[1] != S:  # would broadcast, and be wrong
            raise ValueError(f"attention_mask has {attention_mask.shape[1]} columns for {S} positions")
        positions = token_positions(attention_mask, T, n_past, token_vectors.device)
        x = self.embeddings(token_vectors, positions, token_type_ids)
        bias = self.attention_bias(attention_mask, T, S, x)
        memory_bias = None if memory is None else padding_bias(memory_mask, x.dtype)
        causal = self.causal and T > 1  # the newest token alone may look at everything there is
        states = [x]
        for i, block in enumerate(self.blocks):
            here = wanted if i == len(self.blocks) - 1 else ALL
            x = block(x, bias, causal, memory, memory_bias, caches[i] if caches else None, here)
            states.append(x)
        if self.norm is not None:
            states[-1] = self.norm(x)
        return tuple(states)

    def attention_bias(self, attention_mask: Tensor | None, T: int, S: int, x: Tensor) -> Tensor | None:
        """Return what is added to the scores (B, H, T, S): padding blocked, distance penalised."""
        bias = padding_bias(attention_mask, x.dtype)
        if self.config.positions == "alibi":
            penalty = alibi_bias(self.config.n_head, T, S, x.device).to(x.dtype)  # (H, T, S)
            bias = penalty[None] if bias is None else bias + penalty
        return bias


def rows_of(bias: Tensor | None, wanted: slice) -> Tensor | None:
    """Return what these queries of a bias (B or 1, H or 1, T or 1, S) have added to their scores."""
    return bias if bias is None or bias.shape[2] == 1 else bias[:, :, wanted]


def padding_bias(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Mask (B, S), 1 for real and 0 for padding -> (B, 1, 1, S), 0 and `BLOCKED`, to add to scores."""
    if attention_mask is None:
        return None
    return (attention_mask == 0)[:, None, None, :].to(dtype) * BLOCKED
