"""A trained model with a head on top: the tasks of BERT's figure 4, and two texts read apart.

    text         one vector a text -> scores of classes, or one number       classification, pair
    apart        two vectors, one of each text -> the same                   similarity (--pairs apart: pair)
    position     one vector a position -> scores of tags                     tagging
                 ... -> two numbers, "the answer begins here", "ends here"   span

Sources: Devlin et al. 2019, section 4 and figure 4; apart, Reimers and Gurevych 2019, section 3.
"""

import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from ..model.pooling import last_token, token_mean
from ..model.transformer import Transformer
from .lora import merged_state

HEAD = "head."  # how the names of a head's weights begin


class Head(nn.Module):
    """Dropout and one linear layer, on a vector a text (B, D), every position (B, T, D), or two of a pair."""

    def __init__(self, config: ModelConfig, n_output: int, on: str):
        super().__init__()
        self.on = on  # "text", "position" or "apart"
        width = config.d_model * (4 if on == "apart" else 1)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(width, n_output)
        std = 0.55 * width**-0.5 if config.init_std is None else config.init_std  # as `initialise` does
        nn.init.normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., D), of pairs (B, 2, D) -> (..., n_output)."""
        if self.on == "apart":
            u, v = vectors.unbind(1)  # (B, D) each
            # Whether two texts agree is no weighted sum of what each says, and a linear layer gives no other.
            # So it is told where they differ, |u - v|, and where they agree in sign, u * v; u and v also say
            # which is which. Source: Conneau et al. 2017, section 3.1.
            vectors = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)  # (B, 4 D)
        return self.linear(self.dropout(vectors))


class WithHead(Transformer):
    """A Transformer with a head (none: its own vocabulary head serves, as in text to text).

    The body's weights keep their names, the head's begin with `head.`: `minilm.load` gives the tuned body.
    """

    merged_state = merged_state  # what is saved has no trace of LoRA

    def __init__(self, config: ModelConfig, head: Head | None):
        super().__init__(config)
        self.head = head
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.in_use(name))

    def in_use(self, name: str) -> bool:
        """Say whether the output depends on a weight: the heads of pre-training are kept, and rest."""
        unused = ["next_sentence."] if self.head is None else ["next_sentence.", "vocabulary."]
        if self.head is None or self.head.on != "text" or self.decoder is not None:
            unused.append("pooler.")
        return not name.startswith(tuple(unused))

    def train(self, mode: bool = True) -> "WithHead":
        """Switch to training mode all parts in which a weight moves: a part that rests has no dropout."""
        super().train(mode)
        # Dropout keeps weights from leaning on each other. Where none moves it would be noise alone: other
        # features of the same text each time.
        for stack in filter(None, (self.encoder, self.decoder)):
            inputs = () if self.tokens.weight.requires_grad else (stack.embeddings,)
            for part in (*stack.blocks, *inputs):
                part.train(mode and any(p.requires_grad for p in part.parameters()))
        return self

    def output(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the head's output for a batch of rows: (B, n_output), on positions (B, T, n_output)."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        # (B, T) stays as it is. Of a pair apart each text goes in alone: (B, 2, T) -> (2 B, T)
        ids, mask, segments = (batch[name].flatten(0, -2) if name in batch else None for name in names)
        if self.head.on == "text" and self.decoder is None:
            # Why [CLS]: it is no word, so its vector is free to become that of the text, which it sees whole.
            # The pooler read it in pre-training too. Nobody reads the others, so the last block leaves them.
            hidden = self.encode(ids, mask, segments, n_first=1)[-1]  # (B, 1, D)
            return self.head(hidden[:, 0] if self.pooler is None else self.pooled(hidden))
        # An encoder-decoder's decoder reads the same text again (Lewis et al. 2020, section 3.1).
        both = self.encoder is not None and self.decoder is not None
        again = dict(decoder_input_ids=ids, decoder_attention_mask=mask) if both else {}
        seen = None if self.encoder is None else mask  # padding stands behind, where a decoder does not look
        hidden = self.hidden_states(ids, seen, segments, **again)[-1]  # (B or 2 B, T, D)
        if self.head.on == "apart":  # the mean over a text's tokens: (2 B, D) -> (B, 2, D)
            hidden = token_mean(hidden, mask.bool()).unflatten(0, (-1, 2))
        elif self.head.on == "text":
            # In a decoder the last token alone has seen the whole text (Radford et al. 2018, section 3.2).
            hidden = last_token(hidden, mask)  # (B, D)
        return self.head(hidden)


def put_head_on(body: Transformer, head: Head | None) -> WithHead:
    """Return a copy of a trained model with a head on top; all weights that the output depends on move."""
    model = WithHead(body.config, head)
    state = {name: value for name, value in body.state_dict().items() if not name.startswith(HEAD)}
    model.load_state_dict(state, strict=False)
    return model.to(body.tokens.weight.device)
