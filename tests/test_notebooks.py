"""Notebooks are executed, define no functions, edit no path, and hold no errors."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_executed_without_errors(path):
    for cell in cells(path):
        assert cell["execution_count"] is not None, "".join(cell["source"])
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_defines_no_functions_and_edits_no_path(path):
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells(path)))
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(tree) if isinstance(node, defining)]
    assert "sys.path" not in ast.unparse(tree)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_shows_still_pictures_that_need_no_network(path):
    pictures = [out for cell in cells(path) for out in cell["outputs"] if "image/png" in out.get("data", {})]
    assert pictures
    assert "http" not in "".join(json.dumps(out["data"].get("text/html", "")) for out in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_the_start(path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PLOTLY_RENDERER", "json")
    NotebookClient(nbformat.read(path, 4), timeout=600).execute()
