"""Exercises: a function is emptied, you write it again, its tests say in one sentence what is wrong.

python -m minilm.exercises list | start NAME | hint NAME | check NAME | solution NAME | restore NAME|--all
"""

from dataclasses import dataclass


@dataclass
class Exercise:
    """One function to write: `function` is FILE:NAME or FILE:CLASS.NAME, FILE below minilm/."""

    level: int  # 1 a line or two, 2 an idea, 3 several ideas
    function: str
    tests: str  # pytest's -k for the tests of that file, tests/ROOM/test_FILE*.py; they take seconds
    hints: tuple[str, ...]  # steps in words, the last nearly the code


# In the order of the lecture; the room of the file says the regime.
# fmt: off
EXERCISES = {
    "causal-mask": Exercise(1, "model/attention.py:causal_mask", "causal_mask_is", (
        "Of S positions the queries are the last T: which positions are they?",
        "Compare each query's position (T, 1) with each key's position (S,): the result is (T, S).")),
}
# fmt: on
