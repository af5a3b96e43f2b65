"""Grades reinforcement/rollout.py: what is drawn, and that one function scores it for both models."""

import copy

import pytest
import small
import torch

from minilm.model.sampling import SamplingRule
from minilm.reinforcement.rollout import (
    Policy,
    Rollout,
    draw_answers,
    frozen_copy,
    prompts_of_step,
    sampling_seed,
    score_answers,
    texts_of,
)

TOKENIZER = small.tokenizer()


def test_1_the_value_head_begins_at_0_or_at_random(gpt, rollout, rule):
    zero, random = Policy(copy.deepcopy(gpt)), Policy(copy.deepcopy(gpt), zero_value_head=False)
    assert (zero(rollout.ids, rollout.mask, rollout.n_prompt, rule)[1] == 0).all()
    assert random(rollout.ids, rollout.mask, rollout.n_prompt, rule)[1].abs().max() > 0
    assert (random.value_head.bias == 0).all()


def test_log_probabilities_and_values_equal_a_plain_loop(gpt, rollout, rule):
    policy = Policy(gpt, zero_value_head=False).eval().requires_grad_(False)
    log_probs, values = policy(rollout.ids, rollout.mask, rollout.n_prompt, rule)
    for row in range(len(rollout.ids)):
        ids = rollout.ids[row][rollout.mask[row]]  # alone and without padding
        n_prompt = int(rollout.mask[row, : rollout.n_prompt].sum())
        hidden = gpt.hidden_states(ids[None])[-1][0]
        expected = (gpt.vocabulary_logits(hidden) / rule.temperature).log_softmax(-1)
        for t in range(len(ids) - n_prompt):
            before = n_prompt + t - 1  # the position from which the token is drawn
            assert log_probs[row, t] == pytest.approx(float(expected[before, ids[before + 1]]), abs=1e-5), (
                "the logits of a token stand one position before it, and are divided by the temperature"
            )
            value = policy.value_head(hidden[before])
            assert values[row, t] == pytest.approx(float(value), abs=1e-5), (
                "a value is judged before its token"
            )
        assert (log_probs[row, len(ids) - n_prompt :] == 0).all(), "padding has the log-probability 0"
        assert (values[row, len(ids) - n_prompt :] == 0).all(), "padding has the value 0"


def test_reference_and_policy_share_no_storage(gpt):
    reference = frozen_copy(gpt)
    own = {p.data_ptr() for p in gpt.parameters()}
    assert not own & {p.data_ptr() for p in reference.parameters()}, (
        "a step of the policy moves the reference"
    )
    assert not any(p.requires_grad for p in reference.parameters())
    before = copy.deepcopy(reference.state_dict())
    for parameter in gpt.parameters():
        parameter.data += 1
    small.assert_equal(reference.state_dict(), before)
    assert all(p.requires_grad for p in gpt.parameters()), "the policy itself must go on learning"


def test_the_frozen_copy_has_no_dropout(make_gpt):
    assert not frozen_copy(make_gpt(dropout=0.5).train()).training


def test_answers_are_those_of_the_generator(gpt, task, rule):
    rollout = draw_answers(gpt, task.prompts, rule, 7, seed=5)
    assert rollout.ids.shape == rollout.mask.shape and len(rollout.ids) == len(task.prompts)
    for row, prompt in enumerate(task.prompts):
        real = rollout.ids[row, : rollout.n_prompt][rollout.mask[row, : rollout.n_prompt]]
        assert real.tolist() == prompt, "prompts are padded on the left"
    again = draw_answers(gpt, task.prompts, rule, 7, seed=5)
    assert torch.equal(rollout.ids, again.ids), "the same seed draws the same answers"
    assert not torch.equal(rollout.ids, draw_answers(gpt, task.prompts, rule, 7, seed=6).ids)


def test_answers_stop_at_the_limit_or_the_end(gpt, task):
    frequent = draw_answers(gpt, task.prompts, SamplingRule(), 20, seed=1).ids[0, -1]
    rule = SamplingRule(eos_id=int(frequent))
    rollout = draw_answers(gpt, task.prompts * 40, rule, 20, seed=1)
    assert 0 < rollout.ended.sum() < len(rollout.ended), "some are to end, some not"
    for row in range(len(rollout.ids)):
        new = rollout.ids[row, rollout.n_prompt :][rollout.answer_mask[row]].tolist()
        assert len(new) == rollout.lengths[row] <= 20
        assert (rule.eos_id in new) == bool(rollout.ended[row])
        assert rule.eos_id not in new[:-1], "nothing comes after the end token"
        assert rollout.ended[row] or len(new) == 20


def test_scores_are_those_of_policy_and_reference(gpt, task, rule):
    rollout = draw_answers(gpt, task.prompts, rule, 7, seed=5)
    policy = Policy(gpt, zero_value_head=False).eval()
    for parameter in task.reference.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    assert score_answers(rollout, policy, task.reference, rule) is rollout
    args = rollout.ids, rollout.mask, rollout.n_prompt, rule
    small.assert_equal(rollout.log_probs, policy(*args)[0].detach())
    small.assert_equal(rollout.values, policy(*args)[1].detach())
    reference = Policy(task.reference).eval()
    small.assert_equal(rollout.reference_log_probs, reference(*args)[0].detach())
    assert not rollout.log_probs.requires_grad, "what was drawn is data: no gradient may flow into it"
    expected = [
        sum(float(a - b) for a, b in zip(*two, strict=True))
        for two in zip(rollout.log_probs, rollout.reference_log_probs, strict=True)
    ]
    assert rollout.kl().tolist() == pytest.approx(expected, abs=1e-4)


def test_the_drawn_tokens_score_what_the_generator_says(gpt, task, rule):
    from minilm.model.generate import sample

    written = sample(gpt, task.prompts, 7, rule, 5, overflow="stop")
    rollout = score_answers(
        draw_answers(gpt, task.prompts, rule, 7, seed=5), Policy(gpt).eval(), task.reference, rule
    )
    assert torch.equal(written.ids, rollout.ids)
    torch.testing.assert_close(rollout.log_probs, written.log_probs, msg="sampled and scored differently")


def test_the_prompts_of_a_step_are_a_function_of_seed_and_step():
    prompts = [[i] for i in range(50)]
    first = prompts_of_step(prompts, 20, seed=1, step=3)
    assert len(first) == 20 and all(prompt in prompts for prompt in first)
    assert first == prompts_of_step(prompts, 20, seed=1, step=3)
    assert first != prompts_of_step(prompts, 20, seed=1, step=4)
    assert first != prompts_of_step(prompts, 20, seed=2, step=3)
    drawn = {p[0] for step in range(30) for p in prompts_of_step(prompts, 20, 0, step)}
    assert drawn == set(range(50)), "every prompt gets its turn"


def test_each_step_draws_with_another_seed():
    seeds = {sampling_seed(seed, step) for seed in range(4) for step in range(50)}
    assert len(seeds) == 200 and min(seeds) >= 0
    assert sampling_seed(1, 2) == sampling_seed(1, 2)


def test_texts_are_without_padding_and_end_token(task, rule):
    end = rule.eos_id
    prompts = [[end, *TOKENIZER.encode(text)] for text in ("Ana", "The old baker")]
    answers = [[*TOKENIZER.encode(" likes bread."), end], [*TOKENIZER.encode(" sells")]]
    S, n = max(map(len, prompts)), max(map(len, answers))
    ids, mask = torch.full((2, S + n), end), torch.zeros(2, S + n, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, S - len(prompt) : S + len(answer)] = torch.tensor(prompt + answer)
        mask[row, S - len(prompt) : S + len(answer)] = True
    rollout = Rollout(ids, mask, S, torch.tensor([True, False]))
    assert texts_of(rollout, TOKENIZER, end) == [("Ana", " likes bread."), ("The old baker", " sells")]
    assert rollout.lengths.tolist() == [len(answer) for answer in answers]
    assert torch.equal(rollout.answer_mask, mask[:, S:])
