"""Sources -> documents: no validation document is in the training part, and the split is what it says."""

import gzip
import json
import math
import random

import pytest

from minilm import world
from minilm.plumbing.errors import UserError
from minilm.texts import corpus as data
from minilm.texts import python_docs
from minilm.texts.corpus import (
    Corpus,
    cut,
    cut_giant,
    last_tenth,
    load_corpus,
    sentences,
    split,
    split_by_hash,
    without,
)
from minilm.texts.files import one_line


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def message(*arguments, **keywords) -> str:
    with pytest.raises(UserError) as error:
        load_corpus(*arguments, **keywords)
    text = str(error.value)
    assert "\n" not in text, "an error for the user is one line"
    return text


def speeches(n: int, seed: int = 0) -> list[str]:
    """n different documents of unequal lengths, some with letters of two bytes."""
    rng = random.Random(seed)
    return [f"Speaker {seed}.{i}:\n" + "é word " * rng.randint(1, 30) + "end." for i in range(n)]


def test_corpus_counts_bytes_not_characters():
    corpus = Corpus("name", ["né", "abc"], ["日本"])
    assert corpus.train_bytes == 6 and corpus.validation_bytes == 6
    assert "name: 2 training documents" in corpus.summary() and "1 validation document" in corpus.summary()
    assert corpus.floor is None


def test_the_validation_part_is_the_last_tenth_of_the_file(tmp_path):
    documents = speeches(211)
    corpus = load_corpus(write(tmp_path / "play.txt", "\n\n".join(documents)))
    assert corpus.train + corpus.validation == documents, "the split must keep the order and lose nothing"
    total = corpus.train_bytes + corpus.validation_bytes
    assert corpus.validation_bytes <= total / 10, "more than the last tenth of the file is held out"
    assert corpus.validation_bytes + len(corpus.train[-1].encode()) > total / 10, "less than the last tenth"
    for seed in (1, 2):
        assert load_corpus(str(tmp_path / "play.txt"), seed=seed).validation == corpus.validation


def test_last_tenth_counts_bytes():
    assert last_tenth(["a" * 10] * 10) == 9
    assert last_tenth(["a" * 10] * 30) == 27
    assert last_tenth(["é" * 60, "a" * 5, "b" * 5]) == 1, (
        "é is two bytes: the second document begins after 90 %"
    )
    assert last_tenth(["a", "b" * 1_000]) == 1, "at least the last document is held out"


def test_duplicates_leave_the_training_part_and_stay_in_validation(tmp_path):
    documents = [
        *speeches(60),
        "ROMEO:\nAy  me!",
        *speeches(60, seed=1)[:55],
        "ROMEO:\nAy me!",
        "All:\nAmen.",
        "All:\nAmen.",
    ]
    corpus = load_corpus(write(tmp_path / "play.txt", "\n\n".join(documents)))
    assert corpus.validation == documents[last_tenth(documents) :], (
        "validation is no longer the end of the file"
    )
    assert "ROMEO:\nAy  me!" not in corpus.train, "a validation document, spaced otherwise, was trained on"
    assert corpus.validation.count("All:\nAmen.") == 2, "repetition within a part is part of the text"
    assert corpus.n_removed == 1 and any("removed 1 " in note for note in corpus.notes)
    assert not set(map(one_line, corpus.train)) & set(map(one_line, corpus.validation))


def test_repetition_within_the_training_part_stays(tmp_path):
    corpus = load_corpus(write(tmp_path / "a.txt", "\n\n".join(["Yes."] * 5 + speeches(30))))
    assert corpus.train.count("Yes.") == 5 and corpus.n_removed == 0 and corpus.notes == ()


def test_without_compares_words_not_spacing():
    assert without(["a  b", "ab", "c", "c"], ["a\nb", "d"]) == ["ab", "c", "c"]


def test_files_of_one_document_are_drawn_whole_by_seed(tmp_path):
    texts = speeches(40)
    for i, text in enumerate(texts):
        write(tmp_path / "corpus" / f"{i // 7}" / f"{i:02}.txt", text)
    found = [load_corpus(str(tmp_path / "corpus"), seed=seed) for seed in range(4)]
    assert all(len(corpus.validation) == 4 and len(corpus.train) == 36 for corpus in found)
    assert all(sorted(corpus.train + corpus.validation) == sorted(texts) for corpus in found)
    assert len({tuple(corpus.validation) for corpus in found}) > 1, "the draw must depend on the seed"
    assert load_corpus(str(tmp_path / "corpus"), seed=3).validation == found[3].validation


def test_split_deals_small_files_whole_and_large_ones_at_their_end():
    large, other, small = speeches(100), speeches(50, seed=1), [speeches(3, seed=9 + i) for i in range(20)]
    train, validation = split([large, *small, other], seed=5)
    assert sorted(train + validation) == sorted([*large, *other, *(text for part in small for text in part)])
    assert all(set(part) <= set(train) or set(part) <= set(validation) for part in small), (
        "a small file was cut"
    )
    assert sum(set(part) <= set(validation) for part in small) == 2
    assert set(large[-5:]) <= set(validation) and set(other[-2:]) <= set(validation)
    assert set(large[:80]) <= set(train)


def test_split_cuts_every_file_of_ten_documents():
    files = [[f"file {i}, document {j}" for j in range(10)] for i in range(6)]
    train, validation = split(files, seed=0)
    assert train + validation == [d for f in files for d in f[:9]] + [f[9] for f in files]


def test_split_gives_both_parts_something():
    for files in ([["a", "b"]], [["a"], ["b"]], [["a"], speeches(12)], [speeches(4), ["b"]]):
        for seed in range(4):
            train, validation = split(files, seed)
            assert train and validation and len(train) + len(validation) == sum(map(len, files))


def test_several_paths_and_each_file_once(tmp_path):
    one = write(tmp_path / "a" / "one.txt", "\n\n".join(speeches(20)))
    two = write(
        tmp_path / "two.jsonl.gz",
        gzip.compress("\n".join(json.dumps({"text": t}) for t in speeches(30, 1)).encode()),
    )
    corpus = load_corpus([one, two, str(tmp_path / "a"), tmp_path / "a" / ".." / "two.jsonl.gz"])
    assert sorted(corpus.train + corpus.validation) == sorted(speeches(20) + speeches(30, 1))
    assert corpus.name.startswith(one) and "3 more" in corpus.name


def test_a_text_without_blank_lines_is_cut_at_line_ends(tmp_path):
    lines = [f"Line {i} of a long text without any blank line" for i in range(900)]
    corpus = load_corpus(write(tmp_path / "book.txt", "\n".join(lines)))
    assert "\n".join(corpus.train + corpus.validation).split("\n") == lines, "cutting must lose nothing"
    assert 0.06 < corpus.validation_bytes / corpus.train_bytes < 0.14
    assert all(900 < len(text) < 2_000 for text in corpus.train)
    assert any("cut one long document" in note for note in corpus.notes), "the user must be told"


@pytest.mark.parametrize(
    "text",
    [
        "A sentence of a text. " * 500,
        "no punctuation at all " * 500,
        "猫が好きです。" * 900,
        "x" * 5_300,
        "line\n" * 70,
        "Short. But two.",
    ],
)
def test_cut_loses_nothing_and_keeps_to_the_size(text):
    pieces = cut(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    size = min(data.PIECE, max(data.SHORTEST_PIECE, len(text) // 10))
    assert all(0 < len(piece) <= 2 * size for piece in pieces)
    assert all(len(piece) > size - 2 for piece in pieces[:-1]), "pieces much shorter than asked for"
    assert (len(pieces) > 1) == (len(text) > size)


def test_cut_ends_a_piece_where_a_sentence_ends():
    text = " ".join(
        f'He said "number {i}!" And he went on. It took 3.14 seconds (or so).' for i in range(200)
    )
    assert all(piece[-1] in '.!")' for piece in cut(text))
    words = " ".join(f"word{i}" for i in range(900))
    assert " ".join(cut(words)).split() == words.split(), "a word was cut though spaces were near"


def test_only_a_document_of_more_than_half_is_cut():
    giant = "A long line of text.\n" * 300
    files, n_pieces = cut_giant([["first", giant, "last"], ["other"]])
    assert n_pieces == len(files[0]) - 2 > 3 and files[1] == ["other"]
    assert files[0][0] == "first" and files[0][-1] == "last", "pieces must stand where the document stood"
    equal = [["A line.\n" * 500, "B line.\n" * 500]]
    assert cut_giant(equal) == (equal, 0)
    assert cut_giant([["word"]]) == ([["word"]], 0)


@pytest.mark.parametrize("text", ["word", "word\n\nword\n", "One sentence of a few words."])
def test_too_little_text_is_refused(tmp_path, text):
    assert "at least two different documents" in message(write(tmp_path / "a.txt", text))


def test_two_documents_are_enough(tmp_path):
    corpus = load_corpus(write(tmp_path / "a.txt", "one\n\ntwo"))
    assert (corpus.train, corpus.validation) == (["one"], ["two"])


def test_empty_files_are_named_but_passed_over_in_a_folder(tmp_path):
    empty = write(tmp_path / "corpus" / "empty.txt", "\n \n")
    write(tmp_path / "corpus" / "full.txt", "\n\n".join(speeches(12)))
    assert "empty.txt: empty file" in message(empty)
    assert "empty file" in message([str(tmp_path / "corpus" / "full.txt"), empty])
    assert any("1 empty" in note for note in load_corpus(str(tmp_path / "corpus")).notes)


def test_what_is_neither_a_source_nor_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "plays.txt", "\n\n".join(speeches(12)))
    assert "did you mean 'world'" in message("wrold") and "python-docs" in message("nothing-like-it")
    assert "did you mean 'python-docs'" in message("python-dcs")
    assert "did you mean 'plays.txt'" in message("play.txt")
    assert "did you mean 'world:reports'" in message("world:report")
    assert "only files and folders" in message(["world", "plays.txt"])
    assert "expected one of world" in message([])
    assert "expected 1 or more" in message("world", n_documents=0)
    assert ".jsonl" in message(write(tmp_path / "a.pdf", "x"))
    assert load_corpus("plays.txt").train


def test_errors_replace_reads_on(tmp_path):
    path = write(tmp_path / "a.txt", "\n\n".join(speeches(12)).encode() + b"\n\nlast \xff")
    assert "is not valid UTF-8" in message(path)
    assert load_corpus(path, errors="replace").validation[-1] == "last \ufffd"


def test_n_documents_draws_from_training_only(tmp_path):
    path = write(tmp_path / "a.txt", "\n\n".join(speeches(100)))
    whole, few = load_corpus(path), load_corpus(path, n_documents=7)
    assert len(few.train) == 7 and few.validation == whole.validation
    assert [text for text in whole.train if text in few.train] == few.train, "the order of the file is lost"
    assert load_corpus(path, seed=1, n_documents=7).train != few.train
    assert load_corpus(path, n_documents=5_000).train == whole.train


def test_split_by_hash_does_not_depend_on_the_company():
    documents = speeches(3_000)
    train, validation = split_by_hash(documents, seed=0)
    assert sorted(train + validation) == sorted(documents) and not set(train) & set(validation)
    assert abs(len(validation) - 300) < 5 * math.sqrt(3_000 * 0.09), "about a tenth, within five deviations"
    assert [text for text in documents if text in set(train)] == train
    part = split_by_hash(documents[1_000:1_500], seed=0)
    assert set(part[0]) <= set(train) and set(part[1]) <= set(validation), "a part would leak into the whole"
    assert split_by_hash(documents, seed=1)[1] != validation
    for n in range(2, 30):
        assert split_by_hash(documents[:n], seed=n)[1], "at least one document is for validation"


def test_python_docs_without_leaks_and_its_packages(monkeypatch):
    everything = {"": tuple(speeches(400)), "tkinter": tuple(speeches(400)[100:200])}
    monkeypatch.setattr(python_docs, "documents", everything.__getitem__)
    whole, domain = load_corpus("python-docs"), load_corpus("python-docs:tkinter")
    assert sorted(whole.train + whole.validation) == sorted(everything[""])
    assert sorted(domain.train + domain.validation) == sorted(everything["tkinter"])
    assert not set(domain.validation) & set(whole.train), "the domain's validation part was pre-trained on"
    assert domain.name == "python-docs:tkinter" and domain.floor is None


@pytest.mark.parametrize("source", ["world", "world:reports"])
def test_world_parts_share_no_story_and_know_their_floor(source):
    corpus = load_corpus(source, seed=3, n_documents=400)
    assert len(corpus.train) == 400 and len(corpus.validation) == data.WORLD_VALIDATION
    assert not set(corpus.train) & set(corpus.validation)
    assert all(
        math.isfinite(corpus.floor(text)) and corpus.floor(text) < 0 for text in corpus.validation[:20]
    )
    assert load_corpus(source, seed=3, n_documents=400).validation == corpus.validation
    fewer = load_corpus(source, seed=3, n_documents=9).validation
    assert len(set(fewer) & set(corpus.validation)) > 900, (
        "models trained on fewer stories are not comparable"
    )
    assert load_corpus(source, seed=4, n_documents=400).train != corpus.train
    assert (
        load_corpus("world", seed=3, n_documents=9).train
        != load_corpus("world:reports", seed=3, n_documents=9).train
    )


def test_world_validation_stories_that_were_trained_on_are_passed_over(monkeypatch):
    def few_stories(n, seed, domain):
        return [f"Story {(seed * 7 + i) % 1_300} of {domain}." for i in range(n)]

    monkeypatch.setattr(world, "documents", few_stories)
    corpus = load_corpus("world", seed=0, n_documents=200)
    assert len(corpus.train) == 200 and corpus.validation and corpus.n_removed > 0
    assert not set(corpus.train) & set(corpus.validation), "a model would be tested on stories it has read"


def test_sentences_of_the_world_are_exact():
    for text in load_corpus("world", n_documents=300).train:
        found = sentences(text)
        assert len(found) == 4 and " ".join(found) == text, "a story has four sentences"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('"Go!" she said. "No," he said.', ['"Go!" she said.', '"No," he said.']),
        (
            "He left (at 3.15 p.m. or so). “Why?” asked Zoë… Élan.",
            ["He left (at 3.15 p.m. or so).", "“Why?” asked Zoë…", "Élan."],
        ),
        (
            "It runs\nover a line. And\non.\n\nnew paragraph",
            ["It runs\nover a line.", "And\non.", "new paragraph"],
        ),
        (
            "First Citizen:\nSpeak, speak.\n- item\n2 items",
            ["First Citizen:", "Speak, speak.", "- item", "2 items"],
        ),
        ("Он ушёл. Она осталась. и всё", ["Он ушёл.", "Она осталась. и всё"]),
        ("  \n ", []),
        ("no end", ["no end"]),
    ],
)
def test_sentences_by_rule(text, expected):
    assert sentences(text) == expected


def test_sentences_lose_only_white_space():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(["a", "B", ". ", "!", "\n", " ", '"', "é", "\n\n", "7", "? ", "\t"], k=40))
        found = sentences(text)
        assert " ".join(found).split() == text.split(), f"words of {text!r} were joined or lost"
        assert all(part == part.strip() and part for part in found)


@pytest.mark.parametrize("source", ["world:few-shot", "world:few-shot-no-repeats"])
def test_few_shot_documents_are_a_source(source):
    corpus = load_corpus(source, 3, 50)
    assert corpus.train == world.few_shot_documents(50, 3, repeats=source == "world:few-shot")
    assert len(corpus.validation) == data.WORLD_VALIDATION and not set(corpus.train) & set(corpus.validation)
    assert corpus.floor is None, "the pairings are drawn by no grammar that the world can score"
    assert corpus.name == source


def test_an_unknown_domain_of_the_world_is_suggested():
    with pytest.raises(UserError, match="did you mean 'world:few-shot'"):
        load_corpus("world:few-shots")
