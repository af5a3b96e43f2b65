"""Grades training/vocabulary_loss.py: the loss in pieces against the loss of all logits at once."""

from dataclasses import replace

import pytest
import torch

from minilm.model.config import PRESETS
from minilm.model.transformer import build
from minilm.training import vocabulary_loss as module
from minilm.training.objective import IGNORED, autocast, summed_cross_entropy

V, B, T = 53, 3, 7
MODELS = {
    "tied, a bias": replace(PRESETS["bert-tiny"], head_bias=True),
    "tied, a dense layer before": replace(PRESETS["bert-tiny"], head_transform=True),
    "untied": replace(PRESETS["llama-tiny"], tie_embeddings=False),
}


def measured(name: str, in_pieces: bool, precision: str, monkeypatch, frozen=()) -> tuple:
    """Return loss, which labels are the likeliest, all gradients, of B * T labels, some of them ignored."""
    # 4 rows at a time of 21, so that the last piece is smaller
    sizes = dict(SMALL=0, ROWS=4) if in_pieces else dict(SMALL=B * T * V)
    for size, value in sizes.items():
        monkeypatch.setattr(module, size, value)
    torch.manual_seed(0)
    model = build(replace(MODELS[name], vocab_size=V))
    if model.vocabulary.bias is not None:
        torch.nn.init.normal_(model.vocabulary.bias)  # 0 would hide that it is left out
    for prefix in frozen:
        model.get_submodule(prefix).requires_grad_(False)
    ids, labels = torch.randint(V, (2, B, T))
    labels[0, :5] = IGNORED
    with autocast(precision, torch.device("cpu")):
        total, right = module.vocabulary_loss(model, model.hidden_states(ids)[-1], labels)
    (3 * total / 16).backward()
    return total.detach(), right, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def untied(monkeypatch):
    """A model, whose loss is computed in pieces."""
    monkeypatch.setattr(module, "SMALL", 0)
    return build(replace(MODELS["untied"], vocab_size=V))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_in_pieces_it_is_the_same_loss_with_the_same_gradient(name, precision, monkeypatch):
    plain, pieces = (measured(name, some, precision, monkeypatch) for some in (False, True))
    near = dict(rtol=2e-2, atol=2e-2) if precision == "bf16" else dict(rtol=1e-4, atol=1e-6)
    told = f"{pieces[0]:.4f} in pieces, not {plain[0]:.4f}: the sum, without IGNORED labels, of "
    told += "log sum exp(logits) - the label's logit"
    torch.testing.assert_close(pieces[0], plain[0], rtol=1e-5, atol=1e-4, msg=told)
    assert torch.equal(pieces[1], plain[1]), "which label is the likeliest token"
    assert pieces[2].keys() == plain[2].keys(), "a weight without a gradient"
    for weight, gradient in plain[2].items():
        what = f"{weight}: is softmax - one-hot multiplied with both factors, and the sum's gradient?"
        torch.testing.assert_close(pieces[2][weight], gradient, **near, msg=what)


def test_the_loss_is_a_plain_loop_over_the_labels(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0)
    model = build(replace(MODELS["tied, a bias"], vocab_size=V))
    hidden, labels = torch.randn(B, T, model.config.d_model), torch.randint(V, (B, T))
    labels[1, 2:5] = IGNORED
    with torch.no_grad():
        total, right = module.vocabulary_loss(model, hidden, labels)
        logits = model.vocabulary_logits(hidden)
    expected = 0.0
    for b in range(B):
        for t in range(T):
            if labels[b, t] != IGNORED:
                expected -= logits[b, t].log_softmax(-1)[labels[b, t]].item()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert right.tolist() == (logits.argmax(-1) == labels).tolist() and right.shape == (B, T)


def test_without_a_label_it_is_0_with_finite_gradients(untied):
    hidden = torch.randn(2, 3, untied.config.d_model, requires_grad=True)
    total, right = module.vocabulary_loss(untied, 1e4 * hidden, torch.full((2, 3), IGNORED))
    total.backward()
    assert total.item() == 0 and not right.any() and hidden.grad.eq(0).all()


@pytest.mark.parametrize("largest", [4 * V, 0])
def test_a_label_that_is_ignored_is_never_the_likeliest(largest, untied, monkeypatch):
    monkeypatch.setattr(module, "SMALL", largest)
    labels = torch.tensor([[IGNORED, 0, 5, IGNORED]])
    _, right = module.vocabulary_loss(untied, torch.zeros(1, 4, untied.config.d_model), labels)
    told = "all logits are 0, so token 0 is the likeliest: is IGNORED, which has no row, compared as token 0?"
    assert right.tolist() == [[False, True, False, False]], told


def test_weights_that_rest_get_no_gradient(monkeypatch):
    plain, pieces = (measured("untied", some, "fp32", monkeypatch, ("vocabulary",)) for some in (False, True))
    assert "vocabulary.output.weight" not in pieces[2] and pieces[2].keys() == plain[2].keys()


def test_a_second_backward_pass_is_refused(untied):
    """The gradients were given away with the first: they are as large as the weights."""
    total, _ = module.vocabulary_loss(untied, torch.randn(4, untied.config.d_model), torch.arange(4))
    total.backward(retain_graph=True)
    with pytest.raises(TypeError):
        total.backward()


@pytest.mark.parametrize("n_label", [1, 39])
def test_few_logits_are_held_at_a_time(n_label, untied, monkeypatch):
    """No tensor of logits has more rows than ROWS."""
    seen, linear = [], torch.nn.functional.linear
    monkeypatch.setattr(module, "ROWS", 3)
    monkeypatch.setattr(module.F, "linear", lambda *a: seen.append(linear(*a)) or seen[-1])
    module.vocabulary_loss(untied, torch.randn(n_label, untied.config.d_model), torch.arange(n_label))
    assert [len(logits) for logits in seen] == [3] * (n_label // 3) + [n_label % 3] * (n_label % 3 > 0)


def test_how_much_is_held_at_a_time():
    assert module.SMALL * 4 == 8 * 1024**2, "8 MiB of logits in float32 and the plain form is as fast"
    assert module.ROWS * PRESETS["gpt2"].vocab_size * 4 == 102_926_336, "0.1 GB at gpt2's vocabulary, not 1.6"


@pytest.mark.parametrize("largest, is_small", [(2 * 3 * V, True), (2 * 3 * V - 1, False)])
def test_a_small_batch_takes_the_plain_form(largest, is_small, untied, monkeypatch):
    """Its sums run in the order of the formula on the slide, to the last bit."""
    taken = []
    monkeypatch.setattr(module, "SMALL", largest)
    plain = lambda *given: taken.append(summed_cross_entropy(*given)) or taken[0]
    monkeypatch.setattr(module, "summed_cross_entropy", plain)
    hidden, labels = torch.randn(2, 3, untied.config.d_model), torch.randint(V, (2, 3))
    total, _ = module.vocabulary_loss(untied, hidden, labels)
    assert len(taken) == is_small, "of SMALL logits or fewer"
    expected = summed_cross_entropy(untied.vocabulary_logits(hidden), labels)
    assert torch.equal(total, expected) or not is_small
