"""The closing table of regime 4: which weights move, how many they are, the time of training, the score.

Each way to tune gets the same examples and takes the same number of steps, or stops by the same --patience.
"""

import statistics
from dataclasses import replace
from typing import NamedTuple

import torch

from ..model.transformer import Transformer, build
from ..pretraining.recipes import LARGE
from ..texts.files import one_line
from ..training.loop import make_optimizer, train
from ..training.metrics import share_interval
from .examples import Parts
from .heads import WithHead, put_head_on
from .moving import PUBLISHED, SMALL, TIMES, let_move, share_and_start
from .settings import FinetuningSettings
from .tasks import FineTuning, Prediction, Task

HEADER = ("what is trained", "weights", "share", "seconds")  # then the metric's name


class Result(NamedTuple):
    """The result of one way to tune, for one seed."""

    n_moving: int
    share: float  # of all weights that the output depends on
    seconds: float | None  # of training
    score: float


def prepared(body: Transformer, task: Task, parts: Parts, settings, from_random=False) -> tuple:
    """Return the model before training, with the weights of `settings.tune` unfrozen, and its objective."""
    torch.manual_seed(settings.seed)
    if from_random:
        body = build(body.config).to(body.tokens.weight.device)
    model = put_head_on(body, task.head())
    let_move(model, settings.tune, settings.lora_rank, settings.lora_alpha, settings.lora_targets)
    return model, FineTuning(task, parts, settings.batch_size, settings.seed)


def trained(model: WithHead, objective: FineTuning, settings, folder=None, tokenizer=None) -> tuple:
    """Train the model (without a `folder`: quietly); return the `Result` and the test set's predictions."""
    if settings.lr is None:
        way, is_small = settings.tune.partition(":")[0], model.config.d_model < LARGE
        rate = objective.task.recipe.get("rate", SMALL) * TIMES[way] if is_small else PUBLISHED[way]
        settings = replace(settings, lr=rate)
    how = model.config, settings.layer_decay, settings.unfreeze_every
    optimizer = make_optimizer(model, settings.weight_decay, lambda name: share_and_start(name, *how))
    label = None if folder else settings.tune
    outcome = train(model, objective, settings, folder, tokenizer, optimizer, settings.patience, label)
    predictions = objective.task.predict(model, objective.parts.test, 4 * settings.batch_size)
    score = objective.task.figures(predictions)
    n_moving = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = n_moving / sum(p.numel() for name, p in model.named_parameters() if model.in_use(name))
    return Result(n_moving, share, outcome["seconds"], score[objective.task.metric]), predictions


def other_ways(body: Transformer, task: Task, parts: Parts, settings) -> dict[str, Result]:
    """Return the results of the other ways to tune, and of guesses without a model or without training."""
    score = task.score([one[-1] for one in parts.test], task.trivial(parts.train, parts.test))[task.metric]
    results = {"trivial": Result(0, 0.0, None, score)}
    if not task.has_truth:  # contrastive: no weight is new, so the untuned model has a score
        found = task.predict(put_head_on(body, task.head()).eval(), parts.test, 4 * settings.batch_size)
        results["before"] = Result(0, 0.0, None, task.figures(found)[task.metric])
    for way in ("scratch", "head", "lora", "all") if settings.compare else ():
        tune = "all" if way == "scratch" else way
        if way != settings.tune and (way != "head" or task.has_head):
            rate = PUBLISHED["scratch"] if way == "scratch" and body.config.d_model >= LARGE else None
            own = replace(settings, tune=tune, lr=rate)  # a given --lr is for the chosen way
            results[way], _ = trained(*prepared(body, task, parts, own, way == "scratch"), own)
    return results


def closing(results: dict[str, list[Result]], settings: FinetuningSettings, task: Task) -> tuple[list, dict]:
    """Return the rows under HEADER and the figures of results.json: the mean of each way over its seeds."""
    names = dict(trivial=task.baseline, before="before training", scratch="all, from random weights")
    names |= dict(head="head only", bias="biases (BitFit)")
    names |= dict(lora=f"LoRA, rank {settings.lora_rank}", all="all weights")
    names |= dict(chosen=names.get(settings.tune, settings.tune))
    rows, figures = [], dict(metric=task.metric)
    for way in sorted(results, key=[*names].index):
        n_moving, share, times, scores = zip(*results[way], strict=True)
        figures[f"{way}_score"] = mean = statistics.fmean(scores)
        deviation = statistics.stdev(scores) if len(scores) > 1 else None
        score = f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
        seconds = "-" if None in times else f"{statistics.fmean(times):.1f}"
        rows.append((names[way], n_moving[0], f"{100 * share[0]:.1f} %", seconds, score))
    figures["majority_score"], figures["score"] = figures.pop("trivial_score"), figures.pop("chosen_score")
    return rows, figures | dict(score_deviation=deviation, moving_weights=n_moving[0])  # last row: chosen


def report_lines(task: Task, predictions: list[Prediction]) -> list[str]:
    """Return lines with all figures of the first seed and three predictions, one of them wrong if any is."""
    figures = task.figures(predictions)
    wrong = [p for p in predictions if task.written(p.truth) != task.written(p.guess)][:1]
    chosen = sorted([*wrong, *(p for p in predictions if p not in wrong)][:3], key=predictions.index)
    first = "First seed: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    if task.metric in ("accuracy", "exact_match") and type(predictions[0].guess) is str:  # not tags
        low, high = share_interval(figures[task.metric], len(predictions))
        first += f" (95 % interval of the {task.metric} {low:.3f} to {high:.3f})"
    return [first, "", *(line for p in chosen for line in example_lines(task, p))]


def example_lines(task: Task, p: Prediction) -> list[str]:
    """Return lines that show a prediction to a person."""
    sure = "" if p.probability is None else f" {p.probability:.2f}"
    truth = "" if p.truth is None else f"   (it is: {task.written(p.truth, p.text)})"
    return [one_line(p.text)[:300], f"    {task.written(p.guess, p.text)}{sure}{truth}"]
