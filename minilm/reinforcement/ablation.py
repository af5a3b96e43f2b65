"""Each detail of PPO switched off by itself, and measured: one row of the table in README a detail."""

import copy
from dataclasses import replace

from ..plumbing.terminal import table
from . import report as closing
from .loop import Task, train_ppo
from .reward import Normalised
from .settings import ReinforceSettings

# number of the detail in ppo.py, what is switched off, and how
SWITCHES: tuple[tuple[int, str, dict], ...] = (
    (0, "nothing", {}),
    (1, "value head begins at random", dict(zero_value_head=False)),
    (2, "no KL", dict(kl=0.0)),
    (2, "KL paid at the end", dict(kl_per_token=False)),
    (3, "KL coefficient adapts", dict(adaptive_kl=True)),
    (4, "reward spread over the tokens", dict(reward_at_end=False)),
    (5, "no penalty without an end", dict(missing_end_score=None)),
    (6, "lambda 1: no values in the future", dict(gae_lambda=1.0)),
    (6, "lambda 0: one token ahead", dict(gae_lambda=0.0)),
    (7, "rewards as they are", dict(whiten_rewards=False)),
    (7, "advantages as they are", dict(whiten_advantages=False)),
    (8, "ratio not clipped", dict(clip_ratio=0.0)),
    (8, "value not clipped", dict(clip_value=0.0)),
    (9, "one pass", dict(epochs=1)),
    (9, "one minibatch", dict(minibatches=1)),
    (9, "minibatches not shuffled", dict(shuffle=False)),
    (10, "no warm-up", dict(warmup=0)),
    (10, "learning rate stays", dict(anneal=False)),
    (11, "reward not normalised", dict(normalise_reward=False)),
)
HEADER = ("detail", "switched off", "reward", "judge", "KL", "different", "seconds")


def ablate(task: Task, settings: ReinforceSettings) -> list[dict]:
    """Train one policy a switch, each from the same start, and print the table; return its rows."""
    seed = settings.seed + closing.SEED
    start = closing.measure(task.reference, task, settings.max_new_tokens, seed)
    rows, found = [(None, "(start)", *figures(start), None)], []
    for number, name, changes in SWITCHES:
        print(f"\n{number}: {name}")
        changed = replace(settings, **changes, warn_kl=1e9, stop_kl=1e9)
        policy = copy.deepcopy(task.reference).requires_grad_(True)
        raw = isinstance(task.reward, Normalised) and not changed.normalise_reward
        seconds = train_ppo(policy, replace(task, reward=task.reward.reward) if raw else task, changed)
        answers = closing.measure(policy, task, settings.max_new_tokens, seed, start)
        rows.append((number, name, *figures(answers), seconds))
        found.append(dict(detail=number, name=name, seconds=seconds) | answers.figures)
    print("\n" + table(rows, HEADER))
    return found


def figures(answers: closing.Answers) -> tuple:
    """Return the four figures of a row."""
    return tuple(answers.figures.get(name) for name in ("reward", "judge", "kl", "distinct"))
