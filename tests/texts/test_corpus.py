"""Sources -> documents: no validation document is in the training part, and the split is what it says."""

import gzip
import json
import math
import os
import random

import pytest

from minilm import world
from minilm.pretraining.next_sentence import SentencePairs
from minilm.texts import corpus as data
from minilm.texts.corpus import Corpus, cut, draw, load_corpus, one_line, split_by_hash, without
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS


def speeches(n: int, seed: int = 0) -> list[str]:
    """n different documents of unequal lengths, some with letters of two bytes."""
    rng = random.Random(seed)
    return [f"Speaker {seed}.{i}:\n" + "é word " * rng.randint(1, 30) + "end." for i in range(n)]


def play(n: int, seed: int = 0) -> str:
    """The text of a file that holds n speeches."""
    return "\n\n".join(speeches(n, seed))


def test_corpus_counts_bytes_not_characters():
    corpus = Corpus("name", ["né", "abc"], ["日本"] * 10_000)
    assert corpus.train_bytes == 6 and corpus.floor is None
    assert corpus.summary() == "name: 2 training documents (0.00 MB), 10,000 validation documents (0.06 MB)"


def test_stored_texts_are_named_by_what_is_in_their_files(tmp_path):
    names, path = [], tmp_path / "a.txt"
    for text in ("Ana sold bread.", "Ana sold fruit.", "Ana sold bread."):
        path.write_text(text, encoding="utf-8")
        names.append(data.content([path]))
    assert names[0] == names[2] != names[1], "an edited file of the same size would get its old texts"


def test_what_is_drawn_keeps_the_order():
    items = list("abcdefghij")
    drawn = [draw(items, 3, seed) for seed in range(5)]
    assert all(part == sorted(part) and len(set(part)) == 3 for part in drawn), "the file's order is lost"
    assert len(set(map(tuple, drawn))) > 1 and draw(items, 3, 4) == drawn[4]
    assert draw(items, None, 0) == draw(items, 10, 0) == draw(items, 99, 0) == items


def test_few_validation_documents_are_watched_drawn_by_their_words():
    documents = speeches(400)  # of 20 to 230 bytes
    whole = Corpus("name", ["a"], documents, notes=("first",))
    few = whole.watched(90, context=20)
    rows = sum(max(1, len(text.encode()) // 60) for text in few.validation)
    assert 80 < rows <= 90 and few.train == ["a"], "an evaluation reads more rows than were asked for"
    assert [text for text in documents if text in few.validation] == few.validation, "the order is lost"
    watched = f"{len(few.validation)} of 400 validation documents are used, about 90 rows (--eval-rows)"
    assert few.notes == ("first", watched)
    turned = Corpus("other", ["b"], documents[::-1]).watched(90, context=20)
    assert turned.validation == few.validation[::-1], "which are watched depends on more than their words"
    short = Corpus("name", ["a"], [f"text {i}" for i in range(40)])
    assert len(short.watched(20, 99).validation) == 20, "each is a row"
    of_two = Corpus("name", ["a"], [f"{author} {i}" for author in ("Ana", "Zoe") for i in range(99)])
    assert 30 < sum("Zoe" in text for text in of_two.watched(99, 99).validation) < 70, "in order, not drawn"
    assert whole.watched(10_000, 20) is whole and len(whole.watched(1, 20).validation) == 8


def test_split_by_hash_does_not_depend_on_the_company():
    documents = speeches(3_000)
    train, validation = split_by_hash(documents)
    assert sorted(train + validation) == sorted(documents) and not set(train) & set(validation)
    assert abs(len(validation) - 300) < 5 * math.sqrt(3_000 * 0.09), "about a tenth, within five deviations"
    assert [text for text in documents if text in set(train)] == train
    part = split_by_hash(documents[1_000:1_500])
    assert set(part[0]) <= set(train) and set(part[1]) <= set(validation), "a part would leak into the whole"
    spaced = split_by_hash([f" {text}\n" for text in documents], str.strip)
    assert [text.strip() for text in spaced[1]] == validation, "white space decides"


def test_at_least_two_are_held_out_and_left_where_there_are_four():
    parts = [split_by_hash(speeches(n, seed)) for seed in range(30) for n in range(1, 40)]
    for train, validation in parts:
        n = len(train) + len(validation)
        least = 2 if n > 3 else 1
        assert len(validation) >= least and len(train) >= min(least, n - 1), "too few to make a false pair of"
    assert split_by_hash([]) == ([], [])
    assert split_by_hash(["a", "b", "a ", "a"])[0] in (["b"], ["a", "a ", "a"]), "a text is on both sides"


def test_without_compares_words_not_spacing():
    assert one_line("  To\tbe,\n\n or not ") == "To be, or not", "the words and nothing else"
    assert without(["a  b", "ab", "c", "c"], ["a\nb", "d"]) == ["ab", "c", "c"]
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")]
    assert without(pairs, [("a ", "9"), ("d", "1")], lambda pair: pair[0]) == [pairs[0], *pairs[2:]]


def test_the_side_of_a_document_follows_from_its_words(write, tmp_path):
    """The validation part of any seed, part or order of a file is unread by who trained on the whole."""
    documents = speeches(211)
    whole = load_corpus(write("play.txt", "\n\n".join(documents)))
    kept = set(whole.train)
    assert [text for text in documents if text in kept] == whole.train, "the order is lost"
    assert sorted(whole.train + whole.validation) == sorted(documents) and whole.notes == ()
    part = write("part/of.txt", "\n\n".join(documents[90:130][::-1]))
    others = [load_corpus(part), load_corpus([part, write("other.txt", play(30, 1))])]
    for other in [*others, load_corpus(tmp_path / "play.txt", seed=7)]:
        assert not kept & set(other.validation), "validated on what the whole trains on"


def test_a_document_that_stands_twice_is_on_one_side(write):
    documents = ["Yes.", "Yes.", *speeches(60), "ROMEO:\nAy  me!", *speeches(55, seed=1), "ROMEO:\nAy me!"]
    corpus = load_corpus(write("play.txt", "\n\n".join(documents)))
    sides = [{one_line(text) for text in part} for part in (corpus.train, corpus.validation)]
    assert not sides[0] & sides[1] and len(corpus.train + corpus.validation) == len(documents)
    small = [write(f"small{i}.txt", "\n\n".join([f"Only {i}", *corpus.train[:3]])) for i in range(30)]
    both = load_corpus(small)
    assert not {*both.train} & {*corpus.train}
    assert "removed 81 training documents that are in the validation set too" in both.notes[0]


@pytest.mark.parametrize("n, is_whole", [(3, True), (9, True), (10, False)])
def test_of_several_files_those_under_ten_documents_go_to_one_part_whole(write, n, is_whole):
    files = [speeches(n, seed=9 + i) for i in range(40)]
    paths = [write(f"{i}.txt", play(n, seed=9 + i)) for i in range(40)]
    corpus = load_corpus([write("large.txt", play(100)), *paths])
    train, validation = set(corpus.train), set(corpus.validation)
    assert all(set(part) <= train or set(part) <= validation for part in files) == is_whole
    held = sum(set(part) <= validation for part in files)
    assert 0 < held < 12 if is_whole else held == 0, "a tenth of the files, about"
    assert set(speeches(100)) & train and set(speeches(100)) & validation, "a large one has both"


def test_of_two_small_files_each_is_a_part(write):
    corpus = load_corpus([write("a/1.txt", play(3, 1)), write("a/2.txt", play(3, 2))])
    assert sorted([corpus.train, corpus.validation]) == [speeches(3, 1), speeches(3, 2)]


@pytest.mark.parametrize("end", [". ", ".\n", "。"])
def test_one_short_document_is_cut_so_that_bert_can_read_it(write, end):
    """The tool itself makes the parts: it must not then complain that one of them is too short."""
    text = end.join(f"Sentence {i} of a short text" for i in range(300))
    corpus = load_corpus(write("short.txt", text))
    tokenizer = BPE.train(corpus.train, 400, SPECIAL_TOKENS)
    assert all(len(SentencePairs(part, tokenizer, 64)) for part in (corpus.train, corpus.validation))


def test_several_paths_and_each_file_once(tmp_path, write):
    lines = "\n".join(json.dumps({"text": text}) for text in speeches(30, 1)).encode()
    one = write("a/one.txt", play(20))
    two = write("two.jsonl.gz", gzip.compress(lines))
    corpus = load_corpus([one, str(two), tmp_path / "a", tmp_path / "a" / ".." / "two.jsonl.gz"])
    assert sorted(corpus.train + corpus.validation) == sorted(speeches(20) + speeches(30, 1))
    assert load_corpus(one).name == str(one)
    assert corpus.name == f"{one} and 3 more" and load_corpus([one, two]).name == f"{one} and 1 more"


def test_a_text_without_blank_lines_is_cut_at_line_ends(write):
    lines = [f"Line {i} of a long text without any blank line" for i in range(900)]
    corpus = load_corpus(write("book.txt", "\n".join(lines)))
    found = "\n".join(corpus.train + corpus.validation).split("\n")
    assert sorted(found) == sorted(lines), "cutting must lose nothing"
    assert 0.05 < len(corpus.validation) / len(corpus.train) < 0.2
    assert all(900 < len(text) < 2_000 for text in corpus.train)
    assert f"cut one long document into {len(corpus.train + corpus.validation)} pieces" in corpus.notes[0]


@pytest.mark.parametrize(
    "text",
    ["A sentence of a text. " * 500, "no punctuation at all " * 500, "猫が好きです。" * 900]
    + ["x" * 5_300, "x" * 250 + " " + "x" * 300, "line\n" * 70, "Short. But two."],
)
def test_cut_loses_nothing_and_keeps_to_the_size(text):
    pieces = cut(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    size = min(data.PIECE, max(data.SHORTEST_PIECE, len(text) // 10))
    assert all(0 < len(piece) <= 2 * size for piece in pieces)
    assert all(len(piece) > size - 2 for piece in pieces[:-1]), "pieces much shorter than asked for"
    assert (len(pieces) > 1) == (len(text) > size)


def test_a_document_of_two_pieces_is_said_to_be_cut(write):
    found = load_corpus(write("two.txt", "word " * 30))
    assert found.notes == ("cut one long document into 2 pieces, at line and sentence ends",)
    assert len(found.train) == len(found.validation) == 1


def test_cut_ends_a_piece_where_a_sentence_ends():
    text = " ".join(f'He said "number {i}!" And on. It took 3.14 seconds (or so).' for i in range(200))
    assert all(piece[-1] in '.!")' for piece in cut(text))


def test_only_a_document_of_more_than_half_is_cut(write):
    giant = "".join(f"A long line {i} of text.\n" for i in range(300))
    first, other = write("a.txt", f"first\n\n{giant}\n\nlast"), write("b.txt", "other")
    corpus = data.files_corpus([str(first), str(other)], "strict")
    assert len(corpus.train) > 5 and len(corpus.validation) > 1
    equal = write("c.txt", "A line.\n" * 500 + "\n" + "B line.\n" * 500)
    assert len(load_corpus(equal).train) == 1 and load_corpus(equal).notes == ()


@pytest.mark.parametrize(
    ("text", "n_held"),
    [("word", 1), ("word\n\nword\n", 2), ("One sentence of a few words.", 1), ("\n \n", 0)],
)
def test_too_little_text_is_refused(write, message, text, n_held):
    found = message(load_corpus, write("a.txt", text))
    assert f"found 0 training and {n_held} validation documents, expected at least two different" in found
    assert len(load_corpus(write("b.txt", "one\n\ntwo")).train) == 1, "two are enough"


def test_empty_files_are_passed_over(tmp_path, write):
    write("empty.txt", "\n \n"), write("full.txt", play(12))
    corpus = load_corpus(tmp_path)
    assert corpus.notes == ("skipped 1 empty files",) and len(corpus.train + corpus.validation) == 12


def test_what_is_neither_a_source_nor_a_path(tmp_path, monkeypatch, write, message):
    monkeypatch.chdir(tmp_path)
    write("plays.txt", play(12))
    assert data.checked_sources(tmp_path / "plays.txt", data.SOURCES) == [str(tmp_path / "plays.txt")]
    assert data.checked_sources(["plays.txt", "."], data.SOURCES) == ["plays.txt", "."]
    for near in ("world", "plays.txt", "world:reports", "python-docs", "world:few-shot"):
        assert f"did you mean '{near}'" in message(load_corpus, near.replace("o", "oo", 1).replace("pl", "p"))
    assert "only files and folders can be joined" in message(load_corpus, ["world", "plays.txt"])
    assert load_corpus("plays.txt").train


def test_n_documents_draws_from_training_only(write):
    path = write("a.txt", play(100).encode() + b"\n\nlast \xff")
    whole, few = (load_corpus(path, seed=1, n_documents=n, errors="replace") for n in (None, 7))
    assert few.train == draw(whole.train, 7, 1) and few.validation == whole.validation
    few = load_corpus(path, n_documents=7, errors="replace")
    assert few.train == draw(whole.train, 7, 0), "seed 0 where none is given"
    assert "last \ufffd" in [*whole.train, *whole.validation], "--errors replace reads on"


def test_a_world_so_small_that_training_has_it_all_is_named(monkeypatch, message):
    monkeypatch.setattr(data.world, "documents", lambda n, seed, domain: ["Ana sat.", "Rui ran."])
    assert "found 2 training and 0 validation documents" in message(load_corpus, "world")


@pytest.mark.parametrize("source", [name for name in data.SOURCES if name.startswith("world")])
def test_world_parts_share_no_document_and_know_their_floor(source, monkeypatch):
    monkeypatch.setattr(data, "WORLD_VALIDATION", 100)
    corpus, domain = load_corpus(source, seed=3, n_documents=400), source.partition(":")[2] or "stories"
    if "few-shot" in source:
        assert corpus.train == world.few_shot_documents(400, 3, repeats=domain == "few-shot")
        assert corpus.floor is None, "the pairings are drawn by no grammar that the world can score"
    else:
        assert corpus.train == world.documents(400, 3, domain=domain)
        floors = [corpus.floor(text) for text in corpus.validation[:20]]
        assert floors == [world.log_probability(text, domain=domain) for text in corpus.validation[:20]]
    assert corpus.name == source and len(corpus.validation) == 100
    assert not set(corpus.train) & set(corpus.validation), "a model would be tested on what it has read"
    fewer = load_corpus(source, seed=3, n_documents=9).validation
    assert len({*fewer} & {*corpus.validation}) > 90, "models trained on fewer documents are not comparable"


def test_sizes_are_those_of_the_figures_in_the_readmes():
    assert (data.WORLD_TRAIN, data.WORLD_VALIDATION) == (20_000, 1_000)
    assert (data.VALIDATION_SEED, data.VALIDATION_SHARE) == (1_000_003, 10)
    assert (data.PIECE, data.SHORTEST_PIECE) == (1_000, 100)


def test_validation_stories_that_were_trained_on_are_passed_over():
    asked = []

    def write(n, seed):
        asked.append((n, seed))
        return [f"Story {(seed * 7 + i) % 1_300}" for i in range(n)]

    train, validation = data.world_parts(write, 200, 0)
    assert asked == [(200, 0), (2_000, 1_000_003)], "twice as many as are needed, of another seed"
    assert train == write(200, 0) and validation and not set(train) & set(validation)


def test_where_nothing_ends_a_piece_is_twice_as_long_as_asked_for():
    assert list(map(len, cut("x" * 5_300))) == [1_060] * 5, "a tenth, twice"
    assert list(map(len, cut("x" * 25_000))) == [2_000] * 12 + [1_000]
    assert list(map(len, cut("x" * 101))) == [101] and cut("x" * 100) == ["x" * 100]
    line = "a" * 150 + " " + "b" * 30
    assert cut(line + "\n" + "c" * 90) == [line, "c" * 90], "a line"
    assert cut("a" * 150 + " " + "b" * 90) == ["a" * 150, "b" * 90], "a word, where no line or sentence ends"


def bytes_of(texts) -> int:
    return sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("store", [None, "tokens"])
def test_sources_share_the_bytes_that_are_trained_on_by_their_weights(store, tmp_path, write, monkeypatch):
    monkeypatch.setattr(data, "LARGE", 5_000)  # both files are larger: with a store they are kept there
    first, other = write("a.txt", play(60, 1)), write("b.txt", play(200, 2))
    plain = load_corpus([first, other], store=store and tmp_path / store)
    mixed = load_corpus([f"{first}:0.75", f"{other}:.25"], store=store and tmp_path / store)
    assert mixed.validation == plain.validation and {*mixed.train} == {*plain.train}, "each text is there"
    texts = [*mixed.train]
    assert {*texts} <= {*speeches(60, 1), *speeches(200, 2)}, "a text is not read back as it was written"
    parts = [[text for text in texts if text.startswith(f"Speaker {i}.")] for i in (1, 2)]
    assert bytes_of(parts[0]) / bytes_of(texts) == pytest.approx(0.75, abs=0.01), "characters are no bytes"
    assert len(parts[1]) == len({*parts[1]}), "the source with text enough comes once"
    n = [texts.count(text) for text in {*parts[0]}]
    assert max(n) - min(n) == 1, "no text comes more often than another of its source, but by a rest"
    assert [*texts[: len(plain.train)]] == [*plain.train], "a text beside its copy teaches to copy"
    share = bytes_of(parts[0]) / bytes_of({*parts[0]})
    told = (f"{first}: 0.75 of the training bytes, each text {share:.1f} times",)
    assert mixed.notes[-2:] == (*told, f"{other}: 0.25 of the training bytes, each text 1.0 times")


def test_weights_count_by_their_ratio_and_equal_ones_are_a_mix_in_equal_parts(write):
    files = write("a.txt", play(50, 1)), write("b.txt", play(80, 2))
    halves, twos = (load_corpus([f"{file}:{w}" for file in files]).train for w in ("0.5", "2"))
    assert halves == twos and len(halves) > 117
    told = load_corpus([f"{files[0]}:6", f"{files[1]}:2"]).notes
    assert told[0].startswith(f"{files[0]}: 0.75 of") and told[1].startswith(f"{files[1]}: 0.25 of")
    lone = load_corpus(f"{files[0]}:3")
    assert lone.train == load_corpus(files[0]).train and lone.name == str(files[0])


@pytest.mark.skipif(os.name == "nt", reason="no name has a colon on Windows")
def test_a_name_with_a_colon_is_a_file_where_there_is_one(write):
    file = write("plays.txt", play(30))
    file.with_name("plays.txt:2").mkdir()
    other = write("plays.txt:2/other.txt", play(30, 7))
    assert load_corpus(f"{file}:2").train == load_corpus(other).train
    assert load_corpus(f"{file}:3").train == load_corpus(file).train


def test_weights_that_say_nothing_are_refused(write, message):
    a, b = write("a.txt", play(30)), write("b.txt", "")
    for sources in ([f"{a}:1", b], [a, f"{b}:1"], [f"{a}:1", f"{b}:0"]):
        assert "no weight above 0; give each one (a.txt:0.7), or none" in message(load_corpus, sources)
    assert "b.txt: no training text of its own" in message(load_corpus, [f"{a}:1", f"{b}:1"])
    assert "no such file" in message(load_corpus, [f"{a}:1", f"{b}.no:1"])
    assert "world stands alone, without a weight" in message(load_corpus, ["world:1", f"{a}:1"])
    for alone in ("world:1", "world:reports:0.5", "python-docs:2"):
        assert "stands alone, without a weight" in message(load_corpus, alone), "it would be passed over"


def test_a_vocabulary_is_made_of_a_sample_of_stored_text(tmp_path, write, monkeypatch):
    monkeypatch.setattr(data, "LARGE", 5_000), monkeypatch.setattr(data, "SAMPLE", 3_000)
    corpus = load_corpus(write("a.txt", play(300)), store=tmp_path / "tokens")
    assert bytes_of(corpus.train) > 20_000 and 2_000 < bytes_of(corpus.texts()) < 4_500, "bytes, about"
