"""Grades continued training from published folders of each kind, and its closing tables."""

import json

import published
import pytest
import small
import torch

import minilm
import train
from minilm.continued.run import PUBLISHED, continued_command
from minilm.plumbing.folders import RESULTS
from minilm.pretraining.baselines import standing_share
from minilm.pretraining.denoising import Denoising, rebuilt_examples
from minilm.pretraining.run import Pretraining
from minilm.tokenizer.rows import decoder_begin
from minilm.training.objective import IGNORED

OBJECTIVE = dict(bert="masked", distilbert="masked", roberta="masked", gpt2="causal", bart="denoising")


@pytest.fixture
def text(tmp_path):
    (tmp_path / "notes.txt").write_text("\n\n".join(small.documents(60)), encoding="utf-8")
    return str(tmp_path / "notes.txt")


@pytest.mark.parametrize("kind", OBJECTIVE)
def test_training_goes_on_from_a_published_folder(kind, text, tmp_path, monkeypatch, capsys):
    folder = published.folder(tmp_path / kind, kind)
    monkeypatch.chdir(tmp_path)
    flags = f"train.py --init {kind} --data {text} --steps 4 --batch-size 5 --context 24 --lr 1e-3 --warmup 1"
    monkeypatch.setattr("sys.argv", [*flags.split(), "--eval-every", "4", "--device", "cpu", "--out", "run"])
    read = Pretraining.texts  # of what the model knew before, which nobody has, a little is enough
    known = lambda run: read(run) if run.settings.data == (text,) else small.corpus()
    monkeypatch.setattr(Pretraining, "texts", known)
    train.main()
    results = json.loads((tmp_path / "run" / RESULTS).read_text())
    assert results["domain_loss_after"] < results["domain_loss_before"]
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["objective"] == OBJECTIVE[kind], "the objective that fits this kind of model"
    assert settings["next_sentence"] == (kind == "bert"), "no question without a head that answers it"
    model, tokenizer = minilm.load(tmp_path / "run")
    before, reader = minilm.load(folder)
    assert model.config == before.config and type(tokenizer) is type(reader)
    assert tokenizer.encode(small.documents(1)[0]) == reader.encode(small.documents(1)[0])
    assert tokenizer.aliases == reader.aliases
    assert "<mask>" not in capsys.readouterr().out.partition("Filled-in")[2], "a blank is shown as one"


def test_settings_that_fit_a_published_model(tmp_path):
    start = str(published.folder(tmp_path / "bert", "bert"))
    found = continued_command(dict(init=start), {})
    fits = dict(objective="masked", model="bert-base", next_sentence=True, context=published.P)
    assert found == PUBLISHED | fits | dict(init=start), "no more than its positions"
    start = str(published.folder(tmp_path / "gpt2", "gpt2"))
    assert continued_command(dict(init=start), {})["model"] == "gpt2"
    assert continued_command(dict(init=start, objective="masked"), {})["model"] == "gpt2", "it is no BERT"


def test_the_decoder_of_a_published_bart_starts_from_its_own_token(tmp_path):
    model, tokenizer = minilm.load(published.folder(tmp_path / "bart", "bart"))
    start, cls = tokenizer.special_id("</s>"), tokenizer.special_id("<s>")
    assert decoder_begin(tokenizer) == [start, cls]
    objective, plain = (Denoising(small.corpus(), tokenizer, 24, 7, noise="masking") for _ in range(2))
    plain.begin = [cls]
    batch = objective.batch(3, "train")
    assert (batch["decoder_input_ids"][:, :2] == torch.tensor([start, cls])).all()
    assert (batch["labels"][:, 0] == IGNORED).all() and batch["decoder_input_ids"].shape[1] <= 24
    assert batch["n_label"] == plain.batch(3, "train")["n_label"]
    assert standing_share(objective) == standing_share(plain)
    lines = rebuilt_examples(objective, model.eval())
    original = [line.removeprefix("original: ") for line in lines if line.startswith("original:")]
    assert all(any(text in document for document in small.corpus().validation) for text in original)
