"""What a model is: one frozen dataclass, and one row of a table for each published model.

BERT, GPT-2, BART, DistilBERT and the Transformer of 2017 differ in the fields below and in nothing else.
"""

from dataclasses import asdict, dataclass, fields
from typing import Literal

from ..plumbing.errors import UserError, suggest


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. Nothing else says what a model is.

    Raises:
        UserError: when the fields contradict each other; the message names the flag.
    """

    vocab_size: int = 30522  # V: tokens of the vocabulary
    n_encoder_layer: int = 0  # blocks of the encoder, in which every token sees every token (0: no encoder)
    n_decoder_layer: int = 0  # blocks of the decoder, in which a token sees those before it (0: no decoder)
    d_model: int = 768  # D: numbers per position, the "hidden size"
    n_head: int = 12  # H: attention heads; d_head = d_model / n_head
    d_ff: int = 3072  # F: inner width of the feed-forward part
    max_positions: int = 512  # longest sequence, in tokens
    n_segments: int = 0  # 2 where the encoder reads a pair of texts, marked A and B (BERT); else 0
    positions: Literal["learned", "sinusoidal", "alibi"] = "learned"  # how the model knows the order
    position_offset: int = 0  # unused rows before position 0 (2 in BART)
    init_std: float | None = None  # deviation of the first weights; none: 0.55 / sqrt(d_model)
    norm: Literal["post", "pre"] = "pre"  # layer norm after each sum (2017, BERT) or before each part (GPT-2)
    activation: Literal["relu", "gelu", "gelu_tanh"] = "gelu"  # inside the feed-forward part
    embedding_norm: bool = False  # layer norm on the embeddings (BERT, BART)
    final_norm: bool = False  # layer norm after the last block (GPT-2)
    scale_embeddings: bool = False  # token embeddings times sqrt(d_model) (the Transformer of 2017)
    tie_embeddings: bool = True  # the output matrix is the token embedding (Press and Wolf 2017)
    head_transform: bool = False  # a dense layer, activation and norm before the vocabulary (BERT)
    head_bias: bool = False  # one bias per token of the vocabulary (BERT)
    pooler: bool = False  # tanh of a dense layer on the first token, for whole-text tasks (BERT)
    next_sentence: bool = False  # a head that says whether text B follows text A (BERT); needs the pooler
    dropout: float = 0.1  # share of the hidden states set to zero in training
    attention_dropout: float = 0.1  # share of the attention weights set to zero in training
    norm_eps: float = 1e-5  # added to the variance inside the layer norm

    def __post_init__(self):
        for name in ("vocab_size", "d_model", "n_head", "d_ff", "max_positions"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: must be 1 or more")
        for name in ("n_segments", "position_offset", "init_std", "norm_eps"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: must not be below 0")
        if self.n_encoder_layer < 0 or self.n_decoder_layer < 0 or self.n_layer == 0:
            raise UserError(
                f"--n-encoder-layer {self.n_encoder_layer}, --n-decoder-layer {self.n_decoder_layer}: "
                "at least one must be 1 or more, none below 0"
            )
        if self.d_model % self.n_head:
            raise UserError(
                f"--d-model {self.d_model} is not divisible by --n-head {self.n_head}: "
                f"each head takes d_model / n_head numbers; try --d-model {self.n_head * self.d_head}"
            )
        if self.next_sentence and not (self.pooler and self.n_encoder_layer):
            raise UserError(
                "--next-sentence needs an encoder and --pooler: its head reads the pooled first token"
            )
        if (self.pooler or self.n_segments) and not self.n_encoder_layer:
            raise UserError("--pooler and --n-segments need an encoder: a decoder alone uses neither")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: must lie in [0, 1)")
        for name in ("positions", "norm", "activation"):
            allowed = _choices(name)
            if getattr(self, name) not in allowed:
                value = str(getattr(self, name))
                raise UserError(
                    f"{_flag(name)} {value}: must be one of {', '.join(allowed)}{suggest(value, allowed)}"
                )

    @property
    def d_head(self) -> int:
        """Width of one attention head, rounded up where `n_head` does not divide `d_model`."""
        return -(-self.d_model // self.n_head)

    @property
    def n_layer(self) -> int:
        """Blocks in both stacks together."""
        return self.n_encoder_layer + self.n_decoder_layer

    @property
    def kind(self) -> str:
        """`encoder`, `decoder` or `encoder-decoder`."""
        return "-".join(["encoder"] * (self.n_encoder_layer > 0) + ["decoder"] * (self.n_decoder_layer > 0))

    def to_dict(self) -> dict:
        """Return the fields as a dictionary that `json` can write."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """Build a configuration from `to_dict`'s dictionary; a missing field takes its default.

        Raises:
            UserError: for a field that does not exist; the message names the nearest one.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise UserError(f"unknown model field {name!r}{suggest(name, names)}")
        return cls(**values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choices(name: str) -> tuple:
    return ModelConfig.__annotations__[name].__args__


# The parts that a family of models shares; a row of PRESETS adds its sizes.
_BERT = dict(
    norm="post", embedding_norm=True, head_transform=True, head_bias=True, norm_eps=1e-12, init_std=0.02
)  # Devlin et al. 2019
_GPT2 = dict(
    vocab_size=50257, max_positions=1024, final_norm=True, activation="gelu_tanh", init_std=0.02
)  # Radford et al. 2019
_BART = dict(
    vocab_size=50265, max_positions=1024, position_offset=2, norm="post", embedding_norm=True, init_std=0.02
)  # Lewis et al. 2020
_TRANSFORMER = dict(
    vocab_size=37000,
    positions="sinusoidal",
    norm="post",
    activation="relu",
    scale_embeddings=True,
    attention_dropout=0.0,
)  # Vaswani et al. 2017
_PAIRS = dict(n_segments=2, pooler=True, next_sentence=True)
# The CPU-sized models differ from the papers: pre-norm with a final norm, no norm on the embeddings, no dense
# layer before the vocabulary, no dropout. At these widths and in a minute, the papers' choices delay the
# moment at which attention begins to work: with that norm and that layer a bert-tiny knows the right place of
# a thing about half the time after 1,500 steps, without them nearly always.
# bart-tiny has ALiBi positions: it rebuilds short texts sooner with them. gpt-alibi-tiny is the model of
# regime 6: with positions that make the token before cheap to find, it learns to read examples (README).
_TINY = dict(vocab_size=1024, max_positions=128, norm="pre", final_norm=True, norm_eps=1e-5, init_std=None)
_TINY |= dict(embedding_norm=False, head_transform=False, dropout=0.0, attention_dropout=0.0)


def _sizes(d_model: int, n_head: int, encoder: int = 0, decoder: int = 0) -> dict:
    sizes = dict(d_model=d_model, n_head=n_head, d_ff=4 * d_model)
    return sizes | dict(n_encoder_layer=encoder, n_decoder_layer=decoder)


PRESETS: dict[str, ModelConfig] = {
    name: ModelConfig(**row)
    for name, row in {
        "transformer-base": _TRANSFORMER | _sizes(512, 8, encoder=6, decoder=6),
        "transformer-big": _TRANSFORMER | _sizes(1024, 16, encoder=6, decoder=6) | dict(dropout=0.3),
        "bert-base": _BERT | _PAIRS | _sizes(768, 12, encoder=12),
        "bert-large": _BERT | _PAIRS | _sizes(1024, 16, encoder=24),
        "distilbert": _BERT | _sizes(768, 12, encoder=6),
        "gpt2": _GPT2 | _sizes(768, 12, decoder=12),
        "gpt2-medium": _GPT2 | _sizes(1024, 16, decoder=24),
        "gpt2-large": _GPT2 | _sizes(1280, 20, decoder=36),
        "gpt2-xl": _GPT2 | _sizes(1600, 25, decoder=48),
        "bart-base": _BART | _sizes(768, 12, encoder=6, decoder=6),
        "bart-large": _BART | _sizes(1024, 16, encoder=12, decoder=12),
        "bert-tiny": _BERT | _PAIRS | _TINY | _sizes(64, 4, encoder=2),
        "distilbert-tiny": _BERT | _TINY | _sizes(64, 4, encoder=1),
        "gpt-tiny": _GPT2 | _TINY | _sizes(96, 4, decoder=2),
        "gpt-alibi-tiny": _GPT2 | _TINY | _sizes(64, 4, decoder=2) | dict(positions="alibi"),
        "bart-tiny": _BART | _TINY | _sizes(64, 4, encoder=2, decoder=2) | dict(positions="alibi"),
        "transformer-tiny": _TRANSFORMER | _TINY | _sizes(96, 4, encoder=2, decoder=2),
    }.items()
}


def preset(name: str) -> ModelConfig:
    """Return the row of PRESETS called `name`; UserError with the nearest name where there is none."""
    if name not in PRESETS:
        raise UserError(f"no preset called {name!r}{suggest(name, PRESETS)}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
