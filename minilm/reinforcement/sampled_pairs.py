"""Pairs of the policy's own answers, as the judge prefers them.

Source: Ziegler et al. 2019, section 2, and Stiennon et al. 2020, section 3.1: people compare what the
policy itself has written, mistakes included. The world's own pairs are grammatical on both sides, so a reward
model that saw no others would know nothing about grammar.
"""

from dataclasses import replace

from ..model.transformer import Transformer
from .loop import Task
from .preferences import Pair, encode_prompts
from .rollout import draw_answers
from .settings import ReinforceSettings

PROMPTS_AT_ONCE = 64  # whose answers are drawn in one batch


def sampled_pairs(
    model: Transformer, task: Task, prompts: list[str], n_answer: int, max_new_tokens: int, seed: int,
    temperature: float,
) -> list[Pair]:  # fmt: skip
    """Return (prompt, chosen, rejected) of a model's answers, `n_answer` drawn for each prompt.

    An answer that the judge likes is paired with one that it does not, each answer in one pair at most; where
    it likes all or none there is nothing to compare (ties are dropped). An answer that never ended is left
    out. They are drawn at a temperature of their own: a policy that learns will wander from what it writes
    now, and its reward model is to know more kinds of mistakes.
    """
    rule = replace(task.rule, temperature=temperature)
    rows = encode_prompts(task.tokenizer, prompts, model.config, max_new_tokens)
    pairs = []
    for start in range(0, len(rows), PROMPTS_AT_ONCE):
        batch = [row for row in rows[start : start + PROMPTS_AT_ONCE] for _ in range(n_answer)]
        rollout = draw_answers(model, batch, rule, max_new_tokens, seed + start)
        # as they will stand in a pair, one space after the prompt
        texts = [(prompt, " " + answer.strip()) for prompt, answer in task.texts(rollout)]
        judged, ended = task.judged(texts), rollout.ended.tolist()
        for i, prompt in enumerate(prompts[start : start + PROMPTS_AT_ONCE]):
            liked, others = {}, {}  # the answers in the order in which they were drawn, each once
            for j in range(i * n_answer, (i + 1) * n_answer):
                answer = texts[j][1].strip()
                if ended[j] and answer:
                    (liked if judged[j] else others)[answer] = None
            pairs += [(prompt, good, bad) for good, bad in zip(liked, others, strict=False)]
    return pairs


def add_sampled_pairs(model: Transformer, task: Task, settings: ReinforceSettings, number: int) -> None:
    """Add pairs of a model's answers to the task's pairs, and others to its own held-out ones.

    Each collection, by its number from 0, has prompts of its own: `sampled_prompts` are shared by all.
    """
    preferences = task.preferences
    held_out_prompts = list(dict.fromkeys(prompt for prompt, _, _ in preferences.held_out_pairs))
    n = max(1, settings.sampled_prompts // settings.rounds)
    n_held_out = max(1, min(n // 4, len(held_out_prompts) // settings.rounds))
    for pairs, prompts, offset in (
        (preferences.pairs, preferences.prompts[number * n :][:n], 0),
        (preferences.own_held_out_pairs, held_out_prompts[number * n_held_out :][:n_held_out], 1),
    ):
        seed = (2 * (settings.seed + 1000 * number) + offset) * 10**6
        drawn = settings.answers_a_prompt, settings.max_new_tokens, seed, settings.pair_temperature
        pairs += sampled_pairs(model, task, prompts, *drawn)
