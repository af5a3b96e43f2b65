"""A start for continued training."""

import json
from pathlib import Path

import pytest
import small

from minilm.checkpoint import save
from minilm.pretraining.run import PretrainingSettings
from minilm.texts import corpus


def save_settings(folder, **saved) -> None:
    """Write the settings with which a run was made into its folder."""
    Path(folder, "settings.json").write_text(json.dumps(saved), encoding="utf-8")


@pytest.fixture
def remember(settings):
    """A function that replaces the settings of the run that is gone on with."""
    return lambda **saved: save_settings(settings.init, **saved)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A saved causal model that knows general.txt, and the settings to go on with domain.txt."""
    monkeypatch.setattr(corpus, "WORLD_TRAIN", 120)
    monkeypatch.setattr(corpus, "WORLD_VALIDATION", 30)
    (tmp_path / "general.txt").write_text("\n\n".join(small.documents(60)), encoding="utf-8")
    save(small.model("causal"), small.tokenizer(), tmp_path / "run")
    save_settings(tmp_path / "run", objective="causal", data=[str(tmp_path / "general.txt")])
    given = dict(objective="causal", init=str(tmp_path / "run"), data=("domain",), model="gpt-tiny")
    given |= dict(context=24, batch_size=7, steps=3, lr=1e-2, warmup=1, schedule="constant")
    return PretrainingSettings(**given, weight_decay=0.0, device="cpu")
