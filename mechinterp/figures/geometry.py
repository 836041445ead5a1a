"""How many dimensions a cloud fills, how alike layers are, and whether positions collapse."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, GREY, SEQUENTIAL, styled
from mechinterp.result import Result

_DOTTED = {"color": "#444", "dash": "dot", "width": 1.5}


def singular_values(result: Result) -> go.Figure:
    """Singular values from the largest, over the band in which random ones lie."""
    index = result.values.coords["index"].values
    low, high = result.extra["null"].values
    figure = go.Figure()
    figure.add_scatter(
        x=[*index, *index[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", line={"width": 0},
        fillcolor="rgba(154,160,166,0.35)", hoverinfo="skip", name="random: middle 95 %",
    )  # fmt: skip
    figure.add_scatter(
        x=index, y=result.control.values, mode="lines", line={"color": GREY, "width": 2},
        name=result.control_kind,
    )  # fmt: skip
    figure.add_scatter(
        x=index, y=result.values.values, mode="lines+markers", name="measured",
        line={"color": BLUE, "width": 2}, marker={"size": 5},
    )  # fmt: skip
    figure.add_scatter(x=index, y=[result.trivial] * len(index), mode="lines", line=_DOTTED, name="all equal")
    figure.update_xaxes(title="index, from the largest")
    figure.update_yaxes(title=result.values.attrs.get("units", ""), rangemode="tozero")
    said = result.provenance
    title = f"Participation ratio {said['participation ratio']:.3g} of {len(index)}"
    styled(figure, f"{title} (random {said['of random']:.3g})", height=420)
    return figure.update_layout(legend={"y": -0.26})


def similarity_map(result: Result) -> go.Figure:
    """Likeness of every pair of layers, beside what it is with examples in random order."""
    cka = result.provenance["measure"] == "cka"
    both = np.concatenate([result.values.values.ravel(), result.control.values.ravel()])
    scale = {"colorscale": SEQUENTIAL, "zmin": min(0.0, float(both.min())), "zmax": 1.0}
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.06, shared_yaxes=True,
        subplot_titles=("measured", "examples in random order"),
    )  # fmt: skip
    x, y = ([_short(str(name)) for name in result.values.coords[dim].values] for dim in ("second", "first"))
    for column, array in ((1, result.values), (2, result.control)):
        text = np.vectorize(lambda value: f"{value:.2f}")(array.values) if array.size <= 64 else None
        figure.add_heatmap(
            z=array.values, x=x, y=y, text=text, texttemplate=None if text is None else "%{text}", **scale,
            showscale=column == 1, colorbar={"title": {"text": "CKA" if cka else "R²"}, "x": 1.02},
            row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="layer of the second", type="category", tickangle=-45)
    figure.update_yaxes(title="layer of the first", type="category", autorange="reversed", row=1, col=1)
    figure.update_yaxes(type="category", autorange="reversed", row=1, col=2)
    figure.update_annotations(font={"size": 12})
    title = f"Likeness of layers: {result.values.attrs.get('units', '')}"
    styled(figure, title, legend=False, height=max(400, 200 + 34 * len(y)))
    return figure.update_layout(margin={"t": 84, "l": 110, "b": 110, "r": 90})


def collapse_lines(result: Result) -> go.Figure:
    """How much of each layer differs between positions, with its interval, over the control."""
    layers = [_short(str(name)) for name in result.values.coords["layer"].values]
    bounds, y = result.extra["interval"], result.values.values
    figure = go.Figure()
    figure.add_scatter(
        x=layers, y=y, mode="lines+markers", name="measured", line={"color": BLUE, "width": 2},
        error_y={
            "array": bounds.sel(end="high").values - y, "arrayminus": y - bounds.sel(end="low").values,
            "type": "data",
        },
    )  # fmt: skip
    figure.add_scatter(
        x=layers, y=result.control.values, mode="lines+markers", name=result.control_kind,
        line={"color": GREY, "width": 2},
    )  # fmt: skip
    figure.add_scatter(x=layers, y=[0] * len(layers), mode="lines", line=_DOTTED, name="all positions alike")
    figure.update_xaxes(title="layer of the stream", type="category")
    figure.update_yaxes(title="|X − 1x'| / |X|", rangemode="tozero")
    return styled(figure, "How much positions differ, by layer", height=420)


def _short(name: str) -> str:
    """A hook name without what all of them have."""
    return name.removeprefix("blocks.").replace("hook_", "")
