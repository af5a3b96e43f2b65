"""Grades training/muon.py: orthogonal steps against an SVD, which weights they move, and exact resuming."""

import pytest
import small
import torch
from torch.utils.flop_counter import FlopCounterMode

from minilm.plumbing.errors import UserError
from minilm.training.checkpoints import load_trainer
from minilm.training.loop import make_optimizer, train
from minilm.training.muon import orthogonal

INSIDE = ("q.weight", "k.weight", "v.weight", "out.weight", "up.weight", "down.weight")


def by_svd(matrix: torch.Tensor, n_step: int = 5) -> torch.Tensor:
    """The same by the definition: the polynomial on each singular value, U and V as they are."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / (s.square().sum().sqrt() + 1e-7)
    for _ in range(n_step):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(9, 9), (31, 12), (12, 31)])
def test_the_singular_values_come_near_1_and_the_directions_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = 50 * u @ torch.diag(torch.linspace(1.0, 0.05, len(s), dtype=torch.float64)) @ v
    found = orthogonal(matrix)
    told = "divide by the norm, then five times a x + (b x x^T + c (x x^T)^2) x, all matrix products"
    assert found.shape == shape and torch.allclose(found, by_svd(matrix), atol=1e-6), told
    lengths = torch.linalg.svdvals(found)
    assert 0.65 < lengths.min() and lengths.max() < 1.25, f"directions of length {lengths.tolist()}"
    off = u.T @ found @ v.T
    assert (off - torch.diag(off.diag())).abs().max() < 1e-6, "the directions must not change"
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape)), "a gradient of 0 divides by 0"


def test_a_gradient_of_nearly_0_makes_a_short_step():
    matrix = torch.randn(4, 6, dtype=torch.float64)
    matrix *= 1e-7 / matrix.norm()
    found = orthogonal(matrix, n_step=1)
    assert torch.allclose(found, by_svd(matrix, n_step=1), atol=1e-9), "1e-7 is added to its length"


def test_a_tall_matrix_costs_what_a_wide_one_does():
    cost = []
    for shape in ((12, 40), (40, 12)):
        with FlopCounterMode(display=False) as counter:
            orthogonal(torch.randn(shape))
        cost.append(counter.get_total_flops())
    assert cost[0] == cost[1] > 0, "the products are of the shorter side: X X^T of a wide matrix"


def with_gradients(seed: int) -> torch.nn.Module:
    model = small.model("masked").double()
    for p in model.parameters():
        draw = torch.Generator().manual_seed(seed + p.numel())
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=draw)
    return model


def test_matrices_of_the_blocks_move_by_muon_and_all_else_by_adamw():
    ours, reference = with_gradients(0), with_gradients(0)
    ours.pooler.weight.requires_grad_(False)
    muon, adamw = make_optimizer(ours, 0.3, which="muon"), make_optimizer(reference, 0.3)
    start = {name: p.detach().clone() for name, p in ours.named_parameters()}
    buffers = {name: torch.zeros_like(p) for name, p in start.items()}
    for step in range(3):
        fresh = dict(with_gradients(step).named_parameters())
        for model, optimizer in ((ours, muon), (reference, adamw)):
            for name, p in model.named_parameters():
                p.grad = fresh[name].grad if p.requires_grad else None
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (step + 1)
            optimizer.step()
        for name in (name for name in start if name.endswith(INSIDE) and ".blocks." in name):
            g, lr = fresh[name].grad, 0.01 * (step + 1)
            buffers[name] = 0.95 * buffers[name] + g
            length = 0.2 * max(g.shape) ** 0.5
            start[name] = start[name] * (1 - lr * 0.3) - lr * length * by_svd(g + 0.95 * buffers[name])
    by_muon = {name for name, p in ours.named_parameters() if "momentum" in muon.state[p]}
    assert by_muon == {name for name in start if ".blocks." in name and name.endswith(INSIDE)}
    assert len(by_muon) == 6, "one block: four matrices of the attention, two of the feed-forward"
    for name, p in ours.named_parameters():
        expected = dict(reference.named_parameters())[name]
        if name in by_muon:
            told = f"{name}: m = 0.95 m + g, W = (1 - lr decay) W - lr 0.2 sqrt(longer side) orthogonal"
            told += "(g + 0.95 m)"
            assert torch.allclose(p, start[name], atol=1e-9), told
        elif name == "pooler.weight":
            assert torch.equal(p, start[name]), "a weight moved before its `first_step`"
        else:
            assert torch.equal(p, expected), f"{name}: not by AdamW, or with another decay"


def run(folder, which: str = "muon", stop_at: int = -1, **changes) -> None:
    folder.mkdir(exist_ok=True)
    model = small.model("causal", dropout=0.3, seed=int(changes.get("resume", False)))
    objective = small.Disturbed(small.objective("causal"), stop_at, lambda: 1 / 0)
    settings = small.settings(steps=20, save_every=5, **changes)
    optimizer = make_optimizer(model, 0.1, which=which)
    train(model, objective, settings, folder, small.tokenizer(), optimizer)


def test_twenty_steps_are_ten_and_a_save_and_ten(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "parts", stop_at=12)
    assert load_trainer(tmp_path / "parts")["step"] == 10
    run(tmp_path / "parts", resume=True)
    whole, parts = (load_trainer(tmp_path / name) for name in ("whole", "parts"))
    for name in ("model", "optimizer"):
        small.assert_equal(parts[name], whole[name], name)


@pytest.mark.parametrize("before, after", [("muon", "adamw"), ("adamw", "muon")])
def test_the_moments_of_another_optimizer_are_refused(before, after, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, before, stop_at=7)
    with pytest.raises(UserError, match=r"trainer\.pt, 'decoder\.blocks\.0.* missing .*(momentum|exp_avg)"):
        run(tmp_path, after, resume=True)
