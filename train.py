"""Regimes 1 and 2: a model learns a language from random weights, or continues on text of a domain.

    python train.py                             BERT: masked tokens and next sentence
    python train.py --objective causal          GPT: the next token; --model llama-tiny: a modern decoder
    python train.py --objective denoising       BART: rebuild a text from a damaged one
    python train.py --objective translation     the Transformer of 2017: English to Portuguese
    python train.py --objective distillation    DistilBERT: a student of runs/masked
    python train.py --data corpus/ notes.txt    your own text (.txt, .jsonl, folders and .gz of these)
    python train.py --init runs/masked --data world:reports     continued training

Without more flags each takes up to two minutes on two CPU cores, on the embedded world. The same
command scales by flags alone: --model bert-base --data corpus/ --device cuda --precision bf16.
"""

import minilm.plumbing.first  # noqa: F401 - before PyTorch
from minilm import plots
from minilm.continued.forgetting import Continued
from minilm.continued.run import continued_command
from minilm.in_context.questions import FewShot
from minilm.model.config import ModelConfig
from minilm.plumbing.script import exit_code, process_group, read_command
from minilm.pretraining.run import Distilling, Pretraining, PretrainingSettings, with_recipe


def main() -> None:
    """Train, and print what was learnt beside what a trivial method reaches."""
    objective = lambda given: given.get("objective", "masked")
    name_of = lambda g: objective(continued_command(g, {})) + "-continued" if g.get("init") else objective(g)
    given, overrides = read_command(PretrainingSettings, __doc__, name_of, ModelConfig)
    if given.get("init") and not given.get("resume"):
        given = continued_command(given, overrides)
    with process_group(given.get("device", "auto")):
        settings = with_recipe(PretrainingSettings(**given))
        # A GPT trained on few-shot documents also gets questions at each evaluation.
        asked = settings.objective == "causal" and settings.data[0].startswith("world:few-shot")
        kind = Distilling if settings.objective == "distillation" else FewShot if asked else Pretraining
        kind = Continued if settings.init else kind
        plots.draw_at_end(settings, kind(settings, overrides).run())


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
