"""Grades pretraining/denoising.py: the texts that it rebuilds for a person to read."""

import numpy as np
import torch

from minilm.pretraining import denoising as denoising_room
from minilm.pretraining.denoising import Denoising, rebuilt_examples
from minilm.texts.corpus import Corpus


def test_rebuilt_examples_show_the_text_noised_rebuilt_and_as_it_was(denoising, denoiser, byte_bpe):
    denoiser.vocabulary.bias.data[byte_bpe.encode("j")[0]] = 1e4
    denoiser.vocabulary.bias.data[-2:] = 1e5  # rows without a token
    lines = rebuilt_examples(denoising, denoiser)
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


def test_the_model_is_asked_to_stop_at_sep(denoising, denoiser, byte_bpe, monkeypatch):
    begin, end, pad = (byte_bpe.special_id(f"[{name}]") for name in ("CLS", "SEP", "PAD"))
    asked = []

    def generate(model, prompts, max_new_tokens, **options):
        asked.append((prompts, options | dict(n=max_new_tokens)))
        return [[begin, *byte_bpe.encode("xyz"), end] for _ in prompts]

    monkeypatch.setattr(denoising_room, "generate", generate)
    assert rebuilt_examples(denoising, denoiser)[1::4] == ["rebuilt:  xyz"] * 3
    ((prompts, options),) = asked
    assert options["n"] == denoising.context - 1, "with [CLS] no more than the positions"
    assert options["eos_id"] == end and options["decoder_start_id"] == [begin]
    assert all(ids[0] == begin and ids[-1] == end and pad not in ids for ids in prompts)


def test_rebuilt_examples_are_the_likeliest_tokens_given_the_noised_text(denoising, denoiser, byte_bpe):
    lines = rebuilt_examples(denoising, denoiser, n=2)
    assert lines == rebuilt_examples(denoising, denoiser, n=2), "nothing is drawn"
    rng = np.random.default_rng(denoising.seed)
    chosen = rng.choice(5, 2, replace=False)
    rows = denoising.rows(denoising.texts["validation"], chosen, rng)
    begin, end = (byte_bpe.special_id(token) for token in ("[CLS]", "[SEP]"))
    for ids, mask, line in zip(rows["input_ids"], rows["attention_mask"], lines[1::4], strict=True):
        noised, written = torch.tensor(ids[mask == 1])[None], [begin]
        while len(written) < 30 and written[-1] != end:
            with torch.no_grad():
                logits = denoiser(noised, None, None, torch.tensor([written]))
            written.append(int(logits[0, -1].argmax()))
        text = byte_bpe.decode([i for i in written if i not in (begin, end, byte_bpe.special_id("[PAD]"))])
        assert line.removeprefix("rebuilt:").strip() == text.replace("[MASK]", " ____").strip()


def test_rebuilt_examples_of_few_texts(byte_bpe, denoiser):
    objective = Denoising(Corpus("one", ["Aab q. Bbb q."], ["Ab c."]), byte_bpe, 30, 3)
    lines = rebuilt_examples(objective, denoiser, n=9)
    assert len(lines) == 3 and lines[2] == "original: Ab c.", "no text twice"
