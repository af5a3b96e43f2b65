"""Regime 6: examples and a text become a prompt; controls change the labels of the examples.

Source: Brown et al. 2020, "Language Models are Few-Shot Learners", section 2. No weight moves: what the model
knows about the task is in its prompt (`scores.py` shows how it answers).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from ..plumbing.errors import UserError

CONTROLS = ("gold", "shuffled", "random")


@dataclass(frozen=True)
class Question:
    """A text that needs a label, and the examples before it in the prompt."""

    examples: tuple[tuple[str, str], ...]  # (text, label)
    text: str
    label: str  # the right one


@dataclass(frozen=True)
class PromptFormat:
    """How examples and a text become a prompt; UserError for a bad template or bad label words."""

    words: dict[str, str]  # label -> its word in the prompt, in the order of the scores
    template: str = "{text} : {label}"
    separator: str = "\n"  # between examples

    def __post_init__(self):
        *before, last = re.findall(r"{[^{}\s]+}", self.template) or [""]
        if {*before} != {"{text}"} or last != "{label}":
            raise UserError(f"--template {self.template!r}: needs {{text}}, then {{label}}, and no other")
        if len(self.words) < 2:
            raise UserError(f"only one label ({', '.join(self.words)}): give examples of two or more")
        for label, word in self.words.items():
            same = [other for other in self.words if self.words[other] == word and other != label]
            if same or not word.strip():
                what = f"is also that of {same[0]}" if word.strip() else "is empty"
                raise UserError(f"the word {word!r} of the label {label} {what}: each label needs its own")

    def prompt(self, question: Question) -> str:
        """Return the examples and the text, up to the place of the missing label."""
        before, _, after = self.template.partition("{label}")
        shown = [before.replace("{text}", text) + self.words[y] + after for text, y in question.examples]
        # The last space before the label belongs to the label: for a byte-level BPE " good" is one token.
        return self.separator.join([*shown, before.removesuffix(" ").replace("{text}", question.text)])

    def continuations(self) -> list[str]:
        """Return the text of each label as it would follow the prompt."""
        space = " " if self.template.partition("{label}")[0].endswith(" ") else ""
        return [space + word for word in self.words.values()]

    def ending(self) -> str:
        """Return the text between a label and the text of the next example."""
        before, _, after = self.template.partition("{label}")
        return after + self.separator + before.partition("{text}")[0]


def draw_questions(examples, tests, k: int, seed: int) -> list[Question]:
    """Return a question for each (text, label) of `tests`, all with the same k examples, drawn by seed."""
    order = random.Random(f"examples {seed}").sample(examples, len(examples))
    chosen = tuple(order[:k])  # the k + 1 examples of this seed begin with them
    return [Question(chosen, text, label) for text, label in tests]


def relabelled(questions: Sequence[Question], control: str, labels: Sequence[str], seed: int) -> list:
    """Return the questions with the labels of their examples changed (Min et al. 2022, section 4).

    `gold`: unchanged. `shuffled`: over all prompts, so that labels stay as frequent but say nothing; in one
    prompt, or if all share one set (--data), many would stay right: about half of two labels, always a single
    one. `random`: drawn from `labels`. Questions that share examples still do: a model reads these once.
    """
    apart = questions if len({q.examples for q in questions}) > 1 else questions[:1]
    given = [label for question in apart for _, label in question.examples]
    rng = random.Random(f"{control} labels {seed}")
    if control == "shuffled":
        rng.shuffle(given)
    if control == "random":
        given = rng.choices(list(labels), k=len(given))
    new = cycle(given)
    return [replace(q, examples=tuple((text, next(new)) for text, _ in q.examples)) for q in questions]
