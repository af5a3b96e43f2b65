"""Grades finetuning/comparison.py: each way to tune, from the same start, for the same steps."""

import pytest
import small
import torch
import tuned

from minilm.finetuning import comparison
from minilm.finetuning.classification import Classification
from minilm.finetuning.tagging import Tagging
from minilm.finetuning.tasks import Prediction
from minilm.plumbing.folders import read_log


def start(**changes):
    """Return the model, the objective and the settings of a run."""
    settings = tuned.settings(**dict(lora_rank=2) | changes)
    return *comparison.prepared(tuned.body(), tuned.task(), tuned.parts(), settings), settings


def others(**changes) -> dict:
    """Return the results of the other ways to tune."""
    settings = tuned.settings(**dict(steps=2, compare=True, lora_rank=2) | changes)
    return comparison.other_ways(tuned.body(), tuned.task(), tuned.parts(), settings)


def test_a_run_begins_with_the_body_and_a_head_of_the_seed():
    body, task, parts = tuned.body(seed=5), tuned.task(), tuned.parts()
    begun = (comparison.prepared(body, task, parts, tuned.settings(seed=s)) for s in (0, 0, 1))
    first, same, other = (model for model, _ in begun)
    small.assert_equal(dict(body.state_dict()), {n: first.state_dict()[n] for n in body.state_dict()})
    assert torch.equal(first.head.linear.weight, same.head.linear.weight)
    assert not torch.equal(first.head.linear.weight, other.head.linear.weight)
    fresh, objective = comparison.prepared(body, task, parts, tuned.settings(seed=7), from_random=True)
    assert not torch.equal(fresh.tokens.weight, body.tokens.weight), "from random: nothing of the body"
    assert (objective.seed, objective.batch_size, objective.parts) == (7, 5, parts)


def moved(**changes) -> tuple[set[str], set[str]]:
    """Return the names of the weights that a run changed, and of those that it lets move."""
    model, objective, settings = start(**changes)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    comparison.trained(model, objective, settings)
    assert not model.training
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return changed, {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("tune", ["head", "bias", "lora", "last:1", "all"])
def test_only_what_is_named_moves(tune):
    changed, moving = moved(tune=tune)
    assert changed == moving


def test_shares_of_the_rate_and_first_steps_reach_the_optimizer():
    changed, _ = moved(unfreeze_every=2, steps=3)  # the head from step 0, the last block from step 2
    assert {"head.linear.weight", "encoder.blocks.1.feed_forward.up.weight"} <= changed
    assert not {"encoder.blocks.0.feed_forward.up.weight", "tokens.weight"} & changed


def test_what_is_reached():
    model, objective, settings = start(tune="head")
    result, predictions = comparison.trained(model, objective, settings)
    assert result.score == sum(p.truth == p.guess for p in predictions) / 9 and len(predictions) == 9
    n_used = sum(p.numel() for name, p in model.named_parameters() if model.in_use(name))
    assert (result.n_moving, result.share) == (39, pytest.approx(39 / n_used)) and result.seconds > 0


@pytest.mark.parametrize("patience", [0, 1])
def test_a_run_with_a_folder_is_that_without(tmp_path, patience):
    """The first seed's run is kept; without its patience the others would train on."""
    states = []
    for folder in (None, tmp_path):
        model, objective, settings = start(steps=40, lr=0.3, patience=patience, eval_every=3)
        result, _ = comparison.trained(model, objective, settings, folder, small.tokenizer())
        states.append((dict(model.state_dict()), result.score))
    small.assert_equal(*states)
    steps = [line["step"] for line in read_log(tmp_path)]
    assert (max(steps) < 40) == bool(patience), "a test in which nothing stops"


def test_the_other_ways_are_those_that_were_not_chosen():
    assert others(compare=False) == {"trivial": comparison.Result(0, 0.0, None, pytest.approx(1 / 3))}
    assert list(others()) == ["trivial", "scratch", "head", "lora"]
    results = others(tune="head")
    assert list(results) == ["trivial", "scratch", "lora", "all"]
    assert results["scratch"].n_moving == results["all"].n_moving > results["lora"].n_moving
    assert results["all"].share == 1.0 and 0 < results["lora"].share < 1


def test_a_task_without_a_head_has_none_to_train_alone(monkeypatch):
    monkeypatch.setattr(Classification, "has_head", False)
    assert list(others()) == ["trivial", "scratch", "lora"]


def test_a_task_without_truths_has_a_score_before_training(monkeypatch):
    monkeypatch.setattr(Classification, "has_truth", False)
    found = others(compare=False)
    assert list(found) == ["trivial", "before"]
    assert all(result[:3] == (0, 0.0, None) and 0 <= result.score <= 1 for result in found.values())


def test_only_scratch_begins_with_fresh_weights(monkeypatch):
    begun, plain = {}, comparison.prepared

    def spy(body, task, parts, own, scratch):
        made = plain(body, task, parts, own, scratch)
        begun[own.tune, scratch] = torch.equal(made[0].tokens.weight, body.tokens.weight)
        return made

    monkeypatch.setattr(comparison, "prepared", spy)
    others(steps=1, seed=5)
    assert begun == {("all", True): False, ("head", False): True, ("lora", False): True}


PUBLISHED = dict(all=5e-5, last=3e-4, lora=3e-3, head=1e-1, bias=3e-3, scratch=3e-4)
OURS = dict(all=3e-3, last=3e-3, lora=1.5e-2, head=3e-2, bias=9e-2, scratch=3e-3)
USUAL = dict(all=1e-3, last=1e-3, lora=5e-3, head=1e-2, bias=3e-2, scratch=1e-3)


@pytest.mark.parametrize(("large", "recipe", "rates"), [
    (12, {}, PUBLISHED), (12, dict(rate=3e-3), PUBLISHED), (13, dict(rate=3e-3), OURS), (13, {}, USUAL),
])  # fmt: skip
def test_each_way_has_its_rate_and_a_published_model_a_lower_one(large, recipe, rates, monkeypatch):
    seen, plain = [], comparison.train
    monkeypatch.setattr(comparison, "LARGE", large)
    monkeypatch.setattr(comparison, "train", lambda m, o, own, *a: seen.append(own) or plain(m, o, own, *a))
    monkeypatch.setattr(Classification, "recipe", recipe)
    for tune in ("all", "last:1", "lora", "head", "bias"):
        comparison.trained(*start(steps=1, lr=None, tune=tune))
        assert seen.pop().lr == pytest.approx(rates[tune.partition(":")[0]]), tune
    others(steps=3, lr=0.25)
    found, expected = [own.lr for own in seen], [rates[way] for way in ("scratch", "head", "lora")]
    assert found == pytest.approx(expected), "a given rate is meant for the chosen way"
    assert {own.steps for own in seen} == {3}


def test_the_table_and_the_figures_are_means_over_the_seeds():
    results = {
        "chosen": [comparison.Result(1234, 1.0, 2.0, 0.5), comparison.Result(1234, 1.0, 4.0, 0.7)],
        "trivial": [comparison.Result(0, 0.0, None, 0.25)] * 2,
        "lora": [comparison.Result(99, 0.08, 1.0, 0.625)] * 2,
    }
    rows, figures = comparison.closing(results, tuned.settings(lora_rank=4), tuned.task())
    assert rows == [
        ("majority class", 0, "0.0 %", "-", "0.250 ± 0.000"),
        ("LoRA, rank 4", 99, "8.0 %", "1.0", "0.625 ± 0.000"),
        ("all weights", 1234, "100.0 %", "3.0", "0.600 ± 0.141"),
    ]
    expected = dict(metric="accuracy", majority_score=0.25, lora_score=0.625, score=pytest.approx(0.6))
    assert figures == expected | dict(score_deviation=pytest.approx(0.1414, abs=1e-4), moving_weights=1234)
    alone = {way: found[:1] for way, found in results.items() if way != "lora"}
    for tune, name in (("head", "head only"), ("bias", "biases (BitFit)"), ("last:2", "last:2")):
        rows, figures = comparison.closing(alone, tuned.settings(tune=tune), tuned.task())
        assert rows[-1] == (name, 1234, "100.0 %", "2.0", "0.500") and figures["score_deviation"] is None


def test_three_predictions_are_told_a_wrong_one_among_them():
    predictions = [Prediction(f"text {i}", "x", "x" if i < 7 else "y", 0.5) for i in range(9)]
    lines = comparison.report_lines(tuned.task(), predictions)
    assert lines[0].startswith("First seed: accuracy 0.778, macro_f1 ") and not lines[1]
    assert lines[2::2] == ["text 0", "text 1", "text 7"]
    assert lines[3::2] == ["    x 0.50   (it is: x)"] * 2 + ["    y 0.50   (it is: x)"]
    assert comparison.example_lines(tuned.task(), Prediction("a", None, "x")) == ["a", "    x"]
    long = comparison.example_lines(tuned.task(), Prediction("a\nb" * 200, None, "x"))
    assert long[0].startswith("a ba b") and len(long[0]) == 300, "a line of the terminal or a few, not pages"
    tagging = tuned.task(Tagging, [(["Ana", "b"], ["B-who", "O"])])
    found = comparison.example_lines(tagging, Prediction("Ana ran", ["O", "O"], ["B-who", "O"], 0.9))
    assert found == ["Ana ran", "    who Ana 0.90   (it is: -)"]


def test_a_share_of_the_examples_is_told_with_its_interval():
    predictions = [Prediction(f"text {i}", "shop", "shop", 0.5) for i in range(9)]
    assert "(95 % interval of the accuracy 0." in comparison.report_lines(tuned.task(), predictions)[0]
    for truth, guess, told in (
        (["B-who", "O"], ["B-who", "O"], "entity_f1 1.0"),  # F1 is no share
        (["NOUN", "VERB"], ["NOUN", "NOUN"], "accuracy 0.5"),  # of the words, not of the examples
    ):
        tagging = tuned.task(Tagging, [(["Ana", "ran"], truth)])
        found = comparison.report_lines(tagging, [Prediction("Ana ran", truth, guess, 0.9)])
        assert told in found[0] and "interval" not in found[0]


def test_predictions_take_four_times_the_rows_of_a_step(monkeypatch):
    seen, plain = [], Classification.predict
    monkeypatch.setattr(Classification, "predict", lambda *given: seen.append(given[-1]) or plain(*given))
    monkeypatch.setattr(Classification, "has_truth", False)
    comparison.trained(*start(batch_size=5, steps=1))
    others(batch_size=6, compare=False)
    assert seen == [4 * 5, 4 * 6], "without gradients a row takes less memory"
