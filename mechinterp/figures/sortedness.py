"""Accuracy by length and encoding, attention that dilutes, position vectors, and what leaks."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GOLD, GREY, LINES, RED, styled
from mechinterp.result import Result

_DIRECTIONS = ("causal", "bidirectional")


def _panels(values: xr.DataArray) -> dict[str, list[str]]:
    """The networks of each direction; one that was trained on other data is left out."""
    names = [str(name) for name in values.network.values]
    return {way: [name for name in names if name.endswith(f", {way}")] for way in _DIRECTIONS}


def _by_direction(result: Result, dotted: xr.DataArray) -> go.Figure:
    """A line for each encoding, with its interval if there is one, a panel for each direction; and another
    one, dotted."""
    solid = result.values
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, subplot_titles=_DIRECTIONS, horizontal_spacing=0.04
    )
    for column, names in enumerate(_panels(solid).values(), 1):
        for colour, name in zip(LINES, names):
            encoding, y = name.split(",")[0], solid.sel(network=name).values
            bars = {}
            if "low" in result.extra:
                low, high = (result.extra[end].sel(network=name).values for end in ("low", "high"))
                bars = {
                    "error_y": {
                        "type": "data", "array": high - y, "arrayminus": y - low, "thickness": 1, "width": 2
                    }
                }  # fmt: skip
            figure.add_scatter(
                x=solid.length.values, y=y, name=encoding, legendgroup=encoding, mode="lines+markers",
                showlegend=column == 1, line={"color": colour}, row=1, col=column, **bars,
            )  # fmt: skip
            figure.add_scatter(
                x=solid.length.values, y=dotted.sel(network=name).values, legendgroup=encoding, mode="lines",
                showlegend=False, line={"color": colour, "dash": "dot"}, row=1, col=column,
                name=f"{encoding}, dotted",
            )  # fmt: skip
    lengths = solid.length.values
    reach = [float(np.log10(lengths[0] / 1.2)), float(np.log10(lengths[-1] * 1.2))]
    figure.update_xaxes(title="tokens", type="log", tickvals=list(lengths), range=reach)
    figure.update_annotations(font={"size": 12})
    return figure


def length_lines(result: Result) -> go.Figure:
    """Accuracy by length, a panel for each direction; dotted where scores grow with log n."""
    figure = _by_direction(result, result.extra["log_n"])
    shortest, longest = map(int, str(result.provenance["trained at"]).split(" to "))
    for column in (1, 2):
        figure.add_vrect(
            x0=shortest, x1=longest, fillcolor=GOLD, opacity=0.15, line_width=0, row=1, col=column
        )
        figure.add_hline(y=0.5, line={"color": GREY, "dash": "dash"}, row=1, col=column)
    figure.update_yaxes(title="accuracy", range=[0.44, 1.03], row=1, col=1)
    said = "Accuracy by length; shaded: lengths of training; dotted: scores grow with log n beyond them"
    return styled(figure, said, height=430).update_layout(legend={"y": -0.26})


def density_lines(result: Result) -> go.Figure:
    """Accuracy on short sequences as dense as longer ones; dotted, at the longer lengths themselves."""
    figure = _by_direction(result, result.extra["at_length"])
    for column in (1, 2):
        figure.add_hline(y=0.5, line={"color": GREY, "dash": "dash"}, row=1, col=column)
    figure.update_xaxes(title="as dense as so many tokens")
    figure.update_yaxes(title="accuracy", range=[0.44, 1.03], row=1, col=1)
    said = f"Accuracy on {result.provenance['tokens']} tokens as dense as more; dotted: on so many tokens"
    return styled(figure, said, height=430).update_layout(legend={"y": -0.26})


def sharpening_bars(result: Result) -> go.Figure:
    """What sharper attention of some layers does: a group of bars for each measure."""
    figure = go.Figure()
    for colour, name in zip((GREY, *LINES), result.values.layers.values):
        row = result.values.sel(layers=name)
        figure.add_bar(
            x=[str(x) for x in row.measure.values], y=row.values, name=str(name), marker={"color": colour}
        )
    figure.update_yaxes(title="accuracy, or share of attention", range=[0, 1.03])
    figure.update_xaxes(title="measure")
    factor, network = result.provenance["factor"], result.provenance["network"]
    figure = styled(figure, f"Scores multiplied by up to {factor}, in some layers: {network}", height=420)
    return figure.update_layout(barmode="group")


def dilution_lines(result: Result) -> go.Figure:
    """The last token's attention on the fall by length, beside even attention."""
    figure = _by_direction(result, result.extra["log_n"])
    even = result.extra["even"]
    for column in (1, 2):
        figure.add_scatter(
            x=even.length.values, y=even.values, mode="lines", name="even attention", showlegend=column == 1,
            line={"color": GREY, "dash": "dash"}, row=1, col=column,
        )  # fmt: skip
    figure.update_yaxes(title="attention on the fall", range=[-0.03, 1.03], row=1, col=1)
    said = "The last token's attention on the fall, in the head that looks there most; dotted: log n"
    return styled(figure, said, height=430).update_layout(legend={"y": -0.26})


def accuracy_maps(result: Result) -> go.Figure:
    """Accuracy of each network by a third property, a panel for each length."""
    of = str(result.values.dims[2])
    names, lengths = [str(x) for x in result.values.network.values], result.values.length.values
    rows = -(-len(lengths) // 3)
    figure = make_subplots(
        rows=rows, cols=3, shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.02,
        vertical_spacing=0.08, subplot_titles=[f"{length} tokens" for length in lengths],
    )  # fmt: skip
    kinds = [str(x).replace("falls in part ", "fall ").replace(" of ", "/") for x in result.values[of].values]
    for i, length in enumerate(lengths):
        figure.add_heatmap(
            z=result.values.sel(length=length).values - 0.5, x=kinds, y=names, zmin=-0.5, zmax=0.5, zmid=0,
            colorscale=DIVERGING, showscale=i == 0, row=i // 3 + 1, col=i % 3 + 1,
            colorbar={
                "title": {"text": "accuracy"}, "thickness": 14, "tickvals": [-0.5, -0.25, 0, 0.25, 0.5],
                "ticktext": ["0", ".25", ".5, chance", ".75", "1"],
            },
            hovertemplate="%{y}, %{x}: half %{z:+.3f}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_yaxes(title="network", col=1)
    figure.update_xaxes(tickangle=-40)
    figure.update_xaxes(
        title={"kind": "kind of sequence", "gap": "by how much it falls", "ties": "ties"}[of], row=rows
    )
    figure.update_annotations(font={"size": 12})
    said = {
        "kind": "by where the sequence falls",
        "gap": "where the sequence falls, by how much",
        "ties": "by how many tokens are equal",
    }[of]
    figure = styled(figure, f"Accuracy {said}; white is half", height=150 + 330 * rows, legend=False)
    return figure.update_layout(margin={"b": 90})


def leak_lines(result: Result) -> go.Figure:
    """Accuracy of readers that see a part of the input, by length; a panel for each kind of negatives."""
    kinds = [str(kind) for kind in result.values.negatives.values]
    titles = {"adjacent": "two neighbours exchanged", "shuffle": "random order"}
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        subplot_titles=[titles[kind] for kind in kinds],
        horizontal_spacing=0.04,
    )
    for column, kind in enumerate(kinds, 1):
        for i, view in enumerate(result.values.view.values):
            for values, dash in ((result.values, "solid"), (result.control, "dot")):
                y = values.sel(negatives=kind, view=view)
                figure.add_scatter(
                    x=y.length.values, y=y.values, name=str(view), legendgroup=str(view),
                    mode="lines+markers", showlegend=column == 1 and dash == "solid", row=1, col=column,
                    line={"color": LINES[i], "dash": dash}, marker={"size": 5, "symbol": i},
                )  # fmt: skip
        figure.add_hline(y=0.5, line={"color": GREY, "dash": "dash"}, row=1, col=column)
    figure.update_xaxes(title="tokens", type="log", tickvals=list(result.values.length.values))
    figure.update_yaxes(title="accuracy, held out", range=[0.4, 1.03], row=1, col=1)
    figure.update_annotations(font={"size": 12})
    return styled(figure, "What tells without the order; dotted: shuffled answers", height=400)


def leak_bars(result: Result) -> go.Figure:
    """Accuracy of readers that see a part of the input only, beside shuffled answers."""
    views = [str(view) for view in result.values.view.values]
    figure = go.Figure()
    figure.add_bar(x=views, y=result.values.values, marker={"color": BLUE}, name="reader", width=0.5)
    figure.add_scatter(
        x=views, y=result.control.values, mode="markers", name="shuffled answers",
        marker={"color": "#444", "symbol": "line-ew-open", "size": 20, "line": {"width": 2}},
    )  # fmt: skip
    figure.add_hline(y=result.trivial, line={"color": GREY, "dash": "dash"})
    figure.update_yaxes(title="accuracy, held out", range=[0, 1.04])
    figure.update_xaxes(title="what is seen")
    return styled(figure, "What tells the answer without being meant to; dashed: a constant", height=400)


def table_maps(result: Result) -> go.Figure:
    """Position vectors, those before training, and the frequencies along the sequence of both."""
    tables = {"trained": result.values} | ({} if result.control is None else {"untrained": result.control})
    figure = make_subplots(
        rows=1, cols=3, horizontal_spacing=0.13, subplot_titles=["trained", "before training", "spectrum"]
    )
    size = max(float(np.abs(table).max()) for table in tables.values())
    for column, table in enumerate(tables.values(), 1):
        figure.add_heatmap(
            z=table.values, colorscale=DIVERGING, zmid=0, zmin=-size, zmax=size, row=1, col=column,
            colorbar={"thickness": 9, "x": 0.63, "title": {"text": "entry"}}, showscale=column == 1,
            hovertemplate="position %{y}, dimension %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title="dimension", row=1, col=column)
        figure.update_yaxes(
            title="position" if column == 1 else None, autorange="reversed", row=1, col=column
        )
    spectrum = result.extra["spectrum"]
    for name, colour in zip(spectrum.of.values, (BLUE, GOLD)):
        figure.add_scatter(
            x=spectrum.frequency.values, y=spectrum.sel(of=name).values, name=str(name), mode="lines+markers",
            line={"color": colour}, row=1, col=3,
        )  # fmt: skip
    figure.add_hline(y=result.trivial, line={"color": GREY, "dash": "dash"}, row=1, col=3)
    figure.update_xaxes(title="cycles a token", row=1, col=3)
    figure.update_yaxes(title="share of variance", rangemode="tozero", side="right", row=1, col=3)
    figure.update_annotations(font={"size": 12})
    return styled(figure, "Position vectors and their spectrum; dashed: random vectors", height=420)


def shift_lines(result: Result) -> go.Figure:
    """R² of the linear map from one position's vector to that of a later one; dotted: in a random order."""
    figure = go.Figure()
    for colour, name in zip(LINES, result.values.table.values):
        for values, dash in ((result.values, "solid"), (result.control, "dot")):
            y = values.sel(table=name)
            figure.add_scatter(
                x=values["shift"].values, y=y.values.clip(min=-1), name=str(name), legendgroup=str(name),
                mode="lines+markers", showlegend=dash == "solid", line={"color": colour, "dash": dash},
            )  # fmt: skip
    figure.add_hline(y=0, line={"color": GREY, "dash": "dash"})
    figure.update_xaxes(title="positions further on", tickvals=list(result.values["shift"].values))
    figure.update_yaxes(title="R², held out", range=[-1.05, 1.05])
    said = "Is a shift a linear map? Dotted: positions in a random order; less than -1 is drawn there"
    return styled(figure, said, height=400)


def move_bars(result: Result) -> go.Figure:
    """What moved positions do: of one network, or a group of bars for each of several."""
    figure = go.Figure()
    if "network" not in result.values.dims:
        moves = [str(move) for move in result.values.move.values]
        names = [*moves, "all alike", "random order"]
        heights = [*result.values.values, float(result.extra["flat"]), float(result.control)]
        figure.add_bar(
            x=names, y=heights, marker={"color": [BLUE] * len(moves) + [GREY] * 2}, showlegend=False
        )
        figure.add_hline(y=result.trivial, line={"color": RED, "dash": "dot"}, annotation_text="intact")
    else:
        for i, move in enumerate(result.values.move.values):
            colour = GREY if i >= len(result.values.move) - 2 else LINES[i]
            pattern = {"shape": "/"} if i == len(result.values.move) - 1 else None
            figure.add_bar(
                x=[str(name) for name in result.values.network.values], y=result.values.sel(move=move).values,
                name=str(move), marker={"color": colour, "pattern": pattern},
            )  # fmt: skip
        figure.add_hline(y=result.trivial, line={"color": "#444", "dash": "dash"})
    figure.update_yaxes(title=result.values.attrs["units"], rangemode="tozero")
    figure.update_xaxes(title="network" if "network" in result.values.dims else "positions that tokens get")
    figure = styled(figure, "Position vectors moved, tokens as they were", height=420)
    return figure.update_layout(barmode="group")
