"""What probes read: maps of hooks and positions, spectra, and beliefs, each beside what chance reads."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GOLD, GREY, SEQUENTIAL, styled
from mechinterp.result import Result

_TITLES = {
    "ridge_probe": "Ridge probe",
    "sum_map": "Ridge probe of the sum",
    "logistic_probe": "Logistic probe",
    "mlp_probe": "MLP probe",
    "mlp_regression_probe": "MLP probe of numbers",
    "fourier_probe": "Fourier probe",
    "probe_of_published": "Fourier probe of the published network",
    "period_probe": "Probe of periods",
    "sum_periods": "Probe of periods of the sum",
    "simplex_probe": "Probe of beliefs",
    "online_code": "Online code against the uniform code",
}
_PANELS = {"untrained": "untrained<br>network", "control_task": "random labels<br>by type"}
_MOST_TARGETS = 6


def score_maps(result: Result) -> go.Figure:
    """Scores by hook and position, beside those of every control that there is; a row of maps a target.

    The raw input, which has no hook, is the last line of the first map. R² below -1 is drawn as -1.
    """
    panels = {"held out": result.values}
    if result.control is not None:
        panels["shuffled<br>labels"] = result.control
    panels |= {title: result.extra[name] for name, title in _PANELS.items() if name in result.extra}
    signed = "R²" in result.values.attrs.get("units", "")
    scale = (-1.0, 1.0) if signed else (0.0, 1.0)
    figure, height = _maps(panels, result.extra.get("raw_input"), scale, signed, _units(result))
    return _finished(figure, _title(result), height)


def code_maps(result: Result) -> go.Figure:
    """Compression by hook and position, uniform over online code, beside that of shuffled labels."""
    panels = {"labels": result.extra["compression"]}
    if "shuffled_compression" in result.extra:
        panels["shuffled<br>labels"] = result.extra["shuffled_compression"]
    uniform = result.extra["uniform"]
    for name, title in _PANELS.items():
        if name in result.extra:
            panels[title] = uniform / result.extra[name]
    raw = result.extra.get("raw_input")
    raw = None if raw is None else uniform.isel(hook=0) / raw
    top = max(float(panel.max()) for panel in [*panels.values(), *([] if raw is None else [raw])])
    figure, height = _maps(panels, raw, (0.0, max(top, 1.0)), False, "uniform / code")
    return _finished(figure, _title(result), height)


def wave_lines(result: Result) -> go.Figure:
    """R² by frequency or period: the best cell beside its controls, and all cells as a map."""
    dim, values = str(result.values.dims[-1]), result.values
    x = [f"{label:g}" for label in values.coords[dim].values]
    names = [f"{hook}, {position}" for hook in values.hook.values for position in values.position.values]
    flat = values.values.reshape(len(names), len(x))
    best = int(flat.max(1).argmax())
    figure = make_subplots(
        rows=2, cols=1, vertical_spacing=0.3 if len(names) < 8 else 0.16,
        row_heights=[1, min(2.0, max(0.35, len(names) / 12))],
        subplot_titles=(f"best cell: {names[best]}", "all hooks and positions"),
    )  # fmt: skip
    _add_best(figure, result, best, x)
    figure.add_heatmap(
        z=flat, x=x, y=names, zmin=-1, zmax=1, zmid=0, colorscale=DIVERGING, row=2, col=1,
        hovertemplate="%{y}<br>" + dim + " %{x}: %{z:.3f}<extra></extra>",
        colorbar={"title": {"text": "R²"}, "thickness": 14, "len": 0.5, "y": 0.0, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(type="category", tickangle=0, dtick=-(-len(x) // 20))
    figure.update_xaxes(title={"frequency": "frequency k", "period": "period T"}[dim], row=2, col=1)
    figure.update_yaxes(title="hook, position" if len(names) > 3 else "cell", row=2, col=1)
    figure.update_yaxes(autorange="reversed", automargin=True, row=2, col=1)
    return _finished(figure, _title(result), 420 + 16 * min(len(names), 40))


def _add_best(figure: go.Figure, result: Result, best: int, x: list[str]) -> None:
    """The spectrum of one cell as bars, its controls as marks over them."""
    arrays = {"held out": result.values, "mean": result.control, **result.extra}
    cell = {name: array.values.reshape(-1, len(x))[best] for name, array in arrays.items()
            if array is not None and array.dims == result.values.dims}  # fmt: skip
    figure.add_bar(x=x, y=cell["held out"], name="held out", marker={"color": BLUE})
    if "mean" in cell:
        ends = {
            "array": cell["shuffled_high"] - cell["mean"], "arrayminus": cell["mean"] - cell["shuffled_low"]
        }  # fmt: skip
        figure.add_scatter(
            x=x, y=cell["mean"], mode="markers", name="shuffled labels, 95 % of fits",
            marker={"color": GREY, "symbol": "line-ew-open", "size": 8}, error_y={"color": GREY, **ends},
        )  # fmt: skip
    beside = {"untrained": GOLD, "control_task": "#444"}
    for name in (name for name in beside if name in cell):
        figure.add_scatter(
            x=x, y=cell[name], mode="markers", name=_PANELS[name].replace("<br>", " "),
            marker={"color": beside[name], "symbol": "diamond-open", "size": 7},
        )  # fmt: skip
    drawn = [cell[name] for name in ("held out", "shuffled_low", *beside) if name in cell]
    low = min(-0.1, float(np.nanmin(drawn)))
    figure.update_yaxes(title=_units(result), range=[max(low, -1) - 0.05, 1.05], row=1, col=1)


def belief_maps(result: Result) -> go.Figure:
    """R² by hook and position beside its control, over the best cell's beliefs: true, and as read.

    Two states' probabilities are the axes, so that the simplex is seen from one side.
    """
    panels = {"held out": result.values}
    if "untrained" in result.extra:
        panels["untrained<br>network"] = result.extra["untrained"]
    if result.control is not None:
        panels["shuffled<br>labels"] = result.control
    true, read = (result.extra["beliefs"].sel(of=name).values for name in ("truth", "probe"))
    figure = make_subplots(
        rows=2, cols=6, vertical_spacing=0.2, horizontal_spacing=0.05,
        row_heights=[1 + 0.1 * min(20, result.values.sizes["hook"]), 3],
        specs=[[{"colspan": 2}, None] * 3, [{"colspan": 3}, None, None] * 2],
        subplot_titles=[*panels, *[""] * (3 - len(panels)), "beliefs", "beliefs as read, held out"],
    )  # fmt: skip
    bar = {"len": 0.35, "y": 1.0, "yanchor": "top"}
    for column, panel in zip((1, 3, 5), panels.values()):
        _add_map(figure, panel, (1, column), (-1.0, 1.0), True, "R²", bar)
        figure.update_yaxes(showticklabels=column == 1, row=1, col=column)
    figure.update_xaxes(title="position", type="category", row=1)
    for column, beliefs in zip((1, 4), (true, read)):
        figure.add_scatter(
            x=beliefs[:, 0], y=beliefs[:, 1], mode="markers", showlegend=False, row=2, col=column,
            hovertemplate="%{x:.3f}, %{y:.3f}<extra></extra>",
            marker={
                "size": 4, "color": true[:, 0], "cmin": 0, "cmax": 1, "colorscale": SEQUENTIAL,
                "showscale": column == 1,
                "colorbar": {"title": {"text": "true<br>P(state 0)"}, "thickness": 14, "len": 0.5, "y": 0.25},
            },
        )  # fmt: skip
    figure.update_xaxes(title="P(state 0)", range=[-0.05, 1.05], row=2)
    figure.update_yaxes(range=[-0.05, 1.05], row=2)
    figure.update_yaxes(title="P(state 1)", row=2, col=1)
    return _finished(figure, _title(result), 640)


def _maps(
    panels: dict[str, xr.DataArray],
    raw: xr.DataArray | None,
    scale: tuple[float, float],
    signed: bool,
    units: str,
) -> tuple[go.Figure, int]:
    """Maps of hook and position on one scale, a column a panel and a row a target; and a height for them."""
    first = next(iter(panels.values()))
    names = [""] if first.ndim == 2 else [f"{label}: " for label in first.coords[first.dims[2]].values]
    names = names[:_MOST_TARGETS]
    figure = make_subplots(
        rows=len(names), cols=len(panels), shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.04,
        vertical_spacing=0.3 / len(names) ** 1.2,
        subplot_titles=[f"{name}{title}" for name in names for title in panels],
    )  # fmt: skip
    lines = first.sizes["hook"] + (raw is not None)
    for row in range(len(names)):
        for column, panel in enumerate(panels.values(), start=1):
            panel = panel if panel.ndim == 2 else panel[:, :, row]
            if raw is not None:
                last = (raw if raw.ndim == 1 else raw[:, row]).expand_dims(hook=["raw input"])
                panel = xr.concat([panel, last if column == 1 else last * np.nan], "hook")
            _add_map(figure, panel, (row + 1, column), scale, signed, units, {"len": 1.0})
    figure.update_xaxes(title="position", type="category", row=len(names))
    return figure, 170 + len(names) * (50 + max(100, min(500, 26 * lines)))


def _add_map(
    figure: go.Figure, panel: xr.DataArray, at: tuple[int, int], scale: tuple[float, float], signed: bool,
    units: str, bar: dict,
) -> None:  # fmt: skip
    row, column = at
    few = panel.sizes["position"] <= 4
    figure.add_heatmap(
        z=panel.values, x=panel.position.values.astype(str), y=panel.hook.values.astype(str),
        zmin=scale[0], zmax=scale[1], zmid=0 if signed else None, row=row, col=column,
        colorscale=DIVERGING if signed else SEQUENTIAL, texttemplate="%{z:.2f}" if few else None,
        hovertemplate="%{y}, position %{x}: %{z:.3f}<extra></extra>", showscale=(row, column) == (1, 1),
        colorbar={"title": {"text": units}, "thickness": 14, **bar},
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True, row=row, col=column)
    if column == 1:
        figure.update_yaxes(title="hook", row=row, col=1)
    else:
        figure.update_yaxes(showticklabels=False, row=row, col=column)


def _units(result: Result) -> str:
    return str(result.values.attrs.get("units", "")).split(",")[0]


def _title(result: Result) -> str:
    best = str(result.provenance.get("best", "")).removeprefix("hook ")
    short = best.replace("blocks.", "").replace("hook_", "")
    return f"{_TITLES.get(result.name, result.name)}, best at {short}"


def _finished(figure: go.Figure, title: str, height: int) -> go.Figure:
    figure = styled(figure, title, height=height).update_annotations(font={"size": 12})
    return figure.update_layout(margin={"t": 96}, legend={"y": -70 / (height - 152)})
