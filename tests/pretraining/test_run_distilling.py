"""Grades `Distilling` of pretraining/run.py: where a student begins, and what it is given to read."""

from dataclasses import replace
from pathlib import Path

import pytest
import small
import torch

from minilm.checkpoint import save
from minilm.model.config import PRESETS
from minilm.plumbing.errors import UserError
from minilm.pretraining import run
from minilm.pretraining.run import Distilling, PretrainingSettings, with_recipe


def test_the_newest_teacher_is_the_default(monkeypatch):
    monkeypatch.setattr(run, "newest_or_train", lambda *given: Path("/".join(map(str, given[:3]))))
    made = with_recipe(PretrainingSettings(objective="distillation", seed=3, device="cpu"))
    widths = {"mine": dict(d_model=256), "masked/3/cpu": dict(d_model=252)}
    monkeypatch.setattr(run, "load_config", lambda path: replace(PRESETS["bert-tiny"], **widths[str(path)]))
    ours, published = (Distilling(one).settings for one in (made, replace(made, teacher="mine")))
    assert (ours.teacher, published.teacher) == ("masked/3/cpu", "mine")
    assert (ours.lr, published.lr) == (3e-3, 5e-4), "a large teacher's layers bear no tiny model's rate"
    assert Distilling(replace(made, teacher="mine", lr=0.25)).settings.lr == 0.25
    assert Distilling(replace(made, teacher="mine")).then.endswith(" --soft-weight 0 --teacher mine")


def test_a_student_is_made_of_its_teachers_layers(tmp_path):
    teacher = small.model("masked")
    save(teacher, small.tokenizer(), tmp_path / "teacher")
    settings = with_recipe(PretrainingSettings(objective="distillation", teacher=str(tmp_path / "teacher")))
    student, tokenizer = Distilling(settings, {"n_encoder_layer": 1}).start(None)
    assert tokenizer.vocab == small.tokenizer().vocab and student.config.n_segments == 0
    assert torch.equal(student.tokens.weight, teacher.tokens.weight)
    distilling = Distilling(settings)
    distilling.start(None)
    objective = distilling.objective(small.corpus(), tokenizer)
    assert torch.equal(objective.teacher.tokens.weight, teacher.tokens.weight)
    with pytest.raises(UserError, match="--n-encoder-layer"):
        Distilling(settings, {"d_ff": 3}).start(None)
    save(teacher, None, tmp_path / "bare")
    with pytest.raises(UserError, match="bare: no tokenizer in it"):
        Distilling(replace(settings, teacher=str(tmp_path / "bare"))).start(None)


def test_a_student_reads_all_texts_and_watches_few(tmp_path):
    (tmp_path / "many.txt").write_text("\n\n".join(small.documents(900)), encoding="utf-8")
    data = dict(data=(str(tmp_path / "many.txt"),), eval_rows=20, n_documents=30, context=32)
    save(small.model("masked"), small.tokenizer(), tmp_path / "t")
    made = with_recipe(PretrainingSettings(objective="distillation", teacher=str(tmp_path / "t"), **data))
    corpus = Distilling(made).texts()
    assert 8 <= len(corpus.validation) <= 20 and "(--eval-rows)" in corpus.notes[-1]
    assert len(corpus.train) > 30, "the closing table learns from all texts"
