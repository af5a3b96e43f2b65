"""Grades training/loop.py: the whole run, its log, and settings that cannot be."""

import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
import small
import torch
from torch._dynamo.testing import CompileCounter

from minilm.checkpoint import load
from minilm.plumbing import script
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.plumbing.settings import CommonSettings
from minilm.pretraining.run import PretrainingSettings
from minilm.training import checkpoints
from minilm.training import loop as training
from minilm.training.loop import train
from minilm.training.objective import evaluate

KINDS = pytest.mark.parametrize("kind", ["causal", "masked"])


def flat(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(folder=None, model=None, patience: int = 0, **changes) -> dict:
    """Train a model, or GPT's of seed 0, on the small text, and return what `train` does."""
    model = model or small.model("causal")
    return train(model, small.objective("causal"), small.settings(**changes), folder, patience=patience)


def evaluated(folder) -> list[int]:
    """Return the steps after which a run was evaluated."""
    return [line["step"] for line in read_log(folder) if line["split"] == "validation"]


@KINDS
def test_evaluating_at_every_step_and_never_gives_the_same_weights(kind, tmp_path):
    models = [small.model(kind, dropout=0.3) for _ in range(2)]
    models[1].eval()  # as it comes out of `load`: to train it is the loop's business
    for model, eval_every in zip(models, (1, 10**9), strict=True):
        settings = small.settings(eval_every=eval_every, steps=8)
        train(model, small.objective(kind), settings, tmp_path)
        steps = [*range(9)] if eval_every == 1 else [0, 8]
        assert evaluated(tmp_path) == steps, "each once, in a log of its own"
    told = "evaluation has disturbed training, or a model that comes in eval() trains without dropout"
    assert torch.equal(*map(flat, models)), told


@KINDS
def test_a_model_learns(kind, tmp_path):
    model, objective = small.model(kind), small.objective(kind)
    settings = small.settings(steps=60, lr=2e-2, batch_size=small.BATCH_SIZE)
    before = evaluate(model, objective, settings)
    outcome = train(model, objective, settings, tmp_path, small.tokenizer())
    assert outcome["before"] == before
    assert outcome["after"]["loss"] < before["loss"] - 1
    assert not model.training, "a trained model is handed back in eval()"
    loaded, tokenizer = load(tmp_path)
    assert evaluate(loaded, objective, settings) == outcome["after"] == evaluate(model, objective, settings)
    assert tokenizer.vocab == small.tokenizer().vocab
    assert outcome["seconds"] > 0 and outcome["tokens_per_second"] > 0


def test_the_log_has_a_line_where_one_is_due(tmp_path, monkeypatch):
    saved = []
    plain_save = checkpoints.save_trainer

    def save_trainer(folder, state):
        saved.append((state["step"], read_log(folder)[-1]["step"]))
        plain_save(folder, state)

    monkeypatch.setattr(checkpoints, "save_trainer", save_trainer)
    outcome = trained(tmp_path, steps=11, log_every=4, save_every=5, eval_every=3)
    log = read_log(tmp_path)
    assert [line["step"] for line in log if line["split"] == "train"] == [4, 8, 11]
    assert evaluated(tmp_path) == [0, 3, 6, 9, 11]
    assert [line["step"] for line in log] == sorted(line["step"] for line in log)
    metrics = {"loss", "bits_per_byte", "accuracy"}
    for line in log:
        more = {"lr", "gradient_norm", "tokens_per_second"} if line["split"] == "train" else set()
        assert set(line) == {"step", "split"} | metrics | more
        assert all(math.isfinite(line[name]) for name in metrics | more)
    assert {name: log[-1][name] for name in metrics} == outcome["after"]
    assert [step for step, _ in saved] == [0, 5, 10, 11], "the start, every fifth step, and the last"
    assert saved[-1][1] == 11, "a step is logged before it is saved, or a kill in between loses its line"


@pytest.mark.parametrize(("steps", "expected"), [(3, [0, 1, 2, 3]), (17, [0, 3, 6, 9, 12, 15, 17])])
def test_about_eight_evaluations_where_nothing_is_said(steps, expected, tmp_path):
    trained(tmp_path, steps=steps, eval_every=None)
    assert evaluated(tmp_path) == expected


@pytest.mark.parametrize(
    ("wrong", "least"),
    [(name, 1) for name in ("steps", "batch_size", "accumulate", "eval_every", "save_every", "log_every")]
    + [(name, 0) for name in ("lr", "warmup", "weight_decay", "clip", "seed")],
)
def test_settings_below_their_least_value_are_named(wrong, least):
    small.settings(**{wrong: least})
    flag = "--" + wrong.replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} {least - 1}: must be {least} or more"):
        small.settings(**{wrong: least - 1})


def test_every_process_and_micro_batch_needs_a_row(monkeypatch):
    small.settings(batch_size=6, accumulate=6)
    with pytest.raises(UserError, match="--batch-size 6: at least 7"):
        small.settings(batch_size=6, accumulate=7)
    monkeypatch.setattr(training, "process_count", lambda: 4)
    with pytest.raises(UserError, match="--batch-size 7: at least 8, processes times --accumulate"):
        small.settings(batch_size=7, accumulate=2)


def test_bf16_computes_in_16_bits_and_keeps_32(tmp_path):
    model, seen = small.model("masked"), set()
    model.pooler.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    outcome = train(model, small.objective("masked"), small.settings(precision="bf16"), tmp_path)
    assert seen == {torch.bfloat16}, "training and evaluation must both run in bf16"
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "the weights must stay in float32"
    assert math.isfinite(outcome["after"]["loss"])
    assert {p.dtype for p in load(tmp_path)[0].parameters()} == {torch.float32}


def test_compile_is_for_the_stacks_and_on_request_only(monkeypatch):
    done, model = [], small.model("causal")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *a, **k: done.append(self))
    monkeypatch.setattr(torch.compiler, "reset", lambda: done.append("reset"))
    trained(model=model, steps=1)
    assert done == []
    trained(model=model, steps=1, compile=True)
    told = "PyTorch's eight graphs are for all models of a command: the later ones would not be compiled"
    assert done == ["reset", model.decoder], told


def test_a_model_is_compiled_for_the_threads_that_it_keeps(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: done.append("compiled"))
    monkeypatch.setattr(training, "settle_threads", lambda *_: done.append("threads settled"))
    trained(tmp_path, steps=1, compile=True)
    told = "a graph is made for the threads that are there: with others it is made anew, or slow"
    assert done == ["threads settled", "compiled"], told


def test_auto_is_settled_once_for_all_of_a_run(tmp_path, monkeypatch):
    asked, seen, model = [], set(), small.model("causal")
    monkeypatch.setattr(training, "settled_precision", lambda *given: asked.append(given) or "bf16")
    model.decoder.blocks[0].feed_forward.up.register_forward_hook(lambda *given: seen.add(given[-1].dtype))
    trained(tmp_path, model, steps=1, precision="auto")
    assert asked == [("auto", model)], "the run has to ask what `auto` stands for, once"
    assert seen == {torch.bfloat16}, "rehearsing, training and evaluation take what was settled, bf16 here"


def test_without_patience_a_run_goes_to_its_end_however_the_loss_rises(tmp_path, monkeypatch):
    rising = iter(range(1, 99))
    monkeypatch.setattr(checkpoints, "evaluate", lambda *given: dict(loss=float(next(rising))))
    assert trained(tmp_path, steps=5, eval_every=1)["steps"] == 5
    told = "patience 2: after two evaluations in a row that are no better it stops"
    assert trained(patience=2, steps=5, eval_every=1)["steps"] == 3, told


def test_how_a_run_learns_where_no_flag_and_no_recipe_says():
    found = {field.name: field.default for field in fields(training.TrainingSettings)}
    own = dict.fromkeys(("steps", "batch_size", "lr", "warmup", "schedule", "weight_decay", "eval_every"))
    own |= dict(accumulate=1, clip=1.0, save_every=1000, log_every=50)
    own |= dict(resume=False, shard=False, show_batch=0)
    common = {field.name: field.default for field in fields(CommonSettings)}
    assert found == common | own, "the READMEs' figures were measured with these"
    assert training.TrainingSettings.optimizer == "adamw"


def test_texts_of_any_length_are_one_graph():
    model, counter = small.model("causal"), CompileCounter()
    torch.compiler.reset()
    # a mask or a flag that follows from T must not be a symbol: PyTorch would not compile the whole stack
    model.decoder.compile(backend=counter, fullgraph=True, dynamic=True)
    for T in (5, 9, 7):
        model(torch.ones(2, T, dtype=torch.long))
    torch.compiler.reset()
    assert counter.frame_count == 1


def test_parts_of_matrices_are_neither_compiled_nor_made_orthogonal():
    PretrainingSettings(shard=True)
    for needs_whole, flag in (
        (dict(compile=True), "--compile"),
        (dict(optimizer="muon"), "--optimizer muon"),
    ):
        PretrainingSettings(**needs_whole)
        with pytest.raises(UserError, match=f"{flag} needs whole matrices: not with --shard"):
            PretrainingSettings(shard=True, **needs_whole)


def test_a_rehearsal_does_all_of_a_step_but_moving_the_weights():
    model, objective, seen = small.model("causal"), small.objective("causal"), []
    plain_batch, plain_loss, before = objective.batch, objective.loss, flat(model)
    objective.batch = lambda *which: seen.append(which) or plain_batch(*which)
    objective.loss = lambda model, part: seen.append(part["input_ids"]) or plain_loss(model, part)
    model.tokens.weight.register_hook(lambda gradient: seen.append(gradient.abs().sum() > 0))
    training.rehearse(model, objective, small.settings(accumulate=3))
    first = plain_batch(0, "train")["input_ids"][:2]  # of 7 rows in 3 parts
    assert seen[0] == (0, "train") and torch.equal(seen[1], first), "the first part of the first batch"
    assert seen[2:] == [True] and len(seen) == 3, "forward and backward, once"
    assert torch.equal(flat(model), before), "a rehearsal must not move a weight"
    assert all(p.grad is None for p in model.parameters()), "its gradients would be added to the first step's"


def test_threads_are_tried_out_for_a_run_that_is_kept(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(training, "settle_threads", lambda model, work: tried.append(work()))
    trained(steps=1)
    assert tried == [], "a quiet run has the threads of the run that it belongs to"
    trained(tmp_path, steps=1)
    assert len(tried) == 1


def test_only_a_batch_can_be_rehearsed(tmp_path, monkeypatch):
    own = SimpleNamespace(state=None, shown=(), update=lambda *_: (dict(loss=1.0), 1.0, 1, 0.1))
    told = "a step with an update of its own, as PPO's, has no batch: its threads are not tried"
    monkeypatch.setattr(training, "settle_threads", lambda *_: pytest.fail(told))
    train(small.model("causal"), own, small.settings(steps=1), tmp_path)


@pytest.mark.parametrize("n_process", [1, 2])
@pytest.mark.parametrize("value", [False, True])
def test_what_is_true_in_one_process_is_so_in_all(value, n_process, monkeypatch):
    monkeypatch.setattr(script, "process_count", lambda: n_process)
    monkeypatch.setattr(script.dist, "all_reduce", lambda votes: votes.add_(1.0))  # the others say yes
    assert training.in_any_process(value) is (value or n_process == 2)


def test_a_stop_in_another_process_ends_a_run_after_its_last_step_too(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "in_any_process", lambda value: asked.append(value) or len(asked) == 2)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 2"):  # else one goes on without it
        trained(tmp_path, steps=2)
    assert asked == [False, False], "after the first step, and at the end of the run"
