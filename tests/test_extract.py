"""Grades extract.py: the whole of regime 3 at tiny size, and one line for each mistake of the user."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import small
from small import check_error, results, succeed

import extract
import minilm
from minilm.extraction import layers, run
from minilm.extraction.features import embed
from minilm.extraction.layers import CONTROL, RESULTS
from minilm.extraction.run import read_examples
from minilm.plumbing import settings
from minilm.pretraining import run as pretraining

pytestmark = pytest.mark.filterwarnings("ignore:.* texts are longer")
TINY = "--device cpu"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with a model, labelled texts and a small world."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "WORLD_TRAIN", 24)
    monkeypatch.setattr(run, "WORLD_TEST", 12)
    minilm.save(small.model("masked"), small.tokenizer(), "model")
    rows = [(text, "red" if "red" in text else "other") for text in small.documents(30)]
    Path("rows.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    Path("plain.txt").write_text("\n\n".join(small.documents(5)), encoding="utf-8")


@pytest.fixture
def script(run_script):
    """Return a function that runs extract.py with flags: exit code, standard output, standard error."""

    def call(flags: str = "", *words: str, model: str = "--model model") -> tuple[int, str, str]:
        return run_script(extract, *f"{TINY} {model} {flags}".split(), *words)

    return call


def test_the_default_probes_the_newest_masked_run_on_the_world(script, monkeypatch):
    asked = []
    monkeypatch.setattr(pretraining, "newest_or_train", lambda *given: asked.append(given) or "model")
    out = succeed(script("--seed 3 --draws 2", model=""))
    assert asked == [("masked", 3, "cpu", "world", None)]
    found = results("runs/features")
    assert {*RESULTS, "seconds", "seed"} <= set(found) and found["seed"] == 3
    assert all(0 <= found[name] <= 1 for name in RESULTS)
    assert "labels per class" in out and "Layer x pooling" in out and "no labelled text" in out
    assert "Saved in runs/features" in out
    assert "Next: python extract.py --model model --data world --similar TEXT" in out
    with np.load("runs/features/features.npz") as saved:
        assert saved["embeddings"].shape == (48, 8) and saved["embeddings"].dtype == np.float32
        assert saved["split"].tolist() == ["train"] * 24 + ["test"] * 12 + ["unseen"] * 12
        model, tokenizer = minilm.load("model")
        expected = embed(model, tokenizer, saved["texts"].tolist())
        np.testing.assert_allclose(saved["embeddings"], expected, atol=1e-5)
    assert json.loads(Path("runs/features/settings.json").read_text())["draws"] == 2


@pytest.mark.parametrize("flags", ["--data rows.tsv --layer 0 --no-probe", "--data plain.txt --layer all"])
def test_flags_reach_the_vectors(script, flags):
    succeed(script(f"{flags} --pooling max --out a"))
    model, tokenizer = minilm.load("model")
    with np.load("a/features.npz") as saved:
        texts, vectors = saved["texts"].tolist(), saved["embeddings"]
        if "all" in flags:
            assert vectors.shape == (5, 2, 8) and "labels" not in saved.files
            np.testing.assert_allclose(vectors[:, 1], embed(model, tokenizer, texts, 1, "max"), atol=1e-5)
            vectors = vectors[:, 0]
        else:
            assert list(zip(texts, saved["labels"].tolist(), strict=True)) == read_examples("rows.tsv")
        np.testing.assert_allclose(vectors, embed(model, tokenizer, texts, 0, "max"), atol=1e-5)
    assert not set(RESULTS) & set(results("a"))


def test_the_users_labels_are_probed(script):
    out = succeed(script("--data rows.tsv --labels 1,50,all --draws 2 --probe"))
    assert "50 left out" in out and "no labelled text" not in out
    assert set(RESULTS) < set(results("runs/features"))
    Path("more.tsv").write_text("Ana likes two red pens.\tred\n", encoding="utf-8")
    succeed(script("--data rows.tsv --test more.tsv --labels all --out b"))
    with np.load("b/features.npz") as saved:
        assert saved["split"].tolist() == ["train"] * 30 + ["test"]
    assert results("b")["bag_of_words_accuracy"] == 1 and results("b")["labels_a_class"] == "all"
    Path("same.tsv").write_text("Ana likes a pen.\tred\nRui sat.\tred\n", encoding="utf-8")
    check_error(script("--data same.tsv"), "or --no-probe")
    out = succeed(script("--data same.tsv --no-probe"))
    assert "--data same.tsv --similar TEXT --no-probe" in out, "the next command would fail"


def test_what_to_try_next_can_be_typed_as_it_is_printed(run_script):
    Path("model").rename("my model")
    Path("plain.txt").rename("my texts.txt")
    out = succeed(run_script(extract, "--model", "my model", "--data", "my texts.txt", *TINY.split()))
    then = small.in_shell("python extract.py --model 'my model' --data 'my texts.txt' --similar TEXT")
    assert f"Next: {then}\n" in out


def test_similar_lists_the_nearest_texts(script):
    text = small.documents(5)[3]
    out = succeed(script("--data plain.txt", "--similar", text))
    lines = out.split(f"Nearest to {text!r}, by cosine:")[1].strip().splitlines()[:5]
    assert lines[0] == f"1.000  {text}", "the nearest text to a text is itself"
    cosines = [float(line.split()[0]) for line in lines]
    assert len(cosines) == 5 and cosines == sorted(cosines, reverse=True)


def test_token_vectors(script):
    minilm.save(small.model("causal"), small.tokenizer(), "other")
    Path("tags.conll").write_text("Ana B-person\nsat O\n\nRui B-person\n", encoding="utf-8")
    Path("tags.conll.gz").write_bytes(gzip.compress(Path("tags.conll").read_bytes()))
    succeed(script("--data tags.conll.gz --tokens --out zip"))
    succeed(script("--data tags.conll --tokens --layer 0 --out a", model="--model other"))
    with np.load("a/features.npz") as saved:
        assert saved["tokens"].tolist() == ["Ana", "sat", "Rui"] and saved["embeddings"].shape == (3, 8)
    assert results("a")["n_token"] == 3 and "selectivity" not in results("a")


def test_words_are_probed_beside_a_control_task(script, monkeypatch):
    monkeypatch.setattr(run, "WORLD_SENTENCES", 4)
    monkeypatch.setattr(layers, "probe_accuracy", lambda *given: 0.5)
    out = succeed(script("--tokens --probe --layer 0 --out a"))
    assert "control task" in out and {*CONTROL, "n_token"} < set(results("a"))


def test_a_decoders_first_token_is_explained(script):
    minilm.save(small.model("causal"), small.tokenizer(), "decoder")
    for pooling in ("cls", "last"):
        out = succeed(script(f"--data rows.tsv --pooling {pooling} --no-probe", model="--model decoder"))
        assert ("first token sees only itself" in out) == (pooling == "cls")


@pytest.mark.parametrize("why", ["--tokens", "--no-probe", "--data plain.txt"])
@pytest.mark.parametrize("flag", ["--plot", "--labels 1", "--draws 3"])
def test_what_tells_of_a_probe_is_refused_without_one_before_any_work(script, monkeypatch, flag, why):
    monkeypatch.setattr(settings, "need_matplotlib", lambda: None)
    monkeypatch.setattr(run, "start_model", lambda *_, **__: 1 / 0)
    told = "does not go with --tokens" if why == "--tokens" else "needs a probe: give texts with labels"
    check_error(script(f"{flag} {why}"), f"{flag} {told}")


BAD = {
    "--layer 2": ["--layer 2: the model has layers 0 (embeddings) to 1"],
    "--pooling meen": ["--pooling meen", "did you mean 'mean'"],
    "--data gap.tsv": ["gap.tsv, line 2: 'text' is empty"],
    "--model bare": ["bare: no tokenizer"],
    "--model modle": ["modle", "did you mean 'model'"],
    "--labels 2,0,all": ["--labels 0: must be 1 or more"],
    "--tokens --similar x": ["--similar x does not go with --tokens"],
    "--tokens --data nothing.txt": ["nothing.txt: no such file"],
    "--data world:portuguse": ["world:portuguse: no such file or folder"],
    "--data tags.conll": ["tags.conll: expected .txt", "; .conll needs extract.py --tokens"],
    "--layer all --pooling mean-last-4": ["--pooling mean-last-4 reads the last four layers: leave --layer"],
}


@pytest.mark.parametrize("flags", BAD)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(script, flags):
    Path("gap.tsv").write_text("Ana\tx\n \ty\n")
    Path("tags.conll").write_text("Ana O\n")
    minilm.save(small.model("masked"), None, "bare")
    check_error(script(flags), *BAD[flags])
    assert not Path("runs").exists(), "a run that could not begin leaves a folder"
