"""Grades reinforcement/reward.py: the scalar head, rules as rewards, normalising, accuracy."""

import copy
import math

import numpy as np
import pytest
import small
import torch

from minilm.checkpoint import save
from minilm.plumbing.errors import UserError
from minilm.reinforcement import reward as module
from minilm.reinforcement.reward import BradleyTerry, Normalised, RewardModel, reward_model_from
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.tokenizer.wordpiece import WordPiece
from minilm.training.loop import train
from minilm.training.metrics import share_interval

TOKENIZER = small.tokenizer()


def test_the_reward_is_read_from_the_last_real_token(make_gpt):
    model = RewardModel(make_gpt(n_decoder_layer=3)).eval().requires_grad_(False)
    ids = torch.randint(9, 200, (3, 8))
    lengths = [8, 5, 1]
    right = torch.arange(8) < torch.tensor(lengths)[:, None]
    found = model(ids, right)
    assert found.shape == (3,)
    for row, n in enumerate(lengths):
        hidden = model.trunk.hidden_states(ids[row : row + 1, :n])[-1][0, -1]
        told = "not of the last layer, at the last real token"
        assert found[row] == pytest.approx(float(model.head(hidden)), abs=1e-5), told
    left = right.flip(1)
    moved = torch.zeros_like(ids)
    moved[left] = ids[right]
    torch.testing.assert_close(model(moved, left), found, msg="the side of the padding must not matter")


def test_the_scores_of_a_rollout_are_the_model_s_and_data(gpt, rollout):
    model = RewardModel(gpt)
    found = model.scores(rollout, [])
    torch.testing.assert_close(found, model(rollout.ids, rollout.mask).detach())
    assert not found.requires_grad, "scores are data: no gradient may flow into the reward model"


def test_the_head_begins_with_deviation_1_over_the_root_of_d_model_plus_1(gpt):
    heads = [RewardModel(gpt).head for _ in range(3000)]
    weights = torch.cat([head.weight.detach() for head in heads])  # (3000, 12): its deviation is within 0.4 %
    assert weights.std() == pytest.approx(13**-0.5, rel=0.02), "1 / sqrt(D + 1), not 1 / sqrt(D)"
    assert weights.mean() == pytest.approx(0, abs=0.01)
    assert all(head.bias == 0 for head in heads), "the bias begins at 0"


def test_a_reward_model_starts_from_a_copy_of_the_policy(gpt):
    before = copy.deepcopy(gpt.state_dict())
    model = reward_model_from(gpt, seed=4)
    small.assert_equal(model.trunk.state_dict(), before)
    for parameter in model.parameters():
        parameter.data += 1
    small.assert_equal(gpt.state_dict(), before, "copy the policy, it must stay as it was: state")
    frozen = copy.deepcopy(gpt).requires_grad_(False)
    assert all(p.requires_grad for p in reward_model_from(frozen, 4).parameters()), "all of it learns"
    heads = [reward_model_from(gpt, seed).head.weight for seed in (4, 4, 5)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_each_text_of_a_pair_has_its_reward(gpt, env, preferences):
    objective, model = BradleyTerry(preferences, env, 5, seed=1), RewardModel(gpt).requires_grad_(False)
    batch = objective.batch(0, "train")
    found = objective.rewards(model, batch)
    for row in range(5):
        for i in (0, 1):  # alone and without padding
            ids = batch["input_ids"][row, i][batch["attention_mask"][row, i].bool()]
            told = f"pair {row}, answer {i}: rows 2 i and 2 i + 1 are one pair, chosen first"
            assert found[row, i] == pytest.approx(float(model(ids[None], None)), abs=1e-5), told


def test_a_reward_model_learns_a_plain_preference(gpt, env, preferences, tmp_path):
    objective, model = BradleyTerry(preferences, env, 8), reward_model_from(gpt, 0)
    outcome = train(model, objective, small.settings(steps=25, batch_size=8, lr=1e-2), tmp_path, TOKENIZER)
    assert outcome["after"]["accuracy"] == 1 and outcome["after"]["loss"] < 0.3
    again = module.load_reward_model(tmp_path, TOKENIZER)
    small.assert_equal(again.state_dict(), model.state_dict())
    assert not again.training


def test_a_folder_without_a_reward_model_of_these_tokens_is_refused(gpt, tmp_path):
    save(RewardModel(gpt), BPE.train(small.documents(40, seed=9), 300, SPECIAL_TOKENS), tmp_path / "foreign")
    save(gpt, TOKENIZER, tmp_path / "policy")
    save(RewardModel(gpt), None, tmp_path / "silent")
    pieces, other = (WordPiece([*SPECIAL_TOKENS, "a"], lower_case=is_lower) for is_lower in (False, True))
    save(RewardModel(gpt), pieces, tmp_path / "wordpiece")
    assert module.load_reward_model(tmp_path / "wordpiece", pieces), "any tokenizer of ours"
    for name, tokenizer, message in (
        ("wordpiece", other, "its tokenizer is not the policy's"),
        ("wordpiece", TOKENIZER, "its tokenizer is not the policy's"),
        ("foreign", TOKENIZER, "its tokenizer is not the policy's"),
        ("policy", TOKENIZER, "not a reward model"),
        ("silent", TOKENIZER, "tokenizer.json"),
        ("nowhere", TOKENIZER, "no such folder"),
    ):
        with pytest.raises((UserError, FileNotFoundError), match=message):
            module.load_reward_model(tmp_path / name, tokenizer)


def test_the_accuracy_is_that_of_the_pairs_with_wilson_s_interval(gpt, env, preferences):
    objective, model = BradleyTerry(preferences, env, 4), reward_model_from(gpt, 0)
    expected = float(objective.loss(model, objective.batch(0, "validation"))[1]["accuracy"])
    share, low, high = module.held_out_accuracy(model, objective, preferences.held_out_pairs)
    assert share == pytest.approx(expected) and 0 < share < 1
    assert (low, high) == share_interval(share, 9)
    turned = [(p, b, a) for p, a, b in preferences.held_out_pairs]
    assert module.held_out_accuracy(model, objective, turned)[0] == pytest.approx(1 - share)


def test_the_accuracy_is_a_share_of_whole_pairs(gpt, env, preferences, monkeypatch):
    objective, pairs = BradleyTerry(preferences, env, 4), preferences.pairs[:10]
    monkeypatch.setattr(module, "evaluate", lambda *_: dict(accuracy=0.6999999))
    share = module.held_out_accuracy(gpt, objective, pairs)[0]
    assert share == 0.7, "7 of 10 pairs, which float32 sums up to a little less: the nearest, not the lower"


def test_a_rule_scores_prompt_and_answer(rollout):
    texts = [("p", " a"), ("prompt", " answer"), ("", ""), ("x", " yy"), ("x", " z")]
    found = module.Rule(lambda prompt, answer: len(prompt) + 10 * len(answer)).scores(rollout, texts)
    assert found.tolist() == [11, 66, 0, 21, 11], "the answer comes without outer white space"
    assert found.dtype == torch.float32


@pytest.mark.parametrize("value", [math.nan, math.inf, "bad", None, ZeroDivisionError("oh")])
def test_a_rule_that_gives_no_number_names_the_text(rollout, value):
    def worse(prompt, answer):
        if answer == "worse" and isinstance(value, Exception):
            raise value
        return value if answer == "worse" else 1.0

    told = "the reward function (returned|gives no number) .* for the prompt 'Ana' and .*'worse'"
    with pytest.raises(UserError, match=told):
        module.Rule(worse).scores(rollout, [("p", " fine"), ("Ana", " worse")])


def test_a_function_is_found_by_its_name(tmp_path, monkeypatch):
    text = "level = 3\n\ndef short(prompt, answer):\n    return -len(answer)\n"
    (tmp_path / "my_rules.py").write_text(text)
    (tmp_path / "broken_rules.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    assert module.load_function("my_rules:short")("a", "bcd") == -3
    for name, message in (
        ("my_rules", "expected module:function"),
        (":short", "cannot import"),
        ("no_such_rules:short", "cannot import .*no_such_rules"),
        ("broken_rules:short", "cannot import .*division"),
        ("my_rules:long", "cannot import .*long"),
        ("my_rules:level", "expected module:function"),
    ):
        with pytest.raises(UserError, match=message):
            module.load_function(name)


class Fixed:
    """A reward that gives these numbers, whatever the texts."""

    def __init__(self, *values: float):
        self.values, self.seen = torch.tensor(values), []

    def scores(self, rollout, texts):
        self.seen.append(texts)
        return self.values


def test_11_rewards_are_normalised_on_the_reference_s_samples(env, rollout, monkeypatch):
    monkeypatch.setattr(module, "N_SAMPLE", 5)
    raw = Fixed(1.0, 2.0, 4.0, 8.0, 5.0)
    reward = Normalised(raw, env, seed=3)
    (texts,) = raw.seen
    given = {env.tokenizer.decode(row[1:]) for row in env.prompts}
    assert len(texts) == 5 and {prompt for prompt, _ in texts} <= given, "not of the prompts measured on"
    drawn = [env.prompts[i] for i in np.random.default_rng(3).integers(0, len(env.prompts), 5)]
    assert [prompt for prompt, _ in texts] == [env.tokenizer.decode(prompt[1:]) for prompt in drawn]
    found = reward.scores(rollout, [])
    assert found.mean() == pytest.approx(0, abs=1e-6), "(score - mean) / deviation"
    assert found.std(correction=0) == pytest.approx(1, rel=1e-5)
    deviation, raw.values = raw.values.std(correction=0), raw.values + 2.45
    kept = pytest.approx(2.45 / float(deviation), rel=1e-5)
    assert reward.scores(rollout, []).mean() == kept, "later samples keep the shift and scale"
    again = Fixed(0.0)
    Normalised(again, env, seed=3)
    assert again.seen == [texts], "the samples are drawn by the seed"


def test_11_a_reward_that_is_always_the_same_stays_finite(env, rollout):
    same = Normalised(Fixed(3.0, 3.0), env, 0)
    told = "without a spread the deviation is taken as 1: dividing by 0 gives NaN"
    assert torch.equal(same.scores(rollout, []), torch.zeros(2)) and same.deviation == 1, told


def test_11_a_small_spread_is_a_spread(env):
    many = Normalised(Fixed(0.0, 1e-5), env, 0)
    assert many.deviation == pytest.approx(0.5e-5, rel=1e-3) and many.mean == pytest.approx(0.5e-5, rel=1e-3)


def test_so_many_samples_are_those_of_the_figures_in_the_readmes():
    assert module.N_SAMPLE == 512
