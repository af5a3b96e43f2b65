"""Grades reinforcement/sampled_pairs.py: the policy's own answers as pairs, ties dropped."""

import pytest

from minilm.reinforcement import sampled_pairs as module
from minilm.reinforcement.sampled_pairs import add_sampled_pairs, sampled_pairs

PROMPTS = ["Ana likes", "Rui", "The old baker found two red", "Ana sells a lamp. The"]


@pytest.fixture
def talkative(task, make_gpt):
    """The task with a reference that ends its answers after a few tokens."""
    task.reference = make_gpt(head_bias=True)
    task.reference.vocabulary.bias.data[task.rule.eos_id] = 3.0
    task.preferences.judge = lambda text: len(text) % 2 == 0
    return task


def test_a_liked_answer_is_paired_with_another_to_the_same_prompt(talkative):
    pairs = sampled_pairs(
        talkative.reference, talkative, PROMPTS * 5, n_answer=6, max_new_tokens=20, seed=1, temperature=0.8
    )
    judge = talkative.preferences.judge
    assert len(pairs) > 5
    for prompt, chosen, rejected in pairs:
        assert prompt in PROMPTS and chosen == chosen.strip() and chosen and rejected
        assert chosen != rejected, "a tie"
    by_length = {answer for _, chosen, rejected in pairs for answer in (chosen, rejected)}
    assert len(by_length) > 5, "the answers are drawn, not repeated"
    spaced = [(judge(f"{p} {a}"), judge(f"{p} {b}")) for p, a, b in pairs]
    assert all(good and not bad for good, bad in spaced), "the answer that the judge likes comes first"


def test_an_answer_is_in_one_pair_at_most(talkative):
    pairs = sampled_pairs(
        talkative.reference, talkative, ["Ana likes"], n_answer=30, max_new_tokens=20, seed=1, temperature=0.8
    )
    answers = [answer for pair in pairs for answer in pair[1:]]
    assert len(answers) == len(set(answers))


@pytest.mark.parametrize("verdict", [True, False])
def test_where_all_are_alike_there_is_nothing_to_compare(talkative, verdict):
    talkative.preferences.judge = lambda text: verdict
    assert (
        sampled_pairs(
            talkative.reference, talkative, PROMPTS, n_answer=4, max_new_tokens=20, seed=1, temperature=0.8
        )
        == []
    )


def test_answers_that_never_end_are_left_out(talkative):
    assert (
        sampled_pairs(
            talkative.reference, talkative, PROMPTS * 5, n_answer=6, max_new_tokens=1, seed=1, temperature=0.8
        )
        == []
    ), "an answer cut off by the limit is no answer"


def test_each_collection_adds_pairs_from_prompts_of_its_own(talkative, settings, monkeypatch):
    asked = []

    def drawn(model, task, prompts, *rest):
        asked.append((model, prompts, rest))
        return [(prompt, "good", "bad") for prompt in prompts]

    monkeypatch.setattr(module, "sampled_pairs", drawn)
    preferences = talkative.preferences
    preferences.prompts = [f"Prompt {i}" for i in range(9)]
    preferences.held_out_pairs = [(f"Held out {i}", "a", "b") for i in range(4)]
    before = len(preferences.pairs)
    changed = settings(sampled_prompts=9, rounds=2, answers_a_prompt=3, pair_temperature=0.9, seed=4)
    for number in (0, 1):
        add_sampled_pairs(talkative.reference, talkative, changed, number)
    assert [prompts for _, prompts, _ in asked] == [
        [f"Prompt {i}" for i in range(4)],
        ["Held out 0"],
        [f"Prompt {i}" for i in range(4, 8)],
        ["Held out 1"],
    ]
    assert len(preferences.pairs) == before + 8 and len(preferences.own_held_out_pairs) == 2
    assert preferences.pairs[before] == ("Prompt 0", "good", "bad")
    assert all(model is talkative.reference for model, _, _ in asked)
    assert {(n, new, heat) for _, _, (n, new, _, heat) in asked} == {(3, 7, 0.9)}
    assert len({seed for _, _, (_, _, seed, _) in asked}) == 4, "every collection draws anew"


def test_the_answers_are_drawn_at_their_own_temperature(talkative):
    cold, warm = (
        sampled_pairs(talkative.reference, talkative, PROMPTS * 5, 6, 20, seed=1, temperature=temperature)
        for temperature in (0.3, 1.2)
    )
    assert cold != warm and talkative.rule.temperature == 0.8, "the rule of PPO stays"
    assert cold == sampled_pairs(talkative.reference, talkative, PROMPTS * 5, 6, 20, seed=1, temperature=0.3)
