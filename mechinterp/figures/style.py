"""One look for every figure: colours that survive colour-blindness and print, and honest scales."""

from __future__ import annotations

import plotly.graph_objects as go

BLUE, RED, GREY, GOLD, GREEN = "#2f6db5", "#c8442f", "#9aa0a6", "#d99a1c", "#3a8f5c"
LINES = (BLUE, RED, GREEN, GOLD, "#7b5ea7", "#2aa5a0", "#555555")
DIVERGING = "RdBu_r"  # always with the midpoint at zero
SEQUENTIAL = "Viridis"
CYCLIC = "Phase"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def styled(figure: go.Figure, title: str, *, height: int = 380, legend: bool = True) -> go.Figure:
    """Give a figure its title, fonts and margins; the legend stands under the plot."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 15}, "x": 0.0, "xanchor": "left", "xref": "paper"},
        font={"family": FONT, "size": 12.5, "color": "#22262b"},
        height=height,
        margin={"l": 64, "r": 24, "t": 56, "b": 56},
        showlegend=legend,
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        hoverlabel={"font": {"family": FONT}},
    )
    figure.update_xaxes(showline=True, linecolor="#cfd4da", ticks="outside", gridcolor="#eef0f3")
    figure.update_yaxes(showline=True, linecolor="#cfd4da", ticks="outside", gridcolor="#eef0f3")
    return figure
