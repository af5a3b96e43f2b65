"""Grades the house: imports run downward only, so that each room can be read without those above it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each room may import those before it; rooms in one bracket do not know each other.
FLOORS = [["plumbing"], ["model", "world"], ["tokenizer", "texts"], ["huggingface"], ["checkpoint"]]
FLOORS += [["training"], ["pretraining"]]
FLOORS += [["continued", "extraction", "finetuning", "reinforcement", "in_context"]]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LEAVES = {"__init__", "plots", "exercises"}  # nothing of the package needs them; they may need anything
# A later regime may use the vectors of extraction.
ALLOWED = {(room, "extraction") for room in FLOORS[-1]}


def room_of(parts: list[str]) -> str:
    """Return the room of a module: that of `minilm.texts.corpus` is texts."""
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path):
    """Yield (line, module) for each module of the package that a file imports, wherever in the file."""
    own = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(own[: len(own) - node.level]) if node.level else []
            module = base + (node.module or "").split(".") if node.module else base
            if module[:1] == ["minilm"]:
                names = [[*module, name.name] if len(module) == 1 else module for name in node.names]
                yield from ((node.lineno, name) for name in names)
        elif isinstance(node, ast.Import):
            names = [name.name.split(".") for name in node.names]
            yield from ((node.lineno, name) for name in names if name[0] == "minilm")


def wrong_arrows() -> list[str]:
    """Return a sentence for each import that does not run downward."""
    found = []
    for path in sorted((ROOT / "minilm").rglob("*.py")):
        here = room_of(list(path.relative_to(ROOT).with_suffix("").parts))
        for line, module in imports(path):
            there = room_of(module)
            if here in LEAVES or there == here or (here, there) in ALLOWED:
                continue
            if there in LEAVES or FLOOR[there] >= FLOOR[here]:
                stand = "beside" if FLOOR.get(there) == FLOOR[here] else "below"
                name = "/".join(module[1:])
                where = f"{path.relative_to(ROOT)}, line {line}"
                found.append(f"{where}, imports {name}: {here} stands {stand} {there}")
    return found


def test_imports_run_downward():
    assert wrong_arrows() == []


def test_every_room_has_its_floor():
    rooms = {path.stem if path.is_file() else path.name for path in (ROOT / "minilm").iterdir()}
    assert rooms - {"__pycache__"} - LEAVES == set(FLOOR), "a new room needs a floor in the list above"


@pytest.mark.parametrize(("here", "text", "sentence"), [
    ("texts", "from ..pretraining.run import Pretraining", "imports pretraining/run: texts stands below"),
    ("extraction", "from minilm.finetuning import heads", "imports finetuning: extraction stands beside"),
    ("model", "import minilm.world", "imports world: model stands beside world"),
])  # fmt: skip
def test_an_arrow_that_runs_upward_is_named(here, text, sentence, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "minilm" / here).mkdir(parents=True)
    (tmp_path / "minilm" / here / "new.py").write_text("import json\n\n" + text + "\n", encoding="utf-8")
    (found,) = wrong_arrows()
    assert found.startswith(f"minilm/{here}/new.py, line 3, {sentence}")


def test_one_loop_over_an_optimizer():
    files = {path: path.read_text(encoding="utf-8") for path in (ROOT / "minilm").rglob("*.py")}
    writes = [path.relative_to(ROOT / "minilm") for path, text in files.items() if "optimizer.step()" in text]
    found = set(map(str, writes))
    assert found == {"training/loop.py", "reinforcement/ppo.py"}, "the loop, and PPO's update of a step"
