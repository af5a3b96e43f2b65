"""Text larger than memory: its files give what lists in memory do, and none is half written."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from minilm import world
from minilm.plumbing import stored as module
from minilm.plumbing.errors import UserError
from minilm.plumbing.stored import StoredTexts, stored, token_rows
from minilm.pretraining.causal import Causal, ended
from minilm.pretraining.denoising import Denoising
from minilm.pretraining.masked import Masked
from minilm.pretraining.next_sentence import sentence_rows
from minilm.texts import corpus as data
from minilm.texts.corpus import Corpus, load_corpus
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.tokenizer.wordpiece import WordPiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on Windows")
OBJECTIVES = {
    "causal": Causal,
    "masked": Masked,
    "packed": lambda *given: Masked(*given, next_sentence=False),
    "denoising": Denoising,
}


@pytest.fixture(scope="module")
def text():
    """Documents of unequal lengths, one of them with letters of two bytes and one twice."""
    short = world.documents(150, seed=1)
    pairs = [f"{a} {b}" for a, b in zip(short, reversed(short), strict=True)]
    return [*short, "Olá, está lá. É assim!", *pairs, short[3]]


@pytest.fixture(scope="module")
def bpe(text):
    return BPE.train(text, 400, SPECIAL_TOKENS)


@pytest.fixture
def texts(tmp_path, text):
    sizes = [len(document.encode()) for document in text]
    path = tmp_path / "texts-1.bin"
    make = lambda: ((document.encode(), [n]) for document, n in zip(text, sizes, strict=True))
    _, column = stored(path, make, np.uint8)
    assert column.tolist() == sizes
    return StoredTexts(path, np.append(0, column.cumsum()), np.arange(len(text)))


@pytest.fixture
def large(monkeypatch, tmp_path, text):
    """Return a function that loads the same file, kept in a store or in memory."""
    monkeypatch.setattr(data, "LARGE", 20_000)
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(text), encoding="utf-8")
    return lambda store="tokens", **options: load_corpus(file, store=store and tmp_path / store, **options)


@pytest.fixture(autouse=True)
def _fork(monkeypatch):
    """Fork where that can be: a new Python would import PyTorch for each pool, for longer than PATIENCE."""
    if "fork" in multiprocessing.get_all_start_methods():
        monkeypatch.setattr(module, "Pool", multiprocessing.get_context("fork").Pool)


def test_stored_texts_are_a_sequence(texts, text):
    assert [*texts] == text and texts[-1] == text[-1] and len(texts) == len(text)
    few = texts[np.array([7, 150, 2])][1:]
    assert [*few] == [text[150], text[2]], "numbers of a part count within the part"
    assert [*texts[3:5]] == text[3:5]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_batches_are_those_of_a_corpus_in_memory(name, texts, text, bpe, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 900)  # several pieces, that several processes work on
    few = texts[np.arange(5, 290)]
    both = Corpus("stored", few, text[:5]), Corpus("memory", text[5:290], text[:5])
    ours, plain = (OBJECTIVES[name](corpus, bpe, 24, 7, 3) for corpus in both)
    for split, steps in (("train", range(5)), ("validation", [0])):
        for step in steps:
            a, b = (objective.batch(step, split) for objective in (ours, plain))
            assert a.keys() == b.keys()
            for key in a:
                assert a[key].dtype == b[key].dtype and a[key].equal(b[key]), f"{split}, step {step}: {key}"
    assert ours.notes == plain.notes


@pytest.mark.parametrize("n_process", [1, 3])
def test_several_processes_make_what_one_makes(n_process, texts, text, bpe, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 700)
    monkeypatch.setattr(os, "cpu_count", lambda: n_process)
    if n_process > 1:
        monkeypatch.setattr(module, "Pool", multiprocessing.Pool)  # as this Python starts processes
    for rows_of, options in ((ended, (5,)), (sentence_rows, ())):
        found, plain = (token_rows(all_of, bpe, rows_of, *options, first=("",)) for all_of in (texts, text))
        for a, b, what in zip(found, plain, ("ids", "lengths of rows", "rows of documents"), strict=True):
            assert np.array_equal(a, b), what
        assert found[0].dtype == np.uint16 and found[1].sum() == len(found[0])


def test_a_second_start_does_not_tokenise_again(texts, bpe, monkeypatch, tmp_path):
    first = token_rows(texts, bpe, sentence_rows)[0]
    monkeypatch.setattr(module, "Pool", None)
    bpe.save(tmp_path / "tokenizer.json")
    again = BPE.load(tmp_path / "tokenizer.json")
    assert np.array_equal(token_rows(texts, again, sentence_rows)[0], first)


def last_id(tokenizer, document: str) -> list[list[int]]:
    return [[tokenizer.vocab_size - 1]]


@pytest.mark.parametrize("n, dtype", [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_have_room_in_two_bytes_or_take_four(n, dtype, texts):
    tokenizer = WordPiece([*SPECIAL, *map(str, range(n - len(SPECIAL)))])
    ids = token_rows(texts, tokenizer, last_id)[0]
    assert ids.dtype == dtype and {*ids.tolist()} == {n - 1}, "the last ids of many become small ones"


def noted(tokenizer, document: str, folder: str, fatal: str, number: int) -> list[list[int]]:
    """Rows of a document that is noted in a file; at the `fatal` one something happens, once."""
    with open(Path(folder, "noted.txt"), "a") as file:
        file.write(f"{document}\n")
    if document == fatal and not (once := Path(folder, "once")).exists():
        once.touch()
        os.kill(os.getpid(), number)
    return [tokenizer.encode(document)]


@forks
@pytest.mark.parametrize("n_process", [2, pytest.param(1, marks=pytest.mark.reliability)])
def test_tokens_go_on_where_a_process_was_killed(n_process, texts, text, bpe, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PIECE", 700), monkeypatch.setattr(module, "PATIENCE", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: n_process)
    rest = (noted, str(tmp_path), text[200], signal.SIGKILL)
    with pytest.raises(UserError, match=r"a process died \(out of memory\?\); run the command again"):
        token_rows(texts, bpe, *rest)
    assert not [*tmp_path.glob("tokens-*.bin")] and [*tmp_path.glob("tokens-*.npz")], "what was made is kept"
    seen = Path(tmp_path, "noted.txt").read_text().splitlines()
    assert np.array_equal(token_rows(texts, bpe, *rest)[0], token_rows(text, bpe, *rest)[0])
    again = Path(tmp_path, "noted.txt").read_text().splitlines()[len(seen) : -len(text)]
    assert text[0] in seen and text[0] not in again, "all of it was tokenised anew"
    assert {*seen, *again} == {*text} and len(again) < len(text) / 2
    assert len([*tmp_path.glob("tokens-*.npz")]) == 1, "the pieces have served: what is left are the columns"


@forks
def test_a_process_that_misses_the_signal_to_end_ends_all_the_same(texts, bpe, monkeypatch, tmp_path):
    """Python loses a signal that comes while its handler is changed, as a process does that begins late."""

    def late_and_deaf():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # so that this test ends if it fails
        with suppress(FileExistsError):
            (tmp_path / "late").mkdir()
            time.sleep(1)

    monkeypatch.setattr(module, "follow_parent", late_and_deaf)
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits for ever: join the pool before"))
    signal.alarm(30)
    try:
        token_rows(texts, bpe, ended, 5)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_another_text_tokenizer_or_kind_of_rows_is_another_file(texts, text, bpe):
    other = BPE(bpe.vocab, bpe.merges[:-1], bpe.special_tokens)
    pieces = WordPiece([*SPECIAL, "a", "##b"])
    calls = [(texts, bpe, ended, 5), (texts, bpe, ended, 6), (texts, bpe, sentence_rows)]
    calls += [(texts, other, ended, 5), (texts, pieces, ended, 5), (texts[1:], bpe, ended, 5)]
    for n, call in enumerate(calls, start=1):
        token_rows(*call)
        assert len([*texts.path.parent.glob("tokens-*.bin")]) == n, call[2:]
        expected = token_rows([*call[0]], *call[1:])[0]
        assert np.array_equal(token_rows(*call)[0], expected), "the tokens of another file were taken"


@forks
def test_who_is_killed_leaves_no_file_of_that_name(tmp_path):
    def slow():
        yield b"half", [4]
        (tmp_path / "begun").touch()
        time.sleep(60)

    path = tmp_path / "store" / "texts-1.bin"
    child = multiprocessing.get_context("fork").Process(target=stored, args=(path, slow, np.uint8))
    child.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not path.exists() and all(file.suffix == ".tmp" for file in path.parent.iterdir())
    assert stored(path, lambda: [(b"all", [2]), (b" of it", [3])], np.uint8)[0].tobytes() == b"all of it"
    with pytest.raises(ZeroDivisionError):
        stored(tmp_path / "b.bin", lambda: ((b"", [1 // n]) for n in (1, 0)), np.uint8)
    assert not [*tmp_path.glob("b.bin*")], "an error leaves its temporary file"


def test_a_large_corpus_is_split_as_one_in_memory(large):
    ours, plain = large(), large(store=None)
    assert isinstance(ours.train, StoredTexts) and isinstance(plain.train, list)
    assert [*ours.train] == plain.train and ours.validation == plain.validation
    assert ours.train_bytes == plain.train_bytes and ours.name == plain.name
    assert [*large(n_documents=9, seed=2).train] == large(store=None, n_documents=9, seed=2).train
    assert isinstance(data.without(ours.train, plain.train[:4]), StoredTexts)
    assert [*data.without(ours.train, plain.train[:4])] == data.without(plain.train, plain.train[:4])


def test_few_of_a_large_corpus_validate_and_a_sample_makes_the_vocabulary(large, monkeypatch):
    plain = large(store=None)
    monkeypatch.setattr(data, "SAMPLE", 3_000)
    ours = large()
    n = sum(len(document.encode()) for document in ours.validation)
    assert 8 <= len(ours.validation) < len(plain.validation) and n < 4_000
    assert set(ours.validation) < set(plain.validation) and [*ours.train] == plain.train
    sample = sum(len(document.encode()) for document in ours.texts())
    assert 1_500 < sample < 6_000 and set(ours.texts()) < set(ours.train)


def test_a_changed_file_is_read_anew(large, tmp_path):
    before = large().train
    file = tmp_path / "text.txt"
    changed = file.read_bytes().replace(b"Ana", b"Eva")
    file.write_bytes(changed)
    after = large().train
    assert before.path != after.path, "the old text was taken: a name of the same size has changed in it"
    assert not any("Ana" in document for document in after)
