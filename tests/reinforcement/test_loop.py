"""Grades reinforcement/loop.py: the run of PPO, its log, its checkpoints, its alarms."""

import copy
import math
import os
import signal

import pytest
import small
import torch

import minilm
from minilm.checkpoint import load_trainer
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import read_log
from minilm.plumbing.progress import Interrupted
from minilm.reinforcement import loop
from minilm.reinforcement.loop import Alarm, Task, line, mark_beginning, ppo_step, train_ppo
from minilm.reinforcement.reward import RuleReward
from minilm.reinforcement.rollout import Policy

METRICS = {
    *("reward", "kl", "entropy", "length", "ended", "value_error", "kl_coefficient", "judge", "policy_loss"),
    *("value_loss", "ratio", "clipped", "step_kl", "loss", "gradient_norm", "lr"),
}


def watch(task: Task, act) -> Task:
    """Return the task with a reward that calls `act(number of the call)` first and adds what it returns."""
    calls, inner = [], task.reward

    def reward(rollout, texts):
        calls.append(1)
        return inner(rollout, texts) + (act(len(calls)) or 0.0)

    task.reward = reward
    return task


def test_the_metrics_of_a_step_are_what_their_names_say(gpt, task, settings):
    policy = Policy(gpt, zero_value_head=False).eval()
    for parameter in gpt.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    found = {}
    inner = task.reward
    task.reward = lambda rollout, texts: found.update(rollout=rollout, texts=texts) or inner(rollout, texts)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    metrics = ppo_step(policy, optimizer, task, settings(), 1, 0.25)
    rollout, texts = found["rollout"], found["texts"]
    assert set(metrics) == METRICS, "each metric is explained in a docstring; explain new ones too"
    assert set(metrics) - {"policy_loss", "value_loss", "ratio", "clipped", "step_kl", "loss"} <= set(
        (ppo_step.__doc__ + "gradient_norm").replace(":", " ").replace(",", " ").split()
    )
    assert metrics["reward"] == pytest.approx(float(inner(rollout, texts).mean()))
    assert metrics["kl"] == pytest.approx(float(rollout.kl().mean())) and metrics["kl"] != 0
    n_token = int(rollout.answer_mask.sum())
    assert metrics["entropy"] == pytest.approx(-float(rollout.log_probs.sum()) / n_token), "nats a real token"
    assert metrics["length"] == pytest.approx(n_token / 6) and metrics["kl_coefficient"] == 0.25
    assert metrics["ended"] == pytest.approx(float(rollout.ended.float().mean()))
    assert metrics["judge"] == sum("e" in prompt + answer for prompt, answer in texts) / 6
    assert all(math.isfinite(value) for value in metrics.values())


def test_value_error_is_1_for_values_of_0(gpt, task, settings):
    policy = Policy(gpt).eval()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    assert ppo_step(policy, optimizer, task, settings(), 0, 0.1)["value_error"] == pytest.approx(1)


def test_a_single_token_has_a_finite_variance(gpt, task, settings):
    """One prompt whose answer ends at once: a variance over n - 1 would be NaN, and stop the run."""
    policy = Policy(gpt).eval()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    one = settings(batch_size=1, minibatches=1, max_new_tokens=1)
    assert all(math.isfinite(value) for value in ppo_step(policy, optimizer, task, one, 0, 0.1).values())


def test_without_a_judge_there_is_no_such_metric(gpt, task, settings):
    task.preferences.judge = None
    optimizer = torch.optim.Adam(gpt.parameters(), lr=1e-3)
    metrics = ppo_step(Policy(gpt).eval(), optimizer, task, settings(), 0, 0.1)
    assert "judge" not in metrics and task.judged([("a", "b")]) is None


def test_the_policy_learns_what_is_rewarded(gpt, task, settings, capsys):
    short = settings(
        steps=30, batch_size=16, lr=1e-2, kl=0.02, normalise_reward=False, missing_end_score=None
    )
    wanted = 200
    task.reward = lambda rollout, texts: (rollout.ids[:, rollout.n_prompt :] == wanted).float().sum(1)
    with torch.no_grad():
        before = float((gpt(torch.tensor(task.prompts[:1]))[0, -1] / 0.8).softmax(-1)[wanted])
    assert train_ppo(gpt, task, short) > 0
    with torch.no_grad():
        after = float((gpt(torch.tensor(task.prompts[:1]))[0, -1] / 0.8).softmax(-1)[wanted])
    assert after > 5 * before
    assert "reward" in capsys.readouterr().out


def test_a_run_leaves_a_log_and_a_model_that_loads(gpt, task, settings, tmp_path, capsys):
    train_ppo(gpt, task, settings(steps=5), tmp_path)
    log = read_log(tmp_path)
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5]
    assert all(set(record) == METRICS | {"step", "split"} for record in log)
    assert log[0]["kl"] == 0, "before the first update policy and reference are the same"
    model, tokenizer = minilm.load(tmp_path)
    small.assert_equal(model.state_dict(), gpt.state_dict())
    assert tokenizer.vocab == task.tokenizer.vocab
    printed = [text for text in capsys.readouterr().out.splitlines() if text.startswith("step")]
    assert [int(text.split()[1]) for text in printed] == [1, 2, 4, 5], "the first, every second, the last"
    assert printed[0] == line(1, log[0])


@pytest.mark.parametrize("changes", [{}, dict(adaptive_kl=True, kl_target=0.01, anneal=False, epochs=1)])
def test_resuming_is_exact(make_gpt, task, settings, tmp_path, changes):
    whole, part = make_gpt(), make_gpt()
    (tmp_path / "whole").mkdir(), (tmp_path / "part").mkdir()
    train_ppo(whole, task, settings(**changes), tmp_path / "whole")

    def stop(call):
        if call == 3:
            raise UserError("stopped by the test")

    halted = copy.copy(task)
    with pytest.raises(UserError, match="stopped by the test"):
        train_ppo(part, watch(halted, stop), settings(**changes), tmp_path / "part")
    assert load_trainer(tmp_path / "part")["step"] == 2
    fresh = make_gpt(seed=5)  # its weights are the checkpoint's business
    train_ppo(fresh, task, settings(**changes, resume=True), tmp_path / "part")
    small.assert_equal(fresh.state_dict(), whole.state_dict())
    states = [load_trainer(tmp_path / name) for name in ("whole", "part")]
    for state in states:
        assert state.pop("seconds") > 0
    small.assert_equal(*states)
    small.assert_equal(read_log(tmp_path / "part"), read_log(tmp_path / "whole"))


def test_ctrl_c_saves_and_says_how_to_go_on(make_gpt, task, settings, tmp_path):
    whole, part = make_gpt(), make_gpt()
    (tmp_path / "whole").mkdir(), (tmp_path / "part").mkdir()
    train_ppo(whole, task, settings(), tmp_path / "whole")
    press = lambda call: os.kill(os.getpid(), signal.SIGINT) if call == 3 else None
    with pytest.raises(Interrupted, match="after step 3 of 4, saved; to go on: --resume --out .*part"):
        train_ppo(part, watch(copy.copy(task), press), settings(), tmp_path / "part")
    assert load_trainer(tmp_path / "part")["step"] == 3, "the step that ran is finished and saved"
    train_ppo(part, task, settings(resume=True), tmp_path / "part")
    small.assert_equal(part.state_dict(), whole.state_dict())


def test_a_run_that_had_not_begun_begins(make_gpt, task, settings, tmp_path):
    whole, late = make_gpt(), make_gpt()
    train_ppo(whole, task, settings())
    mark_beginning(tmp_path, make_gpt(seed=7))
    assert load_trainer(tmp_path)["step"] == 0
    train_ppo(late, task, settings(resume=True), tmp_path)
    small.assert_equal(late.state_dict(), whole.state_dict())


def test_a_checkpoint_of_another_loop_is_refused(gpt, task, settings, tmp_path):
    from minilm.checkpoint import save_trainer

    save_trainer(tmp_path, dict(step=1, model={}))
    with pytest.raises(UserError, match="not a trainer state of PPO"):
        train_ppo(gpt, task, settings(resume=True), tmp_path)


@pytest.mark.parametrize("wrong", [float("nan"), ZeroDivisionError()])
def test_a_rule_that_fails_stops_and_keeps_the_checkpoint(gpt, task, settings, tmp_path, wrong):
    calls = []

    def rule(prompt, answer):
        calls.append(1)
        if len(calls) <= 3 * 6:
            return 1.0
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    task.reward = RuleReward(rule)
    with pytest.raises(
        UserError, match=r"step 4: the reward function .* the answer .*keeps the last checkpoint"
    ):
        train_ppo(gpt, task, settings(), tmp_path)
    assert load_trainer(tmp_path)["step"] == 2
    assert all(p.isfinite().all() for p in minilm.load(tmp_path)[0].parameters())


def test_numbers_that_are_not_finite_are_never_saved(gpt, task, settings, tmp_path):
    task = watch(task, lambda call: float("nan") if call == 3 else 0.0)
    with pytest.raises(
        UserError, match="reward is not finite at step 3; .* keeps the last checkpoint. Try .*--lr"
    ):
        train_ppo(gpt, task, settings(save_every=1), tmp_path)
    assert load_trainer(tmp_path)["step"] == 2


def test_kl_warns_once_at_one_bound_and_stops_at_another(settings, tmp_path, capsys):
    alarm = Alarm(settings(warn_kl=3.0, stop_kl=8.0, kl=0.07), tmp_path)
    alarm.check(1, dict(kl=2.9))
    assert capsys.readouterr().out == ""
    alarm.check(2, dict(kl=3.1))
    assert "KL 3.1 nats a sequence at step 2, above --warn-kl 3" in (told := capsys.readouterr().out)
    assert "--kl" in told and "--lr" in told, "say which flag helps"
    alarm.check(3, dict(kl=7.9))
    assert capsys.readouterr().out == "", "one warning is enough"
    with pytest.raises(
        UserError, match="KL 8.1 .* step 4, above --stop-kl 8: .*no checkpoint yet.*--kl above 0.07"
    ):
        alarm.check(4, dict(kl=8.1))
    with pytest.raises(UserError, match="nothing was being saved"):
        Alarm(settings(stop_kl=1.0), None).check(1, dict(kl=2.0))


def test_an_exploding_run_stops_before_it_is_saved(gpt, task, settings, tmp_path):
    wild = settings(kl=0.0, lr=0.5, clip=0.0, clip_ratio=0.0, stop_kl=2.0, save_every=1)
    with pytest.raises(UserError, match="above --stop-kl 2"):
        train_ppo(gpt, task, wild, tmp_path)
    last = load_trainer(tmp_path)["step"]
    assert all(record["kl"] <= 2 for record in read_log(tmp_path)[:last])


def test_the_run_depends_on_its_seed_alone(make_gpt, task, settings):
    found = []
    for noise, seed in ((1, 0), (2, 0), (1, 9)):
        torch.manual_seed(noise)
        policy = make_gpt()
        torch.manual_seed(noise)
        train_ppo(policy, task, settings(steps=2, seed=seed, zero_value_head=False))
        found.append(policy.state_dict())
    small.assert_equal(found[0], found[1])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_logging_and_saving_change_nothing(make_gpt, task, settings, tmp_path):
    quiet, told = make_gpt(), make_gpt()
    train_ppo(quiet, task, settings())
    train_ppo(told, task, settings(save_every=1, log_every=1), tmp_path)
    small.assert_equal(quiet.state_dict(), told.state_dict())
    assert loop.TRAINER in {path.name for path in tmp_path.iterdir()}
