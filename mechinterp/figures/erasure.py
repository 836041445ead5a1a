"""What a network answers, and what can be read from it, once a concept is erased."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, GREEN, GREY, RED, styled
from mechinterp.result import Result

_NAMES = {
    "leace": "LEACE",
    "mean projection": "mean<br>projection",
    "probe projection": "probe<br>projection",
    "random": "random<br>erasers",
}


def erasure_bars(result: Result) -> go.Figure:
    """The change of the metric, and what a fresh reader finds, by eraser; each random eraser is a dot."""
    reader, site, rank = (result.provenance[key] for key in ("reader", "site", "rank"))
    change, random = result.extra["change"], result.extra["random"]
    x = [_NAMES.get(str(name), str(name)) for name in change.coords["eraser"].values]
    colours = [BLUE] * (len(x) - 1) + [GREY]
    mean = change.sel(quantity="mean").values
    spread = {
        "array": change.sel(quantity="high").values - mean, "type": "data", "color": "#444", "thickness": 1.2,
        "arrayminus": mean - change.sel(quantity="low").values,
    }  # fmt: skip
    found = result.extra["readable"].values
    panels = (
        (x, mean, colours, spread, random.sel(measure="change")),
        (["intact", *x], found, [GREEN, *colours], None, random.sel(measure="readable")),
    )
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.14,
        subplot_titles=(
            f"answers: change of the metric (intact {result.provenance['intact']:.3g})",
            f"reading: {reader} of a fresh linear reader",
        ),
    )  # fmt: skip
    for column, (labels, y, colour, error, draws) in enumerate(panels, 1):
        figure.add_bar(
            x=labels, y=y, marker={"color": colour}, error_y=error, showlegend=False, row=1, col=column
        )
        figure.add_scatter(
            x=[x[-1]] * draws.size, y=draws.values, mode="markers", name="one random eraser",
            legendgroup="draw", showlegend=column == 1, marker={"color": "#444", "size": 5, "opacity": 0.55},
            row=1, col=column,
        )  # fmt: skip
    figure.add_scatter(
        x=["intact", *x], y=[result.provenance["constant reader"]] * (len(x) + 1), mode="lines",
        name="reader that answers a constant", line={"color": RED, "dash": "dot"}, row=1, col=2,
    )  # fmt: skip
    figure.update_yaxes(title="change of the mean metric", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title=reader, rangemode="tozero", row=1, col=2)
    figure.update_xaxes(title="what was erased", tickangle=0, tickfont={"size": 9.5})
    figure.update_annotations(font={"size": 12})
    styled(figure, f"Erasing {rank} dimension{'s' * (rank != 1)} at {site}", height=430)
    return figure.update_layout(margin={"t": 84}, legend={"y": -0.36})


def erasure_lines(result: Result) -> go.Figure:
    """The change of the metric, and what a fresh reader finds, against the dimensions erased."""
    dimensions = result.extra["dimensions"].values
    changes = {"leace": result.values, "random": result.control}
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.14,
        subplot_titles=(
            f"answers: change of the metric (intact {result.provenance['intact']:.3g})",
            "reading: R² of a fresh linear reader",
        ),
    )  # fmt: skip
    for of, name, colour in (("leace", "the concepts", BLUE), ("random", "random erasers", GREY)):
        low, high = (result.extra[end].sel(of=of).values for end in ("low", "high"))
        band = [*high, *low[::-1]]
        figure.add_scatter(
            x=[*dimensions, *dimensions[::-1]], y=band, fill="toself", mode="none", fillcolor=colour,
            opacity=0.2, showlegend=False, hoverinfo="skip", row=1, col=1,
        )  # fmt: skip
        for column, values in ((1, changes[of]), (2, result.extra["readable"].sel(of=of))):
            figure.add_scatter(
                x=dimensions, y=values.values, mode="lines+markers", name=name, legendgroup=of,
                showlegend=column == 1, marker={"size": 5}, line={"color": colour}, row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title="dimensions erased", rangemode="tozero")
    figure.update_yaxes(title="change of the mean metric", row=1, col=1)
    figure.update_yaxes(title="R²", range=[-0.08, 1.04], row=1, col=2)
    figure.update_annotations(font={"size": 12})
    count = len(dimensions) - 1
    shown = result.provenance["concepts"] if count <= 3 else f"{count} concepts"
    styled(figure, f"Erasing {shown} one after another at {result.provenance['site']}", height=430)
    return figure.update_layout(margin={"t": 84})
