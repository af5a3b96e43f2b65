"""A study of in-context learning: accuracy against the number of examples, and its controls."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, mode, stdev

import numpy as np
import torch

from ..extraction.probe import bag_of_words, probe_accuracy, standardised
from .prompts import CONTROLS, PromptFormat, Question, relabelled
from .scores import accuracy, answers, positions_needed

T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's t, 1 to 9 degrees of freedom
BASELINE = "a bag of words on the same examples"
CHOICE = "the most common label of its examples"  # where each text has examples of its own
Found = dict[tuple[str, str], dict[int, tuple]]  # (task, control) -> number of examples -> `interval`


def baseline_accuracy(questions: Sequence[Question], labels: Sequence[str]) -> float:
    """Return the accuracy of a bag-of-words classifier that is fitted on the examples.

    If each text has examples of its own, it guesses their commonest label: what their choice alone is worth.
    """
    if len({q.examples for q in questions}) > 1:
        given = [mode(label for _, label in reversed(q.examples)) for q in questions]  # a tie: the nearest
        return mean(answer == q.label for answer, q in zip(given, questions, strict=True))
    texts, given = zip(*questions[0].examples, strict=True)
    bags = standardised(*bag_of_words(texts, [q.text for q in questions]))
    classes = [np.array([labels.index(y) for y in part]) for part in (given, [q.label for q in questions])]
    return probe_accuracy(bags[0], classes[0], bags[1], classes[1])


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of independent draws, and the half width of its 95 % interval (Student's t) or None."""
    if len(set(values)) == 1:
        return values[0], None  # one draw, or equal results, say nothing about the spread
    degrees = len(values) - 1  # above 9, three terms of a series in 1 / degrees are right to 0.01
    t = T_975[degrees - 1] if degrees <= len(T_975) else 1.96 + 2.37 / degrees + 2.82 / degrees**2
    return mean(values), t * stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Study:
    """The questions of a study, and how answers are scored. Only the first task has controls."""

    draws: dict[str, Callable[[int, int], list[Question]]]  # by task: (k, number of the draw) -> questions
    names: dict[str, str]  # of the tasks, in the table
    prompt_format: PromptFormat
    chance: float  # accuracy to compare with ...
    against: str  # ... and its name in the table
    n_draw: int
    score: str
    baseline: str | None = None  # name of the first task's row for `baseline_accuracy`

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The (task, control) of each row."""
        first, *others = self.draws
        controls = (*CONTROLS, self.baseline) if self.baseline else CONTROLS
        return [(first, control) for control in controls] + [(task, "gold") for task in others]

    def asked(self, task: str, control: str, k: int) -> list[list[Question]]:
        """Return the questions of every draw, each after k examples."""
        labels, draw = [*self.prompt_format.words], self.draws[task]
        return [relabelled(draw(k, number), control, labels, number) for number in range(self.n_draw)]

    def measure(self, model, tokenizer, shots) -> Found:
        """Return the accuracies of all rows. Controls change the labels of examples: their k is above 0."""
        ask, found = partial(accuracy, model, tokenizer, self.prompt_format, score=self.score), {}
        guess = partial(baseline_accuracy, labels=[*self.prompt_format.words])
        for row in self.rows:
            score, ks = guess if row[1] == self.baseline else ask, [k for k in shots if k or row[1] == "gold"]
            found[row] = {k: interval([*map(score, self.asked(*row, k))]) for k in ks}
        return {row: by_shots for row, by_shots in found.items() if by_shots}

    def shots_that_fit(self, model, tokenizer, shots) -> tuple[int, ...]:
        """Return those of `shots` with which every prompt fits into the model's positions."""
        fitting = []
        for k in shots:
            questions = [q for row in self.rows for draw in self.asked(*row, k) for q in draw]
            enough = all(len(q.examples) == k for q in questions)  # no: --data has no more
            n = positions_needed(tokenizer, model.config, self.prompt_format, questions, self.score)
            fitting += [k] if enough and n <= model.config.max_positions else []
        return tuple(fitting)

    def table(self, found: Found) -> tuple[list[tuple], tuple[str, ...]]:
        """Return the table's rows and header, with a column for each number of examples."""
        shots, rows = list(next(iter(found.values()))), []
        told = lambda mean, half: f"{mean:.3f}" if half is None else f"{mean:.3f} ±{min(half, 1):.3f}"
        for (task, control), by_shots in found.items():
            name = self.names[task] if control == "gold" else f"    the same, {control} labels"
            name = f"    {control}" if control == self.baseline else name
            cells = [told(*by_shots[k]) if k in by_shots else "-" for k in shots]
            rows.append((name, *cells, f"{self.chance:.3f}"))
        return rows, ("examples in the prompt:", *map(str, shots), self.against)

    def examples(self, model, tokenizer, k: int) -> list[str]:
        """Return lines that show a prompt of each task, the model's answer and the right one."""
        lines = []
        for task, draw in self.draws.items():
            for question in draw(k, 0)[: 3 // len(self.draws)]:
                (answer,) = answers(model, tokenizer, self.prompt_format, [question], self.score)
                lines += [f"{self.names[task]}:", *self.prompt_format.prompt(question).strip().splitlines()]
                lines[-1] += f"  ->  {answer}   ({'right' if answer == question.label else question.label})"
        return lines


def checksum(model) -> str:
    """Return 16 hexadecimal digits that change with any bit of any weight (SHA-256)."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
