"""Regime 3: a trained model is read, not trained. Its hidden states become the features of your texts.

    python extract.py                                       stories -> their place: a probe on runs/masked
    python extract.py --model runs/causal --pooling last    another model, another way to read it
    python extract.py --data reviews.tsv --test more.tsv    your texts and labels (.tsv, .csv, .jsonl)
    python extract.py --data notes.txt --similar "a query"  the nearest of your texts (.txt, .jsonl, folders)
    python extract.py --data tags.conll --tokens            one vector per word (other files: per token)
    python extract.py --tokens --probe                      words -> their tags, beside a control task

--model takes a run folder or a Hugging Face folder. The vectors are in features.npz of the run's folder:
`numpy.load("runs/features/features.npz")["embeddings"]`, float32, beside `texts`, `labels` and `split`.
"""

import minilm.plumbing.first  # noqa: F401 - before PyTorch
from minilm import plots
from minilm.extraction.run import ExtractionSettings, extract_features
from minilm.plumbing.script import exit_code, process_group
from minilm.plumbing.settings import parse


def main() -> None:
    """Read the texts, and print what a linear probe finds in their vectors beside two baselines."""
    given, _ = parse(ExtractionSettings, description=__doc__)
    with process_group(given.get("device", "auto")):
        plots.draw_at_end(ExtractionSettings(**given), extract_features(given))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
