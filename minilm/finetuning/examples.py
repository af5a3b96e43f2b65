"""Where the examples of a task come from: the embedded world, or the user's files."""

from pathlib import Path

from ..plumbing.errors import UserError
from ..texts.corpus import VALIDATION_SEED, VALIDATION_SHARE, hold_out
from .registry import TASKS
from .settings import WITH_CLASSES, WORLD, FinetuningSettings
from .tasks import Examples, Task

WORLD_VALIDATION, WORLD_TEST = 200, 600  # examples
TEST_SEED = 4_000_037  # of the test examples of the world: no recipe was chosen by them


def load_examples(settings: FinetuningSettings) -> Examples:
    """Return the examples that the settings name; `n_examples` limits those to learn from.

    Of the world: the things and verbs of the test examples are held out, no label has ever touched them. Of
    files: what is watched is a tenth of them, drawn by the seed, where --validation names no other.
    """
    task = TASKS[settings.task]
    if settings.data is None:
        for name in ("test", "validation"):
            if getattr(settings, name):
                raise UserError(f"--{name} {getattr(settings, name)}: needs --data, examples to learn from")
        return world_examples(task, settings.n_examples or WORLD[task.name]["n_examples"], settings.seed)
    return file_examples(task, settings)


def world_examples(task: type[Task], n: int, seed: int) -> Examples:
    """Return n training examples of the seed; test examples of held-out words, the same for all seeds."""
    return Examples(
        task.world(n, seed, held_out=False),
        task.world(WORLD_VALIDATION, seed + VALIDATION_SEED, held_out=False),
        task.world(WORLD_TEST, TEST_SEED, held_out=True),
    )


def file_examples(task: type[Task], settings: FinetuningSettings) -> Examples:
    """Return the examples of the files, drawn and cut as the settings say."""
    parts, skipped = {}, 0
    files = dict(train=settings.data, validation=settings.validation, test=settings.test)
    for name, paths in files.items():
        paths = [paths] if isinstance(paths, str) else paths or ()
        read = [read_file(task, path, settings.skip_bad) for path in paths]
        parts[name] = [example for examples, _ in read for example in examples]
        skipped += sum(n for _, n in read)
    train, validation = parts["train"], parts["validation"]
    if not validation:
        if len(train) < 2:
            needs = "needs at least two, one to learn from, one to watch"
            raise UserError(f"{settings.data[0]}: {len(train)} example; {needs}")
        train, validation = hold_out(
            train, max(1, len(train) // VALIDATION_SHARE), f"watched {settings.seed}"
        )
    if settings.n_examples is not None and settings.n_examples < len(train):
        train = task.draw(train, settings.n_examples, settings.seed)
    notes = looks_like_header(task, parts["train"], settings.data[0])
    notes += [f"left out {skipped:,} examples (--skip-bad)"] if skipped else []
    name = " and ".join(settings.data)
    found = Examples(train, validation, parts["test"] or validation, name, tuple(notes))
    try:
        known = task.learn(train)
    except UserError as error:
        raise UserError(f"{found.name}: {error}") from None
    watched = settings.validation or f"{found.name}, the part that is watched (--validation FILE for another)"
    task.check(known, validation, watched)
    task.check(known, found.test, settings.test or watched)
    return found


def looks_like_header(task: type[Task], examples: list[tuple], path: str) -> list[str]:
    """Return a note where the first example has a label of its own, as "sentiment" above "good" and "bad"."""
    labels = [example[-1] for example in examples]
    if task.name not in WITH_CLASSES or labels.count(labels[0]) > 1 or len(set(labels)) == len(labels):
        return []
    way_out = f"if that line is a header, name its columns {' and '.join(task.fields)}"
    return [f"{path}: nothing but its first example is labelled {labels[0]!r}; {way_out}"]


def read_file(
    task: type[Task], path: str, skip_bad: bool = False, truth: bool = True
) -> tuple[list[tuple], int]:
    """Return what `task.read` does; an error also says what files of the task hold."""
    try:
        return task.read(Path(path), skip_bad, truth)
    except UserError as error:
        raise UserError(f"{error} (--task {task.name} reads {task.columns})") from None
