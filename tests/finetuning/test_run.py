"""Grades finetuning/run.py: a whole run, what it leaves, and that it says the same again."""

import json
from collections import Counter
from pathlib import Path

import pytest
import small
import tuned
from small import results

import minilm
from minilm.finetuning import run
from minilm.finetuning.classification import Classification
from minilm.finetuning.moving import TIMES
from minilm.finetuning.run import load_body, load_finetuned, load_parts
from minilm.finetuning.settings import TASKS, FinetuningSettings
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import RUN_FILES, TASK_FILES, write_json
from minilm.world import HELD_OUT_THINGS, SINGULAR_OF

SIZES = run.VOCABULARY, run.WORLD_VALIDATION, run.WORLD_TEST, run.TEST_SEED


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with models of three kinds; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "WORLD_VALIDATION", 6)
    monkeypatch.setattr(run, "WORLD_TEST", 8)
    for kind in tuned.KINDS:
        minilm.save(tuned.body(kind, max_positions=160), small.tokenizer(), kind)
    write("train.tsv", [f"{text}\t{label}" for text, label in tuned.labelled(24)])


def write(name: str, lines: list[str]) -> None:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def settings(**changes) -> FinetuningSettings:
    """Return settings of a run of two steps."""
    short = dict(model="encoder", steps=2, batch_size=4, device="cpu", lora_rank=2, n_examples=12)
    return FinetuningSettings(**short | dict(compare=False) | changes)


def predicting(model: str | None, predict: str, **more) -> FinetuningSettings:
    return FinetuningSettings(model=model, predict=predict, device="cpu", **more)


def on_files(**changes) -> FinetuningSettings:
    return settings(**dict(data=("train.tsv",), seeds=(0,), n_examples=None) | changes)


def test_a_model_without_biases_has_none_to_move():
    minilm.save(tuned.body("decoder", biases="none", norm_kind="rms"), small.tokenizer(), "bare")
    with pytest.raises(UserError, match="^--tune bias: bare has no biases; use all, head, lora or last:N$"):
        run.finetune(on_files(model="bare", tune="bias"))
    assert not Path("runs").exists()
    run.finetune(on_files(model="bare", tune="head"))


def test_what_to_try_next_can_be_typed_as_it_is_printed(capsys):
    run.finetune(on_files(out="my run", steps=1))
    told = small.in_shell("Next: python finetune.py --model 'my run' --predict FILE\n")
    assert told in capsys.readouterr().out
    Path("my run/task.json").unlink()
    first = small.in_shell("python finetune.py --model 'my run'")
    with pytest.raises(UserError, match=f"no task.json; first: {first}$"):
        load_finetuned("my run")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_on_the_world_and_again_on_what_it_left(task, capsys):
    model = "encoder-decoder" if task == "text-to-text" else "encoder"
    folder = run.finetune(settings(task=task, model=model, seeds=(0,), compare=True))
    out = capsys.readouterr().out
    assert folder == Path("runs") / task and f"Saved in {folder}" in out
    assert "examples: 12 for training, 6 for validation, 8 for test" in out
    assert "from random weights" in out and "LoRA, rank 2" in out and TASKS[task].baseline in out
    files = {path.name for path in folder.iterdir()}
    has_classes = task in ("classification", "pair")
    assert files == set(RUN_FILES) | set(TASK_FILES) - (set() if has_classes else {"confusion.tsv"})
    found = results(folder)
    expected = {"score", "metric", "majority_score", "scratch_score", "lora_score", "moving_weights"}
    without_head = {"contrastive": {"before_score"}, "text-to-text": set()}
    expected |= {"seconds", "seed"} | without_head.get(task, {"head_score"})
    assert len((folder / "predictions.tsv").read_text(encoding="utf-8").splitlines()) == 9
    loaded, again = load_finetuned(folder)
    test = TASKS[task].world(8, run.TEST_SEED, held_out=True)
    guesses = [p.guess for p in again.predict(loaded, test, 3)]
    scores = again.score([truth for *_, truth in test], guesses)
    assert found["score"] == pytest.approx(scores[again.metric]) and found["metric"] == TASKS[task].metric
    assert {name: found.get(name) for name in scores} == pytest.approx(scores, rel=1e-4), "not all is kept"
    assert set(found) - {*scores, "calibration_error", "score_deviation"} == expected


def test_scores_that_not_every_seed_has_are_left_out():
    """Answers that are few are labels, with a macro F1; a seed whose rarest one occurs once has none."""
    rows = [f"text {i}\t{'good' if i % 2 else 'bad'}" for i in range(30)] + ["text x\tugly", "text y\tugly"]
    write("t2t.tsv", rows)
    how = dict(task="text-to-text", model="decoder", data=("t2t.tsv",), n_examples=20, seeds=(0, 3))
    one, both = (results(run.finetune(settings(**how | more))) for more in (dict(seeds=(0,)), {}))
    assert ("macro_f1" in one, "macro_f1" in both) == (True, False) and "exact_match" in both


def test_several_seeds_give_a_mean_and_a_deviation(capsys):
    folder = run.finetune(on_files(seeds=(3, 4, 5)))
    assert "±" in capsys.readouterr().out
    alone = [run.finetune(on_files(seeds=(seed,))) for seed in (3, 4, 5)]
    scores = [results(folder)["score"] for folder in alone]
    assert results(folder)["score"] == pytest.approx(sum(scores) / 3)
    assert results(folder)["score_deviation"] >= 0
    for name in ("matthews", "calibration_error"):
        each = [results(one)[name] for one in alone]
        assert results(folder)[name] == pytest.approx(sum(each) / 3), f"{name} is that of one seed"
    assert len(set(each)) > 1, "a test in which the seeds say the same"
    kept, first = (dict(minilm.load(name)[0].state_dict()) for name in (folder, alone[0]))
    small.assert_equal(kept, first)  # the model of the first seed


def test_seeds_of_two_runs_have_none_in_common(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "load_parts", lambda made: seen.append(made.seeds) or 1 / 0)
    for changes in (dict(seed=0), dict(seed=1), dict(task="tagging", seed=4), dict(data=("a",), seed=4)):
        with pytest.raises(ZeroDivisionError):
            run.finetune(settings(**changes))
    assert len(seen[0]) == 10 and not set(seen[0]) & set(seen[1]) and seen[2:] == [(4,), (4,)]


def test_pairs_reach_the_task(monkeypatch):
    seen, plain = [], run.prepared
    monkeypatch.setattr(run, "prepared", lambda body, task, *a: seen.append(task) or plain(body, task, *a))
    made = dict(task="pair"), dict(task="pair", pairs="apart"), dict(task="similarity")
    for changes in (*made, dict(task="similarity", pairs="together")):
        run.finetune(settings(**changes))
    assert [task.head().on for task in seen] == ["text", "apart", "apart", "text"]


# Examples


def test_no_topic_word_of_the_worlds_test_examples_has_had_a_label():
    first, other = load_parts(settings(n_examples=24, seeds=(0, 1)))
    assert list(map(len, first)) == [24, 6, 8]

    def things(part):
        words = {word.strip(".,") for text, _ in part for word in text.split()}
        return {SINGULAR_OF[word] for word in words if word in SINGULAR_OF}

    held = {thing for place in HELD_OUT_THINGS.values() for thing in place}
    assert things(first.test) <= held and not things(first.train + first.validation) & held
    assert {text for text, _ in first.train}.isdisjoint(text for text, _ in first.validation)
    assert other.test == first.test and other.train != first.train, "seeds draw what is learnt from alone"


def test_it_is_said_which_part_is_measured_on_and_what_was_learnt_before(capsys):
    write("test.tsv", ["other\tschool", Path("train.tsv").read_text(encoding="utf-8").splitlines()[0]])
    run.finetune(on_files(test="test.tsv"))
    out = capsys.readouterr().out
    assert "Measured on 2 examples of test.tsv." in out and " (95 % interval of the accuracy 0." in out
    assert "test.tsv: 1 of 2 examples are also in train.tsv" in out


# Models


def body_of(**changes):
    made = on_files(**changes)
    return load_body(made, load_parts(made)[0])


def test_the_context_is_that_of_the_models_own_training():
    write_json(Path("encoder/settings.json"), dict(context=24))
    made, body, tokenizer = body_of()
    assert made.context == 24 and body.config.kind == "encoder" and tokenizer.vocab_size == 300
    assert body_of(model="decoder")[0].context == 160 and body_of(context=30)[0].context == 30
    with pytest.raises(UserError, match="--context 161 is above the model's 160 positions"):
        body_of(context=161)


def test_the_newest_run_is_taken_where_no_model_is_named(monkeypatch):
    seen, plain = [], run.start_model
    start = lambda source, name, made: seen.append(name) or plain(source or "decoder", name, made)
    monkeypatch.setattr(run, "start_model", start)
    assert body_of(model=None)[0].model == "decoder"
    body_of(model=None, task="text-to-text")
    assert seen == ["masked", "denoising"]


def test_a_preset_begins_from_random_weights_and_the_words_of_the_examples():
    _, body, tokenizer = body_of(model="bert-tiny")
    _, again, _ = body_of(model="bert-tiny")
    small.assert_equal(dict(body.state_dict()), dict(again.state_dict()))
    assert body.config.d_model == 64 and body.config.vocab_size == tokenizer.vocab_size
    assert len(tokenizer.encode("Bread")) == 1, "the tokenizer has seen the examples"
    assert results(run.finetune(on_files(model="bert-tiny")))["moving_weights"] > 100_000


def test_a_model_without_a_tokenizer_is_one_line_and_what_is_cut_is_told(capsys):
    minilm.save(tuned.body(), None, "bare")
    with pytest.raises(UserError, match="bare: no tokenizer in it"):
        run.finetune(on_files(model="bare"))
    run.finetune(on_files(context=8))
    assert "rows to --context 8 tokens" in capsys.readouterr().out


# The fine-tuned folder


@pytest.mark.parametrize("tune", [way.replace("last", "last:1") for way in TIMES])
def test_the_folder_says_what_the_run_said(tune):
    folder = run.finetune(on_files(tune=tune))
    model, task = load_finetuned(folder)
    rows = [line.split("\t") for line in (folder / "predictions.tsv").read_text().splitlines()]
    assert rows[0] == ["text", "truth", "prediction", "probability"]
    for text, truth, guess, chance in rows[1:]:
        (p,) = task.predict(model, [(text, truth)], 1)
        assert p.guess == guess and p.probability == pytest.approx(float(chance), abs=1e-3)
    lines = (folder / "confusion.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["truth", *task.labels]
    counts = Counter((truth, guess) for _, truth, guess, _ in rows[1:])
    table = [[truth, *(str(counts[truth, guess]) for guess in task.labels)] for truth in task.labels]
    assert [line.split("\t") for line in lines[1:]] == table, "a row for each truth"
    body, _ = minilm.load(folder)
    small.assert_equal(dict(body.state_dict()), {n: model.state_dict()[n] for n in body.state_dict()})


def test_task_json_makes_the_task_again_and_anything_else_is_one_line():
    folder = run.finetune(settings(task="pair", pairs="apart"))
    path, whole = folder / "task.json", json.loads((folder / "task.json").read_text())
    model, task = load_finetuned(folder)
    known = json.loads(json.dumps(task.known))
    assert whole == dict(task="pair", context=160, known=known, options=dict(pairs="apart"))
    assert model.head.on == "apart"
    for broken, said in (
        (dict(task="sleep"), "not a valid task"),
        (dict(known=None), "'known' is None, expected object"),
        (dict(known=dict(labels=["same", 1])), r"known: 'labels' is \['same', 1\]"),
        (dict(known={}), "known: 'labels' is missing"),
        (dict(options=3), "'options' is 3"),
        (dict(options=dict(speed=1)), "not a valid task"),
        (dict(options=dict(pairs="far")), r"'pairs' is 'far', expected together\|apart"),
        (dict(context=10**9), "context 1000000000, but the model has"),
        (dict(context=True), "'context' is True, expected integer"),
        (dict(context=5), "context 5, but the model has"),
    ):
        write_json(path, whole | broken)
        with pytest.raises(UserError, match=f"task.json.*{said}"):
            load_finetuned(folder)
    for context in (6, 160):
        write_json(path, whole | dict(context=context))
        assert load_finetuned(folder)[1].context == context, "what just fits"
    folder = run.finetune(on_files())
    whole = json.loads((folder / "task.json").read_text())
    assert whole.pop("options") == dict(pairs=None)
    write_json(folder / "task.json", whole)  # the first ones had no options
    assert json.loads(json.dumps(load_finetuned(folder)[1].known)) == whole["known"]


def test_predictions_of_new_texts(capsys):
    folder = run.finetune(on_files())
    write("new.tsv", ["Bread!  Ana.", "Pens! Rui sells a lamp.", "a\tb\tc"])
    capsys.readouterr()
    out = run.predict(predicting(str(folder), "new.tsv", skip_bad=True))
    lines = [line.split("\t") for line in (out / "predictions.tsv").read_text().splitlines()]
    assert [line[0] for line in lines] == ["text", "Bread! Ana.", "Pens! Rui sells a lamp."]
    assert {line[2] for line in lines[1:]} <= {"bakery", "shop", "school"} and lines[1][1] == ""
    told = capsys.readouterr().out
    assert f"Saved 2 predictions of {folder} in {out}" in told and "left out 1 examples (--skip-bad)" in told
    write("more.tsv", [f"Pens {letter}!" for letter in "abcde"])
    run.predict(predicting(str(folder), "more.tsv"))
    assert capsys.readouterr().out.count("Pens ") == 3, "three are shown, all are in the file"
    newest = run.predict(predicting(None, "new.tsv", skip_bad=True))
    assert newest != out, "the newest finished run of the task serves, nothing is overwritten"
    with pytest.raises(UserError, match=f"--task span: {folder} was trained for classification; leave"):
        run.predict(predicting(str(folder), "more.tsv", task="span"))
    with pytest.raises(UserError, match="no finished runs/tagging"):
        run.predict(predicting(None, "new.tsv", task="tagging"))


@pytest.mark.parametrize("n_label", [12, 13])
def test_a_wide_table_of_confusions_is_written_and_not_shown(n_label, capsys):
    labels = [f"l{i:02}" for i in range(n_label)]
    write("many.tsv", [f"text {i} of {i % 7}\t{labels[i % n_label]}" for i in range(4 * n_label)])
    folder = run.finetune(on_files(data=("many.tsv",), tune="head", steps=1))
    assert ("true, taken for:" in capsys.readouterr().out) == (n_label == 12), "wider than a terminal"
    assert len((folder / "confusion.tsv").read_text().splitlines()) == n_label + 1
    assert results(folder)["seconds"] < 60


def test_the_sizes_are_those_of_the_figures_in_the_readme():
    assert SIZES == (1024, 200, 600, 4_000_037), "vocabulary, examples to watch and to measure on, their seed"


@pytest.mark.parametrize(("task", "model"), [("classification", "encoder"), ("text-to-text", "decoder")])
def test_texts_that_are_measured_on_and_were_cut_are_told(task, model, capsys):
    header = ["source\ttarget"] if task == "text-to-text" else []
    rows = Path("train.tsv").read_text(encoding="utf-8").splitlines()
    write("rows.tsv", [*header, *rows])
    write("long.tsv", [*header, *rows[:3], f"{'bread and pens ' * 90}\tshop"])
    how = dict(task=task, model=model, data=("rows.tsv",), compare=False)
    folder = run.finetune(on_files(**how, test="long.tsv"))
    told = f" 1 rows were cut to {load_finetuned(folder)[1].context} tokens."
    out = capsys.readouterr().out
    assert f"Measured on 4 examples of long.tsv.{told}" in out and "cut 1 rows to" not in out
    run.predict(predicting(str(folder), "long.tsv"))
    assert capsys.readouterr().out.endswith(f"predictions.tsv.{told}\n")
    run.predict(predicting(str(folder), "rows.tsv"))
    assert "were cut" not in capsys.readouterr().out


def test_predictions_take_four_times_the_rows_of_a_step(monkeypatch):
    """Without gradients a row takes less memory; the answers are the same."""
    folder, seen, plain = run.finetune(on_files(batch_size=4)), [], Classification.predict
    monkeypatch.setattr(Classification, "predict", lambda *given: seen.append(given[-1]) or plain(*given))
    for size in (5, None):
        run.predict(predicting(str(folder), "train.tsv", batch_size=size))
    assert seen == [4 * 5, 4 * 32]
