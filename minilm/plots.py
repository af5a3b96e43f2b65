"""Pictures of runs, only where matplotlib is installed: the losses of their logs over the steps.

    python -m minilm.plots runs/masked runs/masked-2        -> loss.png in the first folder

Nothing else of the project needs this file.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .plumbing.errors import UserError
from .plumbing.folders import read_log
from .plumbing.terminal import exit_code


def curves(folder: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return (steps, losses) of each split in the log of a run; UserError where it has none."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for record in read_log(folder):
        if "loss" in record:
            steps, losses = found.setdefault(record.get("split", "train"), ([], []))
            steps.append(record["step"])
            losses.append(record["loss"])
    if not found:
        raise UserError(f"{folder}: no losses in its log.jsonl, or no run folder")
    return found


def draw(folders: Sequence[str | Path], path: str | Path) -> None:
    """Draw the losses of the runs into a PNG file, validation as points; UserError without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("a picture needs matplotlib: python -m pip install -e '.[plots]'")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, folder in enumerate(folders):
        for split, (steps, losses) in curves(folder).items():
            style = "o" if split == "validation" else "-"
            axes.plot(steps, losses, style, color=f"C{i}", label=f"{folder}, {split}")
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.legend()
    beside = Path(f"{path}.{os.getpid()}.tmp")
    figure.savefig(beside, format="png", dpi=120)
    os.replace(beside, path)


def main() -> None:
    """Draw the runs that the command line names."""
    if not sys.argv[1:]:
        raise UserError("name one or several run folders: python -m minilm.plots runs/masked")
    path = Path(sys.argv[1]) / "loss.png"
    draw(sys.argv[1:], path)
    print(f"Saved in {path}.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
