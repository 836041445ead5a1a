"""Every example runs, with tiny arguments, and says something."""

import importlib.util
import sys
from pathlib import Path

import pytest

from mechinterp.training import Recipe

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = {
    "ablation": {"p": 13, "n": 40},
    "attention": {"p": 13, "hand_built": True},
    "digit_addition": {"n_digits": 2, "steps": 3, "n": 20},
    "erasure": {"p": 13, "draws": 3},
    "geometry": {"p": 13, "draws": 5},
    "lens": {"p": 13, "hand_built": True},
    "linear_regression": {"d": 2, "n_context": 4, "recipe": Recipe(steps=5, batch_size=8, eval_every=5)},
    "modular_addition": {"p": 13, "recipe": Recipe(steps=5, eval_every=5)},
    "patching": {"p": 13},
    "path_patching": {"p": 13, "n": 40},
    "probes": {"p": 13},
    "regex_language": {"pattern": "a+", "n_samples": 300, "max_len": 6, "epochs": 1},
    "sortedness": {"steps": 3, "n": 100},
    "state_machine": {"steps": 3, "length": 6, "n": 60},
    "text_arithmetic": {"steps": 3, "n": 600, "max_operand": 199},
}
NEEDS = {"lens": "transformer_lens.tools.analysis.logit_lens"}
LONGEST = 34  # lines


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tried():
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(TINY)


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
@pytest.mark.parametrize("name", TINY)
def test_it_runs(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="needs TransformerLens 4")
    example(name).main(**TINY[name])
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", TINY)
def test_it_fits_a_screen(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= LONGEST


def test_they_are_scripts(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["path_patching", "13", "20"])
    source = (EXAMPLES / "path_patching.py").read_text()
    exec(compile(source, "path_patching", "exec"), {"__name__": "__main__"})
    assert "path_patching" in capsys.readouterr().out
