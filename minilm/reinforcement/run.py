"""A whole run: a GPT, optionally a supervised start, a reward, PPO or DPO, the contrasts, the closing table.

`reinforce.py` is this with flags.
"""

import copy
import time
from dataclasses import replace
from pathlib import Path

import torch

from .. import cli
from ..atomic import write_json
from ..checkpoint import load, load_trainer
from ..devices import choose_device
from ..errors import UserError
from ..inputs import END
from ..models import Transformer
from ..pretraining.run import newest_or_train
from ..runs import LOG, RESULTS, SETTINGS, TRAINER, choose_folder, make_folder
from ..sampling import SamplingRule
from ..training import Interrupted, TrainingSettings, evaluate, train
from . import closing
from .ablation import ablate
from .dpo import DirectPreference
from .loop import Task, train_ppo
from .preferences import Preferences, encode_prompts, load_preferences
from .reward import (
    BradleyTerry,
    LearnedReward,
    Normalised,
    RuleReward,
    confidence_interval,
    load_function,
    load_reward_model,
    reward_model_from,
)
from .rollout import draw_answers, frozen_copy
from .settings import ReinforceSettings
from .supervised import Supervised

NORMALISING_SEED, CLOSING_SEED = (
    1,
    2,
)  # added to the run's seed: answers to normalise with, answers to measure


def reinforce(settings: ReinforceSettings) -> Path:
    """Run everything that the settings ask for and return the run folder."""
    began, device = time.perf_counter(), choose_device(settings.device)
    source = settings.model or str(newest_or_train("causal", settings.seed, settings.device))
    model, tokenizer = load_policy(source, device)
    needs_pairs = settings.algorithm == "dpo" or not (settings.reward or settings.reward_function)
    preferences = load_preferences(
        settings.preferences, settings.prompts, settings.n_pairs, settings.seed, needs_pairs
    )
    print(f"Policy: {source}, {model.n_parameters():,} weights.\n{preferences.summary()}")
    task = make_task(preferences, tokenizer, model, settings)
    folder = choose_folder("reinforce", settings.out, settings.overwrite, settings.resume)
    write_json(folder / SETTINGS, cli.settings_dict(replace(settings, resume=False, overwrite=False)))
    cli.show(settings)
    if settings.compile:
        model.decoder.compile(dynamic=True)
    prepare_start(model, task, settings, folder)
    accuracy = make_reward(model, task, settings, folder)
    if settings.ablate:
        columns, more = {}, dict(ablation=ablate(model, task, settings))
    else:
        columns, more = learn(model, task, settings, folder)
    close(task, settings, folder, columns, accuracy | more, time.perf_counter() - began)
    return folder


def load_policy(source: str, device: torch.device) -> tuple[Transformer, object]:
    """Return (model, tokenizer) of a run folder; UserError unless it is a decoder that can end a text."""
    model, tokenizer = load(source, device.type)
    if model.config.kind != "decoder":
        raise UserError(
            f"--model {source}: of kind {model.config.kind}, and a policy has to write: give a decoder, such as "
            "the run of python train.py --objective causal"
        )
    if tokenizer is None:
        raise UserError(f"--model {source}: no tokenizer in it, so its texts cannot be read")
    tokenizer.special_id(END)
    return model, tokenizer


def make_task(preferences: Preferences, tokenizer, model: Transformer, settings: ReinforceSettings) -> Task:
    """Return the task, with the model as it is now for a reference and no reward yet."""
    rule = SamplingRule(eos_id=tokenizer.special_id(END), temperature=settings.temperature)
    prompts, test_prompts = (
        encode_prompts(tokenizer, texts, model.config, settings.max_new_tokens)
        for texts in (preferences.prompts, preferences.test_prompts)
    )
    return Task(preferences, tokenizer, frozen_copy(model), rule, prompts, test_prompts)


def prepare_start(model: Transformer, task: Task, settings: ReinforceSettings, folder: Path) -> None:
    """Make the policy and its reference what they begin as: the loaded model, or after the supervised start."""
    if settings.resume and (folder / TRAINER).exists() and settings.algorithm == "ppo":
        state = load_trainer(folder)
        if "reference" in state:
            task.reference.load_state_dict(state["reference"])
            model.load_state_dict(state["reference"])
        return
    if settings.supervised_steps:
        print("Supervised start, on the chosen answers:")
        objective = Supervised(
            task.preferences, task.tokenizer, model.config, settings.reward_batch_size, settings.seed
        )
        run_stage(
            "supervised", model, objective, settings, folder, settings.supervised_steps, settings.reward_lr
        )
        task.reference = frozen_copy(model)


def run_stage(
    name: str, model, objective, settings: ReinforceSettings, folder: Path, steps: int, lr: float
) -> dict:
    """Train `model` with the one loop, in a folder inside the run's; return what `training.train` does."""
    inside = folder / name
    make_folder(inside, exist_ok=True)
    (inside / LOG).write_text("", encoding="utf-8")
    stage = TrainingSettings(
        steps=steps, batch_size=settings.reward_batch_size, lr=lr, warmup=min(20, steps // 2), schedule="linear",
        weight_decay=0.01, eval_every=max(1, steps // 2), save_every=steps, seed=settings.seed,
        precision=settings.precision,
    )  # fmt: skip
    try:
        return train(model, objective, stage, inside, task_tokenizer(objective))
    except Interrupted:
        raise Interrupted(f"stopped in the stage {name}, before PPO; start again with --overwrite") from None


def task_tokenizer(objective):
    """Return the tokenizer that an objective reads with."""
    return objective.tokenizer


def make_reward(
    model: Transformer, task: Task, settings: ReinforceSettings, folder: Path
) -> dict[str, float]:
    """Put the reward into the task: a rule, a reward model that is there, or one that is trained now.

    Returns `reward_accuracy` on the held-out pairs with the ends of its 95 % interval, where there are pairs.
    """
    accuracy = {}
    if settings.reward_function:
        reward = RuleReward(load_function(settings.reward_function))
    else:
        finished = folder / "reward" / RESULTS
        source = settings.reward or (str(finished.parent) if finished.exists() else None)
        objective = None
        if task.preferences.held_out_pairs:
            objective = BradleyTerry(
                task.preferences, task.tokenizer, model.config, settings.reward_batch_size, settings.seed
            )
        if source:
            reward_model = load_reward_model(source, task.tokenizer, model.tokens.weight.device.type)
        else:
            reward_model = reward_model_from(model, settings.seed)
            print("Reward model:")
            run_stage(
                "reward", reward_model, objective, settings, folder, settings.reward_steps, settings.reward_lr
            )
        if objective:
            stage = TrainingSettings(batch_size=settings.reward_batch_size)
            share = evaluate(reward_model, objective, stage)["accuracy"]
            low, high = confidence_interval(share, len(task.preferences.held_out_pairs))
            accuracy = dict(reward_accuracy=share, reward_accuracy_low=low, reward_accuracy_high=high)
            print(f"Reward model: {share:.3f} of the held-out pairs right (95 %: {low:.3f} to {high:.3f}).")
        if not source:
            write_json(finished, accuracy | dict(seed=settings.seed))
        reward = LearnedReward(reward_model)
    rollout = draw_answers(
        task.reference,
        task.test_prompts,
        task.rule,
        settings.max_new_tokens,
        settings.seed + NORMALISING_SEED,
    )
    task.reward = Normalised(reward, rollout, task.texts(rollout), settings.normalise_reward)
    return accuracy


def learn(model: Transformer, task: Task, settings: ReinforceSettings, folder: Path) -> tuple[dict, dict]:
    """Train the policy, then the contrasts; return the columns of the closing table, and figures of speed."""
    seed = settings.seed + CLOSING_SEED
    columns = {"start": closing.measure(task.reference, task, settings.max_new_tokens, seed)}

    def measured(policy: Transformer) -> closing.Answers:
        return closing.measure(policy, task, settings.max_new_tokens, seed, columns["start"])

    more = {}
    if settings.algorithm == "dpo":
        train_dpo(model, task, settings, folder)
        columns["dpo"] = measured(model)
        return columns, more
    print("PPO:")
    seconds = train_ppo(model, task, settings, folder)
    more = dict(ppo_seconds=seconds, sequences_per_second=settings.steps * settings.batch_size / seconds)
    columns["ppo"] = measured(model)
    if settings.contrast:
        print("\nThe hack: the same without the KL penalty (--kl 0):")
        unbound = replace(settings, kl=0.0, adaptive_kl=False, warn_kl=1e9, stop_kl=1e9)
        hacked = copy.deepcopy(task.reference).requires_grad_(True)
        train_ppo(hacked, task, replace(unbound, steps=max(1, settings.steps // 2)))
        columns["kl 0"] = measured(hacked)
        if task.preferences.pairs:
            print("\nDPO, on the same pairs:")
            direct = copy.deepcopy(task.reference).requires_grad_(True)
            train_dpo(direct, task, settings, folder)
            columns["dpo"] = measured(direct)
    return columns, more


def train_dpo(model: Transformer, task: Task, settings: ReinforceSettings, folder: Path) -> None:
    """Let the model learn from the pairs directly, in place."""
    objective = DirectPreference(
        task.preferences, task.tokenizer, task.reference, settings.reward_batch_size, settings.seed,
        settings.dpo_beta,
    )  # fmt: skip
    run_stage("dpo", model, objective, settings, folder, settings.dpo_steps, settings.dpo_lr)


def close(
    task: Task, settings: ReinforceSettings, folder: Path, columns: dict, more: dict, seconds: float
) -> None:
    """Print the closing table and five examples, and write results.json: the run is finished."""
    results = dict(more)
    if columns:
        print("\n" + cli.table(closing.rows(columns), ("", *columns)) + "\n")
        shown = {name: answers for name, answers in columns.items() if name != "dpo" or len(columns) == 2}
        print(*closing.examples(shown), sep="\n")
        start, after = columns["start"].figures, columns[settings.algorithm].figures
        results |= {name: value for name, value in after.items() if name not in ("judge", "distinct")}
        results["distinct_ratio"] = after["distinct"] / start["distinct"]
        results |= dict(reward_before=start["reward"])
        if "judge" in after:
            results |= dict(judge_before=start["judge"], judge_after=after["judge"])
        if "kl 0" in columns:
            hacked = columns["kl 0"].figures
            results |= {f"hacked_{k}": hacked[k] for k in ("judge", "reward", "kl") if k in hacked}
    write_json(folder / RESULTS, results | dict(seconds=seconds, seed=settings.seed))
    print(
        f"\nSaved in {folder} ({seconds:.0f} s).\nNext: python reinforce.py --ablate --reward {folder}/reward"
    )
