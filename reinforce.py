"""Regime 5: a language model learns what is preferred, from pairs of answers or from a rule.

    python reinforce.py                         reward model, then PPO; the same without KL, DPO, best of 4
    python reinforce.py --algorithm grpo        groups of answers to a prompt in place of a value head
    python reinforce.py --algorithm dpo         the pairs teach the policy directly
    python reinforce.py --ablate                PPO, each time with another detail switched off
    python reinforce.py --preferences pairs.jsonl --prompts prompts.txt --model runs/causal
    python reinforce.py --reward-function my_rules:short_answer --prompts prompts.txt

Without more flags it takes two minutes on two CPU cores, three and a half if there is no runs/causal yet.
"""

import minilm.plumbing.first  # noqa: F401 - before PyTorch
from minilm import plots
from minilm.plumbing.script import exit_code, process_group, read_command
from minilm.reinforcement.run import Reinforcement
from minilm.reinforcement.settings import ReinforceSettings


def main() -> None:
    """Learn, and print what the reward, the judge and the KL say before and after."""
    name_of = lambda given: "ablation" if given.get("ablate") else "reinforce"
    given, _ = read_command(ReinforceSettings, __doc__, name_of)
    with process_group(given.get("device", "auto")):
        settings = ReinforceSettings(**given)
        plots.draw_at_end(settings, Reinforcement(settings).run())


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
