"""Grades reinforcement/preferences.py: pairs and prompts as rows of ids, and pairs of own answers."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from mistakes import assert_right

from minilm import world
from minilm.plumbing.errors import UserError
from minilm.reinforcement import preferences as module
from minilm.reinforcement.preferences import encode_prompts, load_preferences, world_preferences
from minilm.reinforcement.reward import Rule
from minilm.tokenizer.rows import END, prompt_ids
from minilm.training.objective import micro_batches

TOKENIZER = small.tokenizer()
PROMPTS = ["Ana likes", "Rui", "The old baker found two red", "Ana sells a lamp. The"]


class LastIds(module.PairObjective):
    """A reward without a model: how many tokens a text has, in tens."""

    def rewards(self, model, batch):
        return batch["attention_mask"].sum(2) / 10


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a text, or a table with rows of (prompt, chosen, rejected) or less."""

    def write(name: str, content) -> str:
        if not isinstance(content, str):
            rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=False)) for row in content]
            content = "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", [("Ana", "good", "bad"), ("Ana", "same", "same ")], "pair 2: .* both 'same'"),
        ("a.jsonl", [("Ana", "good", " ")], "line 1: .*rejected"),
        ("p.txt", "", "p.txt: expected two different prompts or more"),
        ("p.txt", "Ana\n \nAna\n", "p.txt: expected two different prompts or more"),
        ("p.jsonl", [(" ",)], "line 1: .*prompt"),
        ("p.md", "Ana", "p.md: expected a table: .tsv, .csv"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(write, name, content, message):
    path = write(name, content)
    preferences, prompts = (path, None) if name == "a.jsonl" else (None, path)
    with pytest.raises(UserError, match=message):
        load_preferences(preferences, prompts, 9, 0, needs_pairs=False)


def test_no_prompt_is_both_learnt_from_and_measured_on(write, pairs):
    path = write("a.jsonl", pairs(300))
    found = load_preferences(path, None, 9, seed=0)
    assert found.name == path and found.judge is None
    assert sorted(found.pairs + found.held_out_pairs) == sorted(pairs(300)) and found.held_out_pairs
    learnt, held_out = ({prompt for prompt, _, _ in p} for p in (found.pairs, found.held_out_pairs))
    assert not learnt & held_out, "split by prompts, not by pairs: a prompt is on both sides"
    assert set(found.prompts) == learnt and len(found.prompts) == len(learnt)
    assert set(found.test_prompts) == held_out


def test_a_file_of_prompts_takes_the_place_of_the_pairs_own(write, pairs):
    path, asked = write("a.jsonl", pairs(30)), [f"Prompt {i}" for i in range(40)]
    texts = write("p.txt", " " + "\n\n".join(asked) + "\n\n")
    for prompts in (texts, write("p.jsonl", [(one,) for one in asked])):
        found = load_preferences(path, prompts, 9, seed=0)
        assert sorted(found.prompts + found.test_prompts) == sorted(asked) and found.test_prompts
        assert len(found.pairs) + len(found.held_out_pairs) == 30
        with pytest.raises(UserError, match="needs --preferences, --reward or --reward-function too"):
            load_preferences(None, prompts, 9, seed=0)
        alone = load_preferences(None, prompts, 9, seed=0, needs_pairs=False)
        assert alone.pairs == alone.held_out_pairs == [] and alone.prompts == found.prompts


def test_no_pair_of_a_prompt_to_measure_on_is_learnt_from(write, pairs):
    path, own = write("a.jsonl", pairs(300)), list(dict.fromkeys(prompt for prompt, _, _ in pairs(300)))
    for start in range(0, len(own) - 5, 6):  # of few prompts others are held out than of many
        prompts = write("p.jsonl", [(one,) for one in own[start : start + 6]])
        found = load_preferences(path, prompts, 9, seed=0)
        assert not {prompt for prompt, _, _ in found.pairs} & {*found.test_prompts}


def test_prompts_that_hold_out_all_pairs_are_named(write):
    prompts = write("p.txt", "\n".join(f"Prompt {i}" for i in range(40)))
    held_out = load_preferences(None, prompts, 9, seed=0, needs_pairs=False).test_prompts
    path = write("a.jsonl", [(prompt, "good", "bad") for prompt in held_out])
    with pytest.raises(UserError, match="p.txt: the prompts of all pairs of .*a.jsonl are held out: add"):
        load_preferences(path, prompts, 9, seed=0)
    assert not load_preferences(path, prompts, 9, seed=0, needs_pairs=False).pairs, "PPO needs none"


def test_the_world_s_pairs_and_prompts_are_apart_and_judged(monkeypatch):
    for name, value in dict(HELD_OUT_PAIRS=30, TRAIN_PROMPTS=50, TEST_PROMPTS=20).items():
        monkeypatch.setattr(module, name, value)
    found = world_preferences(60, seed=3)
    assert (len(found.pairs), len(found.held_out_pairs)) == (60, 30)
    assert (len(found.prompts), len(found.test_prompts)) == (50, 20)
    learnt = {p for p, _, _ in found.pairs} | set(found.prompts)
    assert not learnt & ({p for p, _, _ in found.held_out_pairs} | set(found.test_prompts))
    for prompt, chosen, rejected in found.pairs[:10] + found.held_out_pairs[:10]:
        assert found.judge(f"{prompt} {chosen}") and not found.judge(f"{prompt} {rejected}")
    assert found.judge is world.judge
    drawn = found.pairs, found.held_out_pairs, found.prompts, found.test_prompts
    told = "other examples than those that the READMEs' figures are of"
    assert small.fingerprint(drawn) == "762f70f7", told
    assert load_preferences(None, None, 60, seed=3) == found != world_preferences(60, seed=4)


def test_sizes_are_those_of_the_figures_in_the_readmes():
    found = module.HELD_OUT_PAIRS, module.TRAIN_PROMPTS, module.TEST_PROMPTS, module.PROMPTS_AT_ONCE
    assert found == (1000, 3000, 1000, 64), "not the draws that were measured"


def test_a_prompt_that_leaves_no_room_is_named(gpt):
    text = "Ana likes bread on Monday. " * 3
    rows = [prompt_ids(TOKENIZER, gpt.config, prompt) for prompt in ("Rui", text)]
    n = len(rows[1])
    assert encode_prompts(TOKENIZER, ["Rui", text], gpt.config, 64 - n) == rows
    told = f"'Ana likes .*({n} tokens).*--max-new-tokens {65 - n} .*64 positions"
    with pytest.raises(UserError, match=told):
        encode_prompts(TOKENIZER, ["Rui", text], gpt.config, 65 - n)


def test_prompt_and_answer_together_are_the_ids_of_the_whole_text(env):
    end, whole = TOKENIZER.special_id(END), TOKENIZER.encode("Ana likes bread on Monday.")
    preferences = module.Preferences("one", [("Ana likes", "bread on Monday.", END)], [], [], [])
    rows, n_prompt = LastIds(preferences, env, 5).rows["train"]
    assert END not in TOKENIZER.decode(rows[0][1:-1]), "the chosen answer comes first"
    assert rows[0][-1] == end, "an answer ends with the end token: the model learns where to stop"
    assert rows[0] == [end, *whole, end], "end token, prompt, a space, answer, end token"
    given = prompt_ids(TOKENIZER, env.reference.config, "Ana likes")
    told = "n_prompt counts the prompt's tokens, the first end token included"
    assert rows[0][: n_prompt[0]] == given, told
    assert rows[1].count(end) == 2, "an answer cannot end the text: it is plain"


def test_a_batch_holds_both_answers_of_each_pair(env, preferences):
    preferences.pairs.insert(0, ("Eva sells", "bread.", "a lamp."))
    objective, seen = LastIds(preferences, env, 5, seed=2), set()
    decoded = lambda text: TOKENIZER.decode(TOKENIZER.encode(text))
    expected = {tuple(decoded(f"{prompt} {answer}") for answer in two) for prompt, *two in preferences.pairs}
    for step in range(60):
        batch = objective.batch(step, "train")
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        assert ids.shape == mask.shape and ids.shape[:2] == (5, 2) and mask.any(0).any(0).all()
        for row, n in enumerate(batch["n_prompt"].tolist()):
            two = [ids[row, i][mask[row, i]].tolist() for i in (0, 1)]
            assert two[0][:n] == two[1][:n], "both answers of a row are to one prompt: rows 2 i and 2 i + 1"
            assert TOKENIZER.decode(two[0][n:]).startswith(" bread"), "rows 2 i and 2 i + 1, chosen first"
            seen.add(tuple(TOKENIZER.decode(text[1:-1]) for text in two))
        assert batch["n_pair"] == 5
    assert seen == expected, "every pair gets its turn, chosen first"


def test_batches_depend_on_seed_split_and_step_alone(env, preferences):
    one, other = (LastIds(preferences, env, 5, seed=seed) for seed in (2, 3))
    small.assert_equal(one.batch(7, "train"), one.batch(7, "train"))
    lengths = [each.batch(step, "train")["n_prompt"] for each, step in ((one, 7), (one, 8), (other, 7))]
    assert not (torch.equal(lengths[0], lengths[1]) and torch.equal(lengths[0], lengths[2]))
    plain, zero = LastIds(preferences, env, 5), LastIds(preferences, env, 5, seed=0)
    small.assert_equal(plain.batch(2, "train"), zero.batch(2, "train"))
    validation = one.batch(0, "validation")
    small.assert_equal(validation, one.batch(5, "validation"))
    assert validation["n_pair"] == len(preferences.held_out_pairs) == len(validation["input_ids"])


@pytest.mark.parametrize("answers", [("bread " * 20, "a lamp"), ("a lamp", "bread " * 20)])
def test_a_pair_that_just_fits_is_taken_and_a_longer_one_named(answers, env, preferences, make_gpt):
    preferences.pairs.append(("Bia likes", *answers))
    n = int(max(LastIds(preferences, env, 5).rows["train"][0].lengths))
    env.reference = make_gpt(max_positions=n)
    LastIds(preferences, env, 5)
    env.reference = make_gpt(max_positions=n - 1)
    told = f"the pair of the prompt 'Bia likes' has {n} tokens, but the model has {n - 1} positions"
    with pytest.raises(UserError, match=told):
        LastIds(preferences, env, 5)


def test_the_loss_is_that_of_bradley_and_terry(env, preferences):
    objective = LastIds(preferences, env, 5)
    batch = objective.batch(0, "validation")
    lengths = batch["attention_mask"].sum(2).tolist()
    margins = np.array([(chosen - rejected) / 10 for chosen, rejected in lengths])
    loss, metrics = objective.loss(torch.nn.Identity(), batch)
    each, likely = np.log1p(np.exp(-margins)), 1 / (1 + np.exp(-margins))
    mistakes = {
        "the margin is rejected - chosen, not chosen - rejected": np.log1p(np.exp(margins)).mean(),
        "the sign of the logarithm is wrong": -each.mean(),
        "it is a sum over the pairs, not a mean": each.sum(),
        "the logarithm is missing": -likely.mean(),
        "it is 1 - sigmoid, and the logarithm is missing": (1 - likely).mean(),
        "the sigmoid is missing": -margins.mean(),
        "the mean is taken before the logarithm": -np.log(likely.mean()),
        "only the reward of the chosen answer is used": np.log1p(
            np.exp([-chosen / 10 for chosen, _ in lengths])
        ).mean(),
    }
    assert_right(loss, each.mean(), mistakes, rtol=1e-5, what="the loss")
    assert_right(metrics["loss"], each.mean(), rtol=1e-5, what="the metric `loss`")
    mistakes = {"pairs are counted whose rejected answer has the higher reward": (margins < 0).mean()}
    assert_right(metrics["accuracy"], (margins > 0).mean(), mistakes, what="the metric `accuracy`")
    mistakes = {"it is rejected - chosen, not chosen - rejected": -margins.mean()}
    assert_right(metrics["margin"], margins.mean(), mistakes, rtol=1e-5, what="the metric `margin`")
    chosen = math.fsum(a for a, _ in lengths) / 90
    assert_right(metrics["chosen_reward"], chosen, rtol=1e-5, what="the metric `chosen_reward`")
    parts = micro_batches(batch, 2)  # 4 and 5 pairs, and both know that there are 9
    divided = math.fsum(objective.loss(torch.nn.Identity(), part)[0] for part in parts)
    assert divided == pytest.approx(each.mean(), rel=1e-5), "a part's loss: sum / n_pair of the whole batch"


def test_the_loss_of_bradley_and_terry_moves_both_rewards(env, preferences):
    objective, model = LastIds(preferences, env, 5), torch.nn.Identity()
    batch = objective.batch(0, "validation")
    rewards = objective.rewards(model, batch)
    rewards[0, 1], rewards[1, 1] = rewards[0, 0], rewards[1, 0] + 200  # a tie; a sigmoid of -200 is 0
    objective.rewards = lambda *given: rewards.requires_grad_()
    loss, metrics = objective.loss(model, batch)
    assert not model.training, "read both answers without dropout: model.eval()"
    margins = (rewards[:, 0] - rewards[:, 1]).detach()
    assert metrics["accuracy"] == (margins > 0).float().mean(), "a tie does not count as right"
    assert loss.requires_grad, "the model cannot learn: no gradient reaches the rewards"
    assert loss.isfinite(), "the loss is not finite, a probability of 0 has no logarithm: use F.logsigmoid"
    loss.backward()
    pull = torch.sigmoid(-margins)[:, None] / len(margins) * torch.tensor([-1.0, 1.0])
    assert_right(rewards.grad, pull, axes=("pair", "answer"), what="gradient of the rewards")


@pytest.fixture
def talkative(env, make_gpt, monkeypatch):
    """The environment with a reference that ends its answers after a few tokens; three prompts at once."""
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 3)
    env.reference = make_gpt(head_bias=True)
    env.reference.vocabulary.bias.data[env.rule.eos_id] = 3.0
    env.judge, env.max_new_tokens = lambda text: len(text) % 2 == 0, 20
    return env


def drawn(env, prompts=PROMPTS * 5, n_answer=6, temperature=0.8):
    return module.sampled_pairs(env.reference, env, prompts, n_answer, 1, temperature)


def test_a_liked_answer_is_paired_with_another_to_the_same_prompt(talkative):
    pairs = drawn(talkative)
    assert len({answer for _, *two in pairs for answer in two}) > 5, "the answers are drawn, not repeated"
    for prompt, chosen, rejected in pairs:
        assert prompt in PROMPTS and chosen == chosen.strip() and chosen and rejected
        assert talkative.judge(f"{prompt} {chosen}") and not talkative.judge(f"{prompt} {rejected}")


def test_an_answer_is_in_one_pair_at_most(talkative):
    answers = [answer for pair in drawn(talkative, ["Ana likes"], 30) for answer in pair[1:]]
    assert len(answers) == len(set(answers)) > 1


def test_ties_and_answers_that_never_end_are_left_out(talkative):
    assert drawn(replace(talkative, judge=lambda text: True)) == []
    assert drawn(replace(talkative, judge=lambda text: False)) == []
    assert drawn(replace(talkative, max_new_tokens=1)) == [], "an answer cut off by the limit is no answer"


def test_without_a_judge_the_reward_tells_the_better_answers(talkative):
    """Better than the mean of the answers to the same prompt, whatever those to other prompts are worth."""
    rule = lambda prompt, answer: 100.0 * len(prompt) + min(len(answer), 12)
    pairs = drawn(replace(talkative, judge=None, reward=Rule(rule)))
    assert {prompt for prompt, _, _ in pairs} == {*PROMPTS}, "each prompt is a group of its own"
    for prompt, chosen, rejected in pairs:
        assert rule(prompt, chosen) > rule(prompt, rejected), f"{chosen!r} is no better than {rejected!r}"
    same = replace(talkative, judge=None, reward=Rule(lambda prompt, answer: 0.1))
    assert drawn(same) == [], "answers with equal rewards are no pair"


def test_an_answer_that_is_worth_the_mean_is_not_preferred(env, monkeypatch):
    told = [("Ana likes", f" {word}") for word in ("bad", "fair", "good")]
    monkeypatch.setattr(module.Environment, "texts", lambda *_: told)
    monkeypatch.setattr(module, "draw_answers", lambda *_: SimpleNamespace(ended=torch.ones(3) > 0))
    env.judge, env.reward = None, SimpleNamespace(scores=lambda *_: torch.tensor([0.0, 1.0, 2.0]))
    assert drawn(env, ["Ana likes"], 3) == [("Ana likes", "good", "bad")], "1 of 0, 1, 2 is their mean"


def test_each_lot_of_prompts_draws_answers_of_its_own(talkative, monkeypatch):
    seeds, plain = [], module.draw_answers
    monkeypatch.setattr(module, "draw_answers", lambda *given: seeds.append(given[-1]) or plain(*given))
    drawn(talkative, ["Ana"] * 7, 2)
    assert seeds == [1, 4, 7], "by the seed, 1, and the number of a lot's first prompt: else all draw alike"


def test_the_answers_are_drawn_at_their_own_temperature(talkative):
    cold, warm = (drawn(talkative, temperature=temperature) for temperature in (0.3, 1.2))
    assert cold != warm and talkative.rule.temperature == 0.8, "the rule of PPO stays"
    assert cold == drawn(talkative, temperature=0.3)


def test_what_has_been_seen_is_passed_over_until_there_is_enough(monkeypatch):
    """The stories of another seed may begin like those that are learnt from."""
    for name, value in dict(HELD_OUT_PAIRS=3, TRAIN_PROMPTS=2, TEST_PROMPTS=3).items():
        monkeypatch.setattr(module, name, value)
    pairs = {True: [("a", "x", "y"), ("b", "x", "y")], False: [(c, "x", "y") for c in "abcdefg"]}
    prompts = {True: ["c", "d"], False: list("abcdxyz")}
    monkeypatch.setattr(world, "preferences", lambda n, seed: pairs[seed == 5][:n])
    monkeypatch.setattr(world, "preference_prompts", lambda n, seed: prompts[seed == 6][:n])
    found = world_preferences(2, seed=5)
    assert [pair[0] for pair in found.held_out_pairs] == ["e", "f"], "neither a pair's prompt nor PPO's"
    assert found.test_prompts == ["x", "y"]
