"""Plots of runs, if matplotlib is installed; with the flag `--plot` a script draws its own run at the end.

    python -m minilm.plots runs/masked runs/masked-2      each metric of the logs, its baselines, the rate
    python -m minilm.plots runs/masked --panels loss lr --out picture.png     some of these panels
    python -m minilm.plots runs/masked --attention "Ana fed a duck." "A longer text pads the first one."
    python -m minilm.plots runs/masked --embeddings reviews.tsv --positions   of texts, and of positions

Also confusions, layer x pooling, accuracy against shots, reward against KL, if the folder holds them.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .extraction.features import checked_rows, embed
from .extraction.run import read_examples
from .plumbing.errors import UserError
from .plumbing.folders import CONFUSION, RESULTS, atomic_write, read_json, read_log
from .plumbing.script import exit_code, process_rank
from .plumbing.settings import need_matplotlib
from .pretraining.run import load_reader

BASELINES = {  # figures of results.json that a metric is compared with
    "loss": ("unigram_loss", "scratch_domain_loss"),
    "bits_per_byte": ("floor_bits_per_byte", "ngram_3_bits_per_byte", "general_bits_after"),
    "masked_accuracy": ("masked_accuracy_baseline", "teacher_accuracy"),
    "next_sentence_accuracy": ("shared_word_accuracy",),
}


def run_panels(folders: list[Path]) -> dict[str, partial]:
    """Return the panels that can be drawn: curves of all runs, tables of the first run."""
    if absent := [str(one) for one in folders if not one.is_dir()]:
        raise UserError(f"{' '.join(absent)}: no such folder")
    runs = [(one.name, read_log(one), read_json(one / RESULTS, optional=True)) for one in folders]
    metrics = dict.fromkeys(name for _, log, _ in runs for line in log for name in line)
    unseen, first = ("step", "split", "tokens_per_second"), runs[0][2]
    panels = {name: partial(draw_metric, name, runs) for name in metrics if name not in unseen}
    if all("reward_after" in found for *_, found in runs):
        panels["reward against KL"] = partial(draw_rewards, runs)
    if "rows" in first:
        panels["accuracy against shots"] = partial(draw_shots, first)
    if "layers" in first:
        values = np.array([*first["layers"].values()]).T  # (n_layer + 1, n_pooling)
        panels["layer x pooling"] = partial(draw_grid, values, range(len(values)), first["layers"])
    if (path := folders[0] / CONFUSION).exists():
        cells = np.loadtxt(path, str, comments=None, delimiter="\t", quotechar='"', encoding="utf-8")
        panels["true, taken for"] = partial(draw_grid, cells[1:, 1:].astype(int), cells[0, 1:], cells[0, 1:])
    return panels


def draw_metric(name: str, runs: list[tuple], axes) -> None:
    """Draw a metric against the step, with points for the validation set, and its baselines."""
    for i, (run, log, found) in enumerate(runs):
        for split, style in (("train", "-"), ("validation", "o")):
            points = [(one["step"], one[name]) for one in log if one["split"] == split and name in one]
            if points:
                axes.plot(*np.array(points).T, style, color=f"C{i}", ms=3, label=f"{run}, {split}")
        for key, style in zip(BASELINES.get(name, ()), ("--", ":", "-."), strict=False):
            if key in found:
                axes.axhline(found[key], color=f"C{i}", ls=style, label=f"{run}, {key.replace('_', ' ')}")
    axes.set(xlabel="step")


def draw_rewards(runs: list[tuple], axes) -> None:
    """Draw each policy's reward against KL, from start to end, and the end points of other methods."""
    for i, (run, log, found) in enumerate(runs):
        way = [(0.0, found["reward_before"]), *((one["kl"], one["reward"]) for one in log if "kl" in one)]
        axes.plot(*np.array(way).T, color=f"C{i}", alpha=0.3)
        others = [word for word in ("hacked", "dpo", "best_of") if f"{word}_kl" in found]
        points = {word.replace("_", " "): (found[f"{word}_kl"], found[f"{word}_reward"]) for word in others}
        for label, point in (points | {"start": way[0], run: (found["kl"], found["reward_after"])}).items():
            axes.plot(*point, "o", color=f"C{i}")
            axes.annotate(label, point, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="KL (nats a sequence)", ylabel="reward", xscale="symlog", xmargin=0.15, ymargin=0.1)


def draw_shots(found: dict, axes) -> None:
    """Draw the accuracy against the number of examples, with 95 % intervals."""
    for row, by_shots in found["rows"].items():
        mean, half = np.array([*by_shots.values()], float).T  # NaN where there is no interval
        axes.errorbar([*by_shots], mean, half, marker="o", ms=4, capsize=2, label=row.replace("_", " "))
    axes.axhline(found["chance"], color="0.4", ls="--", label="chance")
    axes.set(xlabel="examples in the prompt", ylabel="accuracy", ylim=(0, 1.02))


def draw_components(vectors: np.ndarray, labels: np.ndarray, axes) -> None:
    """Draw vectors (n, D) along the two directions in which they differ most, the principal components."""
    u, s, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)  # (n, K), (K,), longest first
    points, shares = u[:, :2] * s[:2], 100 * s**2 / (s**2).sum()  # (n, 2), (K,)
    for label in sorted(set(labels)):
        axes.plot(*points[labels == label].T, ".", ms=4, label=label)
    axes.set(xlabel=f"{shares[0]:.0f} % of the variance", ylabel=f"{shares[1]:.0f} %")


def draw_grid(values: np.ndarray, rows, columns, axes, told: bool = True) -> None:
    """Draw a table as colours; `told`: also write its numbers."""
    axes.imshow(values, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    form = "{:.3f}" if values.dtype.kind == "f" else "{}"
    for (i, j), value in np.ndenumerate(values) if told else ():
        color = "w" if value > (values.min() + values.max()) / 2 else "k"
        axes.text(j, i, form.format(value), ha="center", va="center", color=color)


@torch.no_grad()
def attention_panels(model, tokenizer, texts: list[str]) -> dict[str, partial]:
    """Return each head's attention weights on the first text; a decoder reads it, too. Rows: queries."""
    batch = checked_rows(tokenizer, model.config, texts).batch(range(len(texts)))
    again = dict(decoder_input_ids=batch["input_ids"]) if model.config.kind == "encoder-decoder" else {}
    model.use_explicit_attention().hidden_states(**batch, **again)
    tokens, panels = [tokenizer.decode([i]).strip() for i in batch["input_ids"][0].tolist()], {}
    for name, part in model.named_modules():
        for h, weights in enumerate(() if getattr(part, "weights", None) is None else part.weights[0]):
            draw_weights = partial(draw_grid, weights.numpy(), tokens, tokens, told=False)  # (T, S)
            panels[name.replace("blocks.", "").replace("_attention", f", head {h}")] = draw_weights
    return panels


def draw(panels: dict[str, partial], path: Path, chosen: list[str] | None = None) -> None:
    """Save all panels, or the chosen ones, as one PNG; UserError for an unknown name, or no panels."""
    chosen = chosen or [*panels]
    if not chosen or not {*chosen} <= panels.keys():
        raise UserError(f"{path}: the panels that can be drawn are {', '.join(panels) or 'none'}")
    from matplotlib import figure, rc_context

    n_column = min(4, len(chosen))
    n_row, (width, height) = -(-len(chosen) // n_column), (5.5, 3.8) if n_column == 1 else (3.2, 2.7)
    with rc_context({"font.size": 8, "legend.fontsize": "small"}):
        picture = figure.Figure(figsize=(width * n_column, height * n_row), layout="constrained")
        for number, name in enumerate(chosen, start=1):
            axes = picture.add_subplot(n_row, n_column, number, title=name.replace("_", " "))
            panels[name](axes)
            if axes.get_legend_handles_labels()[1]:
                axes.legend()
        atomic_write(path, lambda file: picture.savefig(file, format="png", dpi=110))
    print(f"Saved in {path}.")


def draw_at_end(settings, folder: Path | None) -> None:
    """Draw the picture of a run if --plot is given and it has a folder."""
    if settings.plot and folder and process_rank() == 0:
        draw(run_panels([folder]), folder / "picture.png")


def main() -> None:
    """Draw the panels that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    for flag, how in dict(out=None, panels="+", attention="+", embeddings=None, positions=0).items():
        parser.add_argument("--" + flag, **dict(action="store_true") if how == 0 else dict(nargs=how))
    given = parser.parse_args()
    need_matplotlib()
    panels = run_panels(given.folders)
    if given.attention or given.embeddings or given.positions:
        model, tokenizer = load_reader(given.folders[0])
        panels = attention_panels(model, tokenizer, given.attention) if given.attention else {}
        if given.embeddings:
            texts, labels = np.array(read_examples(given.embeddings), object).T  # (n,) each
            panels["two components"] = partial(draw_components, embed(model, tokenizer, texts), labels)
        inputs = (model.encoder or model.decoder).embeddings
        table = inputs.sinusoid if inputs.position is None else inputs.position.weight.detach()
        if given.positions and table is not None:  # ALiBi and rope have no such table
            unit = torch.nn.functional.normalize(table, dim=-1)  # (n_position, D)
            panels["positions"] = lambda axes: axes.imshow((unit @ unit.T).numpy(), cmap="Blues")
    draw(panels, Path(given.out or given.folders[0] / "picture.png"), given.panels)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
