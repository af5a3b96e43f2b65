"""What a model is: one frozen dataclass, and the table of the published models.

BERT, DistilBERT, GPT-2, BART, LLaMA and the Transformer of 2017 differ in the fields below, in nothing else.
"""

from dataclasses import asdict, dataclass
from typing import Literal, get_origin

from ..plumbing.errors import UserError, suggest


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. Raises UserError, which names the flag, when the fields contradict each other."""

    vocab_size: int = 30522  # V: tokens of the vocabulary
    n_encoder_layer: int = 0  # blocks of the encoder: every token sees every token (0: no encoder)
    n_decoder_layer: int = 0  # blocks of the decoder: a token sees itself and those before it (0: no decoder)
    d_model: int = 768  # D: numbers per position, the "hidden size"
    n_head: int = 12  # H: attention heads
    n_kv_head: int | None = None  # heads of keys and values, each for a group of query heads; none: n_head
    d_head: int | None = None  # numbers per head; none: d_model / n_head
    d_ff: int = 3072  # F: inner width of the feed-forward part
    max_positions: int = 512  # longest sequence, in tokens
    n_segments: int = 0  # 2 where the encoder reads a pair of texts, marked A and B (BERT); else 0
    positions: Literal["learned", "sinusoidal", "alibi", "rope"] = "learned"  # how it knows the token order
    rope_theta: float = 10000.0  # rope: pair i turns by one radian in theta^(2i / d_head) positions
    position_offset: int = 0  # unused rows before position 0 (2 in BART)
    init_std: float | None = None  # standard deviation of the initial weights; none: 0.55 / sqrt(d_model)
    norm: Literal["post", "pre"] = "pre"  # post: norm after a sum (2017, BERT); pre: before a part (GPT-2)
    norm_kind: Literal["layer", "rms"] = "layer"  # rms: a norm without mean and bias (LLaMA)
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"  # function in the feed-forward part
    gated: bool = False  # feed-forward: one layer times another, a gate; silu: SwiGLU (LLaMA), gelu: GEGLU
    biases: Literal["all", "qkv", "none"] = "all"  # which linear layers of a block have a bias (LLaMA: none)
    qk_norm: bool = False  # RMS norm on the queries and keys of each head, before rope turns them (Qwen3)
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
        for name, value in asdict(self).items():
            if name in ("vocab_size", "d_model", "n_head", "n_kv_head", "d_head", "d_ff", "max_positions"):
                right, must = value is None or value >= 1, "be 1 or more"
            elif name in ("dropout", "attention_dropout"):
                right, must = 0 <= value < 1, "lie in [0, 1)"
            elif name == "rope_theta":
                right, must = value > 0, "be above 0"
            elif get_origin(kind := ModelConfig.__annotations__[name]) is Literal:
                near = suggest(str(value), allowed := kind.__args__)
                right, must = value in allowed, f"be one of {', '.join(allowed)}{near}"
            else:
                right, must = value is None or value >= 0, "not be below 0"
            if not right:
                raise UserError(f"--{name.replace('_', '-')} {value}: must {must}")
        if self.n_layer == 0:
            raise UserError("--n-encoder-layer 0, --n-decoder-layer 0: at least one must be 1 or more")
        if self.d_model % self.n_head and self.d_head is None:
            H, D = self.n_head, self.d_model
            raise UserError(f"--d-model {D} is no multiple of --n-head {H}: try --d-model {H * (D // H + 1)}")
        if self.n_head % (n_kv := self.n_kv_head or self.n_head):
            raise UserError(f"--n-kv-head {n_kv} does not divide --n-head {self.n_head}: try --n-kv-head 1")
        if self.positions == "rope" and (d_head := self.d_head or self.d_model // self.n_head) % 2:
            raise UserError(f"--positions rope needs an even size of each head, not {d_head}: see --d-head")
        if not self.n_encoder_layer and (self.pooler or self.n_segments):
            raise UserError("--pooler and --n-segments need an encoder: a decoder alone uses neither")
        if self.next_sentence and not self.pooler:
            raise UserError("--next-sentence needs --pooler: its head reads the pooled first token")

    @property
    def n_layer(self) -> int:
        """Blocks in both stacks together."""
        return self.n_encoder_layer + self.n_decoder_layer

    @property
    def kind(self) -> str:
        """`encoder`, `decoder` or `encoder-decoder`."""
        return "-".join(stack for stack in ("encoder", "decoder") if getattr(self, f"n_{stack}_layer"))


# How the models differ, apart from their sizes (Vaswani et al. 2017, Devlin et al. 2019, Sanh et al. 2019,
# Radford et al. 2019, Lewis et al. 2020, Touvron et al. 2023). Not in the first paper: biases in attention.
# fmt: off
NAMES =                 ("Transformer", "BERT",    "DistilBERT", "GPT-2",    "BART",    "LLaMA")
TABLE = {
    "vocab_size":       (37000,        30522,     30522,     50257,       50265,     32000),
    "max_positions":    (512,          512,       512,       1024,        1024,      2048),
    "positions":        ("sinusoidal", "learned", "learned", "learned",   "learned", "rope"),
    "position_offset":  (0,            0,         0,         0,           2,         0),
    "scale_embeddings": (True,         False,     False,     False,       False,     False),
    "embedding_norm":   (False,        True,      True,      False,       True,      False),
    "norm":             ("post",       "post",    "post",    "pre",       "post",    "pre"),
    "final_norm":       (False,        False,     False,     True,        False,     True),
    "norm_eps":         (1e-5,         1e-12,     1e-12,     1e-5,        1e-5,      1e-6),
    "activation":       ("relu",       "gelu",    "gelu",    "gelu_tanh", "gelu",    "silu"),
    "attention_dropout":(0.0,          0.1,       0.1,       0.1,         0.1,       0.0),
    "init_std":         (None,         0.02,      0.02,      0.02,        0.02,      0.02),
    "head_transform":   (False,        True,      True,      False,       False,     False),
    "head_bias":        (False,        True,      True,      False,       False,     False),
    "n_segments":       (0,            2,         0,         0,           0,         0),
    "pooler":           (False,        True,      False,     False,       False,     False),
    "next_sentence":    (False,        True,      False,     False,       False,     False),
    "dropout":          (0.1,          0.1,       0.1,       0.1,         0.1,       0.0),
    "norm_kind":        ("layer",      "layer",   "layer",   "layer",     "layer",   "rms"),
    "gated":            (False,        False,     False,     False,       False,     True),
    "biases":           ("all",        "all",     "all",     "all",       "all",     "none"),
    "tie_embeddings":   (True,         True,      True,      True,        True,      False),
}
# fmt: on
# The CPU-sized models differ from the papers: at these small widths, the papers' choices delay the step at
# which attention becomes useful. With embedding norm and head transform, bert-tiny knows the right place of a
# thing one time in four after 1,500 steps; without, nearly always. With ALiBi the previous token is easy to
# find: bart-tiny rebuilds short texts sooner, and gpt-alibi-tiny learns to use examples (regime 6).
TINY = dict(vocab_size=1024, max_positions=128, norm="pre", final_norm=True, norm_eps=1e-5, init_std=None)
TINY |= dict(embedding_norm=False, head_transform=False, dropout=0.0, attention_dropout=0.0)


def _row(family: str, encoder: int, decoder: int, d_model: int, n_head: int, **other) -> ModelConfig:
    row = {field: values[NAMES.index(family)] for field, values in TABLE.items()}
    row |= dict(n_encoder_layer=encoder, n_decoder_layer=decoder, d_model=d_model, n_head=n_head)
    return ModelConfig(**row | dict(d_ff=4 * d_model) | other)


_SMOLLM2 = dict(vocab_size=49152, max_positions=8192, rope_theta=1e5, norm_eps=1e-5, tie_embeddings=True)
PRESETS: dict[str, ModelConfig] = {  # _row: family, encoder blocks, decoder blocks, d_model, n_head
    "transformer-base": _row("Transformer", 6, 6, 512, 8),
    "transformer-big": _row("Transformer", 6, 6, 1024, 16, dropout=0.3),
    "bert-base": _row("BERT", 12, 0, 768, 12),
    "bert-large": _row("BERT", 24, 0, 1024, 16),
    "distilbert": _row("DistilBERT", 6, 0, 768, 12),
    "gpt2": _row("GPT-2", 0, 12, 768, 12),
    "gpt2-medium": _row("GPT-2", 0, 24, 1024, 16),
    "gpt2-large": _row("GPT-2", 0, 36, 1280, 20),
    "gpt2-xl": _row("GPT-2", 0, 48, 1600, 25),
    "smollm2-135m": _row("LLaMA", 0, 30, 576, 9, n_kv_head=3, d_ff=1536, init_std=1 / 24, **_SMOLLM2),
    "bart-base": _row("BART", 6, 6, 768, 12),
    "bart-large": _row("BART", 12, 12, 1024, 16),
    "bert-tiny": _row("BERT", 2, 0, 64, 4, **TINY),
    "distilbert-tiny": _row("DistilBERT", 1, 0, 64, 4, **TINY),
    "gpt-tiny": _row("GPT-2", 0, 2, 96, 4, **TINY),
    "gpt-alibi-tiny": _row("GPT-2", 0, 2, 64, 4, **TINY, positions="alibi"),
    "llama-tiny": _row("LLaMA", 0, 2, 96, 4, n_kv_head=2, d_ff=256, tie_embeddings=True, **TINY),
    "bart-tiny": _row("BART", 2, 2, 64, 4, **TINY, positions="alibi"),
    "transformer-tiny": _row("Transformer", 2, 2, 96, 4, **TINY),
}
