"""python-docs: what stands in it, that nothing stands twice, and that nothing is imported to get it."""

import sys
import types

import pytest

from minilm.plumbing.errors import UserError
from minilm.texts import python_docs
from minilm.texts.files import one_line

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
def library(tmp_path, monkeypatch):
    """A standard library of four modules, and reference prose of two topics."""
    for name, text in {
        "alpha.py": SOURCE,
        "beta/__init__.py": '"""The package beta, described."""',
        "beta/part.py": 'def f():\n    """The package beta,   described."""\ndef g():\n    """Only in g."""',
        "betatron.py": '"""Another module, not under beta."""',
        "silent.py": "x = 1",
        "broken.py": '"""Never closed and no Python."',
        "latin.py": '"""caf\xe9, not UTF-8, and long."""',
        "test/test_alpha.py": '"""A test that is not for reading."""',
        "site-packages/other.py": '"""Another distribution, installed here."""',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    monkeypatch.setattr(python_docs, "library_folder", lambda: tmp_path)
    prose = types.ModuleType("pydoc_data.topics")
    prose.topics = {"b": "Second topic.\n\nShared   paragraph.", "a": "First topic.\n\nShared\nparagraph.\n"}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", prose)
    python_docs.documents.cache_clear()
    yield tmp_path
    python_docs.documents.cache_clear()


def test_library_folder_is_where_this_python_keeps_its_modules():
    assert (python_docs.library_folder() / "os.py").exists()


def test_module_files_are_named_sorted_and_without_tests(library):
    names = [name for name, _ in python_docs.module_files(library)]
    assert names == ["alpha", "betatron", "broken", "latin", "silent", "beta", "beta.part"]
    assert all(path.is_file() for _, path in python_docs.module_files(library))


def test_docstrings_of_module_classes_and_functions():
    assert python_docs.docstrings(SOURCE) == [
        "The module's text,\nindented below.",
        "What outer does, said at length.",
        "A thing with a text of its own.",
        "What inner does, said at length.",
        "A method's text with an old escape: \\d and more.",
    ], "indentation goes, texts shorter than SHORTEST go, everything nested stays"


def test_docstrings_of_old_escapes_give_no_warning(recwarn):
    assert python_docs.docstrings('"""A text with an \\d escape, long enough."""')
    assert not recwarn.list, "a warning about the library's source is noise for a student"


def test_topic_paragraphs_stand_once():
    topics = {"b": "x y\n\nshared", "a": "shared \n\n\nlast\n  line"}
    assert python_docs.topic_paragraphs(topics) == [["shared ", "last\n  line"], ["x y"]]


def test_topic_documents_are_of_moderate_size_and_lose_nothing():
    paragraphs = [f"Paragraph {i}: " + "word " * (7 * i + 3) for i in range(40)]
    found = python_docs.topic_documents({"one": "\n\n".join(paragraphs), "two": "A short topic."})
    assert one_line(" ".join(found)) == one_line(" ".join([*paragraphs, "A short topic."]))
    assert found[-1] == "A short topic.", "a document never runs over two topics"
    longest = max(map(len, paragraphs))
    sizes = [len(text) for text in found[:-2]]  # the last of a topic may be short
    assert all(python_docs.TOPIC_SIZE <= size <= python_docs.TOPIC_SIZE + longest + 200 for size in sizes)


def test_documents_are_prose_and_docstrings_without_duplicates(library):
    found = python_docs.documents()
    words = [one_line(text) for text in found]
    assert len(set(words)) == len(words), "a duplicate could be in both parts of a split"
    assert "First topic. Shared paragraph." in words and "Second topic." in words
    assert words.count("The package beta, described.") == 1 and "Only in g." not in words
    assert not any("test" in text or "distribution" in text or "UTF-8" in text for text in words)


def test_a_package_gives_the_docstrings_under_it_only(library):
    assert [one_line(text) for text in python_docs.documents("beta")] == ["The package beta, described."]
    assert len(python_docs.documents("alpha")) == 5


def test_unknown_and_silent_packages(library):
    with pytest.raises(UserError, match=r"python-docs:bta: no such module.*did you mean 'beta'"):
        python_docs.documents("bta")
    with pytest.raises(UserError, match="no docstrings"):
        python_docs.documents("silent")


def test_what_an_installation_lacks_is_left_out(library, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)  # importing it now raises ImportError
    assert len(python_docs.documents()) == 7, "without pydoc_data the docstrings remain"
    monkeypatch.setattr(python_docs, "library_folder", lambda: library / "absent")
    python_docs.documents.cache_clear()
    with pytest.raises(UserError, match="neither pydoc_data nor sources"):
        python_docs.documents()


def test_prose_remains_without_sources(library, monkeypatch):
    monkeypatch.setattr(python_docs, "library_folder", lambda: library / "absent")
    assert len(python_docs.documents()) == 2


def test_this_python_once_and_without_importing_the_library():
    python_docs.documents.cache_clear()
    before = set(sys.modules)
    found = python_docs.documents()
    assert len(found) > 200 and sum(map(len, found)) > 100_000
    imported = {name for name in set(sys.modules) - before if not name.startswith("pydoc_data")}
    assert not imported, f"reading docstrings imported {sorted(imported)[:5]}"
    assert python_docs.documents() is found, "a second call in a process reads no file again"
