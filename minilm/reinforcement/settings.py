"""The flags of reinforce.py. Each detail of PPO is one of them, to be switched off and measured."""

from dataclasses import dataclass
from typing import Literal

from ..plumbing.errors import UserError
from ..plumbing.settings import CommonSettings, option_of


@dataclass(frozen=True, kw_only=True)
class PPOSettings(CommonSettings):
    """PPO and its details; the numbers are those of the list in minilm/reinforcement/ppo.py."""

    steps: int = 100  # times that the policy answers a batch of prompts and learns from it
    batch_size: int = 64  # answers a step
    max_new_tokens: int = 32  # longest answer, in tokens
    temperature: float = 0.7  # divides the logits, when sampling and when scoring alike
    lr: float = 4e-4  # highest learning rate
    clip: float = 1.0  # longest gradient; 0: no clipping
    value_weight: float = 0.1  # weight of the value loss beside the policy loss
    zero_value_head: bool = True  # 1: the value head begins at 0
    kl: float = 0.1  # 2: coefficient of the KL penalty; 0: none
    kl_per_token: bool = True  # 2: each token pays its own KL; no: the last one pays for all
    adaptive_kl: bool = False  # 3: move the coefficient so that the KL approaches --kl-target
    kl_target: float = 3.0  # 3: in nats a sequence
    reward_at_end: bool = True  # 4: the last token gets the reward; no: all tokens share it equally
    missing_end_score: float | None = -1.0  # 5: reward of an answer without an end token; none: as any other
    gamma: float = 1.0  # 6: what a reward one token later is worth now
    gae_lambda: float = 0.95  # 6: 1: the whole future counts as it came, 0: one token and the value after it
    whiten_rewards: bool = True  # 7: rewards to deviation 1, the mean stays
    whiten_advantages: bool = True  # 7: advantages to mean 0 and deviation 1
    clip_ratio: float = 0.2  # 8: how far from 1 a ratio still earns; 0: no clipping
    clip_value: float = 0.2  # 8: how far a value may move in one step; 0: no clipping
    epochs: int = 3  # 9: passes over the answers of a step
    minibatches: int = 2  # 9: updates a pass
    shuffle: bool = True  # 9: deal the answers anew in each pass
    warmup: int = 10  # 10: steps in which the learning rate rises, while Adam knows no gradients yet
    anneal: bool = True  # 10: the learning rate falls to 0 in a line; no: it stays
    normalise_reward: bool = True  # 11: reward to mean 0 and deviation 1 on samples of the reference
    warn_kl: float = 10.0  # nats a sequence above which a warning is printed
    stop_kl: float = 200.0  # nats a sequence above which the run stops
    log_every: int = 10  # steps between printed lines
    save_every: int = 20  # steps between checkpoints
    resume: bool = False  # continue the run in --out, or the newest one that was interrupted


@dataclass(frozen=True, kw_only=True)
class ReinforceSettings(PPOSettings):
    """What is learnt from, and by what."""

    algorithm: Literal["ppo", "dpo"] = "ppo"  # dpo: learn from the pairs directly, without a reward model
    model: str | None = None  # run folder of the GPT to start from; none: the newest runs/causal
    preferences: str | None = None  # prompt, chosen, rejected in .jsonl, .tsv or .csv; none: the world's
    prompts: str | None = None  # prompts to answer, .txt (one a line) or .jsonl; none: those of the pairs
    reward: str | None = None  # folder of a reward model; none: one is trained on the pairs
    reward_function: str | None = None  # a rule as reward, module:function of prompt and answer
    n_pairs: int = 1000  # pairs of the world
    sampled_prompts: int = 3000  # prompts whose answers by the policy itself the world's judge compares
    answers_a_prompt: int = 4  # so many of them each
    pair_temperature: float = 0.85  # at which these are drawn: warmer, for more kinds of mistakes
    rounds: int = 2  # collections of such pairs: from the policy, then from what PPO has made of it
    supervised_steps: int = 0  # steps of learning the chosen answers by heart before the rest
    reward_steps: int = 350  # steps of the reward model
    reward_batch_size: int = 32  # pairs a step
    reward_lr: float = 1e-3  # highest learning rate of the reward model
    dpo_steps: int = 150  # steps of DPO
    dpo_lr: float = 1e-4  # highest learning rate of DPO
    dpo_beta: float = 0.1  # DPO's price of leaving the reference
    contrast: bool = True  # after PPO: the same with --kl 0, and DPO, in the same table
    ablate: bool = False  # instead: PPO with one detail switched off after the other

    def __post_init__(self):
        super().__post_init__()
        lowest = dict.fromkeys(("steps", "batch_size", "max_new_tokens", "epochs", "minibatches"), 1)
        lowest |= dict.fromkeys(
            ("n_pairs", "rounds", "answers_a_prompt", "reward_batch_size", "reward_steps", "dpo_steps"), 1
        )
        lowest |= dict.fromkeys(("log_every", "save_every"), 1)
        lowest |= dict.fromkeys(("seed", "lr", "clip", "value_weight", "kl", "kl_target", "clip_ratio"), 0)
        lowest |= dict.fromkeys(
            (
                "clip_value",
                "warmup",
                "sampled_prompts",
                "supervised_steps",
                "reward_lr",
                "dpo_lr",
                "dpo_beta",
            ),
            0,
        )
        lowest |= dict.fromkeys(("warn_kl", "stop_kl", "gamma", "gae_lambda"), 0)
        self.check_least(lowest)
        for name in ("gamma", "gae_lambda"):
            if getattr(self, name) > 1:
                raise UserError(f"{option_of(name)} {getattr(self, name)}: must lie in [0, 1]")
        if self.adaptive_kl and not self.kl_target:
            raise UserError("--kl-target 0.0: must be above 0 where the coefficient follows it")
        for name in ("temperature", "pair_temperature"):
            if getattr(self, name) <= 0:
                raise UserError(f"{option_of(name)} {getattr(self, name)}: must be above 0, to draw answers")
        if self.minibatches > self.batch_size:
            raise UserError(
                f"--batch-size {self.batch_size} cannot be cut into --minibatches {self.minibatches}"
            )
        if self.reward and self.reward_function:
            raise UserError("--reward and --reward-function: one reward, please; give one of them")
