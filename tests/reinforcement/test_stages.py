"""Grades reinforcement/stages.py: what comes before PPO, each part by itself."""

import json
from pathlib import Path

import pytest
import small
import torch

from minilm.checkpoint import load_trainer, save
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.plumbing.progress import Interrupted
from minilm.reinforcement import stages
from minilm.reinforcement.reward import LearnedReward, RuleReward, reward_model_from
from minilm.reinforcement.rollout import draw_answers
from minilm.reinforcement.stages import (
    check_reward,
    collect_and_reward,
    compare_own_answers,
    load_policy,
    make_reward,
    make_task,
    reward_accuracy,
    reward_model_for,
    supervised_start,
    train_dpo,
    train_stage,
)
from minilm.reinforcement.supervised import Supervised
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.rows import END

CPU = torch.device("cpu")
TOKENIZER = small.tokenizer()


def moved(model, before: dict) -> bool:
    return any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def kept(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_policy_is_a_decoder_with_a_tokenizer_that_can_end_a_text(make_gpt, tmp_path):
    save(make_gpt(), TOKENIZER, tmp_path / "gpt")
    model, tokenizer = load_policy(str(tmp_path / "gpt"), CPU)
    assert model.config == make_gpt().config and tokenizer.vocab == TOKENIZER.vocab
    save(make_gpt(n_decoder_layer=0, n_encoder_layer=1), TOKENIZER, tmp_path / "encoder")
    save(make_gpt(n_encoder_layer=1), TOKENIZER, tmp_path / "both")
    save(make_gpt(), None, tmp_path / "mute")
    save(make_gpt(), BPE.train(small.documents(9), 300), tmp_path / "endless")
    for name, message in (
        ("encoder", "of kind encoder, and a policy has to write"),
        ("both", "of kind encoder-decoder"),
        ("mute", "no tokenizer"),
        ("endless", "'<|endoftext|>' is no special token"),
    ):
        with pytest.raises(UserError, match=message.replace("|", r"\|")):
            load_policy(str(tmp_path / name), CPU)


def test_a_task_has_the_rule_the_prompts_and_a_frozen_reference(gpt, preferences, settings):
    task = make_task(preferences, TOKENIZER, gpt, settings(temperature=0.6))
    assert (task.rule.temperature, task.rule.eos_id) == (0.6, TOKENIZER.special_id(END))
    assert task.rule.top_k is None and task.rule.top_p is None, "a ratio of two models needs all tokens"
    assert len(task.prompts) == len(preferences.prompts)
    assert len(task.test_prompts) == len(preferences.test_prompts)
    assert task.reference is not gpt and task.reward is None
    with pytest.raises(UserError, match="leaves no room for --max-new-tokens 60"):
        make_task(preferences, TOKENIZER, gpt, settings(max_new_tokens=60))


def test_a_stage_trains_in_its_folder_and_goes_on_there(
    make_gpt, preferences, settings, tmp_path, monkeypatch
):
    gpt = make_gpt()
    objective = Supervised(preferences, TOKENIZER, gpt.config, 4)
    outcome = train_stage(gpt, objective, settings(), tmp_path / "a" / "stage", 3, 1e-2)
    assert set(outcome) >= {"before", "after", "seconds"}
    assert load_trainer(tmp_path / "a" / "stage")["step"] == 3
    again = make_gpt(seed=4)
    train_stage(again, objective, settings(resume=True), tmp_path / "a" / "stage", 3, 1e-2)
    small.assert_equal(again.state_dict(), gpt.state_dict())

    def stop(*args):
        raise Interrupted("by the test")

    monkeypatch.setattr(stages, "train", stop)
    with pytest.raises(Interrupted, match=f"to go on: --resume --out {tmp_path}"):
        train_stage(gpt, objective, settings(), tmp_path / "stage", 3, 1e-2)
    with pytest.raises(Interrupted, match="to go on: --resume --out mine"):
        train_stage(gpt, objective, settings(out="mine"), tmp_path / "stage", 3, 1e-2)


def test_the_supervised_start_moves_policy_and_reference_alike(gpt, task, settings, tmp_path, capsys):
    before = kept(gpt)
    supervised_start(gpt, task, settings(), tmp_path)
    assert not moved(gpt, before) and not (tmp_path / "supervised").exists(), "only where it is asked for"
    supervised_start(gpt, task, settings(supervised_steps=2), tmp_path)
    assert moved(gpt, before)
    small.assert_equal(task.reference.state_dict(), gpt.state_dict())


def test_what_cannot_be_learnt_from_is_found_first(gpt, preferences, settings, tmp_path):
    check_reward(preferences, TOKENIZER, gpt, settings(supervised_steps=2))
    save(gpt, TOKENIZER, tmp_path / "policy")
    with pytest.raises(UserError, match="is it a reward model"):
        check_reward(preferences, TOKENIZER, gpt, settings(reward=str(tmp_path / "policy")))
    with pytest.raises(UserError, match="cannot import no_such_rules"):
        check_reward(preferences, TOKENIZER, gpt, settings(reward_function="no_such_rules:f"))
    preferences.pairs.append(("Ana", "ran. " * 200, "slept."))
    with pytest.raises(UserError, match="the pair of the prompt 'Ana' has .* tokens"):
        check_reward(preferences, TOKENIZER, gpt, settings())
    preferences.pairs.clear()
    with pytest.raises(UserError, match="--supervised-steps needs pairs"):
        check_reward(preferences, TOKENIZER, gpt, settings(supervised_steps=2))


def watched(monkeypatch, task) -> list:
    """Note what `collect_and_reward` does, in order, instead of doing it."""
    told = []
    monkeypatch.setattr(
        stages, "compare_own_answers", lambda model, *rest: told.append((model is task.reference, rest[-1]))
    )
    monkeypatch.setattr(
        stages,
        "make_reward",
        lambda task, settings, folder: told.append((folder.name, settings.reward_steps)) or {},
    )
    monkeypatch.setattr(
        stages, "train_ppo", lambda model, task, settings: told.append(("ppo", settings.steps))
    )
    return told


def test_the_second_collection_is_of_a_policy_that_has_learnt(task, settings, tmp_path, monkeypatch):
    told = watched(monkeypatch, task)
    collect_and_reward(task, settings(rounds=2, steps=9, reward_steps=30), tmp_path)
    assert told == [(True, 0), ("reward-1", 15), ("ppo", 3), (False, 1), ("reward", 30)]


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(rounds=1), [(True, 0), ("reward", 3)]),
        (dict(reward="folder"), [(True, 0), ("reward", 3)]),
        (dict(reward_function="a:b"), [("reward", 3)]),
        (dict(sampled_prompts=0), [("reward", 3)]),
    ],
)
def test_pairs_are_collected_only_where_they_are_learnt_from(
    task, settings, tmp_path, monkeypatch, changes, expected
):
    told = watched(monkeypatch, task)
    collect_and_reward(task, settings(**changes), tmp_path)
    assert told == expected
    task.preferences.judge = None
    told.clear()
    collect_and_reward(task, settings(**changes), tmp_path)
    assert told == [("reward", 3)], "without a judge nobody compares the answers"


def test_own_answers_are_added_and_counted(task, settings, monkeypatch, capsys):
    def add(model, task, settings, number):
        task.preferences.pairs += [("p", "a", "b")] * (3 + number)
        task.preferences.own_held_out_pairs += [("q", "a", "b")] * 2

    monkeypatch.setattr(stages, "add_sampled_pairs", add)
    compare_own_answers(task.reference, task, settings(), 1)
    assert "4 and 2 held out" in capsys.readouterr().out


def test_dpo_learns_against_the_reference(gpt, task, settings, tmp_path):
    before = kept(task.reference)
    outcome = train_dpo(gpt, task, settings(dpo_steps=12, dpo_lr=1e-2, reward_batch_size=8), tmp_path)
    assert outcome["after"]["accuracy"] > 0.9 and not moved(task.reference, before)


def test_a_reward_is_trained_normalised_and_kept(gpt, task, settings, tmp_path, capsys):
    found = make_reward(
        task, settings(reward_steps=25, reward_batch_size=8, reward_lr=1e-2), tmp_path / "reward"
    )
    assert found["reward_accuracy"] == 1 and found["reward_accuracy_low"] < 1
    assert f"{found['reward_accuracy']:.3f} of the held-out pairs right" in capsys.readouterr().out
    assert json.loads((tmp_path / "reward" / "results.json").read_text())["reward_accuracy"] == 1
    assert isinstance(task.reward.reward, LearnedReward) and task.reward.deviation != 1
    assert read_log(tmp_path / "reward"), "the reward model has a log of its own"
    rollout = draw_answers(task.reference, task.test_prompts * 32, task.rule, 7, seed=1)
    scores = task.reward(rollout, task.texts(rollout))
    assert scores.mean() == pytest.approx(0, abs=1e-4) and scores.std(correction=0) == pytest.approx(
        1, abs=1e-4
    )
    plain = settings(reward_steps=1, normalise_reward=False)
    make_reward(task, plain, tmp_path / "plain")
    assert (task.reward.mean, task.reward.deviation) == (0.0, 1.0)


def test_a_rule_takes_the_place_of_the_model(gpt, task, settings, tmp_path, monkeypatch):
    (tmp_path / "rules_of_the_stage_test.py").write_text(
        "def long(prompt, answer):\n    return len(answer)\n"
    )
    monkeypatch.chdir(tmp_path)
    found = make_reward(task, settings(reward_function="rules_of_the_stage_test:long"), tmp_path / "reward")
    assert found == {} and isinstance(task.reward.reward, RuleReward)
    assert not Path("reward").exists()


def test_a_finished_reward_model_is_loaded_when_the_run_goes_on(gpt, task, settings, tmp_path, capsys):
    reward_model_for(task, settings(), tmp_path / "reward")
    second, _ = reward_model_for(task, settings(resume=True, reward_steps=9), tmp_path / "reward")
    assert load_trainer(tmp_path / "reward")["step"] == 9, "without results it was not finished"
    (tmp_path / "reward" / "results.json").write_text("{}")
    capsys.readouterr()
    third, _ = reward_model_for(task, settings(resume=True, reward_steps=20), tmp_path / "reward")
    small.assert_equal(third.state_dict(), second.state_dict())
    assert capsys.readouterr().out == ""
    given, _ = reward_model_for(task, settings(reward=str(tmp_path / "reward")), tmp_path / "other")
    small.assert_equal(given.state_dict(), second.state_dict())
    assert not (tmp_path / "other").exists()


def test_the_accuracy_is_that_of_the_held_out_pairs(gpt, task, settings, capsys):
    from minilm.reinforcement.reward import BradleyTerry

    objective = BradleyTerry(task.preferences, TOKENIZER, gpt.config, 4)
    model = reward_model_from(gpt, 0)
    batch = objective.batch(0, "validation")
    expected = float(objective.loss(model, batch)[1]["accuracy"])
    found = reward_accuracy(model, objective, task.preferences)
    assert found["reward_accuracy"] == pytest.approx(expected)
    right = found["reward_accuracy"] * len(task.preferences.held_out_pairs)
    assert right == pytest.approx(round(right), abs=1e-12), "a share of the pairs, without float32's rounding"
    assert found["reward_accuracy_low"] < expected < found["reward_accuracy_high"] or expected in (0, 1)
    assert set(found) == {"reward_accuracy", "reward_accuracy_low", "reward_accuracy_high"}
    task.preferences.own_held_out_pairs += [(p, b, a) for p, a, b in task.preferences.held_out_pairs]
    both = reward_accuracy(model, objective, task.preferences)
    assert both["reward_accuracy"] == found["reward_accuracy"]
    assert both["own_reward_accuracy"] == pytest.approx(1 - expected), "these were turned round"
