"""What all objectives promise: batches that depend on (seed, split, step) alone, sums that add up."""

import math
import random
from unittest.mock import Mock, call

import numpy as np
import pytest
import small
import torch

from minilm.pretraining.causal import Causal
from minilm.pretraining.masked import Masked
from minilm.texts.corpus import Corpus
from minilm.training import objective as module

MAKERS = {
    "causal": Causal,
    "masked, next sentence": Masked,
    "masked": lambda *args, **kw: Masked(*args, **kw, next_sentence=False),
    "masked, whole words": lambda *args, **kw: Masked(*args, **kw, whole_word=True),
}


@pytest.fixture(params=MAKERS)
def make(request, tagged_corpus, bpe):
    """A function that builds one of the objectives, on any texts, with any seed."""
    return lambda corpus=tagged_corpus, seed=3: MAKERS[request.param](corpus, bpe, 61, 5, seed=seed)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_cut_is_a_note():
    assert module.notes_on_cuts(0, "cut {:,} texts", 12) == ()
    assert module.notes_on_cuts(1234, "cut {:,} texts", 12) == ("cut 1,234 texts to fit --context 12 tokens",)


class Plain(module.Objective):
    """A minimal objective."""

    def batch(self, step, split):
        return {}

    def loss(self, model, batch):
        return 0.0, {}


def global_states() -> tuple:
    return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()


def test_batch_is_a_function_of_seed_split_and_step(make):
    objective = make()
    first = objective.batch(7, "train")
    np.random.seed(5), torch.manual_seed(5), random.seed(5)
    before = global_states()
    assert len(first["input_ids"]) == 5 and first["input_ids"].shape[1] <= 61
    for step in (0, 7, 8):
        objective.batch(step, "validation")
        objective.batch(step, "train")
    assert before == global_states(), "making a batch must not move a random state: dropout would change"
    assert equal(objective.batch(7, "train"), first), "a batch depends on those before it or a random state"
    assert equal(make().batch(7, "train"), first), "another object with the same seed gives another batch"
    assert not equal(objective.batch(8, "train"), first), "another step gives the same batch"
    assert not equal(make(seed=4).batch(7, "train"), first), "another seed gives the same batch"
    assert not equal(validation := objective.batch(7, "validation"), first)
    assert equal(objective.batch(0, "validation"), validation), "at all steps the figures are of one batch"


def test_batches_never_read_the_other_split(make, documents, tagged_corpus):
    objective, others = make(), documents(40, seed=9)
    other_validation = make(Corpus("tagged", tagged_corpus.train, others))
    other_train = make(Corpus("tagged", others, tagged_corpus.validation))
    assert equal(objective.batch(2, "train"), other_validation.batch(2, "train"))
    assert equal(objective.batch(0, "validation"), other_train.batch(0, "validation"))
    assert not equal(objective.batch(2, "train"), other_train.batch(2, "train"))
    assert not equal(objective.batch(0, "validation"), other_validation.batch(0, "validation"))


@pytest.mark.parametrize("text", ["", "D3 s1 été.", "日本 été \U0001f600 tree"])
def test_token_bytes_are_those_of_the_text(text, bpe):
    token_bytes = Plain(bpe, 8, 2).token_bytes
    assert token_bytes.shape == (len(bpe.vocab),)
    assert token_bytes[bpe.encode(text)].sum() == len(text.encode()), "count UTF-8 bytes, not characters"
    n_byte = [int(token_bytes[bpe.special_id(token)]) for token in bpe.special_tokens]
    assert n_byte == [0] * 6, f"a special token is no text, so it stands for no byte, here {n_byte}"


def test_what_an_objective_does_not_say_of_itself(byte_bpe):
    plain = Plain(byte_bpe, 8, 2)
    assert (plain.seed, plain.patience, plain.notes, plain.shown) == (0, 0, (), ())
    assert plain.update is plain.state is plain.head is None


def test_the_settings_that_an_objective_takes_are_the_arguments_of_its_class():
    given = dict(context=9, seed=2, tokenizer="bpe", corpus="texts", teacher="a model", steps=3)
    assert Plain.options(given) == dict(context=9, seed=2), "tokenizer, texts and teacher are made, not set"


def test_an_objective_needs_batch_and_loss(byte_bpe):
    class Half(module.Objective):
        def batch(self, step, split):
            return {}

    with pytest.raises(TypeError, match="abstract"):
        Half(byte_bpe, 8, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
def test_micro_batches_lose_no_row(n):
    batch = dict(a=torch.arange(7), n_label=torch.tensor(5.0), b=torch.arange(14).view(7, 2))
    parts = module.micro_batches(batch, n)
    assert len(parts) == min(n, 7)
    for name in ("a", "b"):
        assert torch.equal(torch.cat([part[name] for part in parts]), batch[name]), "a row was lost or moved"
    sizes = [len(part["a"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0, sizes
    assert all(part["n_label"] == 5.0 for part in parts), "a denominator must stay that of the whole batch"


def test_only_padding_is_trimmed_and_only_where_it_is():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
    batch = dict(attention_mask=mask, labels=torch.arange(12).view(3, 4), n_label=torch.tensor(3.0))
    batch |= dict(masked_positions=torch.full((3, 4), 3), input_ids=mask, apart=torch.ones(3, 2, 4))
    (whole,) = module.by_length(batch, 1)
    assert whole["labels"][:, 0].tolist() == [4, 0, 8], "the shortest rows come first"
    assert whole["n_label"] == 3
    parts = module.by_length(batch, 3)
    assert [len(part["labels"][0]) for part in parts] == [1, 2, 3], "a part has the columns that it needs"
    first = module.trimmed({name: v[:2] if v.dim() else v for name, v in whole.items()})
    widths = [first[name].shape[1] for name in ("attention_mask", "labels")]
    assert widths == [2, 2], "labels go with their tokens"
    assert first["masked_positions"].tolist() == [[1] * 4] * 2, "one without a label points into the padding"
    assert first["apart"].shape == (2, 2, 4)
    sides = batch | dict(
        decoder_input_ids=torch.ones(3, 4), labels=torch.tensor([[module.IGNORED, 5, -100, -100]] * 3),
        of_ones_own=torch.ones(3, 4), token_type_ids=mask,
    )  # fmt: skip
    found = module.trimmed(sides)
    encoder = ("input_ids", "attention_mask", "token_type_ids")
    widths = {name: found[name].shape[1] for name in (*encoder, "decoder_input_ids", "of_ones_own")}
    assert widths == dict.fromkeys(encoder, 3) | dict(decoder_input_ids=2, of_ones_own=2)
    sides["labels"][:] = module.IGNORED
    assert module.trimmed(sides)["labels"].shape == (3, 1), "no label at all"
    together = dict(attention_mask=torch.ones(3, 2, 4), labels=torch.ones(3))
    (found,) = module.by_length(together, 1)
    assert all(torch.equal(found[name], together[name]) for name in together), "pairs of rows must stay pairs"


def test_add_metrics_adds_and_lets_go_of_the_graph():
    totals = {}
    for value in (1, 2.5):
        module.add_metrics(totals, dict(loss=torch.tensor(float(value), requires_grad=True) * 2))
    module.add_metrics(totals, dict(right=torch.tensor(3)))
    assert {name: float(value) for name, value in totals.items()} == dict(loss=7.0, right=3.0)
    assert not totals["loss"].requires_grad, "metrics that keep the graph keep all its memory"


def test_tensors_are_int64_and_plain_numbers_0d_floats():
    ids = np.array([[1, 2]])
    module.tensors(dict(ids=ids))["ids"].zero_()
    assert ids.tolist() == [[1, 2]], "a batch must be a copy, not a view of the text"
    out = module.tensors(dict(ids=ids.astype(np.int32), flags=np.array([True]), n=3, m=np.int64(2**20)))
    assert out["ids"].dtype == out["flags"].dtype == torch.int64 and out["ids"].tolist() == [[1, 2]]
    assert out["n"].shape == out["m"].shape == () and out["n"].dtype == torch.float32
    assert out["n"] == 3 and out["m"] == 2**20


def test_bf16_is_for_matrix_products_and_on_request():
    a = torch.rand(3, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with module.autocast(precision, torch.device("cpu")):
            assert (a @ a.T).dtype == dtype and (a + a).dtype == torch.float32


def test_summed_cross_entropy_equals_a_plain_loop():
    logits = torch.randn(2, 3, 7, dtype=torch.float64)
    labels = torch.tensor([[6, module.IGNORED, 0], [module.IGNORED, 2, 3]])
    expected = 0.0
    for b in range(2):
        for t in range(3):
            if labels[b, t] != module.IGNORED:
                p = logits[b, t].exp() / logits[b, t].exp().sum()
                expected -= p[labels[b, t]].log().item()
    found = module.summed_cross_entropy(logits, labels).item()
    assert found == pytest.approx(expected, rel=1e-12), "a sum in nats over what counts, no mean and no bits"


def test_summed_cross_entropy_without_a_label_is_0_with_finite_gradients():
    logits = torch.randn(2, 3, 7, requires_grad=True)
    loss = module.summed_cross_entropy(logits, torch.full((2, 3), module.IGNORED))
    loss.backward()
    assert loss.item() == 0, "a mean over no labels is NaN"
    assert torch.equal(logits.grad, torch.zeros(2, 3, 7))


def test_count_correct_counts_the_highest_logit_and_no_ignored_label():
    logits = torch.tensor([[[0.0, 2, 1], [3, 1, 1]], [[0, 1, 9], [0, 1, 9]]])
    assert module.count_correct(logits, torch.tensor([[1, 0], [2, 1]])).item() == 3
    assert module.count_correct(logits, torch.tensor([[1, module.IGNORED], [module.IGNORED, 1]])).item() == 1
    assert module.count_correct(logits, torch.full((2, 2), module.IGNORED)).item() == 0


def test_perplexity_is_how_many_tokens_one_would_hesitate_between():
    assert module.perplexity(math.log(7)) == pytest.approx(7) and module.perplexity(0.0) == 1.0
    told = "a model that has diverged gets its table too"
    assert module.perplexity(700.0) == module.perplexity(5000.0) == math.exp(700), told


def test_a_batch_goes_to_the_device_by_name():
    batch = dict(input_ids=torch.arange(6).view(2, 3), n_label=torch.tensor(5.0))
    moved = module.to_device(batch, torch.device("meta"))
    assert list(moved) == list(batch)
    assert all(value.device.type == "meta" for value in moved.values())
    assert moved["input_ids"].shape == (2, 3) and moved["n_label"].shape == ()
    stayed = module.to_device(batch, torch.device("cpu"))
    assert all(torch.equal(value, batch[name]) for name, value in stayed.items())


def test_a_batch_goes_to_a_gpu_without_waiting():
    value, gpu = Mock(), torch.device("cuda")
    module.to_device(dict(a=value), gpu)
    copied = [call.pin_memory(), call.pin_memory().to(gpu, non_blocking=True)]
    assert value.mock_calls == copied, "a copy from memory that is not pinned waits"


def test_chance_comes_from_seed_part_and_step():
    objective = small.objective("causal")
    objective.seed = 4
    for split, step, expected in (("train", 5, [4, 0, 5]), ("validation", 5, [4, 1, 0])):
        found = objective.generator(step, split).random(3)
        told = f"{split}, step {step}: seeded by [seed, 0 or 1 for the split, step or for validation 0]"
        assert found.tolist() == np.random.default_rng(expected).random(3).tolist(), told


@pytest.mark.parametrize(("longest", "n"), [(0, 1), (1, 1), (3, 3), (5, 5)])
def test_as_many_columns_stay_as_the_longest_row_has_and_one_at_least(longest, n):
    mask = torch.zeros(2, 5)
    mask[1, :longest] = 1
    found = module.trimmed(dict(attention_mask=mask, input_ids=torch.arange(10).view(2, 5)))
    assert torch.equal(found["attention_mask"], mask[:, :n]) and found["input_ids"].shape == (2, n)
