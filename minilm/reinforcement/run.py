"""A whole run: a GPT, a reward, PPO or DPO, the contrasts, the closing table (`reinforce.py`)."""

import copy
import time
from dataclasses import fields, replace
from pathlib import Path

from ..checkpoint import load_trainer, save_trainer
from ..model.sampling import SamplingRule
from ..model.transformer import Transformer
from ..plumbing.errors import UserError
from ..plumbing.folders import RESULTS, TRAINER, choose_folder, write_json
from ..plumbing.script import begin, finish
from ..pretraining.run import start_model
from ..tokenizer.rows import END
from ..training.checkpoints import Interrupted
from ..training.loop import TrainingSettings, train
from . import report, reward
from .dpo import DirectPreference
from .ppo import train_ppo
from .preferences import encode_prompts, load_preferences, sampled_pairs
from .rollout import Environment, measure
from .settings import ReinforceSettings

UNBOUND = dict(warn_kl=1e9, stop_kl=1e9)  # where an explosion of the KL is part of the lesson


class Reinforcement:
    """A run. Making one reads all that it needs, so that mistakes are found before anything is trained."""

    def __init__(self, settings: ReinforceSettings):
        s = settings
        needs_pairs = s.algorithm == "dpo" or not (s.reward or s.reward_function)
        self.preferences = found = load_preferences(s.preferences, s.prompts, s.n_pairs, s.seed, needs_pairs)
        source, model, tokenizer = start_model(s.model, "causal", s)
        self.settings = replace(s, model=str(source))
        if model.config.kind != "decoder":
            what = f"--model {source}: of kind {model.config.kind}, and a policy has to write"
            raise UserError(f"{what}; give a decoder, such as the run of python train.py --objective causal")
        rule, n = SamplingRule(eos_id=tokenizer.special_id(END), temperature=s.temperature), s.max_new_tokens
        both = found.prompts, found.test_prompts
        prompts = (encode_prompts(tokenizer, texts, model.config, n) for texts in both)
        self.env = Environment(tokenizer, model.requires_grad_(False), rule, n, *prompts, found.judge)
        if found.pairs:
            self.pairs(reward.BradleyTerry)  # each must fit the model
        self.given = reward.Rule(reward.load_function(s.reward_function)) if s.reward_function else None
        if s.reward:
            self.given = reward.load_reward_model(s.reward, tokenizer, model.tokens.weight.device.type)
        print(f"Policy: {source}, {model.n_parameters():,} weights; {found.name}: {len(found.pairs):,} pairs")

    def run(self) -> Path:
        """Do everything that the settings ask for and return the run folder."""
        s, began = self.settings, time.perf_counter()
        self.folder = begin("ablation" if s.ablate else "reinforce", s)
        if not s.resume:  # so that a run which is stopped before PPO begins can go on too
            save_trainer(self.folder, dict(step=0, model=self.env.reference.state_dict()))
        try:
            accuracy = self.make_reward()
            table, lines, results = report.closing(*self.learn(), s)
        except KeyboardInterrupt as stop:
            raise Interrupted(f"stopped, saved; to go on: --resume --out {self.folder}") from stop
        seconds, then = time.perf_counter() - began, report.next_command(s, self.folder)
        finish(self.folder, s, [table], lines, accuracy | results, seconds, then)
        return self.folder

    def pairs(self, kind: type, *arguments):
        """Return the objective of a kind on all pairs so far."""
        s = self.settings
        return kind(self.preferences, self.env, s.reward_batch_size, s.seed, *arguments)

    def stage(self, folder: Path | None, s: ReinforceSettings, **changes) -> TrainingSettings:
        """Return the settings of a training: in a folder that has a checkpoint, with --resume, it goes on."""
        goes_on = folder and s.resume and (folder / TRAINER).exists() and load_trainer(folder)["step"] > 0
        if folder and folder != self.folder and not goes_on:
            choose_folder("", str(folder), overwrite=True)
        names = {field.name for field in fields(TrainingSettings)} & set(vars(s))
        values = {name: getattr(s, name) for name in names} | changes
        return TrainingSettings(**values | dict(resume=bool(goes_on)))

    def train_on_pairs(self, model, objective, folder: Path, steps: int, lr: float) -> dict:
        """Train a reward model, or a policy by DPO."""
        changes = dict(steps=steps, batch_size=self.settings.reward_batch_size, lr=lr, eval_every=steps)
        changes |= dict(warmup=min(20, steps // 2), schedule="linear", weight_decay=0.01)
        settings = self.stage(folder, self.settings, **changes)
        return train(model, objective, settings, folder, self.env.tokenizer)

    def train_ppo(self, policy: Transformer, folder: Path | None = None, **changes) -> dict:
        """Let a policy learn by PPO, with these changes of the settings."""
        s, env = replace(self.settings, **changes), self.env
        if not s.normalise_reward:  # in what it learns from; all are measured by the same one
            env = replace(env, reward=env.reward.reward)
        return train_ppo(policy, env, s, self.stage(folder, s, log_every=1, eval_every=s.log_every), folder)

    def make_reward(self) -> dict[str, float]:
        """Put a reward into the environment; return its accuracy on held-out pairs, where there are any.

        A policy that learns finds what its reward model does not know. So, where a judge can compare answers,
        further rounds let PPO look for it in a third of its steps, compare what it writes then, and train the
        reward model anew on all pairs. Source: Ziegler et al. 2019, section 2.3 (online data collection).
        """
        s, env, found, figures = self.settings, self.env, self.preferences, {}
        own_pairs = env.judge and s.sampled_prompts and not s.reward_function
        last, writer = s.rounds - 1 if own_pairs and not self.given else 0, env.reference
        for number in range(last + 1):
            if number:
                print("PPO for a while, to find what the reward model does not know:")
                writer = copy.deepcopy(env.reference).requires_grad_(True)
                self.train_ppo(writer, steps=max(1, s.steps // 3), **UNBOUND)
            if own_pairs:
                self.collect(writer, number)
            objective = self.pairs(reward.BradleyTerry) if found.pairs else None
            if not (model := self.given):
                print("Reward model:")
                model = reward.reward_model_from(env.reference, s.seed)
                folder = self.folder / ("reward" if number == last else f"reward-{number + 1}")
                steps = s.reward_steps if number == last else max(1, s.reward_steps // 2)
                self.train_on_pairs(model, objective, folder, steps, s.reward_lr)
            both = (("", found.held_out_pairs), ("own_", found.own_held_out_pairs))
            for own, pairs in both if objective and not s.reward_function else ():
                if pairs:
                    name = own + "reward_accuracy"
                    share, low, high = reward.held_out_accuracy(model, objective, pairs)
                    print(f"{name}: {share:.3f} of {len(pairs):,} (95 % interval {low:.3f} to {high:.3f})")
                    figures |= {name: share, f"{name}_low": low, f"{name}_high": high}
            if not self.given:
                write_json(folder / RESULTS, figures | dict(seed=s.seed))
            env.reward = reward.Normalised(model, env, s.seed + 1)
        return figures

    def collect(self, writer: Transformer, number: int) -> None:
        """Add pairs of a model's own answers, to learn from and held out; each time to other prompts."""
        s, found = self.settings, self.preferences
        others = list(dict.fromkeys(prompt for prompt, _, _ in found.held_out_pairs))
        n = max(1, s.sampled_prompts // s.rounds)
        n_other = max(1, min(n // 4, len(others) // s.rounds))
        seed, new = 2 * (s.seed + 1000 * number), []
        for prompts in (found.prompts[number * n :][:n], others[number * n_other :][:n_other]):
            drawn = s.answers_a_prompt, (seed + len(new)) * 10**6, s.pair_temperature
            new.append(sampled_pairs(writer, self.env, prompts, *drawn))
        found.pairs += new[0]
        found.own_held_out_pairs += new[1]
        print(f"Pairs of the policy's own answers: {len(new[0]):,}, and {len(new[1]):,} held out.")

    def learn(self) -> tuple[dict, dict]:
        """Train a policy in each way; return what is measured, the start first, and the seconds."""
        s, env, seconds = self.settings, self.env, {}
        columns = dict(start=measure(env.reference, env, s.seed + 2))
        ways = {s.algorithm: {}}
        if s.contrast and s.algorithm == "ppo":  # the hack, and the same pairs without a reward model
            ways["kl 0"] = UNBOUND | dict(kl=0.0, adaptive_kl=False, steps=max(1, s.steps // 2))
            ways |= dict(dpo={}) if self.preferences.pairs else {}
        if s.ablate:
            ways = {name: UNBOUND | changes for _, name, changes in report.SWITCHES}
        for name, changes in ways.items():
            print(f"\n{name}:")
            policy = copy.deepcopy(env.reference).requires_grad_(True)
            folder = self.folder if name == s.algorithm else None
            if name == "dpo":
                objective, folder = self.pairs(DirectPreference, s.dpo_beta), folder or self.folder / "dpo"
                outcome = self.train_on_pairs(policy, objective, folder, s.dpo_steps, s.dpo_lr)
            else:
                outcome = self.train_ppo(policy, folder, **changes)
            seconds[name] = outcome["seconds"]
            columns[name] = measure(policy, env, s.seed + 2, columns["start"])
        return columns, seconds
