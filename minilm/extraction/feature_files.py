"""What feature extraction reads and writes: texts with or without labels in, an .npz of vectors out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import world
from ..plumbing.errors import UserError
from ..plumbing.folders import atomic_write
from ..texts.files import kind, read_documents, read_jsonl, string_field, text_files
from ..texts.tables import SUFFIXES, read_table

FEATURES = "features.npz"
WORLD_TRAIN, WORLD_TEST = 384, 600  # stories: 64 a place to draw labels from, 100 a place to test on
WORLD_SEEDS = (2_000_003, 2_000_023, 2_000_033)  # added to the seed: other stories than those of pre-training


@dataclass
class Examples:
    """Texts and, where they are known, their labels; `source` says where they come from."""

    source: str
    texts: list[str]
    labels: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, rows) -> "Examples":
        """Return the examples with these numbers, in this order."""
        labels = None if self.labels is None else [self.labels[i] for i in rows]
        return Examples(self.source, [self.texts[i] for i in rows], labels)


def world_examples(seed: int) -> tuple[Examples, Examples, Examples]:
    """Return stories without their place word, and their place: to learn from, to test on, and a harder test.

    In the harder one every thing and verb is a word that stands in no labelled text.
    """
    sizes = ((WORLD_TRAIN, False), (WORLD_TEST, False), (WORLD_TEST, True))
    parts = []
    for (n, held_out), far in zip(sizes, WORLD_SEEDS, strict=True):
        texts, labels = zip(*world.labelled(n, seed + far, held_out=held_out), strict=True)
        parts.append(Examples("world", list(texts), list(labels)))
    return tuple(parts)


def read_examples(path: str) -> Examples:
    """Return the texts of a file or folder: labelled from a table, else without labels.

    `.tsv` and `.csv` hold text and label; `.jsonl` an object a line with `text` and perhaps `label`; `.txt`
    and folders are documents (`minilm/texts/files.py`).

    Raises:
        UserError: for an empty text, and for a label that some lines have and others lack; it names the line.
    """
    file = Path(path)
    if not file.is_dir() and kind(file) in SUFFIXES:
        if kind(file) != ".jsonl" or any("label" in record for _, record in read_jsonl(file)):
            rows, _ = read_table(file, ("text", "label"))
            texts, labels = map(list, zip(*rows, strict=True))
            return Examples(path, texts, labels)
        return Examples(path, jsonl_texts(file))
    texts = [text for each in text_files(file) for text in read_documents(each)]
    if not texts:
        raise UserError(f"{path}: no text in it")
    return Examples(path, texts)


def jsonl_texts(path: Path) -> list[str]:
    """Return the field `text` of each line; UserError names the line of an empty one."""
    texts = []
    for where, record in read_jsonl(path):
        text = string_field(record, "text", where)
        if not text.strip():
            raise UserError(f"{where}: an empty text, there is nothing to read a vector from")
        texts.append(text)
    if not texts:
        raise UserError(f"{path}: no text in it")
    return texts


def split_examples(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Return (train, test): a quarter of each class, at least one example, is for testing.

    Raises:
        UserError: for a class with a single example.
    """
    labels = np.array(examples.labels)
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in sorted(set(examples.labels)):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            raise UserError(
                f"{examples.source}: the label {label!r} has one example; it takes two, one to learn "
                "from and one to test on (or give --test FILE)"
            )
        n_test = max(1, len(rows) // 4)
        test += rows[:n_test].tolist()
        train += rows[n_test:].tolist()
    return examples.part(sorted(train)), examples.part(sorted(test))


def classes_of(train: Examples, *tests: Examples) -> tuple[list[str], list[np.ndarray]]:
    """Return the labels, sorted, and for each set of examples the classes (n,): the numbers of their labels.

    Raises:
        UserError: where there are no labels, a single one, or in a test one that `train` does not have.
    """
    for examples in (train, *tests):
        if examples.labels is None:
            raise UserError(
                f"--probe: {examples.source} has no labels; give a .tsv or .csv of text and label, a .jsonl "
                "with both, or --no-probe"
            )
    names = sorted(set(train.labels))
    if len(names) < 2:
        raise UserError(f"--probe: {train.source} has the single label {names[0]!r}; it takes two or more")
    number = {name: i for i, name in enumerate(names)}
    for test in tests:
        unknown = next((label for label in test.labels if label not in number), None)
        if unknown is not None:
            raise UserError(f"{test.source}: the label {unknown!r} is in no example of {train.source}")
    return names, [np.array([number[label] for label in part.labels]) for part in (train, *tests)]


def read_parts(data: str, test: str | None, probe: bool | None, seed: int) -> dict[str, Examples]:
    """Return the examples by the name of their part: `train`, and where a probe is to be tested `test`.

    `probe` none: where there are labels. The world also has `unseen`, see `world_examples`.
    """
    if data == "world" and test is None:
        return dict(zip(("train", "test", "unseen"), world_examples(seed), strict=True))
    examples = world_examples(seed)[0] if data == "world" else read_examples(data)
    if test is not None:
        parts = dict(train=examples, test=read_examples(test))
    elif probe is False or examples.labels is None:
        parts = dict(train=examples)
    else:
        classes_of(examples)  # a single label is said before a split is tried
        parts = dict(zip(("train", "test"), split_examples(examples, seed), strict=True))
    if probe or (probe is None and len(parts) > 1):
        classes_of(*parts.values())
    return parts


def save_texts(path: Path, embeddings: np.ndarray, parts: dict[str, Examples]) -> None:
    """Save the vectors of all texts, part after part, with `texts`, `labels` and `split` (the part)."""
    examples = list(parts.values())
    labelled = all(part.labels is not None for part in examples)
    save_features(
        path,
        embeddings,
        texts=[text for part in examples for text in part.texts],
        labels=[label for part in examples for label in part.labels] if labelled else None,
        split=[name for name, part in parts.items() for _ in part.texts],
    )


def save_features(path: Path, embeddings: np.ndarray, **columns) -> None:
    """Write an .npz that is whole or absent: float32 `embeddings`, and columns of texts or numbers.

    `numpy.load(path)` reads it without pickle. A column that is none is left out.
    """
    arrays = {name: np.array(column) for name, column in columns.items() if column is not None}
    content = dict(embeddings=embeddings.astype(np.float32, copy=False)) | arrays
    atomic_write(path, lambda file: np.savez(file, **content))
