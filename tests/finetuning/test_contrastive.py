"""Grades finetuning/contrastive.py: pairs that belong together, the rest of a batch as wrong answers."""

import math
import re
from pathlib import Path

import pytest
import small
import tuned

from minilm import world
from minilm.extraction.features import embed
from minilm.finetuning import run
from minilm.finetuning.contrastive import TEMPERATURE, Contrastive
from minilm.finetuning.heads import put_head_on
from minilm.plumbing.errors import UserError

PAIRS = [
    ("Ana ran.", "Rui!", None),
    ("Two red pens.", "The old baker likes bread.", None),
    ("A lamp, a lamp.", "Pens.", None),
    ("Bread on Monday.", "The old baker likes bread.", None),  # one partner twice
]


def made(kind: str = "encoder") -> tuple:
    task = tuned.task(Contrastive, PAIRS, kind, pairs="apart")
    return task, put_head_on(tuned.body(kind), task.head()).eval()


def cosine(a, b) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(a * a) * sum(b * b)))


def slow_loss(u, v, wrong) -> float:
    """Return the mean of -log of the partner's share, a pair at a time; wrong[i]: what i is compared with."""
    total = 0.0
    for i in range(len(u)):
        right = math.exp(cosine(u[i], v[i]) / TEMPERATURE)
        total -= math.log(right / (right + sum(math.exp(cosine(u[i], v[j]) / TEMPERATURE) for j in wrong[i])))
    return total / len(u)


def vectors(model, pairs) -> list:
    sides = list(zip(*pairs, strict=True))[:2]
    return [embed(model, small.tokenizer(), side).astype("float64") for side in sides]


def test_the_loss_is_that_of_each_partner_among_all_partners_of_the_batch():
    task, model = made()
    batch = task.rows(PAIRS[:3]).batch([2, 0, 1])
    loss, metrics = task.loss(model, batch)
    assert loss.isfinite(), "a pair's own partner is masked too: leave the diagonal"
    assert batch["labels"].unique().numel() == 6, "six texts, six numbers"
    (u, v), wrong = vectors(model, PAIRS[:3]), [[1, 2], [0, 2], [0, 1]]
    told = "cosines of u_i with v_j, by row, over the temperature"
    assert loss.item() == pytest.approx(slow_loss(u, v, wrong), rel=1e-4), told
    assert loss.item() != pytest.approx(slow_loss(v, u, wrong), rel=1e-3), "text A looks for text B"
    found = [max(range(3), key=lambda j, i=i: cosine(u[i], v[j])) == i for i in range(3)]
    assert metrics["loss"] is loss and float(metrics["accuracy"]) == pytest.approx(sum(found) / 3)
    half, _ = task.loss(model, batch | dict(n_row=batch["n_row"] * 2))
    assert half.item() == pytest.approx(loss.item() / 2), "divide the sum by n_row"


def test_a_pair_with_a_text_in_common_is_no_wrong_answer():
    task, model = made()
    pairs = [*PAIRS, ("Ana ran.", "Pens.", None), ("Rui!", "Two red pens.", None), PAIRS[2]]
    shares = [{i for i, other in enumerate(pairs) if set(one[:2]) & set(other[:2])} for one in pairs]
    assert 1 < min(map(len, shares)) < max(map(len, shares)) < 7, "a test in which no text comes again"
    u, v = vectors(model, pairs)
    expected = slow_loss(u, v, [[j for j in range(7) if j not in shares[i]] for i in range(7)])
    rows = task.rows(pairs)
    loss, _ = task.loss(model, rows.batch(range(7)))
    assert loss.item() == pytest.approx(expected, rel=1e-4), "a true partner is pushed away"
    loss, metrics = task.loss(model, rows.batch([1, 1]))  # of few examples one may be drawn twice
    loss.backward()
    assert loss.item() == 0.0 and float(metrics["accuracy"]) == 1.0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_guess_is_the_cosine_of_two_means_and_nothing_is_new():
    for kind in tuned.KINDS:
        task, model = made(kind)
        scored = [(a, b, float(i)) for i, (a, b, _) in enumerate(PAIRS)]
        found = task.predict(model, scored, 3)
        assert [p.truth for p in found] == [0.0, 1.0, 2.0, 3.0]
        assert found[1].text == "Two red pens. | The old baker likes bread."
        body = tuned.body(kind)
        small.assert_equal(dict(model.state_dict()), dict(body.state_dict()))
        if kind != "encoder-decoder":  # `embed` reads its encoder, a head its decoder
            expected = [cosine(a, b) for a, b in zip(*vectors(body, PAIRS), strict=True)]
            assert [p.guess for p in found] == pytest.approx(expected, abs=1e-5), "the cosine, not u . v"


def test_partners_are_brought_together():
    goods = dict(bakery="Bread", shop="Lamps", school="Pens")
    pairs = [(f"Rui: {label}", text, None) for text, label in tuned.labelled(30)]
    texts = [text for text, _ in tuned.labelled(9, seed=2)]
    scored = [(f"Rui: {label}", text, float(goods[label] in text)) for label in goods for text in texts]
    task = tuned.task(Contrastive, pairs, pairs="apart")
    before = task.figures(task.predict(put_head_on(tuned.body(), task.head()).eval(), scored, 7))["spearman"]
    model = tuned.learnt(task, pairs, scored, steps=30, batch_size=8)
    after = task.figures(task.predict(model, scored, 7))
    assert list(after) == ["spearman", "pearson"] and after["spearman"] > max(0.7, before + 0.3)


def test_the_world_gives_stories_of_one_place_to_learn_from_and_numbers_to_measure_on():
    examples = Contrastive.world(12, 5, False)
    assert len(examples) == 12 and {truth for *_, truth in examples} == {None}
    n_person = 0
    for pair in examples:
        place_a, place_b = (re.search("|".join(world.PLACES), text)[0] for text in pair[:2])
        person_a, person_b = (re.search("|".join(world.NAMES), text)[0] for text in pair[:2])
        n_person += person_a == person_b
        assert place_a == place_b and pair[0] != pair[1], "a true pair shares the place"
        assert not any(word.strip(".,") in world.HELD_OUT for text in pair[:2] for word in text.split())
    assert 6 <= n_person < 12, "half of them share the person"
    assert Contrastive.world(12, 5, True) == world.similarity(12, 5, True)


def test_two_columns_are_learnt_from_and_the_number_of_a_third_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{a}\t{b}" for a, b in zip(small.documents(12), small.documents(12, seed=1), strict=True)]
    Path("two.tsv").write_text("\n".join(lines), encoding="utf-8")
    numbered = [f"{line}\t{i % 3}.5" for i, line in enumerate(lines)]
    Path("three.tsv").write_text("\n".join(numbered), encoding="utf-8")
    how = dict(task="contrastive", test="three.tsv")
    (two,), (three,) = (run.load_parts(tuned.settings(data=(f"{n}.tsv",), **how)) for n in ("two", "three"))
    assert two == three and list(map(len, two)) == [11, 1, 12]
    assert two.train[0][2] is None and two.test[4][2] == 1.5
    Path("two.tsv").write_text("Ana.\tRui.\nalone\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"two.tsv, line 2: found 1 columns.* with text_a, text_b"):
        run.load_parts(tuned.settings(data=("two.tsv",), **how))


def test_pairs_and_recipe_are_those_of_the_figures_in_the_readmes():
    pairs = Contrastive.world(9, 3, False), Contrastive.world(9, 3, True)
    assert small.fingerprint(pairs) == "1a94d2dd", "not the pairs that were measured"
    assert Contrastive.recipe == dict(n_examples=3000, steps=300, batch_size=32) and TEMPERATURE == 0.2
    assert not Contrastive.has_truth and not Contrastive.has_head, "no number to learn, nothing new on top"
