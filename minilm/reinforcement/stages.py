"""What comes before PPO: the policy and its task, the optional supervised start, the reward.

Each stage is trained by the one loop (`minilm/training/loop.py`) in a folder of its own inside the run's.
"""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint import load, load_trainer
from ..model.sampling import SamplingRule
from ..model.transformer import Transformer
from ..plumbing.errors import UserError
from ..plumbing.folders import LOG, RESULTS, TRAINER, WEIGHTS, make_folder, write_json
from ..plumbing.progress import Interrupted
from ..tokenizer.rows import END
from ..training.checkpoints import evaluate
from ..training.loop import TrainingSettings, train
from ..training.objective import Objective
from .dpo import DirectPreference
from .loop import Task, train_ppo
from .preferences import Preferences, encode_prompts
from .reward import (
    BradleyTerry,
    LearnedReward,
    Normalised,
    RewardModel,
    RuleReward,
    confidence_interval,
    load_function,
    load_reward_model,
    reward_model_from,
)
from .rollout import draw_answers, frozen_copy
from .sampled_pairs import add_sampled_pairs
from .settings import ReinforceSettings
from .supervised import Supervised

NO_BOUND = 1e9  # for the alarms of the KL, where an explosion is part of the lesson
NORMALISING_ANSWERS = 64  # at least so many samples tell the mean and deviation of a reward
NORMALISING_SEED = 1  # added to the run's seed: for the samples on which a reward is normalised


def load_policy(source: str, device: torch.device) -> tuple[Transformer, object]:
    """Return (model, tokenizer) of a run folder; UserError unless it is a decoder that can end a text."""
    model, tokenizer = load(source, device.type)
    if model.config.kind != "decoder":
        raise UserError(
            f"--model {source}: of kind {model.config.kind}, and a policy has to write; give a decoder, such "
            "as the run of python train.py --objective causal"
        )
    if tokenizer is None:
        raise UserError(f"--model {source}: no tokenizer in it, so its texts cannot be read")
    tokenizer.special_id(END)
    return model, tokenizer


def check_reward(
    preferences: Preferences, tokenizer, model: Transformer, settings: ReinforceSettings
) -> None:
    """Raise UserError where what is to be learnt from cannot be used, before anything has been trained."""
    if preferences.pairs:
        DirectPreference(preferences, tokenizer, model, settings.reward_batch_size)  # each must fit the model
    if settings.supervised_steps and not preferences.pairs:
        raise UserError("--supervised-steps needs pairs to learn from: add --preferences FILE")
    if settings.reward:
        load_reward_model(settings.reward, tokenizer)
    if settings.reward_function:
        load_function(settings.reward_function)


def make_task(preferences: Preferences, tokenizer, model: Transformer, settings: ReinforceSettings) -> Task:
    """Return the task, with the model as it is now for a reference and no reward yet."""
    rule = SamplingRule(eos_id=tokenizer.special_id(END), temperature=settings.temperature)
    prompts, test_prompts = (
        encode_prompts(tokenizer, texts, model.config, settings.max_new_tokens)
        for texts in (preferences.prompts, preferences.test_prompts)
    )
    return Task(preferences, tokenizer, frozen_copy(model), rule, prompts, test_prompts)


def train_stage(
    model: torch.nn.Module,
    objective: Objective,
    settings: ReinforceSettings,
    folder: Path,
    steps: int,
    lr: float,
) -> dict:
    """Train `model` in `folder` and return what `training.train` does; with --resume a checkpoint goes on."""
    make_folder(folder)
    (folder / LOG).touch()
    stage = TrainingSettings(
        steps=steps,
        batch_size=settings.reward_batch_size,
        lr=lr,
        warmup=min(20, steps // 2),
        schedule="linear",
        weight_decay=0.01,
        eval_every=steps,
        seed=settings.seed,
        precision=settings.precision,
        compile=settings.compile,
        resume=settings.resume and (folder / TRAINER).exists() and load_trainer(folder)["step"] > 0,
    )
    try:
        return train(model, objective, stage, folder, objective.tokenizer)
    except Interrupted as stop:
        where = f"stopped while training in {folder}, saved"
        raise Interrupted(f"{where}; to go on: --resume --out {settings.out or folder.parent}") from stop


def supervised_start(model: Transformer, task: Task, settings: ReinforceSettings, folder: Path) -> None:
    """Let policy and reference begin from the chosen answers, where the settings ask for it."""
    if not settings.supervised_steps:
        return
    print("Supervised start, on the chosen answers:")
    pairs = (task.preferences, task.tokenizer, model.config, settings.reward_batch_size, settings.seed)
    train_stage(
        model,
        Supervised(*pairs),
        settings,
        folder / "supervised",
        settings.supervised_steps,
        settings.reward_lr,
    )
    task.reference = frozen_copy(model)


def compare_own_answers(model: Transformer, task: Task, settings: ReinforceSettings, number: int) -> None:
    """Add pairs of a model's own answers to the world's: collection `number`, from 0."""
    preferences = task.preferences
    before = len(preferences.pairs), len(preferences.own_held_out_pairs)
    add_sampled_pairs(model, task, settings, number)
    train, held_out = len(preferences.pairs) - before[0], len(preferences.own_held_out_pairs) - before[1]
    print(
        f"Pairs of the policy's own answers, as the judge prefers them: {train:,} and {held_out:,} held out."
    )


def collect_and_reward(task: Task, settings: ReinforceSettings, folder: Path) -> dict[str, float]:
    """Collect pairs where a judge can compare them, and put a reward into the task; see `make_reward`.

    A policy that learns finds what its reward model does not know, so further rounds let PPO look for it in a
    third of its steps, compare what it writes then, and train the reward model anew on all pairs. Source:
    Ziegler et al. 2019, section 2.3 (online data collection).
    """
    own_pairs = (
        task.preferences.judge is not None and settings.sampled_prompts and not settings.reward_function
    )
    if not own_pairs:
        return make_reward(task, settings, folder / "reward")
    compare_own_answers(task.reference, task, settings, 0)
    if settings.reward:
        return make_reward(task, settings, folder / "reward")
    for number in range(1, settings.rounds):
        shorter = replace(settings, reward_steps=max(1, settings.reward_steps // 2))
        make_reward(task, shorter, folder / f"reward-{number}")
        print("PPO for a while, to find what the reward model does not know:")
        scout = copy.deepcopy(task.reference).requires_grad_(True)
        try:
            train_ppo(scout, task, replace(settings, steps=max(1, settings.steps // 3), stop_kl=NO_BOUND))
        except Interrupted as stop:
            raise Interrupted(f"stopped before PPO proper; to go on: --resume --out {folder}") from stop
        compare_own_answers(scout, task, settings, number)
    return make_reward(task, settings, folder / "reward")


def train_dpo(model: Transformer, task: Task, settings: ReinforceSettings, folder: Path) -> dict:
    """Let the model learn from the pairs directly, in place."""
    pairs = (task.preferences, task.tokenizer, task.reference, settings.reward_batch_size, settings.seed)
    objective = DirectPreference(*pairs, settings.dpo_beta)
    return train_stage(model, objective, settings, folder, settings.dpo_steps, settings.dpo_lr)


def make_reward(task: Task, settings: ReinforceSettings, folder: Path) -> dict[str, float]:
    """Put the reward into the task: a rule, or a reward model that is there or is trained now in `folder`.

    Returns the figures of `reward_accuracy`, where there are pairs.
    """
    accuracy = {}
    if settings.reward_function:
        reward = RuleReward(load_function(settings.reward_function))
    else:
        reward_model, objective = reward_model_for(task, settings, folder)
        if objective:
            accuracy = reward_accuracy(reward_model, objective, task.preferences)
        if not settings.reward:
            write_json(folder / RESULTS, accuracy | dict(seed=settings.seed))
        reward = LearnedReward(reward_model)
    seed = settings.seed + NORMALISING_SEED
    prompts = task.test_prompts * -(-NORMALISING_ANSWERS // len(task.test_prompts))  # each several times
    rollout = draw_answers(task.reference, prompts, task.rule, settings.max_new_tokens, seed)
    task.reward = Normalised(reward, rollout, task.texts(rollout), settings.normalise_reward)
    return accuracy


def reward_model_for(
    task: Task, settings: ReinforceSettings, folder: Path
) -> tuple[RewardModel, BradleyTerry | None]:
    """Return the reward model, loaded or trained in `folder`, and the objective with its held-out pairs."""
    objective = None
    if task.preferences.pairs:
        config = task.reference.config
        pairs = (task.preferences, task.tokenizer, config, settings.reward_batch_size, settings.seed)
        objective = BradleyTerry(*pairs)
    device = task.reference.tokens.weight.device.type
    if settings.reward:
        return load_reward_model(settings.reward, task.tokenizer, device), objective
    if settings.resume and (folder / RESULTS).exists() and (folder / WEIGHTS).exists():
        return load_reward_model(folder, task.tokenizer, device), objective
    print("Reward model:")
    reward_model = reward_model_from(task.reference, settings.seed)
    train_stage(reward_model, objective, settings, folder, settings.reward_steps, settings.reward_lr)
    return reward_model, objective


def reward_accuracy(
    model: RewardModel, objective: BradleyTerry, preferences: Preferences
) -> dict[str, float]:
    """Return and print the accuracy on the held-out pairs, with the ends of its 95 % interval.

    `own_reward_accuracy` is that on held-out pairs of answers which the policy wrote itself, where there are
    any: mostly grammar, and those of a policy that has learnt to please are the hardest.
    """
    names = {"reward_accuracy": ("held-out pairs", preferences.held_out_pairs)}
    names["own_reward_accuracy"] = ("held-out pairs of its own answers", preferences.own_held_out_pairs)
    figures = {}
    for name, (what, pairs) in names.items():
        if not pairs:
            continue
        objective.rows["validation"] = objective.padded(pairs)
        share = evaluate(model, objective, TrainingSettings(batch_size=objective.batch_size))["accuracy"]
        share = round(share * len(pairs)) / len(pairs)  # sums of float32 may end above 1
        low, high = confidence_interval(share, len(pairs))
        print(f"Reward model: {share:.3f} of the {what} right (95 % interval {low:.3f} to {high:.3f}).")
        figures |= {name: share, f"{name}_low": low, f"{name}_high": high}
    return figures
