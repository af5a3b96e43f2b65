"""The source `python-docs`: English that comes with every Python, its reference prose and its docstrings."""

import ast
import os
import re
import sysconfig
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from .files import one_line

LIBRARY = Path(sysconfig.get_path("stdlib"))
SKIPPED_FOLDERS = ("test", "tests", "idle_test", "__pycache__", "pydoc_data")


@cache
def python_docs() -> tuple[str, ...]:
    """Return the English that comes with every Python, each document once: reference prose and docstrings."""
    found, seen, topics = [], {""}, {}
    with suppress(ImportError):
        from pydoc_data.topics import topics
    for name in sorted(topics):  # a document: new paragraphs of one topic, about 1,000 characters
        groups = [[]]
        for paragraph in re.split(r"\n\s*\n", topics[name].strip()):
            if one_line(paragraph) not in seen:  # about a fifth occur in several topics
                seen.add(one_line(paragraph))
                if sum(map(len, groups[-1])) >= 1_000:
                    groups.append([])
                groups[-1].append(paragraph.strip("\n"))
        found += ["\n\n".join(group) for group in groups if group]
    for folder, folders, _ in os.walk(LIBRARY):
        # A folder whose name is no identifier, such as site-packages, holds no modules of the library.
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name.isidentifier())
        for file in sorted(Path(folder).glob("*.py")):
            with suppress(SyntaxError, ValueError, OSError):  # a template, another encoding, no permission
                found += docstrings(file.read_text(encoding="utf-8"))
    return tuple({one_line(text): text for text in found}.values())


def docstrings(source: str) -> list[str]:
    """Return the docstrings of a module, its classes and functions, without indentation, breadth first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in string literals are not the user's concern
        nodes = [ast.parse(source)]
    found = []
    for node in nodes:  # the list grows while it is read
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append((ast.get_docstring(node) or "").strip())
            nodes.extend(node.body)
    return [text for text in found if len(text) >= 20]  # shorter ones mostly repeat a name
