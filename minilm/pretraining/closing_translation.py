"""What a translation run ends with: whole texts right and BLEU beside a dictionary's, five translations."""

import numpy as np

from ..training.bleu import corpus_bleu, exact_match
from ..training.objective import perplexity
from ..world import word_by_word
from .translation import Translation


def translation_closing(objective: Translation, model, before: dict, after: dict) -> tuple[list, dict, list]:
    """Return the table's rows, the figures for results.json, and lines that show five translations.

    All validation pairs are translated greedily. They are compared with what a dictionary gives word by word,
    or, where the language is not the world's, with the source left as it is.
    """
    sources, references = zip(*objective.corpus.validation, strict=True)
    ours = objective.translate(model, sources)
    baseline, what = baseline_translations(objective, sources)
    rows = loss_rows(before, after)
    exact, bleu = exact_match(ours, references), corpus_bleu(ours, references)
    baseline_bleu = corpus_bleu(baseline, references)
    rows.append(("whole texts right", None, exact, exact_match(baseline, references), what))
    rows.append(("BLEU", None, bleu, baseline_bleu, what))
    results = dict(exact_match=exact, bleu=bleu, baseline_bleu=baseline_bleu)
    chosen = np.random.default_rng(objective.seed).permutation(len(sources))[:5]
    return rows, results, ["Translations:", "", *example_lines(sources, ours, references, chosen)]


def baseline_translations(objective: Translation, sources) -> tuple[list[str], str]:
    """Return what is to be beaten, a translation for each source, and its name."""
    if objective.corpus.name.partition(":")[0] == "world":
        return [word_by_word(text) for text in sources], "word by word, from a dictionary"
    return list(sources), "the source, not translated"


def loss_rows(before: dict, after: dict) -> list[tuple]:
    """Return the table's rows of what was measured with the right words so far given to the decoder."""
    names = {"loss": "loss, smoothed (nats)", "plain_loss": "loss (nats a token)"}
    names |= {"perplexity": "perplexity", "bits_per_byte": "bits per byte", "accuracy": "next token right"}
    before, after = ({**m, "perplexity": perplexity(m["plain_loss"])} for m in (before, after))
    return [(name, before[key], after[key], None, "") for key, name in names.items()]


def example_lines(sources, ours, references, chosen) -> list[str]:
    """Return three lines for each chosen pair: the source, our translation, the reference."""
    lines = []
    for i in chosen:
        verdict = "ours" if ours[i].split() != references[i].split() else "ours, right"
        lines += [sources[i], f"    {ours[i]}   ({verdict})", f"    {references[i]}   (reference)", ""]
    return lines[:-1]
