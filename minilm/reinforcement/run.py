"""A run of regime 5: all inputs are read and checked, then come the rounds (`rounds.py`) and the report."""

import time
from dataclasses import fields, replace
from pathlib import Path

from ..model.sampling import SamplingRule
from ..plumbing.errors import UserError
from ..plumbing.folders import TRAINER, choose_folder
from ..plumbing.script import begin, finish, from_first
from ..plumbing.settings import typed
from ..pretraining.run import start_model
from ..tokenizer.rows import text_end
from ..training.checkpoints import load_trainer, save_trainer
from ..training.loop import TrainingSettings
from ..training.machine import settled_precision
from . import report, reward
from .preferences import encode_prompts, load_preferences
from .rollout import Environment
from .rounds import Rounds
from .settings import ReinforceSettings


class Reinforcement(Rounds):
    """A run; its constructor reads all inputs, so that errors are found before anything is trained."""

    def __init__(self, settings: ReinforceSettings):
        s = settings
        s.refuse_ignored()
        needs_pairs = not (s.reward or s.reward_function) or (s.algorithm == "dpo" and not s.sampled_prompts)
        found = load_preferences(s.preferences, s.prompts, s.n_pairs, s.seed, needs_pairs)
        source, model, tokenizer = start_model(s.model, "causal", s)
        if model.config.kind != "decoder":
            raise UserError(f"--model {source}: of kind {model.config.kind}, but a policy must be a decoder")
        end, n = text_end(tokenizer), s.max_new_tokens
        never = tokenizer.never_written(model.config.vocab_size, end)
        rule = SamplingRule(never, s.temperature, eos_id=end, other_ends=tokenizer.ends)
        prompts = (encode_prompts(tokenizer, p, model.config, n) for p in (found.prompts, found.test_prompts))
        how = dict(judge=found.judge, precision=settled_precision(s.precision, model))
        env = Environment(tokenizer, model.requires_grad_(False), rule, n, *prompts, **how)
        super().__init__(replace(s, model=str(source)), found, env)
        if found.pairs:
            self.pairs(reward.BradleyTerry)  # UserError if a pair does not fit the model
        if s.reward_function:
            self.given = reward.Rule(reward.load_function(s.reward_function))
        if s.reward:
            self.given = reward.load_reward_model(s.reward, tokenizer, model.tokens.weight.device.type)
        print(f"Policy: {source}, {model.n_parameters():,} weights; {found.name}: {len(found.pairs):,} pairs")

    def run(self) -> Path:
        """Do everything that the settings ask for and return the run folder."""
        s, began = self.settings, time.perf_counter()
        if s.resume:  # before anything is written
            load_trainer(s.out, s.dpo_steps if s.algorithm == "dpo" else s.steps)
        self.folder = begin("ablation" if s.ablate else "reinforce", s)
        if not s.resume:  # so that a run can be resumed even if it stops before PPO begins
            for old in ("reward", "dpo", *(f"reward-{n}" for n in range(9))):  # of a run replaced
                (self.folder / old / TRAINER).unlink(missing_ok=True)
            save_trainer(self.folder, dict(step=0, model=self.env.reference.state_dict()))
        try:
            accuracy = self.make_reward()
            table, lines, results = report.closing(*self.learn(), s)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"saved; to go on: --resume {typed('out', self.folder)}") from stop
        model = typed("model", s.model)
        then = f"python reinforce.py --ablate {model} {typed('reward', s.reward or self.folder / 'reward')}"
        if s.preferences or s.prompts or s.reward_function:
            then = f"python prompt.py {typed('model', s.model if s.ablate else self.folder)} --prompt TEXT"
        elif s.ablate or s.algorithm == "dpo":
            then = f"python reinforce.py --kl 0.3 {model}"
        finish(self.folder, s, [table], lines, accuracy | results, time.perf_counter() - began, then)
        return self.folder

    def stage(self, folder: Path | None, s: ReinforceSettings, **changes) -> TrainingSettings:
        """Return the settings of one training; with --resume it goes on from a checkpoint in its folder."""
        goes_on = bool(folder and s.resume and (folder / TRAINER).exists() and load_trainer(folder)["step"])
        if folder and folder != self.folder:
            from_first(lambda: choose_folder("", str(folder), overwrite=not goes_on, resume=goes_on))
        names = {field.name for field in fields(TrainingSettings)} & set(vars(s))
        return TrainingSettings(**{name: getattr(s, name) for name in names} | changes | dict(resume=goes_on))
