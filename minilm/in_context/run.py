"""Regime 6 from its flags to its table: questions of the world or of a user's files, and the model."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..extraction.features import embed, nearest
from ..extraction.probe import split
from ..model.sampling import SamplingRule
from ..plumbing.errors import UserError
from ..plumbing.folders import read_log
from ..plumbing.script import begin, choose_device, finish, table
from ..plumbing.settings import CommonSettings, typed
from ..pretraining.run import start_model
from ..texts.files import one_line
from ..texts.tables import read_table
from ..training.objective import autocast
from .prompts import PromptFormat, Question, draw_questions
from .questions import CHANCE, FORMAT, NAMES, PROBE_SHOTS, TASKS, FewShot, questions
from .scores import SCORES
from .study import BASELINE, CHOICE, Study, checksum
from .terminal import Writer, loop, show

SHOTS = (0, 1, 2, 4, 8)
WRITING = ("chat", "max_new_tokens", "temperature", "top_k", "top_p", "n_beam")  # flags of a `Writer`
FIGURES = dict(nonce_keys="lookup_accuracy", story_items="story_item_accuracy", shuffled="shuffled_accuracy")
FIGURES |= {BASELINE: "bag_of_words_accuracy", CHOICE: "commonest_label_accuracy"}


@dataclass(frozen=True, kw_only=True)
class PromptSettings(CommonSettings):
    """What the model reads, and what it is asked."""

    model: str | None = None  # run folder; none: runs/in-context (with --prompt or --data: runs/causal)
    data: str | None = None  # labelled examples: .tsv, .csv or .jsonl with text, label; none: the world's
    test: str | None = None  # labelled texts to ask about; none: a fifth of --data
    shots: tuple[int, ...] | None = None  # numbers of examples; none: those of 0,1,2,4,8 that fit
    n_draw: int = 5  # draws of the examples, for the confidence intervals
    n_test: int = 200  # questions per draw; of --test, at most so many are asked
    score: Literal[SCORES] = "sum"  # score of a label: log-likelihood, its mean per token, or calibrated
    template: str = "{text} : {label}"  # form of one example of --data; \n is a line break
    separator: str = "\\n"  # between two examples; \n is a line break
    label_words: tuple[str, ...] = ()  # words for the labels in the prompt: 0=bad 1=good; none: as in --data
    select: Literal["random", "nearest"] = "random"  # examples of --data: drawn, or the nearest to the text
    prompt: str | None = None  # a text to continue, or - to type at the terminal
    chat: bool = False  # with --prompt: the text is what a user says, and the model answers
    max_new_tokens: int = 50  # with --prompt: most tokens to write
    temperature: float | None = None  # 0: always the likeliest token; none: 0.8, with --n-beam above 1: 1
    top_k: int | None = None  # draw from the k likeliest tokens
    top_p: float | None = None  # draw from the likeliest tokens whose probabilities sum to this
    n_beam: int = 1  # above 1: beam search

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict(n_draw=1, n_test=1, n_beam=1, max_new_tokens=1, shots=0))
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("--prompt is empty: give the beginning of a text, or - to type at the terminal")
        SamplingRule(temperature=self.temperature or 0.0, top_k=self.top_k, top_p=self.top_p)  # or UserError
        reading = ("test", "select", "template", "separator", "label_words")
        self.refuse(self.prompt is None, WRITING, "needs --prompt: a text to continue, or - to type it")
        asking = ("data", "shots", "n_draw", "n_test", "score", "plot", "out", "overwrite", *reading)
        self.refuse(self.prompt, asking, "does not go with --prompt")
        self.refuse(not self.data, reading, "needs --data: the file with the examples")
        self.refuse(self.select == "nearest", ("n_draw",), "has no effect with --select nearest")
        self.refuse(self.n_beam > 1, ("temperature", "top_k", "top_p"), "does not go with --n-beam: no draws")


def answer_prompts(settings: PromptSettings) -> Path | None:
    """Write a text for --prompt, or measure the accuracy against the number of examples, in a run folder."""
    began, study = time.perf_counter(), make_study(settings) if settings.prompt is None else None
    name, kind = ("causal", None) if settings.prompt is not None or settings.data else ("in-context", FewShot)
    folder, model, tokenizer = start_model(settings.model, name, settings, kind, reads_only=True)
    if settings.select == "nearest":
        draws = {"files": nearest_draws(settings, model, tokenizer)}
        study = replace(study, draws=draws, n_draw=1, baseline=CHOICE)
    if settings.compile and model.decoder is not None:
        model.decoder.compile()
    with autocast(settings.precision, choose_device(settings.device)):
        if study is not None:
            return report(replace(settings, model=str(folder)), study, model, tokenizer, began)
        writer = Writer(model, tokenizer, **{name: getattr(settings, name) for name in WRITING})
        if settings.prompt == "-":
            return loop(writer, settings.seed)
        head = iter([] if model.encoder or settings.chat else [settings.prompt])  # before the first piece
        writer.write(settings.prompt, settings.seed, lambda piece: show(next(head, "") + piece))
        print()


def make_study(settings: PromptSettings) -> Study:
    """Return the study: the tasks of the embedded world, or files, whose texts are the same in every draw."""
    n, seed, how = settings.n_test, settings.seed, (settings.n_draw, settings.score)
    if not settings.data:
        draws = {task: lambda k, i, task=task: questions(task, k, n, seed, start=i * n) for task in TASKS}
        return Study(draws, NAMES, FORMAT, CHANCE, "chance", *how, CHOICE)
    examples, asked = examples_and_tests(settings)
    known, given = {one_line(text) for text, _ in examples}, [label for _, label in examples]
    if again := sum(one_line(text) in known for text, _ in asked):
        print(f"{settings.test}: {again:,} of {len(asked):,} texts are also in {settings.data}")
    words = {label: label for label in sorted(set(given))}
    commas = re.compile(f",(?=(?:{'|'.join(map(re.escape, words))})=)")  # not at commas in a word
    for option in [one for text in settings.label_words for one in commas.split(text)]:
        label = max((one for one in words if option.startswith(f"{one}=")), key=len, default=None)
        if label is None:
            raise UserError(f"--label-words {option}: expected LABEL=WORD; labels: {', '.join([*words][:9])}")
        words[label] = option[len(label) + 1 :]
    breaks = (option.replace("\\n", "\n") for option in (settings.template, settings.separator))
    prompt_format = PromptFormat(words, *breaks)
    share = [label for _, label in asked].count(max(words, key=given.count)) / len(asked)
    draws = {"files": lambda k, number: draw_questions(examples, asked, k, seed + number)}
    return Study(draws, {"files": settings.data}, prompt_format, share, "majority class", *how, BASELINE)


def nearest_draws(settings: PromptSettings, model, tokenizer) -> Callable[[int, int], list[Question]]:
    """Return a draw in which each text has its k nearest examples, nearest last (Liu et al. 2022: first)."""
    examples, asked = examples_and_tests(settings)
    vectors, queries = (embed(model, tokenizer, [text for text, _ in part]) for part in (examples, asked))
    order = (nearest(vectors, query, max(settings.shots or SHOTS)) for query in queries)
    near = [([examples[i] for i, _ in found], test) for found, test in zip(order, asked, strict=True)]
    return lambda k, number: [Question(tuple(reversed(own[:k])), *test) for own, test in near]


def examples_and_tests(settings: PromptSettings) -> tuple[list, list]:
    """Return the (text, label) of --data and --test; UserError if the files do not allow a study."""
    data, test = settings.data, settings.test
    examples, rng = read_table(data, ("text", "label")), random.Random("texts to ask")
    if test is None:
        if len(examples) < 5:  # a fifth is held out
            raise UserError(f"{data}: {len(examples)} rows are too few to hold out some: give --test FILE")
        examples, asked = split(examples, len(examples) // 5, "texts to ask", lambda example: example[1:])
    else:
        asked = read_table(test, ("text", "label"))
    labels, most = sorted({label for _, label in examples}), max(settings.shots or (1,))
    if unknown := [label for _, label in asked if label not in labels]:
        wrong = f"the label {unknown[0]!r} has no example in {data} ({', '.join(labels[:9])})"
        raise UserError(f"{test or data}: {wrong}: add examples of it or take the rows out")
    if most > len(examples):
        raise UserError(f"--shots {most}: {data} gives only {len(examples)} examples")
    return examples, rng.sample(asked, settings.n_test) if settings.n_test < len(asked) else asked


def report(settings: PromptSettings, study: Study, model, tokenizer, began: float) -> Path:
    """Ask all questions; print tables, examples and checksums; write the run folder and return it."""
    folder, before = Path(settings.model), checksum(model)
    shots = settings.shots or study.shots_that_fit(model, tokenizer, SHOTS) or SHOTS[:1]
    found = study.measure(model, tokenizer, shots)
    out = begin("prompt", settings)
    log = [] if settings.data else read_log(folder)
    if rows := [(one["step"], *(one[task] for task in TASKS)) for one in log if TASKS.keys() <= one.keys()]:
        told = f"Accuracy after {PROBE_SHOTS} examples, while {folder} was trained:"
        print("", told, "", table(rows, ("step", *(task.replace("_", " ") for task in TASKS))), sep="\n")
    lines = study.examples(model, tokenizer, min(max(shots), 4))
    if len(shots) < len(SHOTS) and settings.shots is None:
        lines.insert(0, f"More do not fit into {model.config.max_positions} positions, or there are none.\n")
    if (after := checksum(model)) != before:
        raise RuntimeError(f"the weights of {folder} moved: {before} before, {after} after")
    lines += ["", f"Checksum of the weights of {folder} before: {before}, after: {after}. No weight changed."]
    results = dict(accuracy={str(k): mean for k, (mean, _) in next(iter(found.values())).items()})
    results |= dict(chance=study.chance, rows={})
    for (task, control), by_shots in found.items():
        results["rows"][f"{task}, {control}"] = by_shots
        if name := FIGURES.get(task if control == "gold" else control):
            results[name] = by_shots[max(by_shots)][0]  # with most examples
    seconds, then = time.perf_counter() - began, f"python prompt.py {typed('model', folder)} --prompt TEXT"
    finish(out, settings, [study.table(found)], lines, results, seconds, then)
    return out
