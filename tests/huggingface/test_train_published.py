"""Grades continued training from published folders of each kind, and its closing tables."""

import json

import published
import pytest
import small
import torch
from minilm.pretraining.closing_denoising import rebuilt_examples, standing_share

import minilm
import train
from minilm.continued.run import PUBLISHED, Start, start_settings
from minilm.in_context.prompts import decoder_start
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import RESULTS
from minilm.pretraining.denoising import Denoising
from minilm.pretraining.run import PretrainingSettings
from minilm.texts.corpus import Corpus
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
    monkeypatch.setattr("minilm.continued.run.load_texts", lambda settings: small.corpus())
    assert train.main() == 0
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
    published.folder(tmp_path / "bert", "bert")
    settings = PretrainingSettings(init=str(tmp_path / "bert"))
    found = start_settings(settings, {}, set())
    assert found["context"] == published.P, "no more than its positions"
    assert found == dict(found, **PUBLISHED, objective="masked", model="bert-base", next_sentence=True)
    published.folder(tmp_path / "gpt2", "gpt2")
    settings = PretrainingSettings(init=str(tmp_path / "gpt2"))
    assert start_settings(settings, {}, set())["model"] == "gpt2"
    assert start_settings(settings, {"objective": "masked"}, set())["model"] == "bert-base", (
        "the flag comes first"
    )


def test_of_a_run_of_ours_only_what_goes_on_is_taken(tmp_path):
    minilm.save(small.model("causal"), small.tokenizer(), tmp_path / "run")
    (tmp_path / "run" / "settings.json").write_text('{"objective": "causal", "steps": 9, "context": 24}')
    settings = PretrainingSettings(init=str(tmp_path / "run"))
    assert start_settings(settings, {}, {"objective", "context"}) == dict(objective="causal", context=24)


def test_a_folder_without_vocabulary_cannot_go_on(tmp_path):
    (published.folder(tmp_path / "bert", "bert") / "vocab.txt").unlink()
    settings = PretrainingSettings(init=str(tmp_path / "bert"), context=24, data=("x",))
    with pytest.raises(UserError, match="no tokenizer in it"):
        Start(settings, Corpus("x", small.documents(9), small.documents(3)))


def test_the_decoder_of_a_published_bart_starts_from_its_own_token(tmp_path):
    model, tokenizer = minilm.load(published.folder(tmp_path / "bart", "bart"))
    start, cls = tokenizer.special_id("</s>"), tokenizer.special_id("<s>")
    assert decoder_begin(tokenizer) == [start, cls]
    assert decoder_begin(small.tokenizer()) == [small.tokenizer().special_id("[CLS]")]
    assert decoder_start(tokenizer, model.config) == [start, cls], "prompting and writing"
    plain = Denoising(small.corpus(), tokenizer, 24, 7, noise="masking")
    plain.begin = [cls]
    objective = Denoising(small.corpus(), tokenizer, 24, 7, noise="masking")
    one, two = plain.batch(3, "train"), objective.batch(3, "train")
    assert (two["decoder_input_ids"][:, 0] == start).all() and (two["labels"][:, 0] == IGNORED).all()
    for name in ("decoder_input_ids", "labels", "survived"):
        assert torch.equal(two[name][:, 1:], one[name]), name
    assert two["n_label"] == one["n_label"] and two["decoder_input_ids"].shape[1] <= 24
    assert standing_share(objective) == standing_share(plain)
    lines = rebuilt_examples(objective, model.eval())
    original = [line.removeprefix("original: ") for line in lines if line.startswith("original:")]
    assert all(any(text in document for document in small.corpus().validation) for text in original)
