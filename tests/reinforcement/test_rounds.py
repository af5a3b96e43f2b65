"""Grades reinforcement/rounds.py: the order of the rounds, their pairs and rewards, the ways of learning."""

import copy
import json
from types import SimpleNamespace

import pytest
import small
import torch

from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.reinforcement import reward, rounds
from minilm.reinforcement.ppo import SWITCHES
from minilm.reinforcement.reward import RewardModel, Rule
from minilm.training.checkpoints import load_trainer


def test_ppo_learns_with_the_changes_it_is_given(reinforcement, make_gpt, monkeypatch):
    seen, made = [], reinforcement(kl=0.5, clip=0.3, lr=0.07)
    monkeypatch.setattr(rounds, "train_ppo", lambda *args: seen.append(args))
    made.env.reward = raw = Rule(lambda prompt, answer: 1.0)
    raw.reward = "what it was before it was normalised"
    gpt = make_gpt()
    made.train_ppo(gpt, kl=0.0, steps=9)
    made.train_ppo(gpt, made.folder, normalise_reward=False)
    (model, env, details, training, folder), second = seen
    assert model is gpt and env is made.env and folder is None and second[4] == made.folder
    assert (details.kl, training.steps, training.clip, training.lr) == (0.0, 9, 0.3, 0.07)
    assert (training.log_every, training.eval_every, training.save_every) == (1, 2, 2)
    told = "`measure` uses the normalised reward: replace it in a copy of the environment"
    assert made.env.reward is raw, told
    assert second[1].reward == raw.reward


def test_a_large_model_learns_at_rates_of_its_own_where_none_is_given(reinforcement, settings, monkeypatch):
    small_one = dict(lr=3e-3, reward_lr=1e-3, dpo_lr=3e-4, dpo_beta=1.0)  # lr: that of these tests
    assert reinforcement().rates == small_one
    assert reinforcement(lr=0.0, dpo_lr=0.0).rates == small_one | dict(lr=0.0, dpo_lr=0.0), "0 is given"
    monkeypatch.setattr(rounds, "LARGE", 12)
    given = dict(lr=None, dpo_beta=0.7, reward_batch_size=8, dpo_steps=2, reward_steps=2)
    made, seen, plain = reinforcement(**given), [], rounds.train
    assert made.rates == dict(lr=1e-5, reward_lr=3e-5, dpo_lr=1e-5, dpo_beta=0.7), "a given one is taken"
    kept = settings(model=made.settings.model, **given)
    assert made.settings == kept, "the command is kept as it was given"

    def train(model, objective, training, *rest):
        seen.append((training.lr, getattr(objective, "beta", 0)))
        return plain(model, objective, training, *rest)

    def train_ppo(policy, env, details, training, folder):
        seen.append((training.lr, 0))
        return dict(seconds=1.0)

    monkeypatch.setattr(rounds, "train", train)
    monkeypatch.setattr(rounds, "train_ppo", train_ppo)
    made.make_reward()
    made.learn()
    assert {*seen} == {(1e-5, 0), (3e-5, 0), (1e-5, 0.7)}


def watched(monkeypatch, made) -> list:
    """Note what `make_reward` does, in order, instead of doing it."""
    told, reference = [], made.env.reference
    monkeypatch.setattr(made, "collect", lambda model, *n: told.append((model is reference, *n)))
    note = lambda model, objective, folder, steps, lr: told.append((folder.name, steps))
    monkeypatch.setattr(made, "train_on_pairs", note)

    def train_ppo(model, **changes):
        assert model is not reference and all(p.requires_grad for p in model.parameters()), "it cannot learn"
        told.append((changes["algorithm"], changes["steps"]))

    monkeypatch.setattr(made, "train_ppo", train_ppo)
    monkeypatch.setattr(rounds, "write_json", lambda *_: None)
    return told


def test_the_second_collection_is_of_a_policy_that_has_learnt(reinforcement, monkeypatch):
    made = reinforcement(rounds=2, steps=9, reward_steps=30)
    told = watched(monkeypatch, made)
    made.make_reward()
    assert told == [(True, 0, 2), ("reward-1", 15), ("ppo", 3), (False, 1, 2), ("reward", 30)]


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(rounds=1), [(True, 0, 1), ("reward", 3)]),
        (dict(reward="folder"), [(True, 0, 1)]),
        (dict(reward_function="a:b"), []),
        (dict(sampled_prompts=0), [("reward", 3)]),
    ],
)
def test_pairs_are_collected_where_learnt_from(reinforcement, monkeypatch, changes, expected, judged, gpt):
    monkeypatch.setattr(reward, "load_reward_model", lambda *_: RewardModel(gpt))
    monkeypatch.setattr(reward, "load_function", lambda name: lambda prompt, answer: 1.0)
    made = reinforcement(**changes)
    made.env.judge = made.env.judge if judged else None
    told = watched(monkeypatch, made)
    made.make_reward()
    collection = (True, 0, 1)  # of the reference, the first, of one
    assert told == [step for step in expected if judged or step != collection], "nobody compares answers"


def test_a_reward_is_trained_normalised_and_kept(reinforcement, capsys):
    made = reinforcement(reward_steps=25, reward_batch_size=8, reward_lr=1e-2, sampled_prompts=0)
    made.preferences.own_held_out_pairs = [(p, b, a) for p, a, b in made.preferences.held_out_pairs]
    found = made.make_reward()
    assert found["reward_accuracy"] == 1 and found["reward_accuracy_low"] < 1
    assert found["own_reward_accuracy"] == 0, "these are turned round"
    assert "reward_accuracy: 1.000 of 9 (95 % interval" in capsys.readouterr().out
    assert json.loads((made.folder / "reward" / "results.json").read_text()) == found | dict(seed=0)
    assert read_log(made.folder / "reward"), "the reward model has a log of its own"
    learnt = made.env.reward
    assert isinstance(learnt, reward.Normalised) and isinstance(learnt.reward, RewardModel)
    given = reinforcement("other", reward=str(made.folder / "reward"), sampled_prompts=0)
    assert given.make_reward()["reward_accuracy"] == 1 and not any(given.folder.iterdir())


@pytest.mark.parametrize(
    ("n_sampled", "n_prompt", "n_held_out", "n_new", "n_other"),
    [(9, 9, 4, 4, 1), (40, 40, 8, 20, 4), (40, 40, 12, 20, 5), (6000, 40, 12, 20, 5)],
)
def test_each_collection_adds_pairs_from_prompts_of_its_own(
    n_sampled, n_prompt, n_held_out, n_new, n_other, reinforcement, monkeypatch, capsys
):
    """Each of two rounds takes half, and of held-out ones a quarter as many, if there are so many."""
    asked = []

    def drawn(model, env, prompts, n_answer, seed, temperature):
        assert (model, n_answer, temperature) == ("writer", 3, 0.9)
        asked.append((prompts, seed))
        return [(prompt, "good", "bad") for prompt in prompts]

    monkeypatch.setattr(rounds, "sampled_pairs", drawn)
    flags = dict(sampled_prompts=n_sampled, answers_a_prompt=3, pair_temperature=0.9)
    made = reinforcement(**flags, rounds=2, seed=4)
    found, before = made.preferences, list(made.preferences.pairs)
    found.prompts = [f"Prompt {i}" for i in range(n_prompt)]
    others = [f"Held out {i}" for i in range(n_held_out)]
    found.held_out_pairs = [(prompt, "a", "b") for prompt in others for _ in range(2)]
    for number in (0, 1):
        made.collect("writer", number, 2)
    prompts, seeds = zip(*asked, strict=True)
    told = "each round takes other prompts: the training ones, then held-out ones, in parts"
    first, second = found.prompts[:n_new], found.prompts[n_new:][:n_new]
    assert list(prompts) == [first, others[:n_other], second, others[n_other:][:n_other]], told
    assert len(set(seeds)) == 4, "every collection draws anew"
    told = "pairs of held-out prompts must not be learnt from"
    assert found.pairs == before + [(prompt, "good", "bad") for prompt in first + second], told
    assert len(found.own_held_out_pairs) == 2 * n_other, told
    assert f"{n_new}, and {n_other} held out" in capsys.readouterr().out


@pytest.fixture
def of_a_rule(reinforcement, monkeypatch):
    """A run of DPO on prompts whose answers a rule ranks: it has no judge, and no pairs yet."""
    monkeypatch.setattr(reward, "load_function", lambda name: lambda prompt, answer: float(len(answer)))
    flags = dict(algorithm="dpo", prompts="p", reward_function="rules:length", contrast=False)
    made = reinforcement(**flags, sampled_prompts=6)
    made.env.judge, made.preferences.pairs, made.preferences.held_out_pairs = None, [], []
    return made


def test_dpo_of_a_rule_alone_learns_from_the_policys_own_answers(of_a_rule, monkeypatch):
    asked, found = [], of_a_rule.preferences

    def drawn(model, env, prompts, n_answer, seed, temperature):
        score = env.reward.scores(SimpleNamespace(ids=torch.zeros(1)), [("Ana", " bread.")]).item()
        asked.append((model is env.reference, prompts, score))
        return [(prompt, "good", "bad") for prompt in prompts]

    monkeypatch.setattr(rounds, "sampled_pairs", drawn)
    prompts, others = list(found.prompts), found.test_prompts[:1]
    of_a_rule.make_reward()
    told = "a rule collects once, so that it has all --sampled-prompts, whatever --rounds"
    assert asked == [(True, prompts, 6.0), (True, others, 6.0)], told
    assert [prompt for prompt, _, _ in found.pairs] == prompts, "pairs of the prompts that are learnt from"
    assert [prompt for prompt, _, _ in found.held_out_pairs] == others
    assert set(of_a_rule.learn()[0]) == {"start", "dpo"}


def test_prompts_none_of_which_gives_a_pair_are_told(of_a_rule, monkeypatch):
    monkeypatch.setattr(rounds, "sampled_pairs", lambda *_: [])
    told = "a better and a worse finished answer: more --answers"
    with pytest.raises(UserError, match=f"no prompt has {told}"):
        of_a_rule.make_reward()
    of_a_rule.preferences.pairs = [("Ana", "good", "bad")]
    with pytest.raises(UserError, match=f"no held-out prompt has {told}"):
        of_a_rule.collect(of_a_rule.env.reference, 0, 1)


def test_pairs_that_a_reward_has_put_in_order_say_nothing_of_how_good_it_is(reinforcement, monkeypatch, gpt):
    monkeypatch.setattr(reward, "load_reward_model", lambda *_: RewardModel(gpt))
    monkeypatch.setattr(rounds, "sampled_pairs", lambda *_: [("Ana", " sells bread.", " runs.")])
    made = reinforcement(reward="folder", algorithm="dpo")
    assert set(made.make_reward()) >= {"reward_accuracy", "own_reward_accuracy"}, "the judge ordered these"
    made.env.judge, made.preferences.pairs, made.preferences.held_out_pairs = None, [], []
    assert made.make_reward() == {}


def test_each_way_of_learning_starts_from_the_same_policy(reinforcement, gpt, monkeypatch):
    made = reinforcement(kl=0.1, adaptive_kl=True)
    starts, inner = [], made.train_ppo

    def train_ppo(model, *rest, **changes):
        starts.append((copy.deepcopy(model.state_dict()), changes))
        return inner(model, *rest, **changes)

    monkeypatch.setattr(made, "train_ppo", train_ppo)
    columns, seconds = made.learn()
    assert list(columns) == ["start", "ppo", "kl 0", "dpo", "best of 4"]
    assert list(seconds) == ["ppo", "kl 0", "dpo"]
    (first, changes), (second, without_kl) = starts
    small.assert_equal(first, gpt.state_dict())
    small.assert_equal(second, gpt.state_dict())
    assert changes == {} and without_kl.pop("stop_kl") > 1e6, "here the explosion is the lesson"
    assert without_kl.pop("warn_kl") and without_kl == dict(kl=0.0, adaptive_kl=False)
    assert columns["start"].figures["kl"] == 0 < abs(columns["dpo"].figures["kl"])
    assert columns["best of 4"].figures["reward"] > columns["start"].figures["reward"]
    assert load_trainer(made.folder)["step"] == 4 and load_trainer(made.folder / "dpo")["step"] == 3
    small.assert_equal(made.env.reference.state_dict(), gpt.state_dict())


def test_contrasts_can_be_left_out(reinforcement):
    assert list(reinforcement(contrast=False).learn()[0]) == ["start", "ppo"]
    made = reinforcement()
    made.preferences.pairs.clear()
    assert list(made.learn()[0]) == ["start", "ppo", "kl 0", "best of 4"]
    rule = reinforcement("ruled", reward_function="builtins:print")
    assert "dpo" not in rule.learn()[0], "the pairs say nothing of the rule: DPO of them is no comparison"


def test_grpo_learns_in_groups_from_the_reward_that_ppo_has(reinforcement, monkeypatch):
    made, seen = reinforcement(algorithm="grpo", group_size=3, best_of=2), []
    told = watched(monkeypatch, made)
    made.make_reward()
    assert ("ppo", 1) in told, "a reward of its own could not be compared with PPO's"
    made, inner = reinforcement("other", algorithm="grpo", group_size=3, best_of=2), rounds.train_ppo
    monkeypatch.setattr(rounds, "train_ppo", lambda *args: seen.append(args[2].group_size) or inner(*args))
    columns, _ = made.learn()
    assert list(columns) == ["start", "grpo", "kl 0", "dpo", "best of 2"] and seen == [3, 3]
    last = read_log(made.folder)[-1]
    assert last["step"] == 4 and last["value_loss"] == last["value_error"] == 0, "there is no value to learn"
    made.train_ppo(copy.deepcopy(made.env.reference).requires_grad_(True), algorithm="ppo")
    assert seen[-1] == 1, "PPO has a value head, and no group"


def test_dpo_learns_in_the_folder_of_the_run(reinforcement):
    made = reinforcement(algorithm="dpo", dpo_steps=12, dpo_lr=1e-2, reward_batch_size=8)
    columns, _ = made.learn()
    assert list(columns) == ["start", "dpo"] and load_trainer(made.folder)["step"] == 12
    assert read_log(made.folder)[-1]["accuracy"] > 0.9


def test_an_ablation_is_a_run_a_switch_without_a_folder(reinforcement, monkeypatch, capsys):
    monkeypatch.setattr(rounds, "SWITCHES", (SWITCHES[0], (2, "no KL", dict(kl=0.0)), SWITCHES[-1]))
    made = reinforcement(ablate=True, kl=0.5)
    made.env.reward = reward.Normalised(Rule(lambda prompt, answer: 50.0 * len(answer)), made.env, 0)
    columns, seconds = made.learn()
    assert list(columns) == ["start", "nothing", "no KL", "reward not normalised"] and len(seconds) == 3
    figures = [columns[name].figures for name in columns]
    assert figures[1]["kl"] != figures[2]["kl"] != figures[3]["kl"], "a change did not reach its run"
    assert abs(figures[3]["reward"]) < 9, "the column has one unit for all rows"
    again = made.learn()[0]
    assert [again[name].figures for name in again] == figures
    assert not any(made.folder.iterdir()) and "no KL:" in capsys.readouterr().out


def test_each_part_of_a_run_draws_from_a_seed_of_its_own(reinforcement, monkeypatch):
    made, seen = reinforcement(seed=5, rounds=2, sampled_prompts=40, steps=9, reward_steps=1, best_of=4), []
    made.preferences.held_out_pairs = [(f"Held out {i}", "a", "b") for i in range(8)]
    monkeypatch.setattr(rounds, "sampled_pairs", lambda *given: seen.append(given[4]) or [("Who", "a", "b")])
    for number in (0, 1):
        made.collect("writer", number, 2)
    told = "other texts or draws than those of the READMEs' figures: see the other failures, if any"
    assert seen == [n * 10**6 for n in (10, 11, 2010, 2011)], told
    told = watched(monkeypatch, made)
    monkeypatch.setattr(rounds, "reward_model_from", lambda reference, seed: seen.append(seed))
    monkeypatch.setattr(rounds, "held_out_accuracy", lambda *_: (1.0, 0.9, 1.0))
    monkeypatch.setattr(rounds, "Normalised", lambda model, env, seed: seen.append(seed))
    monkeypatch.setattr(rounds, "measure", lambda model, env, seed, *start: seen.append((seed, *start[1:])))
    made.make_reward()
    assert told[1] == ("reward-1", 1), "half of the steps, one at least"
    assert seen[4:] == [5, 6, 5, 6]
    made.train_ppo, made.train_on_pairs = (lambda *_, **__: dict(seconds=1.0),) * 2
    made.learn()
    assert seen[8:] == [(7,), (7,), (7,), (7,), (7, 4)], "the same prompts and draws for each column"


def test_what_learns_from_pairs_warms_up_and_cools_down(reinforcement, monkeypatch):
    made, seen = reinforcement(reward_batch_size=4), []
    monkeypatch.setattr(rounds, "train", lambda model, objective, stage, *rest: seen.append(stage))
    for steps in (9, 400):
        made.train_on_pairs("model", "objective", made.folder, steps, 0.25)
    assert [(s.steps, s.eval_every, s.warmup) for s in seen] == [(9, 9, 4), (400, 400, 20)]
    assert {(s.batch_size, s.lr, s.schedule, s.weight_decay) for s in seen} == {(4, 0.25, "linear", 0.01)}
