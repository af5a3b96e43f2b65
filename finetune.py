"""Regime 4, fine-tuning: a trained model learns a task from labelled examples.

    python finetune.py --task classification    one text, a class
    python finetune.py --task pair              two texts, a class
    python finetune.py --task similarity        two texts, a number
    python finetune.py --task contrastive       pairs that belong together -> a vector of each text
    python finetune.py --task tagging           a tag for each word
    python finetune.py --task span              a question, its answer in a text
    python finetune.py --task text-to-text      a text to write
    python finetune.py --tune head              which weights are trained: head, bias, last:N, lora, all
    python finetune.py --data train.tsv --test test.tsv     your own examples
    python finetune.py --model runs/classification --predict new.tsv

Without more flags each takes ten to ninety seconds on two CPU cores, on the embedded world; it starts from
the newest runs/masked (text-to-text: runs/denoising). The table shows what is trained, its size and score.
"""

import minilm.plumbing.first  # noqa: F401 - before PyTorch
from minilm import plots
from minilm.finetuning.run import finetune, predict
from minilm.finetuning.settings import FinetuningSettings
from minilm.plumbing.script import exit_code, process_group, read_command


def main() -> None:
    """Fine-tune and print the comparison, or predict with a model that is fine-tuned already."""
    name_of = lambda given: given.get("task", FinetuningSettings.task)
    given, _ = read_command(FinetuningSettings, __doc__, name_of)
    with process_group(given.get("device", "auto")):
        settings = FinetuningSettings(**given)
        plots.draw_at_end(settings, (predict if settings.predict else finetune)(settings))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
