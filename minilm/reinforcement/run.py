"""A whole run: a GPT, optionally a supervised start, a reward, PPO or DPO, the contrasts, the closing table.

`reinforce.py` is this with flags.
"""

import copy
import time
from dataclasses import asdict, replace
from pathlib import Path

from ..model.transformer import Transformer
from ..plumbing.devices import choose_device
from ..plumbing.folders import RESULTS, SETTINGS, choose_folder, write_json
from ..plumbing.settings import show
from ..plumbing.terminal import table
from ..pretraining.run import newest_or_train
from . import report as closing
from .ablation import ablate
from .loop import Task, mark_beginning, train_ppo
from .preferences import load_preferences
from .settings import ReinforceSettings
from .stages import (
    NO_BOUND,
    check_reward,
    collect_and_reward,
    load_policy,
    make_task,
    supervised_start,
    train_dpo,
)


def reinforce(settings: ReinforceSettings) -> Path:
    """Run everything that the settings ask for and return the run folder."""
    began, device = time.perf_counter(), choose_device(settings.device)
    needs_pairs = settings.algorithm == "dpo" or not (settings.reward or settings.reward_function)
    preferences = load_preferences(
        settings.preferences, settings.prompts, settings.n_pairs, settings.seed, needs_pairs
    )
    if settings.model is None:
        found = newest_or_train("causal", settings.seed, settings.device)
        settings = replace(settings, model=str(found))
    model, tokenizer = load_policy(settings.model, device)
    print(f"Policy: {settings.model}, {model.n_parameters():,} weights.\n{preferences.summary()}")
    check_reward(preferences, tokenizer, model, settings)
    task = make_task(preferences, tokenizer, model, settings)
    name = "ablation" if settings.ablate else "reinforce"  # an ablation leaves no policy behind
    folder = choose_folder(name, settings.out, settings.overwrite, settings.resume)
    write_json(folder / SETTINGS, asdict(replace(settings, resume=False, overwrite=False)))
    show(settings)
    if not settings.resume:
        mark_beginning(folder, model)
    if settings.compile:
        model.decoder.compile(dynamic=True)
    supervised_start(model, task, settings, folder)
    results = collect_and_reward(task, settings, folder)
    if settings.ablate:
        results["ablation"] = ablate(task, settings)
    else:
        columns, speed = learn(model, task, settings, folder)
        results |= speed | closing_results(columns, settings.algorithm)
        shown = {key: columns[key] for key in ("start", settings.algorithm, "kl 0") if key in columns}
        print("\n" + table(closing.rows(columns), ("", *columns)) + "\n")
        print(*closing.examples(shown), sep="\n")
    results |= dict(seconds=time.perf_counter() - began, seed=settings.seed)
    write_json(folder / RESULTS, results)
    print(f"\nSaved in {folder} ({results['seconds']:.0f} s).")
    print(f"Next: {next_command(settings, folder)}")
    return folder


def next_command(settings: ReinforceSettings, folder: Path) -> str:
    """Return what to try after this run."""
    if settings.preferences or settings.prompts or settings.reward_function:
        return f"python prompt.py --model {folder} --prompt TEXT"
    if settings.ablate or settings.algorithm == "dpo":
        return f"python reinforce.py --kl 0.3 --model {settings.model}"
    reward = settings.reward or folder / "reward"
    return f"python reinforce.py --ablate --model {settings.model} --reward {reward}"


def learn(model: Transformer, task: Task, settings: ReinforceSettings, folder: Path) -> tuple[dict, dict]:
    """Train the policy, then the contrasts; return the columns of the closing table, and figures of speed."""
    seed = settings.seed + closing.SEED
    columns = {"start": closing.measure(task.reference, task, settings.max_new_tokens, seed)}

    def measured(policy: Transformer) -> closing.Answers:
        return closing.measure(policy, task, settings.max_new_tokens, seed, columns["start"])

    if settings.algorithm == "dpo":
        outcome = train_dpo(model, task, settings, folder)
        columns["dpo"] = measured(model)
        rows = settings.dpo_steps * settings.reward_batch_size
        return columns, dict(sequences_per_second=2 * rows / outcome["seconds"])
    print("PPO:")
    seconds = train_ppo(model, task, settings, folder)
    columns["ppo"] = measured(model)
    if settings.contrast:
        print("\nThe hack, the same with --kl 0:")
        hacked = copy.deepcopy(task.reference).requires_grad_(True)
        train_ppo(hacked, task, without_kl(settings))
        columns["kl 0"] = measured(hacked)
        if task.preferences.pairs:
            print("\nDPO, on the same pairs:")
            direct = copy.deepcopy(task.reference).requires_grad_(True)
            train_dpo(direct, task, settings, folder / "dpo")
            columns["dpo"] = measured(direct)
    speed = settings.steps * settings.batch_size / seconds
    return columns, dict(sequences_per_second=speed, ppo_seconds=seconds)


def without_kl(settings: ReinforceSettings) -> ReinforceSettings:
    """Return the settings of the hack: no KL penalty, no alarm, half the steps."""
    changes = dict(kl=0.0, adaptive_kl=False, warn_kl=NO_BOUND, stop_kl=NO_BOUND)
    return replace(settings, **changes, steps=max(1, settings.steps // 2))


def closing_results(columns: dict[str, closing.Answers], algorithm: str) -> dict[str, float]:
    """Return the figures of the closing table for results.json."""
    start, after = columns["start"].figures, columns[algorithm].figures
    results = {name: value for name, value in after.items() if name not in ("judge", "distinct", "reward")}
    results |= dict(reward_before=start["reward"], reward_after=after["reward"])
    results["distinct_ratio"] = after["distinct"] / start["distinct"]
    if "judge" in after:
        results |= dict(judge_before=start["judge"], judge_after=after["judge"])
    for column, name in (("kl 0", "hacked"), ("dpo", "dpo")):
        if column in columns and column != algorithm:
            figures = columns[column].figures
            results |= {f"{name}_{key}": figures[key] for key in ("judge", "reward", "kl") if key in figures}
    return results
