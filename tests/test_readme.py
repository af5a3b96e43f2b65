"""Grades the READMEs: each command and each program in them runs, at a tiny size and without a network."""

import gzip
import importlib
import io
import json
import re
import shlex
import sys
from pathlib import Path

import published
import pytest

import minilm
from minilm import world
from minilm.extraction import layers
from minilm.extraction import run as extraction
from minilm.finetuning import run as finetuning
from minilm.model.config import PRESETS, ModelConfig
from minilm.plumbing.script import exit_code
from minilm.reinforcement import preferences
from minilm.texts import corpus as data
from minilm.texts import pairs
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS

ROOT = Path(__file__).parents[1]
REGIMES = ("pretraining", "continued", "extraction", "finetuning", "reinforcement", "in_context")
READMES = [ROOT / "README.md", *(ROOT / "minilm" / room / "README.md" for room in REGIMES)]
TEXTS = dict(zip(("newcomer", *REGIMES), (path.read_text(encoding="utf-8") for path in READMES), strict=True))
README = "\n".join(TEXTS.values()).replace("\\\n", " ")
COMMAND = re.compile(r"(?:python|torchrun --nproc-per-node \d+) ([a-z]+\.py[^`\n]*)")
# Flags behind a command that make it small; a later flag wins.
TINY = {
    "train.py": "--steps 2 --batch-size 4 --context 32 --accumulate 1",
    "finetune.py": "--steps 2 --batch-size 4 --lora-rank 2 --seeds 0",
    "reinforce.py": "--max-new-tokens 8 --reward-batch-size 4 --model gpt",
}
UNLESS = (  # the same, but without them where one of these words would refuse them
    ("finetune.py", "--n-examples 24", {"--data"}),
    ("extract.py", "--draws 1 --labels 1", {"--tokens", "notes.txt"}),
    ("prompt.py", "--n-draw 1 --n-test 4 --shots 0,1", {"--prompt"}),
    ("reinforce.py", "--steps 2 --batch-size 4", {"dpo"}),
    ("reinforce.py", "--dpo-steps 2", {"--no-contrast", "--ablate", "--reward-function"}),
    ("reinforce.py", "--reward-steps 2", {"--reward", "--reward-function"}),
    ("reinforce.py", "--n-pairs 12 --sampled-prompts 4", {"--preferences", "--prompts", "--reward-function"}),
)
ONLY_WITH = {"grpo": "--group-size 2", "--prompt": "--max-new-tokens 3"}  # others refuse them
SMALL_SHAPE = "--d-model 8 --n-head 2 --d-ff 8"


def commands(text: str) -> list[str]:
    """Return the commands that start a script and need no network, in order, each once.

    The variables of a loop of the shell are 8.
    """
    found = dict.fromkeys(re.sub(r"\$\w+", "8", match.strip()) for match in COMMAND.findall(text))
    return [command for command in found if "--help" not in command and "hf:" not in command]


def tiny(command: str) -> list[str]:
    """Return the words of a command with flags behind it that make it small."""
    words = [word for word in shlex.split(command) if word != "--compile"]
    more = [flags for word, flags in ONLY_WITH.items() if word in words]
    if "--predict" in words:
        return [*words, "--device", "cpu"]  # nothing is learnt
    more += [flags for script, flags, others in UNLESS if script == words[0] and not others & {*words}]
    words += shlex.split(" ".join([TINY.get(words[0], ""), "--device cpu --precision fp32", *more]))
    return words + (tiny_training(words) if words[0] == "train.py" else [])


def tiny_training(words: list[str]) -> list[str]:
    """Return what train.py needs besides, to be small: a small text, and a small shape of a preset."""
    more = [] if "--data" in words or "translation" in words else ["--data", "notes.txt"]
    more += [] if {"distillation", "--init", "--tokenizer"} & {*words} else ["--vocab-size", "280"]
    if "--model" in words:
        model = PRESETS[words[words.index("--model") + 1]]
        more += shlex.split(SMALL_SHAPE)
        more += ["--n-encoder-layer", "1"] if model.n_encoder_layer else []
        more += ["--n-decoder-layer", "1"] if model.n_decoder_layer else []
        more += ["--n-documents", "60"]
    return more + (["--steps", "3"] if "--resume" in words else [])


def write(text: str, *names: str) -> None:
    """Write a text into files of these names."""
    for name in names:
        Path(name).write_text(text, encoding="utf-8")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the user's files that the README names; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # reinforce.py looks for rules beside the user's files
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)  # that of another test
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))  # of the loop at the terminal
    for module in (data, pairs, extraction):
        monkeypatch.setattr(module, "WORLD_TRAIN", 60)
    monkeypatch.setattr(data, "WORLD_VALIDATION", 20)
    monkeypatch.setattr(extraction, "WORLD_TEST", 12)
    monkeypatch.setattr(extraction, "WORLD_SENTENCES", 12)
    monkeypatch.setattr(extraction, "control_table", with_quick_probes)
    monkeypatch.setattr(finetuning, "WORLD_VALIDATION", 6)
    monkeypatch.setattr(finetuning, "WORLD_TEST", 8)
    for name, n in dict(HELD_OUT_PAIRS=12, TRAIN_PROMPTS=15, TEST_PROMPTS=7).items():
        monkeypatch.setattr(preferences, name, n)
    texts = world.documents(60)
    Path("corpus").mkdir()
    write("\n\n".join(texts), "notes.txt", "shakespeare.txt", "corpus/a.txt")
    write("\n".join(texts), "captions.en", "captions.de")
    with gzip.open("more.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    for name in ("train.tsv", "test.tsv", "reviews.tsv", "more.tsv"):
        rows = world.labelled(24, seed=len(name))
        write("".join(f"{text[-30:]}\t{label}\n" for text, label in rows), name)  # two fit into 128 positions
    tagged = world.tagging(12, seed=0)
    lines = ("".join(f"{word} {tag}\n" for word, tag in zip(*one, strict=True)) for one in tagged)
    write("\n".join(lines), "tags.conll", "train.conll", "test.conll")
    files_of_the_later_regimes()
    published.folder(Path("all-MiniLM-L6-v2"), "bert")
    small_gpt(texts, "runs/in-context")
    small_gpt(texts, "gpt")
    small_gpt(texts, "SmolLM2-135M-Instruct", ("<|im_start|>", "<|im_end|>"))


def with_quick_probes(*given) -> tuple:
    """Return what `control_table` does, without its dozen of fits, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "probe_accuracy", lambda *sides: 0.5)
        return layers.control_table(*given)


def files_of_the_later_regimes() -> None:
    """Write what finetune.py and reinforce.py read in the README."""
    rows = (f"Who was it in {i}?\tHUM\nWhere is it in {i}?\tLOC\n" for i in range(12))
    write("".join(rows), "trec.train.tsv", "trec.test.tsv", "some.tsv", "few-4-0.tsv", "few-test.tsv")
    write("She picked a lily.\nHe saw a crab.\n", "new.tsv")
    question = dict(question="What did Ana find?", answers=[dict(text="a lamp", answer_start=10)])
    paragraphs = [dict(context=f"Ana found a lamp on day {i}.", qas=[question]) for i in range(12)]
    write(json.dumps(dict(data=[dict(paragraphs=paragraphs)])), "squad.json")
    files = {
        "instructions.jsonl": dict(prompt="Who found it?", response="NAME."),
        "others.jsonl": dict(prompt="Who lost it?", response="NAME."),
        "pairs.jsonl": dict(chosen="She was happy.", rejected="She was sad."),
    }
    for name, row in files.items():
        rows = (row | dict(prompt=f"Ana {i} was at the beach.") for i in range(20))
        lines = (json.dumps(one).replace("NAME", "Ana" if i % 2 else "Rui") for i, one in enumerate(rows))
        write("\n".join(lines), name)
    write("\n".join(f"Rui {i} was at the farm." for i in range(20)), "prompts.txt")
    rules = "def short_answer(prompt, answer):\n    return -len(answer)\n"
    write(f"{rules}def happy(prompt, answer):\n    return 'happy' in answer\n", "my_rules.py")


def small_gpt(texts: list[str], folder: str, more: tuple[str, ...] = ()) -> None:
    """Save a GPT with random weights, in which a whole story fits, as a finished run."""
    tokenizer = BPE.train(texts, 280, (*SPECIAL_TOKENS, *more))
    shape = dict(n_decoder_layer=1, d_model=8, n_head=2, d_ff=8, max_positions=320)
    minilm.save(minilm.build(ModelConfig(vocab_size=tokenizer.vocab_size, **shape)), tokenizer, folder)
    write("{}", f"{folder}/results.json")


def test_the_readme_has_its_two_commands():
    assert "    python -m pip install -e .\n    python train.py\n" in README
    assert "`python -m pytest`" in README
    assert "&&" not in README, "Windows' PowerShell 5 does not know it"


@pytest.mark.reliability
def test_every_command_and_every_program_of_the_readmes_runs(workplace, monkeypatch, capsys):
    assert len(commands(README)) >= 80, "the READMEs' commands were not found"
    for command in commands(README):
        script, *words = tiny(command)
        monkeypatch.setattr(sys, "argv", [script, *words])
        code = exit_code(importlib.import_module(script.removesuffix(".py")).main)
        assert code == 0, f"README command fails: {command}\n{capsys.readouterr().err[-500:]}"
    programs = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(programs) >= 8, "the READMEs' programs were not found"
    for program in programs:
        exec(compile(program, "README.md", "exec"), {})  # noqa: S102 - our own text


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_every_file_that_a_readme_names_exists(path):
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"`((?:minilm|tests)/[\w/]+\.py)`", text) if path.parent == ROOT else []
    rooms = re.findall(r"`((?:\.\./)?[a-z_/]+\.py)`", text) if path.parent != ROOT else []
    scripts = {"train.py", "extract.py", "finetune.py", "reinforce.py", "prompt.py"}
    assert names or rooms, "it names no file to read"
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert [name for name in rooms if name not in scripts and not (path.parent / name).exists()] == []


def test_readmes_are_short_enough_to_be_read():
    lines = {name: text.count("\n") for name, text in TEXTS.items()}
    newcomer, *rooms = lines.values()
    assert newcomer <= 250 and all(60 <= n <= 270 for n in rooms), lines


@pytest.mark.parametrize("room", REGIMES)
def test_a_room_has_a_picture_and_the_command_that_makes_it(room):
    ((name, command),) = re.findall(r"^!\[[^\]]+\]\((\w+\.png)\)\n`([^`]+)`", TEXTS[room], re.MULTILINE)
    content = (ROOT / "minilm" / room / name).read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 60_000, "a picture that a page loads at once"
    assert command.startswith("python -m minilm.plots ") and f"--out minilm/{room}/{name}" in command


SECTIONS = ("The formula", "Three files", "By hand", "On the screen", "Figures", "Questions", "Exercises")
SECTIONS += ("Where we differ from the papers",)


@pytest.mark.parametrize("room", REGIMES)
def test_a_regime_by_hand_fits_on_a_slide(room):
    programs = re.findall(r"```python\n(.*?)```", TEXTS[room], re.DOTALL)
    assert programs and all(p.count("\n") <= 25 for p in programs), "a regime by hand has at most 25 lines"
    for section in SECTIONS:
        assert f"\n## {section}" in TEXTS[room], f"{room}/README.md has no section {section!r}"
