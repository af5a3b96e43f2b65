"""A study of in-context learning: accuracy against the number of examples, and its controls, as a table."""

from collections.abc import Callable
from dataclasses import dataclass

from . import questions as in_context
from .prompt_files import FileQuestions
from .prompts import CONTROLS, Interval, PromptFormat, Question, accuracy_by_shots, answers, prompt_length

Draw = Callable[[int, int], list[Question]]  # (k examples, number of the draw) -> questions
Found = dict[tuple[str, str], dict[int, Interval]]  # (task, control) -> shots -> accuracy


@dataclass(frozen=True)
class Study:
    """What is asked, and how its answers are scored. The controls are those of the first task."""

    draws: dict[str, Draw]  # by task
    names: dict[str, str]  # of the tasks, in the table
    prompt_format: PromptFormat
    chance: float  # accuracy of what the table compares with ...
    against: str  # ... and what that is
    n_draw: int
    score: str

    def measure(self, model, tokenizer, shots) -> Found:
        """Ask all the questions."""
        first = next(iter(self.draws))
        rows = [(first, control) for control in CONTROLS]
        rows += [(task, "gold") for task in self.draws if task != first]
        how = (self.n_draw, self.score)
        return {
            (task, control): accuracy_by_shots(
                model, tokenizer, self.prompt_format, self.draws[task], shots, control, *how
            )
            for task, control in rows
        }

    def shots_that_fit(self, model, tokenizer, shots) -> tuple[int, ...]:
        """Return the numbers of examples with which every prompt fits into the model's positions."""
        limit = model.config.max_positions

        def fits(k: int) -> bool:
            asked = (q for seed in range(self.n_draw) for q in self.draws[next(iter(self.draws))](k, seed))
            return all(prompt_length(tokenizer, model.config, self.prompt_format, q) <= limit for q in asked)

        return tuple(k for k in shots if fits(k))

    def table(self, found: Found) -> tuple[list[tuple], tuple[str, ...]]:
        """Return the rows and the header: a column for each number of examples."""
        shots = list(next(iter(found.values())))
        rows = []
        for (task, control), by_shots in found.items():
            if not by_shots:  # a control without examples
                continue
            name = self.names[task] if control == "gold" else f"    the same, {control} labels"
            cells = [str(by_shots[k]) if k in by_shots else "-" for k in shots]
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


def world_study(seed: int, n_draw: int, n_test: int, score: str) -> Study:
    """Return the study of the embedded world: the three tasks of `in_context.py`."""

    def draw_of(task: str) -> Draw:
        return lambda k, draw: in_context.questions(task, k, n_test, seed, start=draw * n_test)

    draws = {task: draw_of(task) for task in in_context.TASKS}
    return Study(draws, in_context.NAMES, in_context.FORMAT, in_context.CHANCE, "chance", n_draw, score)


def file_study(files: FileQuestions, seed: int, n_draw: int, score: str) -> Study:
    """Return the study of a user's labelled files."""
    draws = {"files": lambda k, draw: files.questions(k, seed + draw)}
    names = {"files": files.data}
    return Study(draws, names, files.format, files.majority(), "commonest label", n_draw, score)


def figures(found: Found) -> dict:
    """Return what results.json says: of most examples, but for `accuracy`, which has each number of them."""
    of = {f"{task}, {control}": by_shots for (task, control), by_shots in found.items()}
    keys = {
        "nonce_keys, gold": "lookup_accuracy",
        "story_items, gold": "story_item_accuracy",
        "new_pairings, shuffled": "shuffled_accuracy",
        "files, shuffled": "shuffled_accuracy",
    }
    first = next(iter(found.values()))
    results = dict(accuracy={str(k): interval.mean for k, interval in first.items()})
    return results | {keys[name]: of[name][max(of[name])].mean for name in of if name in keys and of[name]}
