"""Grades train.py: the whole of regime 1 at tiny size, and one line for each mistake of the user."""

import atexit
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import small
import torch
from small import check_error, contents, ctrl_c, succeed

import minilm
import train
from minilm.in_context.questions import FewShot
from minilm.model.config import PRESETS
from minilm.plumbing.folders import RUN_FILES, read_log
from minilm.pretraining import run
from minilm.pretraining.causal import Causal
from minilm.pretraining.masked import Masked
from minilm.pretraining.run import Distilling, Pretraining
from minilm.texts import corpus as data
from minilm.training.checkpoints import load_trainer

TINY = "--steps 4 --vocab-size 300 --d-model 8 --n-head 2 --d-ff 12 --batch-size 5 --context 32 --device cpu"
OWN_TOKENS = TINY.replace("--vocab-size 300", "")  # for --tokenizer


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with texts.txt; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n\n".join(small.documents(60)), encoding="utf-8")
    monkeypatch.setattr(data, "WORLD_TRAIN", 120)
    monkeypatch.setattr(data, "WORLD_VALIDATION", 30)


@pytest.fixture
def script(run_script):
    """Return a function that runs train.py with flags: exit code, standard output, standard error."""
    return lambda flags="", tiny=TINY: run_script(train, *tiny.split(), *flags.split())


def results(folder: str) -> dict:
    found = small.results(folder)
    assert all(math.isfinite(value) for value in found.values())
    return found


COMMON = {"parameters", "tokens_per_second", "loss_before", "loss_after", "bits_per_byte", "seconds", "seed"}
MASKED = COMMON | {"masked_accuracy", "masked_accuracy_baseline"}
PAIRS = {"next_sentence_accuracy", "shared_word_accuracy"}


def test_the_default_trains_bert_on_the_world(script):
    out = succeed(script("--vocab-size 700"))  # enough for the world's words to be tokens
    assert set(results("runs/masked")) == MASKED | PAIRS | {"slot_accuracy"}
    assert sorted(path.name for path in Path("runs/masked").iterdir()) == sorted(RUN_FILES)
    assert "world: 120 training documents" in out and "Saved in runs/masked" in out
    assert out.count("(it was: ") == 3, "three filled-in blanks"
    model, tokenizer = minilm.load("runs/masked")
    assert (model.config.kind, model.config.next_sentence, model.config.d_model) == ("encoder", True, 8)
    assert tokenizer.vocab_size == model.config.vocab_size == 700
    log = read_log("runs/masked")
    assert [line["step"] for line in log if line["split"] == "validation"] == [0, 1, 2, 3, 4]
    found = results("runs/masked")
    assert (log[0]["loss"], log[-1]["loss"]) == (found["loss_before"], found["loss_after"])
    assert found["parameters"] == model.n_parameters()
    settings = json.loads(Path("runs/masked/settings.json").read_text())
    assert (settings["objective"], settings["lr"], settings["d_model"]) == ("masked", 3e-3, 8)


def test_the_causal_objective_trains_gpt_and_knows_its_floor(script):
    out = succeed(script("--objective causal"))
    found = results("runs/causal")
    ngrams = [f"ngram_{n}_bits_per_byte" for n in range(6)]
    assert set(found) == COMMON | {"perplexity", "floor_bits_per_byte", *ngrams}
    assert found["ngram_0_bits_per_byte"] > found["ngram_3_bits_per_byte"] > found["floor_bits_per_byte"]
    assert found["perplexity"] == pytest.approx(math.exp(found["loss_after"]))
    assert 0 < found["floor_bits_per_byte"] < found["bits_per_byte"], "no model beats the grammar"
    assert "A text that the model wrote:" in out
    assert minilm.load("runs/causal")[0].config.kind == "decoder"


@pytest.mark.parametrize("objective", ["masked", "causal"])
def test_more_steps_learn_more(script, objective):
    succeed(script(f"--objective {objective} --data texts.txt --steps 60 --lr 0.02 --warmup 5"))
    found = results(f"runs/{objective}")
    assert found["loss_after"] < found["loss_before"] - 1
    assert "slot_accuracy" not in found and "floor_bits_per_byte" not in found, "only the world knows these"


def test_running_a_command_twice_gives_two_equal_runs(script):
    for _ in range(2):
        out = succeed(script("--data texts.txt --dropout 0.1"))
    assert "runs/masked-2" in out
    first, second = (minilm.load(folder)[0].state_dict() for folder in ("runs/masked", "runs/masked-2"))
    small.assert_equal(first, second, "the seed does not fix the run")
    script("--data texts.txt --seed 1")
    other = minilm.load("runs/masked-3")[0].state_dict()
    assert not torch.equal(first["tokens.weight"], other["tokens.weight"])


def test_without_next_sentence_there_are_no_pairs_and_no_dead_weights(script):
    out = succeed(script("--data texts.txt --no-next-sentence"))
    config = minilm.load("runs/masked")[0].config
    assert (config.next_sentence, config.pooler, config.n_segments) == (False, False, 0)
    assert set(results("runs/masked")) == MASKED
    assert "next sentence" not in out


@pytest.mark.parametrize("objective", ["masked", "masked --no-next-sentence", "denoising"])
def test_sentences_that_do_not_fit_are_counted_and_told_once(script, objective):
    out = succeed(script(f"--data texts.txt --context 12 --objective {objective}"))
    assert out.count("sentences to fit --context 12 tokens") == 1
    assert "to fit" not in succeed(script(f"--data texts.txt --context 64 --objective {objective}"))


def test_whole_words_and_a_ready_tokenizer(script):
    small.tokenizer().save("tokens.json")
    succeed(script("--data texts.txt --whole-word --tokenizer tokens.json", OWN_TOKENS))
    assert minilm.load("runs/masked")[1].vocab == small.tokenizer().vocab


def test_an_interrupted_run_goes_on(script):
    succeed(script("--data texts.txt --out whole"))
    with ctrl_c(Masked, at=1):
        code, _, err = script("--data texts.txt --out parts --overwrite")
    assert code == 130
    assert err.splitlines()[-1].endswith("step 2 of 4, saved; to go on: --resume --out parts")
    assert not Path("parts/results.json").exists(), "a run that was stopped is not finished"
    succeed(script("--resume --out parts --log-every 1 --norm-eps 1e-5", tiny=""))  # the rest: as saved
    small.assert_equal(*(minilm.load(folder)[0].state_dict() for folder in ("parts", "whole")))
    assert [line["step"] for line in read_log("parts") if line["split"] == "train"] == [3, 4]
    settings = json.loads(Path("parts/settings.json").read_text())
    assert (settings["norm_eps"], settings["log_every"], settings["d_ff"]) == (1e-5, 1, 12)


def test_a_continued_run_goes_on_by_its_own_command(script):
    minilm.save(small.model("causal"), small.tokenizer(), "gpt")  # so that no flag names the objective
    small_run = "--data texts.txt --steps 3 --batch-size 5 --context 24 --device cpu"
    first, own = f"{small_run} --objective causal", f"{small_run} --init gpt"
    succeed(script(first, tiny=""))
    with ctrl_c(Causal, at=1):
        assert script(first, tiny="")[0] == script(own, tiny="")[0] == 130
    before = contents("runs/causal-2")
    succeed(script(f"{own} --resume", tiny=""))
    assert Path("runs/causal-continued/results.json").exists(), "it went on with another run"
    assert contents("runs/causal-2") == before


@pytest.mark.parametrize(("flags", "kind"), [
    ("--objective causal --data world:few-shot", FewShot),
    ("--objective causal --data world:few-shot-no-repeats", FewShot),
    ("--objective causal --data world", Pretraining),
    ("--objective masked --data world:few-shot", Pretraining),  # BERT reads no examples
    ("--objective distillation --teacher runs/masked", Distilling),
])  # fmt: skip
def test_few_shot_documents_are_for_gpt(script, monkeypatch, flags, kind):
    seen = []
    monkeypatch.setattr(Pretraining, "run", lambda self: seen.append(type(self)))
    monkeypatch.setattr("minilm.pretraining.run.load_config", lambda teacher: PRESETS["bert-tiny"])
    assert script(flags, tiny="")[0] == 0 and seen == [kind]


def test_of_several_processes_the_first_alone_speaks(script, monkeypatch):
    for name, value in dict(RANK=1, WORLD_SIZE=2).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(atexit, "register", lambda leave: None)  # pytest ends as ever
    dist, asked = torch.distributed, []
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(None, 1, 2)]))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda *_, **__: None)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda box: box.__setitem__(0, Path("runs/masked")))
    # has its own test with real processes
    monkeypatch.setattr(run, "train", lambda *_, patience: asked.append(1) or {}["before"])
    with pytest.raises(KeyError, match="before"):
        script("--data texts.txt")
    assert asked and not Path("runs").exists()


def test_the_script_itself_ends_with_its_exit_code():
    path = Path(train.__file__)
    command = [sys.executable, str(path), "--data", "mising.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: mising.txt") and done.stderr.count("\n") == 1


BAD_TEXT = {
    "blank.txt": (b"\n \n\t\n", ["found 0 training and 0 validation documents"]),
    "word.txt": (b"word", ["at least two different documents"]),
    "binary.txt": (b"abc\x00\x01\x02", ["binary file", "offset 3"]),
    "table.xlsx": (b"PK", [".txt, .jsonl"]),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_a_file_that_is_no_text_is_named(script, name):
    content, words = BAD_TEXT[name]
    Path(name).write_bytes(content)
    check_error(script(f"--data {name}"), name, *words)
    assert not Path("runs").exists(), "a run that could not begin leaves a folder"


@pytest.mark.parametrize("objective", ["masked", "causal"])
@pytest.mark.parametrize("context", [8, 32, 128])
def test_a_text_shorter_than_one_context_is_named(script, objective, context):
    Path("short.txt").write_text("Ana sang.\n\nRui sat.")
    outcome = script(f"--data short.txt --objective {objective} --context {context}")
    check_error(outcome, "short.txt", "--context")


def test_a_file_that_is_not_there_is_named(script):
    check_error(script("--data text.txt"), "text.txt", "no such file", "did you mean 'texts.txt'?")
    check_error(script("--data wrld"), "did you mean 'world'?")
    check_error(script("--data texts.txt world"), "only files and folders can be joined")
    check_error(script("--tokenizer tokens.json --data texts.txt", OWN_TOKENS), "tokens.json")
    check_error(script("--tokenizer tokens.json --data texts.txt"), "--vocab-size 300 does not go with --tok")


def test_errors_replace_reads_on(script):
    texts = small.documents(60)
    Path("latin.txt").write_text("\n\n".join([*texts, "Ana found a café."]), encoding="latin-1")
    check_error(script("--data latin.txt"), "latin.txt: byte", "--errors replace")
    succeed(script("--data latin.txt --errors replace"))


def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(script):
    def resume(flags: str) -> tuple[int, str, str]:
        return script(f"--resume --out mine {flags}", "--device cpu")

    succeed(script("--data texts.txt --out mine"))
    before = contents("mine")
    for flags, *told in (
        ("--d-model 16", "trainer.pt does not fit the model"),
        ("--optimizer muon", "1 missing (momentum)", "--optimizer muon (before: adamw)"),
        ("--vocab-size 999", "--vocab-size 999 (before: 300): a resumed run keeps what it began with"),
        ("--tokenizer a.json", "--tokenizer a.json (before: none): a resumed run"),
        ("--new-rows zeros", "--new-rows zeros (before: mean): a resumed run"),
        ("--replay 0.5", "--replay 0.5 needs --init"),
    ):
        code, _, err = resume(flags)
        assert code == 2 and all(words in err for words in told), err
        assert contents("mine") == before
    code, _, err = resume("--steps 5 --vocab-size 300 --dropout 0.2")
    assert code == 0 and "--vocab" not in err, err
    assert "--steps 5 (before: 4)" in err and "--dropout 0.2 (before: the preset's)" in err


def test_muon_is_a_flag_that_a_resumed_run_keeps(script):
    flags = "--objective causal --data texts.txt --optimizer muon --out mine"
    succeed(script(flags))
    succeed(script("--resume --out mine --steps 6", "--device cpu"))
    moments = load_trainer("mine")["optimizer"]
    assert set(moments["decoder.blocks.0.self_attention.q.weight"]) == {"momentum"}
    assert "exp_avg" in moments["tokens.weight"]


def test_a_start_keeps_its_model_and_its_tokenizer(script):
    minilm.save(small.model("masked"), small.tokenizer(), "runs/masked")
    for flags in ("--model gpt-tiny", "--tokenizer t.json", "--d-model 8", "--vocab-size 300"):
        found = script(f"--init runs/masked --data texts.txt {flags}", "--device cpu")
        check_error(found, flags.split()[0], "with --init, model and tokenizer are fixed; leave it out")


BAD_FLAGS = {
    "--vocab-size 261": ["261", "262"],
    "--d-model 10 --n-head 4": ["--d-model 10", "--n-head 4"],
    "--context 129": ["--context 129", "128", "--max-positions 129"],
    "--context 4": ["--context 4", "8 or more"],
    "--mask-share 0": ["--mask-share 0", "above 0"],
    "--step 3": ["--step", "did you mean '--steps'?"],
    "--objective casual": ["--objective casual", "did you mean 'causal'?"],
    "--model gpt-tiny": ["--objective masked", "encoder", "gpt-tiny", "decoder"],
    "--model distilbert-tiny": ["distilbert-tiny has no head, or segments", "--no-next-sentence"],
    "--steps 0": ["--steps 0", "1 or more"],
    "--batch-size 2 --accumulate 3": ["--batch-size 2: at least 3, processes times --accumulate"],
    "--batch-size 0": ["--batch-size 0", "1 or more"],
    "--seed -1": ["--seed -1", "0 or more"],
    "--dropout 1": ["--dropout 1"],
    "--n-decoder-layer 1": ["encoder-decoder"],
    "--resume": ["--resume", "runs/masked"],
    "--resume --out nowhere": ["nowhere"],
    "--device cuda": ["--device cuda", "--device cpu"],
    "--lr 1e38 --warmup 0": ["not finite", "runs/masked", "--lr"],
}


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_flag_that_cannot_be_is_named(script, monkeypatch, flags):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = script("--data texts.txt " + flags)
    if "1e38" in flags:  # the evaluation before the first step is told on the same channel
        assert err.startswith("step     0 ")
        err = err[err.index("error: ") :]
    check_error((code, out, err), *BAD_FLAGS[flags])
    assert Path("runs").exists() == ("1e38" in flags), "a run that could not begin leaves a folder"


def test_an_existing_folder_is_kept_unless_overwritten(script):
    succeed(script("--data texts.txt --out mine"))
    before = contents("mine")
    check_error(script("--data texts.txt --out mine"), "mine", "--resume", "--overwrite")
    assert contents("mine") == before, "something was lost"
    succeed(script("--data texts.txt --out mine --overwrite --seed 1"))
    assert results("mine")["seed"] == 1


def test_a_damaged_or_foreign_checkpoint_is_named_and_kept(script):
    succeed(script("--data texts.txt --out mine"))
    path = Path("mine/trainer.pt")
    whole = path.read_bytes()
    torch.save({"step": 1, "model": small.model("causal").state_dict()}, "other.pt")
    for content in (whole[:1000], Path("other.pt").read_bytes()):
        path.write_bytes(content)
        check_error(script("--data texts.txt --out mine --resume"), "mine", "trainer.pt")
        assert path.read_bytes() == content


@pytest.mark.parametrize("objective", ["masked", "causal", "denoising"])
def test_a_batch_is_shown_and_nothing_is_trained(script, objective):
    out = succeed(script(f"--objective {objective} --show-batch 2 --out here"))
    assert "row 1" in out and "row 2" not in out, "as many rows as asked for"
    assert "input_ids" in out and "labels" in out
    assert sorted(path.name for path in Path().iterdir()) == ["texts.txt"], "a folder is left behind"
