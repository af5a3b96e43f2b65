"""Grades reinforce.py: the whole of regime 5 at tiny size, and one line for each mistake of the user."""

import json
import math
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import small
import torch
from small import check_error, results, succeed

import minilm
import reinforce
from minilm.checkpoint import save
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.folders import RUN_FILES, read_log
from minilm.reinforcement import preferences
from minilm.texts import corpus as data
from minilm.training import loop
from minilm.training.checkpoints import load_trainer

TINY = "--steps 4 --batch-size 6 --max-new-tokens 8 --save-every 2 --reward-batch-size 4"
OF_REWARD, OF_WORLD = "--reward-steps 3", "--n-pairs 20 --sampled-prompts 6"  # others refuse them


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own with a tiny GPT in runs/causal; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, n in dict(HELD_OUT_PAIRS=12, TRAIN_PROMPTS=15, TEST_PROMPTS=7).items():
        monkeypatch.setattr(preferences, name, n)
    monkeypatch.setattr(data, "WORLD_TRAIN", 60)
    monkeypatch.setattr(data, "WORLD_VALIDATION", 20)
    save(policy(), small.tokenizer(), "runs/causal")
    Path("runs/causal/results.json").write_text("{}")


def policy(seed: int = 0, **changes):
    torch.manual_seed(seed)
    sizes = dict(vocab_size=small.tokenizer().vocab_size, d_model=8, n_head=2, d_ff=12, max_positions=256)
    return build(ModelConfig(**sizes | dict(n_decoder_layer=1, dropout=0.0, attention_dropout=0.0) | changes))


@pytest.fixture
def script(run_script):
    """Return a function that runs reinforce.py with flags: exit code, standard output, standard error."""

    def run(flags="", tiny=True):
        words = [TINY] + [OF_REWARD] * ("--reward" not in flags)
        words += [OF_WORLD] * (not re.search("--preferences|--prompts|--reward-f", flags))
        has_dpo = "--algorithm dpo" in flags or not re.search("--no-contrast|--ablate|--reward-f", flags)
        words += ["--dpo-steps 2"] * has_dpo
        return run_script(reinforce, *" ".join(words * tiny).split(), "--device", "cpu", *flags.split())

    return run


def write_pairs(n: int = 30) -> None:
    names = [f"Ana {i}" for i in range(n)]
    records = [dict(prompt=f"{name} likes", chosen="bread.", rejected="a lamp.") for name in names]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    Path("prompts.txt").write_text("\n".join(f"Rui {i} found" for i in range(n)), encoding="utf-8")


def test_the_default_shows_reward_ppo_hack_and_dpo(script):
    out = succeed(script())
    found = results("runs/reinforce")
    promised = "reward_accuracy judge_before judge_after win_rate kl distinct_ratio hacked_judge dpo_judge "
    promised += "best_of_judge best_of_kl"
    assert set(found) >= {*promised.split(), "sequences_per_second", "seconds", "seed"}
    assert all(math.isfinite(value) for value in found.values())
    assert found["reward_accuracy_low"] <= found["reward_accuracy"] <= found["reward_accuracy_high"]
    header = next(text for text in out.splitlines() if "start" in text and "kl 0" in text)
    assert " ".join(header.split()) == "on 7 test prompts start ppo kl 0 dpo best of 4"
    assert len(re.findall(r"^    start    [* ] ", out, re.MULTILINE)) == 5, "five answers to the same prompts"
    for row in ("reward (", "judge:", "judge prefers", "KL (nats", "perplexity", "share of different"):
        assert any(text.startswith(row) for text in out.splitlines()), row
    assert "Saved in runs/reinforce" in out and "Next: python reinforce.py" in out
    files = {path.name for path in Path("runs/reinforce").iterdir()}
    assert files == set(RUN_FILES) | {"reward-1", "reward", "dpo"}
    assert minilm.load("runs/reinforce")[0].config.kind == "decoder"
    assert [record["step"] for record in read_log("runs/reinforce")] == [1, 2, 3, 4]
    # a second run gets the next folder, and can use the reward model of the first
    succeed(script("--reward runs/reinforce/reward --no-contrast"))
    again = results("runs/reinforce-2")
    assert "hacked_judge" not in again and not Path("runs/reinforce-2/reward").exists()
    assert again["reward_accuracy"] == found["reward_accuracy"]


def test_without_a_gpt_the_default_one_is_trained_first(script, monkeypatch):
    Path("runs/causal/results.json").unlink()
    save(policy(), small.tokenizer(), "gpt")
    asked = []
    monkeypatch.setattr("minilm.pretraining.run.newest_or_train", lambda *args: asked.append(args) or "gpt")
    succeed(script("--seed 3 --no-contrast"))
    assert asked[0][:3] == ("causal", 3, "cpu")
    assert json.loads(Path("runs/reinforce/settings.json").read_text())["model"] == "gpt"


def test_the_user_s_pairs_and_prompts(script):
    write_pairs()
    out = succeed(script("--preferences pairs.jsonl --prompts prompts.txt --model runs/causal"))
    found = results("runs/reinforce")
    assert "judge_after" not in found and {"reward_accuracy", "reward_win_rate", "kl"} <= set(found)
    assert "pairs.jsonl: " in out and "Rui " in out.split("share of different answers")[1]


def test_a_rule_as_reward_needs_no_pairs(script):
    write_pairs()
    Path("my_rules_of_the_test.py").write_text("def short(prompt, answer):\n    return -len(answer)\n")
    out = succeed(script("--reward-function my_rules_of_the_test:short --prompts prompts.txt"))
    assert "reward_accuracy" not in results("runs/reinforce") and "dpo:" not in out
    assert not Path("runs/reinforce/reward").exists()
    Path("my_rules_of_the_test.py").write_text("def short(prompt, answer):\n    return answer[999]\n")
    del sys.modules["my_rules_of_the_test"]
    outcome = script("--reward-function my_rules_of_the_test:short --algorithm grpo --group-size 2")
    check_error(outcome, "the reward function gives no number (IndexError")


@pytest.mark.reliability
def test_ablation_prints_a_row_a_detail(script):
    out = succeed(script("--ablate --steps 1"))
    rows = results("runs/ablation")["ablation"]
    assert len(rows) > 12 and {"name", "judge", "kl"} <= set(rows[0])
    assert all(row["name"] in out for row in rows)


@pytest.fixture
def interrupted(script, monkeypatch):
    """Return a function that runs with a Ctrl-C in the optimiser's step `at`, counted over all stages."""

    def call(flags: str, at: int) -> None:
        inner, calls = loop.train_step, []

        def step(*args):
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGINT)
            return inner(*args)

        monkeypatch.setattr(loop, "train_step", step)
        code, _, err = script(f"--out part {flags}")
        monkeypatch.setattr(loop, "train_step", inner)
        assert code == 130 and "to go on: --resume --out part" in err

    return call


# the steps of a run: the first reward model 1, a look for its mistakes 2, the reward model 3, PPO 6, hack 3
@pytest.mark.parametrize("flags, at, done", [
    pytest.param("", 2, 0, id="look", marks=pytest.mark.reliability),
    pytest.param("", 4, 0, id="reward model", marks=pytest.mark.reliability),
    pytest.param("--seed 5 --no-contrast", 9, 3, id="ppo"),
    pytest.param("", 13, 6, id="hack", marks=pytest.mark.reliability),
    pytest.param("--algorithm dpo", 7, 1, id="dpo", marks=pytest.mark.reliability),
    pytest.param("--algorithm grpo --group-size 3", 9, 3, id="grpo", marks=pytest.mark.reliability),
])  # fmt: skip
def test_an_interrupted_run_goes_on_bit_for_bit(script, interrupted, flags, at, done):
    succeed(script(f"--out whole --steps 6 {flags}"))
    interrupted(f"--steps 6 {flags}", at)
    assert load_trainer("part")["step"] == done
    if done > 1:
        saved = Path("part/settings.json").read_bytes()
        code, _, err = script(f"--resume --out part --steps {done - 1}", tiny=False)
        assert code == 2 and f"has made {done} steps, more than the {done - 1} asked for" in err
        assert Path("part/settings.json").read_bytes() == saved, "a refused command leaves the run as it was"
    succeed(script("--resume --out part", tiny=False))
    small.assert_equal(*(minilm.load(name)[0].state_dict() for name in ("whole", "part")))
    figures = [results(name).items() for name in ("whole", "part")]
    whole, part = ({key: value for key, value in items if "second" not in key} for items in figures)
    assert part == whole


def test_a_run_that_replaced_another_resumes_with_nothing_of_it(script, interrupted):
    succeed(script("--out part --steps 6 --seed 9"))
    succeed(script("--out whole --steps 6"))
    interrupted("--steps 6 --overwrite", 2)  # its reward model and its DPO are still to come
    succeed(script("--resume --out part", tiny=False))
    for folder in ("", "/reward-1", "/reward", "/dpo"):
        whole, part = (load_trainer(f"{name}{folder}")["model"] for name in ("whole", "part"))
        small.assert_equal(whole, part, f"{folder or 'the policy'} is that of the run that was replaced")


@pytest.mark.parametrize("flags, message", [
    ("--model mute", "no tokenizer in it"),
    ("--model runs/causl", "did you mean 'runs/causal'"),
    ("--reward foreign", "its tokenizer is not the policy's"),
    ("--prompts prompts.txt", "needs --preferences"),
    ("--preferences ties.jsonl", "pair 2: chosen and rejected are both"),
    ("--preferences absent.jsonl --model nowhere", "absent.jsonl: no such file"),
])  # fmt: skip
def test_mistakes_are_one_line_and_cost_nothing(script, flags, message):
    write_pairs()
    one = dict(prompt="Ana", chosen="a", rejected="b")
    Path("ties.jsonl").write_text(json.dumps(one) + "\n" + json.dumps(one | dict(rejected="a")))
    save(policy(), None, "mute")
    save(policy(), minilm.BPE.train(small.documents(9), 300, small.tokenizer().special_tokens), "foreign")
    check_error(script(flags), message)
    assert not Path("runs/reinforce").exists(), "the mistake was found too late"
