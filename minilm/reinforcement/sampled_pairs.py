"""Pairs of the policy's own answers, as the judge prefers them.

Source: Ziegler et al. 2019, section 2, and Stiennon et al. 2020, section 3.1: people compare what the
policy itself has written, mistakes included. The world's own pairs are grammatical on both sides, so a reward
model that saw no others would know nothing about grammar.
"""

from dataclasses import replace

from .loop import Task
from .preferences import Pair, encode_prompts
from .rollout import draw_answers

PROMPTS_AT_ONCE = 64  # whose answers are drawn in one batch


def sampled_pairs(
    task: Task, prompts: list[str], n_answer: int, max_new_tokens: int, seed: int, temperature: float
) -> list[Pair]:
    """Return (prompt, chosen, rejected) of the reference's answers, `n_answer` drawn for each prompt.

    An answer that the judge likes is paired with one that it does not, each answer in one pair at most; where
    it likes all or none there is nothing to compare (ties are dropped). An answer that never ended is left
    out. They are drawn at a temperature of their own: the
    policy that learns will wander from what it writes now, and its reward model is to know more mistakes.
    """
    rule = replace(task.rule, temperature=temperature)
    rows = encode_prompts(task.tokenizer, prompts, task.reference.config, max_new_tokens)
    pairs = []
    for start in range(0, len(rows), PROMPTS_AT_ONCE):
        batch = [row for row in rows[start : start + PROMPTS_AT_ONCE] for _ in range(n_answer)]
        rollout = draw_answers(task.reference, batch, rule, max_new_tokens, seed + start)
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


def add_sampled_pairs(
    task: Task, n_prompt: int, n_answer: int, max_new_tokens: int, seed: int, temperature: float
) -> None:
    """Add pairs of the reference's own answers to the task's pairs, and others to its held-out ones."""
    preferences = task.preferences
    held_out_prompts = list(dict.fromkeys(prompt for prompt, _, _ in preferences.held_out_pairs))
    n_held_out = min(len(held_out_prompts), max(1, n_prompt // 4))
    for pairs, prompts, offset in (
        (preferences.pairs, preferences.prompts[:n_prompt], 0),
        (preferences.held_out_pairs, held_out_prompts[:n_held_out], 1),
    ):
        pairs += sampled_pairs(
            task, prompts, n_answer, max_new_tokens, (2 * seed + offset) * 10**6, temperature
        )
