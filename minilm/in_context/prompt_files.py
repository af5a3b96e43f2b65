"""A user's labelled texts as questions: examples from one file, the texts to be asked from another."""

import random
from collections.abc import Sequence

from ..plumbing.errors import UserError
from ..texts.corpus import hold_out
from ..texts.tables import read_table
from .prompts import PromptFormat, Question, draw_questions

HELD_BACK = 5  # without a test file, one part in so many of the examples is asked


class FileQuestions:
    """The questions of two files of (text, label).

    Raises:
        UserError: for what `tables.read_table` finds wrong, a label that only the test file has, and words
            of labels that there are not.
    """

    def __init__(
        self, data: str, test: str | None, n_test: int, words: Sequence[str], template: str, separator: str
    ):
        self.data, rows = data, read_table(data, ("text", "label"))[0]
        draw = random.Random("texts to ask")  # the same in every run: a draw draws examples
        if test is None:
            n_held = len(rows) // HELD_BACK
            if not n_held:
                raise UserError(f"{data}: {len(rows)} rows, too few to hold some back: give --test FILE")
            draw.shuffle(rows)  # a file may be sorted by its labels
            rows, tests = hold_out(rows, n_held)
        else:
            tests = read_table(test, ("text", "label"))[0]
        self.examples = rows
        labels = sorted({label for _, label in rows})
        for number, (_, label) in enumerate(tests, start=1):
            if label not in labels:
                raise UserError(
                    f"{test or data}, row {number} of the texts to ask: the label {label!r} is in no "
                    f"example of {data} ({', '.join(labels[:9])}): add examples of it or take the row out"
                )
        self.tests = draw.sample(tests, n_test) if n_test < len(tests) else tests
        self.format = PromptFormat(named(labels, words), template, separator.replace("\\n", "\n"))

    def questions(self, k: int, seed: int) -> list[Question]:
        """Return all texts to ask as questions after the same k examples, which the seed draws."""
        if k > len(self.examples):
            raise UserError(f"--shots {k}: {self.data} has {len(self.examples)} examples")
        return draw_questions(self.examples, self.tests, k, seed)

    def majority(self) -> float:
        """Return the accuracy of always giving the commonest label of the examples."""
        given = [label for _, label in self.examples]
        commonest = max(sorted(set(given)), key=given.count)
        asked = [label for _, label in self.tests]
        return asked.count(commonest) / len(asked)


def named(labels: Sequence[str], words: Sequence[str]) -> dict[str, str]:
    """Return what each label is called: by `words`, "label=word" each, or by its own name."""
    names = dict(zip(labels, labels, strict=True))
    for given in words:
        label, sign, word = given.partition("=")
        if not sign or label not in names:
            raise UserError(
                f"--label-words {given}: expected LABEL=WORD with a label of {', '.join(labels[:9])}"
            )
        names[label] = word
    return names
