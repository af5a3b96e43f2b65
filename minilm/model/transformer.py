"""The models: one or two stacks, the token embedding they share, and the heads of pre-training.

    encoder            BERT, DistilBERT: every token sees every token
    decoder            GPT: a token sees those before it
    encoder-decoder    the Transformer of 2017, BART: the decoder also looks at the encoder's result

A model returns hidden states and logits. Losses are the objectives' business.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ACTIVATIONS, BlockCache, Stack
from .config import ModelConfig


class Transformer(nn.Module):
    """Any model of this project, as its `config` says."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        V, D = config.vocab_size, config.d_model
        self.tokens = nn.Embedding(V, D)
        self.encoder = self.decoder = None
        if config.n_encoder_layer:
            self.encoder = Stack(config, config.n_encoder_layer, causal=False)
        if config.n_decoder_layer:
            one_text = replace(config, n_segments=0)  # a pair of texts A and B is the encoder's business
            cross = self.encoder is not None
            self.decoder = Stack(one_text, config.n_decoder_layer, causal=True, cross=cross)
        self.pooler = nn.Linear(D, D) if config.pooler else None
        self.next_sentence = nn.Linear(D, 2) if config.next_sentence else None
        self.vocabulary = VocabularyHead(config)
        self.apply(self.initialise)
        self.shrink_residual_outputs()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the logits (B, T, V) of the decoder, or of the encoder where there is no decoder.

        Args:
            input_ids: (B, T) token ids, of the encoder where there is one.
            attention_mask: (B, T), 1 for a real token and 0 for padding; none: all are real.
            token_type_ids: (B, T), 0 for text A and 1 for text B.
            decoder_input_ids, decoder_attention_mask: the same for the decoder of an encoder-decoder.
        """
        if self.encoder is not None and self.decoder is not None and decoder_input_ids is None:
            raise ValueError("an encoder-decoder gives logits for decoder_input_ids, and none were given")
        states = self.hidden_states(
            input_ids, attention_mask, token_type_ids, decoder_input_ids, decoder_attention_mask
        )
        return self.vocabulary_logits(states[-1])

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return n_layer + 1 tensors (B, T, D), the embeddings first; arguments as in `forward`.

        They are the decoder's, or the encoder's where there is no decoder or no `decoder_input_ids`.
        """
        if self.encoder is None:
            return self.decode(input_ids, attention_mask)
        states = self.encode(input_ids, attention_mask, token_type_ids)
        if self.decoder is None or decoder_input_ids is None:
            return states
        return self.decode(decoder_input_ids, decoder_attention_mask, states[-1], attention_mask)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        n_first: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the encoder's n_encoder_layer + 1 hidden states (B, T, D).

        `n_first`: so many positions are wanted of the last hidden states; the last block computes no others.
        """
        wanted = slice(n_first)  # none: all
        return self.encoder(self.tokens(input_ids), attention_mask, token_type_ids, wanted=wanted)

    def decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        caches: list[BlockCache] | None = None,
        n_last: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the decoder's n_decoder_layer + 1 hidden states (B, T, D).

        `memory` (B, S, D), `memory_mask` (B, S): the encoder's result. `caches`: those of `new_caches`.
        `n_last`, without caches: so many positions are wanted of the last hidden states; the last block
        computes no others.
        """
        wanted = slice(None if n_last is None else -n_last, None)
        vectors = self.tokens(input_ids)
        return self.decoder(vectors, attention_mask, None, memory, memory_mask, caches, wanted)

    def new_caches(self, max_length: int, memory_length: int = 0) -> list[BlockCache]:
        """Return empty caches, one per decoder block, for texts of up to `max_length` tokens."""
        return [BlockCache(max_length, memory_length) for _ in self.decoder.blocks]

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """Turn last hidden states (..., D) of any positions into logits (..., V)."""
        return self.vocabulary(hidden, self.tokens.weight)

    def pooled(self, hidden: Tensor) -> Tensor:
        """The encoder's last hidden states (B, T, D) -> one vector a text (B, D), from the first token."""
        return self.pooler(hidden[:, 0]).tanh()

    def next_sentence_logits(self, hidden: Tensor) -> Tensor:
        """The encoder's last hidden states (B, T, D) -> logits (B, 2): 0 B follows A, 1 it does not."""
        return self.next_sentence(self.pooled(hidden))

    def initialise(self, module: nn.Module) -> None:
        """Draw the weights of one module: normal with deviation `init_std`, biases 0, norms 1."""
        # Differs from the papers where init_std is none: BERT's 0.02 belongs to a width of 768. At width 64
        # it keeps a model at the word frequencies for most of a short run.
        std = self.config.init_std
        std = 0.55 * self.config.d_model**-0.5 if std is None else std
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def shrink_residual_outputs(self) -> None:
        """Divide what pre-norm blocks add to the stream by the root of the number of additions.

        Source: Radford et al. 2019, section 2.3. Post-norm models norm each sum and do not need it.
        """
        if self.config.norm == "post":
            return
        for stack in filter(None, (self.encoder, self.decoder)):
            for block in stack.blocks:
                attentions = filter(None, (block.self_attention, block.cross_attention))
                outputs = [a.out for a in attentions] + [block.feed_forward.down]
                for layer in outputs:
                    layer.weight.data.mul_((len(outputs) * len(stack.blocks)) ** -0.5)

    def use_explicit_attention(self, explicit: bool = True) -> "Transformer":
        """Choose attention written out, which keeps its weights for printing, or the fast path."""
        for block in (b for stack in filter(None, (self.encoder, self.decoder)) for b in stack.blocks):
            for attention in filter(None, (block.self_attention, block.cross_attention)):
                attention.explicit, attention.weights = explicit, None
        return self

    def n_parameters(self, heads: bool = True) -> int:
        """Count the weights; without `heads`, leave out what serves pre-training only (not the pooler)."""
        own = [p for m in (self.vocabulary, self.next_sentence) if m is not None for p in m.parameters()]
        return sum(p.numel() for p in self.parameters()) - (0 if heads else sum(p.numel() for p in own))


class VocabularyHead(nn.Module):
    """From hidden states to a score for each token of the vocabulary."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        V, D = config.vocab_size, config.d_model
        self.dense = nn.Linear(D, D) if config.head_transform else None
        self.norm = nn.LayerNorm(D, eps=config.norm_eps) if config.head_transform else None
        self.activation = ACTIVATIONS[config.activation]
        self.bias = nn.Parameter(torch.zeros(V)) if config.head_bias else None
        self.output = None if config.tie_embeddings else nn.Linear(D, V, bias=False)

    def forward(self, hidden: Tensor, token_vectors: Tensor) -> Tensor:
        """(..., D) -> (..., V): where weights are tied, a score is the product with the token's vector."""
        if self.dense is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        weight = token_vectors if self.output is None else self.output.weight
        return F.linear(hidden, weight, self.bias)


def build(config: ModelConfig) -> Transformer:
    """Return a model with fresh weights, drawn from torch's global generator."""
    return Transformer(config)
