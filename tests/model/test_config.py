"""Grades model/config.py: the fields, what contradicts, and the table of published models.

That every field is read by the model is graded in test_transformer_config.py, the parameter counts too.
"""

import dataclasses

import pytest
import small

from minilm.model.config import NAMES, PRESETS, TABLE, ModelConfig
from minilm.plumbing.errors import UserError

SMALL = dict(n_encoder_layer=1, d_model=12, n_head=3, d_ff=20, vocab_size=50)

# fields that contradict each other or lie outside their range -> what the message must hold
BAD = [
    (dict(n_head=5), "--d-model 12 is no multiple of --n-head 5: try --d-model 15"),
    (dict(n_encoder_layer=0), "--n-encoder-layer 0, --n-decoder-layer 0"),
    (dict(positions="rotary"), "--positions rotary: must be one of learned, sinusoidal, alibi, rope"),
    (dict(positions="rope", n_head=4), "--positions rope needs an even size of each head, not 3: see --d-h"),
    (dict(norm_kind="batch"), "--norm-kind batch: must be one of layer, rms"),
    (dict(biases="qk"), "did you mean 'qkv'"),
    (dict(n_kv_head=2), "--n-kv-head 2 does not divide --n-head 3"),
    (dict(rope_theta=0.0), "--rope-theta 0.0: must be above 0"),
    (dict(norm="prenorm"), "did you mean 'pre'"),
    (dict(norm=3), "--norm 3: must be one of post, pre"),
    (dict(activation="gelu_tan"), "did you mean 'gelu_tanh'"),
    (dict(next_sentence=True), "--next-sentence needs --pooler"),
    (dict(n_encoder_layer=0, n_decoder_layer=1, pooler=True), "--pooler and --n-segments need an encoder"),
    (dict(n_encoder_layer=0, n_decoder_layer=1, n_segments=2), "--pooler and --n-segments need an encoder"),
]
OUT_OF_RANGE = dict(vocab_size=[0], d_model=[0, -4], n_head=[0], d_ff=[0], max_positions=[0], n_segments=[-1])
OUT_OF_RANGE |= dict(n_kv_head=[0], d_head=[0], position_offset=[-2], init_std=[-0.5], norm_eps=[-1e-5])
OUT_OF_RANGE |= dict(n_encoder_layer=[-1], n_decoder_layer=[-1], dropout=[1.0, -0.1, float("nan")])
OUT_OF_RANGE |= dict(attention_dropout=[1.5])
for name, values in OUT_OF_RANGE.items():
    BAD += [({name: value}, f"--{name.replace('_', '-')} {value}") for value in values]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_contradiction_is_one_line_that_names_flag_and_value(fields, message):
    with pytest.raises(UserError) as caught:
        ModelConfig(**SMALL | fields)
    assert message in str(caught.value), f"{fields} must be named as the user typed it"
    assert "\n" not in str(caught.value)


GOOD = [
    dict(vocab_size=1, n_encoder_layer=0, n_decoder_layer=1, d_model=1, n_head=1, d_ff=1, max_positions=1),
    dict(init_std=0.0, norm_eps=0.0, n_segments=0, position_offset=0, n_decoder_layer=0, rope_theta=0.5),
    dict(n_kv_head=1, d_head=1, dropout=0.999, attention_dropout=0),
    dict(n_head=5, d_model=15),  # the way out that the message names
    dict(n_head=5, d_head=6, positions="rope"),
    dict(n_decoder_layer=1, n_segments=2, pooler=True, next_sentence=True),
]


@pytest.mark.parametrize("fields", GOOD, ids=str)
def test_the_smallest_and_largest_numbers_are_allowed(fields):
    ModelConfig(**SMALL | fields)


@pytest.mark.parametrize(
    ("encoder", "decoder", "kind"), [(2, 0, "encoder"), (0, 3, "decoder"), (1, 1, "encoder-decoder")]
)
def test_kind_and_depth(encoder, decoder, kind):
    made = ModelConfig(**SMALL | dict(n_encoder_layer=encoder, n_decoder_layer=decoder))
    assert (made.kind, made.n_layer) == (kind, encoder + decoder)


# what a field means that a preset or a file leaves out; all others: 0, False or none
DEFAULTS = dict(vocab_size=30522, d_model=768, n_head=12, d_ff=3072, max_positions=512, positions="learned")
DEFAULTS |= dict(rope_theta=1e4, norm="pre", norm_kind="layer", activation="gelu", biases="all")
DEFAULTS |= dict(tie_embeddings=True, dropout=0.1, attention_dropout=0.1, norm_eps=1e-5)


def test_what_a_field_means_that_is_left_out():
    found = {field.name: field.default for field in dataclasses.fields(ModelConfig) if field.default}
    assert found == DEFAULTS, "a config.json may leave fields out: another default changes the model it made"


# Encoder blocks, decoder blocks, D, H, heads of keys, F: of the papers, and of the READMEs' figures.
SIZES = {
    "transformer-base": (6, 6, 512, 8, None, 2048),
    "transformer-big": (6, 6, 1024, 16, None, 4096),
    "bert-base": (12, 0, 768, 12, None, 3072),
    "bert-large": (24, 0, 1024, 16, None, 4096),
    "distilbert": (6, 0, 768, 12, None, 3072),
    "gpt2": (0, 12, 768, 12, None, 3072),
    "gpt2-medium": (0, 24, 1024, 16, None, 4096),
    "gpt2-large": (0, 36, 1280, 20, None, 5120),
    "gpt2-xl": (0, 48, 1600, 25, None, 6400),
    "smollm2-135m": (0, 30, 576, 9, 3, 1536),
    "bart-base": (6, 6, 768, 12, None, 3072),
    "bart-large": (12, 12, 1024, 16, None, 4096),
    "bert-tiny": (2, 0, 64, 4, None, 256),
    "distilbert-tiny": (1, 0, 64, 4, None, 256),
    "gpt-tiny": (0, 2, 96, 4, None, 384),
    "gpt-alibi-tiny": (0, 2, 64, 4, None, 256),
    "llama-tiny": (0, 2, 96, 4, 2, 256),
    "bart-tiny": (2, 2, 64, 4, None, 256),
    "transformer-tiny": (2, 2, 96, 4, None, 384),
}
# The families, as the papers and their code have them: what each has (true), and its other choices.
PARTS = {
    "Transformer": "scale_embeddings tie_embeddings",
    "BERT": "embedding_norm head_transform head_bias pooler next_sentence tie_embeddings",
    "DistilBERT": "embedding_norm head_transform head_bias tie_embeddings",
    "GPT-2": "final_norm tie_embeddings",
    "BART": "embedding_norm tie_embeddings",
    "LLaMA": "final_norm gated",
}
FIELDS = "vocab_size max_positions n_segments position_offset positions norm norm_kind norm_eps activation"
FIELDS = [*FIELDS.split(), "biases", "init_std", "dropout", "attention_dropout"]
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
# Tiny ones: at their width, post-norm, norms on embeddings and a head's transform delay the lesson, 0.02 is
# too small a deviation, and a minute of training is no time to overfit.
PLAIN = dict(vocab_size=1024, max_positions=128, norm="pre", final_norm=True, norm_eps=1e-5, init_std=None)
PLAIN |= dict(embedding_norm=False, head_transform=False, dropout=0.0, attention_dropout=0.0)
OWN |= {name: PLAIN | dict(tie_embeddings=True) for name in PRESETS if name.endswith("tiny")}
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


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_are_those_of_the_papers_and_of_the_figures_in_the_readmes(name):
    c = PRESETS[name]
    sizes = (c.n_encoder_layer, c.n_decoder_layer, c.d_model, c.n_head, c.n_kv_head, c.d_ff)
    assert sizes == SIZES[name], "n_encoder_layer, n_decoder_layer, d_model, n_head, n_kv_head, d_ff"


def test_the_table_holds_exactly_the_presets_of_the_manual():
    assert list(PRESETS) == [*SIZES]
    assert PRESETS["smollm2-135m"].rope_theta == 1e5


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(PRESETS["bert-tiny"])
