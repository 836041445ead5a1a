"""Arrows between rooms run one way, and no module is part of a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mechinterp"
GROUND = {"autograd", "devices", "files", "formatting", "hooks", "masks", "records", "result"}
MAY_IMPORT = {
    "autograd": set(),
    "automata": {"devices"},
    "devices": set(),
    "files": set(),
    "formatting": set(),
    "hooks": {"devices"},
    "masks": {"autograd"},
    "records": {"files"},
    "result": {"files", "formatting", "records"},
    "tasks": {"autograd", "automata", "devices", "files", "masks"},
    "models": {"autograd", "devices", "hooks", "masks", "tasks"},
    "constructions": {"automata", "devices", "models", "tasks"},
    "training": {"devices", "files", "hooks", "masks", "models", "tasks.base", "tasks.checks"},
    "analysis": {"devices", "hooks", "masks", "result", "tasks.base", "tasks.checks"},
    "figures": {"formatting", "result"},
    "runs": {"files", "result"},
    "report": {"formatting", "result"},
    "studies": GROUND
    | {"automata", "tasks", "models", "constructions", "training", "analysis", "runs", "report"},
    "cli": GROUND | {"tasks", "models", "training", "runs", "studies"},
    "__main__": {"cli"},
    "__init__": set(),
}


def modules() -> dict[str, Path]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, without the leading ``mechinterp.``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mechinterp":
            below = node.module.removeprefix("mechinterp").removeprefix(".")
            found |= {below} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.removeprefix("mechinterp.") for name in names if name.startswith("mechinterp.")}
    return found


@pytest.mark.parametrize("name", modules())
def test_arrows_run_one_way(name):
    room = name.split(".")[0]
    assert room in MAY_IMPORT, f"{room} is a new room: say in MAY_IMPORT what it may import"
    for target in imports(modules()[name]):
        other = target.split(".")[0]
        allowed = other == room or other in MAY_IMPORT[room] or target in MAY_IMPORT[room]
        assert allowed, f"{name} imports {target}, an arrow that runs back"


def test_no_module_is_part_of_a_circle():
    known = modules()
    graph = {
        name: {
            t if t in known else f"{t}.__init__"
            for t in imports(path)
            if t in known or f"{t}.__init__" in known
        }
        for name, path in known.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import one another in a circle: {' -> '.join(error.args[1])}")


def test_only_one_door_to_transformer_lens():
    for name, path in modules().items():
        if name != "hooks":
            for node in ast.walk(ast.parse(path.read_text())):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                assert not module.startswith("transformer_lens"), (
                    f"{name} opens a second door to TransformerLens"
                )
