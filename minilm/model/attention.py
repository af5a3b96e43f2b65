"""Attention, softmax(Q K^T / sqrt(d_head)) V: written out, in one fast call, with heads, rotation and cache.

Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3.2.1 and 3.2.2, equation 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to the score of a key that a query must not attend to: its weight becomes exactly 0, as with -inf. But
# a query at padding on the left may have only such keys. With -inf its softmax would be 0 / 0 = NaN, and one
# NaN spoils every gradient; with a finite number its result is an ordinary number, which nobody reads.
BLOCKED = -1e9

# Differs from the paper (Press et al. 2022: 2^(-8h/H) for head h): steeper, for contexts of tens of tokens.
# Head h uses slope h mod 4: slope 1.5 attends to little but the token itself, slope 0 ignores the distance.
ALIBI_SLOPES = (1.5, 0.5, 0.1, 0.0)
SHORT = 128  # tokens; up to this length the (T, S) weights need little memory


def causal_mask(n_query: int, n_key: int, device=None) -> Tensor:
    """Return a boolean (T, S) mask: a query may look at the keys that do not come later."""
    query = torch.arange(n_key - n_query, n_key, device=device)  # (T,): the last T of the S positions
    return torch.arange(n_key, device=device) <= query[:, None]  # (S,) <= (T, 1) -> (T, S)


def alibi_bias(n_head: int, n_query: int, n_key: int, device=None) -> Tensor:
    """Return the bias (H, T, S) to add to the scores: -slope * distance (Press et al. 2022, section 3)."""
    query = torch.arange(n_key - n_query, n_key, device=device)
    # Differs from the paper: an encoder attends to later keys, too. Left and right get the same bias.
    distance = (torch.arange(n_key, device=device) - query[:, None]).abs()  # (T, S)
    return torch.stack([-ALIBI_SLOPES[h % len(ALIBI_SLOPES)] * distance for h in range(n_head)])  # (H, T, S)


def rotary_cos_sin(positions: Tensor, d_head: int, theta: float) -> Tensor:
    """Return cosines and sines (2, T, d_head / 2) for `rotate`; for positions (B, T): (2, B, 1, T, ..)."""
    # Per position, pair i turns by theta^(-2i / d_head) (Su et al. 2021, section 3.2.2): the first pair tells
    # neighbours apart, the last near from far. In float32, as bfloat16 has no odd number above 256.
    rate = 1 / theta ** (torch.arange(0, d_head, 2, device=positions.device).float() / d_head)
    angle = positions[..., None].float() * rate  # (T, 1) * (d_head / 2,) -> (T, d_head / 2)
    angle = angle if positions.dim() == 1 else angle[:, None]  # (B, 1, T, d_head / 2): same for all heads
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + d_head / 2}) of x (B, H, T, d_head) by its `cos_sin` angle (equation 34).

    The dot product of a turned query and a turned key depends on their distance, not on their positions.
    """
    cos, sin = cos_sin.to(x.dtype)
    # Differs from the paper and LLaMA's own code, which pair neighbours; Hugging Face's files use this order.
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def explicit_attention(q, k, v, bias=None, causal=False, dropout=0.0) -> tuple[Tensor, Tensor]:
    """Compute attention (equation 1) step by step, from q (B, H, T, d_head) to k and v (B, H, S, d_head).

    k and v may have fewer heads, each for a group of q's (Ainslie et al. 2023, "GQA"). `bias`, broadcast to
    (B, H, T, S), is added to the scores: `BLOCKED` where a query must not attend; `causal` blocks later keys.
    Returns the mixed values (B, H, T, d_head) and their weights (B, H, T, S), after dropout.
    """
    group_size = q.shape[1] // k.shape[1]
    if group_size > 1:  # (B, n_kv_head, S, d_head) -> (B, H, S, d_head)
        k, v = k.repeat_interleave(group_size, dim=1), v.repeat_interleave(group_size, dim=1)
    # A sum of d_head products of size 1 has size sqrt(d_head). Divided by it, the scores keep their size at
    # any width; undivided, the softmax would give one key all the weight and the others no gradient.
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (.., T, d_head) @ (.., d_head, S) -> (.., T, S)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), BLOCKED)
    weights = scores.softmax(dim=-1)  # over the keys: the weights of each query sum to 1
    weights = F.dropout(weights, dropout)  # (B, H, T, S)
    return weights @ v, weights  # (B, H, T, S) @ (B, H, S, d_head) -> (B, H, T, d_head)


def fast_attention(q, k, v, bias=None, causal=False, dropout=0.0) -> Tensor:
    """Compute the same values in one call; a fused kernel holds no (T, S) weights (Dao et al. 2022)."""
    # The fused kernel makes many small products, and oneDNN (setting "bf16", `training/machine.py`) is slow
    # to start each: for short texts the explicit form is faster. Compiled code cannot read the setting.
    by_onednn = not torch.compiler.is_compiling() and torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    if by_onednn and q.device.type == "cpu" and max(q.shape[2], k.shape[2]) <= SHORT:
        return explicit_attention(q, k, v, bias, causal, dropout)[0]
    if causal and (bias is not None or q.shape[2] != k.shape[2]):  # PyTorch's is_causal covers neither case
        later = ~causal_mask(q.shape[2], k.shape[2], q.device)  # (T, S)
        bias = (q.new_zeros(()) if bias is None else bias).masked_fill(later, BLOCKED)  # (.., T, S)
    how = dict(dropout_p=dropout, is_causal=causal and bias is None, enable_gqa=q.shape[1] != k.shape[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, **how)


class KeyValueCache:
    """The keys and values of one layer, kept while a text is generated: later tokens do not change them."""

    def __init__(self, max_length: int):
        self.max_length, self.length = max_length, 0
        self.k = self.v = None  # (B, H, max_length, d_head) each, made at the first call

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, H, T, d_head) of T new positions; return all so far, (B, H, S, d_head) each."""
        B, H, T, d_head = k.shape
        if self.k is None:
            self.k, self.v = (k.new_empty(B, H, self.max_length, d_head) for _ in range(2))
        self.k.narrow(2, self.length, T).copy_(k)
        self.v.narrow(2, self.length, T).copy_(v)
        self.length += T
        return self.contents()

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return the keys and values (B, H, S, d_head) of all positions so far."""
        return self.k.narrow(2, 0, self.length), self.v.narrow(2, 0, self.length)

    def repeated(self, n_row: int, n_more: int) -> "KeyValueCache":
        """Return a copy of this one-row cache for `n_row` rows, with room for `n_more` positions."""
        copy = KeyValueCache(self.length + n_more)
        copy.append(*(x.expand(n_row, -1, -1, -1) for x in self.contents()))
        return copy

    def reorder(self, rows: Tensor) -> None:
        """Put row `rows[i]` in the place of row i (beam search drops some rows and duplicates others)."""
        if self.k is not None:
            self.k, self.v = self.k[rows], self.v[rows]


class MultiHeadAttention(nn.Module):
    """H heads side by side, each on d_head numbers (section 3.2.2): each can attend to other positions.

    If `n_kv_head` is below `n_head`, groups of heads share keys and values, and the cache is smaller.
    """

    def __init__(self, d_model, n_head, dropout=0.0, n_kv_head=None, d_head=None, biases="all", norms=None):
        super().__init__()
        self.d_head, self.dropout = d_head or d_model // n_head, dropout
        width, kv_width, bias = n_head * self.d_head, (n_kv_head or n_head) * self.d_head, biases != "none"
        self.q = nn.Linear(d_model, width, bias)  # W_Q of all heads in one matrix; W_K, W_V likewise
        self.k = nn.Linear(d_model, kv_width, bias)
        self.v = nn.Linear(d_model, kv_width, bias)
        self.out = nn.Linear(width, d_model, biases == "all")  # W_O, which mixes the heads
        # Queries and keys normalised to one size keep the scores within limits (Henry et al. 2020).
        self.q_norm, self.k_norm = norms or (nn.Identity(), nn.Identity())
        self.explicit = False  # True: `explicit_attention`, which keeps its last weights in `weights`
        self.weights: Tensor | None = None  # (B, H, T, S)

    def forward(
        self, x: Tensor, memory=None, bias=None, causal=False, cache=None, cos_sin=None, chosen=slice(None)
    ) -> Tensor:
        """Attend from the chosen positions of x (B, T, D) to x or, in cross-attention, memory (B, S, D).

        `bias`, `causal`: as in `explicit_attention`; `cache`: a `KeyValueCache`; `cos_sin`: the angles of
        x's positions, to rotate queries and keys. Returns (B, T, D), or only the chosen positions.
        """
        q = self.q_norm(self.split_heads(self.q(x[:, chosen])))  # (B, H, T, d_head)
        q = q if cos_sin is None else rotate(q, cos_sin[..., chosen, :])
        if memory is not None and cache is not None and cache.length:  # the encoder's states do not change
            k, v = cache.contents()
        else:
            source = x if memory is None else memory
            k = self.k_norm(self.split_heads(self.k(source)))  # (B, H, S, d_head)
            v = self.split_heads(self.v(source))
            k = k if cos_sin is None else rotate(k, cos_sin)  # before the cache: a key's position is fixed
            if cache is not None:
                k, v = cache.append(k, v)
        dropout = self.dropout if self.training else 0.0
        if self.explicit:
            mixed, weights = explicit_attention(q, k, v, bias, causal, dropout)
            self.weights = weights.detach()  # for printing and plots
        else:
            mixed = fast_attention(q, k, v, bias, causal, dropout)
        # (B, H, T, d_head) -> (B, T, H, d_head) -> (B, T, H * d_head), side by side; out -> (B, T, D)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        """Cut x into heads: (B, T, H * d_head) -> (B, T, H, d_head) -> (B, H, T, d_head)."""
        return x.unflatten(2, (-1, self.d_head)).transpose(1, 2)
