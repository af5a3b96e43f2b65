"""Grades finetuning/tagging.py: the first token of a word carries its tag, and the others none."""

import pytest
import small
import torch
import tuned

from minilm.finetuning.tagging import Tagging
from minilm.plumbing.errors import UserError
from minilm.tokenizer.rows import word_ids
from minilm.training.objective import IGNORED

OLD = ["The", "old", "baker", "found", "two", "red", "pens"]
SENTENCES = [
    (["Rui", "sells", "quinces", "."], ["B-who", "O", "B-what", "O"]),
    (OLD, ["B-who", "I-who", "I-who", "O", "O", "O", "B-what"]),
    (["Ana"], ["B-who"]),
]
ENCODE = small.tokenizer().encode
PAD, CLS, SEP = map(small.tokenizer().special_id, ("[PAD]", "[CLS]", "[SEP]"))


def task_of(context: int = tuned.CONTEXT) -> Tagging:
    return tuned.task(Tagging, SENTENCES, context=context)


def test_the_first_token_carries_the_tag():
    task = task_of()
    rows = task.rows(SENTENCES)
    batch = rows.batch([1, 0])
    for row, i in enumerate([1, 0]):
        ids, labels = [CLS], [IGNORED]
        for word, tag in zip(*SENTENCES[i], strict=True):
            pieces = ENCODE(("" if word == "." else " ") + word)
            ids += pieces
            labels += [task.labels.index(tag)] + [IGNORED] * (len(pieces) - 1)
        width = batch["input_ids"].shape[1]
        assert batch["input_ids"][row].tolist() == ids + [SEP] + [PAD] * (width - len(ids) - 1)
        told = "the tag stands at a word's first token alone; the rest, [CLS], [SEP] and padding are IGNORED"
        assert batch["labels"][row].tolist() == labels + [IGNORED] * (width - len(labels)), told
    assert float(batch["n_label"]) == 11 and len(rows) == 3 and rows.texts.n_cut == 0
    pieces = word_ids(small.tokenizer(), tuned.config(), SENTENCES[0][0])
    assert any(len(piece) > 1 for piece in pieces), "a test without pieces"
    (unknown,) = task.rows([(["Ana", "ran"], ["B-who", "B-new"])]).columns["labels"]
    assert [label for label in unknown if label != IGNORED] == [1], "a tag unknown to training is no label"


def test_the_loss_is_the_mean_over_words():
    task = task_of()
    model, batch = tuned.model(task), task.rows(SENTENCES).batch([0, 2])
    log_probs = model.output(batch).log_softmax(-1)
    at = (batch["labels"] != IGNORED).nonzero().tolist()
    each = [-log_probs[b, t, batch["labels"][b, t]] for b, t in at]
    loss, metrics = task.loss(model, batch)
    told = "a mean over the words, not over all tokens"
    torch.testing.assert_close(loss, torch.stack(each).mean(), msg=told)
    right = [float(log_probs[b, t].argmax() == batch["labels"][b, t]) for b, t in at]
    assert 0 < sum(right) < len(right), "the test needs words that are right, and others"
    told = "of the words: tokens without a label do not count"
    assert float(metrics["accuracy"]) == pytest.approx(sum(right) / len(right)), told


def test_tags_are_learnt_and_predicted_in_order():
    task = task_of()
    model = tuned.learnt(task, SENTENCES, steps=60, batch_size=3)
    found = task.predict(model, SENTENCES, 2)
    guesses = [p.guess for p in found]
    assert guesses == [tags for _, tags in SENTENCES], "a word's tag is read at its first token"
    rows = task.rows(SENTENCES[1:2])
    (scores,) = task.outputs(model, rows, 1)
    words = torch.tensor(rows.columns["labels"][0]) != IGNORED
    lowest = float(scores[words].softmax(-1).amax(-1).min())
    assert found[1].probability == pytest.approx(lowest, abs=1e-5), "the lowest of its words' probabilities"
    assert task.score(guesses, guesses) == dict(entity_f1=1.0, precision=1.0, recall=1.0)
    assert found[1].text == "The old baker found two red pens" and 0.5 < found[1].probability <= 1
    (unknown,) = task.predict(model, [(["Rui", "sells"], None)], 2)
    assert unknown.truth is None and len(unknown.guess) == 2


def test_words_beyond_the_context_are_cut_counted_and_outside():
    task = task_of(context=8)
    rows = task.rows(SENTENCES)
    assert rows.texts.n_cut == 2 and rows.lengths.max() == 8
    found = task.predict(tuned.model(task), SENTENCES, 2)
    assert [len(p.guess) for p in found] == [4, 7, 1], "each word gets a tag, those beyond the context O"
    kept = sum(label != IGNORED for label in rows.columns["labels"][1])
    assert kept < 7 and found[1].guess[kept:] == ["O"] * (7 - kept)


def test_a_word_longer_than_the_positions_keeps_its_first_token():
    task, long = task_of(), [(["Rui", "z" * 900, "ran"], ["B-who", "O", "O"])]
    rows = task.rows(long)
    assert rows.lengths.tolist() == [tuned.CONTEXT] and rows.texts.n_cut == 1
    assert float(rows.batch([0])["n_label"]) == 2
    (found,) = task.predict(tuned.model(task), long, 1)
    assert len(found.guess) == 3 and 0 < found.probability < 1


def test_what_is_learnt_of_the_examples():
    assert Tagging.learn(SENTENCES) == dict(tags=["B-what", "B-who", "I-who", "O"])
    assert Tagging.truths(SENTENCES[2:] + SENTENCES[:1]) == ["B-who", "B-who", "O", "B-what", "O"]
    told = "a new word has the usual tag after the word before it; none before, or a new one: the commonest"
    asked = [(["Ana", "sells", "Rita", "Eva"], []), (["Eva", "quinces"], [])]
    assert Tagging.trivial(SENTENCES, asked) == [["B-who", "O", "B-what", "O"], ["O", "B-what"]], told


def test_what_a_person_is_shown():
    task, (words, tags) = task_of(), SENTENCES[1]
    assert task.written(tags, " ".join(words)) == "who The old baker, what pens"
    assert task.written(["O"], "Ana") == "-" and task.written(["B-who", "O"]) == "B-who O"


def test_tags_that_mark_no_entity_are_counted_by_the_word():
    sentences = [(["Rui", "sells", "New York"], ["NAME", "VERB", "NAME"]), (["Ana", "ran"], ["NAME", "VERB"])]
    task = tuned.task(Tagging, sentences * 2, context=5)
    assert task.metric == "accuracy"
    assert tuned.task(Tagging, [(["a"] * 3, ["B", "I", "O"])]).metric == "entity_f1"
    assert task.score([["NAME", "VERB"], ["VERB"]], [["NAME", "NAME"], ["VERB"]]) == dict(accuracy=2 / 3)
    assert Tagging.trivial(sentences, [(["ran", "Bo"], [])]) == [["VERB", "NAME"]], "new words: the commonest"
    found = task.predict(tuned.model(task), sentences, 2)[0]
    assert len(found.guess) == 3 and found.guess[-1] == "_", "a word that was cut off gets no tag"
    assert found.text == "Rui sells New_York", "one place in the text for one tag"
    assert task.written(["NAME", "VERB", "NAME"], found.text) == "Rui/NAME sells/VERB New_York/NAME"


def test_the_world_gives_words_and_tags():
    for words, tags in Tagging.world(5, 0, True):
        assert len(words) == len(tags) and set(tags) <= {"O", "B-person", "B-place", "B-thing", "I-thing"}


def test_the_recipe_is_that_of_the_figures_in_the_readme():
    assert Tagging.recipe == dict(n_examples=200, steps=200, batch_size=32)
    assert Tagging.closed, "a tag unknown to training cannot be predicted"


def test_tags_with_a_hyphen_may_mark_no_entity():
    for tags in (["NN-P", "V"], ["O", "NN"], ["B", "V-x"]):
        assert Tagging.truths([(["a", "b"], tags)]) == tags
    for tags in (["B-x", "V"], ["I-x", "V-x"]):
        with pytest.raises(UserError, match=f"tag '{tags[1]}': expected O, or B-"):
            Tagging.truths([(["a", "b"], tags)])
