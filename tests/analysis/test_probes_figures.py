"""Each kind of probe is drawn beside its controls, on honest scales; and the example runs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from mechinterp import figures
from mechinterp.analysis.probes import MLP, Fourier, MLPRegression, Periods, online_code, probe

N, LENGTH = 80, 3


def generator(seed):
    return torch.Generator().manual_seed(seed)


def results():
    x = {f"blocks.{i}.hook_resid_post": torch.randn(N, LENGTH, 5, generator=generator(i)) for i in range(2)}
    number = torch.randn(N, generator=generator(3))
    x["blocks.1.hook_resid_post"][:, 1, 0] = number
    tokens, label = torch.randint(0, 4, (N, LENGTH), generator=generator(4)), (number > 0).long()
    beliefs = torch.rand(N, LENGTH, 3, generator=generator(5))
    beside = {"inputs": tokens, "untrained": x, "shuffles": 2, "permutations": 9}
    few = {"shuffles": 1, "permutations": 0, "positions": [1]}
    return {
        "ridge_probe": probe(x, {"a": number, "b": -number}, **beside),
        "logistic_probe": probe(x, label, "logistic", **beside),
        "mlp_probe": probe(x, label, MLP(hidden=(4,), steps=5), **few),
        "mlp_regression_probe": probe(x, number, MLPRegression(hidden=(4,), steps=5), **few),
        "fourier_probe": probe(x, torch.arange(N) % 7, Fourier(p=7), **beside),
        "period_probe": probe(x, torch.arange(N), Periods(periods=(2, 5)), shuffles=0),
        "simplex_probe": probe(x, beliefs / beliefs.sum(-1, keepdim=True), "simplex", **few),
        "online_code": online_code(x, label, inputs=tokens, positions=[0, 1]),
    }


@pytest.fixture(scope="module")
def drawn():
    return {name: (result, result.figure()) for name, result in results().items()}


NAMES = [name for name in figures.known() if name.endswith("_probe") or name == "online_code"]


def test_all_kinds_are_drawn(drawn):
    assert sorted(drawn) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_title_named_axes_and_shows_itself_in_a_notebook(drawn, name):
    result, figure = drawn[name]
    assert result.name == name
    assert figure.layout.title.text
    lowest = min(axis.domain[0] for axis in figure.select_yaxes())
    pairs = zip(figure.select_xaxes(), figure.select_yaxes())
    assert all(x.title.text for x, y in pairs if y.domain[0] == lowest)
    assert any(y.title.text for y in figure.select_yaxes())
    assert "Plotly.newPlot" in result._repr_html_()


@pytest.mark.parametrize("name", NAMES)
def test_r_squared_is_centred_on_zero_and_accuracy_starts_there(drawn, name):
    for trace in drawn[name][1].data:
        if trace.type == "heatmap":
            signed = "R²" in drawn[name][0].values.attrs["units"]
            assert (trace.zmin, trace.zmid) == ((-1, 0) if signed else (0, None))


def test_maps_show_the_control_and_the_raw_input_beside_the_score(drawn):
    result, figure = drawn["logistic_probe"]
    titles = [text.text for text in figure.layout.annotations]
    assert titles == ["held out", "shuffled<br>labels", "untrained<br>network", "random labels<br>by type"]
    first, second = figure.data[:2]
    np.testing.assert_allclose(first.z[:2], result.values)
    np.testing.assert_allclose(first.z[2], result.extra["raw_input"])
    np.testing.assert_allclose(second.z[:2], result.control)
    assert first.y[2] == "raw input"


def test_the_example_runs(capsys):
    path = Path(__file__).parents[2] / "examples" / "probes.py"
    spec = importlib.util.spec_from_file_location("example_probes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(p=13)
    assert "frequencies read: [1, 2, 4, 5, 6]" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) <= 30
