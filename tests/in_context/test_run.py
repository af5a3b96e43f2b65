"""Grades in_context/run.py: the GPT that reads few-shot documents, and its rows in the table."""

from pathlib import Path

import pytest

from minilm.in_context.run import FewShot
from minilm.pretraining import run
from minilm.pretraining.recipes import with_recipe
from minilm.pretraining.run import Pretraining, PretrainingSettings


def settings(**changes) -> PretrainingSettings:
    short = dict(objective="causal", data=("world:few-shot-no-repeats",), n_documents=40, vocab_size=400)
    return with_recipe(PretrainingSettings(**short | dict(steps=1, batch_size=5, device="cpu") | changes))


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        (dict(data=("world:few-shot",)), True),
        (dict(data=("world",)), False),
        (dict(objective="masked"), False),  # BERT reads no examples
    ],
)
def test_few_shot_documents_are_for_gpt(changes, fits):
    assert FewShot.fits(settings(**changes)) is fits


def test_gpt_on_few_shot_documents_is_told_from_other_gpts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = FewShot(settings(), dict(d_model=8, n_head=2, d_ff=12)).run()
    out = capsys.readouterr().out
    assert folder == Path("runs/in-context"), "runs/causal is the GPT of the stories"
    assert "lookup, key that is no word" in out and "Next: python prompt.py" in out
    assert run.newest_or_train("in-context", kind=FewShot) == folder


def test_the_default_one_is_trained_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(Pretraining, "run", lambda self: seen.append(self.settings) or Path("runs/x"))
    assert run.newest_or_train("in-context", 3, "cpu", FewShot) == Path("runs/x")
    want = dict(objective="causal", model="gpt-alibi-tiny", seed=3, device="cpu")
    assert seen == [with_recipe(PretrainingSettings(**want))]
    assert seen[0].data == ("world:few-shot",)
