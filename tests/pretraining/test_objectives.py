"""What all objectives promise: pure batches, parts add up, padding and missing labels cost nothing."""

import random
from inspect import Parameter, signature

import numpy as np
import pytest
import torch

from minilm.pretraining.causal import Causal
from minilm.pretraining.denoising import Denoising
from minilm.pretraining.distillation import Distillation, initial_student, soft_target_loss
from minilm.pretraining.masked import Masked
from minilm.pretraining.run import OBJECTIVES, PretrainingSettings
from minilm.pretraining.translation import Translation, smoothed_cross_entropy
from minilm.texts.pairs import Pairs
from minilm.training.objective import IGNORED, add_metrics, autocast, by_length, summed_cross_entropy

SIZES = dict(context=61, batch_size=9)
NAMES = ("causal", "masked", "packed", "whole words", "denoising", "translation", "distillation")


@pytest.fixture(params=NAMES)
def made(request, tagged_corpus, bpe, encoder, decoder):
    """A function that builds one of the objectives from a seed, and a model for it."""
    name, V = request.param, len(bpe.vocab)
    torch.manual_seed(5)
    model = decoder(V) if name == "causal" else encoder(V, pairs=name in ("masked", "whole words"))
    if name in ("denoising", "translation"):
        model = encoder(V, pairs=False, n_decoder_layer=1)
    for p in model.parameters():  # strong opinions: with logits near 0 every loss would look alike
        p.data.add_(0.2 * torch.randn_like(p))
    if name == "distillation":
        teacher, model = model, initial_student(model)
        model.tokens.weight.data.add_(0.1)

    def make(seed=3):
        options = dict(SIZES, tokenizer=bpe, seed=seed)
        if name == "translation":
            pairs = [(text, text[::-1]) for text in tagged_corpus.train]
            return Translation(Pairs("tagged", pairs[:49], pairs[49:]), **options)
        if name == "distillation":
            return Distillation(tagged_corpus, teacher=teacher, **options)
        if name in ("causal", "denoising"):
            return dict(causal=Causal, denoising=Denoising)[name](tagged_corpus, **options)
        options |= dict(next_sentence=name != "packed", whole_word=name == "whole words")
        return Masked(tagged_corpus, **options)

    return make, model


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_batch_is_a_function_of_seed_split_and_step(made):
    make, _ = made
    objective = make()
    first, validation = objective.batch(20, "train"), objective.batch(0, "validation")
    states = lambda: (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    before = states()
    for step in (0, 19, 40):
        objective.batch(step, "train")
        assert equal(objective.batch(step, "validation"), validation), "validation is the same at all steps"
    assert before == states(), "making a batch moves a global random state: dropout would change"
    assert equal(objective.batch(20, "train"), first), "a batch depends on the batches made before it"
    assert equal(make().batch(20, "train"), first), "another object with the same seed gives another batch"
    assert not equal(objective.batch(21, "train"), first), "another step gives the same batch"
    assert not equal(make(seed=4).batch(20, "train"), first), "another seed gives the same batch"
    assert len(first["input_ids"]) == 9 and first["input_ids"].shape[1] <= 61


@pytest.mark.parametrize("split, n_part", [("train", 2), ("validation", 7)])
def test_parts_of_a_batch_add_up(made, assert_parts_add_up, split, n_part):
    make, model = made
    objective = make()
    assert_parts_add_up(objective, model, objective.batch(0, split), n_part)


def test_the_loss_moves_every_weight(made):
    make, model = made
    objective = make()
    objective.loss(model, objective.batch(0, "train"))[0].backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == [], "no gradient reaches these"


def test_rows_of_like_length_without_their_padding_have_the_same_metrics(made):
    make, model = made
    objective = make()
    batch, totals, n_token = objective.batch(0, "validation"), {}, 0
    for part in by_length(batch, 5):
        add_metrics(totals, objective.loss(model.eval(), part)[1])
        n_token += part["input_ids"].numel()
    whole = {name: value.detach() for name, value in objective.loss(model, batch)[1].items()}
    for name, value in whole.items():
        expected = pytest.approx(float(value), rel=1e-4, abs=1e-6)
        assert float(totals[name]) == expected, f"{name}: lost or doubled"
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()
    assert real <= n_token < 1.3 * real, "padding is computed for nothing"


LOSSES = dict(
    hidden_tokens=lambda logits: summed_cross_entropy(logits, torch.arange(6).view(2, 3)),
    smoothed=lambda logits: smoothed_cross_entropy(logits, torch.arange(6).view(2, 3), 0.1)[0],
    soft=lambda logits: soft_target_loss(logits, logits.flip(0), torch.ones(2, 3), 2.0),
)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_logits_in_bf16_is_computed_in_float32(loss):
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 3, 11).bfloat16()
    with autocast("bf16", torch.device("cpu")):
        found = LOSSES[loss](logits)
    assert found.item() == pytest.approx(LOSSES[loss](logits.float()).item(), rel=1e-6), "three digits"


def test_without_labels_the_loss_is_0_and_gradients_are_finite(made):
    make, model = made
    objective = make()
    batch = objective.batch(0, "train")
    for name, value in batch.items():
        if name in ("labels", "masked_labels", "survived"):
            value.fill_(IGNORED)
        if value.dim() == 0:
            value.fill_(1.0)
    loss, metrics = objective.loss(model, batch)
    loss.backward()
    rest = ("next_sentence_loss", "next_sentence_accuracy", "cosine_loss", "loss")  # not about tokens
    assert all(value == 0 for name, value in metrics.items() if name not in rest), "a label of none counts"
    assert loss.isfinite() and (loss == 0 or set(rest[:3]) & set(metrics))
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_what_stands_in_the_padding_changes_nothing(made):
    make, model = made
    objective = make()
    batch = objective.batch(0, "train")
    longer = dict(batch)
    fill = dict(input_ids=20, attention_mask=0, token_type_ids=1, decoder_input_ids=21, labels=IGNORED)
    fill |= dict(survived=IGNORED, masked_positions=3, masked_labels=IGNORED)
    for name in set(fill) & set(batch):
        longer[name] = torch.nn.functional.pad(batch[name], (0, 3), value=fill[name])
    if "attention_mask" in batch:
        longer["input_ids"][longer["attention_mask"] == 0] = 22
    before = objective.loss(model, batch)[0]
    torch.testing.assert_close(objective.loss(model, longer)[0], before)
    longer["input_ids"][0, 1] += 1
    assert objective.loss(model, longer)[0] != before, "the loss does not depend on the text"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_an_objective_takes_for_granted_is_what_the_flags_do(name):
    """A README that builds one by hand shows the same run as its command."""
    flags, kind = vars(PretrainingSettings(objective=name)), OBJECTIVES[name].objective
    given = {name: option.default for name, option in signature(kind).parameters.items()}
    taken = {name: value for name, value in given.items() if value is not Parameter.empty}
    assert taken == {name: flags[name] for name in taken}, "another default than that of the flag"
    assert taken["seed"] == 0
