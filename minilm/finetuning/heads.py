"""A trained model with a head on top: the four figures of the BERT paper, on any model of ours.

    text         one vector a row -> scores of classes, or one number      classification, pair
    apart        two vectors, one of each text -> the same                 similarity (--pairs apart: pair)
    position     one vector a position -> scores of tags                   tagging
                 ... -> two numbers, "the answer begins here", "ends here" span

Source: Devlin et al. 2019, section 4 and figure 4. Where the one vector of a text comes from:

    encoder            the first token, [CLS], through the pooler where the model has one (BERT)
    decoder            the last token, which alone has seen the whole text (Radford et al. 2018, section 3.2)
    encoder-decoder    the same text goes into both; the decoder's last token (Lewis et al. 2020, section 3.1)

The two vectors of a pair are the means over all tokens of each text (Reimers and Gurevych 2019, section 3).
"""

import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from ..model.pooling import last_token, token_mean
from ..model.transformer import Transformer
from .lora import merged_state

HEAD = "head."  # how the names of a head's weights begin


class Head(nn.Module):
    """Dropout and one linear layer, on a vector a row (B, D), every position (B, T, D), or both of a pair."""

    def __init__(self, config: ModelConfig, n_output: int, on: str):
        super().__init__()
        self.on = on  # "text", "position" or "apart"
        width = config.d_model * (4 if on == "apart" else 1)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(width, n_output)
        # As the body's, see `Transformer.initialise`.
        std = 0.55 * width**-0.5 if config.init_std is None else config.init_std
        nn.init.normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., D), of pairs (B, 2, D) -> (..., n_output)."""
        if self.on == "apart":
            vectors = compared(*vectors.unbind(1))  # (B, 4 D)
        return self.linear(self.dropout(vectors))


class WithHead(Transformer):
    """A Transformer with a head (none: its own vocabulary head serves, as in text to text).

    The body's weights keep their names; the head's begin with `head.`, so `minilm.load` of the folder gives
    the fine-tuned body.
    """

    def __init__(self, config: ModelConfig, head: Head | None):
        super().__init__(config)
        self.head = head
        self.requires_grad_(False)
        self.move([name for name, _ in self.named_parameters() if self.in_use(name)])

    def in_use(self, name: str) -> bool:
        """Say whether the output depends on the weight: the heads of pre-training are kept, and rest."""
        if self.head is None:
            return not name.startswith(("pooler.", "next_sentence."))
        unused = ["vocabulary.", "next_sentence."]
        if self.head.on != "text" or self.decoder is not None:
            unused.append("pooler.")
        return not name.startswith(tuple(unused))

    def move(self, names: list[str]) -> None:
        """Let these weights move, and no others."""
        chosen = set(names)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in chosen)
        self.train(self.training)

    def n_moving(self) -> int:
        """Count the weights that training moves."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> "WithHead":
        """Switch to training mode all parts in which a weight moves: a part that rests has no dropout.

        Dropout keeps weights from leaning on each other; where none moves it would be noise alone, other
        features of the same text each time.
        """
        super().train(mode)
        for part in self.resting_parts():
            part.eval()
        return self

    def merged_state(self) -> dict[str, Tensor]:
        """Return what is saved: the state without a trace of LoRA (`lora.merged_state`)."""
        return merged_state(self)

    def resting_parts(self) -> list[nn.Module]:
        """Return embeddings and blocks without a weight that moves."""
        parts = []
        for stack in filter(None, (self.encoder, self.decoder)):
            tokens_move = self.tokens.weight.requires_grad
            parts += [] if tokens_move or moves(stack.embeddings) else [stack.embeddings]
            parts += [block for block in stack.blocks if not moves(block)]
        return parts

    def output(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the head's output for the rows of `inputs.py`: (B, n_output) or (B, T, n_output)."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        # (B, T) stays as it is; of a pair apart (B, 2, T) -> (2 B, T)
        ids, mask, segments = (batch[name].flatten(0, -2) if name in batch else None for name in names)
        if self.head.on == "text" and self.decoder is None:
            # The last block need not compute what nobody reads.
            hidden = self.encode(ids, mask, segments, n_first=1)[-1]  # (B, 1, D), that of [CLS]
            return self.head(self.text_vector(hidden, mask))
        both = self.encoder is not None and self.decoder is not None
        again = dict(decoder_input_ids=ids, decoder_attention_mask=mask) if both else {}
        hidden = self.hidden_states(ids, mask, segments, **again)[-1]  # (B or 2 B, T, D)
        if self.head.on == "apart":
            return self.head(token_mean(hidden, mask.bool()).unflatten(0, (-1, 2)))  # of (B, 2, D)
        return self.head(self.text_vector(hidden, mask) if self.head.on == "text" else hidden)

    def text_vector(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector a text (B, D) of the last hidden states (B, T, D), mask (B, T)."""
        if self.decoder is None:
            return hidden[:, 0] if self.pooler is None else self.pooled(hidden)
        return last_token(hidden, mask)


def compared(u: Tensor, v: Tensor) -> Tensor:
    """Return what a head is told of two vectors (B, D): (B, 4 D).

    Source: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations", section 3.1.
    """
    return torch.cat([u, v, (u - v).abs(), u * v], dim=-1)


def moves(part: nn.Module) -> bool:
    """Say whether training moves a weight of this part."""
    return any(p.requires_grad for p in part.parameters())


def put_head_on(body: Transformer, head: Head | None) -> WithHead:
    """Return a copy of a trained model with a head on top; all weights that the output depends on move."""
    model = WithHead(body.config, head)
    state = {name: value for name, value in body.state_dict().items() if not name.startswith(HEAD)}
    model.load_state_dict(state, strict=False)
    return model.to(body.tokens.weight.device)
