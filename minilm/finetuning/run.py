"""A complete fine-tuning run: examples, model, training, the comparison, the fine-tuned folder.

`finetune.py` gives it flags. A fine-tuned folder has these files besides those of any run folder:

    task.json         the task's name, what it knows about the labels, the tokens of a row, its options
    predictions.tsv   text, truth, prediction and probability of each test example
    confusion.tsv     for a task with classes: rows are truths, columns predictions
"""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from ..checkpoint import load, load_weights
from ..model.config import PRESETS
from ..model.transformer import build
from ..plumbing import folders
from ..plumbing.errors import UserError
from ..plumbing.script import begin, choose_device, finish, from_first
from ..plumbing.settings import checked, typed
from ..pretraining.run import start_model
from ..texts.corpus import VALIDATION_SEED
from ..tokenizer.bpe import BPE, SPECIAL_TOKENS
from ..training.checkpoints import check_trainer
from ..training.show_batch import batch_lines
from . import examples
from .classification import Classification
from .comparison import HEADER, closing, example_lines, other_ways, prepared, report_lines, trained
from .examples import Parts, check_parts, names_of, read_examples, read_parts, texts_in
from .heads import WithHead
from .settings import PAIRS, TASKS, FinetuningSettings, check_fit, with_recipe
from .tasks import FineTuning, Task

VOCABULARY = 1024  # tokens, for a preset, which begins from random weights
WORLD_VALIDATION, WORLD_TEST = 200, 600  # examples
TEST_SEED = 4_000_037  # for the world's test examples, by which no recipe was chosen


def finetune(settings: FinetuningSettings) -> Path | None:
    """Train the model on the task, print the comparison, and return the fine-tuned folder."""
    if settings.seeds is None:  # one run, or ten if the world's examples are so few that luck decides
        n = TASKS[settings.task].recipe.get("n_run", 1) if settings.domain else 1
        settings = replace(settings, seeds=tuple(settings.seed * n + i for i in range(n)))
    parts = load_parts(settings)  # for all seeds: an error in a file is reported before any training
    settings, body, tokenizer = load_body(settings, parts[0])
    settings = with_recipe(settings, len(parts[0].train))
    options = dict(pairs=settings.pairs or PAIRS.get(settings.task))
    results, reached = defaultdict(list), []
    for seed, one in zip(settings.seeds, parts, strict=True):
        own, known = replace(settings, seed=seed), TASKS[settings.task].learn(one.train, tokenizer)
        task = TASKS[settings.task](tokenizer, body.config, settings.context, known, **options)
        model, objective = prepared(body, task, one, own)
        if n_row := settings.show_batch:
            classes = task.labels if task.has_head else ()  # without a head the model writes them as tokens
            return print(*batch_lines(objective.batch(0, "train"), tokenizer, n_row, classes), sep="\n")
        out = None if results else start(settings, model, objective)  # the first seed's model is kept
        result, predictions = trained(model, objective, own, out, tokenizer)
        reached.append(task.figures(predictions))
        if out:
            first = task, predictions, out
            examples.write_predictions(task, predictions, out / folders.PREDICTIONS)
        for way, found in {"chosen": result, **other_ways(body, task, one, own)}.items():
            results[way].append(found)
    task, predictions, out = first
    rows, figures = closing(results, settings, task)
    tables = [(rows, (*HEADER, task.metric))]
    cut = f" {task.n_cut:,} rows were cut to {task.context} tokens." if task.n_cut else ""
    part = f"Measured on {len(predictions):,} examples of {names_of(settings)[2]}.{cut}"
    figures |= {n: fmean(one[n] for one in reached) for n in reached[0] if all(n in one for one in reached)}
    if isinstance(task, Classification):
        counts, labels = Counter((p.truth, p.guess) for p in predictions), task.labels
        rows = [(truth, *(counts[truth, guess] for guess in labels)) for truth in labels]
        examples.write_rows(out / folders.CONFUSION, [("truth", *labels), *rows])
        tables += [(rows, ("true, taken for:", *labels))] if len(labels) <= 12 else []
    then, seconds = f"python finetune.py {typed('model', out)} --predict FILE", results["chosen"][0].seconds
    finish(out, settings, tables, [part, *report_lines(task, predictions)], figures, seconds, then)
    return out


def start(settings: FinetuningSettings, model: WithHead, objective: FineTuning) -> Path:
    """Print the numbers of examples, write task.json, return the run folder; UserError for a bad --resume."""
    sizes = zip(objective.parts, ("for training", "for validation", "for test"), strict=True)
    print("examples:", ", ".join(f"{len(part):,} {use}" for part, use in sizes))
    if n_cut := sum(rows.texts.n_cut for rows in objective.rows.values()):
        print(f"cut {n_cut:,} rows to --context {settings.context} tokens")
    if settings.resume:
        check_trainer(settings.out, model, steps=settings.steps)  # before anything is written
        path = Path(settings.out) / folders.TASK
        known = checked(path, folders.read_json(path), dict(known=dict))["known"]
        for name in objective.task.learnt if objective.task.has_head else ():
            then, now = known.get(name), objective.task.known.get(name)  # the head was trained for `then`
            if then != now and not (type(then) is float and math.isclose(then, now, rel_tol=1e-5)):
                raise UserError(f"{settings.out}: trained with other {name}: resume with its own examples")
    out, task = begin(settings.task, settings), objective.task
    saved = dict(task=task.name, context=task.context, known=task.known, options=dict(pairs=task.pairs))
    folders.write_json(out / folders.TASK, saved)
    return out


def load_parts(settings: FinetuningSettings) -> list[Parts]:
    """Return the examples of the settings, `Parts` for each seed; UserError if nothing can be learnt."""
    task, domain, parts = TASKS[settings.task], settings.domain, []
    if domain:
        n = settings.n_examples or task.recipe["n_examples"]
        # The things and verbs of the test examples are held out: no training example has them.
        test = task.world(WORLD_TEST, TEST_SEED, held_out=True, domain=domain)
        for seed in settings.seeds:
            watched = task.world(WORLD_VALIDATION, seed + VALIDATION_SEED, held_out=False, domain=domain)
            parts.append(Parts(task.world(n, seed, held_out=False, domain=domain), watched, test))
    else:
        parts = read_parts(task, settings)
    for one in parts:
        check_parts(one, task, names_of(settings))
    return parts


def load_body(settings: FinetuningSettings, parts: Parts) -> tuple:
    """Return settings with model and context filled in, the model (a preset: random), and its tokenizer."""
    if settings.model in PRESETS:
        texts = [" ".join(texts_in(example)) for example in parts.train]
        tokenizer = BPE.train(texts, VOCABULARY, SPECIAL_TOKENS)
        torch.manual_seed(settings.seed)
        config = replace(PRESETS[settings.model], vocab_size=tokenizer.vocab_size)
        source, body = settings.model, build(config).to(choose_device(settings.device))
    else:
        source, body, tokenizer = start_model(settings.model, TASKS[settings.task].start, settings)
    if settings.tune == "bias" and not any(name.endswith(".bias") for name, _ in body.named_parameters()):
        raise UserError(f"--tune bias: {source} has no biases; use all, head, lora or last:N")
    path, longest = Path(source) / folders.SETTINGS, body.config.max_positions
    used = checked(path, folders.read_json(path, True), dict(context=int | None), False).get("context")
    settings = replace(settings, model=str(source), context=settings.context or min(used or longest, longest))
    check_fit(settings, body.config)
    return settings, body, tokenizer


def predict(settings: FinetuningSettings) -> Path:
    """Predict the texts of a file with the fine-tuned --model; return the folder of the predictions."""
    if (source := settings.model or folders.find_run(settings.task)) is None:
        raise UserError(f"--predict: no finished runs/{settings.task}; name a fine-tuned folder with --model")
    model, task = load_finetuned(source, str(choose_device(settings.device)))
    if settings.task not in ("classification", task.name):  # the first is --task's default
        raise UserError(f"--task {settings.task}: {source} was trained for {task.name}; leave --task out")
    given = read_examples(task, [settings.predict], settings.skip_bad, truth=False)
    predictions = task.predict(model, given, 4 * (settings.batch_size or 32))
    out = from_first(lambda: folders.choose_folder("predictions", settings.out, settings.overwrite))
    examples.write_predictions(task, predictions, out / folders.PREDICTIONS)
    print(*(line for p in predictions[:3] for line in example_lines(task, p)), sep="\n")
    cut = f" {task.n_cut:,} rows were cut to {task.context} tokens." if task.n_cut else ""
    print(f"\nSaved {len(predictions):,} predictions of {source} in {out / folders.PREDICTIONS}.{cut}")
    return out


def load_finetuned(folder: str | Path, device: str = "cpu") -> tuple[WithHead, Task]:
    """Return (model, task) of a fine-tuned folder; UserError for any other folder."""
    path, (body, tokenizer) = Path(folder) / folders.TASK, load(folder, device)
    if not path.exists():
        raise UserError(f"{folder}: no {folders.TASK}; first: python finetune.py {typed('model', folder)}")
    saved = checked(path, folders.read_json(path), dict(context=int, known=dict, options=dict), False)
    try:
        made, context = TASKS[saved["task"]], saved["context"]
        types = dict(pairs=FinetuningSettings.__annotations__["pairs"])
        options = checked("options", saved.get("options", {}), types, whole=False)
        if not made.least_context <= context <= body.config.max_positions:
            raise ValueError(f"context {context}, but the model has {body.config.max_positions} positions")
        task = made(tokenizer, body.config, context, checked("known", saved["known"], made.learnt), **options)
        model = WithHead(body.config, task.head())
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a valid task ({type(error).__name__}: {error})") from None
    load_weights(folder, model)
    return model.to(device).eval(), task
