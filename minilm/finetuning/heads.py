"""A trained model with a head on top: the tasks of BERT's figure 4, and pairs of texts read separately.

    text         one vector for a text -> scores of classes, or one number   classification, pair
    apart        one vector for each of two texts -> the same                similarity (--pairs apart: pair)
    position     one vector for each position -> scores of tags              tagging
                 ... -> two scores, "the answer begins here", "ends here"    span

Sources: Devlin et al. 2019, section 4 and figure 4; apart, Reimers and Gurevych 2019, section 3.
"""

import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from ..model.pooling import last_token, token_mean
from ..model.transformer import Transformer
from .lora import merged_state

HEAD = "head."  # prefix of the names of a head's weights


class Head(nn.Module):
    """Dropout and a linear layer, on a text (B, D), on each position (B, T, D) or on two texts (B, 2, D)."""

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
        """Return the scores (..., n_output) of vectors (..., D); for texts apart, of (B, 2, D)."""
        if self.on == "apart":
            u, v = vectors.unbind(1)  # (B, D) each
            # A linear layer gives weighted sums, and no weighted sum of u and v compares two texts. So its
            # input also has |u - v|, how far they differ, and u * v, whether their signs agree. u and v
            # themselves tell which text is first. Source: Conneau et al. 2017, section 3.1.
            vectors = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)  # (B, 4 D)
        return self.linear(self.dropout(vectors))


class WithHead(Transformer):
    """A Transformer with a head on top; with None (text to text) it uses its own vocabulary head.

    The body's weights keep their names and the head's begin with `head.`: `minilm.load` loads the tuned body.
    """

    merged_state = merged_state  # for checkpoints: LoRA's products are added to the matrices

    def __init__(self, config: ModelConfig, head: Head | None):
        super().__init__(config)
        self.head = head
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.in_use(name))

    def in_use(self, name: str) -> bool:
        """Return whether the output depends on a weight; unused heads of pre-training stay, but frozen."""
        unused = ["next_sentence."] if self.head is None else ["next_sentence.", "vocabulary."]
        if self.head is None or self.head.on != "text" or self.decoder is not None:
            unused.append("pooler.")
        return not name.startswith(tuple(unused))

    def train(self, mode: bool = True) -> "WithHead":
        """Set the training mode; frozen blocks and embeddings stay in evaluation mode."""
        super().train(mode)
        # Dropout keeps weights in training from relying on each other. In a frozen part it would only add
        # noise: the same text would have other features at each step. So frozen parts have no dropout.
        for stack in filter(None, (self.encoder, self.decoder)):
            inputs = () if self.tokens.weight.requires_grad else (stack.embeddings,)
            for part in (*stack.blocks, *inputs):
                part.train(mode and any(p.requires_grad for p in part.parameters()))
        return self

    def output(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the head's output for a batch of rows: (B, n_output), or on positions (B, T, n_output)."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        # (B, T) stays as it is. Texts apart are read one by one, as rows: (B, 2, T) -> (2 B, T)
        ids, mask, segments = (batch[name].flatten(0, -2) if name in batch else None for name in names)
        if self.head.on == "text" and self.decoder is None:
            # Why [CLS]: it is no word and it attends to the whole text, so its vector can stand for the text.
            # The pooler reads it in pre-training too. The last block computes only this position (n_first).
            hidden = self.encode(ids, mask, segments, n_first=1)[-1]  # (B, 1, D)
            return self.head(hidden[:, 0] if self.pooler is None else self.pooled(hidden))
        # An encoder-decoder's decoder reads the same text again (Lewis et al. 2020, section 3.1).
        both = self.encoder is not None and self.decoder is not None
        again = dict(decoder_input_ids=ids, decoder_attention_mask=mask) if both else {}
        seen = None if self.encoder is None else mask  # a decoder never looks at padding on its right
        hidden = self.hidden_states(ids, seen, segments, **again)[-1]  # (B or 2 B, T, D)
        if self.head.on == "apart":  # the mean over a text's tokens: (2 B, D) -> (B, 2, D)
            hidden = token_mean(hidden, mask.bool()).unflatten(0, (-1, 2))
        elif self.head.on == "text":
            # In a decoder only the last token has seen the whole text (Radford et al. 2018, section 3.2).
            hidden = last_token(hidden, mask)  # (B, D)
        return self.head(hidden)


def put_head_on(body: Transformer, head: Head | None) -> WithHead:
    """Return a copy of a trained model with a head on top; each weight that the output depends on moves."""
    model = WithHead(body.config, head)
    state = {name: value for name, value in body.state_dict().items() if not name.startswith(HEAD)}
    model.load_state_dict(state, strict=False)
    return model.to(body.tokens.weight.device)
