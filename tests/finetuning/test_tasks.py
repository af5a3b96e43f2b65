"""Grades finetuning/tasks.py: a task and its examples as an objective."""

import signal

import pytest
import small
import torch
import tuned

from minilm.checkpoint import load_trainer
from minilm.finetuning.comparison import prepared
from minilm.finetuning.heads import Head, put_head_on
from minilm.finetuning.moving import pace_of
from minilm.finetuning.tagging import Tagging
from minilm.finetuning.tasks import Examples, FineTuning, Prediction, check_known, device_of, in_parts
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.plumbing.progress import Interrupted
from minilm.training.checkpoints import evaluate
from minilm.training.loop import make_optimizer, train
from minilm.training.objective import micro_batches


def objective(n: int = 15, batch_size: int = 4, **options) -> FineTuning:
    return FineTuning(tuned.classification(**options), tuned.examples(n), batch_size, seed=3)


def model(tune: str = "all", **changes):
    body = tuned.body(**changes)
    return prepared(body, tuned.classification(body.config), tuned.settings(), tune)


def test_an_epoch_has_every_row_once_in_an_order_of_its_own():
    made = objective(n=15, batch_size=4)
    places = [i for step in range(15) for i in made.chosen(step, 15)]  # four epochs of 15
    epochs = [places[i : i + 15] for i in range(0, 60, 15)]
    assert all(sorted(epoch) == list(range(15)) for epoch in epochs), "a row is left out, or comes twice"
    assert len({tuple(epoch) for epoch in epochs}) == 4, "every epoch has the same order"
    assert list(made.order(2, 15)) == epochs[2]
    assert made.chosen(7, 15) == objective().chosen(7, 15), "a batch is a pure function of seed and step"
    assert len(made.chosen(0, 2)) == 4, "fewer rows than a batch has: they come again"


def test_the_validation_batch_is_all_of_it_whatever_the_step():
    made = objective()
    first, second = made.batch(0, "validation"), made.batch(5, "validation")
    assert first["input_ids"].shape[0] == 6
    small.assert_equal(first, second)


@pytest.mark.parametrize("balanced", [False, True])
def test_parts_of_a_batch_add_up_to_it(balanced):
    made, tuned_model = objective(n=14, batch_size=7, balanced=balanced), model()
    batch = made.batch(0, "train")

    def gradient(parts):
        tuned_model.zero_grad()
        total = 0.0
        for part in parts:
            loss, metrics = made.loss(tuned_model, part)
            loss.backward()
            total += float(metrics["loss"].detach())
        return total, torch.cat([p.grad.flatten() for p in tuned_model.parameters() if p.grad is not None])

    whole, whole_gradient = gradient([batch])
    parts, parts_gradient = gradient(micro_batches(batch, 3))
    assert parts == pytest.approx(whole, rel=1e-5), "divide by the batch's count, not by the part's"
    torch.testing.assert_close(parts_gradient, whole_gradient, rtol=1e-4, atol=1e-6)


def run(folder, resume: bool = False, tune: str = "all", act=None, step: int = -1, **changes):
    """Train a model with dropout for 20 steps; a resumed run begins with other weights."""
    folder.mkdir(exist_ok=True)
    settings = tuned.settings(steps=20, eval_every=5, save_every=100, resume=resume, **changes)
    body = tuned.body(seed=int(resume), dropout=0.3)
    task = tuned.classification(body.config)
    made = prepared(body, task, settings, tune)
    if resume and tune != "all":
        made.load_state_dict(prepared(tuned.body(dropout=0.3), task, settings, tune).state_dict())
    watched = small.Disturbed(FineTuning(task, tuned.examples(), 5), step, act)
    optimizer = make_optimizer(made, settings.weight_decay, pace_of(body.config, 0.8, 3))
    return made, train(made, watched, settings, folder, small.tokenizer(), optimizer, patience=9)


@pytest.mark.parametrize("tune", ["all", "lora", "head"])
def test_twenty_steps_are_ten_and_a_save_and_ten(tmp_path, tune):
    run(tmp_path / "whole", tune=tune)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", tune=tune, step=9, act=lambda: signal.raise_signal(signal.SIGINT))
    assert load_trainer(tmp_path / "parts")["step"] == 10
    run(tmp_path / "parts", resume=True, tune=tune)
    states = [load_trainer(tmp_path / name) for name in ("parts", "whole")]
    for state in states:
        del state["seconds"]
    small.assert_equal(*states)


def test_evaluation_does_not_change_training(tmp_path):
    states = []
    for name, every in (("often", 1), ("never", 100)):
        (tmp_path / name).mkdir()
        made = model(dropout=0.3)
        train(made, objective(), tuned.settings(steps=6, eval_every=every), tmp_path / name)
        states.append(dict(made.state_dict()))
        assert len([line for line in read_log(tmp_path / name) if line["split"] == "validation"]) > 1
    small.assert_equal(*states)


def test_both_sides_of_a_class_learn():
    made, task = model(), tuned.classification()
    for label in range(3):
        made.zero_grad()
        rows = task.rows([e for e in tuned.labelled(15) if e[1] == task.labels[label]])
        task.loss(made, rows.batch(range(len(rows))))[0].backward()
        assert made.head.linear.weight.grad[label].abs().sum() > 0, f"class {label} gets no gradient"


def test_in_parts_covers_all_rows_and_pads_little():
    rows = tuned.classification().rows(tuned.labelled(11))
    parts = list(in_parts(rows, 4, torch.device("cpu")))
    assert sorted(i for part, _ in parts for i in part) == list(range(11))
    for part, batch in parts:
        small.assert_equal(batch, rows.batch(part))
    assert iter(one := in_parts(rows, 4, torch.device("cpu"))) is one, "not all batches at once on a GPU"
    longest = [max(rows.lengths[part]) for part, _ in parts]
    assert longest == sorted(longest), "rows of similar length stand together"


def test_a_model_that_cannot_do_the_task():
    with pytest.raises(UserError, match="--task tagging needs a model of kind encoder, not decoder"):
        Tagging(small.tokenizer(), tuned.config("decoder"), 20, dict(tags=["O"]))


def test_summary_and_small_things():
    made = Examples([1, 2], [3], [], "a.tsv")
    assert made.summary() == "a.tsv: 2 examples to learn from, 1 to watch, 0 to measure on"
    assert Prediction("text", None, "x").probability is None
    assert tuned.classification().written(" a\tb\n c") == "a b c"
    assert device_of(put_head_on(tuned.body(), Head(tuned.config(), 2, "text"))).type == "cpu"
    assert evaluate(model(), objective(), tuned.settings()).keys() == {"loss", "accuracy"}
    examples = list(range(30))
    drawn = Tagging.draw(examples, 7, seed=1)
    assert len(set(drawn)) == 7 and drawn == Tagging.draw(examples, 7, 1) != Tagging.draw(examples, 7, 2)


def test_labels_that_training_does_not_have_are_named_the_commonest_first():
    check_known(["a", "b", "a"], ["a", "b"], "labels", "t.tsv")
    with pytest.raises(
        UserError, match=r"^t.tsv: tags .* not have: 'rian' \(2 times\), 'x' \(1 .*'rain'\?\)$"
    ):
        check_known(iter(["rian", "sun", "x", "rian"]), ["rain", "sun"], "tags", "t.tsv")
    with pytest.raises(UserError, match=r"'5' \(1 times\) and 2 more$"):
        check_known("12345671", ["a"], "labels", "t.tsv")
