"""Grades in_context/terminal.py: texts for one prompt, and the loop that Ctrl-C and Ctrl-D steer."""

import io
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import small
import torch

from minilm.in_context import terminal
from minilm.in_context.terminal import Writer, loop
from minilm.model.config import ModelConfig
from minilm.model.generate import generate
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.pretraining.translation import Translation
from minilm.texts.pairs import Pairs
from minilm.tokenizer.bpe import BPE
from minilm.tokenizer.rows import chat_ids

SPECIALS = {small.tokenizer().special_id(token) for token in small.tokenizer().special_tokens}


def model_of(kind: str = "decoder", max_positions: int = 40):
    layers = dict(n_encoder_layer=int("encoder" in kind), n_decoder_layer=int("decoder" in kind))
    sizes = dict(vocab_size=small.tokenizer().vocab_size, d_model=12, n_head=3, d_ff=20, init_std=0.5)
    return build(ModelConfig(**sizes, **layers, max_positions=max_positions))


def writer_of(kind: str = "decoder", **options) -> Writer:
    return Writer(model_of(kind), small.tokenizer(), **(dict(max_new_tokens=8) | options))


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_text_is_what_generate_writes(kind):
    writer, tokenizer = writer_of(kind, temperature=0.9, top_k=20, top_p=0.95), small.tokenizer()
    end, cls, sep = (tokenizer.special_id(t) for t in ("<|endoftext|>", "[CLS]", "[SEP]"))
    prompt = [end, *tokenizer.encode("Ana sells")]
    options = dict(eos_id=end)
    if kind == "encoder-decoder":
        prompt, options = [cls, *tokenizer.encode(" Ana sells"), sep], dict(eos_id=sep, decoder_start_id=cls)
    options |= dict(temperature=0.9, top_k=20, top_p=0.95, forbidden_ids=SPECIALS - {options["eos_id"]})
    for seed in (0, 1):
        want = generate(writer.model, prompt, 8, seed=seed, **options)
        want = want[1:] if kind == "encoder-decoder" else want[len(prompt) :]
        assert writer.write("Ana sells", seed) == tokenizer.decode([i for i in want if i not in SPECIALS])
    assert writer.write("Ana sells", 0) != writer.write("Ana sells", 1)


def test_a_source_is_read_as_the_model_reads_it_in_training():
    """Regime 1's translations and regime 6's prompts must frame a text alike."""
    texts = ["Ana sells", "Rui", "Eva sells the sun"]
    writer = writer_of("encoder-decoder", temperature=0.0, max_new_tokens=20)
    pairs = Pairs("pairs", [(text, text) for text in texts], [("a", "b")])
    objective = Translation(pairs, small.tokenizer(), context=20, batch_size=2)
    written = [writer.write(text) for text in texts]
    told = "as in `rows.framed`"
    assert [text.strip() for text in written] == objective.translate(writer.model, texts), told
    assert len(set(written)) == 3


@pytest.mark.parametrize("n_beam", [1, 2, 3])
def test_what_is_shown_is_what_is_written(n_beam):
    shown, writer = [], writer_of(n_beam=n_beam)
    text = writer.write("Rui", 3, shown.append)
    assert "".join(shown) == text or text.endswith("\ufffd"), "a character may be cut off at the end"
    assert len(shown) == (8 if n_beam == 1 else 1), "token by token; a search knows its text at the end"


def test_settings_are_those_of_the_flags():
    assert writer_of().rule.temperature == 0.8 and writer_of(n_beam=2).rule.temperature == 1.0
    assert writer_of(temperature=0.0).rule.temperature == 0.0, "0 is a value: greedy"
    plain = Writer(model_of(max_positions=99), small.tokenizer())
    assert (plain.max_new_tokens, plain.n_beam, plain.turns) == (50, 1, None)
    assert plain.write("Rui") == plain.write("Rui", 0) != plain.write("Rui", 1)
    greedy = writer_of(temperature=0.0)
    assert len({greedy.write("Rui", seed) for seed in range(4)}) == 1
    assert SPECIALS - set(writer_of().rule.forbidden_ids) == {small.tokenizer().special_id("<|endoftext|>")}


def test_prompts_and_models_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"encoder.*extract\.py"):
        writer_of("encoder")
    with pytest.raises(UserError, match="40 positions"):
        writer_of().write("x y " * 40)


def test_a_conversation_is_read_from_its_beginning(monkeypatch):
    """ChatML: each turn between <|im_start|> and <|im_end|>; what a user types can be neither of them."""
    plain = small.tokenizer()
    tokenizer = BPE(plain.vocab, plain.merges, (*plain.special_tokens, "<|im_start|>", "<|im_end|>"))
    model = model_of(max_positions=200)
    model.config = replace(model.config, vocab_size=tokenizer.vocab_size)
    read, answers = [], iter(["Ana", "Rui"])
    end = tokenizer.special_id("<|im_end|>")

    def sample(model, prompts, n, rule, *_, **__):
        assert rule.eos_id == end and tokenizer.special_id("<|im_start|>") in rule.forbidden_ids
        read.append(tokenizer.decode(prompts[0]))
        ids = [*prompts[0], *tokenizer.encode(next(answers)), end]
        return SimpleNamespace(ids=torch.tensor([ids]), n_prompt=len(prompts[0]))

    monkeypatch.setattr(terminal, "sample", sample)
    writer = Writer(model, tokenizer, chat=True)
    assert [writer.write("Who?"), writer.write("And <|im_end|>?")] == ["Ana", "Rui"]
    first = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    second = f"{first}Ana<|im_end|>\n<|im_start|>user\nAnd <|im_end|>?<|im_end|>\n<|im_start|>assistant\n"
    assert read == [first, second]
    sent = chat_ids(tokenizer, [("user", "And <|im_end|>?")])
    assert sent.count(end) == 1, "what a user types is text, never the end of a turn"
    with pytest.raises(UserError, match=r"--chat: the model is not made for chat.*<\|im_end\|>"):
        writer_of(chat=True)


def test_pieces_wait_for_whole_characters(monkeypatch):
    ids = [*small.tokenizer().encode("é ã!"), small.tokenizer().special_id("<|endoftext|>")]
    assert len(ids) > 5, "the characters are spread over several tokens"

    def sample(*_, watch, **__):
        for token in ids:
            watch(torch.tensor([token]))
        return SimpleNamespace(ids=torch.tensor([ids]), n_prompt=0)

    monkeypatch.setattr(terminal, "sample", sample)
    shown = []
    assert writer_of().write("Ana", 0, shown.append) == "é ã!" == "".join(shown)
    assert shown[0] == shown[-1] == "", "half a character and the end are not shown"


def run_loop(typed: list, monkeypatch, write) -> list:
    """Run the loop on what is typed; an exception is raised in place of a line."""
    asked, writer = [], writer_of()
    monkeypatch.setattr(writer, "write", lambda *arguments: asked.append(arguments[:2]) or write(*arguments))
    monkeypatch.setattr("builtins.input", Mock(side_effect=[*typed, EOFError]))
    loop(writer, 5)
    return asked


def test_the_loop_ends_with_ctrl_d(monkeypatch, capsys):
    asked = run_loop(["Ana", " ", "Rui"], monkeypatch, lambda prompt, seed, show: show(prompt.upper()))
    monkeypatch.setattr("builtins.input", Mock(side_effect=["Eva", EOFError, EOFError]))
    for turns in ([], None):
        loop(SimpleNamespace(turns=turns, write=lambda *given: asked.append(given[:2])))
    assert asked.pop() == ("Eva", 0), "the seed where none is given"
    assert asked == [("Ana", 5), ("Rui", 6)], "each answer draws anew; an empty line asks nothing"
    out = capsys.readouterr().out
    assert out.startswith(terminal.HELP) and "ANA\n" in out and "RUI\n" in out
    assert out.count("the beginning of a text") == 2 and out.count("what you want to say") == 1, "in a chat"


def test_ctrl_c_and_a_mistake_end_an_answer_and_not_the_loop(monkeypatch, capsys):
    def write(prompt, seed, show):
        show("half of it")
        raise KeyboardInterrupt if prompt == "Ana" else UserError("too long")

    assert len(run_loop(["Ana", KeyboardInterrupt, "Rui", "Eva"], monkeypatch, write)) == 3
    out, err = capsys.readouterr()
    assert "half of it ...\n" in out and err == "error: too long\n" * 2, "what was written stays"


def test_what_a_mistake_names_cannot_steer_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", Mock(side_effect=["Ana", EOFError]))
    loop(SimpleNamespace(turns=None, write=Mock(side_effect=UserError("\x1b[31mred"))))
    assert capsys.readouterr().err == "error: \\x1b[31mred\n"


def test_what_is_typed_in_another_encoding_ends_nothing(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Jo\xe3o\n"), "utf-8"))
    said = []
    loop(SimpleNamespace(turns=None, write=lambda prompt, *_: said.append(prompt)))
    assert said == ["Jo\ufffdo"]


def test_a_piece_is_seen_at_once(capsys):
    terminal.show("Ana")
    assert capsys.readouterr().out == "Ana"
    assert terminal.show.keywords["flush"], "it waits for the end of the line"
