"""Grades prompt.py: a study and a text at tiny size, and one line for each mistake of the user."""

import io
import json
import sys
from pathlib import Path

import pytest
import small
from small import check_error, results, succeed

import prompt
from minilm.checkpoint import save
from minilm.in_context import terminal
from minilm.in_context.questions import FewShot
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.pretraining import run
from minilm.pretraining.run import PretrainingSettings, with_recipe
from minilm.texts import corpus as data
from minilm.tokenizer.bpe import BPE

ROWS = "".join(f"text {i}\t{'good' if i % 2 else 'bad'}\n" for i in range(12))
FEW = "--n-draw 2 --n-test 6 --device cpu"
SIZES = dict(d_model=8, n_head=2, d_ff=12)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with labelled files and a model of each kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "WORLD_VALIDATION", 4)
    Path("train.tsv").write_text(ROWS, encoding="utf-8")
    Path("test.tsv").write_text("x\tbad\ny\tgood\n", encoding="utf-8")
    sizes = SIZES | dict(vocab_size=small.tokenizer().vocab_size, max_positions=70)
    for kind in ("encoder", "decoder", "encoder-decoder"):
        layers = dict(n_encoder_layer=int("encoder" in kind), n_decoder_layer=int("decoder" in kind))
        save(build(ModelConfig(**sizes, **layers)), small.tokenizer(), kind)


@pytest.fixture
def script(run_script):
    """Return a function that runs prompt.py with flags: exit code, standard output, standard error."""

    def call(*flags: str) -> tuple[int, str, str]:
        words = [word for flag in flags for word in (flag.split() if flag.startswith("--") else [flag])]
        return run_script(prompt, *words)

    return call


def test_the_default_trains_its_model_and_asks_it(script, monkeypatch):
    def tiny(self):
        default = dict(objective="causal", model="gpt-alibi-tiny", seed=3, device="cpu")
        assert self.settings == with_recipe(PretrainingSettings(**default))
        few = with_recipe(PretrainingSettings(**default, steps=2, n_documents=60, vocab_size=500))
        return whole_run(FewShot(few, dict(d_model=8, n_head=4, d_ff=8)))

    whole_run = FewShot.run
    monkeypatch.setattr(FewShot, "run", tiny)
    out = succeed(script(FEW, "--seed 3"))
    assert "No finished runs/in-context" in out and "Saved in runs/in-context" in out
    assert "Saved in runs/prompt " in out and "No weight changed." in out
    for words in ("pairing never seen", "shuffled labels", "random labels", "no word", "stories only"):
        assert words in out, f"the table has no row of {words!r}"
    assert "nonce keys" in out and "\n   2  " in out, "the way over the training steps"
    found = results("runs/prompt")
    figures = {f"{name}_accuracy" for name in ("lookup", "story_item", "shuffled", "commonest_label")}
    assert set(found) == {"accuracy", "rows", "chance", "seconds", "seed"} | figures
    assert list(found["accuracy"]) == ["0", "1", "2", "4", "8"] and found["seed"] == 3
    out = succeed(script(FEW, "--shots 0,2"))
    assert "No finished" not in out and "Saved in runs/prompt-2" in out
    assert list(results("runs/prompt-2")["accuracy"]) == ["0", "2"]


def test_what_to_try_next_can_be_typed_as_it_is_printed(run_script):
    Path("decoder").rename("my model")
    asked = f"--data train.tsv --test test.tsv --shots 0 {FEW}".split()
    out = succeed(run_script(prompt, "--model", "my model", *asked))
    assert small.in_shell("Next: python prompt.py --model 'my model' --prompt TEXT\n") in out


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("score", ["sum", "mean", "calibrated"])
def test_a_user_s_files_are_asked(script, kind, score):
    out = succeed(script(f"--data train.tsv --test test.tsv --model {kind} --score {score} {FEW}"))
    assert "train.tsv" in out and "shuffled labels" in out and "majority class" in out
    found = results("runs/prompt")
    names = "accuracy rows chance shuffled_accuracy bag_of_words_accuracy seconds seed"
    assert set(found) == set(names.split())
    assert "a bag of words on the same examples" in out
    if kind == "decoder":
        assert list(found["accuracy"]) == ["0", "1", "2", "4"]
        assert "do not fit into 70 positions" in out
    settings = json.loads(Path("runs/prompt/settings.json").read_text())
    assert (settings["model"], settings["score"]) == (kind, score)


def test_of_few_examples_as_many_are_shown_as_there_are(script):
    Path("few.tsv").write_text(ROWS[: ROWS.index("text 5")], encoding="utf-8")
    assert "or there are none" in succeed(script(f"--data few.tsv --model decoder {FEW}"))
    assert list(results("runs/prompt")["accuracy"]) == ["0", "1", "2", "4"]


def test_the_nearest_examples_are_chosen_and_nothing_is_drawn(script):
    flags = FEW.replace("--n-draw 2 ", "--shots 0,2 ")
    out = succeed(script(f"--data train.tsv --test test.tsv --model decoder --select nearest {flags}"))
    assert "±" not in out and "the most common label of its examples" in out and "bag of words" not in out
    assert set(results("runs/prompt")["accuracy"]) == {"0", "2"}
    assert "commonest_label_accuracy" in results("runs/prompt")


def test_a_conversation_is_written_in_turns(script, monkeypatch):
    plain = small.tokenizer()
    turns = BPE(plain.vocab, plain.merges, (*plain.special_tokens, "<|im_start|>", "<|im_end|>"))
    sizes = SIZES | dict(vocab_size=turns.vocab_size, max_positions=90, n_decoder_layer=1)
    save(build(ModelConfig(**sizes)), turns, "talker")
    chat = "--model talker --chat --max-new-tokens 4 --prompt"
    assert "Who are you?" not in succeed(script("--precision bf16", chat, "Who are you?"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who?\nAnd you?\n"))
    assert succeed(script(f"{chat} -")).count("> ") == 3


def test_words_template_and_separator_reach_the_prompt(script):
    flags = f"--data train.tsv --model decoder --shots 1 --label-words good=fine bad=poor {FEW} --template"
    out = succeed(script(flags, "<{text}> {label}", "--separator", "\\n"))
    lines = out.splitlines()
    asked = next(i for i, line in enumerate(lines) if line.startswith("<text"))
    assert lines[asked].endswith(("> fine", "> poor")) and lines[asked + 1].startswith("<text")


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_prompt_is_written_to(script, kind):
    flags = f"--model {kind} --max-new-tokens 6 --prompt"
    texts = [script(flags, "Ana sells", f"--seed {seed}")[1] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("Ana sells") == (kind == "decoder")
    succeed(script(f"--model {kind} --max-new-tokens 4 --n-beam 2 --prompt", "Ana"))
    assert not Path("runs").exists(), "writing leaves no run behind"


def test_the_newest_gpt_writes_where_no_model_is_named(script, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "newest_or_train", lambda *what: asked.append(what) or Path("decoder"))
    succeed(script("--max-new-tokens 2 --seed 4 --prompt", "Ana"))
    succeed(script(f"--data train.tsv --shots 0 {FEW}"))
    assert asked == [("causal", 4, "auto", None, None), ("causal", 0, "cpu", "train.tsv", None)]


def test_the_terminal_is_a_loop(script, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Ana\n" + "x y " * 60 + "\nRui\n"))
    code, out, err = script("--model decoder --max-new-tokens 3 --prompt -")
    assert code == 0 and terminal.LEAVE in out
    assert err.startswith("error: ") and "70 positions" in err and err.count("\n") == 1


BAD = {
    ("--prompt", "x y " * 60): ["70 positions", "shorten"],
    ("--model encoder --prompt", "Ana"): ["encoder", "extract.py", "use a decoder (runs/causal)"],
    ("--model encoder --data train.tsv",): ["encoder", "extract.py"],
    ("--model decodr --prompt", "Ana"): ["decodr", "did you mean 'decoder'?"],
    ("--top-p 0 --prompt", "Ana"): ["top-p 0", "(0, 1]"],
    ("--n-beam 2 --top-k 3 --prompt", "Ana"): ["--top-k 3 does not go with --n-beam"],
    ("--max-new-tokens -3 --prompt", "Ana"): ["--max-new-tokens -3: must be 1"],
    ("--data train.tsv --shots 1,13",): ["--shots 13", "train.tsv", "10 examples"],
    ("--data train.tsv --shots 8",): ["70 positions", "examples"],
    ("--data train.tsv --template {text}{text-b}{label}",): ["needs {text}, then {label}, and no other"],
    ("--data missing.tsv",): ["missing.tsv"],
    ("--data train.tsv --score means",): ["did you mean 'mean'?"],
}


@pytest.mark.parametrize("flags", BAD)
def test_a_mistake_is_one_line(script, flags):
    model = [] if "--model" in flags[0] else ["--model decoder"]
    check_error(script(*model, *flags), *BAD[flags])
    assert not Path("runs").exists(), "a study that could not begin leaves a folder"
