"""Answers read off the stream, what components add to them, and effects to first order."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GREY, RED, styled
from mechinterp.result import Result


def lens_lines(result: Result) -> go.Figure:
    """Log-probability of the answer by depth with its interval and the control's, and the accuracy below."""
    streams = [str(stream) for stream in result.values.coords["stream"].values]
    value = result.values.values
    low, high = result.extra["low"].values, result.extra["high"].values
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    figure.add_scatter(
        x=streams, y=value, mode="lines+markers", name="network, 95 % interval", line={"color": BLUE},
        error_y={"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low},
        row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=streams, y=result.control.values, mode="lines+markers", name=result.control_kind,
        line={"color": GREY}, row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=[streams[0], streams[-1]], y=[result.trivial] * 2, mode="lines", name="frequencies of the answers",
        line={"color": RED, "dash": "dot"}, row=1, col=1,
    )  # fmt: skip
    figure.add_bar(
        x=streams, y=result.extra["accuracy"].values, marker={"color": BLUE}, showlegend=False, row=2, col=1
    )
    figure.update_yaxes(title="log-probability (nats)", row=1, col=1)
    figure.update_yaxes(title="accuracy", range=[0, 1.03], row=2, col=1)
    figure.update_xaxes(type="category")
    figure.update_xaxes(title="stream", row=2, col=1)
    return styled(figure, "Logit lens: the right answer, read off at each depth", height=500)


def attribution_bars(result: Result) -> go.Figure:
    """Each component's attribution with its interval, over the size along random directions."""
    names = [str(name) for name in result.values.coords["component"].values]
    value, control = result.values.values, result.control.values
    low, high = result.extra["low"].values, result.extra["high"].values
    figure = go.Figure()
    figure.add_bar(
        x=names, y=2 * control, base=-control, width=0.9, marker={"color": GREY, "opacity": 0.5},
        name=f"± {result.control_kind}",
    )  # fmt: skip
    figure.add_bar(
        x=names, y=value, width=0.5, marker={"color": BLUE}, name="component, 95 % interval",
        error_y={"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low},
    )  # fmt: skip
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title="component", type="category")
    figure.update_yaxes(title="logits, right minus wrong", zeroline=True, zerolinecolor="#888")
    total = float(result.extra["difference"])
    figure = styled(figure, f"Direct logit attribution: together {total:.3g} logits", height=420)
    return figure.update_layout(legend={"y": -0.32}, margin={"b": 110})


def node_maps(result: Result) -> go.Figure:
    """Effects of nodes by position beside the control's, and first-order against exact effects."""
    units = result.values.attrs.get("units", "")
    exact = result.extra.get("exact")
    maps = [("first order", result.values), (result.control_kind, result.control)]
    maps += [("exact", exact)] if exact is not None else []
    columns = len(maps) + (exact is not None)
    titles = [title for title, _ in maps] + (["first order against exact"] if exact is not None else [])
    figure = make_subplots(
        rows=1, cols=columns, subplot_titles=[title.replace(" among", "<br>among") for title in titles],
        horizontal_spacing=0.1 if exact is not None else 0.07,
    )  # fmt: skip
    for column, (_, array) in enumerate(maps, start=1):
        figure.add_heatmap(
            z=array.transpose("node", "position").values, x=_names(array, "position"),
            y=_names(array, "node"), coloraxis="coloraxis", row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(title="position", type="category", row=1, col=column)
        figure.update_yaxes(autorange="reversed", showticklabels=column == 1, row=1, col=column)
    figure.update_yaxes(title="node", row=1, col=1)
    if exact is not None:
        guess, truth = result.extra["first_order"].values.ravel(), exact.values.ravel()
        ends = [float(min(guess.min(), truth.min())), float(max(guess.max(), truth.max()))]
        figure.add_scatter(
            x=truth, y=guess, mode="markers", marker={"color": BLUE, "opacity": 0.7}, showlegend=False,
            row=1, col=columns,
        )  # fmt: skip
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            line={"color": GREY, "dash": "dot"},
            showlegend=False,
            row=1,
            col=columns,
        )
        figure.update_xaxes(title=f"exact, {units}", row=1, col=columns)
        figure.update_yaxes(title=f"first order, {units}", title_standoff=4, row=1, col=columns)
    _diverging(figure, [array for _, array in maps], units)
    figure.update_annotations(font={"size": 11})
    nodes = result.values.sizes["node"]
    title = "Attribution patching: effect of each node" + _correlation(result)
    return styled(figure, title, height=300 + 18 * nodes, legend=False).update_layout(margin={"t": 84})


def edge_maps(result: Result) -> go.Figure:
    """Effects of edges, summed over positions, beside the control's."""
    maps = [("first order", result.values), (result.control_kind, result.control)]
    sums = [(title, array.sum("position", min_count=1)) for title, array in maps]
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=[title for title, _ in sums], horizontal_spacing=0.07
    )
    for column, (_, array) in enumerate(sums, start=1):
        figure.add_heatmap(
            z=array.transpose("writer", "reader").values, x=_names(array, "reader"),
            y=_names(array, "writer"), coloraxis="coloraxis", row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(
            title="reader", type="category", tickangle=-90, dtick=1, tickfont={"size": 9}, row=1, col=column
        )
        figure.update_yaxes(autorange="reversed", showticklabels=column == 1, row=1, col=column)
    figure.update_yaxes(title="writer", row=1, col=1)
    _diverging(figure, [array for _, array in sums], result.values.attrs.get("units", ""))
    figure.update_annotations(font={"size": 11})
    title = "Attribution patching: effect of each edge, all positions together" + _correlation(result)
    height = 330 + 18 * result.values.sizes["writer"]
    return styled(figure, title, height=height, legend=False).update_layout(margin={"t": 84, "b": 90})


def _names(array: xr.DataArray, dim: str) -> list[str]:
    return [str(name) for name in array.coords[dim].values]


def _correlation(result: Result) -> str:
    found = result.extra.get("correlation")
    return "" if found is None else f" (nodes: correlation with exact {float(found):.2f})"


def _diverging(figure: go.Figure, arrays: list[xr.DataArray], units: str) -> None:
    most = max(float(np.nanmax(np.abs(array.values))) for array in arrays) or 1.0
    colorbar = {"title": {"text": units.replace(" of the ", " of<br>the ")}, "thickness": 14}
    figure.update_layout(
        coloraxis={"colorscale": DIVERGING, "cmin": -most, "cmax": most, "cmid": 0, "colorbar": colorbar}
    )
