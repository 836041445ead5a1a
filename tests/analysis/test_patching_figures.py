"""Sweeps are drawn as maps beside their controls, whatever their axes, on one honest scale."""

import numpy as np
import pytest
import torch
import xarray as xr

from mechinterp.analysis.effects import effects_result
from mechinterp.figures.sweeps import effect_map

AXES = {
    "one layer": {"layer": [0], "position": [0, 1, 2], "head": [0]},
    "heads and positions": {"layer": [0, 2], "position": [1, 3, 5], "head": [0, 1, 2]},
    "streams": {"layer": range(3), "position": range(40)},
    "heads": {"layer": range(3), "head": range(4)},
    "groups": {"layer": range(2), "position": range(3), "group": ["sine", "cosine of it"]},
    "directions": {"layer": range(2), "direction": ["a", "b"]},
    "paths": {"receiver": ["logits", "L1H0 q"], "layer": range(2), "head": range(2)},
    "layers": {"layer": range(4)},
}
N = 20


def sweep(axes="heads", *, name="activation_patching", control=True, strength=1.0, units="metric"):
    """A result whose last cell alone does something."""
    generator = torch.Generator().manual_seed(0)
    cells = AXES[axes]
    shape = [len(labels) for labels in cells.values()]
    noise = 0.1 * torch.randn(2, *shape, N, generator=generator, dtype=torch.float64)
    before, after, other = torch.full((N,), 5.0).double(), 5 + noise[0], 5 + noise[1]
    after.view(-1, N)[-1] += strength
    return effects_result(
        name, after, before, cells, {"activation": "z", "direction": "denoise"},
        other=other if control else None, control_kind="another", units=units,
    )  # fmt: skip


def maps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


@pytest.mark.parametrize("name", ["activation_patching", "ablation", "path_patching"])
@pytest.mark.parametrize("axes", AXES)
def test_every_shape_is_drawn_with_its_control_on_the_same_scale(axes, name):
    result = sweep(axes, name=name)
    figure = effect_map(result)
    assert "Plotly.newPlot" in figure.to_html(include_plotlyjs=False)
    effect, control = maps(figure)
    assert np.size(effect.z) == np.size(control.z) == result.values.size
    limit = max(np.abs(effect.z).max(), np.abs(control.z).max())
    for panel in (effect, control):
        assert (panel.zmin, panel.zmax, panel.zmid) == (-limit, limit, 0)
        assert np.shape(panel.z) == (len(panel.y), len(panel.x))
        assert len(set(panel.y)) == len(panel.y)
    assert np.sum(effect.z) == pytest.approx(float(result.extra["effect"].sum()))
    assert np.sum(control.z) == pytest.approx(float((result.control - result.trivial).sum()))
    for axis in (figure.layout.xaxis, figure.layout.yaxis, figure.layout.xaxis2):
        assert axis.title.text
    assert "another" in figure.layout.title.text


def test_it_is_the_figure_of_activation_patching():
    assert sweep().figure() == effect_map(sweep())


def test_each_cell_stands_at_its_place():
    result = sweep("heads and positions")
    effect = maps(effect_map(result))[0]
    assert list(effect.x) == ["1", "3", "5"]
    assert list(effect.y) == ["L0H0", "L0H1", "L0H2", "L2H0", "L2H1", "L2H2"]
    cell = float(result.extra["effect"].sel(layer=2, position=3, head=1))
    assert effect.z[4][1] == cell
    assert effect.customdata[4][1][0] == float(result.extra["low"].sel(layer=2, position=3, head=1))


def test_cells_with_small_p_are_marked_and_counted():
    marks = effect_map(sweep("heads and positions")).data[-1]
    assert (list(marks.x), list(marks.y)) == (["5"], ["L2H2"])
    assert marks.name.endswith("over 18 cells): 1")
    nothing = effect_map(sweep("heads and positions", strength=0.0)).data[-1]
    assert nothing.name.endswith("over 18 cells): none")


def test_without_control_there_is_one_panel():
    figure = effect_map(sweep(control=False))
    assert len(maps(figure)) == 1
    assert "control" not in figure.layout.title.text


def test_a_sweep_in_which_nothing_happens_is_drawn():
    cells = AXES["heads"]
    same = torch.ones(3, 4, N, dtype=torch.float64)
    figure = effect_map(effects_result("ablation", same, same[0, 0], cells, {}))
    assert (np.array(maps(figure)[0].z) == 0).all()
    assert maps(figure)[0].zmax > 0


def test_units_are_in_the_colour_bar():
    assert "nats" in maps(effect_map(sweep(units="nats")))[0].colorbar.title.text


def test_values_without_layers_are_refused():
    result = sweep("layers")
    other = xr.DataArray(np.zeros(4), dims="component")
    with pytest.raises(ValueError, match=r"expected values over layers and more, got \('component',\)"):
        effect_map(type(result)(name="ablation", values=other))


def test_one_cell_among_a_thousand_can_be_found_by_enough_examples():
    generator = torch.Generator().manual_seed(1)
    after = torch.randn(1000, 30, generator=generator, dtype=torch.float64)
    after[123] += 3
    cells = {"layer": range(1000)}
    found = effects_result("ablation", after, torch.zeros(30, dtype=torch.float64), cells, {})
    p_values = found.extra["p_value"].to_numpy()
    assert p_values[123] <= 0.05
    assert (np.delete(p_values, 123) > 0.05).all()
