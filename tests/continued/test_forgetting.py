"""Grades continued/forgetting.py: both texts measured before and after, new tokens, replay."""

import copy
import dataclasses

import pytest
import small

from minilm.checkpoint import save
from minilm.continued import forgetting
from minilm.continued.forgetting import HEADER, Continued, with_replay
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.errors import UserError
from minilm.pretraining.recipes import RECIPES
from minilm.pretraining.run import Pretraining
from minilm.texts.corpus import Corpus, load_corpus
from minilm.training.objective import evaluate

DOMAIN = Corpus("domain", small.documents(30, seed=3), small.documents(9, seed=4))
REPORTS = Corpus("domain", [f"Order {i}: zinc, {i % 7} boxes." for i in range(50)], ["Order 99: zinc, 3."])
GENERAL = Corpus("general", [f"O gato {i} não dormiu à tarde." for i in range(30)], ["O gato dormiu."])


def started(settings, corpus=DOMAIN, **changes) -> tuple:
    """Return a run that has read its start, and the objective on the domain."""
    run = Continued(dataclasses.replace(settings, **changes))
    model, tokenizer = run.start(corpus)
    return run, model, run.objective(corpus, tokenizer)


def test_both_texts_are_measured_before_and_after(settings, monkeypatch):
    run, model, objective = started(settings)
    assert run.general.name.endswith("general.txt") and objective.corpus is DOMAIN
    monkeypatch.setattr(Pretraining, "closing", lambda *_: (["first"], dict(loss=1.0), ["example"]))
    tables, results, examples = run.closing(objective, model, {}, {})
    assert tables[0] == "first" and examples == ["example"] and results["loss"] == 1.0
    rows, header = tables[1]
    zero = [f"domain only, from scratch, lr {rate}" for rate in (0.0025, 0.0075)]
    assert [row[0] for row in rows] == ["before", "after, lr 0.01", *zero], "each side has its own rates"
    assert all(len(row) == len(header) for row in rows) and header == HEADER
    assert rows[0][1:] == rows[1][1:], "nothing was trained in between"
    plain = small.Causal(DOMAIN, small.tokenizer(), 24, 7)
    told = "general loss and bits first, then the domain's"
    assert results["domain_loss_before"] == evaluate(model, plain, settings)["loss"], told
    losses = [row[3] for row in rows[2:]]
    assert losses[0] != losses[1] and min(losses) < results["domain_loss_before"], "three steps at two rates"
    assert run.closing(objective, model, {}, {})[1] == results, "the model from zero is drawn by the seed"


def test_the_general_text_is_the_one_that_the_model_has_read(settings, remember, tmp_path, capsys):
    saved = dict(objective="causal", data=["world"], seed=5, n_documents=50)
    remember(**saved)
    run, _, _ = started(settings, seed=6, n_documents=20)
    general = load_corpus("world", 5, 50)
    assert run.general.validation == general.validation and len(run.general.train) == len(general.train)
    assert "texts are unknown" not in capsys.readouterr().out
    remember(**saved | dict(data=["gone.txt"]))
    told = "--init .*run is evaluated on its own training texts too: gone.txt: no such file"
    with pytest.raises(UserError, match=told):
        started(settings)
    (tmp_path / "run" / "settings.json").unlink()
    started(settings, n_documents=50)
    told = capsys.readouterr().out
    assert "its texts are unknown, perhaps validation's" in told, "validation texts may be known"
    assert "general text: the world's" in told, "what is general, and replayed, is not said"


def test_an_objective_need_not_count_bytes(settings, monkeypatch):
    run, model, objective = started(settings)
    monkeypatch.setattr(forgetting, "evaluate", lambda *_: dict(loss=2.0))
    assert run.measure(model, objective.tokenizer) == (2.0, None, 2.0, None)


@pytest.mark.parametrize("saved, now", [("denoising", "translation"), ("translation", "denoising")])
def test_texts_and_pairs_do_not_stand_for_each_other(settings, remember, tmp_path, capsys, saved, now):
    sizes = dict(n_encoder_layer=1, n_decoder_layer=1, d_model=8, n_head=2, d_ff=12, max_positions=24)
    model = build(ModelConfig(vocab_size=small.tokenizer().vocab_size, **sizes))
    save(model, small.tokenizer(), tmp_path / "run", overwrite=True)
    remember(objective=saved, data=["gone.txt"], seed=5)
    run = Continued(dataclasses.replace(settings, objective=now, data=None, n_documents=20))
    domain = Pretraining(dataclasses.replace(run.settings, data=("world",))).texts()
    run.start(domain)
    assert run.general.name == "world" and "general text: the world's" in capsys.readouterr().out


def test_the_general_text_measured_is_none_that_is_learnt_from_now(settings, monkeypatch):
    same = DOMAIN.train[:2]
    for held_out, measured in ((GENERAL.validation + same, GENERAL.validation), (same, same)):
        general = dataclasses.replace(GENERAL, validation=held_out)
        monkeypatch.setattr(Pretraining, "texts", lambda self, general=general: general)
        run, _, _ = started(settings)
        assert run.general.validation == measured, "texts that this run learns from are no test of forgetting"


def test_a_start_with_new_tokens_and_replay(settings):
    run, model, objective = started(settings, extend_vocabulary=11, replay=0.5)
    V = small.tokenizer().vocab_size
    assert objective.tokenizer.vocab_size == model.config.vocab_size == V + 11
    assert set(objective.corpus.train) > set(DOMAIN.train)
    assert len(run.before) == 4 and run.name == "causal-continued"
    expected = small.tokenizer().extend(DOMAIN.texts(), 11).vocab
    assert objective.tokenizer.vocab == expected, "new tokens are learnt from the domain's text"


def test_a_start_that_does_not_fit_is_named(settings, tmp_path):
    save(small.model("causal"), None, tmp_path / "bare")
    for changes, message in (
        (dict(objective="translation", replay=0.1), "--replay"),
        (dict(objective="masked"), "kind encoder.*kind decoder; give --objective causal"),
        (dict(init=str(tmp_path / "bare")), "bare: no tokenizer in it"),
    ):
        with pytest.raises(UserError, match=message):
            started(settings, **changes)


def test_replay_mixes_in_the_share_of_bytes_that_was_asked_for():
    own, n_own = list(REPORTS.train), REPORTS.train_bytes
    longest = max(len(text.encode()) for text in GENERAL.train)

    def reaches(wanted, numbers) -> bool:
        """Whether documents were added until these numbers reach what was wanted, and no further."""
        return sum(numbers[:-1]) < wanted <= sum(numbers)

    for share in (0.1, 0.5, 0.9):
        mixed = with_replay(REPORTS, GENERAL, share, seed=1)
        assert REPORTS.train == own, "`domain.train` is changed in place: copy it"
        assert mixed is not None, "the function returns nothing"
        extra = [text for text in mixed.train if text in GENERAL.train]
        letters, n_bytes = ([len(x) for x in texts] for texts in (extra, [text.encode() for text in extra]))
        wanted = share / (1 - share) * n_own
        mistakes = {
            "`share` is of the domain's bytes, not of all bytes": reaches(share * n_own, n_bytes),
            "characters are counted, not bytes": reaches(wanted, letters),
            "documents are counted, not bytes": reaches(wanted, [1] * len(extra)),
            "`share` is of the general text": abs(sum(n_bytes) - share * GENERAL.train_bytes) <= longest,
            "no document is drawn a second time": sorted(extra) == sorted(GENERAL.train),
        }
        told = f"share {share}: {sum(n_bytes)} general bytes for {n_own} of the domain, not {wanted:.0f}"
        named = [name for name, fits in mistakes.items() if fits]
        told += f"; this is what comes out when {', or when '.join(named)}" if named else ""
        assert wanted <= sum(n_bytes) <= wanted + longest, told
        told = "each document of the domain must be there once"
        assert sorted(text for text in mixed.train if text not in GENERAL.train) == sorted(own), told
        told = "not mixed: one part comes after the other"
        assert mixed.train != own + extra and mixed.train != extra + own, told
        assert mixed.validation == REPORTS.validation, "the validation part must be the domain's"
        told = "the same seed must draw the same documents"
        assert mixed.train == with_replay(REPORTS, GENERAL, share, seed=1).train, told
        assert mixed.train != with_replay(REPORTS, GENERAL, share, seed=2).train, "all seeds draw the same"


@pytest.fixture
def from_zero(monkeypatch):
    """The trainings from scratch of a closing, which are noted and not done: model, first weights, texts."""
    noted = []

    def note(zero, objective, *_, **__):
        noted.append((zero, copy.deepcopy(zero.state_dict()), objective.corpus.train))

    monkeypatch.setattr(Pretraining, "closing", lambda *_: ([], {}, []))
    monkeypatch.setattr(forgetting, "train", note)
    return noted


def test_the_best_rate_from_zero_counts_whichever_it_is(settings, from_zero, monkeypatch):
    run, model, objective = started(settings)
    for losses in ((3.0, 4.0), (4.0, 3.0)):
        figures = iter([(1.0, 1.5, 2.0, 2.5), *((9.0, 9.5, loss, loss + 1) for loss in losses)])
        monkeypatch.setattr(run, "measure", lambda *_, figures=figures: next(figures))
        results = run.closing(objective, model, {}, {})[1]
        assert results.pop("scratch_domain_loss") == 3.0, "the lower domain loss of two rates, measured last"
        before = dict(general_loss_before=run.before[0], domain_loss_before=run.before[2])
        expected = before | dict(general_loss_after=1.0, domain_loss_after=2.0)
        found = {name: results[name] for name in expected}
        assert found == expected, "before: measured at the start; after: measured now"


def test_a_small_model_from_zero_has_rates_of_its_own_whatever_it_started_from(
    settings, from_zero, monkeypatch
):
    """A published start has the recipe of a large preset, at whose rate a small model learns nothing."""
    run, model, objective = started(settings, model="gpt2")
    width, large_rate = model.config.d_model, f"{RECIPES['gpt2']['lr']:g}"
    for large, rates in ((width + 1, ["0.0025", "0.0075"]), (width, [large_rate])):
        monkeypatch.setattr(forgetting, "LARGE", large)
        ((rows, _),) = run.closing(objective, model, {}, {})[0]
        assert [row[0].rpartition(" ")[2] for row in rows[2:]] == rates


def test_replay_needs_a_text_that_is_not_measured_on(settings, monkeypatch):
    general = dataclasses.replace(GENERAL, train=DOMAIN.validation)
    monkeypatch.setattr(Pretraining, "texts", lambda self: general)
    with pytest.raises(UserError, match="^--replay 0.3 has no text left: all is in the validation set$"):
        started(settings, replay=0.3)


def test_replay_ends_as_soon_as_the_share_is_reached():
    domain, general = Corpus("a", ["x" * 40], []), Corpus("b", [f"text {i:05}" for i in range(30)], [])
    assert len(with_replay(domain, general, 0.5, 0).train) == 1 + 4, "4 texts of 10 bytes are 40 bytes"
    assert len(with_replay(domain, Corpus("b", ["text 00001"], []), 0.5, 0).train) == 1 + 4, "drawn again"
    domain, letters = Corpus("a", ["vwxyz"], []), Corpus("b", list("abcdefgh"), [])
    assert len(with_replay(domain, letters, 0.5, 0).train) == 1 + 5, "one too few, or one too many"
    found = with_replay(Corpus("a", list("vwxyz"), []), general, 0.9, 3).train
    assert small.fingerprint(found) == "ecf01a09", "not the draws of the READMEs' figures"


def test_what_is_trained_from_zero_is_new_and_reads_the_domain_alone(settings, from_zero):
    run, model, objective = started(settings, replay=0.5)
    run.closing(objective, model, {}, {})
    (one, weights, read), (other, its_weights, its_read) = from_zero
    assert model not in (one, other), "from scratch: each is a new model, with random weights"
    assert read == its_read == DOMAIN.train, "domain only: without the replayed texts"
    small.assert_equal(weights, its_weights, "what both, which differ by their rate alone, begin with")
