"""The end of a run: the start and each trained policy compared, on prompts that training has not seen."""

from .ppo import SWITCHES
from .rollout import Measured
from .settings import ReinforceSettings

FIGURES = {
    "reward": "reward (in standard deviations at the start)",
    "judge": "judge: grammatical, with a happy end",
    "win_rate": "judge prefers it to the answer at the start",
    "reward_win_rate": "reward prefers it to the answer at the start",
    "kl": "KL (nats a sequence; best of n: at most)",
    "perplexity": "perplexity under the reference",
    "distinct": "share of different answers",
    "length": "tokens an answer",
}
ABLATION = ("detail", "name", "reward", "judge", "kl", "distinct", "seconds")  # columns of its table


def closing(columns: dict[str, Measured], seconds: dict, settings: ReinforceSettings) -> tuple:
    """Return the closing table, lines with examples, and the figures; the first of `columns` is the start."""
    name, figures = settings.algorithm, {column: answers.figures for column, answers in columns.items()}
    if settings.ablate:
        found = [dict(detail=n, name=key, seconds=seconds[key]) | figures[key] for n, key, _ in SWITCHES]
        start = dict(name="(start)") | figures["start"]
        rows = [[row.get(key) for key in ABLATION] for row in (start, *found)]
        return (rows, ABLATION), [], dict(ablation=found)
    first, last = figures["start"], figures[name]
    results = {key: value for key, value in last.items() if key not in ("judge", "distinct", "reward")}
    for key in ("reward", "judge") if "judge" in last else ("reward",):
        results |= {f"{key}_before": first[key], f"{key}_after": last[key]}
    results["distinct_ratio"] = last["distinct"] / first["distinct"]
    for column, word in (("kl 0", "hacked"), ("dpo", "dpo"), (f"best of {settings.best_of}", "best_of")):
        other = figures.get(column, {}) if column != name else {}
        results |= {f"{word}_{key}": other[key] for key in ("judge", "reward", "kl") if key in other}
    drawn, read = settings.steps * settings.batch_size, 2 * settings.dpo_steps * settings.reward_batch_size
    results["sequences_per_second"] = (read if name == "dpo" else drawn) / seconds[name]
    rows = [(FIGURES[key], *(f.get(key) for f in figures.values())) for key in FIGURES if key in last]
    shown = {key: columns[key] for key in ("start", name, "kl 0") if key in columns}
    return (rows, (f"on {len(columns['start'].texts):,} test prompts", *columns)), examples(shown), results


def examples(columns: dict[str, Measured], n: int = 5) -> list[str]:
    """Return lines with n prompts and each policy's answer, with a star if the judge likes it."""
    lines = []
    for i, (prompt, _) in enumerate(columns["start"].texts[:n]):
        lines.append(prompt)
        for name, answers in columns.items():
            star = "" if answers.judged is None else "* " if answers.judged[i] else "  "
            lines.append(f"    {name:9}{star}{answers.texts[i][1].strip() or '(nothing)'}")
    return lines
