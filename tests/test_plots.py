"""Grades plots.py: which panels a folder gives, what stands in them, what is said where there are none."""

import importlib.util
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from small import check_error, succeed

import extract
import finetune
import minilm
import prompt
import reinforce
import train
from minilm import plots
from minilm.model.config import ModelConfig
from minilm.plumbing.folders import append_log, write_json
from minilm.tokenizer.rows import text_rows

PNG = b"\x89PNG"
PARTS = ("encoder.0.self", "decoder.0.self", "decoder.0.cross")  # of the attention of the model below


@pytest.fixture
def run(tmp_path):
    """A run folder with a log of two splits."""
    for step, loss in ((0, 7.0), (5, 6.0), (10, 5.5)):
        append_log(tmp_path, dict(step=step, split="validation", loss=loss))
    append_log(tmp_path, dict(step=5, split="train", loss=6.5, lr=0.1, tokens_per_second=9))
    return tmp_path


@pytest.fixture
def axes():
    """Axes that nobody sees."""
    return pytest.importorskip("matplotlib.figure").Figure().subplots()


def lines(axes) -> dict[str, list[tuple]]:
    """Return the points of each line by its label."""
    return {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in axes.lines}


def test_each_metric_has_a_panel_and_each_split_a_line(run, axes):
    write_json(run / "results.json", dict(unigram_loss=6.2))
    panels = plots.run_panels([run])
    assert [*panels] == ["loss", "lr"], "steps and speed are no figures of learning"
    panels["loss"](axes)
    found = lines(axes)
    assert found[f"{run.name}, train"] == [(5, 6.5)]
    assert found[f"{run.name}, validation"] == [(0, 7.0), (5, 6.0), (10, 5.5)]
    assert {y for _, y in found[f"{run.name}, unigram loss"]} == {6.2}, "the baseline is a level line"


def test_the_ways_of_reinforcement_are_points_of_kl_and_reward(tmp_path, axes):
    append_log(tmp_path, dict(step=1, split="train", loss=0.0, kl=0.5, reward=0.2))
    results = dict(reward_before=0.1, reward_after=1.2, kl=2.0, dpo_kl=1.5, dpo_reward=0.9, best_of_kl=0.6)
    write_json(tmp_path / "results.json", results | dict(best_of_reward=1.0, hacked_judge=0.0))
    plots.run_panels([tmp_path])["reward against KL"](axes)
    told = {text.get_text(): text.xy for text in axes.texts}
    points = {"start": (0, 0.1), tmp_path.name: (2.0, 1.2), "dpo": (1.5, 0.9), "best of": (0.6, 1.0)}
    assert told == points
    assert {text.xyann for text in axes.texts} == {(4, 4)}, "a name stands beside its point, not on it"
    assert [(0, 0.1), (0.5, 0.2)] in lines(axes).values(), "the way of the policy begins at the start"


def test_accuracy_stands_over_the_number_of_examples(tmp_path, axes):
    rows = {"keys, gold": {"0": [0.2, None], "4": [0.9, 0.1]}, "keys, shuffled": {"4": [0.3, None]}}
    write_json(tmp_path / "results.json", dict(rows=rows, chance=0.25))
    plots.run_panels([tmp_path])["accuracy against shots"](axes)
    handles, labels = axes.get_legend_handles_labels()
    assert {"keys, gold", "keys, shuffled", "chance"} == {*labels}
    data = handles[labels.index("keys, gold")][0].get_ydata()
    assert [*data] == [0.2, 0.9]
    low, high = axes.get_ylim()
    assert low == 0 and 1 < high < 1.1, "an accuracy of 1 can be seen, and little above it"


def test_tables_show_rows_and_columns_as_they_stand(tmp_path, axes):
    write_json(tmp_path / "results.json", dict(layers=dict(cls=[0.1, 0.2, 0.3], mean=[0.4, 0.5, 0.625])))
    table = 'truth\ta #1\t"b ""c"\na #1\t7\t2\n"b ""c"\t1\t8\n'
    (tmp_path / "confusion.tsv").write_text(table, encoding="utf-8")
    panels = plots.run_panels([tmp_path])
    panels["layer x pooling"](axes)
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert cells[1, 2] == "0.625" and cells[0, 2] == "0.300", "a row is a layer, a column a pooling"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["cls", "mean"]
    axes.clear()
    panels["true, taken for"](axes)
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "7", (1, 0): "2", (0, 1): "1", (1, 1): "8"}
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in labels] == ["a #1", 'b "c']


def test_numbers_are_white_on_the_darker_half_of_the_colours(axes):
    plots.draw_grid(np.array([[1, 3], [2, 2]]), "ab", "cd", axes)
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert colors == {"1": "k", "3": "w", "2": "k"}, "the middle is between the least and the greatest"


def test_components_are_the_directions_of_most_variance(axes):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 5)) * [0.1, 9.0, 0.1, 3.0, 0.1] + 7
    labels = np.array(["a", "b"] * 20)
    plots.draw_components(vectors, labels, axes)
    found = lines(axes)
    assert {*found} == {"a", "b"} and len(found["a"]) == 20
    assert len(axes.lines) == 2, "a label has one line: drawn for each vector, the legend has 40 rows"
    both = np.array(found["a"] + found["b"])
    shares = 100 * both.var(0) / vectors.var(0).sum()
    assert axes.get_xlabel() == f"{shares[0]:.0f} % of the variance", "that of the component among all"
    assert axes.get_ylabel() == f"{shares[1]:.0f} %" != "0 %"
    x, y = np.array(found["a"]).T
    for mine, column in ((x, 1), (y, 3)):
        likeness = abs(np.corrcoef(mine, vectors[labels == "a", column])[0, 1])
        assert likeness > 0.98, "the first component is the longest direction of the centred vectors"


@pytest.fixture
def model():
    """A small encoder-decoder, and its tokenizer."""
    shape = dict(n_encoder_layer=1, n_decoder_layer=1, d_model=8, n_head=2, d_ff=8, max_positions=32)
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=small.tokenizer().vocab_size, **shape)
    return minilm.build(config).eval(), small.tokenizer()


def test_attention_is_that_of_the_first_text_with_its_padding(model, axes):
    texts = ["sun", "the sun and the tree"]
    panels = plots.attention_panels(*model, texts)
    assert [*panels] == [f"{name}, head {h}" for name in PARTS for h in (0, 1)]
    n = int(text_rows(model[1], model[0].config, texts[:1]).lengths[0])  # real tokens
    for name, draw in panels.items():
        axes.clear()
        draw(axes)
        weights = axes.images[0].get_array()
        assert len(weights) > n and np.allclose(weights.sum(1), 1), "a row is the token that looks"
        if "encoder" in name or "cross" in name:
            assert np.allclose(weights[:, n:], 0), f"{name}: somebody looks at padding"
        else:
            assert np.allclose(np.triu(weights, 1), 0), f"{name}: somebody looks ahead"
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[n] == "[PAD]" and names == [name.strip() for name in names], "a space stands beside a name"
    assert not axes.texts, "colours alone: numbers of so many tokens cannot be read"


@pytest.fixture
def script(tmp_path, monkeypatch, run_script, model):
    """A function that runs plots.py on the folder `model`, in a folder of its own."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    minilm.save(*model, "model")
    return lambda *words: run_script(plots, *words)


def test_one_picture_of_a_model_s_panels(script):
    Path("texts.tsv").write_text("the sun\ta\nthe tree\tb\nthe sun and the rain\ta\n", encoding="utf-8")
    out = succeed(script("model", "--embeddings", "texts.tsv", "--positions", "--out", "both.png"))
    assert "Saved in both.png" in out
    assert Path("both.png").read_bytes().startswith(PNG)
    succeed(script("model", "--attention", "sun", "--panels", "encoder.0.self, head 1"))
    assert Path("model/picture.png").read_bytes().startswith(PNG)
    Path("other").mkdir()
    Path("model/log.jsonl").write_text('{"step": 1, "split": "train", "loss": 1.0, "lr": 0.1}\n')
    Path("other/log.jsonl").write_text(Path("model/log.jsonl").read_text())
    assert "Saved in model" in script("model", "other")[1], "the picture of several stands in the first"


@pytest.mark.parametrize("n, inches", [(1, (5.5, 3.8)), (2, (6.4, 2.7)), (4, (12.8, 2.7)), (5, (12.8, 5.4))])
def test_a_row_of_the_picture_has_four_panels(n, inches, tmp_path):
    pytest.importorskip("matplotlib")
    plots.draw({str(i): lambda axes: None for i in range(n)}, tmp_path / "a.png")
    size = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert size == tuple(round(110 * side) for side in inches), "width and height in dots, 110 an inch"


def test_one_flag_alone_draws_its_panel_from_the_model(script, monkeypatch, axes):
    Path("texts.tsv").write_text("the sun\ta\nthe tree\tb\n", encoding="utf-8")
    drawn = []
    monkeypatch.setattr(plots, "draw", lambda panels, *_: drawn.append(panels))
    for flags, names in (
        (["--embeddings", "texts.tsv"], ["two components"]),
        (["--attention", "sun"], [f"{part}, head {h}" for part in PARTS for h in (0, 1)]),
        (["--positions"], ["positions"]),
    ):
        assert script("model", *flags)[0] == 0 and [*drawn[-1]] == names
    drawn[-1]["positions"](axes)
    likeness = np.asarray(axes.images[0].get_array())
    assert likeness.shape == (32, 32) and np.allclose(likeness.diagonal(), 1), "cosines of all pairs"
    assert np.abs(likeness).max() < 1.001


def test_texts_without_labels_need_no_legend(script, monkeypatch, axes):
    Path("texts.txt").write_text("the sun\n\nthe tree\n\nthe rain\n", encoding="utf-8")
    drawn = []
    monkeypatch.setattr(plots, "draw", lambda panels, *_: drawn.append(panels))
    assert script("model", "--embeddings", "texts.txt")[0] == 0
    drawn[0]["two components"](axes)
    assert len(lines(axes).popitem()[1]) == 3 and not axes.get_legend_handles_labels()[1]


def test_a_panel_that_is_not_there_is_told_with_those_that_are(script, run):
    check_error(script(str(run), "--panels", "los"), "loss, lr")
    check_error(script("nowhere", "--out", "a.png"), "nowhere: no such folder")


def test_a_model_whose_attention_knows_the_order_has_no_positions(script):
    tokenizer = small.tokenizer()
    shape = dict(n_decoder_layer=1, d_model=8, n_head=2, d_ff=8, max_positions=32, positions="alibi")
    minilm.save(minilm.build(ModelConfig(vocab_size=tokenizer.vocab_size, **shape)), tokenizer, "alibi")
    check_error(script("alibi", "--positions"), "none")


@pytest.mark.parametrize("module, where, name", [
    (train, train.Pretraining, "run"),
    (finetune, finetune, "finetune"),
    (extract, extract, "extract_features"),
    (prompt, prompt, "answer_prompts"),
    (reinforce, reinforce, "Reinforcement"),
])  # fmt: skip
def test_the_plot_of_a_run_is_drawn_at_its_end(run_script, run, monkeypatch, module, where, name):
    drawn, ended = [], SimpleNamespace(run=lambda: run) if module is reinforce else run
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(plots, "draw", lambda panels, path: drawn.append(([*panels], path)))
    monkeypatch.setattr(where, name, lambda *_: ended)
    assert run_script(module)[0] == 0 and drawn == [], "nobody has asked for it"
    assert run_script(module, "--plot")[0] == 0 and drawn == [(["loss", "lr"], run / "picture.png")]
    plots.draw_at_end(SimpleNamespace(plot=True), None)
    assert len(drawn) == 1, "what came to no folder has no picture"


def test_without_matplotlib_the_extra_is_named_before_a_run_begins(run, monkeypatch, run_script, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for module in (plots, train, extract):
        words = [str(run)] if module is plots else ["--plot"]
        check_error(run_script(module, *words), 'pip install -e ".[plots]"')
    assert not Path("runs").exists(), "nothing is trained that could not be drawn"
