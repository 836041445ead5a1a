"""Networks that add digit by digit: how well, with which heads, and where these look."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GOLD, GREY, LINES, RED, SEQUENTIAL, styled
from mechinterp.result import Result


def match_dots(result: Result) -> go.Figure:
    """Exact match of each network, with its interval, beside the untrained ones."""
    names = [str(name) for name in result.values.network.values]
    low, high = (result.extra[end].values for end in ("low", "high"))
    figure, y = go.Figure(), result.values.values
    figure.add_scatter(
        x=y, y=names, mode="markers+text", name="trained, 95 %", text=[f"{v:.4f}" for v in y],
        textposition="middle left", marker={"size": 9, "color": BLUE},
        error_x={"array": high - y, "arrayminus": y - low, "symmetric": False},
    )  # fmt: skip
    figure.add_scatter(
        x=result.control.values, y=names, mode="markers", name=result.control_kind,
        marker={"size": 9, "color": GREY, "symbol": "x"},
    )  # fmt: skip
    figure.update_xaxes(title="share of held-out problems written right", range=[-0.05, 1.08])
    figure.update_yaxes(title="network", autorange="reversed")
    styled(figure, "Exact match, written greedily", height=200 + 38 * len(names))
    return figure.update_layout(margin={"l": 200}, legend={"y": -0.32})


def cascade_lines(result: Result) -> go.Figure:
    """Exact match along training, a line for each length of the longest carry cascade."""
    networks = [str(name) for name in result.values.network.values]
    figure = make_subplots(rows=1, cols=len(networks), subplot_titles=networks, horizontal_spacing=0.09)
    lengths = [int(x) for x in result.values.longest.values]
    for column, network in enumerate(networks, start=1):
        for colour, length in zip(LINES, lengths):
            y = result.values.sel(network=network, longest=length).values
            label = "no carry" if length == 0 else f"carry over {length} column{'s' * (length > 1)}"
            figure.add_scatter(
                x=result.values.step.values, y=y, name=label, legendgroup=label, showlegend=column == 1,
                mode="lines+markers", marker={"size": 4}, line={"color": colour}, row=1, col=column,
                connectgaps=True,
            )  # fmt: skip
    figure.update_xaxes(title="step")
    figure.update_yaxes(range=[-0.02, 1.04])
    figure.update_yaxes(title="exact match, held-out problems", col=1)
    styled(figure, "Along training, by over how many columns a carry runs", height=420)
    return figure.update_layout(margin={"t": 84})


def loss_map(result: Result) -> go.Figure:
    """What the ablation of each head costs under each reference; a dot marks p ≤ .05."""
    names, kinds = ([str(x) for x in result.values[axis].values] for axis in ("component", "reference"))
    effect, p = result.extra["effect"].values, result.extra["p_value"].values
    what = result.name.removeprefix("head_").replace("_", " ") + " (nats)" * (result.name == "head_loss")
    limit = max(float(np.abs(effect).max()), 1e-9)
    text = [[f"{_signed(v)}{' ●' * bool(q <= 0.05)}" for v, q in zip(*row)] for row in zip(effect.T, p.T)]
    title = f"Ablating one head at a time: {what} {result.trivial:.4g} intact; a dot marks p ≤ .05"
    return _heads_map(
        names, kinds, effect.T, text, title, "what the head's output becomes", f"change of<br>{what}",
        scale=DIVERGING if result.name == "head_loss" else DIVERGING[:-2], ends=(-limit, limit),
    )  # fmt: skip


def column_map(result: Result) -> go.Figure:
    """Right digits lost to mean ablation of each head, by column and class of column."""
    lost = (result.values.sel(reference="mean") - result.extra["intact"]).stack(part=("column", "class"))
    there = result.extra["count"].stack(part=("column", "class")).values > 0
    names = [str(x) for x in lost.component.values]
    parts = [f"{column}<br>{kind}" for column, kind in lost.part.values[there]]
    z = lost.values[:, there]
    limit = max(float(np.nanmax(np.abs(z))), 1e-9)
    return _heads_map(
        names, parts, z, [[_signed(v) for v in row] for row in z],
        "Right digits without each head (mean ablation)", "column of the sum, and what it needs there",
        "change of the<br>share of right<br>digits", scale=DIVERGING[:-2], ends=(-limit, limit),
    )  # fmt: skip


def alignment_map(result: Result) -> go.Figure:
    """Attention of each head to the column asked for and to those before it, beside even attention."""
    names = [str(x) for x in result.values.component.values]
    shown = {
        f"{'same column' if k == 0 else f'{k} column before'}": result.values.sel(offset=k).values
        for k in map(int, result.values.offset.values)
    }
    even = result.extra["even"].isel(offset=0).values
    shown["even, same column"] = even
    z = np.stack(list(shown.values()), 1)
    text = [["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in z]
    return _heads_map(
        names, list(shown), z, text, "Where heads look, column by column",
        "keys, from where a column is asked for", "share of<br>attention", scale=SEQUENTIAL, ends=(0.0, 1.0),
    )  # fmt: skip


def brought_bars(result: Result) -> go.Figure:
    """The share of a difference that each head brings from the other problem: the mean, and each column."""
    names = [str(x) for x in result.values.component.values]
    figure = go.Figure()
    bars = ((result.values, "from its twin", BLUE), (result.control, result.control_kind, GREY))
    for values, label, colour in bars:
        figure.add_bar(x=names, y=values.mean("column").values, name=label, marker={"color": colour})
    for symbol, column in zip(("circle-open", "diamond-open", "square-open", "x-open"), result.values.column):
        figure.add_scatter(
            x=names, y=result.values.sel(column=column).values, name=f"from its twin, column {int(column)}",
            mode="markers", marker={"color": "#444", "symbol": symbol, "size": 6},
        )  # fmt: skip
    figure.update_layout(barmode="group")
    figure.update_xaxes(title="head", tickangle=-60, type="category")
    figure.update_yaxes(title="share of the difference brought")
    what = "a carry" if result.name == "carry_heads" else "its own digits"
    title = f"Sums that differ in one column by {what}: what each head brings"
    return styled(figure, title, height=480).update_layout(margin={"b": 160}, legend={"y": -0.55})


def patched_bars(result: Result) -> go.Figure:
    """The share of the difference between two runs that each head brings from one into the other."""
    names = [str(x) for x in result.values.component.values]
    bars = (("recovered", "from its twin", BLUE), ("recovered by control", result.control_kind, GREY))
    figure = go.Figure()
    for share, name, colour in bars:
        figure.add_bar(x=names, y=result.extra[share].values, name=name, marker={"color": colour})
    figure.update_layout(barmode="group")
    figure.update_xaxes(title="head", tickangle=-60, type="category")
    figure.update_yaxes(title="share of the difference brought")
    figure = styled(figure, "Heads patched from the clean into the corrupted run", height=460)
    return figure.update_layout(margin={"b": 150}, legend={"y": -0.55})


def head_dots(result: Result) -> go.Figure:
    """What each head brings of a carry and of a digit, and what becomes without it."""
    values, figure = result.values, go.Figure()
    kinds = {
        "critical": (values.sel(measure="critical").values > 0, RED),
        "prunable with the others": (values.sel(measure="pruned together").values > 0, GREY),
    }
    placed: list[tuple[float, float]] = []
    most = 1.15 * max(0.3, float(values.sel(measure=["carry", "digit"]).max()))
    left = ~np.any([mask for mask, _ in kinds.values()], axis=0)
    for label, (mask, colour) in {**kinds, "in between": (left, BLUE)}.items():
        x, y = (values.sel(measure=m).values[mask] for m in ("digit", "carry"))
        names = [str(name) for name in values.component.values[mask]]
        shown = [name if max(a, b) >= 0.15 else "" for name, a, b in zip(names, x, y)]
        above = [_free(float(a), float(b), placed, most) if text else True for text, a, b in zip(shown, x, y)]
        figure.add_scatter(
            x=x, y=y, mode="markers+text", name=label, text=shown, hovertext=names,
            textposition=["top center" if up else "bottom center" for up in above], textfont={"size": 10.5},
            marker={"size": 10, "color": colour},
        )  # fmt: skip
    figure.update_xaxes(title="share of a digit's difference that it brings", range=[-0.05, most])
    figure.update_yaxes(title="share of a carry's difference that it brings", range=[-0.05, most])
    return styled(figure, "Heads of the carry and heads of the digits", height=520)


def forcing_dots(result: Result) -> go.Figure:
    """Exact match when written and when forced, and the least that the token accuracy allows."""
    names = [str(x) for x in result.values.network.values]
    looks = {
        "greedy": ("written greedily", BLUE, "circle", 13),
        "all right when forced": ("all right when forced", GOLD, "x", 8),
        "bound": ("least that token accuracy allows", GREY, "line-ns-open", 14),
    }
    figure = go.Figure()
    for measure, (label, colour, symbol, size) in looks.items():
        figure.add_scatter(
            x=result.values.sel(measure=measure).values, y=names, mode="markers", name=label,
            marker={"color": colour, "symbol": symbol, "size": size},
        )  # fmt: skip
    figure.update_xaxes(title="share of problems")
    figure.update_yaxes(title="network", autorange="reversed")
    height = 220 + 30 * len(names)
    styled(figure, "Written and forced, intact and without single heads", height=height)
    return figure.update_layout(margin={"l": 150}, legend={"y": -0.25})


def longer_bars(result: Result) -> go.Figure:
    """Problems with a digit more than in training, beside those of training."""
    measures = [str(x) for x in result.values.measure.values]
    figure = make_subplots(rows=1, cols=2, subplot_titles=measures, horizontal_spacing=0.1)
    names = [str(x) for x in result.values.problems.values]
    for column, measure in enumerate(measures, start=1):
        for array, colour, label in ((result.values, BLUE, "trained"), (result.control, GREY, "untrained")):
            y = array.sel(measure=measure).values
            figure.add_bar(
                x=names, y=y, name=label, legendgroup=label, showlegend=column == 1, marker={"color": colour},
                text=[f"{v:.3f}" for v in y], textposition="outside", cliponaxis=False, row=1, col=column,
            )  # fmt: skip
    figure.update_layout(barmode="group")
    figure.update_yaxes(range=[0, 1.12])
    figure.update_yaxes(title="share", col=1)
    figure.update_xaxes(title="problems")
    styled(figure, "One digit more than ever in training", height=400)
    return figure.update_layout(margin={"t": 84})


def example_grid(result: Result) -> go.Figure:
    """Patterns of some heads for one problem; carries are marked by a dot above the digit that takes one."""
    source, target = result.provenance["source"], result.provenance["target"]
    carry, columns = result.extra["carry"].values, result.extra["columns"].values
    answers = [f"{digit}{'•' * bool(carry[column])}" for digit, column in zip(target[1:], columns)] + ["end"]
    asked = [f"{i}: → {answer}" for i, answer in enumerate(answers)]
    read = [f"{i}: {x}" for i, x in enumerate(source)]
    wrote = [f"{i}: {x}" for i, x in enumerate(target)]
    names = [str(x) for x in result.values.component.values]
    titles = [f"{name} ({float(result.extra['brings'].sel(component=name)):.2f})" for name in names]
    across = 3
    figure = make_subplots(
        rows=-(-len(names) // across), cols=across, subplot_titles=titles,
        horizontal_spacing=0.09, vertical_spacing=0.16,
    )  # fmt: skip
    for i, name in enumerate(names):
        x = wrote if ".self." in name and name.startswith("decoder") else read
        y = read if name.startswith("encoder") else asked
        z = result.values.sel(component=name).values[: len(y), : len(x)]
        figure.add_heatmap(
            z=z, x=x, y=y, zmin=0, zmax=1, colorscale=SEQUENTIAL, showscale=i == 0, row=i // across + 1,
            col=i % across + 1, colorbar={"title": {"text": "attention"}, "thickness": 14},
        )  # fmt: skip
    rows = -(-len(names) // across)
    figure.update_yaxes(autorange="reversed", type="category", tickfont={"size": 10})
    figure.update_yaxes(title="query", col=1)
    figure.update_xaxes(type="category", tickfont={"size": 10}, tickangle=-60)
    figure.update_xaxes(title="key", row=rows)
    title = f"Heads that bring the carry, in {source}{target} (in brackets the share; • takes a carry)"
    return styled(figure, title, height=130 + 300 * rows, legend=False).update_layout(margin={"t": 90})


def _heads_map(
    names: list[str],
    columns: list[str],
    z: np.ndarray,
    text: list[list[str]],
    title: str,
    across: str,
    what: str,
    *,
    scale: str,
    ends: tuple[float, float],
) -> go.Figure:
    """One row a head, with its numbers written into the cells."""
    figure = go.Figure(
        go.Heatmap(
            z=z, x=columns, y=names, zmin=ends[0], zmax=ends[1], colorscale=scale, text=text,
            texttemplate="%{text}", textfont={"size": 10.5},
            colorbar={"title": {"text": what}, "thickness": 14},
        )
    )  # fmt: skip
    figure.update_xaxes(title=across, type="category")
    figure.update_yaxes(title="head", autorange="reversed")
    styled(figure, title, height=190 + 21 * len(names), legend=False)
    return figure.update_layout(margin={"l": 150})


def _signed(value: float) -> str:
    return "0" if abs(value) < 0.005 else f"{value:+.2f}"


def _free(x: float, y: float, placed: list[tuple[float, float]], most: float) -> bool:
    """Whether a label has room above its point; it is then noted where it stands."""
    step = 0.04 * most
    near = [(a, b) for a, b in placed if abs(a - x) < 0.2 * most]
    above = all(abs(b - (y + step)) > step for _, b in near)
    placed.append((x, y + step if above else y - step))
    return above
