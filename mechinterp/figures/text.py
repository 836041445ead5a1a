"""Networks that read arithmetic as text: what they score, what readers find, and how size tells."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import GREY, LINES, RED, styled
from mechinterp.result import Result


def need_dots(result: Result) -> go.Figure:
    """The score of each network beside the untrained one's, a constant's, and what it needs."""
    names = [str(name) for name in result.values.network.values][::-1]
    figure = go.Figure()
    marks = (
        ("untrained", result.control, GREY, "x"),
        ("best constant", result.extra["constant"], GREY, "circle-open"),
        ("needed", result.extra["needed"], RED, "line-ns-open"),
        ("trained", result.values, LINES[0], "circle"),
    )
    for name, values, colour, symbol in marks:
        text = [f"{x:.4f}" for x in values.values[::-1]] if name == "trained" else None
        places = ["top right" if x < -0.08 else "top center" for x in values.values[::-1]]
        figure.add_scatter(
            x=values.values[::-1].clip(min=-0.08), y=names, name=name, text=text, textposition=places,
            mode="markers+text" if text else "markers",
            cliponaxis=False,
            marker={"color": colour, "symbol": symbol, "size": 14 if "line" in symbol else 9},
        )  # fmt: skip
    figure.update_xaxes(title=f"{result.values.attrs['units']} on held-out problems", range=[-0.1, 1.1])
    figure.update_yaxes(title="network", automargin=True, range=[-0.6, len(names) - 0.3])
    low = "; less than -.08 is drawn there" * any(bool((array < -0.08).any()) for _, array, *_ in marks)
    figure = styled(figure, f"What each network scores{low}", height=200 + 45 * len(names))
    return figure.update_layout(legend={"y": -90 / (90 + 45 * len(names))})


def reader_bars(result: Result) -> go.Figure:
    """What readers find after each layer; shuffled labels as ticks."""
    hooks, readers = ([str(x) for x in result.values[dim].values] for dim in ("hook", "reader"))
    readers = [name.replace(", ", ",<br>").replace("of numbers", "of<br>numbers") for name in readers]
    figure = go.Figure()
    for colour, hook in zip(LINES, hooks):
        figure.add_bar(
            x=readers, y=result.values.sel(hook=hook).values, name=hook, marker={"color": colour},
            offsetgroup=hook,
        )  # fmt: skip
    figure.add_scatter(
        x=readers, y=result.control.max("hook").values, mode="markers", name="shuffled labels",
        marker={"color": "#444", "symbol": "line-ew-open", "size": 18, "line": {"width": 2}},
    )  # fmt: skip
    figure.update_xaxes(title="reader: of numbers (R²), or of classes (accuracy)", tickangle=0)
    figure.update_yaxes(title="R² or accuracy, held out", range=[-0.1, 1.04])
    figure = styled(figure, "Reading the residue at the last character; less than -.1 is cut off", height=440)
    return figure.update_layout(barmode="group", legend={"y": -0.36})


def trend_lines(result: Result) -> go.Figure:
    """Errors, and what a probe reads, by width: a line for each number of layers, a dot for each seed."""
    widths = result.values.d_model.values
    panels = (("rmse", "error, root mean square"), ("probe", "R² of a probe of the sum, last layer"))
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.13, subplot_titles=[t for _, t in panels])
    for column, (measure, _) in enumerate(panels, 1):
        for colour, layers in zip(LINES, result.values.n_layers.values.tolist()):
            cells = result.values.sel(measure=measure, n_layers=layers)
            name = f"{layers} layer{'s' * (layers > 1)}"
            figure.add_scatter(
                x=widths, y=cells.mean("seed").values, name=name, legendgroup=name, mode="lines",
                showlegend=column == 1, line={"color": colour}, row=1, col=column,
            )  # fmt: skip
            figure.add_scatter(
                x=widths.repeat(cells.sizes["seed"]), y=cells.transpose("d_model", "seed").values.ravel(),
                mode="markers", legendgroup=name, showlegend=False, marker={"color": colour, "size": 6},
                row=1, col=column,
            )  # fmt: skip
    figure.add_scatter(
        x=[widths[0], widths[-1]], y=[result.trivial] * 2, mode="lines", name="answering the mean",
        line={"color": GREY, "dash": "dot"}, row=1, col=1,
    )  # fmt: skip
    figure.update_xaxes(title="width d_model", type="log", tickvals=list(widths), dtick=None)
    figure.update_yaxes(title="units of the sum", type="log", exponentformat="power", row=1, col=1)
    figure.update_yaxes(title="R²", row=1, col=2)
    figure.update_annotations(font={"size": 12})
    return styled(figure, "Networks of several sizes that answer sums", height=430)
