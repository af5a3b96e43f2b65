"""What a run ends with: the start, and each way of learning, measured on prompts that none of them has seen.

The reward model's score is what was optimised, so it cannot tell success from cheating. Beside it stands the
true preference (the world's judge): it has compared pairs for the reward model, and PPO never asks it.
"""

from dataclasses import dataclass

import torch

from ..model.sampling import token_log_probabilities
from ..model.transformer import Transformer
from ..training.objective import perplexity
from .loop import Task
from .rollout import Rollout, draw_answers

SEED = 2  # added to the run's seed: for the samples that are measured
HEADER_ROWS = {
    "reward": "reward (deviations of the start's)",
    "judge": "judge: parses and ends happily",
    "win_rate": "judge prefers it to the start's",
    "reward_win_rate": "reward prefers it to the start's",
    "kl": "KL (nats a sequence)",
    "perplexity": "perplexity under the reference",
    "distinct": "different answers",
    "length": "tokens an answer",
}


@dataclass
class Answers:
    """Answers to the test prompts, and what was measured on them."""

    texts: list[tuple[str, str]]  # prompt, answer
    scores: torch.Tensor  # (B,)
    judged: list[bool] | None
    figures: dict[str, float]


@torch.no_grad()
def measure(
    model: Transformer, task: Task, max_new_tokens: int, seed: int, start: Answers | None = None
) -> Answers:
    """Return the Answers of a model to the test prompts, compared with those of the starting policy.

    Figures:
        reward: mean score. judge: share of the texts that meet the true preference.
        win_rate: of the prompts for which the judge likes exactly one of the two answers (the model's and the
            start's), the share in which it likes the model's; 0.5 where there is none.
        win_rate_ties_half: the same over all prompts, a tie counting one half. With a judge that says yes or
            no it cannot exceed 1 - (judge of the start) / 2.
        reward_win_rate: share of the prompts for which the reward is higher than the start's, ties one half.
        kl: mean of log pi - log reference over whole answers, nats a sequence.
        perplexity: exp of minus the reference's mean log-probability a token: how strange the answers look to
            the model that it all began with.
        distinct: share of the answers that differ from all before them. length: tokens an answer.
    """
    rollout = draw_answers(model, task.test_prompts, task.rule, max_new_tokens, seed)
    texts = task.texts(rollout)
    scores, judged = task.reward(rollout, texts), task.judged(texts)
    own, reference = (log_probabilities(m, rollout, task) for m in (model, task.reference))
    n = len(texts)
    figures = dict(
        reward=float(scores.mean()),
        kl=float((own - reference).sum() / n),
        perplexity=perplexity(float(-reference.sum() / rollout.lengths.sum())),
        distinct=len({answer for _, answer in texts}) / n,
        length=float(rollout.lengths.float().mean()),
    )
    if judged is not None:
        figures["judge"] = sum(judged) / n
    if start is not None:
        gain = scores - start.scores
        figures["reward_win_rate"] = float(((gain > 0).float() + (gain == 0).float() / 2).mean())
        if judged is not None:
            figures |= win_rates(judged, start.judged)
    return Answers(texts, scores, judged, figures)


def log_probabilities(model: Transformer, rollout: Rollout, task: Task) -> torch.Tensor:
    """Return the log-probabilities (B, n) of a rollout's new tokens."""
    return token_log_probabilities(
        model, rollout.ids, rollout.mask, rule=task.rule, n_prompt=rollout.n_prompt
    )


def win_rates(judged: list[bool], start: list[bool]) -> dict[str, float]:
    """Return `win_rate` and `win_rate_ties_half`, see `measure`."""
    wins = sum(new and not old for new, old in zip(judged, start, strict=True))
    losses = sum(old and not new for new, old in zip(judged, start, strict=True))
    ties = len(judged) - wins - losses
    return dict(
        win_rate=wins / (wins + losses) if wins + losses else 0.5,
        win_rate_ties_half=(wins + ties / 2) / len(judged),
    )


def rows(columns: dict[str, Answers]) -> list[tuple]:
    """Return the closing table: a row a figure, a column a policy; what nobody has is left out."""
    found = [key for key in HEADER_ROWS if any(key in a.figures for a in columns.values())]
    return [(HEADER_ROWS[key], *(a.figures.get(key) for a in columns.values())) for key in found]


def examples(columns: dict[str, Answers], n: int = 5) -> list[str]:
    """Return lines with n prompts and each policy's answer; a star where the judge likes it."""
    lines = []
    for i in range(min(n, len(next(iter(columns.values())).texts))):
        lines.append(next(iter(columns.values())).texts[i][0])
        for name, answers in columns.items():
            star = "" if answers.judged is None else "* " if answers.judged[i] else "  "
            lines.append(f"    {name:9}{star}{answers.texts[i][1].strip() or '(nothing)'}")
    return lines
