"""Grades __init__.py: the public names, each imported at first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import minilm
from minilm import checkpoint
from minilm.extraction import features
from minilm.model import config, generate, transformer
from minilm.tokenizer import bpe


def run(code: str, *arguments: str) -> str:
    """Run `code` in a fresh interpreter, where nothing is imported yet, and return what it prints."""
    command, root = [sys.executable, "-c", code, *arguments], Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    heavy = "('torch', 'numpy', 'minilm.model.config')"
    loaded = run(f"import sys, minilm; print([m for m in {heavy} if m in sys.modules])")
    assert loaded == "[]", f"`import minilm` must cost nothing, but it loads {loaded}"


def test_names_are_imported_one_by_one():
    seen = run("import sys, minilm; print(len(minilm.PRESETS) > 0, 'torch' in sys.modules)")
    assert seen == "True False", "the table of presets is plain data: it must not need torch"
    assert minilm.__getattr__("huggingface").export.__name__ == "export", "a module, too"


def test_public_names_are_the_objects_of_their_modules():
    homes = dict(load=checkpoint, save=checkpoint, export=checkpoint, build=transformer, generate=generate)
    homes |= dict(embed=features, PRESETS=config, BPE=bpe)
    for name, module in homes.items():
        assert getattr(minilm, name) is getattr(module, name), name
    assert set(minilm.__all__) == set(homes)
    assert set(homes) <= set(dir(minilm)), "a name that is missing from dir(minilm) is completed by no editor"


@pytest.mark.parametrize("export", [minilm.export, minilm.huggingface.export])
def test_export_has_two_homes(export, tmp_path):
    minilm.save(minilm.build(minilm.PRESETS["gpt-tiny"]), None, tmp_path / "gpt")
    assert export(tmp_path / "gpt", tmp_path / "there") == []
    assert (tmp_path / "there" / "config.json").exists()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        minilm.nonsense  # noqa: B018
    assert not hasattr(minilm, "nonsense"), "hasattr must answer, not raise"
    with pytest.raises(ImportError):
        from minilm import nonsense  # noqa: F401


def test_a_package_missing_inside_a_module_is_not_hidden(tmp_path):
    """A module that fails to import something else must say what, not pretend to be absent itself."""
    code = (
        "import sys, minilm; minilm.__path__.append(sys.argv[1])\n"
        "try: minilm.broken\n"
        "except ModuleNotFoundError as error: print(error.name)"
    )
    (tmp_path / "broken.py").write_text("import no_such_package_anywhere\n", encoding="utf-8")
    assert run(code, str(tmp_path)) == "no_such_package_anywhere"
