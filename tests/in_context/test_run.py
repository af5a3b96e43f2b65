"""Grades in_context/run.py: the GPT that reads few-shot documents, and the questions of a user's files."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small

import minilm
from minilm.in_context import questions as in_context
from minilm.in_context import run as in_context_run
from minilm.in_context.questions import CHANCE, FewShot
from minilm.in_context.run import PromptSettings, answer_prompts, make_study, report
from minilm.in_context.study import Study
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import append_log
from minilm.pretraining import run
from minilm.pretraining.run import PretrainingSettings, with_recipe


def settings(**changes) -> PretrainingSettings:
    short = dict(objective="causal", data=("world:few-shot-no-repeats",), n_documents=40, vocab_size=400)
    return with_recipe(PretrainingSettings(**short | dict(steps=1, batch_size=5, device="cpu") | changes))


def test_gpt_on_few_shot_documents_is_told_from_other_gpts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = FewShot(settings(), dict(d_model=8, n_head=2, d_ff=12)).run()
    out = capsys.readouterr().out
    assert folder == Path("runs/in-context"), "runs/causal is the GPT of the stories"
    assert "lookup, key that is no word" in out and out.endswith(f"Next: python prompt.py --model {folder}\n")
    assert run.newest_or_train("in-context", kind=FewShot) == folder


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return the study of train.tsv, sorted by label, and test.tsv, with other flags if given."""
    monkeypatch.chdir(tmp_path)
    rows = [f"text {i}\t{'good' if i < 12 else 'bad'}" for i in range(20)]
    Path("train.tsv").write_text("\n".join(rows), encoding="utf-8")
    Path("test.tsv").write_text("label\ttext\nbad\tx\ngood\ty\nbad\tz\n", encoding="utf-8")

    def study(**changes):
        given = dict(data="train.tsv", test="test.tsv", template="{text} {label}", n_draw=2) | changes
        return make_study(PromptSettings(**given))

    return study


def test_the_world_is_asked_its_three_tasks():
    study = make_study(PromptSettings(seed=5, n_draw=2, n_test=7, score="mean"))
    assert list(study.draws) == list(in_context.TASKS) and (study.n_draw, study.score) == (2, "mean")
    assert study.draws["nonce_keys"](3, 1) == in_context.questions("nonce_keys", 3, 7, 5, start=7)
    assert not set(study.draws["nonce_keys"](3, 0)) & set(study.draws["nonce_keys"](3, 1))
    assert study.chance == 0.125


def test_the_examples_and_the_texts_come_from_their_files(files):
    study = files()
    asked = study.draws["files"](3, 0)
    assert [(q.text, q.label) for q in asked] == [("x", "bad"), ("y", "good"), ("z", "bad")]
    assert all(text.startswith("text ") for text, _ in asked[0].examples) and len(asked[0].examples) == 3
    assert study.draws["files"](3, 1)[0].examples != asked[0].examples, "another draw, other examples"
    assert files(seed=1).draws["files"](3, 0) == study.draws["files"](3, 1)
    assert list(study.prompt_format.words) == ["bad", "good"]
    assert study.prompt_format.separator == "\n", "backslash n is typed"
    assert study.chance == pytest.approx(1 / 3), "the commonest label of the examples, not of the tests"
    assert files(n_test=3).draws["files"](3, 0) == asked, "as many as there are keep their order"
    draw = files(n_test=2).draws["files"]
    assert [q.text for q in draw(0, 0)] == [q.text for q in draw(1, 5)] and len(draw(0, 0)) == 2


def test_without_a_test_file_some_rows_are_held_back(files):
    asked = files(test=None).draws["files"](16, 0)
    assert len(asked) == 4
    texts, labels = map(set, zip(*asked[0].examples, strict=True))
    assert not {q.text for q in asked} & texts, "a text to ask is no example"
    assert labels == {"good", "bad"}, "a sorted file was cut at its end"
    rows = [f"text {i}\t{'good' if i < 10 else f'rare {i}'}\n" for i in range(20)]
    Path("train.tsv").write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    assert {q.label for q in files(test=None).draws["files"](1, 0)} == {"good"}, "the only one is an example"


def test_the_nearest_stand_last(files, monkeypatch):
    vectors = {f"text {i}": [np.cos(i / 20), np.sin(i / 20)] for i in range(20)}
    vectors |= dict(x=vectors["text 3"], y=vectors["text 15"], z=vectors["text 0"])
    embed = lambda model, tokenizer, texts: np.array([vectors[text] for text in texts])
    monkeypatch.setattr(in_context_run, "embed", embed)
    flags = dict(data="train.tsv", test="test.tsv", select="nearest", shots=(0, 2))
    draw = in_context_run.nearest_draws(PromptSettings(**flags), None, None)
    asked = {q.text: [text for text, _ in q.examples] for q in draw(2, 0)}
    assert {text: told[-1] for text, told in asked.items()} == dict(x="text 3", y="text 15", z="text 0")
    assert asked["z"] == ["text 1", "text 0"] and draw(0, 0)[0].examples == ()
    assert {q.text: q.label for q in draw(1, 5)} == dict(x="bad", y="good", z="bad")
    draw = in_context_run.nearest_draws(PromptSettings(**flags | dict(shots=None)), None, None)
    assert [len(q.examples) for q in draw(8, 0)] == [8] * 3, "the most that are asked of it"
    assert {dict(q.examples)["text 15"] for q in draw(1, 0) if q.text == "y"} == {"bad"}


def test_the_least_that_can_be_asked_and_what_goes_together():
    PromptSettings(n_draw=1, n_test=1, shots=(0,))
    PromptSettings(n_beam=1, max_new_tokens=1, prompt="-", chat=True)
    PromptSettings(prompt="Ana", temperature=0.7, top_k=3, top_p=0.5)
    PromptSettings(data="a", test="b", select="nearest")


@pytest.mark.parametrize("flags, message", [
    (dict(chat=True), "--chat needs --prompt"),
    (dict(select="nearest"), "--select nearest needs --data"), (dict(test="a"), "--test a needs --data"),
    (dict(label_words=("a=b", "c=d")), "--label-words a=b c=d needs --data"),
    (dict(prompt="a", data="b"), "--data b does not go with --prompt"),
    (dict(prompt="a", out="b"), "--out b does not go with --prompt"),
    (dict(prompt="a", out="b", overwrite=True), "--out b does not go with --prompt"),
    (dict(prompt="a", overwrite=True), "--overwrite does not go with --prompt"),
    (dict(data="b", select="nearest", n_draw=9), "--n-draw 9 has no effect with --select nearest"),
    (dict(prompt="-", shots=(4, 8)), "--shots 4,8 does"), (dict(prompt="a", score="mean"), "--score mean"),
    (dict(prompt="a", test="t.tsv"), "--test t.tsv does not go with --prompt"),
    (dict(prompt="a", n_draw=3), "--n-draw 3 does not"), (dict(prompt="a", n_test=9), "--n-test 9 does not"),
    (dict(top_p=0.5), "--top-p 0.5 needs --prompt"), (dict(prompt=" "), "--prompt is empty"),
    (dict(max_new_tokens=9), "--max-new-tokens 9 needs --prompt"),
    (dict(temperature=-1.0), "temperature"), (dict(top_k=0), "top-k"), (dict(top_p=1.5), "top-p"),
    (dict(n_draw=0), "--n-draw 0: must be"), (dict(n_test=0), "--n-test 0: must be"),
    (dict(shots=(-1,)), "--shots -1: must be"), (dict(prompt="-", n_beam=0), "--n-beam 0: must be"),
    (dict(prompt="-", max_new_tokens=0), "--max-new-tokens 0: must be"),
    (dict(prompt="-", n_beam=2, temperature=0.7), "--temperature 0.7 does not go with --n-beam: no draws"),
    (dict(prompt="-", n_beam=2, top_k=3), "--top-k 3 does not go with --n-beam: no draws"),
    (dict(prompt="-", n_beam=2, top_p=0.5), "--top-p 0.5 does not go with --n-beam: no draws"),
])  # fmt: skip
def test_flags_that_do_not_go_together_or_are_out_of_range_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        PromptSettings(**flags)


def test_labels_get_their_words(files):
    assert files().prompt_format.words == {"bad": "bad", "good": "good"}
    assert files(label_words=("bad=poor=er",)).prompt_format.words == {"bad": "poor=er", "good": "good"}
    found = files(label_words=("bad=no,gud=x,good=yes, sir",)).prompt_format.words
    assert found == {"bad": "no,gud=x", "good": "yes, sir"}, "a comma before another label's name begins it"
    Path("equal.tsv").write_text("a\tx\nb\tx=1\nc\tx=1=y\nd\tx\ne\tx=1\n", encoding="utf-8")
    found = files(data="equal.tsv", test="equal.tsv", label_words=("x=1=one", "x=1=y=two", "x=none"))
    assert found.prompt_format.words == {"x": "none", "x=1": "one", "x=1=y": "two"}, "a label may hold a sign"
    for wrong in ("good", "gud=x", "=x"):
        with pytest.raises(UserError, match=f"--label-words {wrong}.*bad, good"):
            files(label_words=(wrong,))


def test_files_that_cannot_be_asked_are_named(files):
    assert len(files(shots=(20,)).draws["files"](20, 0)[0].examples) == 20
    with pytest.raises(UserError, match=r"--shots 21: train\.tsv gives only 20 examples"):
        files(shots=(0, 21))
    rows = ["a\tgood", "b\tbad", "c\tgood", "d\tbad", "e\tgood"]
    Path("five.tsv").write_text("\n".join(rows), encoding="utf-8")
    asked = files(data="five.tsv", test=None, shots=(4,)).draws["files"](4, 0)
    assert len(asked) == 1, "a fifth of five is asked"
    Path("four.tsv").write_text("\n".join(rows[:4]), encoding="utf-8")
    with pytest.raises(UserError, match=r"four\.tsv: 4 rows are too few to hold out some: give --test"):
        files(data="four.tsv", test=None, shots=(1,))
    Path("test.tsv").write_text("x\tgood\ny\tmixed\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"test\.tsv: .*'mixed'.*train\.tsv \(bad, good\)"):
        files()


@pytest.fixture
def reader(files, decoder):
    """A model and its tokenizer, saved in the folder "model", with the log of a training that asked tasks."""
    model, tokenizer = decoder(small.tokenizer().vocab_size), small.tokenizer()
    minilm.save(model, tokenizer, "model")
    append_log(Path("model"), dict(step=3, split="validation", loss=1) | dict.fromkeys(in_context.TASKS, 0.5))
    append_log(Path("model"), dict(step=4, split="train", loss=1))
    return model, tokenizer


def test_the_figures_are_those_of_most_examples(reader, monkeypatch, capsys):
    rows = [("new_pairings", c) for c in ("gold", "shuffled", "random")]
    rows += [("nonce_keys", "gold"), ("story_items", "gold")]
    shots = {"gold": (0, 4, 2), "shuffled": (4, 2), "random": (4, 2)}
    found = {(t, c): {k: (10 * i + k, None) for k in shots[c]} for i, (t, c) in enumerate(rows)}
    asked = []
    monkeypatch.setattr(Study, "measure", lambda study, model, tokenizer, shots: asked.append(shots) or found)
    settings = PromptSettings(model="model", n_test=1, shots=(0, 4, 2))
    report(settings, make_study(settings), *reader, 0.0)
    for name, fitting in (("fit", (1, 2)), ("none", ())):
        monkeypatch.setattr(Study, "shots_that_fit", lambda *_, fitting=fitting: fitting)
        report(replace(settings, shots=None, out=name), make_study(settings), *reader, 0.0)
    assert asked == [(0, 4, 2), (1, 2), (0,)], "those that are named, else as many as fit"
    told = capsys.readouterr().out.partition("Accuracy after 8 examples, while model was trained:\n\n")[2]
    head, _, line = told.splitlines()[:3]
    assert head == "step  new pairings  nonce keys  story items" and line.split() == ["3"] + ["0.500"] * 3
    written = json.loads(Path("runs/prompt/results.json").read_text())
    assert written.pop("accuracy") == {"0": 0, "4": 4, "2": 2} and written.pop("seconds") > 0
    rows = written.pop("rows")
    assert rows["new_pairings, gold"] == {"0": [0, None], "4": [4, None], "2": [2, None]} and len(rows) == 5
    assert written.pop("chance") == pytest.approx(CHANCE)
    assert written == dict(seed=0, shuffled_accuracy=14, lookup_accuracy=34, story_item_accuracy=44)
    sums = iter("ab")
    monkeypatch.setattr(in_context_run, "checksum", lambda model: next(sums))
    with pytest.raises(RuntimeError, match="moved: a before, b after"):
        report(settings, make_study(settings), *reader, 0.0)


def test_texts_asked_that_stand_among_the_examples_are_told(files, capsys):
    files()
    assert "also in" not in capsys.readouterr().out
    Path("test.tsv").write_text("text 3\tbad\ntext 19\tbad\ntext 19\tbad\nnew\tgood\n", encoding="utf-8")
    files()
    assert "test.tsv: 3 of 4 texts are also in train.tsv" in capsys.readouterr().out
    files(test=None)
    assert "also in" not in capsys.readouterr().out, "what is held back has no text in common with the rest"


@pytest.mark.parametrize("n_shot", [(4,), (5,), None])
def test_that_more_examples_do_not_fit_is_said_where_none_were_asked_for(n_shot, reader, monkeypatch, capsys):
    found, shown = {("files", "gold"): {0: (0.5, None)}}, []
    monkeypatch.setattr(Study, "measure", lambda *_: found)
    monkeypatch.setattr(Study, "examples", lambda study, model, tokenizer, k: shown.append(k) or ["one"])
    monkeypatch.setattr(Study, "shots_that_fit", lambda *_: (0, 1, 2, 4))
    settings = PromptSettings(data="train.tsv", test="test.tsv", model="model", shots=n_shot)
    report(settings, make_study(settings), *reader, time.perf_counter())
    assert shown == [4], "four examples are enough to read"
    out = capsys.readouterr().out
    told = "More do not fit into 64 positions, or there are none.\n\none\n"
    assert (told in out) == ("More" in out) == (n_shot is None), "before the examples"
    assert "was trained" not in out, "what was asked on the way was no question of this file"
    assert json.loads(Path("runs/prompt/results.json").read_text())["seconds"] < 60
    if n_shot is None:
        monkeypatch.setattr(Study, "shots_that_fit", lambda *_: in_context_run.SHOTS)
        report(settings, make_study(settings), *reader, 0.0)
        assert "do not fit" not in capsys.readouterr().out, "all of them fit"


@pytest.mark.parametrize("changes, name, kind, shown", [
    (dict(), "in-context", FewShot, None), (dict(data="train.tsv", shots=(2,)), "causal", None, None),
    (dict(prompt="Ana"), "causal", None, "Ana"), (dict(prompt="Ana", chat=True), "causal", None, ""),
    (dict(prompt="-", compile=True), "causal", None, None),
    (dict(data="train.tsv", select="nearest", shots=(2,)), "causal", None, None),
])  # fmt: skip
def test_the_model_is_that_of_what_is_asked(changes, name, kind, shown, files, monkeypatch, decoder):
    model, seen = decoder(small.tokenizer().vocab_size), []
    monkeypatch.setattr(model.decoder, "compile", lambda: seen.append("compiled"))

    def start(source, *given, reads_only):
        assert reads_only and source is None
        seen.append((given[0], given[2]))
        return "folder", model, small.tokenizer()

    monkeypatch.setattr(in_context_run, "start_model", start)
    monkeypatch.setattr(
        in_context_run, "report", lambda settings, study, *_: seen.append((settings.model, study))
    )
    monkeypatch.setattr(in_context_run, "Writer", lambda *_, **given: seen.append(given) or SimpleNamespace(
        write=lambda prompt, seed, show: seen.append((prompt, seed)) or [*map(show, (" ran", "."))]
    ))  # fmt: skip
    monkeypatch.setattr(in_context_run, "loop", lambda writer, seed: seen.append(seed))
    monkeypatch.setattr(in_context_run, "show", seen.append)
    answer_prompts(PromptSettings(**changes, seed=3))
    assert seen.pop(0) == (name, kind)
    if changes.get("compile"):
        assert seen.pop(0) == "compiled"
    if "prompt" not in changes:
        ((folder, study),) = seen
        assert folder == "folder" and (study.n_draw == 1) == ("select" in changes)
        return
    how = dict(max_new_tokens=50, n_beam=1, chat=changes.get("chat", False))
    assert seen.pop(0) == how | dict.fromkeys(("temperature", "top_k", "top_p"))
    told = "what a decoder goes on with is shown once, when it is known to fit: an error has its own line"
    assert seen == ([3] if shown is None else [("Ana", 3), f"{shown} ran", "."]), told


def test_the_defaults_are_those_of_the_figures_in_the_readmes():
    own = {name: getattr(PromptSettings(), name) for name in PromptSettings.__annotations__}
    told = dict(n_draw=5, n_test=200, score="sum", template="{text} : {label}", separator="\\n")
    told |= dict(label_words=(), select="random", chat=False, max_new_tokens=50, n_beam=1)
    none = ("model", "data", "test", "shots", "prompt", "temperature", "top_k", "top_p")
    assert own == told | dict.fromkeys(none) and in_context_run.SHOTS == (0, 1, 2, 4, 8)


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(PromptSettings(), by_name=True)
