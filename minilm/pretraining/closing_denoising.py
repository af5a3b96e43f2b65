"""What a denoising run ends with: figures beside trivial methods, the loss under each noise, rebuilt texts.

The figures are teacher-forced: the decoder sees the true text so far. The rebuilt texts show what it writes
when it sees its own.
"""

import numpy as np
import torch

from ..model.generate import generate
from ..training.objective import micro_batches, to_device
from .denoising import Denoising
from .noise import NOISES
from .report import unigram_loss


def denoising_closing(objective: Denoising, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
    """Return the table's rows, the figures for results.json, and three texts noised, rebuilt and original."""

    def row(name: str, key: str, to_compare: float | None = None, what: str = "") -> tuple:
        return name, before[key], after[key], to_compare, what

    # the end of each row is a label too
    unigram = unigram_loss(objective, "labels", n_end=len(objective.texts["train"]))
    rows = [
        row("loss (nats a token)", "loss", unigram, "from word frequencies alone"),
        row("bits per byte", "bits_per_byte"),
        row("kept tokens copied", "copy_accuracy", standing_share(objective), "the input as it stands"),
        row("lost tokens rebuilt", "rebuilt_accuracy", commonest_share(objective), "the commonest token"),
    ]
    losses = {noise: validation_metrics(objective.with_noise(noise), model)["loss"] for noise in NOISES}
    rows += [(f"loss, {noise} alone", None, loss, unigram, "") for noise, loss in losses.items()]
    results = dict(reconstruction_loss=after["loss"], copy_accuracy=after["copy_accuracy"])
    results |= dict(rebuilt_accuracy=after["rebuilt_accuracy"], unigram_loss=unigram)
    results |= {f"{noise}_loss": loss for noise, loss in losses.items()}
    return rows, results, ["Rebuilt texts:", "", *rebuilt_examples(objective, model)]


@torch.no_grad()
def validation_metrics(objective: Denoising, model) -> dict[str, float]:
    """Return the metrics of the validation part; the model should be in evaluation mode."""
    batch, device = objective.batch(0, "validation"), next(model.parameters()).device
    totals: dict[str, float] = {}
    for part in micro_batches(batch, -(-len(batch["labels"]) // objective.batch_size)):
        for name, value in objective.loss(model, to_device(part, device))[1].items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def standing_share(objective: Denoising) -> float:
    """Return the share of surviving tokens that a copy of the input gets right: those at their old place."""
    batch = {name: value.numpy() for name, value in objective.batch(0, "validation").items()}
    first = len(objective.begin) - 1  # the column of the first label
    kept, labels = batch["survived"][:, first:] == 1, batch["labels"][:, first:]  # (B, T)
    width = min(kept.shape[1], batch["input_ids"].shape[1] - 1)  # behind [CLS]
    stands = batch["input_ids"][:, 1 : 1 + width] == labels[:, :width]
    return float((stands & kept[:, :width]).sum() / batch["n_kept"])


def commonest_share(objective: Denoising) -> float:
    """Return the share of lost tokens that are the commonest token of the training text."""
    batch = objective.batch(0, "validation")
    commonest = np.bincount(objective.texts["train"].ids).argmax()
    lost = batch["survived"] == 0
    return float((batch["labels"][lost] == int(commonest)).sum() / batch["n_lost"])


def rebuilt_examples(objective: Denoising, model, n: int = 3) -> list[str]:
    """Return lines that show n validation texts noised, rebuilt by the model alone, and as they were."""
    tokenizer, texts = objective.tokenizer, objective.texts["validation"]
    rng = np.random.default_rng(objective.seed)
    chosen = rng.choice(len(texts), min(n, len(texts)), replace=False)
    rows = objective.rows(texts, chosen, rng)
    begin, end, pad = (tokenizer.special_id(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    noised = [ids[ids != pad].tolist() for ids in rows["input_ids"]]
    rebuilt = generate(
        model, noised, objective.context - 1, temperature=0, eos_id=end, decoder_start_id=objective.begin
    )
    mask = tokenizer.decode([tokenizer.special_id("[MASK]")])
    lines = []
    for three in zip(noised, rebuilt, rows["decoder_input_ids"], strict=True):
        for name, ids in zip(("noised:  ", "rebuilt: ", "original:"), three, strict=True):
            text = tokenizer.decode([i for i in ids if i not in (begin, end, pad)])
            lines.append(f"{name} {text.replace(mask, ' ____').strip()}".rstrip())
        lines.append("")
    return lines[:-1]
