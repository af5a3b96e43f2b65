"""What a pre-training run ends with: its closing table, figures for results.json, examples to read.

Each closing function takes (objective, model, metrics before and after, settings) and returns the rows of the
table, the figures, and the lines of the examples. If one fails, --resume only evaluates and closes.
"""

import numpy as np

from .. import world
from ..training.loop import train
from ..training.metrics import corpus_bleu, exact_match
from ..training.objective import evaluate, perplexity
from . import baselines, students
from .causal import Causal
from .denoising import Denoising, rebuilt_examples
from .distillation import Distillation, initial_student
from .masked import Masked, fill_examples
from .ngrams import MOST, ngram_losses
from .noise import NOISES
from .translation import Translation

HEADER = ("", "before", "after", "to compare", "")
NATS = "A loss in nats is -ln p, where p is the probability of the right answer: 0.69 for 1/2, 2.30 for 1/10."
STUDENTS_HEADER = ("", "weights", "in the blocks", "texts/s", "hidden tokens right", "loss (nats)")


def table_rows(before: dict, after: dict, figures: list[tuple]) -> list[tuple]:
    """Return a table row for each figure, given as (name, key of the metric[, baseline, what that is])."""
    return [(name, before[key], after[key], *(compared or (None, ""))) for name, key, *compared in figures]


def lowest_loss(log: list[dict], last: float) -> list[str]:
    """Return a line on the lowest validation loss, if the loss has risen by more than 1 % since then."""
    looks = [(line["loss"], line["step"]) for line in log if line["split"] == "validation"]
    loss, step = min(looks, default=(last, 0))
    told = f"The validation loss was lowest at step {step:,} ({loss:.3f}), then rose: take fewer steps."
    return [told] if last > 1.01 * loss else []


def causal_closing(objective: Causal, model, before: dict, after: dict, settings) -> tuple:
    """Compare the loss with the grammar's own and with that of n-grams; show a text that the model wrote."""
    names = {"loss": "loss (nats per token)", "perplexity": "perplexity", "bits_per_byte": "bits per byte"}
    floor = compared = objective.floor()
    what = "the grammar's own: no model can do better"
    stream, to_bits_per_byte = objective.streams["train"], before["bits_per_byte"] / before["loss"]
    if not floor:
        loss = baselines.unigram_loss(objective, stream, "labels")
        compared, what = dict(loss=loss, bits_per_byte=loss * to_bits_per_byte), "from word frequencies alone"
    before, after, compared = (m | dict(perplexity=perplexity(m["loss"])) for m in (before, after, compared))
    rows = table_rows(before, after, [(name, key, compared[key], what) for key, name in names.items()])
    results = dict(perplexity=after["perplexity"], floor_bits_per_byte=floor.get("bits_per_byte"))
    losses = ngram_losses(stream, objective.streams["validation"][1:], len(objective.token_bytes))
    for n, loss in enumerate(losses):
        results[f"ngram_{n}_bits_per_byte"] = bits = loss * to_bits_per_byte
        name = f"{n}-grams, of {min(MOST, len(stream)):,} tokens" if n else "all tokens equally likely (ln V)"
        rows.append(("", None, None, bits, name))
    rows += table_rows(before, after, [("next token right", "accuracy")])
    return rows, results, ["A text that the model wrote:", "", objective.sample(model).strip()]


def masked_closing(objective: Masked, model, before: dict, after: dict, settings) -> tuple:
    """Compare hidden tokens with the commonest token, things with chance, pairs with a shared rare word."""
    frequent = baselines.commonest_share(objective)
    unigram = baselines.unigram_loss(objective, objective.texts["train"].ids, "masked_labels")
    figures = [
        ("loss (nats)", "loss"),
        ("loss of hidden tokens", "masked_loss", unigram, "from word frequencies alone"),
        ("bits per hidden byte", "bits_per_byte"),
        ("hidden tokens right", "masked_accuracy", frequent, "always the commonest token"),
    ]
    rows = table_rows(before, after, figures)
    results = dict(masked_accuracy=after["masked_accuracy"], masked_accuracy_baseline=frequent)
    slot = baselines.slot_accuracy(objective, model) if objective.corpus.name in world.SOURCES else None
    if slot is not None:
        results["slot_accuracy"] = slot
        rows.append(("thing fits the place", None, slot, 1 / len(world.PLACES), "things at random"))
    if objective.next_sentence:
        key, shared = "next_sentence_accuracy", baselines.shared_word_accuracy(objective)
        results |= {key: after[key], "shared_word_accuracy": shared}
        rows.append(("next sentence right", before[key], after[key], shared, "A and B share a rare word"))
        rows.append(("", None, None, 0.5, "chance"))
    return rows, results, ["Filled-in blanks:", "", *fill_examples(objective, model)]


def denoising_closing(objective: Denoising, model, before: dict, after: dict, settings) -> tuple:
    """Compare kept and lost tokens (given the true ones before) with baselines; each noise; rebuilt texts."""
    texts = objective.texts["train"]
    unigram = baselines.unigram_loss(objective, texts.ids, "labels", n_end=len(texts))
    copied, commonest = baselines.standing_share(objective), baselines.commonest_share(objective)
    figures = [
        ("loss (nats per token)", "loss", unigram, "from word frequencies alone"),
        ("bits per byte", "bits_per_byte"),
        ("kept tokens copied", "copy_accuracy", copied, "the input, unchanged"),
        ("lost tokens rebuilt", "rebuilt_accuracy", commonest, "the commonest token"),
    ]
    rows = table_rows(before, after, figures)
    results = dict(reconstruction_loss=after["loss"], copy_accuracy=after["copy_accuracy"])
    results |= dict(rebuilt_accuracy=after["rebuilt_accuracy"], unigram_loss=unigram)
    for noise in NOISES:
        loss = results[f"{noise}_loss"] = evaluate(model, objective.with_noise(noise), settings)["loss"]
        rows.append((f"loss, {noise} alone", None, loss, unigram, ""))
    return rows, results, ["Rebuilt texts:", "", *rebuilt_examples(objective, model)]


def translation_closing(objective: Translation, model, before: dict, after: dict, settings) -> tuple:
    """Compare exact matches and BLEU of greedy translations with a baseline's; show five translations."""
    sources, references = zip(*objective.corpus.validation, strict=True)
    ours = objective.translate(model, sources)
    if objective.corpus.name.partition(":")[0] == "world":
        baseline, what = [world.word_by_word(text) for text in sources], "word by word, from a dictionary"
    else:
        baseline, what = list(sources), "the source, not translated"
    before, after = (m | dict(perplexity=perplexity(m["plain_loss"])) for m in (before, after))
    names = dict(loss="loss, smoothed (nats)", plain_loss="loss (nats per token)", perplexity="perplexity")
    names |= dict(bits_per_byte="bits per byte", accuracy="next token right")
    rows, results = table_rows(before, after, [(name, key) for key, name in names.items()]), {}
    for key, name, score in ("exact_match", "whole texts right", exact_match), ("bleu", "BLEU", corpus_bleu):
        results[key], trivial = score(ours, references), score(baseline, references)
        rows.append((name, None, results[key], trivial, what))
    results["baseline_bleu"] = trivial  # from the loop's last turn: BLEU
    lines = ["Translations:"]
    for i in np.random.default_rng(objective.seed).permutation(len(sources))[:5]:
        verdict = "ours" if ours[i].split() != references[i].split() else "ours, right"
        lines += ["", sources[i], f"    {ours[i]}   ({verdict})", f"    {references[i]}   (reference)"]
    return rows, results, lines


def distillation_closing(objective: Distillation, model, before: dict, after: dict, settings) -> tuple:
    """Compare the student with its teacher and those of `students.py`, trained here with as many steps."""
    teacher = objective.teacher
    figures = dict(teacher=evaluate(teacher, objective, settings), student=after)
    labels = dict(teacher="teacher", student=f"student, {len(objective.corpus.train):,} texts")
    speed = students.texts_per_second(objective, teacher, model)
    for name, (label, other) in students.other_lessons(objective).items():
        student = initial_student(teacher, model.config.n_encoder_layer).to(model.tokens.weight.device)
        train(student, other, settings, label=label.strip(), patience=other.patience)
        figures[name], labels[name] = evaluate(student, objective, settings), label
    rows = []
    for name, figure in figures.items():
        shape = teacher if name == "teacher" else model  # all students and the copied layers are of one size
        sizes = (shape.n_parameters(), students.block_weights(shape), round(speed[shape]))
        rows.append((labels[name], *sizes, figure["masked_accuracy"], figure["masked_loss"]))
    rows.insert(1, ("copied, before training", *sizes, before["masked_accuracy"], before["masked_loss"]))
    results = {f"{name}_accuracy": figure["masked_accuracy"] for name, figure in figures.items()}
    results |= {f"{name}_loss": figure["masked_loss"] for name, figure in figures.items()}
    results["student_block_fraction"] = students.block_weights(model) / students.block_weights(teacher)
    results["student_speedup"] = speed[model] / speed[teacher]
    lines = ["Each student keeps the weights that had its lowest validation loss.", ""]
    return rows, results, [*lines, "Blanks that the student filled in:", "", *fill_examples(objective, model)]
