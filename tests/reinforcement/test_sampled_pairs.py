"""Grades minilm/reinforcement/sampled_pairs.py: the policy's own answers as pairs, ties dropped."""

import pytest

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
    pairs = sampled_pairs(talkative, PROMPTS * 5, n_answer=6, max_new_tokens=20, seed=1, temperature=0.8)
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
    pairs = sampled_pairs(talkative, ["Ana likes"], n_answer=30, max_new_tokens=20, seed=1, temperature=0.8)
    answers = [answer for pair in pairs for answer in pair[1:]]
    assert len(answers) == len(set(answers))


@pytest.mark.parametrize("verdict", [True, False])
def test_where_all_are_alike_there_is_nothing_to_compare(talkative, verdict):
    talkative.preferences.judge = lambda text: verdict
    assert sampled_pairs(talkative, PROMPTS, n_answer=4, max_new_tokens=20, seed=1, temperature=0.8) == []


def test_answers_that_never_end_are_left_out(talkative):
    assert (
        sampled_pairs(talkative, PROMPTS * 5, n_answer=6, max_new_tokens=1, seed=1, temperature=0.8) == []
    ), "an answer cut off by the limit is no answer"


def test_pairs_are_added_to_both_parts_from_prompts_of_their_own(talkative):
    preferences = talkative.preferences
    preferences.prompts = PROMPTS
    before, held_out = list(preferences.pairs), list(preferences.held_out_pairs)
    add_sampled_pairs(talkative, n_prompt=4, n_answer=30, max_new_tokens=20, seed=1, temperature=0.8)
    new, new_held_out = preferences.pairs[len(before) :], preferences.held_out_pairs[len(held_out) :]
    assert (
        preferences.pairs[: len(before)] == before and preferences.held_out_pairs[: len(held_out)] == held_out
    )
    assert new and {prompt for prompt, _, _ in new} <= set(PROMPTS)
    assert {prompt for prompt, _, _ in new_held_out} <= {prompt for prompt, _, _ in held_out}


def test_the_answers_are_drawn_at_their_own_temperature(talkative):
    cold, warm = (
        sampled_pairs(talkative, PROMPTS * 5, 6, 20, seed=1, temperature=temperature)
        for temperature in (0.3, 1.2)
    )
    assert cold != warm and talkative.rule.temperature == 0.8, "the rule of PPO stays"
    assert cold == sampled_pairs(talkative, PROMPTS * 5, 6, 20, seed=1, temperature=0.3)
