"""Patterns, maps of heads, what they look for, and their circuits, each beside its control."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GREY, RED, SEQUENTIAL, styled
from mechinterp.result import Result

_MOST = 8
_COLUMNS = 4
_TITLES = {
    "attention_entropy": "Attention entropy by head and query position",
    "sum_attention": "Attention entropy by head and query position: sums",
    "attention_distance": "Attention distance by head and query position",
    "qk_circuit": "QK circuit: what each token's query seeks",
    "position_circuit": "QK circuit of positions: what each position's query seeks",
    "ov_circuit": "OV circuit: what each token attended to adds to the outputs",
}
_AXES = {
    "qk_circuit": ("token as key", "token as query"),
    "position_circuit": ("position as key", "position as query"),
    "ov_circuit": ("output", "token attended to"),
}
_SCORES = {
    "diagonal": "the token itself", "previous": "the token before", "first": "the first token",
    "duplicate": "the same token", "induction": "the token after the same",
}  # fmt: skip


def pattern_grid(result: Result) -> go.Figure:
    """The patterns of the heads furthest from even attention, each with its control, and even attention."""
    even = result.extra["even"]
    distance = np.abs(result.values - even).sum("key").mean("query")
    heads, more = _strongest(distance, _MOST)
    panels = []
    for layer, head in heads:
        panels.append((_name(layer, head), result.values.sel(layer=layer, head=head).values))
        if result.control is not None and "head" in result.control.dims:
            control = result.control.sel(layer=layer, head=head).values
            panels.append((f"{_name(layer, head)}, {result.control_kind}", control))
    panels.append(("even attention", even.values))
    figure = _grid(panels, "key position", "query position", signed=bool((result.values < 0).any()))
    return _tall(styled(figure, f"Attention patterns{more}", height=_height(panels), legend=False))


def head_map(result: Result) -> go.Figure:
    """Any result with a value a head, or one a head and position, as a map beside its control."""
    more = [str(dim) for dim in result.values.dims if dim not in ("layer", "head")]
    if not {"layer", "head"} <= set(result.values.dims) or len(more) > 1:
        raise ValueError(
            f"expected values over layer, head and at most one more axis, got {result.values.dims}; select"
        )
    units, blocks = result.values.attrs.get("units", ""), [("", *_by_head(result.values, more))]
    if result.control is not None and set(result.control.dims) <= set(result.values.dims):
        control = result.control
        if {"layer", "head"} <= set(control.dims):
            blocks.append((result.control_kind, *_by_head(control, more)))
        elif more and list(control.dims) == more:
            blocks.append((result.control_kind, ["any"], control.values[None]))
    rows = [len(names) for _, names, _ in blocks]
    height = 230 + 38 * sum(rows)
    figure = make_subplots(
        rows=len(blocks), cols=1, shared_xaxes=True, row_heights=rows, vertical_spacing=60 / height,
        subplot_titles=[title for title, _, _ in blocks],
    )  # fmt: skip
    everything = np.concatenate([block[2].ravel() for block in blocks])
    signed = bool(np.nanmin(everything) < 0)
    x = [str(at) for at in result.values.coords[more[0] if more else "head"].values]
    for row, (_, names, z) in enumerate(blocks):
        figure.add_heatmap(
            z=z, x=x, y=names, coloraxis="coloraxis",
            text=np.round(z, 2) if z.size <= 64 else None, texttemplate="%{text}" if z.size <= 64 else None,
            row=row + 1, col=1,
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", title="head" if more else "layer")
    title = "".join(f"{dim} position" if dim in ("query", "key") else dim for dim in more) or "head"
    figure.update_xaxes(title=title, row=len(blocks), col=1)
    _colour(figure, everything, units, signed)
    title = _TITLES.get(result.name, result.name.replace("_", " ").capitalize())
    return styled(figure, title, height=height, legend=False)


def score_bars(result: Result) -> go.Figure:
    """For each score the heads' values with intervals, even attention's line, and the untrained network's."""
    scores = [str(score) for score in result.values.coords["score"].values]
    flat = [_name(layer, head) for layer, head in _heads(result.values)]
    figure = make_subplots(
        rows=1, cols=len(scores), shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[f"{score}:<br>{_SCORES.get(score, score)}" for score in scores],
    )  # fmt: skip
    even = result.extra["even"]
    untrained = result.control if result.control is not None and "head" in result.control.dims else None
    for column, score in enumerate(scores, start=1):
        value = result.values.sel(score=score).values.ravel()
        low, high = (result.extra[end].sel(score=score).values.ravel() for end in ("low", "high"))
        figure.add_bar(
            x=value, y=flat, orientation="h", marker={"color": BLUE}, name="head, 95 % interval",
            error_x={"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low,
                     "thickness": 1.2, "color": "#222"},
            showlegend=column == 1, legendgroup="own", row=1, col=column,
        )  # fmt: skip
        at = float(even.sel(score=score))
        figure.add_scatter(
            x=[at, at], y=[flat[0], flat[-1]], mode="lines", line={"color": RED, "dash": "dot"},
            name="even attention", showlegend=column == 1, legendgroup="even", row=1, col=column,
        )  # fmt: skip
        if untrained is not None:
            figure.add_scatter(
                x=untrained.sel(score=score).values.ravel(), y=flat, mode="markers",
                marker={"symbol": "diamond", "color": GREY, "size": 8}, name=result.control_kind,
                showlegend=column == 1, legendgroup="untrained", row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(range=[0, 1.02], title="share")
    figure.update_yaxes(autorange="reversed", title="head", col=1)
    figure.update_yaxes(autorange="reversed")
    figure.update_annotations(font={"size": 11})
    height, units = 250 + 24 * len(flat), result.values.attrs.get("units", "")
    return _legend_below(_tall(styled(figure, f"What heads look at: {units}", height=height)), height)


def match_bars(result: Result) -> go.Figure:
    """Each head's match score with its interval, over the range of the permutation null."""
    flat = [_name(layer, head) for layer, head in _heads(result.values)]
    cells = {key: array.values.ravel() for key, array in result.extra.items()}
    value = result.values.values.ravel()
    figure = go.Figure()
    figure.add_bar(
        x=flat, y=cells["null_high"] - cells["null_low"], base=cells["null_low"], width=0.8,
        marker={"color": GREY, "opacity": 0.55}, name="variable permuted, middle 95 %",
    )  # fmt: skip
    figure.add_scatter(
        x=flat, y=value, mode="markers", name="head, 95 % interval", marker={"color": BLUE, "size": 9},
        error_y={"type": "data", "symmetric": False, "array": cells["high"] - value,
                 "arrayminus": value - cells["low"]},
    )  # fmt: skip
    if "untrained" in cells:
        figure.add_scatter(
            x=flat, y=cells["untrained"], mode="markers", name="untrained network",
            marker={"symbol": "diamond", "color": "#444", "size": 8},
        )  # fmt: skip
    figure.add_scatter(
        x=[flat[0], flat[-1]], y=[result.trivial] * 2, mode="lines", name="even attention",
        line={"color": RED, "dash": "dot"},
    )  # fmt: skip
    found = cells["p_adjusted"] < 0.05
    figure.add_scatter(
        x=np.array(flat)[found], y=cells["high"][found] + 0.03, mode="text", text=["*"] * int(found.sum()),
        textfont={"size": 18}, name="* p < 0.05, adjusted over heads", showlegend=bool(found.any()),
    )  # fmt: skip
    figure.update_xaxes(title="head", type="category")
    figure.update_yaxes(title=f"{result.values.attrs.get('units', '')} on matching keys", rangemode="tozero")
    return _legend_below(styled(figure, "Match with the variable", height=420), 420)


def circuit_grid(result: Result) -> go.Figure:
    """Circuits of the heads with the largest entries, each beside the control's, on one scale."""
    heads, more = _strongest((result.values**2).sum(result.values.dims[2:]), _MOST // 2)
    panels = []
    for layer, head in heads:
        for kind, array in (("", result.values), (f", {result.control_kind}", result.control)):
            if array is not None:
                panels.append((_name(layer, head) + kind, array.sel(layer=layer, head=head).values))
    figure = _grid(panels, *_AXES[result.name], signed=True, units=result.values.attrs.get("units", ""))
    return _tall(styled(figure, _TITLES[result.name] + more, height=_height(panels), legend=False))


def _grid(
    panels: Sequence[tuple[str, np.ndarray]], x: str, y: str, *, signed: bool, units: str = "weight"
) -> go.Figure:
    columns, rows = min(_COLUMNS, len(panels)), -(-len(panels) // _COLUMNS)
    there = [{}] * len(panels) + [None] * (rows * columns - len(panels))
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=[_wrapped(title) for title, _ in panels],
        horizontal_spacing=0.06, vertical_spacing=0.3 / rows,
        specs=[there[row * columns : (row + 1) * columns] for row in range(rows)],
    )  # fmt: skip
    for i, (_, z) in enumerate(panels):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        figure.add_heatmap(z=z, coloraxis="coloraxis", **at)
        last = {"title": x} if i + columns >= len(panels) else {}
        steps = [max(1, round(size / 5)) for size in z.shape]  # never a half token
        figure.update_yaxes(dtick=steps[0], **at).update_xaxes(dtick=steps[1], **last, **at)
    everything = np.concatenate([z.ravel() for _, z in panels])
    _colour(figure, everything, units, signed)
    figure.update_yaxes(autorange="reversed", constrain="domain")
    figure.update_yaxes(title=y, col=1)
    figure.update_annotations(font={"size": 11})
    return figure


def _colour(figure: go.Figure, everything: np.ndarray, units: str, signed: bool) -> None:
    """One scale for all panels: from 0, or with 0 in the middle."""
    most = float(np.nanmax(np.abs(everything))) if np.isfinite(everything).any() else 1.0
    most = most or 1.0
    scale: dict[str, Any] = {"colorbar": {"title": {"text": _wrapped(units, 14)}, "thickness": 14}}
    if signed:
        scale |= {"colorscale": DIVERGING, "cmin": -most, "cmax": most, "cmid": 0}
    else:
        scale |= {"colorscale": SEQUENTIAL, "cmin": 0, "cmax": most}
    figure.update_layout(coloraxis=scale)


def _heads(array: xr.DataArray) -> list[tuple[int, int]]:
    layers, heads = (array.coords[dim].values for dim in ("layer", "head"))
    return [(int(layer), int(head)) for layer in layers for head in heads]


def _name(layer: int, head: int) -> str:
    return f"L{layer}H{head}"


def _strongest(strength: xr.DataArray, most: int) -> tuple[list[tuple[int, int]], str]:
    """The heads with the largest strength, in the order of the network, and a word if there are others."""
    heads = _heads(strength)
    order = np.argsort(-strength.transpose("layer", "head").values.ravel(), kind="stable")[:most]
    more = "" if len(heads) <= most else f" ({most} of {len(heads)} heads)"
    return [heads[i] for i in sorted(order)], more


def _by_head(array: xr.DataArray, more: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of the rows, and a matrix: heads by another axis, or layers by heads."""
    z = array.transpose("layer", "head", *more).values
    if not more:
        return [str(layer) for layer in array.coords["layer"].values], z
    return [_name(*pair) for pair in _heads(array)], z.reshape(-1, z.shape[-1])


def _height(panels: Sequence[Any]) -> int:
    return 160 + 240 * -(-len(panels) // _COLUMNS)


def _wrapped(text: str, width: int = 26) -> str:
    return "<br>".join(textwrap.wrap(text, width))


def _tall(figure: go.Figure) -> go.Figure:
    """Room for panel titles of two lines under the title."""
    return figure.update_layout(margin={"t": 96}, title={"y": 1, "yanchor": "top", "pad": {"t": 18}})


def _legend_below(figure: go.Figure, height: int) -> go.Figure:
    """A legend clear of axis titles."""
    return figure.update_layout(legend={"y": -72 / (height - 216)}, margin={"b": 120, "t": 96})
