"""Grades reinforcement/run.py: the checks at the door, going on, the end (whole runs: test_reinforce.py)."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import small

from minilm.checkpoint import save
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.reinforcement import run
from minilm.reinforcement.dpo import DirectPreference
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.rows import END
from minilm.training.checkpoints import load_trainer, save_trainer

TOKENIZER = small.tokenizer()


def test_a_run_begins_with_the_rule_the_prompts_and_a_frozen_reference(reinforcement, gpt, preferences):
    made = reinforcement(temperature=0.6)
    env = made.env
    assert (env.rule.temperature, env.rule.eos_id) == (0.6, TOKENIZER.special_id(END))
    assert env.rule.top_k is None and env.rule.top_p is None, "a ratio of two models needs all tokens"
    assert TOKENIZER.special_id("[PAD]") in env.rule.forbidden_ids, "an answer may hold what no text does"
    assert len(env.prompts) == len(preferences.prompts) and env.judge is not None
    assert len(env.test_prompts) == len(preferences.test_prompts)
    small.assert_equal(env.reference.state_dict(), gpt.state_dict())
    assert not env.reference.training and not any(p.requires_grad for p in env.reference.parameters())
    assert made.settings.model.endswith("gpt") and made.given is None
    assert (env.precision, reinforcement(precision="bf16").env.precision) == ("fp32", "bf16")


def test_a_policy_is_a_decoder_that_can_end_a_text(reinforcement, make_gpt, tmp_path):
    reinforcement()
    save(make_gpt(n_decoder_layer=0, n_encoder_layer=1), TOKENIZER, tmp_path / "gpt", overwrite=True)
    with pytest.raises(UserError, match="of kind encoder, but a policy must be a decoder"):
        reinforcement()
    save(make_gpt(), BPE.train(small.documents(9), 300), tmp_path / "gpt", overwrite=True)
    with pytest.raises(UserError, match=r"'<\|endoftext\|>' is not a special token"):
        reinforcement()


def test_what_cannot_be_learnt_from_is_found_first(reinforcement, preferences, tmp_path):
    for changes, message in (
        (dict(max_new_tokens=60), "leaves no room for --max-new-tokens 60"),
        (dict(group_size=3), "--group-size 3 needs --algorithm grpo"),
        (dict(reward=str(tmp_path / "gpt")), "not a reward model"),
        (dict(reward_function="no_such_rules:f"), "cannot import .*no_such_rules"),
    ):
        with pytest.raises(UserError, match=message):
            reinforcement(**changes)
    preferences.pairs.append(("Ana", "ran. " * 200, "slept."))
    with pytest.raises(UserError, match="the pair of the prompt 'Ana' has .* tokens"):
        reinforcement()


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(), True),
        (dict(reward_function="a:b"), False),
        (dict(algorithm="dpo"), True),
        (dict(algorithm="dpo", prompts="p", reward_function="a:b"), False),
        (dict(algorithm="dpo", prompts="p", reward_function="a:b", sampled_prompts=0), True),
    ],
)
def test_pairs_are_asked_for_where_nothing_else_says_what_is_better(
    reinforcement, preferences, monkeypatch, changes, expected
):
    asked = []
    monkeypatch.setattr(run, "load_preferences", lambda *given: asked.append(given[4]) or preferences)
    monkeypatch.setattr(run.reward, "load_function", lambda name: lambda prompt, answer: 1.0)
    reinforcement(**changes)
    assert asked == [expected], "--preferences FILE has to be given, or not"


def test_a_stage_trains_in_its_folder_and_goes_on_there(reinforcement, make_gpt):
    made, gpt = reinforcement(), make_gpt()
    objective, folder = made.pairs(DirectPreference, 0.3), made.folder / "stage"
    assert (objective.beta, objective.batch_size) == (0.3, 4)
    outcome = made.train_on_pairs(gpt, objective, folder, 3, 1e-2)
    assert set(outcome) >= {"before", "after", "seconds"} and load_trainer(folder)["step"] == 3
    again = make_gpt(seed=4)
    reinforcement(resume=True).train_on_pairs(again, objective, folder, 3, 1e-2)
    small.assert_equal(again.state_dict(), gpt.state_dict())
    (folder / "results.json").write_text("{}")
    other = make_gpt(seed=4)
    made.train_on_pairs(other, objective, folder, 1, 1e-2)
    assert not (folder / "results.json").exists() and len(read_log(folder)) == 3, "it begins anew"


@pytest.mark.parametrize(("step", "goes_on"), [(0, False), (1, True)])
def test_a_training_goes_on_from_its_first_step(reinforcement, gpt, step, goes_on):
    made = reinforcement(resume=True)
    save_trainer(made.folder, dict(step=step, model=gpt.state_dict()))
    assert made.stage(made.folder, made.settings).resume is goes_on
    assert made.stage(None, made.settings).resume is False


def test_dpo_has_no_fewer_steps_than_it_has_made(reinforcement, gpt, tmp_path):
    made = reinforcement(algorithm="dpo", dpo_steps=2, resume=True, out=str(tmp_path / "run"))
    save_trainer(made.folder, dict(step=3, model=gpt.state_dict()))  # PPO would make 4
    with pytest.raises(UserError, match="has made 3 steps, more than the 2 asked for: give 3 or more"):
        made.run()
    assert not (made.folder / "settings.json").exists(), "a refused command leaves the run as it was"


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(), "python reinforce.py --ablate --model 'my m' --reward 'my out/reward'"),
        (dict(reward="r"), "python reinforce.py --ablate --model 'my m' --reward r"),
        (dict(algorithm="dpo"), "python reinforce.py --kl 0.3 --model 'my m'"),
        (dict(prompts="p.txt"), "python prompt.py --model 'my out' --prompt TEXT"),
        # an ablation leaves no policy
        (dict(prompts="p.txt", ablate=True), "python prompt.py --model 'my m' --prompt TEXT"),
    ],
)
def test_the_next_command_fits_the_run(reinforcement, monkeypatch, changes, expected):
    made, said = reinforcement(), []
    made.settings = replace(made.settings, model="my m", **changes)
    monkeypatch.setattr(run, "begin", lambda *_: Path("my out"))
    monkeypatch.setattr(run, "finish", lambda *given: said.append(given[-2:]))
    monkeypatch.setattr(run, "time", Mock(perf_counter=iter([10.0, 13.0]).__next__))
    monkeypatch.setattr(run, "save_trainer", Mock())
    monkeypatch.setattr(run.report, "closing", lambda *_: ([], [], {}))
    monkeypatch.setattr(made, "make_reward", dict)
    monkeypatch.setattr(made, "learn", tuple)
    made.run()
    assert said == [(3.0, small.in_shell(expected))], "seconds, and the next command"


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_run_forgets_the_stages_of_the_run_that_it_replaces(
    reinforcement, tmp_path, monkeypatch, resume
):
    made, names = reinforcement(), ("reward", "reward-1", "reward-2", "dpo", "reward-old")
    made.settings = replace(made.settings, resume=resume, out=str(tmp_path))
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer.pt").write_text("of an older run")
    monkeypatch.setattr(run, "begin", lambda *_: tmp_path)
    monkeypatch.setattr(run, "load_trainer", Mock())
    monkeypatch.setattr(made, "make_reward", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.run()
    kept = {name for name in names if (tmp_path / name / "trainer.pt").exists()}
    assert kept == ({*names} if resume else {"reward-old"}), "--resume would go on from the older run's"


def test_a_run_ends_with_its_results_and_says_how_to_go_on(reinforcement, tmp_path, monkeypatch):
    changes = dict(out=str(tmp_path / "whole"), sampled_prompts=0, contrast=False)
    folder = reinforcement(**changes).run()
    found = json.loads((folder / "results.json").read_text())
    assert {"reward_accuracy", "judge_after", "kl", "seconds"} <= set(found)
    assert json.loads((folder / "settings.json").read_text())["model"] == str(tmp_path / "gpt")
    made = reinforcement(**changes | dict(out=str(tmp_path / "my part")))
    monkeypatch.setattr(made, "learn", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match=small.in_shell("to go on: --resume --out '.*my part'")):
        made.run()
    assert load_trainer(tmp_path / "my part")["step"] == 0, "so that it can go on"
