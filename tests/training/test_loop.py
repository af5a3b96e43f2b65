"""Grades training/loop.py: the learning rate, and the arithmetic of one step."""

import math

import pytest
import small
import torch

from minilm.plumbing.folders import read_log
from minilm.training import loop as training
from minilm.training.loop import learning_rate, make_optimizer, train, train_step
from minilm.training.objective import IGNORED

KINDS = pytest.mark.parametrize("kind", ["causal", "masked"])


class Recorder(torch.optim.SGD):
    """Keeps the gradient that the loop hands to it, and moves nothing."""

    def step(self):
        self.gradient = torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]])


def gradient_of(model, objective, step=0, process=(0, 1), **changes) -> tuple:
    """Return the gradient, the metrics, the norm and the number of tokens of `train_step`."""
    optimizer = Recorder(model.parameters(), lr=0.0)
    settings = small.settings(**{"clip": 0.0} | changes)
    metrics, norm, n_token, _ = train_step(model, objective, optimizer, settings, step, *process)
    return optimizer.gradient, metrics, norm, n_token


def flat(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("steps", "warmup", "rates"),
    [(10, 4, [0.25, 0.5, 0.75, 1.0]), (3, 10, [0.1, 0.2, 0.3]), (4, 0, [1.0, 0.75, 0.5, 0.25])],
)
def test_warm_up_rises_in_a_line_to_the_peak(steps, warmup, rates):
    settings = small.settings(steps=steps, warmup=warmup, lr=1.0)
    found = [learning_rate(step, settings) for step in range(len(rates))]
    assert found == pytest.approx(rates), "step 0 must already move; the last one of the warm-up is the peak"


@pytest.mark.parametrize("warmup", [1, 4, 9])
def test_each_schedule_is_its_formula(warmup):
    steps, lr = 10, 2.0
    end = steps + 1  # where linear and cosine reach 0, with steps counted from 1
    for n in range(warmup, steps + 1):
        expected = dict(
            linear=lr * (end - n) / (end - warmup),
            cosine=lr * 0.5 * (1 + math.cos(math.pi * (n - warmup) / (end - warmup))),
            constant=lr,
        )
        expected["inverse-sqrt"] = lr * warmup**0.5 * min(n**-0.5, n * warmup**-1.5)
        for schedule, rate in expected.items():
            settings = small.settings(steps=steps, warmup=warmup, lr=lr, schedule=schedule)
            assert learning_rate(n - 1, settings) == pytest.approx(rate), (schedule, n)


def test_each_step_uses_its_learning_rate(tmp_path):
    settings = small.settings(log_every=1)
    train(small.model("causal"), small.objective("causal"), settings, tmp_path)
    rates = [line["lr"] for line in read_log(tmp_path) if line["split"] == "train"]
    assert rates == [learning_rate(step, settings) for step in range(6)]
    model = small.model("causal")
    before, optimizer = flat(model), make_optimizer(model, 0.0)
    train_step(model, small.objective("causal"), optimizer, small.settings(warmup=2), 0)
    longest = (flat(model) - before).abs().max()  # Adam's first step is lr * sign(gradient)
    assert longest == pytest.approx(1.5e-3, rel=1e-2), "the first of two warm-up steps moves by lr / 2"


def halves(name: str) -> tuple[float, int]:
    """Biases at half the rate; the embeddings from step 2 on."""
    return (0.5 if name.endswith("bias") else 1.0), (2 if name.startswith("tokens") else 0)


def test_every_moving_weight_is_in_one_group_with_its_rate_and_decay():
    model, settings = small.model("causal"), small.settings()
    for optimizer, expected in (
        (make_optimizer(model, 0.3), lambda name: (1.0, 0)),
        (make_optimizer(model, 0.3, halves), halves),
    ):
        assert isinstance(optimizer, torch.optim.AdamW), "Adam would couple the decay to the gradient"
        weights = [(id(p), group) for group in optimizer.param_groups for p in group["params"]]
        held = dict(weights)
        assert len(held) == len(weights) == len([*model.parameters()])
        for name, p in model.named_parameters():
            group = held[id(p)]
            assert (group["share"], group["first_step"]) == expected(name)
            assert group["weight_decay"] == (0.3 if p.dim() >= 2 else 0.0), "decay is for matrices only"
            assert group["betas"] == (0.9, 0.98), "those of the Transformer"
    for step in (0, 1, 2):
        before = model.tokens.weight.detach().clone()
        train_step(model, small.objective("causal"), optimizer, settings, step)
        rate = learning_rate(step, settings)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate * group["share"])
        moved = not torch.equal(model.tokens.weight, before)
        assert moved == (step == 2), "a weight that rests must not decay either"
        assert (model.tokens.weight in optimizer.state) == (step == 2), "it has no moments while it rests"


def test_the_length_that_is_clipped_is_that_of_the_weights_that_move():
    model, objective = small.model("causal"), small.objective("causal")
    objective.loss(model, objective.batch(0, "train"))[0].backward()
    moving = [p.grad for name, p in model.named_parameters() if not name.startswith("tokens")]
    expected = torch.cat([gradient.flatten() for gradient in moving]).norm()
    model.zero_grad()
    norm = train_step(model, objective, make_optimizer(model, 0.3, halves), small.settings(), 0)[1]
    assert norm == pytest.approx(float(expected), rel=1e-5), (
        "weights that rest made the others' steps shorter"
    )


def test_frozen_weights_do_not_move():
    model = small.model("masked")
    model.tokens.weight.requires_grad_(False)
    model.pooler.bias.requires_grad_(False)
    optimizer = make_optimizer(model, 0.5)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(model.tokens.weight) not in held and id(model.pooler.bias) not in held
    before = {name: p.clone() for name, p in model.named_parameters()}
    train_step(model, small.objective("masked"), optimizer, small.settings(), 0)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (name in ("tokens.weight", "pooler.bias")), name


@KINDS
def test_micro_batches_give_the_gradient_of_one_batch(kind):
    objective = small.objective(kind)
    batch = objective.batch(3, "train")
    labels = batch["labels" if kind == "causal" else "masked_labels"]
    counts = [int((part != IGNORED).sum()) for part in labels.tensor_split(3)]
    assert len(set(counts)) > 1, "unequal token counts are what makes this hard"
    model = small.model(kind)
    loss, metrics = objective.loss(model, batch)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    for k in (1, 2, 3, 7):
        gradient, totals, norm, n_token = gradient_of(model, objective, step=3, accumulate=k)
        assert n_token == batch["input_ids"].numel(), "of all micro-batches, padding included"
        error = float((gradient - expected).abs().max())
        assert error < 1e-6, f"{k} micro-batches: a mean of means is not the mean of all ({error})"
        assert float(norm) == pytest.approx(float(expected.norm()), rel=1e-5)
        for name, value in metrics.items():
            assert float(totals[name]) == pytest.approx(float(value.detach()), rel=1e-5), name
        assert all(p.grad is None for p in model.parameters()), "a gradient is left over for the next step"


@KINDS
def test_with_all_labels_ignored_the_loss_is_0_and_the_gradient_finite(kind):
    class Empty(type(small.objective(kind))):
        def batch(self, step, split):
            batch = super().batch(step, split)
            name, n = ("labels", "n_label") if kind == "causal" else ("masked_labels", "n_masked")
            batch[name].fill_(IGNORED)
            return batch | {n: torch.tensor(1.0)}

    objective, model = small.objective(kind), small.model(kind)
    objective.__class__ = Empty
    gradient, metrics, *_ = gradient_of(model, objective)
    assert float(metrics["loss" if kind == "causal" else "masked_loss"]) == 0.0
    assert torch.isfinite(gradient).all()
    if kind == "causal":
        assert not gradient.any()
    train_step(model, objective, make_optimizer(model, 0.1), small.settings(), 0)
    assert torch.isfinite(flat(model)).all(), "one empty batch has ruined the weights"


def test_clipping_shortens_the_gradient_and_keeps_its_direction():
    model, objective = small.model("causal"), small.objective("causal")
    whole, _, norm, _ = gradient_of(model, objective)
    assert float(norm) == pytest.approx(float(whole.norm()), rel=1e-5)
    short, _, norm_before, _ = gradient_of(model, objective, clip=0.01)
    assert float(short.norm()) == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(short / 0.01, whole / whole.norm(), atol=1e-4)
    assert float(norm_before) == pytest.approx(float(norm)), "the log shows the length before clipping"
    assert torch.allclose(gradient_of(model, objective, clip=1e3)[0], whole)


class SameBatch(small.RaggedCausal):
    """Every step has the same batch, of equal rows: what differs is chance in the model."""

    def batch(self, step, split):
        batch = super().batch(0, split)
        return {name: v[:1].expand(len(v), -1) if v.dim() else v for name, v in batch.items()}


def test_dropout_depends_on_seed_and_step_and_nothing_else(monkeypatch):
    objective, model = small.objective("causal", batch_size=8), small.model("causal", dropout=0.5).train()
    objective.__class__ = SameBatch

    def at(step, **changes):
        torch.rand(3)  # what was drawn before must not matter
        return gradient_of(model, objective, step, batch_size=8, **changes)[0]

    assert torch.equal(at(4), at(4)), "a resumed run would drop others than the uninterrupted one"
    assert not torch.equal(at(4), at(5)), "every step drops the same"
    assert not torch.equal(at(4), at(4, seed=1)), "every seed drops the same"
    monkeypatch.setattr(training, "sum_over_processes", lambda tensors: None)
    assert not torch.equal(*(at(4, process=(rank, 2)) for rank in (0, 1))), "both processes drop the same"


def test_tensors_are_summed_in_place_and_in_one_message(monkeypatch):
    messages = []  # of two processes whose tensors are equal
    monkeypatch.setattr(
        training.dist, "all_reduce", lambda flat: messages.append(flat.numel()) or flat.mul_(2)
    )
    tensors = [torch.arange(6.0).view(2, 3), torch.tensor(5.0), torch.arange(4.0).view(4, 1).T]
    same, expected = list(tensors), [2 * tensor for tensor in tensors]
    training.sum_over_processes(tensors)
    assert all(a is b for a, b in zip(tensors, same, strict=True))
    assert all(map(torch.equal, tensors, expected)), "values went to wrong places"
    assert messages == [11], "a message for each tensor is slow"
