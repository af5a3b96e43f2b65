"""Grades finetuning/tagging.py: the first token of a word carries its tag, and the others none."""

import math

import pytest
import small
import torch
import tuned

from minilm.finetuning import tagging
from minilm.finetuning.comparison import prepared, train_quietly
from minilm.finetuning.tagging import TaggedRows, Tagging
from minilm.finetuning.tasks import Examples, FineTuning, Prediction
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import word_ids
from minilm.training.objective import IGNORED

SENTENCES = [
    (["Rui", "sells", "quinces", "."], ["B-who", "O", "B-what", "O"]),
    (
        ["The", "old", "baker", "found", "two", "red", "pens"],
        ["B-who", "I-who", "I-who", "O", "O", "O", "B-what"],
    ),
    (["Ana"], ["B-who"]),
]
ENCODE = small.tokenizer().encode
PAD, CLS, SEP = map(small.tokenizer().special_id, ("[PAD]", "[CLS]", "[SEP]"))


def task_of(context: int = tuned.CONTEXT) -> Tagging:
    return Tagging(small.tokenizer(), tuned.config(), context, Tagging.learn(SENTENCES))


def model_of(task, seed: int = 0):
    return prepared(tuned.body(seed=seed), task, tuned.settings(), "all").eval()


def test_a_word_that_leaves_nothing_is_unknown(monkeypatch):
    monkeypatch.setattr(tagging, "word_ids", lambda tokenizer, config, words: [[3], []])
    rows = task_of().rows([(["a", "\u200b"], ["O", "O"])])
    unknown = small.tokenizer().special_id("[UNK]")
    assert list(rows.texts) == [[CLS, 3, unknown, SEP]], "each word needs a first token"
    assert rows.first == [[1, 2]]


def test_the_first_token_carries_the_tag():
    task = task_of()
    rows = task.rows(SENTENCES)
    batch = rows.batch([1, 0])
    for row, i in enumerate([1, 0]):
        words, tags = SENTENCES[i]
        ids, labels, first = [CLS], [IGNORED], []
        for word, tag in zip(words, tags, strict=True):
            pieces = ENCODE(("" if word == "." else " ") + word)
            first.append(pieces[0])
            ids += pieces
            labels += [task.tags.index(tag)] + [IGNORED] * (len(pieces) - 1)
        width = batch["input_ids"].shape[1]
        assert batch["input_ids"][row].tolist() == ids + [SEP] + [PAD] * (width - len(ids) - 1)
        assert batch["labels"][row].tolist() == labels + [IGNORED] * (width - len(labels))
        assert [ids[place] for place in rows.first[i]] == first
    assert float(batch["n_label"]) == 11 and len(rows) == 3 and rows.n_cut == 0
    assert any(len(piece) > 1 for piece in word_ids(small.tokenizer(), tuned.config(), SENTENCES[0][0])), (
        "a test without pieces"
    )


def test_the_loss_is_the_mean_over_words():
    task = task_of()
    model, batch = model_of(task), task.rows(SENTENCES).batch([0, 2])
    log_probs = model.output(batch).log_softmax(-1)
    at = (batch["labels"] != IGNORED).nonzero().tolist()
    each = [-log_probs[b, t, batch["labels"][b, t]] for b, t in at]
    loss, metrics = task.loss(model, batch)
    torch.testing.assert_close(loss, torch.stack(each).mean())
    right = [float(log_probs[b, t].argmax() == batch["labels"][b, t]) for b, t in at]
    assert float(metrics["accuracy"]) == pytest.approx(sum(right) / len(right))
    empty = batch | dict(labels=torch.full_like(batch["labels"], IGNORED), n_label=torch.tensor(1.0))
    assert task.loss(model, empty)[0].item() == 0.0, "no label left: the loss is 0, not NaN"


def test_tags_are_learnt_and_predicted_in_order():
    task = task_of()
    model = model_of(task)
    objective = FineTuning(task, Examples(SENTENCES, SENTENCES, SENTENCES), 3)
    train_quietly(model, objective, tuned.settings(steps=60, batch_size=3, lr=2e-2, warmup=5))
    found = task.predict(model, SENTENCES, 2)
    assert [p.guess for p in found] == [tags for _, tags in SENTENCES]
    assert task.score(found) == dict(entity_f1=1.0, precision=1.0, recall=1.0)
    assert found[1].text == "The old baker found two red pens" and 0.5 < found[1].probability <= 1
    (unknown,) = task.predict(model, [(["Rui", "sells"], None)], 2)
    assert unknown.truth is None and len(unknown.guess) == 2


def test_words_beyond_the_context_are_cut_counted_and_outside():
    task = task_of(context=8)
    rows = TaggedRows(task, SENTENCES)
    assert rows.n_cut == 2 and rows.lengths.max() == 8
    found = task.predict(model_of(task), SENTENCES, 2)
    assert [len(p.guess) for p in found] == [4, 7, 1]
    kept = len(rows.first[1])
    assert kept < 7 and found[1].guess[kept:] == ["O"] * (7 - kept)


def test_a_word_longer_than_the_positions_keeps_its_first_token():
    task = task_of()
    long = [(["Rui", "z" * 900, "ran"], ["B-who", "O", "O"])]
    rows = task.rows(long)
    assert rows.lengths[0] == tuned.CONTEXT and rows.n_cut == 1 and len(rows.first[0]) == 2
    assert math.isfinite(task.loss(model_of(task), rows.batch([0]))[0].item())
    assert len(task.predict(model_of(task), long, 1)[0].guess) == 3


def test_tags_that_do_not_fit():
    assert Tagging.learn(SENTENCES) == dict(tags=["B-what", "B-who", "I-who", "O"])
    with pytest.raises(UserError, match="all words have the tag 'O'"):
        Tagging.learn([(["a", "b"], ["O", "O"])])
    with pytest.raises(UserError, match="the tag 'NOUN' is not O, B-TYPE"):
        Tagging.learn([(["a", "b"], ["O", "NOUN"])])
    known = Tagging.learn(SENTENCES)
    Tagging.check(known, SENTENCES, "t.conll")
    with pytest.raises(
        UserError, match=r"t.conll: tags that training does not have: 'B-whi' \(2 times\) \(did"
    ):
        Tagging.check(known, [(["a", "b"], ["B-whi", "B-whi"])], "t.conll")


def test_what_needs_no_model():
    what, guesses = Tagging.trivial(SENTENCES, [(["Ana", "sells", "Rita"], [])])
    assert what == "each word's usual tag" and guesses == [["B-who", "O", "O"]]


def test_files_with_and_without_tags(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("Rui B-who\nran O\n\nAna B-who\n", encoding="utf-8")
    assert Tagging.read(path) == ([(["Rui", "ran"], ["B-who", "O"]), (["Ana"], ["B-who"])], 0)
    path.write_text("Rui\nran\n\nAna\n", encoding="utf-8")
    assert Tagging.read(path, truth=False) == ([(["Rui", "ran"], None), (["Ana"], None)], 0)
    with pytest.raises(UserError, match="line 1: one column 'Rui'"):
        Tagging.read(path)


def test_what_a_person_is_shown():
    task = task_of()
    words, tags = SENTENCES[1]
    right = Prediction(" ".join(words), tags, tags)
    assert task.shown(right) == [right.text, "    who The old baker, what pens"]
    wrong = Prediction("Ana", ["B-who"], ["O"])
    assert task.shown(wrong) == ["Ana", "    -", "    it is: who Ana"]
    assert task.written(["B-who", "O"]) == "B-who O"


def test_the_world_gives_words_and_tags():
    for words, tags in Tagging.world(5, 0, True):
        assert len(words) == len(tags) and set(tags) <= {"O", "B-person", "B-place", "B-thing", "I-thing"}
