"""The steps of regime 5 in rounds: pairs (`collect`) -> reward (`make_reward`) -> policy (`learn`).

Source: Ouyang et al. 2022, figure 2; its first step is the pre-training here. A policy in training finds the
errors of its reward model. So, if a judge can compare answers, further rounds let PPO look for such errors,
and train a new reward model on all pairs (Ziegler et al. 2019, section 2.3, online data collection).
"""

import copy
from dataclasses import replace
from pathlib import Path

from ..model.transformer import Transformer
from ..plumbing.errors import UserError
from ..plumbing.folders import RESULTS, write_json
from ..plumbing.script import from_first
from ..pretraining.recipes import LARGE
from ..training.loop import train
from .dpo import DirectPreference
from .ppo import SWITCHES, train_ppo
from .preferences import Preferences, sampled_pairs
from .reward import BradleyTerry, Normalised, held_out_accuracy, reward_model_from
from .rollout import Environment, measure
from .settings import PUBLISHED, SMALL, ReinforceSettings

UNBOUND = dict(warn_kl=1e9, stop_kl=1e9)  # no limits: an exploding KL is part of the lesson


class Rounds:
    """The steps; `run.Reinforcement` adds `stage`, the settings of one training, and `folder`, for models."""

    def __init__(self, settings: ReinforceSettings, preferences: Preferences, env: Environment):
        self.settings, self.preferences, self.env = settings, preferences, env
        self.given = None  # a reward from the user, which is not trained
        usual = SMALL if env.reference.config.d_model < LARGE else PUBLISHED
        self.rates = usual | {n: value for n in usual if (value := getattr(settings, n)) is not None}

    def pairs(self, kind: type, *more):
        """Return an objective of class `kind` on all pairs collected so far."""
        return kind(self.preferences, self.env, self.settings.reward_batch_size, self.settings.seed, *more)

    def train_on_pairs(self, model, objective, folder: Path, steps: int, lr: float) -> dict:
        """Train a reward model, or a policy by DPO."""
        how = dict(steps=steps, batch_size=self.settings.reward_batch_size, lr=lr, eval_every=steps)
        how |= dict(warmup=min(20, steps // 2), schedule="linear", weight_decay=0.01)
        return train(model, objective, self.stage(folder, self.settings, **how), folder, self.env.tokenizer)

    def train_ppo(self, policy: Transformer, folder: Path | None = None, **changes) -> dict:
        """Train a policy by PPO or GRPO, with some settings changed."""
        s, env = replace(self.settings, lr=self.rates["lr"], **changes), self.env
        if s.algorithm != "grpo":
            s = replace(s, group_size=1)
        if not s.normalise_reward:  # for training; `measure` always uses the normalised one
            env = replace(env, reward=env.reward.reward)
        return train_ppo(policy, env, s, self.stage(folder, s, log_every=1, eval_every=s.log_every), folder)

    def make_reward(self) -> dict[str, float]:
        """Set `env.reward`, and return its accuracy on held-out pairs, if there are any."""
        s, env, found, figures = self.settings, self.env, self.preferences, {}
        own_pairs = env.judge and s.sampled_prompts and not s.reward_function
        if s.algorithm == "dpo" and not found.pairs:  # the given reward ranks the policy's answers
            own_pairs, env.reward = True, self.given
        last = s.rounds - 1 if own_pairs and not self.given else 0  # index of the last round
        for number in range(last + 1):
            if number:
                print("A short run of PPO, to find answers that the reward model scores wrongly:")
                writer = copy.deepcopy(env.reference).requires_grad_(True)
                # PPO even before GRPO: so the reward model of a seed is the same for all algorithms
                self.train_ppo(writer, steps=max(1, s.steps // 3), algorithm="ppo", **UNBOUND)
            if own_pairs:
                self.collect(writer if number else env.reference, number, last + 1)
            objective = self.pairs(BradleyTerry) if found.pairs else None
            if not (model := self.given):
                print("Reward model:")
                model = reward_model_from(env.reference, s.seed)
                folder = self.folder / ("reward" if number == last else f"reward-{number + 1}")
                steps = s.reward_steps if number == last else max(1, s.reward_steps // 2)
                self.train_on_pairs(model, objective, folder, steps, self.rates["reward_lr"])
            two = ("reward_accuracy", found.held_out_pairs), ("own_reward_accuracy", found.own_held_out_pairs)
            skip = s.reward_function or (own_pairs and not env.judge)  # a rule, or it ranked the pairs itself
            for name, pairs in two:
                if objective and pairs and not skip:
                    share, low, high = held_out_accuracy(model, objective, pairs)
                    print(f"{name}: {share:.3f} of {len(pairs):,} (95 % interval {low:.3f} to {high:.3f})")
                    figures |= {name: share, f"{name}_low": low, f"{name}_high": high}
            if not self.given:
                write_json(folder / RESULTS, figures | dict(seed=s.seed))
            env.reward = Normalised(model, env, s.seed + 1)
        return figures

    def collect(self, writer: Transformer, number: int, n_round: int) -> None:
        """Add training and held-out pairs of the writer's own answers; each round takes other prompts."""
        s, found = self.settings, self.preferences
        others = list(dict.fromkeys(prompt for prompt, _, _ in found.held_out_pairs)) or found.test_prompts
        n = max(1, min(s.sampled_prompts, len(found.prompts)) // n_round)
        n_other = max(1, min(n // 4, len(others) // n_round))
        seed, new = 2 * (s.seed + 1000 * number), []
        for prompts in (found.prompts[number * n :][:n], others[number * n_other :][:n_other]):
            drawn = prompts, s.answers_a_prompt, (seed + len(new)) * 10**6, s.pair_temperature
            new.append(from_first(lambda drawn=drawn: sampled_pairs(writer, self.env, *drawn)))
        found.pairs += new[0]
        found.own_held_out_pairs += new[1]
        print(f"Pairs of the policy's own answers: {len(new[0]):,}, and {len(new[1]):,} held out.")
        found.held_out_pairs = found.held_out_pairs or new[1]
        if not (found.pairs and found.held_out_pairs):
            which = "no held-out prompt has a better" if found.pairs else "no prompt has a better"
            raise UserError(f"{which} and a worse finished answer: more --answers-a-prompt or prompts")

    def learn(self) -> tuple[dict, dict]:
        """Train a policy in each way; return the measurements, the start first, and the training seconds."""
        s, env, seed, seconds = self.settings, self.env, self.settings.seed + 2, {}
        columns = dict(start=measure(env.reference, env, seed))
        ways, contrast = {s.algorithm: {}}, s.contrast and s.algorithm != "dpo" and not s.ablate
        if contrast:  # reward hacking; and DPO, without a reward model, on the same pairs (a rule has none)
            ways["kl 0"] = UNBOUND | dict(kl=0.0, adaptive_kl=False)
            ways |= dict(dpo={}) if self.preferences.pairs and not s.reward_function else {}
        if s.ablate:
            ways = {name: UNBOUND | changes for _, name, changes in SWITCHES}
        for name, changes in ways.items():
            print(f"\n{name}:")
            policy = copy.deepcopy(env.reference).requires_grad_(True)
            folder = self.folder if name == s.algorithm else None
            if name == "dpo":
                objective = self.pairs(DirectPreference, self.rates["dpo_beta"])
                how = folder or self.folder / "dpo", s.dpo_steps, self.rates["dpo_lr"]
                outcome = self.train_on_pairs(policy, objective, *how)
            else:
                outcome = self.train_ppo(policy, folder, **changes)
            seconds[name] = outcome["seconds"]
            columns[name] = measure(policy, env, seed, columns["start"])
        if contrast:
            columns[f"best of {s.best_of}"] = measure(env.reference, env, seed, columns["start"], s.best_of)
        return columns, seconds
