"""Pictures of runs, only where matplotlib is installed: the losses of their logs over the steps.

python -m minilm.plots runs/masked runs/masked-2        -> loss.png in the first folder
"""

import importlib.util
import sys
from pathlib import Path

from .plumbing.errors import UserError
from .plumbing.folders import atomic_write, read_log
from .plumbing.script import exit_code


def curves(folder: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return (steps, losses) of each split in the log of a run; UserError where it has none."""
    found = {}
    for record in read_log(folder):
        steps, losses = found.setdefault(record["split"], ([], []))
        steps.append(record["step"])
        losses.append(record["loss"])
    if not found:
        raise UserError(f"{folder}: no losses in its log.jsonl, or no run folder")
    return found


def main() -> None:
    """Draw the losses of the runs that the command line names, those of the validation part as points."""
    if not sys.argv[1:]:
        raise UserError("name one or several run folders: python -m minilm.plots runs/masked")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("a picture needs matplotlib: python -m pip install -e '.[plots]'")
    from matplotlib.figure import Figure

    figure, path = Figure(figsize=(7, 4), layout="constrained"), Path(sys.argv[1]) / "loss.png"
    axes = figure.subplots()
    for i, folder in enumerate(sys.argv[1:]):
        for split, (steps, losses) in curves(folder).items():
            style = "o" if split == "validation" else "-"
            axes.plot(steps, losses, style, color=f"C{i}", label=f"{folder}, {split}")
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.legend()
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=120))
    print(f"Saved in {path}.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
