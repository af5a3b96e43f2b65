"""The English that every Python installation carries: the language reference and the library's docstrings.

About half a megabyte of reference prose (`pydoc_data.topics`) and one and a half of docstrings. Docstrings
are parsed out of the source files (`ast`); no module of the library is imported for them, so nothing runs.
"""

import ast
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..plumbing.errors import UserError, suggest
from .files import one_line

SKIPPED_FOLDERS = ("test", "tests", "idle_test", "__pycache__", "pydoc_data")
SHORTEST = 20  # characters; shorter docstrings are mostly a name again
TOPIC_SIZE = 1_000  # characters of reference prose in one document, at least, where the topic has them


def library_folder() -> Path:
    """Return the folder of the standard library's source files."""
    return Path(sysconfig.get_paths()["stdlib"])


def module_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (dotted module name, file) for each source file of the library, sorted, without its tests.

    A folder whose name no module can have, such as site-packages, holds no module of the library.
    """
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name.isidentifier())
        for name in sorted(names):
            if name.endswith(".py"):
                file = Path(root, name)
                parts = file.relative_to(folder).with_suffix("").parts
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def docstrings(source: str) -> list[str]:
    """Return the docstrings of a module, its classes and functions, without indentation, breadth first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in string literals are not the user's concern
        nodes = [ast.parse(source)]
    found = []
    for node in nodes:  # grows while it is read
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(ast.get_docstring(node, clean=False) or "")
            nodes.extend(node.body)
    cleaned = (inspect.cleandoc(text).strip() for text in found)
    return [text for text in cleaned if len(text) >= SHORTEST]


def topic_paragraphs(topics: dict[str, str]) -> list[list[str]]:
    """Return each topic's paragraphs that no earlier topic has: about a fifth stand in several topics."""
    seen, kept = set(), []
    for name in sorted(topics):
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", topics[name].strip()):
            key = one_line(paragraph)
            if key and key not in seen:
                seen.add(key)
                paragraphs.append(paragraph.strip("\n"))
        kept.append(paragraphs)
    return kept


def topic_documents(topics: dict[str, str]) -> list[str]:
    """Return the reference prose as documents: successive new paragraphs of one topic, TOPIC_SIZE or more."""
    documents = []
    for paragraphs in topic_paragraphs(topics):
        group = []
        for paragraph in paragraphs:
            group.append(paragraph)
            if sum(map(len, group)) >= TOPIC_SIZE:
                documents.append("\n\n".join(group))
                group = []
        if group:
            documents.append("\n\n".join(group))
    return documents


@cache
def documents(package: str = "") -> tuple[str, ...]:
    """Return all the documents of `python-docs`, or the docstrings under one package such as `tkinter`.

    A docstring is a document. Exact duplicates (after whitespace) stand once. What an installation lacks is
    left out. Raises UserError where the package is unknown or has no docstrings, or nothing at all is there.
    """
    found = [] if package else topic_documents(_topics())
    names = []
    for module, file in module_files(library_folder()):
        names.append(module)
        if not package or module == package or module.startswith(package + "."):
            try:
                found += docstrings(file.read_bytes().decode("utf-8"))
            except (SyntaxError, ValueError, OSError):
                continue  # a template, another encoding, no permission: the rest of the library is enough
    unique = {one_line(text): text for text in found}
    if not unique and package and package in names:
        raise UserError(f"python-docs:{package}: no docstrings in the sources of that module")
    if not unique and package:
        near = suggest(package, names)
        raise UserError(f"python-docs:{package}: no such module with sources in {library_folder()}{near}")
    if not unique:
        raise UserError(f"python-docs: this Python has neither pydoc_data nor sources in {library_folder()}")
    return tuple(unique.values())


def _topics() -> dict[str, str]:
    """Return the reference prose by topic, {} where the installation left it out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return topics
