"""Grades reinforcement/supervised.py: the chosen answers, and nothing else, are labels."""

import pytest
import small

from minilm.reinforcement.preferences import answer_ids
from minilm.reinforcement.supervised import Supervised
from minilm.tokenizer.rows import END, prompt_ids
from minilm.training.loop import train
from minilm.training.objective import IGNORED

TOKENIZER = small.tokenizer()


@pytest.fixture
def objective(gpt, preferences):
    return Supervised(preferences, TOKENIZER, gpt.config, 6, seed=1)


def test_the_labels_are_the_chosen_answer(objective, preferences, gpt):
    expected = {(*answer_ids(TOKENIZER, chosen),): prompt for prompt, chosen, _ in preferences.pairs}
    prompts = {(*prompt_ids(TOKENIZER, gpt.config, prompt),) for prompt, _, _ in preferences.pairs}
    batch = objective.batch(0, "train")
    assert batch["input_ids"].shape == batch["labels"].shape
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        places = [t for t, label in enumerate(labels) if label != IGNORED]
        answer = tuple(labels[t] for t in places)
        assert answer in expected, "the chosen answer with its end token, and no other"
        assert places == list(range(places[0], places[0] + len(answer)))
        assert tuple(ids[: places[0] + 1]) in prompts, "the first label follows the prompt's last token"
        assert ids[places[0] + 1 : places[-1] + 1] == list(answer[:-1])
        assert answer[-1] == TOKENIZER.special_id(END)
    assert batch["n_label"] == (batch["labels"] != IGNORED).sum()


def test_changing_the_prompt_s_ids_changes_no_label(objective):
    batch = objective.batch(1, "train")
    assert (batch["labels"][:, :1] == IGNORED).all(), "a prompt is given, not learnt"


def test_it_learns_to_answer(gpt, objective, tmp_path):
    outcome = train(gpt, objective, small.settings(steps=30, batch_size=6, lr=1e-2), tmp_path, TOKENIZER)
    assert outcome["after"]["loss"] < outcome["before"]["loss"] / 2
    assert outcome["after"]["accuracy"] > 0.5


def test_loss_is_the_mean_over_the_labels(gpt, objective):
    batch = objective.batch(0, "train")
    logits = gpt(batch["input_ids"]).detach().log_softmax(-1)
    total = sum(
        -float(logits[row, t, label])
        for row, labels in enumerate(batch["labels"].tolist())
        for t, label in enumerate(labels)
        if label != IGNORED
    )
    assert objective.loss(gpt, batch)[0].item() == pytest.approx(total / float(batch["n_label"]), rel=1e-5)
