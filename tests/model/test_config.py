"""Grades model/config.py: the fields, what contradicts, and the table of published models.

That every field is read by the model is graded in test_transformer_config.py, the parameter counts too.
"""

import dataclasses
import json
from dataclasses import asdict

import pytest
import small

from minilm.model.config import NAMES, PRESETS, TABLE, ModelConfig
from minilm.plumbing.errors import UserError

SMALL = dict(n_encoder_layer=1, d_model=12, n_head=3, d_ff=20, vocab_size=50)

# (field, bad value, what the message must hold)
BAD = [
    ("n_head", 5, "--d-model 12 is no multiple of --n-head 5: try --d-model 15"),
    ("n_encoder_layer", 0, "--n-encoder-layer 0, --n-decoder-layer 0"),
    ("positions", "rotary", "--positions rotary: must be one of learned, sinusoidal, alibi, rope"),
    ("norm_kind", "batch", "--norm-kind batch: must be one of layer, rms"),
    ("biases", "qk", "did you mean 'qkv'"),
    ("n_kv_head", 2, "--n-kv-head 2 does not divide --n-head 3"),
    ("rope_theta", 0.0, "--rope-theta 0.0: must be above 0"),
    ("norm", "prenorm", "did you mean 'pre'"),
    ("activation", "gelu_tan", "did you mean 'gelu_tanh'"),
    ("next_sentence", True, "--pooler"),
    ("norm", 3, "--norm 3: must be one of post, pre"),
]
OUT_OF_RANGE = dict(vocab_size=[0], d_model=[0, -4], n_head=[0], d_ff=[0], max_positions=[0], n_segments=[-1])
OUT_OF_RANGE |= dict(n_kv_head=[0], d_head=[0])
OUT_OF_RANGE |= dict(position_offset=[-2], init_std=[-0.5], norm_eps=[-1e-5], attention_dropout=[1.5])
OUT_OF_RANGE |= dict(n_encoder_layer=[-1], n_decoder_layer=[-1], dropout=[1.0, -0.1, float("nan")])
for name, values in OUT_OF_RANGE.items():
    BAD += [(name, value, f"--{name.replace('_', '-')} {value}") for value in values]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_a_contradiction_is_one_line_that_names_flag_and_value(field, value, message):
    with pytest.raises(UserError) as caught:
        ModelConfig(**(SMALL | {field: value}))
    assert message in str(caught.value), f"{field}={value} must be named as the user typed it"
    assert "\n" not in str(caught.value)


def test_the_way_out_of_an_indivisible_width_works():
    with pytest.raises(UserError, match="try --d-model 15"):
        ModelConfig(**(SMALL | dict(n_head=5)))
    ModelConfig(**(SMALL | dict(n_head=5, d_model=15)))


def test_a_rotation_needs_pairs_and_a_width_of_heads_none_that_fits():
    with pytest.raises(
        UserError, match="--positions rope needs an even size of each head, not 3: see --d-head"
    ):
        ModelConfig(**(SMALL | dict(n_head=4, positions="rope")))
    ModelConfig(**(SMALL | dict(n_head=5, d_head=6, positions="rope")))


@pytest.mark.parametrize(
    "parts", [dict(pooler=True), dict(n_segments=2), dict(pooler=True, next_sentence=True)]
)
def test_parts_that_only_an_encoder_uses_need_one(parts):
    decoder = SMALL | dict(n_encoder_layer=0, n_decoder_layer=1)
    with pytest.raises(UserError, match="encoder"):
        ModelConfig(**decoder, **parts)
    ModelConfig(**(decoder | dict(n_encoder_layer=1)), **parts)


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("value", [0, 0.0, 0.999])
def test_an_int_is_good_for_a_float(field, value):
    assert getattr(ModelConfig(**SMALL, **{field: value}), field) == value


def test_smallest_config_is_allowed_and_cannot_be_changed_by_accident():
    made = ModelConfig(vocab_size=1, n_decoder_layer=1, d_model=1, n_head=1, d_ff=1, max_positions=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.d_model = 24


@pytest.mark.parametrize(
    ("encoder", "decoder", "kind"),
    [(2, 0, "encoder"), (0, 3, "decoder"), (1, 0, "encoder"), (0, 1, "decoder"), (1, 1, "encoder-decoder")],
)
def test_kind_and_depth(encoder, decoder, kind):
    config = ModelConfig(**(SMALL | dict(n_encoder_layer=encoder, n_decoder_layer=decoder)))
    assert config.kind == kind
    assert config.n_layer == encoder + decoder


@pytest.mark.parametrize("name", PRESETS)
def test_dictionary_round_trip_through_json(name):
    config = PRESETS[name]
    written = json.loads(json.dumps(asdict(config)))
    assert set(written) == {field.name for field in dataclasses.fields(ModelConfig)}, "every field is saved"
    assert ModelConfig(**written) == config


# what a field means that a preset or a file leaves out; all others: 0, False or none
DEFAULTS = dict(vocab_size=30522, d_model=768, n_head=12, d_ff=3072, max_positions=512, positions="learned")
DEFAULTS |= dict(rope_theta=1e4, norm="pre", norm_kind="layer", activation="gelu", biases="all")
DEFAULTS |= dict(tie_embeddings=True, dropout=0.1, attention_dropout=0.1, norm_eps=1e-5)


def test_what_a_field_means_that_is_left_out():
    found = {field.name: field.default for field in dataclasses.fields(ModelConfig) if field.default}
    assert found == DEFAULTS, "a config.json may leave fields out: another default changes the model it made"


# The published sizes, as the papers print them: encoder blocks, decoder blocks, D, H, F, V, positions.
SIZES = {
    "transformer-base": (6, 6, 512, 8, 2048, 37000, 512),
    "transformer-big": (6, 6, 1024, 16, 4096, 37000, 512),
    "bert-base": (12, 0, 768, 12, 3072, 30522, 512),
    "bert-large": (24, 0, 1024, 16, 4096, 30522, 512),
    "distilbert": (6, 0, 768, 12, 3072, 30522, 512),
    "gpt2": (0, 12, 768, 12, 3072, 50257, 1024),
    "gpt2-medium": (0, 24, 1024, 16, 4096, 50257, 1024),
    "gpt2-large": (0, 36, 1280, 20, 5120, 50257, 1024),
    "gpt2-xl": (0, 48, 1600, 25, 6400, 50257, 1024),
    "smollm2-135m": (0, 30, 576, 9, 1536, 49152, 8192),
    "bart-base": (6, 6, 768, 12, 3072, 50265, 1024),
    "bart-large": (12, 12, 1024, 16, 4096, 50265, 1024),
}
TINY = {"bert-tiny": "bert-base", "distilbert-tiny": "distilbert", "gpt-tiny": "gpt2"}
TINY |= {"gpt-alibi-tiny": "gpt2", "llama-tiny": "smollm2-135m", "bart-tiny": "bart-base"}
TINY["transformer-tiny"] = "transformer-base"
# The families, as the papers and their code have them: what each has (true), and its other choices.
PARTS = {
    "Transformer": "scale_embeddings tie_embeddings",
    "BERT": "embedding_norm head_transform head_bias pooler next_sentence tie_embeddings",
    "DistilBERT": "embedding_norm head_transform head_bias tie_embeddings",
    "GPT-2": "final_norm tie_embeddings",
    "BART": "embedding_norm tie_embeddings",
    "LLaMA": "final_norm gated",
}
FIELDS = (
    "vocab_size max_positions n_segments position_offset positions norm norm_kind norm_eps activation biases"
)
FIELDS = (FIELDS + " init_std dropout attention_dropout").split()
CHOICES = {
    "Transformer": (37000, 512, 0, 0, "sinusoidal", "post", "layer", 1e-5, "relu", "all", None, 0.1, 0.0),
    "BERT": (30522, 512, 2, 0, "learned", "post", "layer", 1e-12, "gelu", "all", 0.02, 0.1, 0.1),
    "DistilBERT": (30522, 512, 0, 0, "learned", "post", "layer", 1e-12, "gelu", "all", 0.02, 0.1, 0.1),
    "GPT-2": (50257, 1024, 0, 0, "learned", "pre", "layer", 1e-5, "gelu_tanh", "all", 0.02, 0.1, 0.1),
    "BART": (50265, 1024, 0, 2, "learned", "post", "layer", 1e-5, "gelu", "all", 0.02, 0.1, 0.1),
    "LLaMA": (32000, 2048, 0, 0, "rope", "pre", "rms", 1e-6, "silu", "none", 0.02, 0.0, 0.0),
}
OF = dict(transformer="Transformer", bert="BERT", distilbert="DistilBERT", gpt2="GPT-2", smollm2="LLaMA")
OF |= dict(gpt="GPT-2", llama="LLaMA", bart="BART")  # family of a preset, by its name's beginning
OWN = {  # in what a model differs from its family
    "transformer-big": dict(dropout=0.3),
    "smollm2-135m": dict(vocab_size=49152, max_positions=8192, norm_eps=1e-5, tie_embeddings=True),
}
OWN["smollm2-135m"]["init_std"] = 1 / 24  # its published config: 0.041666666666666664
PLAIN = dict(vocab_size=1024, max_positions=128, norm="pre", final_norm=True, norm_eps=1e-5, init_std=None)
PLAIN |= dict(embedding_norm=False, head_transform=False, dropout=0.0, attention_dropout=0.0)
OWN |= {name: PLAIN | dict(tie_embeddings=True) for name in TINY}
for name in ("gpt-alibi-tiny", "bart-tiny"):
    OWN[name] = OWN[name] | dict(positions="alibi")


@pytest.mark.parametrize("family", NAMES)
def test_the_families_of_the_papers(family):
    row = {field: values[NAMES.index(family)] for field, values in TABLE.items()}
    assert {field for field, value in row.items() if value is True} == {*PARTS[family].split()}
    assert tuple(row[field] for field in FIELDS) == CHOICES[family], FIELDS


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_has_what_its_family_has_but_for_what_is_its_own(name):
    column = NAMES.index(OF[name.split("-")[0]])
    expected = {field: values[column] for field, values in TABLE.items()} | OWN.get(name, {})
    assert {field: getattr(PRESETS[name], field) for field in TABLE} == expected


def test_the_table_holds_exactly_the_presets_of_the_manual():
    assert list(PRESETS) == [*SIZES, *TINY]


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    c = PRESETS[name]
    sizes = (c.n_encoder_layer, c.n_decoder_layer, c.d_model, c.n_head, c.d_ff, c.vocab_size, c.max_positions)
    assert sizes == SIZES[name], "encoder, decoder, d_model, n_head, d_ff, vocab_size, max_positions"


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_are_small_and_plain(name):
    config = PRESETS[name]
    assert config.norm == "pre" and config.final_norm, "post-norm delays the lesson at this width"
    assert config.dropout == config.attention_dropout == 0, "a minute of training is no time to overfit"
    assert config.init_std is None, "0.02 belongs to a width of 768"
    assert not config.embedding_norm and not config.head_transform, "both delay the lesson at this width"
    assert config.d_model <= 96 and config.n_layer <= 4 and config.vocab_size == 1024
    assert config.kind == PRESETS[TINY[name]].kind


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(PRESETS["bert-tiny"])


TINY_SIZES = {  # encoder blocks, decoder blocks, D, H, heads of keys, F: those of the READMEs' figures
    "bert-tiny": (2, 0, 64, 4, None, 256), "distilbert-tiny": (1, 0, 64, 4, None, 256),
    "gpt-tiny": (0, 2, 96, 4, None, 384), "gpt-alibi-tiny": (0, 2, 64, 4, None, 256),
    "llama-tiny": (0, 2, 96, 4, 2, 256), "bart-tiny": (2, 2, 64, 4, None, 256),
    "transformer-tiny": (2, 2, 96, 4, None, 384),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_tiny_sizes_are_those_of_the_figures_in_the_readmes(name):
    c = PRESETS[name]
    found = (c.n_encoder_layer, c.n_decoder_layer, c.d_model, c.n_head, c.n_kv_head, c.d_ff)
    assert found == TINY_SIZES[name]


def test_the_smallest_and_largest_numbers_of_each_field():
    ModelConfig(**SMALL, init_std=0.0, norm_eps=0.0, n_segments=0, position_offset=0, n_decoder_layer=0)
    ModelConfig(**SMALL, n_kv_head=1, d_head=1, dropout=0.999), ModelConfig(**SMALL, rope_theta=0.5)
    assert (PRESETS["smollm2-135m"].rope_theta, PRESETS["smollm2-135m"].n_kv_head) == (1e5, 3)
