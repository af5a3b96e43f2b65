"""Grades training/loop.py: the learning rate, and the arithmetic of one step."""

import math

import pytest
import small
import torch
from mistakes import assert_right

from minilm.plumbing.folders import read_log
from minilm.training import loop as training
from minilm.training.loop import learning_rate, make_optimizer, train, train_step
from minilm.training.objective import IGNORED, by_length

KINDS = pytest.mark.parametrize("kind", ["causal", "masked"])


class Recorder(torch.optim.SGD):
    """Keeps the gradient that the loop gives it, and changes no weight."""

    n_step = 0

    def step(self):
        self.n_step += 1
        self.gradient = torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]])


def gradient_of(model, objective, step=0, **changes) -> tuple:
    """Return the gradient, the metrics, the norm and the number of tokens of `train_step`."""
    optimizer = Recorder(model.parameters(), lr=0.0)
    settings = small.settings(**{"clip": 0.0} | changes)
    metrics, norm, n_token, _ = train_step(model, objective, optimizer, settings, step)
    assert all(p.grad is None for p in model.parameters()), "a gradient is left over for the next step"
    assert optimizer.n_step == 1, f"{optimizer.n_step} optimiser steps: do one, after all parts of the batch"
    return optimizer.gradient, metrics, norm, n_token


def flat(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("steps", "warmup", "rates"),
    [(10, 4, [0.5, 1.0, 1.5, 2.0]), (3, 10, [0.2, 0.4, 0.6]), (4, 0, [2.0])],
)
def test_warm_up_rises_in_a_line_to_the_peak(steps, warmup, rates):
    settings, first = small.settings(steps=steps, warmup=warmup, lr=2.0), range(len(rates))
    peak = max(1, warmup)
    mistakes = {
        "the rate of step 0 is 0: it must rise with step + 1": [2.0 * step / peak for step in first],
        "there is no warm-up": [2.0 * (1 - (step + 1 - peak) / (steps - peak + 1)) for step in first],
        "the rate is at its peak from step 0 on": [2.0] * len(rates),
        "`lr` is missing": [rate / 2 for rate in rates],
        "the rate rises over all steps": [2.0 * (step + 1) / steps for step in first],
    }
    found = [learning_rate(step, settings) for step in first]
    assert_right(found, rates, mistakes, axes=("step",), what=f"a warm-up of {warmup} in {steps} steps")


FALLS = {  # the share of `lr`, by how much of the way from the warm-up to the end is done
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


@pytest.mark.parametrize("schedule", [*FALLS, "inverse-sqrt"])
@pytest.mark.parametrize("warmup", [0, 1, 4, 9])
def test_each_schedule_is_its_formula(schedule, warmup):
    steps, lr, peak = 10, 2.0, max(1, warmup)
    numbers, rest = range(peak + 1, steps + 1), steps - peak  # steps counted from 1, behind the warm-up
    if schedule == "inverse-sqrt":
        right = [lr * peak**0.5 * min(n**-0.5, n * peak**-1.5) for n in numbers]
        from_0 = [lr * (peak / max(1, n - 1)) ** 0.5 for n in numbers]
        mistakes = {
            "the peak is not `lr`: sqrt(warmup) is missing": [lr * n**-0.5 for n in numbers],
            "the step under the root is counted from 0": from_0,
        }
    else:
        rates = lambda done: [lr * FALLS[schedule](done(n)) for n in numbers]
        right = rates(lambda n: (n - peak) / (rest + 1))
        mistakes = {
            "the decay begins one step too late": rates(lambda n: (n - 1 - peak) / (rest + 1)),
            "the rate is 0 at the last step, not one step after": rates(lambda n: (n - peak) / max(1, rest)),
            "`done` is counted from step 0, not from the warm-up's end": rates(lambda n: n / (steps + 1)),
        }
    mistakes |= {
        "`lr` is missing": [x / lr for x in right],
        "the cosine is not halved": [2 * x for x in right],
        "the rate stays at its peak": [lr for _ in right],
        "the rate rises with `done`, but must fall": [lr - x for x in right],
    }
    settings = small.settings(steps=steps, warmup=warmup, lr=lr, schedule=schedule)
    found = [learning_rate(n - 1, settings) for n in numbers]
    what = f"{schedule}, warm-up {warmup} of {steps} steps"
    assert_right(found, right, mistakes, axes=("after the warm-up, step",), what=what)


def test_each_step_uses_its_learning_rate(tmp_path):
    settings = small.settings(log_every=1)
    train(small.model("causal"), small.objective("causal"), settings, tmp_path)
    rates = [line["lr"] for line in read_log(tmp_path) if line["split"] == "train"]
    right = [learning_rate(step, settings) for step in range(6)]
    assert_right(rates, right, {"each step has `lr`": [3e-3] * 6}, axes=("rate of step",))
    model = small.model("causal")
    before, optimizer = flat(model), make_optimizer(model, 0.0)
    train_step(model, small.objective("causal"), optimizer, small.settings(warmup=2), 0)
    longest = (flat(model) - before).abs().max()  # Adam's first step is lr * sign(gradient)
    mistakes = {
        "no group of the optimiser gets the rate of the step": 0.0,
        "the groups get `lr`, not the rate of the step": 3e-3,
    }
    assert_right(longest, 1.5e-3, mistakes, rtol=1e-2, what="largest change in the first of 2 warm-up steps")


def halves(name: str) -> tuple[float, int]:
    """Biases at half the rate; the embeddings from step 2 on."""
    return (0.5 if name.endswith("bias") else 1.0), (2 if name.startswith("tokens") else 0)


def test_every_moving_weight_is_in_one_group_with_its_rate_and_decay():
    model = small.model("causal")
    plain = make_optimizer(model, 0.3), lambda name: (1.0, 0)
    for optimizer, expected in (plain, (make_optimizer(model, 0.3, halves), halves)):
        assert isinstance(optimizer, torch.optim.AdamW), "use AdamW: Adam would add the decay to the gradient"
        weights = [(id(p), group) for group in optimizer.param_groups for p in group["params"]]
        held = dict(weights)
        assert len(held) == len(weights), "a weight is in two groups: it would move twice a step"
        for name, p in model.named_parameters():
            assert id(p) in held, f"{name} is in no group: it would never move"
            group, decay = held[id(p)], 0.3 if p.dim() >= 2 else 0.0
            told = f"{name}: `share` and `first_step` must be those of `share_and_start`"
            assert (group["share"], group["first_step"]) == expected(name), told
            told = f"{name} of shape {(*p.shape,)}: decay {group['weight_decay']} instead of {decay}"
            assert group["weight_decay"] == decay, f"{told}: matrices get decay; biases and norms do not"
            assert group["betas"] == (0.9, 0.98), "the betas must be `BETAS`"
            assert group["lr"] == 0, "lr must be 0: each step sets its rate"


def test_muon_moves_the_matrices_inside_the_blocks_alone():
    model = small.model("masked")
    for which in ("muon", "adamw"):
        optimizer = make_optimizer(model, 0.3, which=which)
        by_muon = {id(p) for group in optimizer.param_groups if group["by_muon"] for p in group["params"]}
        inside = {id(p) for n, p in model.named_parameters() if ".blocks." in n and p.dim() == 2}
        assert by_muon == (inside if which == "muon" else set()), "only matrices inside blocks get `by_muon`"
        assert all(group["weight_decay"] == 0.3 for group in optimizer.param_groups if group["by_muon"])
        assert type(optimizer) is (training.Muon if which == "muon" else torch.optim.AdamW)


def test_the_length_that_is_clipped_is_that_of_the_weights_that_move():
    model, objective = small.model("causal"), small.objective("causal")
    objective.loss(model, objective.batch(0, "train"))[0].backward()
    moving = [p.grad for name, p in model.named_parameters() if not name.startswith("tokens")]
    expected = torch.cat([gradient.flatten() for gradient in moving]).norm()
    model.zero_grad()
    norm = train_step(model, objective, make_optimizer(model, 0.3, halves), small.settings(), 0)[1]
    assert norm == pytest.approx(float(expected), rel=1e-5), "p.grad must be None before the `first_step`"


def test_an_optimizer_without_shares_gets_the_rate_of_the_step():
    model, settings = small.model("causal"), small.settings()
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    rate = train_step(model, small.objective("causal"), optimizer, settings, 0)[-1]
    assert optimizer.param_groups[0]["lr"] == rate == learning_rate(0, settings)


def test_an_update_of_its_own_takes_the_place_of_the_step():
    model, objective, settings = small.model("causal"), small.objective("causal"), small.settings()
    objective.update, before = lambda *given: given, flat(model)
    optimizer = make_optimizer(model, 0.0)
    found = train_step(model, objective, optimizer, settings, 3)
    assert found == (model, optimizer, settings, 3), "return what `objective.update` returns"
    assert torch.equal(flat(model), before), "`objective.update` takes the place of the step"


def test_frozen_weights_do_not_move():
    model, frozen = small.model("masked"), ("tokens.weight", "pooler.bias")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    optimizer = make_optimizer(model, 0.5)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name in frozen:
        told = f"{name} is frozen, but the optimiser has it: take only weights with requires_grad"
        assert id(model.get_parameter(name)) not in held, told
    before = {name: p.clone() for name, p in model.named_parameters()}
    train_step(model, small.objective("masked"), optimizer, small.settings(), 0)
    for name, p in model.named_parameters():
        stays = torch.equal(p, before[name])
        assert stays == (name in frozen), f"{name}: frozen weights stay, all others move"


@KINDS
def test_micro_batches_give_the_gradient_of_one_batch(kind):
    objective, model = small.objective(kind), small.model(kind)
    batch = objective.batch(3, "train")
    labels = batch["labels" if kind == "causal" else "masked_labels"]
    counts = [int((part != IGNORED).sum()) for part in labels.tensor_split(3)]
    assert len(set(counts)) > 1, "the test needs unequal token counts"

    def by_hand(part):
        loss, metrics = objective.loss(model, part)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        model.zero_grad()
        return gradient, metrics

    expected, metrics = by_hand(batch)
    for k in (1, 2, 3, 7):
        gradient, totals, norm, n_token = gradient_of(model, objective, step=3, accumulate=k)
        assert n_token == batch["input_ids"].numel(), "count the tokens of all micro-batches, with padding"
        last, of_last = by_hand(by_length(batch, k)[-1])
        mean = f"the loss of each part is divided by {k}: it is already divided by counts of the whole batch"
        wrong = {mean: expected / k, "only the gradient of the last part is left": last}
        what = f"{k} micro-batches, gradient"
        assert_right(gradient, expected, wrong, rtol=0, atol=1e-6, axes=("weight",), what=what)
        assert_right(norm, expected.norm(), what=f"{k} micro-batches, norm of the gradient")
        for name, value in metrics.items():
            wrong = {"it is that of the last part only": of_last[name]}
            assert_right(totals[name], value, wrong, what=f"{k} micro-batches, metric `{name}`")


def test_micro_batches_are_of_like_length_and_carry_little_padding():
    objective, seen = small.objective("masked"), []
    whole = objective.batch(3, "train")["attention_mask"]
    plain = objective.loss
    objective.loss = lambda model, part: seen.append(part["attention_mask"]) or plain(model, part)
    gradient_of(small.model("masked"), objective, step=3)
    assert torch.equal(seen.pop(), whole), "a whole batch must keep its order, or dropout draws otherwise"
    gradient_of(small.model("masked"), objective, step=3, accumulate=3)
    lengths = torch.cat([mask.sum(1) for mask in seen])
    expected = whole.sum(1).sort().values
    assert torch.equal(lengths, expected) and lengths[0] < lengths[-1], "the shortest first"
    assert [mask.shape[1] for mask in seen] == [int(mask.sum(1).max()) for mask in seen], "needless padding"


@pytest.mark.parametrize(
    "kind, labels, count, loss",
    [("causal", "labels", "n_label", "loss"), ("masked", "masked_labels", "n_masked", "masked_loss")],
)
def test_with_all_labels_ignored_the_loss_is_0_and_the_gradient_finite(kind, labels, count, loss):
    objective, model = small.objective(kind), small.model(kind)
    batch = objective.batch(0, "train") | {count: torch.tensor(1.0)}
    batch[labels].fill_(IGNORED)
    objective.batch = lambda step, split: batch
    gradient, metrics, *_ = gradient_of(model, objective)
    assert float(metrics[loss]) == 0.0
    assert torch.isfinite(gradient).all()
    if kind == "causal":
        assert not gradient.any()
    train_step(model, objective, make_optimizer(model, 0.1), small.settings(), 0)
    assert torch.isfinite(flat(model)).all(), "one empty batch has ruined the weights"


def test_clipping_shortens_the_gradient_and_keeps_its_direction():
    model, objective = small.model("causal"), small.objective("causal")
    whole, _, norm, _ = gradient_of(model, objective)
    assert float(norm) == pytest.approx(float(whole.norm()), rel=1e-5), "return the norm of the gradient"
    short, _, norm_before, _ = gradient_of(model, objective, clip=0.01)
    mistakes = {"the gradient is not clipped": norm}
    assert_right(short.norm(), 0.01, mistakes, rtol=1e-3, what="norm of the gradient after clip 0.01")
    assert torch.allclose(short / 0.01, whole / whole.norm(), atol=1e-4), "clipping must keep the direction"
    what = "return the norm before clipping"
    assert_right(norm_before, norm, {"it is the norm after clipping": 0.01}, rtol=1e-3, what=what)
    unclipped = gradient_of(model, objective, clip=1e3)[0]
    assert torch.allclose(unclipped, whole), "a short gradient must not change"


def test_dropout_depends_on_seed_and_step_and_nothing_else(monkeypatch):
    objective, model = small.objective("causal", batch_size=8), small.model("causal", dropout=0.5).train()
    plain = objective.batch(0, "train")
    batch = {name: v[:1].expand(len(v), -1) if v.dim() else v for name, v in plain.items()}
    objective.batch = lambda step, split: batch  # the same equal rows: only dropout can make a difference

    def at(step, **changes):
        torch.rand(3)  # what was drawn before must not matter
        return gradient_of(model, objective, step, batch_size=8, **changes)[0]

    assert torch.equal(at(4), at(4)), "the same seed and step must drop the same"
    assert not torch.equal(at(4), at(5)), "every step drops the same"
    assert not torch.equal(at(4), at(4, seed=1)), "every seed drops the same"
    states, loss = [], objective.loss
    objective.loss = lambda *given: (states.append(torch.get_rng_state()), loss(*given))[1]
    at(4, accumulate=4)
    assert len(states) == 4, f"{len(states)} micro-batches, where `accumulate` is 4"
    assert not torch.equal(states[0], states[1]), "all micro-batches of a step drop the same"
    first = at(4)
    monkeypatch.setenv("RANK", "1")
    assert not torch.equal(at(4), first), "all processes drop the same"


def test_a_group_moves_at_its_share_of_the_rate_from_its_first_step_on():
    model, settings = small.model("causal"), small.settings()
    optimizer = make_optimizer(model, 0.3, halves)
    for step in (0, 1, 2):
        before = model.tokens.weight.detach().clone()
        train_step(model, small.objective("causal"), optimizer, settings, step)
        rate = learning_rate(step, settings)
        for group in optimizer.param_groups:
            told = f"lr {group['lr']} of a group, not the rate {rate} times `share` {group['share']}"
            assert group["lr"] == pytest.approx(rate * group["share"]), told
        moved = not torch.equal(model.tokens.weight, before)
        assert moved == (step == 2), "no weight moves or decays before its `first_step`"
        assert (model.tokens.weight in optimizer.state) == (step == 2), "no moments before `first_step`"


@pytest.mark.parametrize("rank", [0, 3])
def test_dropout_is_drawn_from_seed_step_and_rank(rank, monkeypatch):
    monkeypatch.setenv("RANK", str(rank))
    model, objective, settings = small.model("causal"), small.objective("causal"), small.settings(seed=4)
    train_step(model, objective, make_optimizer(model, 0.0), settings, 5)
    assert torch.initial_seed() == hash((4, 5, rank)) % 2**63, "a resumed run would drop other numbers"


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(training.TrainingSettings(), by_name=True)
