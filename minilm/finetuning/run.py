"""A whole fine-tuning run: examples, model, training, the comparison, the fine-tuned folder.

`finetune.py` is this with flags.
"""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..checkpoint import check_trainer, load
from ..model.config import PRESETS, preset
from ..model.transformer import Transformer, build
from ..plumbing.devices import choose_device
from ..plumbing.errors import UserError
from ..plumbing.folders import PREDICTIONS, RESULTS, SETTINGS, choose_folder, find_run, read_json, write_json
from ..plumbing.settings import show
from ..plumbing.terminal import table
from ..pretraining.run import newest_or_train
from ..tokenizer.bpe import BPE, SPECIAL_TOKENS
from ..training.loop import make_optimizer, train
from . import comparison, folder
from .comparison import Result
from .examples import load_examples, read_file
from .lora import check_lora
from .moving import pace_of
from .registry import TASKS, check_kind
from .settings import ON_PAIRS, FinetuningSettings, default_seeds, with_recipe
from .tasks import Examples, FineTuning, Task

VOCABULARY = 1024  # tokens, where a preset begins from random weights


def load_body(settings: FinetuningSettings) -> tuple:
    """Return the settings with the model and the context resolved, the model, and its tokenizer.

    The model is that of a folder, or a preset with random weights.

    Raises:
        UserError: for a model without a tokenizer, one that cannot do the task, or too few positions.
    """
    device = choose_device(settings.device).type
    if settings.model is None:
        start = newest_or_train(TASKS[settings.task].start, settings.seed, settings.device)
        settings = replace(settings, model=str(start))
    is_preset = settings.model in PRESETS
    body, tokenizer = fresh_body(settings, device) if is_preset else load(settings.model, device)
    if tokenizer is None:
        raise UserError(f"{settings.model}: no tokenizer in it, and the examples are text")
    check_kind(settings.task, body.config, settings.model)
    longest = body.config.max_positions
    if settings.context is None:
        path = Path(settings.model) / SETTINGS
        known = read_json(path).get("context") if path.exists() else None
        settings = replace(settings, context=min(known or longest, longest))
    if settings.context > longest:
        raise UserError(f"--context {settings.context} is above the model's {longest} positions")
    return settings, body, tokenizer


def fresh_body(settings: FinetuningSettings, device: str) -> tuple[Transformer, BPE]:
    """Return a preset with random weights, and a tokenizer trained on the examples to learn from."""
    texts = [" ".join(words_in(example)) for example in load_examples(settings).train]
    tokenizer = BPE.train(texts, VOCABULARY, SPECIAL_TOKENS)
    torch.manual_seed(settings.seed)
    return build(replace(preset(settings.model), vocab_size=tokenizer.vocab_size)).to(device), tokenizer


def words_in(example) -> list[str]:
    """Return all texts in an example, the truth among them: lists and tuples of texts, and of others."""
    if isinstance(example, (list, tuple)):
        return [text for part in example for text in words_in(part)]
    return [example] if isinstance(example, str) else []


def make_task(settings: FinetuningSettings, body: Transformer, tokenizer, examples: Examples) -> Task:
    """Return the task, with what it learns of the training examples."""
    task = TASKS[settings.task]
    options = dict(balanced=True) if settings.class_weights else {}
    options |= dict(pairs=settings.pairs or task.pairs) if settings.task in ON_PAIRS else {}
    return task(tokenizer, body.config, settings.context, task.learn(examples.train), **options)


def finetune(settings: FinetuningSettings) -> Path:
    """Train the model on the task, print the comparison, and return the fine-tuned folder."""
    settings = replace(settings, seeds=settings.seeds or default_seeds(settings))
    # The later seeds and the comparison come last, their mistakes not; a mistake in a file before all.
    parts = [load_examples(replace(settings, seed=seed)) for seed in settings.seeds]
    examples = parts[0]
    settings, body, tokenizer = load_body(settings)
    if settings.compare or settings.tune == "lora":
        check_lora(body.config.d_model, settings.lora_rank, settings.lora_targets)
    settings = with_recipe(settings, len(examples.train))
    print(examples.summary(), *examples.notes, sep="\n")
    task = make_task(settings, body, tokenizer, examples)
    own = replace(comparison.with_rate(settings, body), seed=settings.seeds[0])
    model = comparison.prepared(body, task, own, settings.tune)
    objective = FineTuning(task, examples, settings.batch_size, own.seed)
    n_cut = sum(rows.n_cut for rows in objective.data.values())
    if n_cut:
        print(f"cut {n_cut:,} rows to --context {settings.context} tokens")
    out = choose_folder(settings.task, settings.out, settings.overwrite, settings.resume)
    if settings.resume:
        check_trainer(out, model)
    write_json(out / SETTINGS, asdict(settings))
    show(settings)
    folder.save_task(out, task)
    pace = pace_of(body.config, settings.layer_decay, settings.unfreeze_every)
    optimizer = make_optimizer(model, own.weight_decay, pace)
    outcome = train(model, objective, own, out, tokenizer, optimizer, settings.patience)
    predictions = task.predict(model, examples.test, 4 * settings.batch_size)
    folder.write_predictions(out / PREDICTIONS, task, predictions)
    first = comparison.measure(model, task, predictions, outcome["seconds"])
    results = more_runs(settings, body, tokenizer, parts, first)
    close(settings, task, examples, predictions, results, out)
    return out


def more_runs(
    settings, body: Transformer, tokenizer, parts: list[Examples], first: Result
) -> dict[str, list[Result]]:
    """Return the results of every way, a list over the seeds; `chosen` is the way of the settings.

    `parts`: the examples of each seed.
    """
    results: dict[str, list[Result]] = {
        "trivial": [],
        "scratch": [],
        "head": [],
        "lora": [],
        "chosen": [first],
    }
    for i, (seed, examples) in enumerate(zip(settings.seeds, parts, strict=True)):
        own = replace(settings, seed=seed)
        task = make_task(own, body, tokenizer, examples)
        if settings.compare:
            for way, result in comparison.other_ways(body, task, examples, own).items():
                results.setdefault(way, []).append(result)
        if i:
            results["chosen"].append(comparison.one_way(body, task, examples, own))
        results["trivial"].append(comparison.trivial(task, examples))
    return {way: found for way, found in results.items() if found}


def close(settings, task: Task, examples: Examples, predictions, results: dict, out: Path) -> None:
    """Print the closing table and examples, and write results.json: the run is finished."""
    what = task.trivial(examples.train, examples.test[:1])[0]
    rows = comparison.table_rows(results, comparison.names_of(settings, what))
    print("\n" + table(rows, (*comparison.HEADER, task.metric)))
    print("\n" + ", ".join(f"{name} {value:.3f}" for name, value in task.score(predictions).items()))
    labels = getattr(task, "labels", None)
    if labels:
        rows = folder.confusion_rows(labels, predictions)
        folder.write_confusion(out, labels, rows)
        if len(labels) <= 12:
            print("\nTest examples, first seed: rows are truths, columns predictions\n")
            print(table(rows, ("", *labels)))
    print("\n" + "\n".join(chosen_examples(task, predictions)) + "\n")
    write_json(out / RESULTS, figures_of(settings, task, results))
    print(f"Saved in {out} (the model of seed {settings.seeds[0]}).")
    print(f"Next: python finetune.py --model {out} --predict FILE")


def figures_of(settings, task: Task, results: dict[str, list[Result]]) -> dict:
    """Return what results.json holds: each way's mean score over the seeds, and what the chosen way took."""
    means = {way: comparison.mean_and_deviation([r.score for r in found]) for way, found in results.items()}
    figures = {f"{way}_score": mean for way, (mean, _) in means.items()}
    score, deviation = means["chosen"]
    del figures["chosen_score"]
    figures["majority_score"] = figures.pop("trivial_score")
    if settings.tune in ("head", "lora"):
        figures[f"{settings.tune}_score"] = score
    first = results["chosen"][0]
    figures |= dict(score=score, metric=task.metric, moving_weights=first.n_moving)
    figures |= dict(seconds=first.seconds, seed=settings.seed)
    return figures | ({} if deviation is None else dict(score_deviation=deviation))


def chosen_examples(task: Task, predictions, n: int = 3) -> list[str]:
    """Return lines that show n predictions, a wrong one among them if there is one."""
    wrong = [p for p in predictions if task.written(p.truth) != task.written(p.guess)][:1]
    chosen = (wrong + [p for p in predictions if p not in wrong])[:n]
    return [line for p in sorted(chosen, key=predictions.index) for line in task.shown(p)]


def predict(settings: FinetuningSettings) -> Path:
    """Say what the fine-tuned --model thinks of the texts in a file; return the folder of the predictions."""
    device = choose_device(settings.device).type
    source = settings.model or find_run(settings.task)
    if source is None:
        raise UserError(f"--predict: no finished runs/{settings.task}; name the fine-tuned folder by --model")
    model, task = folder.load_finetuned(source, device)
    examples, n_skipped = read_file(TASKS[task.name], settings.predict, settings.skip_bad, truth=False)
    predictions = task.predict(model, examples, 4 * (settings.batch_size or 32))
    out = choose_folder("predictions", settings.out, settings.overwrite)
    folder.write_predictions(out / PREDICTIONS, task, predictions)
    print(*(line for p in predictions[:3] for line in task.shown(p)), sep="\n")
    if n_skipped:
        print(f"left out {n_skipped:,} examples (--skip-bad)")
    print(f"\nSaved {len(predictions):,} predictions of {source} in {out / PREDICTIONS}.")
    return out
