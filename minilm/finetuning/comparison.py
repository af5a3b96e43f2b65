"""The lesson of regime 4 as a table: what moves, how many weights that is, how long it takes, the score.

Every way begins with the same examples and takes the same number of steps, or stops by the same --patience.
"""

import statistics
from dataclasses import dataclass, replace

import torch

from ..model.transformer import Transformer, build
from ..training.loop import make_optimizer, train
from .heads import WithHead, put_head_on
from .moving import let_move, pace_of
from .settings import FinetuningSettings, rate_of
from .tasks import Examples, FineTuning, Prediction, Task

HEADER = ("what moves", "weights", "share", "seconds")  # then the metric


@dataclass
class Result:
    """One way, for one seed."""

    n_moving: int
    share: float  # of all weights that the output depends on
    seconds: float | None  # of training
    score: float


def prepared(
    body: Transformer, task: Task, settings: FinetuningSettings, tune: str, from_random: bool = False
) -> WithHead:
    """Return the model that fine-tuning starts with: body, fresh head, and the weights chosen that move."""
    torch.manual_seed(settings.seed)
    if from_random:
        body = build(body.config).to(body.tokens.weight.device)
    model = put_head_on(body, task.head())
    let_move(model, tune, settings.lora_rank, settings.lora_alpha, settings.lora_targets)
    return model


def with_rate(settings: FinetuningSettings, body: Transformer) -> FinetuningSettings:
    """Return the settings with the learning rate of their way to tune, unless one was given."""
    return settings if settings.lr is not None else replace(settings, lr=rate_of(settings, body.config))


def train_quietly(model: WithHead, objective: FineTuning, settings: FinetuningSettings) -> float:
    """Train as `training.train` does, without a folder and a log; return the seconds that it took."""
    pace = pace_of(model.config, settings.layer_decay, settings.unfreeze_every)
    optimizer = make_optimizer(model, settings.weight_decay, pace)
    patience, label = settings.patience, settings.tune
    return train(model, objective, settings, optimizer=optimizer, patience=patience, label=label)["seconds"]


def measure(model: WithHead, task: Task, predictions: list[Prediction], seconds: float) -> Result:
    """Return what a trained model reaches, given what it says about the test examples."""
    n_used = sum(p.numel() for name, p in model.named_parameters() if model.in_use(name))
    score = task.score(predictions)[task.metric]
    return Result(model.n_moving(), model.n_moving() / n_used, seconds, score)


def one_way(
    body: Transformer, task: Task, examples: Examples, settings: FinetuningSettings, from_random: bool = False
) -> Result:
    """Train one way, `settings.tune`, and return what it reaches."""
    own = with_rate(settings, body)
    model = prepared(body, task, own, own.tune, from_random)
    objective = FineTuning(task, examples, own.batch_size, own.seed)
    seconds = train_quietly(model, objective, own)
    return measure(model, task, task.predict(model, examples.test, 4 * own.batch_size), seconds)


def other_ways(
    body: Transformer, task: Task, examples: Examples, settings: FinetuningSettings
) -> dict[str, Result]:
    """Return the results of the ways that the settings did not choose: `scratch`, `head`, `lora`, `all`."""
    ways = ["scratch", "head", "lora", "all"] if task.head() is not None else ["scratch", "lora", "all"]
    results = {}
    for way in ways:
        if way != settings.tune:
            own = other_settings(settings, "all" if way == "scratch" else way)
            results[way] = one_way(body, task, examples, own, from_random=way == "scratch")
    return results


def other_settings(settings: FinetuningSettings, tune: str) -> FinetuningSettings:
    """Return the settings for another way to tune; a rate that was given is meant for its own way."""
    return settings if tune == settings.tune else replace(settings, tune=tune, lr=None)


def trivial(task: Task, examples: Examples) -> Result:
    """Return the score of what needs no model."""
    _, guesses = task.trivial(examples.train, examples.test)
    truths = [example[-1] for example in examples.test]
    predictions = [Prediction("", truth, guess) for truth, guess in zip(truths, guesses, strict=True)]
    return Result(0, 0.0, None, task.score(predictions)[task.metric])


def mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    """Return the mean, and with two values or more the standard deviation of the sample."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def names_of(settings: FinetuningSettings, trivial: str) -> dict[str, str]:
    """Return what the table calls each way, `all` last unless it was not chosen."""
    lora = f"LoRA, rank {settings.lora_rank}"
    chosen = {"all": "all weights", "head": "head only", "lora": lora}
    names = dict(trivial=trivial, scratch="all, from random weights", head="head only", lora=lora)
    names |= {"all": "all weights", "chosen": chosen.get(settings.tune, settings.tune)}
    return names


def table_rows(results: dict[str, list[Result]], names: dict[str, str]) -> list[tuple]:
    """Return the rows under HEADER, means over the seeds."""
    rows = []
    for way in (way for way in names if way in results):
        found = results[way]
        mean, deviation = mean_and_deviation([result.score for result in found])
        score = f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
        times = [result.seconds for result in found if result.seconds is not None]
        seconds = f"{statistics.fmean(times):.1f}" if times else "-"
        rows.append((names[way], found[0].n_moving, f"{100 * found[0].share:.1f} %", seconds, score))
    return rows
