"""What the default of regime 6 asks: labels that the model can only have read in the prompt.

Three kinds of question on the documents of `world.few_shot`, each asked after k examples:

    new_pairings    which label has this thing's place? place and label never met in training
    nonce_keys      which label had this key before? the key is no word and never had a label of its own
    story_items     as new_pairings, for a thing that training shows in stories alone
"""

from collections.abc import Sequence

from ..world import LABEL_WORDS, N_PAIRS, few_shot_pairs
from .prompts import PromptFormat, Question

TASKS = {
    "new_pairings": dict(kind="category", items="known"),
    "nonce_keys": dict(kind="lookup", items="nonce"),
    "story_items": dict(kind="category", items="stories"),
}
NAMES = {
    "new_pairings": "category, pairing never seen in training",
    "nonce_keys": "lookup, key that is no word",
    "story_items": "category, thing known from stories only",
}
CHANCE = 1 / len(LABEL_WORDS)
FORMAT = PromptFormat({label: label for label in LABEL_WORDS}, template=" {text} {label}", separator="")
PROBE_SHOTS = N_PAIRS - 1
TEST_SEED = 2_000_003  # added to the seed, so that no question is a training document


def questions(task: str, k: int, n: int, seed: int, start: int = 0) -> list[Question]:
    """Return the questions number start .. start + n - 1 of a task, each after k examples of its own."""
    documents = (
        few_shot_pairs(seed + TEST_SEED, index, split="test", n_pairs=k + 1, **TASKS[task])
        for index in range(start, start + n)
    )
    return [Question(tuple(pairs[:-1]), *pairs[-1]) for pairs in documents]


def curve(log: Sequence[dict], width: int = 20) -> list[str]:
    """Return lines that draw the accuracies of all tasks over the training steps, from a run's log.

    A run without such accuracies has no lines.
    """
    lines = []
    for line in log:
        if line["split"] == "validation" and all(task in line for task in TASKS):
            bars = (f"{line[task]:.2f} {'#' * round(width * line[task]):{width}}" for task in TASKS)
            lines.append("  ".join([f"{line['step']:5d}", *bars]).rstrip())
    head = "  ".join([" step", *(f"{task.replace('_', ' '):{width + 5}}" for task in TASKS)]).rstrip()
    return [head, *lines] if lines else []
