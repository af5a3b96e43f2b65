"""What a pre-training run ends with: a table beside its baselines, figures for results.json, examples.

A loss alone shows little: a model that has learnt only which positions hold which words already looks good.
So each figure stands beside what a trivial method reaches.
"""

import numpy as np
from torch import Tensor

from .. import world
from ..in_context.questions import CHANCE, NAMES
from ..training.objective import IGNORED, micro_batches, perplexity, tensors
from .causal import Causal
from .denoising import Denoising
from .masked import Masked, predict_masked
from .next_sentence import FOLLOWS

HEADER = ("", "before", "after", "to compare", "")


def causal_closing(objective: Causal, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
    """Return the table's rows, the figures for results.json, and a text that the model wrote."""
    floor = objective.floor()
    compared = "the grammar's own: no model can do better" if floor else ""
    before, after, floor = (
        {**m, "perplexity": perplexity(m["loss"])} if m else m for m in (before, after, floor)
    )
    names = {"loss": "loss (nats a token)", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}
    rows = [(name, before[key], after[key], floor.get(key), compared) for key, name in names.items()]
    rows.append(("next token right", before["accuracy"], after["accuracy"], None, ""))
    tasks = [task for task in NAMES if task in after]
    rows += [(NAMES[task], before[task], after[task], CHANCE, "chance") for task in tasks]
    results = dict(perplexity=after["perplexity"], floor_bits_per_byte=floor.get("bits_per_byte"))
    return rows, results, ["A text that it wrote:", "", objective.sample(model).strip()]


def masked_closing(objective: Masked, model, before: dict, after: dict) -> tuple[list, dict, list[str]]:
    """Return the table's rows, the figures for results.json, and three filled-in blanks."""

    def row(name: str, key: str, to_compare: float | None = None, what: str = "") -> tuple:
        return name, before[key], after[key], to_compare, what

    frequent, unigram = most_frequent_accuracy(objective), unigram_loss(objective, "masked_labels")
    rows = [
        row("loss (nats)", "loss"),
        row("loss of hidden tokens", "masked_loss", unigram, "from word frequencies alone"),
        row("bits per hidden byte", "bits_per_byte"),
        row("hidden tokens right", "masked_accuracy", frequent, "always the commonest token"),
    ]
    results = dict(masked_accuracy=after["masked_accuracy"], masked_accuracy_baseline=frequent)
    slot = slot_accuracy(objective, model) if objective.corpus.name == "world" else None
    if slot is not None:
        results["slot_accuracy"] = slot
        rows.append(("thing fits the place", None, slot, 1 / len(world.PLACES), "things at random"))
    if objective.next_sentence:
        results["next_sentence_accuracy"] = after["next_sentence_accuracy"]
        shared = results["shared_word_accuracy"] = shared_word_accuracy(objective)
        rows.append(row("next sentence right", "next_sentence_accuracy", shared, "A and B share a rare word"))
        rows.append(("", None, None, 0.5, "chance"))
    return rows, results, ["Filled-in blanks:", "", *fill_examples(objective, model)]


def slot_accuracy(objective: Masked, model) -> float | None:
    """Return how often a hidden thing of a validation story is filled with a thing of the same place.

    One thing a row is hidden. Positions and word frequencies alone find the right place one time in six.
    None where the vocabulary is so small that no thing is a single token.
    """
    texts, vocab = objective.texts["validation"], objective.tokenizer.vocab
    words = [vocab[i].decode(errors="replace").strip() for i in range(len(vocab))]
    place_of = np.array([world.place_of(word) or "" for word in words])  # (V,)
    rows = texts.true_rows(np.arange(len(texts)))
    is_thing = place_of[rows["input_ids"]] != ""  # (N, T)
    if not is_thing.any():
        return None
    rows = {name: value[is_thing.any(1)] for name, value in rows.items()}
    is_thing = is_thing[is_thing.any(1)]
    lot = np.random.default_rng(objective.seed).random(is_thing.shape)
    hidden = (lot * is_thing).argmax(1)[:, None]  # (N, 1) one thing a row
    truth = np.take_along_axis(rows["input_ids"], hidden, 1)
    np.put_along_axis(rows["input_ids"], hidden, objective.tokenizer.special_id("[MASK]"), 1)
    batch = tensors(rows | dict(masked_positions=hidden))
    parts = micro_batches(batch, -(-len(hidden) // objective.batch_size))
    guess = np.concatenate([predict_masked(model, part).argmax(-1).numpy() for part in parts])  # (N, 1)
    return float((place_of[guess] == place_of[truth]).mean())


def unigram_loss(objective: Masked | Denoising, name: str, n_end: int = 0) -> float:
    """Return the loss, in nats a label, of knowing only how often each token occurs in training.

    `name`: of the labels in the batch. `n_end`: how often [SEP], which is not in the texts, is a label.
    """
    count = np.bincount(objective.texts["train"].ids, minlength=len(objective.token_bytes)) + 1
    count[objective.tokenizer.special_id("[SEP]")] += n_end
    labels = objective.batch(0, "validation")[name].numpy()
    return float(-np.log(count / count.sum())[labels[labels != IGNORED]].mean())


def most_frequent_accuracy(objective: Masked) -> float:
    """Return how often the commonest token of the training text is the hidden one, in validation."""
    labels = objective.batch(0, "validation")["masked_labels"].numpy()
    commonest = np.bincount(objective.texts["train"].ids).argmax()
    return float((labels == commonest).sum() / (labels != IGNORED).sum())


def shared_word_accuracy(objective: Masked) -> float:
    """Return how often "B follows A where both hold the same rare token" is right, in validation.

    Rare means: in at most a share of the texts. The share that serves best on training pairs is taken.
    """
    sides = {split: pair_words(objective, split) for split in ("train", "validation")}
    rarity = np.concatenate(sides["train"][:2]).mean(0)  # (V,) share of the texts with this token

    def accuracy(split: str, limit: float) -> float:
        a, b, follows = sides[split]
        return float(((a & b & (rarity <= limit)).any(1) == follows).mean())

    limits = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    return accuracy("validation", max(limits, key=lambda limit: accuracy("train", limit)))


def pair_words(objective: Masked, split: str, n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which tokens are in A, (N, V), in B, (N, V), and whether B follows, (N,), of up to n pairs."""
    rows = objective.rows(split, objective.generator(0, split), n)
    rows = {name: value[:n] for name, value in rows.items()}
    sides = []
    for segment in (0, 1):
        inside = (rows["token_type_ids"] == segment) & ~np.isin(rows["input_ids"], objective.special_ids)
        row, column = np.nonzero(inside)
        present = np.zeros((len(inside), len(objective.token_bytes)), dtype=bool)
        present[row, rows["input_ids"][row, column]] = True
        sides.append(present)
    return sides[0], sides[1], rows["next_sentence_labels"] == FOLLOWS


def fill_examples(objective: Masked, model, n: int = 3) -> list[str]:
    """Return lines that show n validation texts with one word hidden, and the model's three best guesses."""
    texts, tokenizer = objective.texts["validation"], objective.tokenizer
    rng = np.random.default_rng(objective.seed)
    rows = texts.true_rows(rng.choice(len(texts), min(n, len(texts)), replace=False))
    count = np.bincount(objective.texts["train"].ids, minlength=len(objective.token_bytes))
    is_rare = (count < 0.02 * count.sum()) & (objective.token_bytes > 2)  # hide a word worth guessing
    fits = is_rare[rows["input_ids"]] | (~is_rare[rows["input_ids"]].any(1, keepdims=True))
    fits &= ~np.isin(rows["input_ids"], objective.special_ids)
    hidden = (rng.random(fits.shape) * fits).argmax(1)[:, None]  # (n, 1)
    truth = np.take_along_axis(rows["input_ids"], hidden, 1)[:, 0]
    np.put_along_axis(rows["input_ids"], hidden, tokenizer.special_id("[MASK]"), 1)
    top = predict_masked(model, tensors(rows | dict(masked_positions=hidden)))[:, 0].topk(3)
    lines = []
    for ids, answer, values, guesses in zip(rows["input_ids"], truth, *map(Tensor.tolist, top), strict=True):
        shown = [int(i) for i in ids if i == tokenizer.special_id("[MASK]") or i not in objective.special_ids]
        blank = " ____" if tokenizer.vocab[int(answer)].startswith(b" ") else "____"
        mask = tokenizer.decode([tokenizer.special_id("[MASK]")])
        text = tokenizer.decode(shown).replace(mask, blank).strip()
        best = [f"{tokenizer.decode([g]).strip()} {v:.2f}" for g, v in zip(guesses, values, strict=True)]
        lines += [text, f"    {'   '.join(best)}   (it was: {tokenizer.decode([int(answer)]).strip()})"]
    return lines
