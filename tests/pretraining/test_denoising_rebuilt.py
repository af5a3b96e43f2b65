"""Grades pretraining/denoising.py: the texts that it rebuilds for a person to read."""

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


def test_each_text_is_rebuilt_by_its_likeliest_tokens_until_sep(denoising, denoiser, byte_bpe, monkeypatch):
    begin, end, pad = (byte_bpe.special_id(f"[{name}]") for name in ("CLS", "SEP", "PAD"))
    asked = []

    def generate(model, prompts, max_new_tokens, **options):
        asked.append((prompts, options | dict(n=max_new_tokens)))
        return [[begin, *byte_bpe.encode(text), end] for text in ("ab", "cd", "ef")]

    monkeypatch.setattr(denoising_room, "generate", generate)
    lines = rebuilt_examples(denoising, denoiser)
    assert lines[1::4] == ["rebuilt:  ab", "rebuilt:  cd", "rebuilt:  ef"]
    ((prompts, options),) = asked
    assert options["n"] == denoising.context - 1, "with [CLS] no more than the positions"
    assert options["eos_id"] == end and options["decoder_start_id"] == [begin]
    assert options["temperature"] == 0, "nothing is drawn"
    for ids, noised in zip(prompts, lines[0::4], strict=True):
        assert ids[0] == begin and ids[-1] == end and pad not in ids
        text = byte_bpe.decode(ids[1:-1]).replace("[MASK]", " ____")
        assert noised.removeprefix("noised:").strip() == text.strip(), "the model reads another text"


def test_rebuilt_examples_of_few_texts(byte_bpe, denoiser):
    objective = Denoising(Corpus("one", ["Aab q. Bbb q."], ["Ab c."]), byte_bpe, 30, 3)
    lines = rebuilt_examples(objective, denoiser, n=9)
    assert len(lines) == 3 and lines[2] == "original: Ab c.", "no text twice"
