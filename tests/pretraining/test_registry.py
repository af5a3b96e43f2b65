"""Grades pretraining/registry.py: from settings to text, tokenizer, objective and model."""

import dataclasses
from pathlib import Path

import pytest
import small
import torch

from minilm import world
from minilm.checkpoint import save
from minilm.model.config import PRESETS, ModelConfig
from minilm.plumbing.errors import UserError
from minilm.pretraining import registry
from minilm.pretraining.recipes import DEFAULT_MODEL, with_recipe
from minilm.pretraining.registry import OBJECTIVES, check_fit, fresh_model, load_texts, make_objective
from minilm.pretraining.settings import PretrainingSettings


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_is_wired_to_what_fits_it(name):
    entry = OBJECTIVES[name]
    assert entry.objective.name == name
    assert PRESETS[DEFAULT_MODEL[name]].kind == entry.kind, "the default model is one that it trains"
    fields = {field.name for field in dataclasses.fields(PretrainingSettings)}
    assert set(entry.options) <= fields, "an option of the objective is a flag"
    assert entry.next_command.startswith("python train.py")


def test_options_reach_the_objective():
    common = dict(context=24, batch_size=7, seed=3)
    settings = PretrainingSettings(objective="masked", whole_word=True, mask_share=0.3, **common)
    objective = make_objective(settings, small.corpus(), small.tokenizer())
    assert (objective.name, objective.whole_word, objective.mask_share) == ("masked", True, 0.3)
    assert (objective.context, objective.batch_size, objective.seed) == (24, 7, 3)
    settings = PretrainingSettings(objective="denoising", noise="deletion", **common)
    assert make_objective(settings, small.corpus(), small.tokenizer()).noises == ("deletion",)


def test_texts_are_documents_or_pairs():
    corpus = load_texts(PretrainingSettings(objective="causal", data=("world",), n_documents=12))
    assert corpus.train == world.documents(12)
    assert registry.texts_for_tokenizer(corpus) == corpus.train
    pairs = load_texts(PretrainingSettings(objective="translation", data=("world",), n_documents=12))
    assert len(pairs.train) == 12
    texts = registry.texts_for_tokenizer(pairs)
    assert {text for pair in pairs.train for text in pair} == set(texts), "one vocabulary, both languages"


def test_a_tokenizer_is_trained_read_or_that_of_the_run(tmp_path):
    settings = PretrainingSettings(vocab_size=290, out=str(tmp_path))
    assert registry.make_tokenizer(settings, small.corpus()).vocab_size == 290
    small.tokenizer().save(tmp_path / "tokenizer.json")
    for more in (dict(resume=True), dict(tokenizer=str(Path(tmp_path, "tokenizer.json")))):
        read = registry.make_tokenizer(dataclasses.replace(settings, **more), small.corpus())
        assert read.vocab == small.tokenizer().vocab


def test_fresh_weights_are_those_of_the_seed():
    settings = with_recipe(PretrainingSettings(seed=1))
    tokenizer = small.tokenizer()
    one, same = (fresh_model(settings, dict(d_ff=20), tokenizer) for _ in range(2))
    other = fresh_model(dataclasses.replace(settings, seed=2), dict(d_ff=20), tokenizer)
    small.assert_equal(one.state_dict(), same.state_dict())
    assert not torch.equal(one.tokens.weight, other.tokens.weight)
    assert (one.config.d_ff, one.config.vocab_size) == (20, tokenizer.vocab_size)
    plain = fresh_model(dataclasses.replace(settings, next_sentence=False), {}, tokenizer)
    assert plain.next_sentence is None and plain.pooler is None


def test_what_does_not_fit_is_named():
    settings = with_recipe(PretrainingSettings(objective="causal", context=64))
    check_fit(settings, ModelConfig(n_decoder_layer=1))
    with pytest.raises(UserError, match="kind decoder.*kind encoder; it fits --objective masked"):
        check_fit(settings, ModelConfig(n_encoder_layer=1))
    with pytest.raises(UserError, match="--context 64 .*32 positions.*--max-positions 64"):
        check_fit(settings, ModelConfig(n_decoder_layer=1, max_positions=32))


def test_a_student_is_made_of_its_teachers_layers(tmp_path):
    teacher = small.model("masked")
    save(teacher, small.tokenizer(), tmp_path / "teacher")
    settings = with_recipe(PretrainingSettings(objective="distillation", teacher=str(tmp_path / "teacher")))
    student, tokenizer = registry.copied_student(settings, {"n_encoder_layer": 1})
    assert tokenizer.vocab == small.tokenizer().vocab and student.config.n_segments == 0
    assert torch.equal(student.tokens.weight, teacher.tokens.weight)
    with pytest.raises(UserError, match="--n-encoder-layer"):
        registry.copied_student(settings, {"d_ff": 3})


def test_the_closing_table_is_that_of_the_objective():
    settings = with_recipe(PretrainingSettings(objective="causal"))
    metrics = dict(loss=1.0, bits_per_byte=2.0, accuracy=0.5)
    objective, model = small.objective("causal"), small.model("causal")
    rows, results, _ = registry.closing(settings, objective, model, metrics, metrics)
    assert all(len(row) == len(OBJECTIVES["causal"].header) for row in rows)
    assert "perplexity" in results


def test_few_shot_documents_get_an_objective_that_asks():
    def name(**changes):
        return registry.run_name(PretrainingSettings(**dict(objective="causal", data=("world",)) | changes))

    assert name() == "causal" and name(objective="masked") == "masked"
    assert name(data=("world:few-shot",)) == name(data=("world:few-shot-no-repeats",)) == "in-context"
    assert name(objective="masked", data=("world:few-shot",)) == "masked", "BERT reads no examples"
    assert name(init="runs/causal") == "causal-continued"
