"""Grades reinforcement/rollout.py: what is drawn, how it is scored, and what is measured on it."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import small
import torch

from minilm.model.generate import sample
from minilm.reinforcement.rollout import Policy, Rollout, draw_answers, measure, score_answers

TOKENIZER = small.tokenizer()


def test_1_the_value_head_begins_at_0_or_at_random(gpt, rollout, rule):
    zero, random = Policy(copy.deepcopy(gpt)), Policy(copy.deepcopy(gpt), zero_value_head=False)
    args = rollout.ids, rollout.mask, rollout.n_prompt, rule
    assert (zero(*args)[1] == 0).all()
    assert random(*args)[1].abs().max() > 0 and (random.value_head.bias == 0).all()
    heads = [Policy(gpt, zero_value_head=False).value_head for _ in range(3000)]
    weights = torch.cat([head.weight.detach() for head in heads])  # (3000, 12): its deviation is within 0.4 %
    assert weights.std() == pytest.approx(13**-0.5, rel=0.02), "1 / sqrt(D + 1), not 1 / sqrt(D)"
    random.value_head = None
    assert (random(*args)[1] == 0).all(), "without one it is 0"


def test_a_policy_is_saved_without_its_value_head(gpt):
    policy = Policy(gpt)
    small.assert_equal(policy.merged_state(), gpt.state_dict())
    assert policy.config == gpt.config


def test_log_probabilities_and_values_equal_a_plain_loop(make_gpt, rollout, rule):
    gpt = make_gpt(n_decoder_layer=3)
    policy = Policy(gpt, zero_value_head=False).requires_grad_(False)
    log_probs, values = policy(rollout.ids, rollout.mask, rollout.n_prompt, rule)
    for row in range(len(rollout.ids)):
        ids = rollout.ids[row][rollout.mask[row]]  # alone and without padding
        n_prompt = int(rollout.mask[row, : rollout.n_prompt].sum())
        hidden = gpt.hidden_states(ids[None])[-1][0]  # of the last layer
        expected = (gpt.vocabulary_logits(hidden) / rule.temperature).log_softmax(-1)
        for t in range(len(ids) - n_prompt):
            before = n_prompt + t - 1  # the position from which the token is drawn
            log_prob = float(expected[before, ids[before + 1]])
            told = "the logits of a token stand one position before it, and are divided by the temperature"
            assert log_probs[row, t] == pytest.approx(log_prob, abs=1e-5), told
            value = policy.value_head(hidden[before])
            assert values[row, t] == pytest.approx(float(value), abs=1e-5), "judged before its token"
        assert (log_probs[row, len(ids) - n_prompt :] == 0).all(), "padding has the log-probability 0"
        assert (values[row, len(ids) - n_prompt :] == 0).all(), "padding has the value 0"


def test_answers_are_those_of_the_generator(gpt, env, rule):
    written = sample(gpt, env.prompts, 7, rule, 5, overflow="stop")
    rollout = draw_answers(gpt, env, env.prompts, seed=5)
    for row, prompt in enumerate(env.prompts):
        real = rollout.ids[row, : rollout.n_prompt][rollout.mask[row, : rollout.n_prompt]]
        assert real.tolist() == prompt, "prompts are padded on the left"
    assert torch.equal(rollout.ids, written.ids), "the same seed draws the same answers"
    assert not torch.equal(rollout.ids, draw_answers(gpt, env, env.prompts, seed=6).ids)
    long = [*env.prompts[0], *[9] * (gpt.config.max_positions - len(env.prompts[0]) - 2)]
    both = draw_answers(gpt, env, [long, env.prompts[0]], seed=5)
    told = "where all positions are full an answer stops: sliding would forget the prompt"
    assert int(both.lengths[0]) == 2 < int(both.lengths[1]), told
    assert not both.ended[0], "its padding is the end token too: only real tokens end an answer"


def test_answers_stop_at_the_limit_or_the_end(gpt, env):
    frequent = int(draw_answers(gpt, env, env.prompts, seed=1).ids[0, -1])
    env.rule = type(env.rule)(eos_id=frequent)
    rollout = draw_answers(gpt, env, env.prompts * 90, seed=1)
    assert 0 < rollout.ended.sum() < len(rollout.ended), "some must end, some not"
    for ids, mask, ended in zip(rollout.ids, rollout.answer_mask, rollout.ended, strict=True):
        new = ids[rollout.n_prompt :][mask].tolist()
        assert (frequent in new) == bool(ended) and frequent not in new[:-1], "nothing comes after the end"
        assert ended or len(new) == 7


def test_scores_are_those_of_policy_and_reference(gpt, moved, env, rule):
    rollout = draw_answers(moved, env, env.prompts, seed=5)
    policy = Policy(moved, zero_value_head=False)
    assert score_answers(rollout, policy, env) is rollout
    args = rollout.ids, rollout.mask, rollout.n_prompt, rule
    small.assert_equal(rollout.log_probs, policy(*args)[0].detach())
    small.assert_equal(rollout.values, policy(*args)[1].detach())
    told = "what the reference gives under the same rule and temperature"
    small.assert_equal(rollout.reference_log_probs, Policy(gpt)(*args)[0].detach(), told)
    assert not rollout.log_probs.requires_grad, "what was drawn is data: no gradient may flow into it"
    both = zip(rollout.log_probs, rollout.reference_log_probs, strict=True)
    expected = [sum(float(a - b) for a, b in zip(*two, strict=True)) for two in both]
    told = "the sum over an answer's tokens of log pi - log reference"
    assert rollout.kl().tolist() == pytest.approx(expected, abs=1e-4), told


def test_texts_are_without_padding_and_end_token(env):
    end = env.rule.eos_id
    prompts = [[end, *TOKENIZER.encode(text)] for text in ("Ana", "The old baker")]
    answers = [[*TOKENIZER.encode(" likes bread."), end], [*TOKENIZER.encode(" sells")]]
    S, n = max(map(len, prompts)), max(map(len, answers))
    ids, mask = torch.full((2, S + n), end), torch.zeros(2, S + n, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row] = 40 + row  # padding that is text where the mask is not used
        ids[row, S - len(prompt) : S + len(answer)] = torch.tensor(prompt + answer)
        mask[row, S - len(prompt) : S + len(answer)] = True
    rollout = Rollout(ids, mask, S, torch.tensor([True, False]))
    told = "real tokens alone; the answer keeps the space before its first word"
    assert env.texts(rollout) == [("Ana", " likes bread."), ("The old baker", " sells")], told
    turns = replace(env, rule=replace(env.rule, eos_id=TOKENIZER.special_id("[SEP]")))
    assert turns.texts(rollout) == env.texts(rollout), "begin and end tokens may differ"
    assert rollout.lengths.tolist() == [len(answer) for answer in answers]
    assert torch.equal(rollout.answer_mask, mask[:, S:])


def test_the_figures_are_those_of_the_answers(env, moved):
    env.test_prompts, env.judge = env.prompts * 3, lambda text: len(text) % 2 == 0
    start = measure(env.reference, env, seed=2)
    assert start.figures["kl"] == 0 and not {"win_rate", "reward_win_rate"} & set(start.figures)
    found, plain, learns = measure(moved, env, seed=2, start=start), env.reward.scores, []
    note = lambda *given: learns.append(torch.is_grad_enabled()) or plain(*given)
    measure(moved, replace(env, reward=SimpleNamespace(scores=note)), seed=2)
    assert learns == [False], "nothing is learnt: without no_grad all states of all answers would be kept"
    rollout = draw_answers(moved, env, env.test_prompts, seed=2)
    assert found.texts == env.texts(rollout), "the answers to the test prompts, drawn with the seed"
    n_token, n = int(rollout.answer_mask.sum()), len(env.test_prompts)
    score_answers(rollout, Policy(moved), env)
    expected = dict(
        kl=float(rollout.kl().mean()),  # a sum over each answer, then a mean: nats a sequence
        perplexity=math.exp(-rollout.reference_log_probs.sum() / n_token),  # a mean over real tokens
        reward=float(env.reward.scores(rollout, found.texts).mean()),
        judge=sum(len(prompt + answer) % 2 == 0 for prompt, answer in found.texts) / n,
        distinct=len({answer for _, answer in found.texts}) / n,
        length=n_token / n,
    )
    for name, value in expected.items():
        told = f"{name} {found.figures[name]}, not {value}: see the docstring of `measure`"
        assert found.figures[name] == pytest.approx(value, rel=1e-4, abs=1e-4), told
    assert set(found.figures) == {*expected, "win_rate", "reward_win_rate"}


def test_the_best_of_some_answers_is_that_with_the_highest_reward(env):
    start = measure(env.reference, env, seed=2)
    found = measure(env.reference, env, seed=5, start=start, best_of=3)
    drawn = draw_answers(env.reference, env, [p for p in env.test_prompts for _ in range(3)], seed=5)
    texts, scores = env.texts(drawn), env.reward.scores(drawn, [])
    for i in range(len(env.test_prompts)):
        three = range(3 * i, 3 * i + 3)
        best = max(three, key=lambda row: float(scores[row]))
        assert len({float(scores[row]) for row in three}) > 1, "the test must have something to choose from"
        told = "the answers to a prompt are neighbours: rows 3 i to 3 i + 2, of which the best stays"
        assert found.texts[i] == texts[best] and found.scores[i] == scores[best], told
    assert found.figures["kl"] == pytest.approx(math.log(3) - 2 / 3), "log n - (n - 1) / n"


def test_a_judge_that_sees_no_difference_and_none_at_all(env):
    start = measure(env.reference, env, seed=2)
    same = measure(env.reference, env, seed=2, start=start).figures
    assert (same["win_rate"], same["reward_win_rate"]) == (0.5, 0.5), "no difference, or a tie, is one half"
    env.judge = None
    start = measure(env.reference, env, seed=2)
    found = measure(env.reference, env, seed=2, start=start).figures
    assert start.judged is None and not {"judge", "win_rate"} & set(found) and found["reward_win_rate"] == 0.5


def test_wins_losses_and_ties_are_counted_apart(env):
    env.test_prompts = env.prompts * 2
    start = measure(env.reference, env, seed=2)
    pairs = [(True, False)] + [(False, True)] * 2 + [(True, True)] * 3 + [(False, False)] * 4
    own, start.judged = zip(*pairs, strict=True)
    answers = iter(own)
    env.judge = lambda text: next(answers)
    start.scores[:3] -= 1  # three are better than the start's, two worse, five the same
    start.scores[3:5] += 1
    figures = measure(env.reference, env, seed=2, start=start).figures
    told = "one win, two losses: what both or none meet is no game"
    assert figures["win_rate"] == pytest.approx(1 / 3), told
    assert figures["reward_win_rate"] == pytest.approx((3 + 5 / 2) / 10), "a tie is one half"
    env.judge = lambda text: True
    start.judged = [False] * 10
    assert measure(env.reference, env, seed=2, start=start).figures["win_rate"] == 1


def test_answers_are_drawn_and_scored_in_one_precision(env, gpt):
    """With bf16 a ratio of what is drawn and what is scored in float32 would not be 1."""
    answers = draw_answers(gpt, env, env.prompts, seed=5)
    seen, policy = [], Policy(gpt)
    note = lambda module, given, out: seen.append(out.dtype)
    for model in (gpt, env.reference):
        next(m for m in model.modules() if isinstance(m, torch.nn.Linear)).register_forward_hook(note)
    for env.precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        draw_answers(gpt, env, env.prompts, seed=5)
        score_answers(answers, policy, env)
        assert seen and {*seen} == {expected}, f"--precision {env.precision} computes in {seen}"
        seen.clear()
