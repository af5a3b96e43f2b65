"""Grades reinforcement/reward.py: the scalar head, its loss, rules as rewards, normalising."""

import copy
import math

import pytest
import small
import torch

from minilm.checkpoint import save, save_model
from minilm.plumbing.errors import UserError
from minilm.reinforcement.reward import (
    BradleyTerry,
    LearnedReward,
    Normalised,
    RewardModel,
    RuleReward,
    confidence_interval,
    load_function,
    load_reward_model,
    reward_model_from,
)
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.training.loop import train

TOKENIZER = small.tokenizer()


def test_the_reward_is_read_from_the_last_real_token(gpt):
    model = RewardModel(gpt).eval().requires_grad_(False)
    ids = torch.randint(9, 200, (3, 8))
    lengths = [8, 5, 1]
    right = torch.arange(8) < torch.tensor(lengths)[:, None]
    found = model(ids, right)
    assert found.shape == (3,)
    for row, n in enumerate(lengths):
        hidden = gpt.hidden_states(ids[row : row + 1, :n])[-1][0, -1]
        assert found[row] == pytest.approx(float(model.head(hidden)), abs=1e-5), "not the last real token"
    left = right.flip(1)
    moved = torch.zeros_like(ids)
    moved[left] = ids[right]
    torch.testing.assert_close(model(moved, left), found, msg="the side of the padding must not matter")


def test_the_head_begins_with_deviation_1_over_the_root_of_d_model_plus_1(make_gpt):
    model = RewardModel(make_gpt(d_model=600, n_head=2, d_ff=4)).requires_grad_(False)
    assert model.head.weight.std() == pytest.approx(601**-0.5, rel=0.1)
    assert abs(float(model.head.weight.mean())) < 5 * 601**-0.5 / 600**0.5
    assert (model.head.bias == 0).all()


def test_a_reward_model_starts_from_a_copy_of_the_policy(gpt):
    before = copy.deepcopy(gpt.state_dict())
    model = reward_model_from(gpt, seed=4)
    small.assert_equal(model.trunk.state_dict(), before)
    for parameter in model.parameters():
        parameter.data += 1
    small.assert_equal(gpt.state_dict(), before)
    frozen = copy.deepcopy(gpt).requires_grad_(False)
    assert all(p.requires_grad for p in reward_model_from(frozen, 4).parameters()), "all of it learns"
    assert torch.equal(reward_model_from(gpt, 4).head.weight, reward_model_from(gpt, 4).head.weight)
    assert not torch.equal(reward_model_from(gpt, 4).head.weight, reward_model_from(gpt, 5).head.weight)


def test_the_loss_is_that_of_bradley_and_terry(gpt, preferences):
    objective = BradleyTerry(preferences, TOKENIZER, gpt.config, 5, seed=1)
    model = RewardModel(gpt).double().requires_grad_(False)
    model.head.weight.data *= 30
    batch = objective.batch(0, "train")
    expected, right, margins = 0.0, 0, 0.0
    for row in range(5):
        mask = batch["attention_mask"][row]
        rewards = [
            float(model(batch["input_ids"][row, i][mask[i]][None], torch.ones(1, int(mask[i].sum()))))
            for i in (0, 1)
        ]
        margin = rewards[0] - rewards[1]  # chosen first
        expected += math.log1p(math.exp(-margin)) / 5
        right, margins = right + (margin > 0) / 5, margins + margin / 5
    loss, metrics = objective.loss(model, batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(right) and 0 < right < 1
    assert float(metrics["margin"]) == pytest.approx(margins, rel=1e-4)


def test_a_reward_model_learns_a_plain_preference(gpt, preferences, tmp_path):
    objective = BradleyTerry(preferences, TOKENIZER, gpt.config, 8)
    model = reward_model_from(gpt, 0)
    outcome = train(model, objective, small.settings(steps=25, batch_size=8, lr=1e-2), tmp_path, TOKENIZER)
    assert outcome["after"]["accuracy"] == 1 and outcome["after"]["loss"] < 0.3
    again = load_reward_model(tmp_path, TOKENIZER)
    small.assert_equal(again.state_dict(), model.state_dict())
    assert not again.training


def test_a_model_with_another_tokenizer_is_refused(gpt, tmp_path):
    other = BPE.train(small.documents(40, seed=9), 300, SPECIAL_TOKENS)
    save(RewardModel(gpt), other, tmp_path / "reward")
    with pytest.raises(UserError, match="another tokenizer"):
        load_reward_model(tmp_path / "reward", TOKENIZER)


def test_a_folder_without_a_reward_model_is_refused(gpt, tmp_path):
    save(gpt, TOKENIZER, tmp_path / "policy")
    with pytest.raises(UserError, match="is it a reward model"):
        load_reward_model(tmp_path / "policy", TOKENIZER)
    save(RewardModel(gpt), None, tmp_path / "silent")
    with pytest.raises(UserError, match="no tokenizer.json"):
        load_reward_model(tmp_path / "silent", TOKENIZER)
    with pytest.raises(UserError, match="no such folder"):
        load_reward_model(tmp_path / "nowhere", TOKENIZER)


def test_the_learned_reward_is_the_model_s_and_never_moves(gpt, rollout, tmp_path):
    model = RewardModel(gpt)
    save_model(tmp_path, model, TOKENIZER)
    reward = LearnedReward(model)
    torch.testing.assert_close(reward(rollout, []), model(rollout.ids, rollout.mask).detach())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_rule_scores_prompt_and_answer(rollout):
    texts = [("p", " a"), ("prompt", " answer"), ("", ""), ("x", " yy"), ("x", " z")]
    found = RuleReward(lambda prompt, answer: len(prompt) + 10 * len(answer))(rollout, texts)
    assert found.tolist() == [11, 66, 0, 21, 11], "the answer comes without outer white space"
    assert found.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "bad", None])
def test_a_rule_that_gives_no_number_names_the_text(rollout, value):
    rule = RuleReward(lambda prompt, answer: value if answer == "worse" else 1.0)
    with pytest.raises(UserError, match="the reward function .*'worse'") as error:
        rule(rollout, [("p", " fine"), ("Ana", " worse")])
    assert "'Ana'" in str(error.value)


def test_a_rule_that_raises_names_the_text_and_the_error(rollout):
    with pytest.raises(UserError, match="raised ZeroDivisionError .* for 'Ana' and the answer 'x'"):
        RuleReward(lambda prompt, answer: 1 / 0)(rollout, [("Ana", " x")])


def test_a_function_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(
        "def short(prompt, answer):\n    return -len(answer)\n\nlevel = 3\n"
    )
    (tmp_path / "broken_rules.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    assert load_function("my_rules:short")("a", "bcd") == -3
    for name, message in (
        ("my_rules", "expected module:function"),
        (":short", "expected module:function"),
        ("no_such_rules:short", "cannot import no_such_rules"),
        ("broken_rules:short", "cannot import broken_rules .*division"),
        ("my_rules:long", "no function long"),
        ("my_rules:level", "no function level"),
    ):
        with pytest.raises(UserError, match=message):
            load_function(name)


def test_11_rewards_are_normalised_on_the_reference_s_samples(rollout):
    raw = torch.tensor([1.0, 2.0, 4.0, 8.0, 5.0])
    reward = Normalised(lambda rollout, texts: raw, rollout, [])
    found = reward(rollout, [])
    assert found.mean() == pytest.approx(0, abs=1e-6) and found.std(correction=0) == pytest.approx(
        1, rel=1e-5
    )
    reward.reward = lambda rollout, texts: raw + 2.45  # later samples keep the shift and scale
    assert reward(rollout, []).mean() == pytest.approx(2.45 / float(raw.std(correction=0)), rel=1e-5)
    assert torch.equal(Normalised(lambda rollout, texts: raw, rollout, [], on=False)(rollout, []), raw)


def test_11_a_reward_that_is_always_the_same_stays_finite(rollout):
    reward = Normalised(lambda rollout, texts: torch.full((5,), 3.0), rollout, [])
    assert torch.equal(reward(rollout, []), torch.zeros(5))


def test_the_interval_is_wilson_s():
    low, high = confidence_interval(0.98, 500)
    assert low == pytest.approx(0.9636, abs=1e-3) and high == pytest.approx(0.9891, abs=1e-3)
    for share, n in ((0.3, 40), (0.98, 500), (0.5, 7)):  # the ends solve (p - share)^2 = z^2 p (1 - p) / n
        for end in confidence_interval(share, n):
            assert (end - share) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, rel=1e-9)
    assert confidence_interval(1.0, 20)[1] <= 1 and confidence_interval(0.0, 20)[0] == pytest.approx(0)
    assert confidence_interval(0.9, 1000)[0] > confidence_interval(0.9, 100)[0]
