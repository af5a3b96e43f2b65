"""Grades pretraining/report.py: BART's table and the texts that it rebuilds."""

import numpy as np
import pytest
import torch

from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.script import table
from minilm.pretraining import baselines, report
from minilm.pretraining import denoising as denoising_room
from minilm.pretraining.denoising import Denoising, rebuilt_examples
from minilm.pretraining.noise import NOISES
from minilm.pretraining.report import HEADER
from minilm.texts.corpus import Corpus
from minilm.training.checkpoints import evaluate
from minilm.training.loop import TrainingSettings

SETTINGS = TrainingSettings(batch_size=3)


@pytest.fixture
def model(byte_bpe):
    torch.manual_seed(0)
    sizes = dict(n_encoder_layer=1, n_decoder_layer=1, d_model=12, n_head=3, d_ff=20)
    config = dict(max_positions=40, final_norm=True, head_bias=True, dropout=0.0, attention_dropout=0.0)
    return build(ModelConfig(vocab_size=len(byte_bpe.vocab) + 2, **config | sizes)).eval()


def test_rebuilt_examples_show_the_text_noised_rebuilt_and_as_it_was(denoising, model, byte_bpe):
    model.vocabulary.bias.data[byte_bpe.encode("j")[0]] = 1e4
    model.vocabulary.bias.data[-2:] = 1e5  # rows without a token
    lines = rebuilt_examples(denoising, model)
    assert len(lines) == 3 * 3 + 2 and lines[3::4] == ["", ""], "three texts of three lines, a blank between"
    assert len(set(lines[2::4])) == 3, "three different texts"
    for noised, rebuilt, original in zip(lines[0::4], lines[1::4], lines[2::4], strict=True):
        assert rebuilt == "rebuilt:  " + "j" * 29, "what the model writes alone, up to a full context"
        text = original.removeprefix("original: ")
        assert text in denoising.corpus.validation, "a validation text as it was"
        assert noised.startswith("noised:   ")
        shown = noised.removeprefix("noised:   ")
        assert "[" not in shown and set(shown) <= {*text, "_", " "}, "no [CLS], [SEP], [PAD]; masks are ____"
        assert shown != text
    assert "____" in "".join(lines[0::4])


def test_the_model_is_asked_to_stop_at_sep(denoising, model, byte_bpe, monkeypatch):
    begin, end, pad = (byte_bpe.special_id(f"[{name}]") for name in ("CLS", "SEP", "PAD"))
    asked = []

    def generate(model, prompts, max_new_tokens, **options):
        asked.append((prompts, options | dict(n=max_new_tokens)))
        return [[begin, *byte_bpe.encode("xyz"), end] for _ in prompts]

    monkeypatch.setattr(denoising_room, "generate", generate)
    assert rebuilt_examples(denoising, model)[1::4] == ["rebuilt:  xyz"] * 3
    ((prompts, options),) = asked
    assert options["n"] == denoising.context - 1, "with [CLS] no more than the positions"
    assert options["eos_id"] == end and options["decoder_start_id"] == [begin]
    assert all(ids[0] == begin and ids[-1] == end and pad not in ids for ids in prompts)


def test_rebuilt_examples_are_the_likeliest_tokens_given_the_noised_text(denoising, model, byte_bpe):
    lines = rebuilt_examples(denoising, model, n=2)
    assert lines == rebuilt_examples(denoising, model, n=2), "nothing is drawn"
    rng = np.random.default_rng(denoising.seed)
    chosen = rng.choice(5, 2, replace=False)
    rows = denoising.rows(denoising.texts["validation"], chosen, rng)
    begin, end = (byte_bpe.special_id(token) for token in ("[CLS]", "[SEP]"))
    for ids, mask, line in zip(rows["input_ids"], rows["attention_mask"], lines[1::4], strict=True):
        noised, written = torch.tensor(ids[mask == 1])[None], [begin]
        while len(written) < 30 and written[-1] != end:
            with torch.no_grad():
                logits = model(noised, None, None, torch.tensor([written]))
            written.append(int(logits[0, -1].argmax()))
        text = byte_bpe.decode([i for i in written if i not in (begin, end, byte_bpe.special_id("[PAD]"))])
        assert line.removeprefix("rebuilt:").strip() == text.replace("[MASK]", " ____").strip()


def test_rebuilt_examples_of_few_texts(byte_bpe, model):
    objective = Denoising(Corpus("one", ["Aab q. Bbb q."], ["Ab c."]), byte_bpe, 30, 3)
    lines = rebuilt_examples(objective, model, n=9)
    assert len(lines) == 3 and lines[2] == "original: Ab c.", "no text twice"


def test_closing_has_the_figures_of_results_json(denoising, model):
    before = evaluate(model, denoising, SETTINGS)
    after = {name: 0.77 * value for name, value in before.items()}
    rows, results, examples = report.denoising_closing(denoising, model, before, after, SETTINGS)
    assert results["reconstruction_loss"] == after["loss"]
    assert results["copy_accuracy"] == after["copy_accuracy"]
    assert results["rebuilt_accuracy"] == after["rebuilt_accuracy"]
    train = denoising.texts["train"]
    assert results["unigram_loss"] == baselines.unigram_loss(denoising, train.ids, "labels", n_end=len(train))
    for noise in NOISES:
        alone = evaluate(model, denoising.with_noise(noise), SETTINGS)["loss"]
        assert results[f"{noise}_loss"] == alone, "each noise by itself, on the validation part"
        assert (f"loss, {noise} alone", None, alone, results["unigram_loss"], "") in rows
    columns = {name: values for name, *values in rows}
    assert columns["loss (nats a token)"][:3] == [before["loss"], after["loss"], results["unigram_loss"]]
    assert columns["bits per byte"][:2] == [before["bits_per_byte"], after["bits_per_byte"]]
    for name, key, trivial in (
        ("kept tokens copied", "copy_accuracy", baselines.standing_share(denoising)),
        ("lost tokens rebuilt", "rebuilt_accuracy", baselines.commonest_share(denoising)),
    ):
        assert columns[name][:3] == [before[key], after[key], trivial]
    assert all(len(row) == len(HEADER) for row in rows)
    assert len(table(rows, HEADER).splitlines()) == len(rows) + 2
    assert examples[-11:] == rebuilt_examples(denoising, model)
    assert denoising.noises == ("infilling", "permutation"), "the run's own noise is changed"
