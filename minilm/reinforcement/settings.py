"""The flags of reinforce.py: the data, the steps of training, and the details of PPO (`ppo.PPODetails`)."""

from dataclasses import dataclass, fields
from typing import Literal

from ..plumbing.errors import UserError
from ..plumbing.settings import CommonSettings
from .ppo import PPODetails

# Values of the flags that are none: for small models like ours, and for large ones (width 256 or more).
SMALL = dict(lr=4e-4, reward_lr=1e-3, dpo_lr=3e-4, dpo_beta=1.0)
PUBLISHED = dict(lr=1e-5, reward_lr=3e-5, dpo_lr=1e-5, dpo_beta=0.1)


@dataclass(frozen=True, kw_only=True)
class ReinforceSettings(PPODetails, CommonSettings):
    """The algorithm, its data, and the steps of training."""

    algorithm: Literal["ppo", "grpo", "dpo"] = "ppo"  # dpo: learn from the pairs, without a reward model
    group_size: int = 8  # grpo: answers to a prompt; their mean replaces the value head (paper: 64)
    model: str | None = None  # run folder of the GPT to start from; none: the newest runs/causal
    preferences: str | None = None  # pairs (prompt, chosen, rejected): .jsonl, .tsv, .csv; none: the world's
    prompts: str | None = None  # prompts to answer, .txt (one a line) or a table; none: those of the pairs
    reward: str | None = None  # folder of a reward model; none: one is trained on the pairs
    reward_function: str | None = None  # a rule as reward: module:function, called with prompt and answer
    n_pairs: int = 1000  # preference pairs drawn from the embedded world
    sampled_prompts: int = 3000  # prompts whose answers become pairs, ranked by the judge (dpo: or the rule)
    answers_a_prompt: int = 4  # answers to each of these prompts
    pair_temperature: float = 0.85  # temperature of these answers: higher, for more kinds of mistakes
    rounds: int = 2  # times that such pairs are collected: first from the start, then after some PPO
    reward_steps: int = 700  # steps of the reward model
    reward_batch_size: int = 32  # pairs a step
    reward_lr: float | None = None  # highest learning rate of a reward model; none: 1e-3 (a large one: 3e-5)
    dpo_steps: int = 150  # steps of DPO
    dpo_lr: float | None = None  # highest learning rate of DPO; none: 3e-4 (a large model: 1e-5)
    dpo_beta: float | None = None  # DPO's penalty for leaving the reference; none: 1 (large: paper's 0.1)
    steps: int = 100  # times that the policy answers a batch of prompts and learns from it
    batch_size: int = 64  # answers a step
    max_new_tokens: int = 32  # longest answer, in tokens
    temperature: float = 0.7  # divides the logits, both in sampling and in scoring
    lr: float | None = None  # highest learning rate of PPO and GRPO; none: 4e-4 (a large model: 1e-5)
    warmup: int = 10  # steps in which the learning rate rises (at most half): Adam's first updates are large
    clip: float = 1.0  # largest norm of the gradient; 0: no clipping
    contrast: bool = True  # after PPO or GRPO, for the table: the same with --kl 0, DPO and best of n
    best_of: int = 4  # the n of best of n: answers of the start to a prompt, of which the best counts
    ablate: bool = False  # instead: PPO many times, each time with one detail changed
    log_every: int = 10  # steps between printed lines
    save_every: int = 20  # steps between checkpoints
    resume: bool = False  # continue the run in --out, or the newest one that was interrupted

    def __post_init__(self):
        super().__post_init__()
        least = {field.name: int(field.type is int) for field in fields(self) if field.type in (int, float)}
        self.check_least(least | dict(seed=0, warmup=0, sampled_prompts=0) | dict.fromkeys(SMALL, 0))
        s, grpo, cut = self, self.algorithm == "grpo", f"--batch-size {self.batch_size} cannot be cut into"
        for wrong, what in (
            (max(s.gamma, s.gae_lambda) > 1, f"--gamma {s.gamma} --gae-lambda {s.gae_lambda}: must be <= 1"),
            (s.adaptive_kl and not s.kl_target * s.kl, "--adaptive-kl: --kl and --kl-target must be above 0"),
            (not s.temperature, "--temperature 0.0: must be above 0, to draw answers"),
            (not s.pair_temperature, "--pair-temperature 0.0: must be above 0, to draw answers"),
            (s.minibatches > s.batch_size, f"{cut} --minibatches {s.minibatches}"),
            (grpo and s.group_size < 2, "--group-size 1: must be 2 or more, to compare answers to a prompt"),
            (grpo and s.batch_size % s.group_size, f"{cut} groups of --group-size {s.group_size}"),
            (s.ablate and s.algorithm != "ppo" and not s.resume, "--ablate needs --algorithm ppo"),
            (s.reward and s.reward_function, "--reward and --reward-function: give only one of them"),
        ):
            if wrong:
                raise UserError(what)

    def refuse_ignored(self) -> None:
        """Raise UserError for a flag that this run would ignore."""
        own, rule, dpo = self.preferences or self.prompts, self.reward_function, self.algorithm == "dpo"
        contrasts = self.contrast and not (dpo or self.ablate)
        alone = own or rule or self.reward or self.rounds < 2  # no PPO between rounds of the reward model
        compares = not self.preferences and (dpo or not (own or rule))  # pairs of the policy's own answers
        has_dpo = dpo or (contrasts and not rule and (self.preferences or not (self.reward and self.prompts)))
        ppo = {*PPODetails.__annotations__, "steps", "batch_size", "lr", "warmup"}
        of_values = ["zero_value_head", "value_weight", "clip_value", "gamma", "gae_lambda"]
        of_values += [] if self.whiten_rewards else ["reward_at_end", "kl_per_token"]  # their sum is the same
        for when, names, why in (
            (self.algorithm != "grpo", ("group_size",), "needs --algorithm grpo"),
            (dpo and not own, ("reward_function",), "with --algorithm dpo needs --prompts FILE to answer"),
            (self.ablate, ("plot",), "does not go with --ablate: it has no picture"),
            (dpo and alone, ppo, "is for PPO; DPO has --dpo-steps, --dpo-lr"),
            (self.algorithm == "grpo" and alone, of_values, "is for PPO; GRPO sums an answer's rewards"),
            (not contrasts, ("best_of",), "is for the contrasts of PPO and GRPO, which this run lacks"),
            (not has_dpo, ("dpo_steps", "dpo_lr", "dpo_beta"), "is for DPO, not trained here"),
            (self.reward or rule, ("reward_steps", "reward_lr", "rounds"), "is unused: the reward is given"),
            (not (self.adaptive_kl or self.ablate), ("kl_target",), "needs --adaptive-kl"),
            (rule and self.prompts and not dpo, ("preferences",), "has no effect with --prompts and a rule"),
            (own or rule, ("n_pairs", "rounds"), "is for the world's pairs, not used here"),
            (not compares, ("sampled_prompts", "answers_a_prompt", "pair_temperature"), "needs a judge"),
        ):
            self.refuse(when and not self.resume, names, why)
