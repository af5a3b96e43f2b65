"""The English of the running Python: prose and docstrings, each once, and no module is imported for them."""

import asyncio
import sys
import types

import pytest

from minilm.texts import python_docs as data
from minilm.texts.corpus import load_corpus, one_line, split_by_hash
from minilm.texts.python_docs import python_docs

SOURCE = '''
"""The module's text,
   indented below.
"""
import nothing_of_this_name

def outer():
    """What outer does, said at length."""
    def inner():
        "What inner does, said at length."

class Thing:
    """A thing with a text of its own."""
    async def method(self):
        r"""A method's text with an old escape: \\d and more."""
    def short(self):
        """Short."""
'''


@pytest.fixture
def library(tmp_path, write, monkeypatch):
    """A standard library of a few modules, and reference prose of two topics."""
    for name, text in {
        "alpha.py": SOURCE,
        "beta/__init__.py": '"""The package beta, described."""',
        "beta/part.py": 'def f():\n    """The package beta,   described."""\ndef g():\n    """Only in g."""',
        "gamma.py": '"""A module at the top, before beta."""',
        "broken.py": '"""Never closed and no Python."',
        "latin.py": '"""caf\xe9, not UTF-8, and long."""'.encode("latin-1"),
        "test/test_alpha.py": '"""A test that is not for reading."""',
        "site-packages/other.py": '"""Another distribution, installed here."""',
    }.items():
        write(name, text)
    monkeypatch.setattr(data, "LIBRARY", tmp_path)
    prose = types.ModuleType("pydoc_data.topics")
    prose.topics = {"b": "Second topic.\n\nShared   paragraph.", "a": "First topic.\n\nShared\nparagraph.\n"}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", prose)
    python_docs.cache_clear()
    yield tmp_path
    python_docs.cache_clear()


DOCSTRINGS = ["The module's text,\nindented below.", "What outer does, said at length."]
DOCSTRINGS += ["A thing with a text of its own.", "What inner does, said at length."]
DOCSTRINGS += ["A method's text with an old escape: \\d and more."]


def test_docstrings_of_module_classes_and_functions(recwarn):
    assert data.docstrings(SOURCE) == DOCSTRINGS, "indentation and short texts go, everything nested stays"
    assert data.docstrings('"""A text with an \\d escape, long enough."""')
    assert data.docstrings(f'"""{"x" * 20}"""') == ["x" * 20] and data.docstrings(f'"""{"x" * 19}"""') == []
    assert not recwarn.list, "a warning about the library's source is noise for a student"


def test_topic_documents_are_of_moderate_size_and_stand_once(library, monkeypatch):
    paragraphs = [f"Paragraph {i}: " + "word " * (7 * i + 3) for i in range(40)]
    topics = {"one": "\n\n".join(paragraphs), "two": f"A short topic.\n \n{paragraphs[3]}\n\n\n"}
    monkeypatch.setattr(sys.modules["pydoc_data.topics"], "topics", topics)
    monkeypatch.setattr(data, "LIBRARY", library / "absent")
    found = python_docs()
    assert one_line(" ".join(found)) == one_line(" ".join([*paragraphs, "A short topic."]))
    assert found[-1] == "A short topic.", "a document never runs over two topics"
    longest = 1_200 + len(paragraphs[-1])
    assert all(1_000 <= len(text) <= longest for text in found[:-2])  # the last may be short


def test_python_docs_are_prose_and_docstrings_without_duplicates(library):
    assert [one_line(text) for text in python_docs()] == [
        "First topic. Shared paragraph.", "Second topic.", *map(one_line, DOCSTRINGS),
        "A module at the top, before beta.", "The package beta, described.",
    ]  # fmt: skip
    corpus = load_corpus("python-docs", seed=1)
    assert (corpus.train, corpus.validation) == split_by_hash(python_docs()) and corpus.floor is None


def test_what_an_installation_lacks_is_left_out(library, monkeypatch, message):
    monkeypatch.setattr(data, "LIBRARY", library / "absent")
    assert len(python_docs()) == 2, "prose remains without sources"
    python_docs.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)  # importing it now raises ImportError
    assert "python-docs: found 0 training" in message(load_corpus, "python-docs")
    python_docs.cache_clear()
    monkeypatch.setattr(data, "LIBRARY", library)
    assert len(python_docs()) == 7, "without pydoc_data the docstrings remain"


@pytest.mark.parametrize("part", ["asyncio", pytest.param("", marks=pytest.mark.reliability)])
def test_this_python_once_and_without_importing_the_library(part, monkeypatch):
    monkeypatch.setattr(data, "LIBRARY", data.LIBRARY / part)
    python_docs.cache_clear()
    before = set(sys.modules)
    found = python_docs()
    assert len(found) > 200 and sum(map(len, found)) > 100_000, "the reference's prose"
    assert asyncio.__doc__.strip() in found, "a docstring of the library"
    imported = {name for name in set(sys.modules) - before if not name.startswith("pydoc_data")}
    assert not imported, f"reading docstrings imported {sorted(imported)[:5]}"
    assert python_docs() is found, "a second call in a process reads no file again"
    python_docs.cache_clear()


@pytest.mark.parametrize("n_letter, n_document", [(1_000, 2), (999, 1)])
def test_a_topic_document_is_full_at_a_thousand_characters(n_letter, n_document, library, monkeypatch):
    topics = {"one": "x" * n_letter + "\n\nThe next paragraph."}
    monkeypatch.setattr(sys.modules["pydoc_data.topics"], "topics", topics)
    monkeypatch.setattr(data, "LIBRARY", library / "absent")
    assert len(python_docs()) == n_document
