"""What pairs of components do together, and how far a network can be pruned."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GREY, styled
from mechinterp.result import Result


def pair_maps(result: Result) -> go.Figure:
    """The effect of each pair, and what of it is more than both single effects together."""
    names = [str(name) for name in result.values.coords["component"].values]
    effect, interaction = result.extra["effect"].values, result.extra["interaction"].values
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.16,
        subplot_titles=("effect of ablating both", "beyond the sum of both single effects"),
    )  # fmt: skip
    limit = max(np.nanmax(np.abs([effect, interaction])), 1e-9)
    found = result.extra["interaction_p"].values <= 0.05
    for column, (z, marked) in enumerate(((effect, np.zeros_like(found)), (interaction, found)), start=1):
        figure.add_heatmap(
            z=z, x=names, y=names, zmin=-limit, zmax=limit, zmid=0, colorscale=DIVERGING,
            text=np.where(marked, "●", ""), texttemplate="%{text}", showscale=column == 2,
            colorbar={"title": {"text": result.values.attrs.get("units", "metric")}}, row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="component", type="category")
    figure.update_yaxes(title="and component", type="category", autorange="reversed", col=1)
    figure.update_yaxes(type="category", autorange="reversed", col=2)
    title = f"Ablating pairs ({result.provenance.get('reference', '')}); a dot marks interactions, p ≤ .05"
    return styled(figure, title, height=150 + max(260, 34 * len(names)), legend=False)


def pruning_curve(result: Result) -> go.Figure:
    """The metric as components go, beside random orders."""
    removed, extra = result.values.coords["removed"].values, result.extra
    labels = ["nothing", *(str(name) for name in extra["order"].values)]
    control = removed if result.control is None else result.control.values
    figure = go.Figure()
    for low, high, colour in (
        ("random_low", "random_high", "rgba(154,160,166,.25)"),
        ("low", "high", "rgba(47,109,181,.2)"),
    ):
        figure.add_scatter(
            x=[*removed, *removed[::-1]], y=[*extra[high].values, *extra[low].values[::-1]],
            fill="toself", mode="lines",
            fillcolor=colour, line={"width": 0}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    random = f"{result.control_kind}, least to most"
    figure.add_scatter(x=removed, y=control, mode="lines", name=random, line={"color": GREY, "dash": "dash"})
    order = f"{result.provenance.get('order')} order, 95 % over examples"
    figure.add_scatter(
        x=removed, y=result.values.values, mode="lines+markers", name=order, line={"color": BLUE}
    )
    figure.update_xaxes(title="component gone last", tickvals=removed, ticktext=labels)
    figure.update_yaxes(title=result.values.attrs.get("units", "metric"))
    styled(figure, f"Pruning, {result.provenance.get('reference')} ablation", height=420)
    if max(map(len, labels)) > 8:  # names of several stacks
        figure.update_xaxes(tickangle=-60)
        figure.update_layout(height=500, margin={"b": 170}, legend={"y": -0.55})
    return figure
