"""The models: one or two stacks, the token embedding they share, and the heads of pre-training.

    encoder            BERT, DistilBERT: every token sees every token
    decoder            GPT: a token sees itself and those before it
    encoder-decoder    the Transformer of 2017, BART: the decoder also attends to the encoder's output

A model returns hidden states and logits; the objectives compute losses from them.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..plumbing.errors import UserError
from .attention import KeyValueCache, MultiHeadAttention
from .blocks import ACTIVATIONS, Stack, new_norm
from .config import ModelConfig


class Transformer(nn.Module):
    """Any model of this project, as its `config` says."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        V, D = config.vocab_size, config.d_model
        self.tokens = nn.Embedding(V, D)
        n_encoder, n_decoder = config.n_encoder_layer, config.n_decoder_layer
        self.encoder = Stack(config, n_encoder, causal=False) if n_encoder else None
        one_text = replace(config, n_segments=0)  # only the encoder marks two texts as A and B
        self.decoder = Stack(one_text, n_decoder, causal=True, cross=n_encoder > 0) if n_decoder else None
        self.pooler = nn.Linear(D, D) if config.pooler else None
        self.next_sentence = nn.Linear(D, 2) if config.next_sentence else None
        self.vocabulary = VocabularyHead(config)
        self.apply(self.initialise)
        self.shrink_residual_outputs()

    def forward(
        self, input_ids: Tensor, attention_mask=None, token_type_ids=None,
        decoder_input_ids=None, decoder_attention_mask=None,
    ) -> Tensor:  # fmt: skip
        """Return the logits (B, T, V) of the decoder, or of the encoder where there is no decoder.

        `attention_mask`: 1 real, 0 padding; `token_type_ids`: 0 text A, 1 text B; both (B, T) like the ids.
        If there is an encoder, the first three arguments are its inputs, the other two the decoder's.
        """
        if self.encoder is not None and self.decoder is not None and decoder_input_ids is None:
            raise ValueError("an encoder-decoder gives logits for decoder_input_ids, and none were given")
        given = input_ids, attention_mask, token_type_ids, decoder_input_ids, decoder_attention_mask
        return self.vocabulary_logits(self.hidden_states(*given)[-1])  # (B, T, D) -> (B, T, V)

    def hidden_states(
        self, input_ids: Tensor, attention_mask=None, token_type_ids=None,
        decoder_input_ids=None, decoder_attention_mask=None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return n_layer + 1 states (B, T, D), input first: the decoder's; without its ids, the encoder's."""
        if self.encoder is None:
            return self.decode(input_ids, attention_mask)
        states = self.encode(input_ids, attention_mask, token_type_ids)
        if self.decoder is None or decoder_input_ids is None:
            return states
        return self.decode(decoder_input_ids, decoder_attention_mask, states[-1], attention_mask)

    def encode(self, input_ids, attention_mask=None, token_type_ids=None, n_first=None) -> tuple[Tensor, ...]:
        """Return the encoder's hidden states, from the last block only the first `n_first` (none: all)."""
        given = self.tokens(input_ids), attention_mask, token_type_ids  # (B, T) -> (B, T, D)
        return self.encoder(*given) if n_first is None else self.encoder.forward_at(slice(n_first), *given)

    def decode(
        self, input_ids, attention_mask=None, memory=None, memory_mask=None, caches=None, n_last=None
    ) -> tuple[Tensor, ...]:
        """Return the decoder's hidden states, from the last block only the last `n_last` (none: all)."""
        given = self.tokens(input_ids), attention_mask, None, memory, memory_mask
        if n_last is None:
            return self.decoder(*given, caches)
        if caches:  # `forward_at` does not fill them
            raise ValueError("caches need all positions: leave n_last out")
        return self.decoder.forward_at(slice(-n_last, None), *given)

    def new_caches(self, max_length: int, memory_length: int = 0) -> list[tuple]:
        """Return empty caches for texts of up to `max_length` tokens: (own, cross), one pair a block."""
        return [(KeyValueCache(max_length), KeyValueCache(memory_length)) for _ in self.decoder.blocks]

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """Turn last hidden states (..., D) of any positions into logits (..., V)."""
        return self.vocabulary(hidden, self.tokens.weight)

    def pooled(self, hidden: Tensor) -> Tensor:
        """Turn the encoder's last states (B, T, D) into a vector per text (B, D), from the first token."""
        return self.pooler(hidden[:, 0]).tanh()

    def next_sentence_logits(self, hidden: Tensor) -> Tensor:
        """Turn the encoder's last states (B, T, D) into logits (B, 2): 0 B follows A, 1 it does not."""
        return self.next_sentence(self.pooled(hidden))

    def initialise(self, module: nn.Module) -> None:
        """Draw the weights of one module: normal with standard deviation `init_std`; biases 0, norms 1."""
        # Differs from the papers where init_std is none: BERT's 0.02 suits a width of 768. At width 64 a
        # model with 0.02 predicts little more than word frequencies for most of a short run.
        std = self.config.init_std
        std = 0.55 * self.config.d_model**-0.5 if std is None else std
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)

    def shrink_residual_outputs(self) -> None:
        """Scale what adds to a pre-norm stack's stream by 1 / sqrt(additions) (Radford et al. 2019, 2.3)."""
        if self.config.norm == "post":
            return  # post-norm models normalise each sum instead
        for stack in filter(None, (self.encoder, self.decoder)):
            outputs = [part.out for part in stack.modules() if isinstance(part, MultiHeadAttention)]
            outputs += [block.feed_forward.down for block in stack.blocks]
            for layer in outputs:  # a sum of n independent terms is sqrt(n) times as large as one
                layer.weight.data.mul_(len(outputs) ** -0.5)

    def use_explicit_attention(self, explicit: bool = True) -> "Transformer":
        """Choose attention written out, which keeps its weights for printing, or the fast path."""
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                module.explicit, module.weights = explicit, None
        return self

    def n_parameters(self) -> int:
        """Count the weights."""
        return sum(p.numel() for p in self.parameters())


class VocabularyHead(nn.Module):
    """From hidden states to logits: a score for each token of the vocabulary."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        V, D = config.vocab_size, config.d_model
        self.dense = nn.Linear(D, D) if config.head_transform else None
        self.norm = new_norm(config) if config.head_transform else None
        self.activation = ACTIVATIONS[config.activation]
        self.bias = nn.Parameter(torch.zeros(V)) if config.head_bias else None
        self.output = None if config.tie_embeddings else nn.Linear(D, V, bias=False)

    def forward(self, hidden: Tensor, token_vectors: Tensor) -> Tensor:
        """Turn hidden states (..., D) and the vectors of all tokens (V, D) into logits (..., V)."""
        return F.linear(*self.factors(hidden, token_vectors))  # (..., D) @ (D, V) -> (..., V)

    def factors(self, hidden: Tensor, token_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the factors of the logits: states (..., D), the output matrix (V, D), and a bias (V,)."""
        if self.dense is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        # Tied (Press and Wolf 2017): a logit is the dot product with the token's own input vector. What is
        # learnt of a token as input also helps to predict it, and V * D weights are saved, a third of gpt2's.
        weight = token_vectors if self.output is None else self.output.weight
        return hidden, weight, self.bias


build = Transformer  # build(config): a model with new random weights, from torch's global generator


class Undrawn(TorchFunctionMode):
    """A context in which no initial weights are drawn: for a model whose weights come from a file."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return None
        return function(*args, **kwargs or {})


def build_for_weights(config: ModelConfig, tensors: dict[str, Tensor], where) -> Transformer:
    """Return a model without initial weights, to load `tensors` into; UserError if these are far too few.

    A config.json from elsewhere may ask for a model of any size; `tensors` are the weights stored beside it.
    """
    D, width = config.d_model, config.n_head * (config.d_head or config.d_model // config.n_head)
    n_row = config.vocab_size + (config.max_positions if config.positions == "learned" else 0)
    least = n_row * D + config.n_layer * 2 * D * (width + config.d_ff)  # q and out, up and down of each block
    sizes = [size for size in vars(config).values() if type(size) is int]
    if max(least, *sizes) > 10**6 + 2 * sum(t.numel() for t in tensors.values()):  # heads may be missing
        raise UserError(f"{where}: describes a model far larger than the weights beside it; get both again")
    with Undrawn():
        return build(config)
