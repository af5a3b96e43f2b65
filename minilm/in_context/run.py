"""Regime 6 from its flags to its table: the world's questions or a user's files, and the GPT they are for."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from ..model.sampling import SamplingRule
from ..plumbing.devices import autocast, choose_device
from ..plumbing.errors import UserError
from ..plumbing.folders import LOG, read_log
from ..plumbing.script import begin, finish
from ..plumbing.settings import CommonSettings
from ..pretraining.run import Pretraining, PretrainingSettings, start_model
from ..texts.corpus import hold_out
from ..texts.tables import read_table
from .prompts import PromptFormat, draw_questions
from .questions import CHANCE, FORMAT, NAMES, PROBE_SHOTS, TASKS, InContext, curve, questions
from .scores import SCORES
from .study import Found, Study, checksum
from .terminal import Writer, loop

SHOTS = (0, 1, 2, 4, 8)
HELD_BACK = 5  # without a test file, one part in so many of the examples is asked


@dataclass(frozen=True, kw_only=True)
class PromptSettings(CommonSettings):
    """What the model reads, and what it is asked."""

    model: str | None = None  # run folder; none: the newest runs/in-context, with --prompt runs/causal
    data: str | None = None  # labelled examples: .tsv, .csv or .jsonl with text, label; none: the world's
    test: str | None = None  # labelled texts to be asked; none: the last fifth of --data
    shots: tuple[int, ...] | None = None  # numbers of examples; none: 0,1,2,4,8, as many as fit
    n_draw: int = 5  # draws of the examples, for the confidence intervals
    n_test: int = 200  # questions of one draw; of --test at most so many are asked
    score: Literal[SCORES] = "sum"  # of a label: log-likelihood, per token, or calibrated
    template: str = "{text} : {label}"  # one example of --data
    separator: str = "\\n"  # between examples; \n is a line's end
    label_words: tuple[str, ...] = ()  # what labels are called in the prompt: 0=bad 1=good; none: as they are
    prompt: str | None = None  # a text to go on with, or - to type at the terminal
    max_new_tokens: int = 50  # with --prompt: most tokens to write
    temperature: float | None = None  # 0: always the likeliest token; none: 0.8, with --n-beam 1
    top_k: int | None = None  # draw from the k likeliest tokens
    top_p: float | None = None  # draw from the likeliest tokens that have this probability together
    n_beam: int = 1  # above 1: beam search

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict(n_draw=1, n_test=1, n_beam=1, max_new_tokens=1))
        if self.shots is not None and min(self.shots) < 0:
            raise UserError(f"--shots {min(self.shots)}: must be 0 or more")
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("--prompt is empty: give the beginning of a text, or - to type at the terminal")
        SamplingRule(temperature=self.temperature or 0.0, top_k=self.top_k, top_p=self.top_p)  # or UserError
        if self.test and not self.data:
            raise UserError(f"--test {self.test} needs --data: the file with the examples")


class FewShot(Pretraining):
    """GPT on few-shot documents: it is asked on the way (`questions.py`), and `prompt.py` starts from it."""

    defaults: ClassVar[dict] = dict(objective="causal", model="gpt-alibi-tiny")

    def __init__(self, settings: PretrainingSettings, overrides: dict | None = None):
        super().__init__(settings, overrides)
        self.name, self.then = "in-context", "python prompt.py"
        self.row = self.row._replace(objective=InContext)

    @staticmethod
    def fits(settings: PretrainingSettings) -> bool:
        """Say whether a command asks for such a run."""
        return settings.objective == "causal" and settings.data[0].startswith("world:few-shot")

    def closing(self, objective, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
        """As in `Pretraining`, with a row for each task."""
        [(rows, header)], results, examples = super().closing(objective, model, before, after)
        rows += [(name, before[task], after[task], CHANCE, "chance") for task, name in NAMES.items()]
        return [(rows, header)], results, examples


def answer_prompts(settings: PromptSettings) -> None:
    """Write a text for --prompt, or print the accuracy against the number of examples."""
    began, study = time.perf_counter(), None if settings.prompt is not None else make_study(settings)
    name, kind = ("causal", None) if settings.prompt is not None or settings.data else ("in-context", FewShot)
    folder, model, tokenizer = start_model(settings.model, name, settings, kind)
    if settings.compile and model.decoder is not None:
        model.decoder.compile()
    with autocast(settings.precision, choose_device(settings.device)):
        if study is not None:
            report(replace(settings, model=str(folder)), study, model, tokenizer, began)
            return
        rule = (settings.temperature, settings.top_k, settings.top_p, settings.n_beam)
        writer = Writer(model, tokenizer, settings.max_new_tokens, *rule)
        if settings.prompt == "-":
            loop(writer, settings.seed)
        else:
            writer.print(settings.prompt, settings.seed)


def make_study(settings: PromptSettings) -> Study:
    """Return what is asked: the three tasks of the embedded world, or the texts of the user's files."""
    seed, n = settings.seed, settings.n_test
    if settings.data:
        return file_study(settings)
    draws = {
        task: lambda k, number, task=task: questions(task, k, n, seed, start=number * n) for task in TASKS
    }
    return Study(draws, NAMES, FORMAT, CHANCE, "chance", settings.n_draw, settings.score)


def file_study(settings: PromptSettings) -> Study:
    """Return the study of --data and --test: the same texts are asked in every draw, after other examples.

    Raises:
        UserError: for what `tables.read_table` finds wrong, too few rows, and a label that only the texts to
            be asked have.
    """
    data, test = settings.data, settings.test
    examples, rng = read_table(data, ("text", "label"))[0], random.Random("texts to ask")
    if test is None:
        n_held = len(examples) // HELD_BACK
        if not n_held:
            raise UserError(f"{data}: {len(examples)} rows, too few to hold some back: give --test FILE")
        rng.shuffle(examples)  # a file may be sorted by its labels
        examples, asked = hold_out(examples, n_held)
    else:
        asked = read_table(test, ("text", "label"))[0]
    given = [label for _, label in examples]
    labels = sorted(set(given))
    for number, (_, label) in enumerate(asked, start=1):
        if label not in labels:
            raise UserError(
                f"{test or data}, row {number} of the texts to ask: the label {label!r} is in no "
                f"example of {data} ({', '.join(labels[:9])}): add examples of it or take the row out"
            )
    asked = rng.sample(asked, settings.n_test) if settings.n_test < len(asked) else asked
    if max(settings.shots or (0,)) > len(examples):
        raise UserError(f"--shots {max(settings.shots)}: {data} has {len(examples)} examples")
    words = named(labels, settings.label_words)
    prompt_format = PromptFormat(words, settings.template, settings.separator.replace("\\n", "\n"))
    commonest = max(labels, key=given.count)
    share = sum(label == commonest for _, label in asked) / len(asked)
    draws = {"files": lambda k, number: draw_questions(examples, asked, k, settings.seed + number)}
    how = (settings.n_draw, settings.score)
    return Study(draws, {"files": data}, prompt_format, share, "commonest label", *how)


def named(labels: Sequence[str], words: Sequence[str]) -> dict[str, str]:
    """Return what each label is called: by `words`, "label=word" each, or by its own name."""
    names = dict(zip(labels, labels, strict=True))
    for given in words:
        label, sign, word = given.partition("=")
        if not sign or label not in names:
            expected = f"expected LABEL=WORD with a label of {', '.join(labels[:9])}"
            raise UserError(f"--label-words {given}: {expected}")
        names[label] = word
    return names


def report(settings: PromptSettings, study: Study, model, tokenizer, began: float) -> None:
    """Ask everything; print the tables, examples and checksums, and write the run folder."""
    folder, before, shots = Path(settings.model), checksum(model), settings.shots
    if shots is None:
        shots = study.shots_that_fit(model, tokenizer, SHOTS) or SHOTS[:1]
    found = study.measure(model, tokenizer, shots)
    out = begin("prompt", settings)
    if lines := curve(read_log(folder) if not settings.data and (folder / LOG).exists() else []):
        print("", f"Right after {PROBE_SHOTS} examples, while {folder} was trained:", "", *lines, sep="\n")
    lines = study.examples(model, tokenizer, min(max(shots), 4))
    if len(shots) < len(SHOTS) and settings.shots is None:
        lines.insert(0, f"More examples do not fit into the {model.config.max_positions} positions.\n")
    after = checksum(model)
    if after != before:
        raise RuntimeError(f"the weights of {folder} moved: {before} before, {after} after")
    lines += ["", f"Weights of {folder} before: {before}, after: {after}. No weight changed."]
    seconds, then = time.perf_counter() - began, 'python prompt.py --prompt "Yesterday, Ana"'
    finish(out, settings, [study.table(found)], lines, figures(found), seconds, then)


def figures(found: Found) -> dict:
    """Return what results.json says: of most examples, but for `accuracy`, which has each number of them."""
    keys = {
        ("nonce_keys", "gold"): "lookup_accuracy",
        ("story_items", "gold"): "story_item_accuracy",
        ("new_pairings", "shuffled"): "shuffled_accuracy",
        ("files", "shuffled"): "shuffled_accuracy",
    }
    first = next(iter(found.values()))
    results = dict(accuracy={str(k): interval.mean for k, interval in first.items()})
    return results | {keys[row]: by[max(by)].mean for row, by in found.items() if row in keys and by}
