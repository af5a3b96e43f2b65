"""Grades reinforcement/preferences.py: pairs and prompts as rows of ids."""

import json

import numpy as np
import pytest
import small
import torch

from minilm import world
from minilm.plumbing.errors import UserError
from minilm.reinforcement import preferences as module
from minilm.reinforcement.preferences import (
    PairObjective,
    answer_ids,
    encode_prompts,
    load_preferences,
    read_pairs,
    read_prompts,
    split_prompts,
    world_preferences,
)
from minilm.tokenizer.rows import END, prompt_ids

TOKENIZER = small.tokenizer()


class Rows(PairObjective):
    """The pairs alone, without a loss."""

    name = "rows"

    def loss(self, model, batch):
        raise NotImplementedError


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and returns its path; of a list, one JSON object a line."""

    def write(name: str, content) -> str:
        if not isinstance(content, str):
            content = "\n".join(json.dumps(record) for record in content)
        (tmp_path / name).write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return write


def records(pairs) -> list[dict]:
    return [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs]


def test_pairs_are_read_from_each_kind_of_table(write, pairs):
    expected = pairs(5)
    assert read_pairs(write("a.jsonl", records(expected))) == expected
    table = "\n".join("\t".join(pair) for pair in expected)
    assert read_pairs(write("b.tsv", table)) == expected
    header = "rejected,prompt,chosen\n" + "\n".join(f"{r},{p},{c}" for p, c, r in expected)
    assert read_pairs(write("c.csv", header)) == expected


def test_equal_answers_are_refused_with_file_and_number(write, pairs):
    path = write("a.jsonl", records([*pairs(2), ("Ana", "same", "same ")]))
    with pytest.raises(UserError, match="a.jsonl, pair 3 .'Ana'.: chosen and rejected are both 'same'"):
        read_pairs(path)


@pytest.mark.parametrize("missing", ["prompt", "chosen", "rejected"])
def test_a_missing_or_empty_field_is_refused_with_its_line(write, pairs, missing):
    good = records(pairs(1))
    bad = [{k: v for k, v in good[0].items() if k != missing}, good[0] | {missing: " "}]
    for record in bad:
        with pytest.raises(UserError, match=f"a.jsonl, line 2: .*{missing}"):
            read_pairs(write("a.jsonl", [*good, record]))


def test_prompts_are_read_from_lines_and_objects(write):
    assert read_prompts(write("p.txt", " Ana \nRui likes\n\n")) == ["Ana", "Rui likes"]
    assert read_prompts(write("p.jsonl", [dict(prompt="Ana\nand Rui "), dict(prompt="Rui", x=1)])) == [
        "Ana\nand Rui",
        "Rui",
    ]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("p.txt", "Ana\n \nRui", "line 2: an empty prompt"),
        ("p.txt", "", "line 1: an empty prompt"),
        ("p.jsonl", [dict(prompt=" ")], "line 1: an empty prompt"),
        ("p.jsonl", "", "no prompts"),
        ("p.jsonl", [dict(text="Ana")], "line 1: no field 'prompt'"),
        ("p.md", "Ana", "of kind '.md'; expected .txt or .jsonl"),
    ],
)
def test_bad_prompts_are_refused(write, name, content, message):
    with pytest.raises(UserError, match=message):
        read_prompts(write(name, content))


def test_no_prompt_is_both_learnt_from_and_measured_on(write, pairs):
    path = write("a.jsonl", records(pairs(300)))
    found = load_preferences(path, None, 9, seed=0)
    assert found.name == path and found.judge is None
    assert len(found.pairs) + len(found.held_out_pairs) == 300 and found.held_out_pairs
    assert not {p for p, _, _ in found.pairs} & {p for p, _, _ in found.held_out_pairs}
    assert set(found.prompts) == {p for p, _, _ in found.pairs} and len(found.prompts) == len(
        set(found.prompts)
    )
    assert set(found.test_prompts) == {p for p, _, _ in found.held_out_pairs}
    assert "pairs" in found.summary() and "prompts" in found.summary()


def test_a_file_of_prompts_takes_the_place_of_the_pairs_own(write, pairs):
    path = write("a.jsonl", records(pairs(30)))
    prompts = write("p.txt", "\n".join(f"Prompt {i}" for i in range(40)))
    found = load_preferences(path, prompts, 9, seed=0)
    assert sorted(found.prompts + found.test_prompts) == sorted(f"Prompt {i}" for i in range(40))
    assert not set(found.prompts) & set(found.test_prompts) and found.test_prompts
    assert len(found.pairs) + len(found.held_out_pairs) == 30


def test_prompts_alone_need_another_reward(write):
    prompts = write("p.txt", "Ana\nRui\nBia")
    with pytest.raises(UserError, match="--preferences FILE.*--reward FOLDER or --reward-function"):
        load_preferences(None, prompts, 9, seed=0)
    found = load_preferences(None, prompts, 9, seed=0, needs_pairs=False)
    assert found.pairs == found.held_out_pairs == [] and len(found.prompts + found.test_prompts) == 3


def test_one_prompt_alone_cannot_be_held_out():
    with pytest.raises(UserError, match="x.txt: one prompt alone"):
        split_prompts(["Ana", "Ana"], "x.txt", seed=0)
    assert split_prompts([], None, seed=0) == ([], [])
    train, held_out = split_prompts(["Ana", "Rui", "Ana"], "x.txt", seed=0)
    assert sorted(train + held_out) == ["Ana", "Rui"] and train and held_out


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
    assert world_preferences(60, seed=3) == found != world_preferences(60, seed=4)


def test_prompt_and_answer_together_are_the_ids_of_the_whole_text(gpt):
    end = TOKENIZER.special_id(END)
    whole = TOKENIZER.encode("Ana likes bread on Monday.")
    assert prompt_ids(TOKENIZER, gpt.config, "Ana likes") + answer_ids(TOKENIZER, "bread on Monday.") == [
        end,
        *whole,
        end,
    ]
    assert prompt_ids(TOKENIZER, gpt.config, END).count(end) == 1, "a prompt cannot end the text: it is plain"
    assert answer_ids(TOKENIZER, END).count(end) == 1


def test_a_prompt_that_leaves_no_room_is_named(gpt):
    text = "Ana likes bread on Monday. " * 3
    n = len(prompt_ids(TOKENIZER, gpt.config, text))
    assert encode_prompts(TOKENIZER, ["Rui", text], gpt.config, 64 - n) == [
        prompt_ids(TOKENIZER, gpt.config, "Rui"),
        prompt_ids(TOKENIZER, gpt.config, text),
    ]
    with pytest.raises(
        UserError, match=f"'Ana likes .* has {n} tokens.*--max-new-tokens {65 - n} .*64 positions"
    ):
        encode_prompts(TOKENIZER, ["Rui", text], gpt.config, 65 - n)


def test_a_batch_holds_both_answers_of_each_pair(gpt, preferences):
    objective = Rows(preferences, TOKENIZER, gpt.config, 5, seed=2)
    expected = {
        tuple((*prompt_ids(TOKENIZER, gpt.config, pair[0]), *answer_ids(TOKENIZER, a)) for a in pair[1:])
        for pair in preferences.pairs
    }
    seen = set()
    for step in range(60):
        batch = objective.batch(step, "train")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape and ids.shape[:2] == (5, 2) and mask.any(0).any(0).all(), (
            "no empty column"
        )
        for row in range(5):
            two = tuple(tuple(ids[row, i][mask[row, i]].tolist()) for i in (0, 1))
            assert two in expected, "chosen first, padded on the right"
            seen.add(two)
            n = int(batch["n_prompt"][row])
            assert two[0][:n] == two[1][:n] and TOKENIZER.decode(two[0][n:]).startswith(" bread")
        assert batch["n_pair"] == 5
    assert seen == expected, "every pair gets its turn"


def test_batches_depend_on_seed_split_and_step_alone(gpt, preferences):
    one, other = (Rows(preferences, TOKENIZER, gpt.config, 5, seed=seed) for seed in (2, 3))
    small.assert_equal(one.batch(7, "train"), one.batch(7, "train"))
    assert not torch.equal(
        one.batch(7, "train")["n_prompt"], one.batch(8, "train")["n_prompt"]
    ) or not torch.equal(one.batch(7, "train")["n_prompt"], other.batch(7, "train")["n_prompt"])
    validation = one.batch(0, "validation")
    small.assert_equal(validation, one.batch(5, "validation"))
    assert validation["n_pair"] == len(preferences.held_out_pairs) == len(validation["input_ids"])


def test_a_pair_that_is_too_long_is_named(gpt, preferences):
    preferences.pairs.append(("Bia likes", "bread " * 80, "a lamp"))
    with pytest.raises(UserError, match="the pair of the prompt 'Bia likes' has .* 64 positions"):
        Rows(preferences, TOKENIZER, gpt.config, 5)


def test_padding_is_not_counted_as_text(gpt, preferences):
    rows = Rows(preferences, TOKENIZER, gpt.config, 5).rows["train"]
    assert rows["ids"].shape[:2] == rows["lengths"].shape == (40, 2)
    assert rows["lengths"].max() == rows["ids"].shape[2] and rows["lengths"].min() < rows["ids"].shape[2]
    assert (rows["n_prompt"] < rows["lengths"].min(1)).all() and rows["ids"].dtype == np.int64
