"""PPO from the first step to the last: log, printed lines, checkpoints, Ctrl-C, the alarms of the KL."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import check_state, load_trainer, save_model, save_trainer
from ..model.sampling import SamplingRule
from ..model.transformer import Transformer
from ..plumbing.errors import UserError
from ..plumbing.folders import TRAINER, append_log, trim_log
from ..plumbing.progress import Interrupted, ctrl_c_as_a_wish
from .ppo import adapted, make_batch, update
from .preferences import Preferences
from .rollout import Policy, Rollout, draw_answers, prompts_of_step, sampling_seed, score_answers, texts_of
from .settings import PPOSettings


@dataclass
class Task:
    """What stays the same whatever way the policy learns: texts, reference, reward."""

    preferences: Preferences
    tokenizer: object
    reference: Transformer  # frozen
    rule: SamplingRule  # under which answers are drawn and scored
    prompts: list[list[int]]
    test_prompts: list[list[int]]
    reward: object = None  # called with a rollout and its texts, returns (B,)

    def texts(self, rollout: Rollout) -> list[tuple[str, str]]:
        """Return the (prompt, answer) of each row."""
        return texts_of(rollout, self.tokenizer, self.rule.eos_id)

    def judged(self, texts: list[tuple[str, str]]) -> list[bool] | None:
        """Return the true preference for each text; none where it is unknown."""
        judge = self.preferences.judge
        return None if judge is None else [judge(prompt + answer) for prompt, answer in texts]


def ppo_step(
    policy: Policy, optimizer, task: Task, settings: PPOSettings, step: int, kl_coefficient: float
) -> dict[str, float]:
    """Sample, score, compute advantages, update; return the metrics of the step.

    Beside those of `ppo.ppo_loss` and the length of the gradient before clipping they are:
        reward: mean score of the answers, in deviations of the reference's own (KL not subtracted).
        kl: mean of log pi - log reference over whole answers, nats a sequence; 0 in the first step. Rising
            without the reward: the policy forgets its language. Far below 0: sampled and scored differently.
        entropy: minus the mean log-probability of the drawn tokens, nats a token, an unbiased estimate.
            Falling to 0: one answer to everything.
        length: tokens of an answer, the end token included. ended: share of the answers that came to an end.
        value_error: variance of (return - value) over that of the returns. Below 1 the value head helps.
        judge: share of the answers that meet the true preference, where it is known. PPO never sees it.
        kl_coefficient, lr: those of this step.
    """
    prompts = prompts_of_step(task.prompts, settings.batch_size, settings.seed, step)
    seed = sampling_seed(settings.seed, step)
    rollout = draw_answers(
        policy.model, prompts, task.rule, settings.max_new_tokens, seed, settings.precision
    )
    score_answers(rollout, policy, task.reference, task.rule, settings.precision)
    texts = task.texts(rollout)
    scores = task.reward(rollout, texts)  # (B,)
    batch = make_batch(rollout, scores, kl_coefficient, settings)
    real = rollout.answer_mask
    returns, errors = batch["returns"][real], (batch["returns"] - batch["values"])[real]
    judged = task.judged(texts)
    metrics = dict(
        reward=float(scores.mean()),
        kl=float(rollout.kl().mean()),
        entropy=-float(rollout.log_probs.sum() / real.sum()),
        length=float(rollout.lengths.float().mean()),
        ended=float(rollout.ended.float().mean()),
        value_error=float(errors.var(correction=0) / returns.var(correction=0).clamp(min=1e-8)),
        kl_coefficient=kl_coefficient,
    )
    if judged is not None:
        metrics["judge"] = sum(judged) / len(judged)
    return metrics | update(policy, optimizer, batch, task.rule, settings, step)


def train_ppo(model: Transformer, task: Task, settings: PPOSettings, folder: Path | None = None) -> float:
    """Let `model` learn in place; with a folder, log and save into it. Return the seconds that it took.

    Raises:
        UserError: where the KL exceeds `stop_kl`, a number is not finite, or the reward fails; the last
            checkpoint stays as it was.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    torch.manual_seed(settings.seed)
    policy = Policy(model, settings.zero_value_head).to(model.tokens.weight.device).eval()
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.lr, eps=1e-5)
    state = dict(step=0, seconds=0.0, kl_coefficient=settings.kl)
    if settings.resume and folder and load_trainer(folder)["step"]:
        state = go_on_from(folder, policy, optimizer)
    start, began = state["step"], time.perf_counter() - state["seconds"]
    kl_coefficient, alarm = state["kl_coefficient"], Alarm(settings, folder)

    def checkpoint(step: int) -> None:
        if folder:
            rest = dict(step=step, seconds=time.perf_counter() - began, kl_coefficient=kl_coefficient)
            save_checkpoint(folder, policy, optimizer, task, rest)

    if start == 0:
        checkpoint(0)
    with ctrl_c_as_a_wish() as wish:
        for step in range(start, settings.steps):
            try:
                metrics = ppo_step(policy, optimizer, task, settings, step, kl_coefficient)
            except UserError as error:
                raise UserError(f"step {step + 1}: {error}; {alarm.kept()}") from None
            done = step + 1
            alarm.check(done, metrics)
            kl_coefficient = adapted(kl_coefficient, metrics["kl"], settings)
            if folder:
                append_log(folder, dict(step=done, split="train") | metrics)
            if done == 1 or done % settings.log_every == 0 or done == settings.steps:
                print(line(done, metrics), flush=True)
            if done % settings.save_every == 0 or done == settings.steps or wish.stop:
                checkpoint(done)
            if wish.stop and done < settings.steps:
                saved = f", saved; to go on: --resume --out {folder}" if folder else ""
                raise Interrupted(f"stopped after step {done} of {settings.steps}{saved}")
    return time.perf_counter() - began


def line(step: int, metrics: dict[str, float]) -> str:
    """Return what is printed of a step."""
    shown = ("reward", "kl", "entropy", "length", "judge")
    return f"step {step:4d}  " + "  ".join(f"{k} {metrics[k]:6.2f}" for k in shown if k in metrics)


class Alarm:
    """Watches numbers that must stay finite, and the KL: it warns once at one bound and stops at another."""

    def __init__(self, settings: PPOSettings, folder: Path | None):
        self.settings, self.folder, self.warned = settings, folder, False

    def kept(self) -> str:
        """Say what is left of the run."""
        if self.folder is None:
            return "nothing was being saved"
        has = (self.folder / TRAINER).exists()
        return f"{self.folder} {'keeps the last checkpoint' if has else 'has no checkpoint yet'}"

    def check(self, step: int, metrics: dict[str, float]) -> None:
        """Raise UserError where a number is not finite or the KL is above `stop_kl`."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"{bad[0]} is not finite at step {step}; {self.kept()}. "
                f"Try a smaller --lr than {self.settings.lr:g}"
            )
        kl, bounds = metrics["kl"], (self.settings.warn_kl, self.settings.stop_kl)
        if kl > bounds[1]:
            raise UserError(
                f"KL {kl:.1f} nats a sequence at step {step}, above --stop-kl {bounds[1]:g}: the policy has "
                f"left its language; {self.kept()}. Raise --kl above {self.settings.kl:g} or lower --lr "
                f"{self.settings.lr:g}"
            )
        if kl > bounds[0] and not self.warned:
            self.warned = True
            print(
                f"warning: KL {kl:.1f} nats a sequence at step {step}, above --warn-kl {bounds[0]:g}: the "
                "policy is leaving its language; a larger --kl or a smaller --lr holds it"
            )


def mark_beginning(folder: Path, model: Transformer) -> None:
    """Write a checkpoint of step 0, so that a run that is stopped before PPO began can be resumed too."""
    save_trainer(folder, dict(step=0, model=model.state_dict()))


def save_checkpoint(folder: Path, policy: Policy, optimizer, task: Task, rest: dict) -> None:
    """Write what `go_on_from` reads, and the policy as a model to load."""
    save_trainer(folder, rest | dict(model=policy.state_dict(), optimizer=optimizer.state_dict()))
    save_model(folder, policy.model, task.tokenizer)


def go_on_from(folder: Path, policy: Policy, optimizer) -> dict:
    """Put weights and moments of a checkpoint in place, drop what the log has after it; return its state."""
    state, path = load_trainer(folder), folder / TRAINER
    missing = {"optimizer", "seconds", "kl_coefficient"} - set(state)
    if missing:
        raise UserError(f"{path}: not a trainer state of PPO, {', '.join(sorted(missing))} is missing")
    check_state(path, state["model"], policy.state_dict())
    policy.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    trim_log(folder, state["step"])
    return state
