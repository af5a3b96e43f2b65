"""Regime 6: in-context learning. A model reads examples in its prompt; no weight changes.

    python prompt.py                            accuracy against the number of examples, with its controls
    python prompt.py --prompt "Yesterday, Ana"  a model continues a text
    python prompt.py --prompt -                 a loop at the terminal; with --chat a conversation
    python prompt.py --model runs/causal --data train.tsv --test test.tsv    your own labelled texts

Without --data the questions are those of the embedded world, and the model is a small GPT that has read
few-shot documents (runs/in-context, trained first if it is missing: in less than a minute).
"""

import minilm.plumbing.first  # noqa: F401 - before PyTorch
from minilm import plots
from minilm.in_context.run import PromptSettings, answer_prompts
from minilm.plumbing.script import exit_code, process_group
from minilm.plumbing.settings import parse


def main() -> None:
    """Write a text for --prompt, or print the accuracy against the number of examples."""
    settings = PromptSettings(**parse(PromptSettings, description=__doc__)[0])
    with process_group(settings.device):
        plots.draw_at_end(settings, answer_prompts(settings))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
