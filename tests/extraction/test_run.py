"""Grades extraction/run.py: which texts and labels are read, how they are split, reported and written."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch

import minilm
from minilm import world
from minilm.extraction import run
from minilm.extraction.features import Reading, extract_tokens
from minilm.extraction.run import WORLD_SENTENCES as SENTENCES
from minilm.extraction.run import WORLD_TEST as TEST
from minilm.extraction.run import WORLD_TRAIN as TRAIN
from minilm.extraction.run import read_examples, read_parts
from minilm.model.blocks import Stack
from minilm.plumbing.errors import UserError
from minilm.plumbing.settings import CommonSettings

TOKENIZER, MODEL = small.tokenizer(), small.model("masked", seed=4)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "WORLD_TRAIN", 24)
    monkeypatch.setattr(run, "WORLD_TEST", 18)
    monkeypatch.setattr(run, "WORLD_SENTENCES", 3)


def write(name: str, text: str) -> str:
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)
    return name


def table(name: str, labels: str) -> str:
    """Write a table of texts, of which each has one letter as label."""
    return write(name, "".join(f"text {i}\t{label}\n" for i, label in enumerate(labels)))


def settings(**changes) -> SimpleNamespace:
    given = dict(labels=(1, 50, "all"), draws=3, seed=7, probe=False, similar=None, layer=-1, data="world")
    return SimpleNamespace(**given | changes)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_world_tests_on_other_stories_and_on_words_without_a_label(seed):
    parts = read_parts("world", None, None, seed)
    sizes = dict(train=(24, 2_000_003), test=(18, 2_000_023), unseen=(18, 2_000_033))
    assert list(parts) == list(sizes)
    for name, (n, far) in sizes.items():  # `far` from the seeds of pre-training
        assert parts[name] == world.labelled(n, seed + far, held_out=name == "unseen"), name
    texts = {part: {text for text, _ in examples} for part, examples in parts.items()}
    assert not texts["train"] & texts["test"]
    words = [set(" ".join(texts[part]).replace(".", "").split()) for part in ("train", "unseen")]
    seen, unseen = ({word for word in found if world.place_of(word)} for found in words)
    assert seen and unseen and not seen & unseen
    with_test = read_parts("world", write("d.tsv", "x\tbeach\n"), None, seed)
    assert with_test["train"] == parts["train"], "what is learnt from does not depend on what is tested on"


def test_tables_have_labels_and_documents_none():
    records = '{"text": "Ana sat.", "label": "calm"}\n{"text": "Rui ran.", "label": "fast"}\n'
    for name, rows in (
        ("a.tsv", "Ana sat.\tcalm\nRui ran.\tfast\n"),
        ("a.csv", "label,text\ncalm,Ana sat.\nfast,Rui ran.\n"),
        ("a.jsonl", records),
    ):
        assert read_examples(write(name, rows)) == [("Ana sat.", "calm"), ("Rui ran.", "fast")]
    plain = write("b.txt", "Ana sat.\n\nRui ran.\n")
    records = write("b.jsonl", '{"text": "Ana sat."}\n\n{"text": "Rui ran."}\n')
    assert read_examples(plain) == read_examples(records) == [("Ana sat.", None), ("Rui ran.", None)]
    assert len(read_examples(".")) == 6, "a folder is its .txt and .jsonl files"
    for name, alone in (
        ("c.tsv", "Text\nAna sat.\nRui ran."),
        ("c.csv", '"text"\nAna sat.\nRui ran.'),
        ("d.csv", "id,text\n7,Ana sat.\n7,Rui ran."),
        ("g.csv", '"id";"text"\n7;"Ana sat."\n7;"Rui ran."'),
    ):
        assert read_examples(write(name, alone)) == read_examples(plain), "a table may have texts alone"
    words = write("e.tsv", "the book, text, and pictures\tgood\nnone\tbad\n")
    assert read_examples(words)[0] == ("the book, text, and pictures", "good"), "it is no header"
    with pytest.raises(UserError, match="found the header .'text', 'category'.*rename the columns"):
        read_examples(write("f.csv", "text,category\nAna sat.,calm\n"))


def test_an_empty_text_or_label_is_named_by_its_line():
    for name, text, found in (
        ("a.tsv", "Ana\tx\n \ty\n", "a.tsv, line 2: 'text' is empty"),
        ("a.jsonl", '{"text": "Ana"}\n{"text": " "}\n', "a.jsonl, line 2: 'text' is empty"),
        ("b.jsonl", '{"text": "Ana", "label": "x"}\n{"text": "Rui"}\n', "b.jsonl, line 2: .* 'label'"),
        ("e.txt", " \n\n", "e.txt: no text"),
        ("e.jsonl", "\n", "e.jsonl: no rows of text"),
    ):
        with pytest.raises(UserError, match=found):
            read_examples(write(name, text))
    with pytest.raises(UserError, match="did you mean 'a.tsv'"):
        read_examples("b.tsv")


@pytest.mark.parametrize(("train", "test", "found"), [
    ("pfp", "k", "g.tsv: the label 'k' has no example in f.tsv: add one"),
    ("ff", None, "f.tsv has only one label, ..f"), ("pfp", None, None),
    ("pfp", "ff", None), ("pfpf", None, None),
])  # fmt: skip
def test_labels_that_no_probe_can_learn_are_named(train, test, found):
    table("f.tsv", train), table("g.tsv", test or "")
    with pytest.raises(UserError, match=found) if found else nullcontext():
        read_parts("f.tsv", test and "g.tsv", True, 0)


def test_the_parts_of_a_command():
    sizes = lambda *given: {name: len(part) for name, part in read_parts(*given, seed=0).items()}
    for labels, n_test in (("001", 1), ("0101010", 1), ("01010101", 2)):
        labelled, expected = table("a.tsv", labels), dict(train=len(labels) - n_test, test=n_test)
        assert sizes(labelled, None, None) == sizes(labelled, None, True) == expected, "a quarter, or one"
    plain, other = write("b.txt", "Ana sat."), write("c.tsv", "one\t0\n")
    assert sizes(labelled, None, False) == dict(train=8)
    assert sizes(labelled, other, None) == dict(train=8, test=1)
    assert sizes("world", write("d.tsv", "x\tbeach\n"), None) == dict(train=24, test=1)
    assert sizes(plain, None, None) == sizes(plain, None, False) == dict(train=1)
    for given in ((plain, None, True), (plain, other, None), (labelled, plain, None)):
        with pytest.raises(UserError, match="b.txt has no labels: give a .tsv with text and label"):
            read_parts(*given, seed=0)


def test_texts_that_are_learnt_and_tested_are_counted(capsys):
    read_parts(table("a.tsv", "0101"), write("b.tsv", "text 3\t1\ntext  2\t0\nnew\t1\n"), None, 0)
    assert "b.tsv: 2 of 3 texts are also in a.tsv" in capsys.readouterr().out
    read_parts("a.tsv", write("c.tsv", "new\t1\n"), None, 0)
    assert "also in" not in capsys.readouterr().out


def test_the_columns_have_an_entry_a_text():
    parts = dict(train=[("é.", "x"), ("Rui sat.", "yy")], test=[("Ana.", "x")])
    readings = [Reading(layer, "mean") for layer in (0, 1)]
    columns, results, lines = run.text_columns(settings(layer="all"), MODEL, TOKENIZER, parts, readings, {})
    assert columns["embeddings"].shape == (3, 2, 8) and columns["embeddings"].dtype == np.float32
    assert columns["texts"] == ("é.", "Rui sat.", "Ana.") and columns["labels"] == ("x", "yy", "x")
    assert columns["split"] == ["train", "train", "test"]
    assert results == dict(n_text=3, width=8) and lines == []
    parts = dict(train=[("Ana." * 999, None)])
    columns, *_ = run.text_columns(settings(), MODEL, TOKENIZER, parts, readings[:1], {})
    assert len(columns["texts"][0]) == 1000, "in the file each text takes the place of the longest"
    assert columns["labels"] is None


def token_columns(layer: int, **changes) -> tuple[dict, dict]:
    made = settings(**changes)
    parts = run.read_tagged(made.data, made.probe, made.seed)
    return run.token_columns(made, MODEL, TOKENIZER, parts, [Reading(layer, "mean")], {})[:2]


def test_texts_that_are_cut_are_counted_once(capsys):
    minilm.save(MODEL, TOKENIZER, "model")
    texts = ["Ana sells bread. " * 20, "Ana.", "Rui sells bread. " * 20]
    data = write("long.jsonl", "".join(f'{{"text": "{text}"}}\n' for text in texts))
    folder = run.extract_features(dict(model="model", data=data))
    assert capsys.readouterr().err == "2 of 3 texts are longer than 24 tokens and were cut\n"
    assert np.load(folder / run.FEATURES)["texts"].tolist() == [text.strip() for text in texts]


def test_lines_that_are_one_text_are_pointed_out(capsys):
    minilm.save(MODEL, TOKENIZER, "model")
    data = write("lines.txt", "Ana sat.\nRui ran.\n" + "Bo slept. " * 90)
    run.extract_features(dict(model="model", data=data, similar="Ana"))
    told = capsys.readouterr()
    assert "lines.txt: its 3 lines are one text; a blank line separates texts" in told.err
    assert "  Ana sat. Rui ran. Bo slept." in told.out and "Bo slept. " * 30 not in told.out, "printed whole"
    run.read_examples(write("two.txt", "Ana sat.\nRui ran.\n\nBo slept."))
    run.read_examples(write("one.txt", "Ana sat.\n"))
    assert not capsys.readouterr().err


def test_columns_of_a_conll_file(monkeypatch):
    path = write("a.conll", "Ana B-person\nlikes O\nbread O\n\nRui B-person\nsat O\n")
    found, results = token_columns(-1, data=path)
    assert found["tokens"] == ["Ana", "likes", "bread", "Rui", "sat"]
    assert found["labels"] == ["B-person", "O", "O", "B-person", "O"]
    assert found["text_of"].tolist() == [0, 0, 0, 1, 1] and results["n_token"] == 5
    rows, places = run.word_rows(TOKENIZER, MODEL.config, [["Ana", "likes", "bread"], ["Rui", "sat"]], 24)
    states = extract_tokens(MODEL, rows, -1)
    np.testing.assert_array_equal(found["embeddings"][3], states[1][1])
    np.testing.assert_array_equal(found["embeddings"][1], states[0][places[0][1]])
    with monkeypatch.context() as patch:
        patch.setattr(TOKENIZER, "longest", 3)
        assert token_columns(-1, data=path)[0]["tokens"] == ["Ana", "Rui"], "read on beyond `longest`"


def test_columns_of_a_text_are_all_its_tokens():
    found, _ = token_columns(0, data=write("a.txt", "Ana sat.\n\nRui"))
    assert found["labels"] is None and len(found["embeddings"]) == len(found["tokens"])
    assert "".join(found["tokens"]) == "[CLS] Ana sat.[SEP][CLS] Rui[SEP]"


def test_the_world_has_tagged_words():
    found, results = token_columns(0, seed=5)
    for i, (words, tags) in enumerate(world.tagging(3, 5)):
        rows = np.flatnonzero(found["text_of"] == i)
        assert 0 < len(rows) < len(words), "cut at 24 tokens"
        assert [found["tokens"][j] for j in rows] == words[: len(rows)]
        assert [found["labels"][j] for j in rows] == tags[: len(rows)]
    assert results["n_text"] == 3


def test_tagged_sentences_are_put_aside_for_a_probe_and_no_label_loses_its_last(monkeypatch):
    lines = [f"w{i} O\nRui B-x" if i else "Ana B-y" for i in range(9)]
    path = write("a.conll", "\n\n".join([*lines, *lines]))
    parts = run.read_tagged(path, True, 0)
    assert {name: len(part) for name, part in parts.items()} == dict(train=14, test=4)
    assert run.read_tagged("world:portuguese", None, 0) != run.read_tagged("world", None, 0)
    words = [{tuple(words) for words, _ in part} for part in parts.values()]
    assert not words[0] & words[1], "a sentence stands on both sides"
    assert (["Ana"], ["B-y"]) in parts["train"]
    assert len(run.read_tagged(path, None, 0)["train"]) == 18
    seen, told = [], (dict(selectivity=0.5), [])
    monkeypatch.setattr(run, "control_table", lambda *given: seen.append(given) or told)
    found, results = token_columns(1, data=path, probe=True, seed=0)
    _, rows, places, layer, words, tags, is_test, seed, _ = seen[0]
    assert len(rows) == len(places) == 18 and (layer, seed) == (1, 0)
    assert words == found["tokens"] and tags == found["labels"] and len(words) == len(is_test) == 34
    expected = [word for sentence, _ in parts["test"] for word in sentence]
    assert [word for word, aside in zip(words, is_test, strict=True) if aside] == expected
    assert results == dict(n_text=18, n_token=34, width=8, selectivity=0.5)


@pytest.mark.parametrize("name, text", [
    ("a.txt", "Ana"), ("b.conll", "Ana O\n\nRui O"), ("c.conll", "A x\nB y")
])  # fmt: skip
def test_what_no_probe_can_learn_from_is_named(name, text):
    assert ("texts" in run.read_tagged(write(name, text), None, 0)) == (name == "a.txt")
    with pytest.raises(UserError, match=f"--tokens --probe: {name} needs two or more tags"):
        run.read_tagged(write(name, text), True, 0)


def test_the_probe_reads_the_last_layer_and_the_query_the_same_one(monkeypatch):
    seen, near = [], []
    monkeypatch.setattr(run, "probe_tables", lambda *given: seen.append(given) or ({}, ["told"]))
    monkeypatch.setattr(run, "nearest", lambda vectors, query: near.append((vectors, query)) or [(0, 0.5)])
    parts = dict(train=[("Ana sat.", "x"), ("Rui.", "y")], test=[("Bo ran.", "x")])
    readings = [Reading(0, "mean"), Reading(0, "mean"), Reading(1, "mean")]
    made = settings(probe=True, similar="Rui.", layer="all")
    columns, _, lines = run.text_columns(made, MODEL, TOKENIZER, parts, readings, dict(tokens_per_batch=50))
    _, rows, given, headline, vectors, labels, draws, seed, how = seen[0]
    assert headline == readings[-1] and given is parts and len(rows) == 3
    np.testing.assert_array_equal(vectors, columns["embeddings"][:, 2])
    assert (labels, draws, seed, how) == ((1, 50, "all"), 3, 7, dict(tokens_per_batch=50))
    np.testing.assert_array_equal(near[0][0], columns["embeddings"][:, 0])
    np.testing.assert_allclose(near[0][1], columns["embeddings"][1, 0], rtol=1e-5, atol=1e-6)
    assert lines == ["told", "Nearest to 'Rui.', by cosine:", "", "  0.500  Ana sat.", ""]


def test_the_run_says_what_is_read_and_how_long_it_took(capsys):
    for kind in ("masked", "causal"):
        minilm.save(small.model(kind), TOKENIZER, kind)
    data = write("a.txt", "Ana sat.\n\nRui ran.")
    folder = run.extract_features(dict(model="causal", data=data, pooling="cls", layer="all"))
    out = capsys.readouterr().out
    assert "Reading causal: decoder, 1 blocks." in out
    assert "--pooling cls: a decoder's first token sees only itself" in out
    assert "2 vectors, one per text" in out
    found = small.results(folder)
    assert 0 < found["seconds"] < 60 and (found["n_text"], found["width"]) == (2, 8)
    assert np.load(folder / run.FEATURES)["embeddings"].shape == (2, 2, 8)
    run.extract_features(dict(model="causal", data=data))
    run.extract_features(dict(model="masked", data=data, pooling="cls"))
    assert "cls:" not in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [
    dict(tokens=True, pooling="max"), dict(tokens=True, similar="Ana"), dict(tokens=True, test="a.tsv"),
    dict(layer="all", similar="Ana"), dict(layer="all", tokens=True),
    dict(draws=0), dict(tokens_per_batch=0), dict(labels=(0,)), dict(similar=" "),
])  # fmt: skip
def test_flags_that_exclude_each_other_or_are_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        run.ExtractionSettings(**wrong)
    run.ExtractionSettings(draws=1, tokens_per_batch=1, labels=(1,), similar="Ana", pooling="max", layer=0)
    run.ExtractionSettings(tokens=True), run.ExtractionSettings(layer="all", pooling="max", test="a.tsv")


def test_a_quarter_of_the_tagged_sentences_is_put_aside():
    for n, n_test in ((40, 10), (3, 1), (2, 1)):
        path = write("a.conll", "\n\n".join(f"w{i} O\nRui B-x" for i in range(n)))
        assert [len(part) for part in run.read_tagged(path, True, 0).values()] == [n - n_test, n_test]


def test_the_defaults_are_those_of_the_figures_in_the_readme_and_stay_fixed():
    small.assert_fixed(run.ExtractionSettings(), by_name=True)
    own = vars(run.ExtractionSettings()).items() - vars(CommonSettings()).items()
    assert {name: value for name, value in own if value is not None} == dict(
        data="world", layer=-1, pooling="mean", tokens=False, probe=True, labels=(1, 4, 16, "all"), draws=10
    )
    assert (TRAIN, TEST) == (64 * len(world.PLACES), 100 * len(world.PLACES)) and SENTENCES == 384


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_a_compiled_stack_takes_rows_of_every_length(kind, monkeypatch):
    """Each batch is as wide as its longest row: without `dynamic` each width would be compiled anew."""
    minilm.save(small.model(kind), TOKENIZER, "model")
    data, seen = write("a.txt", "Ana sat."), []
    monkeypatch.setattr(Stack, "compile", lambda stack, **how: seen.append(how))
    run.extract_features(dict(model="model", data=data))
    assert seen == []
    run.extract_features(dict(model="model", data=data, compile=True))
    assert seen == [dict(dynamic=True)]


def test_weights_that_are_only_read_may_be_half_as_long(monkeypatch):
    minilm.save(MODEL, TOKENIZER, "model")
    data, read, seen = write("a.txt", "Ana sat."), run.text_columns, []
    monkeypatch.setattr(run, "text_columns", lambda *given: seen.append(given[1]) or read(*given))
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        run.extract_features(dict(model="model", data=data, precision=precision))
        assert seen.pop().tokens.weight.dtype == dtype
