"""Regime 5: a language model learns what is preferred, from pairs of answers or from a rule.

    python reinforce.py                         reward model, then PPO; then the same without KL, and DPO
    python reinforce.py --algorithm dpo         the pairs teach the policy directly
    python reinforce.py --ablate                PPO with one detail switched off after the other
    python reinforce.py --preferences pairs.jsonl --prompts prompts.txt --model runs/causal
    python reinforce.py --reward-function my_rules:short_answer --prompts prompts.txt

Without more flags it takes two to three minutes on two CPU cores, after the GPT in runs/causal, which is
trained first where there is none.
"""

import sys
from dataclasses import replace

from minilm.plumbing.folders import choose_folder, read_settings
from minilm.plumbing.settings import parse
from minilm.plumbing.terminal import exit_code
from minilm.reinforcement.run import reinforce
from minilm.reinforcement.settings import ReinforceSettings


def read_command() -> ReinforceSettings:
    """Return the settings of this command line; with --resume, laid over those of the run."""
    given, _ = parse(ReinforceSettings, description=__doc__)
    settings = ReinforceSettings(**given)
    if not settings.resume:
        return settings
    folder = choose_folder("reinforce", settings.out, settings.overwrite, resume=True)
    saved, _ = read_settings(folder, ReinforceSettings)
    return replace(ReinforceSettings(**saved | given), out=str(folder))


def main() -> int:
    """Learn, and print what the reward, the judge and the KL say before and after."""
    reinforce(read_command())
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
