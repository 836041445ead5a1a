"""A network beside an automaton: transition matrices, answers by length or state, and swapped states."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GOLD, GREEN, GREY, RED, styled
from mechinterp.result import Result

_MOST_HEADS = 5
_LEAST_WRONG = 2e-4
_COLOURS = (BLUE, GOLD, GREEN, RED)


def transition_grid(result: Result) -> go.Figure:
    """Cosines over their null's band; below, heads' matrices and the transition matrices they are beside.

    Of many heads those with a symbol are drawn first, unless the result says which.
    """
    first = np.argsort(result.extra["symbol"].values < 0, kind="stable")[:_MOST_HEADS]
    shown = result.provenance.get("visualized") or sorted(first.tolist())
    columns = len(shown)
    titles = [
        "",
        *(f"head {head}" for head in shown),
        *map(_symbol, result.extra["symbol"].values[shown].tolist()),
    ]
    figure = make_subplots(
        rows=3, cols=columns,
        specs=[[{"colspan": columns}, *[None] * (columns - 1)], [{}] * columns, [{}] * columns],
        row_heights=[0.36, 0.32, 0.32], vertical_spacing=0.12, horizontal_spacing=0.03, subplot_titles=titles,
    )  # fmt: skip
    _cosines(figure, result)
    matrices, transitions = result.extra["matrices"].values, result.extra["transitions"].values
    limit = float(np.abs(matrices[shown]).max()) or 1.0
    drawn: set[int] = set()
    for column, head in enumerate(shown, start=1):
        symbol = int(result.extra["symbol"][head])
        pairs = [(2, matrices[head], limit, "learned", 0.47)]
        if symbol >= 0:
            pairs.append((3, transitions[symbol], 1.0, "expected", 0.12))
        for row, matrix, most, title, y in pairs:
            figure.add_heatmap(
                z=matrix, zmin=-most, zmax=most, zmid=0, colorscale=DIVERGING, showscale=row not in drawn,
                colorbar={"title": {"text": title}, "len": 0.3, "y": y, "thickness": 12}, row=row, col=column,
            )  # fmt: skip
            drawn.add(row)
        ticks = {"dtick": max(1, len(matrices[head]) // 4)}
        for row in (2, 3):
            there = {"visible": row <= pairs[-1][0], "row": row, "col": column}
            figure.update_xaxes(title="to state" if row == 3 else "", **ticks, **there)
            figure.update_yaxes(autorange="reversed", showticklabels=column == 1, **ticks, **there)
    for row in (2, 3):
        figure.update_yaxes(title="from state", row=row, col=1)
    basis = result.provenance.get("basis", "the basis given")
    figure.update_annotations(font={"size": 13 if columns <= _MOST_HEADS else 9})
    styled(figure, f"Heads beside transition matrices: {basis}", height=720)
    return figure.update_layout(legend={"y": -0.1})


def _symbol(number: int) -> str:
    return "no symbol" if number < 0 else f"symbol {number}"


def _cosines(figure: go.Figure, result: Result) -> None:
    heads = [str(name) for name in result.values.coords["head"].values]
    labels = [f"{name} " for name in heads]  # a text that plotly takes for no number
    low, high = (
        result.extra[end].sel(null="random automata", measure="cosine").values
        for end in ("null_low", "null_high")
    )
    middle = (low + high) / 2
    figure.add_scatter(
        x=labels, y=middle, mode="markers", name="random automata, middle 95 %", marker={"opacity": 0},
        error_y={"type": "data", "array": high - middle, "color": GREY, "thickness": 9, "width": 0},
        row=1, col=1, showlegend=False,
    )  # fmt: skip
    figure.add_scatter(  # error bars alone have no legend
        x=[None], y=[None], mode="markers", name="random automata, middle 95 %", row=1, col=1,
        marker={"color": GREY, "symbol": "square", "size": 9},
    )  # fmt: skip
    if "rotated" in result.extra:
        rotated = result.extra["rotated"].sel(measure="cosine").values
        figure.add_scatter(
            x=np.repeat(labels, rotated.shape[1]), y=rotated.ravel(), mode="markers", name="stream rotated",
            marker={"color": GOLD, "size": 4, "opacity": 0.6}, row=1, col=1,
        )  # fmt: skip
    if "untrained" in result.extra:
        figure.add_scatter(
            x=labels, y=result.extra["untrained"].sel(measure="cosine").values, mode="markers",
            name="untrained",
            marker={"color": "#444", "symbol": "x-thin", "size": 10, "line": {"width": 2}}, row=1, col=1,
        )  # fmt: skip
    figure.add_scatter(
        x=labels, y=result.values.values, mode="markers", name="measured",
        marker={"color": BLUE, "size": 10}, row=1, col=1,
    )  # fmt: skip
    figure.update_xaxes(title={"text": "head", "standoff": 2}, type="category", row=1, col=1)
    figure.update_yaxes(
        title="cosine", range=[-1.05, 1.05], zeroline=True, zerolinecolor="#888", row=1, col=1
    )


def agreement_lines(result: Result) -> go.Figure:
    """Shares of right answers by group, with 95 % over examples, and those of the untrained network."""
    axis = str(result.values.dims[1])
    x, line = result.values.coords[axis].values, axis != "state"
    mode = "lines+markers" if line else "markers"
    figure = go.Figure()
    for number, answer in enumerate(map(str, result.values.coords["answer"].values)):
        colour = _COLOURS[number % len(_COLOURS)]
        y = result.values.sel(answer=answer).values
        low, high = (result.extra[end].sel(answer=answer).values for end in ("low", "high"))
        figure.add_scatter(
            x=x, y=y, name=answer, mode=mode, marker={"size": 6}, line={"color": colour, "width": 2},
            error_y={"type": "data", "symmetric": False, "array": high - y, "arrayminus": y - low, "width": 2,
                     "thickness": 1},
        )  # fmt: skip
        if result.control is not None and number == 0:
            figure.add_scatter(
                x=x, y=result.control.sel(answer=answer).values, name=f"{answer}, {result.control_kind}",
                mode=mode, line={"color": GREY, "width": 1.5}, marker={"size": 5, "color": GREY},
            )  # fmt: skip
    figure.add_scatter(
        x=[x[0], x[-1]], y=[result.trivial] * 2, name="best constant class", mode="lines",
        line={"color": "#444", "dash": "dot", "width": 1.5},
    )  # fmt: skip
    if "trained up to" in result.provenance:
        start = result.provenance["trained up to"] + 0.5
        figure.add_vrect(x0=start, x1=float(x[-1]) + 0.5, fillcolor=GREY, opacity=0.12, line_width=0)
        figure.add_annotation(
            x=start, y=1, yref="paper", yanchor="bottom", xanchor="left", showarrow=False,
            text="longer than in training", font={"size": 11},
        )  # fmt: skip
    units = {
        "length": "length (symbols)",
        "position": "position (symbols read)",
        "state": "state of the automaton",
    }
    figure.update_xaxes(title=units.get(axis, axis), dtick=None if line else 1)
    figure.update_yaxes(title="share of right answers", range=[-0.03, 1.05])
    return styled(figure, f"Right answers by {axis}", height=420)


def swap_bars(result: Result) -> go.Figure:
    """The share of answers that follow the state put in, at the place and later, beside both controls."""
    later = [str(x) for x in result.values.coords["later"].values]
    bars = (
        ("the state put in", result.values, BLUE),
        (f"control: {result.control_kind}", result.control, GOLD),
        ("control: a random direction", result.extra["random"], GREY),
    )
    figure = go.Figure()
    for name, array, colour in bars:
        own = array is result.values
        y = array.values
        error = {"type": "data", "symmetric": False, "array": result.extra["high"].values - y,
                 "arrayminus": y - result.extra["low"].values} if own else None  # fmt: skip
        figure.add_bar(x=later, y=y, name=name, marker={"color": colour}, error_y=error)
    figure.update_xaxes(title="symbols after the swap", type="category")
    figure.update_yaxes(title="share that follows the state put in", range=[0, 1.05])
    return styled(figure, "Another state put into the stream", height=400)


def comparison_lines(result: Result) -> go.Figure:
    """Cosines of both comparisons at each checkpoint above, gradients by kind of weight below."""
    steps = np.asarray(result.values.coords["step"].values, dtype=float) + 1
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    for name, colour, label in (
        ("raw", GOLD, "leading dimensions"),
        ("state_basis", BLUE, "basis of states"),
    ):
        figure.add_scatter(
            x=steps, y=result.values.sel(basis=name).values, name=f"cosine, {label}", mode="lines+markers",
            line={"color": colour, "width": 2}, row=1, col=1,
        )  # fmt: skip
        figure.add_scatter(
            x=[steps[0], steps[-1]], y=[float(result.control.sel(basis=name))] * 2,
            name=f"random automata, {label}",
            mode="lines", line={"color": colour, "width": 1.5, "dash": "dot"}, row=1, col=1,
        )  # fmt: skip
    gradient = result.extra["gradient"]
    shades = (
        "#4c78a8",
        "#f58518",
        "#54a24b",
        "#b279a2",
        "#9d755d",
        "#e45756",
        "#72b7b2",
        "#888888",
        "#222222",
    )
    for name, colour in zip(map(str, gradient.coords["component"].values), shades):
        figure.add_scatter(
            x=steps, y=gradient.sel(component=name).values, name=f"gradient of {name}", mode="lines",
            line={"color": colour, "width": 1.8}, row=2, col=1,
        )  # fmt: skip
    figure.update_yaxes(
        title="cosine, all heads", range=[-1.05, 1.05], zeroline=True, zerolinecolor="#888", row=1
    )
    figure.update_yaxes(title="norm of the gradient", type="log", exponentformat="power", dtick=1, row=2)
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title="step + 1", row=2)
    styled(figure, "Weights beside the automaton, along training", height=600)
    return figure.update_layout(legend={"y": -0.13})


def sweep_dots(result: Result) -> go.Figure:
    """Every setting's shares of wrong answers, grouped by what was changed; a cross: untrained."""
    labels = [str(name) for name in result.values.coords["setting"].values]
    figure = go.Figure()
    symbols = ("circle", "diamond", "square", "triangle-up")
    for name, colour, symbol in zip(map(str, result.values.coords["measure"].values), _COLOURS, symbols):
        figure.add_scatter(
            y=labels, x=_wrong(result.values.sel(measure=name).values), mode="markers", name=name,
            marker={"color": colour, "size": 9, "symbol": symbol, "opacity": 0.85},
        )  # fmt: skip
    figure.add_scatter(
        y=labels, x=_wrong(result.control.values), mode="markers", name=result.control_kind,
        marker={"color": "#444", "symbol": "x-thin", "size": 9, "line": {"width": 1.5}},
    )  # fmt: skip
    axes = result.extra["axis"].values
    for place in np.flatnonzero(axes[1:] != axes[:-1]):
        figure.add_hline(y=place + 0.5, line={"color": "#cfd4da", "width": 1})
    figure.update_yaxes(autorange="reversed", title="what was changed", type="category")
    ticks = [_LEAST_WRONG, 0.001, 0.01, 0.1, 1]
    figure.update_xaxes(
        title="share wrong (1 - score)", type="log", range=[np.log10(_LEAST_WRONG) - 0.1, 0.05],
        tickvals=ticks,
        ticktext=["none", *map(str, ticks[1:])],
    )  # fmt: skip
    styled(figure, "One thing changed at a time", height=160 + 22 * len(labels))
    return figure.update_layout(legend={"y": -0.12})


def _wrong(scores: np.ndarray) -> np.ndarray:
    """Shares of wrong answers; none is drawn at the left edge."""
    return np.maximum(1 - scores, _LEAST_WRONG)
