"""No file that is read can run code: what could do that stands in no line of the package or the scripts."""

import ast
from pathlib import Path

import pytest

import minilm

ROOT = Path(minilm.__file__).parents[1]
PATHS = [*ROOT.glob("*.py"), *(ROOT / "minilm").rglob("*.py")]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in PATHS)
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "subprocess", "pty"}
MODULES |= {"ctypes", "importlib", "imp", "pkgutil", "runpy", "code", "codeop"}
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
OF_OS = ("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "os.startfile")
# The names of the package are imported on first use, a library is looked for by its name; a function imports
# the code of a user, who names it on the command line; the exercises call git and pytest on their own clone;
# glibc, loaded long ago, is given two numbers.
ALLOWED = {
    "minilm/exercises.py": {"subprocess"},
    "minilm/__init__.py": {"importlib"},
    "minilm/huggingface/__init__.py": {"importlib"},
    "minilm/plumbing/settings.py": {"importlib"},
    "minilm/reinforcement/reward.py": {"pkgutil"},
    "minilm/training/machine.py": {"ctypes"},
}


def dotted(node: ast.AST) -> str:
    """Return the name that an expression spells, such as torch.load."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def runs_code(source: str) -> set[str]:
    """Return what of a source could run code that a file brings along."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module.partition(".")[0]} & MODULES
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & {"torch.load", *OF_OS}
        elif isinstance(node, ast.Name):
            found |= {node.id} & (BUILTINS - {"compile"})
        elif isinstance(node, ast.Attribute) and dotted(node).startswith((*OF_OS, "builtins.")):
            found.add(dotted(node))
        elif isinstance(node, ast.Call):
            name, given = dotted(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            found |= {name} & {"compile"}
            found |= {word for word in ("shell", "allow_pickle") if given.get(word, "False") != "False"}
            if name.startswith("torch.") and name.endswith(".load") and given.get("weights_only") != "True":
                found.add(f"{name} without weights_only=True")
    return found


@pytest.mark.parametrize("file", FILES)
def test_nothing_runs_code_from_a_file(file):
    found = runs_code((ROOT / file).read_text(encoding="utf-8"))
    assert found <= ALLOWED.get(file, set()), f"{file} could run code that comes with data: {found}"


@pytest.mark.parametrize(
    ("source", "found"),
    {
        "import yaml": "yaml",
        "from pickle import load": "pickle",
        "def f():\n    import importlib.util as u": "importlib",
        "x = [eval][0]": "eval",
        "__import__('os')": "__import__",
        "import os\nos.system('ls')": "os.system",
        "from os import popen": "os.popen",
        "f(shell=True)": "shell",
        "np.load(p, allow_pickle=flag)": "allow_pickle",
        "torch.load(p)": "torch.load without weights_only=True",
        "torch.load(p, weights_only=False)": "torch.load without weights_only=True",
        "model.eval(), re.compile('a'), torch.load(p, weights_only=True), np.load(p)  # eval": None,
        "'''pickle, eval and exec'''": None,
    }.items(),
)
def test_what_is_looked_for_is_found(source, found):
    assert runs_code(source) == ({found} if found else set())
