"""Grades reinforcement/settings.py: values out of range are refused with their flag."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import small

from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import parse
from minilm.reinforcement import settings as module
from minilm.reinforcement.settings import PUBLISHED, SMALL, ReinforceSettings
from minilm.training.loop import TrainingSettings


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--steps 0", "--steps 0: must be 1 or more"),
        ("--kl -0.1", "--kl -0.1: must be 0 or more"),
        ("--lr -0.5", "--lr -0.5: must be 0 or more"),
        ("--reward-lr -0.5", "--reward-lr -0.5: must be 0 or more"),
        ("--dpo-lr -0.5", "--dpo-lr -0.5: must be 0 or more"),
        ("--dpo-beta -0.5", "--dpo-beta -0.5: must be 0 or more"),
        ("--gae-lambda 1.5", r"--gae-lambda 1.5: must be <= 1"),
        ("--gamma 2", r"--gamma 2.0 .*: must be <= 1"),
        ("--temperature 0", "--temperature 0.0: must be above 0"),
        ("--pair-temperature 0", "--pair-temperature 0.0: must be above 0"),
        ("--batch-size 4 --minibatches 5", "--batch-size 4 cannot be cut into --minibatches 5"),
        ("--reward runs/x --reward-function a:b", "--reward and --reward-function"),
        ("--algorithm trpo", r"ppo\|grpo\|dpo"),
        ("--algorithm grpo --group-size 1", "--group-size 1: must be 2 or more"),
        ("--algorithm grpo --group-size 7", "--batch-size 64 cannot be cut into groups of --group-size 7"),
        ("--best-of 0", "--best-of 0: must be 1 or more"),
        ("--kl-target 0 --adaptive-kl", "--adaptive-kl: --kl and --kl-target must be above 0"),
        ("--kl 0 --adaptive-kl", "--adaptive-kl: --kl and --kl-target must be above 0"),
        ("--ablate --algorithm grpo", "--ablate needs --algorithm ppo"),
    ],
)
def test_values_out_of_range_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        ReinforceSettings(**parse(ReinforceSettings, None, flags.split())[0])


RULE, DPO = "--reward-function a:b", "--algorithm dpo --preferences p.tsv"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--group-size 4", "--group-size 4 needs --algorithm grpo"),
        (f"--algorithm dpo {RULE}", "a:b with --algorithm dpo needs --prompts"),
        (f"{DPO} --kl 0.5", "--kl 0.5 is for PPO; DPO has --dpo-steps"),
        (f"{DPO} --steps 7", "--steps 7 is for PPO"),
        (f"{DPO} --best-of 9", "--best-of 9 is for the contrasts of PPO"),
        ("--no-contrast --best-of 9", "--best-of 9 is for the contrasts of PPO"),
        ("--no-contrast --dpo-beta 9", "--dpo-beta 9.0 is for DPO, not trained here"),
        ("--ablate --dpo-lr 0.1", "--dpo-lr 0.1 is for DPO"),
        (f"{RULE} --dpo-steps 9", "--dpo-steps 9 is for DPO"),
        ("--reward r --prompts p.txt --dpo-steps 9", "--dpo-steps 9 is for DPO"),
        ("--reward runs/x --reward-steps 9", "--reward-steps 9 is unused: the reward is given"),
        (f"{RULE} --reward-lr 0.1", "--reward-lr 0.1 is unused: the reward is given"),
        ("--reward runs/x --rounds 1", "--rounds 1 is unused: the reward is given"),
        ("--preferences p.tsv --rounds 1", "--rounds 1 is for the world's pairs"),
        ("--prompts p.txt --n-pairs 9", "--n-pairs 9 is for the world's pairs"),
        (f"{RULE} --n-pairs 9", "--n-pairs 9 is for the world's pairs"),
        ("--preferences p.tsv --sampled-prompts 9", "--sampled-prompts 9 needs a judge"),
        (f"{DPO} --answers-a-prompt 9", "--answers-a-prompt 9 needs a judge"),
        (f"{RULE} --pair-temperature 9", "--pair-temperature 9.0 needs a judge"),
        ("--algorithm dpo --rounds 1 --steps 7", "--steps 7 is for PPO"),
        ("--algorithm dpo --reward runs/x --lr 0.1", "--lr 0.1 is for PPO"),
        ("--kl-target 9", "--kl-target 9.0 needs --adaptive-kl"),
        ("--algorithm grpo --rounds 1 --gae-lambda 0", "--gae-lambda 0.0 is for PPO; GRPO sums"),
        (f"--algorithm grpo {RULE} --value-weight 1", "--value-weight 1.0 is for PPO"),
        (f"--algorithm grpo {RULE} --no-reward-at-end", "--no-reward-at-end is for PPO"),
        (f"--algorithm grpo {RULE} --no-kl-per-token", "--no-kl-per-token is for PPO"),
        (
            f"{RULE} --prompts p.txt --preferences p.tsv",
            "--preferences p.tsv has no effect with --prompts and a rule",
        ),
    ],
)
def test_a_flag_of_what_this_run_does_not_do_is_refused(flags, message):
    made = ReinforceSettings(**parse(ReinforceSettings, None, flags.split())[0])
    with pytest.raises(UserError, match=message):
        made.refuse_ignored()
    replace(made, resume=True).refuse_ignored()  # begun before it was refused


@pytest.mark.parametrize(
    "flags",
    [
        "--algorithm grpo --group-size 4 --kl 0.5 --steps 7 --n-pairs 9 --rounds 1 --reward-steps 9",
        f"--algorithm dpo {RULE} --prompts p.txt --sampled-prompts 9 --pair-temperature 9",
        "--algorithm dpo --kl 0.5 --steps 7 --n-pairs 9",  # PPO finds what the reward does not know
        "--reward runs/x --sampled-prompts 9 --n-pairs 9",  # DPO beside it learns from them
        f"{DPO} --reward-steps 9 --dpo-steps 9",
        f"--algorithm grpo {RULE} --whiten-rewards --no-reward-at-end",  # then their sum is another
        f"--algorithm dpo {RULE} --prompts p.txt --dpo-steps 9",
        "--algorithm grpo --dpo-steps 9 --best-of 9",
        "--reward r --preferences p.tsv --prompts p.txt --dpo-steps 9",
        "--algorithm grpo --gae-lambda 0",  # of the PPO that finds what the reward does not know
        "--adaptive-kl --kl-target 9",
        "--ablate --kl-target 9",
    ],
)
def test_a_flag_of_what_this_run_does_is_taken(flags):
    ReinforceSettings(**parse(ReinforceSettings, None, flags.split())[0]).refuse_ignored()


def test_values_at_the_border_are_taken():
    ReinforceSettings(seed=0, warmup=0, sampled_prompts=0, clip=0.0, missing_end_score=-9.0, gamma=1.0)
    ReinforceSettings(batch_size=4, minibatches=4, best_of=1, steps=1, kl=0.0, kl_target=0.0)
    ReinforceSettings(algorithm="grpo", batch_size=4, group_size=2)
    ReinforceSettings(algorithm="grpo", ablate=True, resume=True)  # begun before it was refused
    ReinforceSettings(reward="runs/x"), ReinforceSettings(reward_function="a:b")
    ReinforceSettings(algorithm="ppo", batch_size=7)  # the size of a group is GRPO's


def test_the_defaults_are_those_of_the_figures_in_the_readmes():
    own = {name: getattr(ReinforceSettings(), name) for name in ReinforceSettings.__annotations__}
    told = dict(algorithm="ppo", group_size=8, n_pairs=1000, sampled_prompts=3000, answers_a_prompt=4)
    told |= dict(pair_temperature=0.85, rounds=2, reward_steps=700, reward_batch_size=32, reward_lr=None)
    told |= dict(dpo_steps=150, dpo_lr=None, dpo_beta=None, steps=100, batch_size=64, max_new_tokens=32)
    told |= dict(temperature=0.7, lr=None, warmup=10, clip=1.0, contrast=True, best_of=4, ablate=False)
    told |= dict(log_every=10, save_every=20, resume=False)
    files = ("model", "preferences", "prompts", "reward", "reward_function")
    assert own == told | dict.fromkeys(files), "a default of the figures has changed, or a flag is new"


def test_the_rates_of_small_and_of_published_models_are_those_of_the_readme():
    assert dict(lr=4e-4, reward_lr=1e-3, dpo_lr=3e-4, dpo_beta=1.0) == SMALL
    assert dict(lr=1e-5, reward_lr=3e-5, dpo_lr=1e-5, dpo_beta=0.1) == PUBLISHED


def test_every_setting_is_read_somewhere():
    others = {*Path(module.__file__).parent.glob("*.py")} - {Path(module.__file__)}
    code = "".join(path.read_text(encoding="utf-8") for path in others)
    read = set(re.findall(r"\b(?:s|settings|details)\.(\w+)", code))
    read |= {*SMALL} | {field.name for field in fields(TrainingSettings)}  # these go to the one loop
    unread = {field.name for field in fields(ReinforceSettings)} - read
    assert not unread, "a field that nobody reads promises what does not happen"


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(ReinforceSettings(), by_name=True)
