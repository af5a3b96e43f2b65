"""Grades pretraining/run.py: a whole run, and the model that a later regime starts from."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import published
import pytest
import small
import torch

import minilm
from minilm import world
from minilm.checkpoint import save
from minilm.model.config import ModelConfig
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import RUN_FILES
from minilm.pretraining import run
from minilm.pretraining.causal import Causal
from minilm.pretraining.run import Pretraining, PretrainingSettings, check_fit, with_recipe
from minilm.texts import corpus as data
from minilm.training.checkpoints import save_trainer
from minilm.training.loop import TrainingSettings


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of its own, with texts.txt; the world is a small one."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n\n".join(small.documents(60)), encoding="utf-8")
    monkeypatch.setattr(data, "WORLD_TRAIN", 30)
    monkeypatch.setattr(data, "WORLD_VALIDATION", 10)


def settings(**changes) -> PretrainingSettings:
    """Return settings of a run of two steps on texts.txt."""
    short = dict(data=("texts.txt",), steps=2, batch_size=5, vocab_size=300, context=32, device="cpu")
    return with_recipe(PretrainingSettings(**short | changes))


SHAPE = dict(d_model=8, n_head=2, d_ff=12)


@pytest.mark.parametrize("name", run.OBJECTIVES)
def test_each_objective_is_wired_to_what_fits_it(name):
    row = run.OBJECTIVES[name]
    assert row.closing.__name__ == f"{name}_closing"
    taken = inspect.signature(row.objective).parameters.keys()
    flags = {field.name for field in dataclasses.fields(PretrainingSettings)}
    assert taken - flags <= {"corpus"}, "an option of the objective is a flag"
    assert row.then.startswith("--")


def test_an_objective_of_ones_own_with_a_head_is_a_row_of_the_table(monkeypatch):
    class Sorted(Causal):
        """Is the token that follows a later one of the vocabulary?"""

        def __init__(self, corpus, tokenizer, context, batch_size, seed=0, mask_share=0.5):
            super().__init__(corpus, tokenizer, context, batch_size, seed)
            self.head, self.share = torch.nn.Linear(8, 1), mask_share

        def loss(self, model, batch):
            found = model.head(model.hidden_states(batch["input_ids"])[-1]).squeeze(-1)
            later = (batch["labels"] > batch["input_ids"]).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(found, later)
            return loss, dict(loss=loss)

    row = run.Row(Sorted, lambda objective, *_: ([], dict(share=objective.share), []), "gpt-tiny", "--lr 1")
    monkeypatch.setitem(run.OBJECTIVES, "sorted", row)
    folder = Pretraining(settings(objective="sorted", mask_share=0.3), SHAPE).run()
    results = small.results(folder)
    assert results["share"] == 0.3, "a setting goes to the argument of its name"
    assert "bits_per_byte" not in results and results["loss_after"] != results["loss_before"]
    assert "head.weight" in torch.load(folder / "trainer.pt")["model"] and minilm.load(folder)


def test_options_reach_the_objective():
    common = dict(context=24, batch_size=7, seed=3)
    settings = PretrainingSettings(objective="masked", whole_word=True, mask_share=0.3, **common)
    objective = Pretraining(settings).objective(small.corpus(), small.tokenizer())
    assert (objective.whole_word, objective.mask_share) == (True, 0.3)
    assert (objective.context, objective.batch_size, objective.seed) == (24, 7, 3)
    settings = PretrainingSettings(objective="denoising", noise="deletion", **common)
    assert Pretraining(settings).objective(small.corpus(), small.tokenizer()).noises == ("deletion",)


def test_a_run_watches_as_many_rows_as_its_settings_say():
    Path("many.txt").write_text("\n\n".join(small.documents(900)), encoding="utf-8")
    corpus = Pretraining(settings(data=("many.txt",), eval_rows=20, n_documents=30)).texts()
    assert 8 <= len(corpus.validation) <= 20 and "(--eval-rows)" in corpus.notes[-1]
    assert len(corpus.train) == 30


def test_texts_are_documents_or_pairs():
    corpus = Pretraining(PretrainingSettings(objective="causal", data=("world",), n_documents=12)).texts()
    assert corpus.train == world.documents(12)
    assert corpus.texts() == corpus.train
    pairs = Pretraining(PretrainingSettings(objective="translation", data=("world",), n_documents=12)).texts()
    assert len(pairs.train) == 12
    both = {text for pair in pairs.train for text in pair}
    assert both == set(pairs.texts()), "one vocabulary, both languages"


def test_a_tokenizer_is_trained_read_or_that_of_the_run(tmp_path):
    def tokenizer(**changes):
        command = with_recipe(PretrainingSettings(out=str(tmp_path), **changes))
        return Pretraining(command, SHAPE).start(small.corpus())[1]

    assert tokenizer(vocab_size=290).vocab_size == 290
    small.tokenizer().save(tmp_path / "tokenizer.json")
    save_trainer(tmp_path, dict(step=1, model=small.model("masked").state_dict()))
    for more in (dict(resume=True), dict(tokenizer=str(tmp_path / "tokenizer.json"))):
        assert tokenizer(**more).vocab == small.tokenizer().vocab
    minilm.BPE.train(["other"], 290).save(tmp_path / "changed.json")
    assert tokenizer(resume=True, tokenizer=str(tmp_path / "changed.json")).vocab_size != 290, "the run's own"


def test_heads_that_a_published_folder_lacks_are_those_of_the_seed(tmp_path):
    folder = published.folder(tmp_path / "bert", "bert", published.bert())

    def head(seed):
        torch.rand(3)  # whatever was drawn before
        _, found, _ = run.start_model(str(folder), "masked", settings(seed=seed))
        return found.next_sentence.weight

    assert torch.equal(head(1), head(1)) and not torch.equal(head(1), head(2))


def test_fresh_weights_are_those_of_the_seed():
    def model(**changes):
        command = with_recipe(PretrainingSettings(vocab_size=290, **changes))
        return Pretraining(command, dict(d_ff=20)).start(small.corpus())[0]

    one, same, other = model(seed=1), model(seed=1), model(seed=2)
    small.assert_equal(one.state_dict(), same.state_dict())
    assert not torch.equal(one.tokens.weight, other.tokens.weight)
    assert (one.config.d_ff, one.config.vocab_size) == (20, 290)
    plain = model(next_sentence=False)
    assert plain.next_sentence is None and plain.pooler is None and plain.config.n_segments == 0


def test_what_does_not_fit_is_named():
    settings = with_recipe(PretrainingSettings(objective="causal", context=64))
    check_fit(settings, ModelConfig(n_decoder_layer=1))
    with pytest.raises(UserError, match="kind decoder.*kind encoder; give --objective masked"):
        check_fit(settings, ModelConfig(n_encoder_layer=1))
    with pytest.raises(UserError, match="--context 64 .*32 positions.*--max-positions 64"):
        check_fit(settings, ModelConfig(n_decoder_layer=1, max_positions=32))
    for given in (dict(objective="causal", init="a"), dict(objective="distillation")):  # which keep theirs
        with pytest.raises(UserError, match="--context 64 exceeds the model's 32 positions: lower it$"):
            made = with_recipe(PretrainingSettings(**given, context=64))
            check_fit(made, ModelConfig(n_encoder_layer=1, max_positions=32))
    with pytest.raises(UserError, match="give --objective denoising or .*translation$"):
        check_fit(settings, ModelConfig(n_encoder_layer=1, n_decoder_layer=1))
    with pytest.raises(UserError, match="give --objective masked$"):  # a student needs a teacher
        check_fit(dataclasses.replace(settings, init="a"), ModelConfig(n_encoder_layer=1))


@pytest.mark.parametrize("flags, told", [
    (dict(mask_share=0.0), "--mask-share 0.0"),
    (dict(mask_share=1.1), "--mask-share 1.1"),
    (dict(replay=1.0, init="a"), "--replay 1.0"),
    (dict(replay=-0.1, init="a"), "--replay -0.1"),
    (dict(replay=0.5), "--replay 0.5 needs --init"),
    (dict(replay=0.5, resume=True, out="a"), "--replay 0.5 needs --init"),
    (dict(extend_vocabulary=3), "--extend-vocabulary 3 needs --init"),
    (dict(new_rows="zeros"), "--new-rows zeros needs --init"),
    (dict(new_rows="zeros", init="a", extend_vocabulary=0), "--new-rows zeros needs --extend-vocabulary"),
    (dict(tokenizer="t", vocab_size=9), "--vocab-size 9 does not go with --tokenizer"),
    (dict(objective="distillation", tokenizer="t"), "--tokenizer t has no effect with --objective dist"),
    (dict(objective="distillation", vocab_size=500), "--vocab-size 500 has no effect with --objective dist"),
    (dict(teacher="t"), "--teacher t has no effect with --objective masked"),
    (dict(skip_bad=True), "--skip-bad has no effect with --objective masked"),
    (dict(objective="translation", errors="replace"), "--errors replace has no effect with --objective"),
    (dict(objective="causal", whole_word=True), "--whole-word has no effect with --objective causal"),
    (dict(objective="translation", noise="masking"), "--noise masking has no effect with --objective trans"),
    (dict(objective="distillation", next_sentence=False), "--no-next-sentence has no effect with --obj"),
])  # fmt: skip
def test_a_flag_out_of_range_or_without_effect_is_refused(flags, told):
    with pytest.raises(UserError, match=told):
        PretrainingSettings(**flags)


@pytest.mark.parametrize("flags", [
    dict(mask_share=1.0),
    dict(replay=0.0),
    dict(init="a", replay=0.5, extend_vocabulary=3),
    dict(init="gpt2", objective="causal", next_sentence=False),  # says that a published model has no pairs
    dict(resume=True, out="run", objective="causal", next_sentence=False),
    # runs that began before these were refused go on
    dict(resume=True, init="a", extend_vocabulary=0, new_rows="zeros"),
    dict(resume=True, tokenizer="t", vocab_size=9),
])  # fmt: skip
def test_flags_that_have_an_effect_go_together(flags):
    PretrainingSettings(**flags)


def test_a_student_takes_its_teachers_tokenizer():
    student = PretrainingSettings(objective="distillation", teacher="t", whole_word=True, n_documents=3)
    assert with_recipe(student).vocab_size is None, "the printed command would be refused"


def test_a_later_regime_starts_from_a_model_that_can_read(tmp_path):
    save(small.model("causal"), small.tokenizer(), tmp_path / "run")
    folder, model, tokenizer = run.start_model(str(tmp_path / "run"), "causal", settings())
    assert folder == str(tmp_path / "run") and model.config.kind == "decoder"
    assert tokenizer.vocab == small.tokenizer().vocab
    whole, half, reads = torch.float32, torch.bfloat16, dict(reads_only=True)
    for precision, how, dtype in (("bf16", reads, half), ("bf16", {}, whole), ("fp32", reads, whole)):
        found = run.start_model(tmp_path / "run", "causal", settings(precision=precision), **how)[1]
        assert found.tokens.weight.dtype == dtype, "weights that move stay whole"
    save(model, None, tmp_path / "bare")
    with pytest.raises(UserError, match="bare: no tokenizer in it, and text cannot be read without one"):
        run.start_model(tmp_path / "bare", "causal", settings())


def test_an_unfinished_run_is_used_with_a_word(tmp_path, capsys):
    save(small.model("causal"), small.tokenizer(), folder := tmp_path / "run")
    for name, said in (("log.jsonl", ""), ("settings.json", "not finished"), ("results.json", "")):
        (folder / name).write_text("a log of another program")
        run.load_reader(folder)
        out = capsys.readouterr().out
        assert out.count("\n") == bool(said) and said in out, f"with {name} in the folder"


def test_a_run_returns_the_folder_that_holds_all_of_it(capsys):
    Path("texts.txt").rename("world.txt")  # of the user's, whatever it is called
    folder = Pretraining(settings(objective="causal", data=("world.txt",)), SHAPE).run()
    assert folder == Path("runs/causal")
    assert sorted(path.name for path in folder.iterdir()) == sorted(RUN_FILES)
    assert minilm.load(folder)[0].config.d_ff == 12, "a field of the model that differs from its preset"
    out = capsys.readouterr().out
    assert "train.py --objective causal" in out, "the command of a script that only needs a model is another"
    assert "loss (nats per token)" in out and f"Saved in {folder}" in out and "nats is -ln p" in out
    assert f"Next: python extract.py --model {folder} --data FILE" in out, "the world is not what it has read"


def test_the_newest_finished_run_is_taken(capsys):
    folders = [Pretraining(settings(objective="causal"), SHAPE).run() for _ in range(2)]
    capsys.readouterr()
    assert run.newest_or_train("causal") == folders[1]
    out = capsys.readouterr().out
    assert f"Starting from {folders[1]}. It is" in out and "weights" not in out, "no training"
    assert "not the default run of `python train.py --objective causal`: it was trained with " in out
    own = out.partition("it was trained with ")[2]
    assert "--data texts.txt" in own and "--steps 2" in own and "--d-ff 12" in own, "what makes it another"
    assert not re.search("--(seed|device|out|eval-every|objective|resume) ", own), "these do not"
    (folders[1] / "results.json").unlink()
    assert run.newest_or_train("causal") == folders[0], "a run without results.json is not finished"


def finished_run(made: PretrainingSettings) -> Path:
    """Write the files by which a finished run with these settings is known."""
    folder = Path("runs") / made.objective
    folder.mkdir(parents=True)
    for file, values in dict(settings=vars(made), results={}, config={}).items():
        (folder / f"{file}.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["masked", "causal", "distillation"])
def test_of_the_default_run_no_flags_are_told(name, capsys):
    usual = with_recipe(PretrainingSettings(objective=name, seed=4, device="cpu"))
    same = dict(out="a/b", eval_every=7, eval_rows=9, save_every=8, log_every=3)  # the model is the same
    same |= dict(teacher="runs/masked-3") if name == "distillation" else {}
    folder = finished_run(dataclasses.replace(usual, **same))
    assert run.newest_or_train(name, seed=5) == folder
    assert capsys.readouterr().out == f"Starting from {folder}.\n"


def test_a_start_in_another_language_is_told(capsys):
    finished_run(with_recipe(PretrainingSettings(objective="masked")))
    run.newest_or_train("masked", data=("world:portuguese",))
    told = "`python train.py --objective masked --data world:portuguese`: it was trained with --data world."
    assert told in capsys.readouterr().out


def test_the_default_one_is_trained_where_there_is_none(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(Pretraining, "run", lambda self: seen.append(self.settings) or Path("runs/masked"))
    assert run.newest_or_train("masked", seed=3, device="cpu") == Path("runs/masked")
    assert seen == [with_recipe(PretrainingSettings(objective="masked", seed=3, device="cpu"))]
    assert "No finished runs/masked" in capsys.readouterr().out
    for texts in ("world:portuguese", ("world:portuguese",), ("labels.tsv",), "world", None):
        run.newest_or_train("causal", data=texts)
        portuguese = texts is not None and "world:portuguese" in texts
        language = "world:portuguese" if portuguese else "world"
        assert seen[-1].data == (language,), "it cannot read its texts"

    def stopped(self):
        raise KeyboardInterrupt("stopped, saved; to go on: --resume --out runs/masked")

    monkeypatch.setattr(Pretraining, "run", stopped)
    with pytest.raises(KeyboardInterrupt, match="on: python train.py --resume --out runs/masked"):
        run.newest_or_train("masked")  # by another script, which cannot resume it


def test_the_least_that_can_be_asked():
    least = dict(context=8, n_documents=1, extend_vocabulary=0, eval_rows=1)
    PretrainingSettings(objective="masked", init="a", **least)
    for name, value in least.items():
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            PretrainingSettings(objective="masked", init="a", **{name: value - 1})


def test_a_model_without_the_head_of_pairs_is_told_how_to_go_on():
    made = with_recipe(PretrainingSettings(objective="masked", init="runs/a", context=32))
    plain = ModelConfig(n_encoder_layer=1, max_positions=32)
    pairs = dataclasses.replace(plain, pooler=True, next_sentence=True, n_segments=2)
    check_fit(made, pairs)
    check_fit(dataclasses.replace(made, next_sentence=False), plain)
    told = "runs/a has no head, or segments, for the next sentence: add --no-next-sentence"
    for config in (plain, dataclasses.replace(pairs, n_segments=1)):  # text B would be its second
        with pytest.raises(UserError, match=told):
            check_fit(made, config)


def test_a_model_from_elsewhere_has_no_settings():
    save(small.model("masked"), None, "bare")
    assert run.settings_of("bare") == {}


def test_a_run_goes_on_and_is_asked_before_anything_is_written(capsys):
    folder = Pretraining(settings(objective="causal"), SHAPE).run()
    before = (folder / "log.jsonl").read_text()
    more = settings(objective="causal", steps=4, resume=True, out=str(folder))
    with pytest.raises(UserError, match="d_ff|shape"):
        Pretraining(dataclasses.replace(more, optimizer="muon"), dict(SHAPE, d_ff=16)).run()
    assert (folder / "log.jsonl").read_text() == before
    assert Pretraining(more, SHAPE).run() == folder
    found = small.results(folder)
    assert 0 < found["seconds"] < 60 and found["parameters"] > 0
    assert f"{found['parameters']:,} weights." in capsys.readouterr().out
    assert {"loss_before", "loss_after", "bits_per_byte", "tokens_per_second"} <= set(found)


def test_what_is_fixed_stays_fixed():
    small.assert_fixed(PretrainingSettings(), by_name=True)


EXTRACT = "python extract.py --model {run}"


@pytest.mark.parametrize(
    ("objective", "data", "then", "told"),
    [
        ("causal", "world", None, " --init {run} --data world:reports"),
        ("causal", "world:reports", None, " --init {run} --data world"),
        ("causal", "world:portuguese", None, " --init {run} --data world:portuguese-reports"),
        ("causal", "world:portuguese-reports", None, " --init {run} --data world:portuguese"),
        ("masked", "world", None, " --whole-word --vocab-size 400"),
        ("masked", "world:reports", None, " --whole-word --vocab-size 400 --data world:reports"),
        ("denoising", "world:few-shot", None, " --noise deletion --data world:few-shot"),
        # the other scripts know two worlds
        ("causal", "world:reports", EXTRACT, ""),
        ("causal", "world:portuguese-reports", EXTRACT, " --data world:portuguese"),
        ("causal", "world:few-shot", EXTRACT, ""),
    ],
)
def test_a_run_on_the_world_goes_on_with_the_world(objective, data, then, told, capsys, monkeypatch):
    made = Pretraining(settings(objective=objective, data=(data,), out="my run"), SHAPE)
    made.then = then or made.then
    monkeypatch.setattr(made, "closing", lambda *_: ([], {}, []))
    outcome = dict(before=dict(loss=1.0), after=dict(loss=1.0), tokens_per_second=1.0, seconds=1.0)
    monkeypatch.setattr(run, "train", lambda *_, **__: outcome)
    made.run()
    command = (then or f"python train.py --objective {objective}") + told
    command = command.format(run=small.in_shell("'my run'"))
    assert capsys.readouterr().out.endswith(f"Next: {command}\n")


def test_the_defaults_are_those_of_the_figures_in_the_readmes():
    own = vars(PretrainingSettings()).items() - vars(TrainingSettings()).items()
    assert own >= dict(
        objective="masked", optimizer="adamw", errors="strict", skip_bad=False, mask_share=0.15,
        whole_word=False, next_sentence=True, noise="infilling,permutation", label_smoothing=0.1,
        temperature=2.0, soft_weight=5.0, masked_weight=2.0, cosine_weight=1.0, new_rows="mean", replay=0.0,
    ).items()  # fmt: skip


def test_what_a_start_draws_is_that_of_the_seed(monkeypatch):
    drawn = []

    def start(self, corpus):  # one that reads a folder without some heads draws these
        drawn.append(torch.rand(3))
        raise KeyboardInterrupt

    monkeypatch.setattr(Pretraining, "start", start)
    for seed in (1, 1, 2):
        torch.rand(1)  # whatever was drawn before
        with pytest.raises(KeyboardInterrupt):
            Pretraining(settings(objective="causal", seed=seed), SHAPE).run()
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
