"""Networks that regress in context: losses, errors, weights and where queries look, beside theory."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, DIVERGING, GOLD, GREY, LINES, styled
from mechinterp.formatting import format_number
from mechinterp.result import Result

_DASHES = ("dash", "dot", "dashdot", "longdash")


def training_losses(result: Result) -> go.Figure:
    """Each network's test loss along training, with the levels that theory knows."""
    figure, steps = go.Figure(), result.extra["step"]
    for number, name in enumerate(result.values.network.values):
        figure.add_scatter(
            x=steps.sel(network=name).values, y=result.values.sel(network=name).values, name=str(name),
            mode="lines+markers", marker={"size": 4}, line={"color": LINES[number % len(LINES)]},
        )  # fmt: skip
    most = float(np.nanmax(steps))
    levels = {
        str(line): float(result.extra["theory"].sel(line=line)) for line in result.extra["theory"].line.values
    }
    for dash, (name, level) in zip(_DASHES, {**levels, "always answering 0": result.trivial}.items()):
        figure.add_scatter(
            x=[0, most],
            y=[level] * 2,
            mode="lines",
            name=name,
            line={"color": "#555", "dash": dash, "width": 1.4},
        )
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="test loss (squared error)", type="log", exponentformat="power")
    return _roomy(styled(figure, "Loss along training, and what theory says can be reached", height=520), 520)


def error_lines(result: Result) -> go.Figure:
    """Errors by the number of examples, on logarithmic axes."""
    values, figure = result.values, go.Figure()
    methods = {"gd": "best step of descent", "ols": "least squares", "ridge": "Bayes (ridge)"}
    others = [name for name in map(str, values.predictor.values) if name not in methods]
    k = values.examples.values
    mode = "lines" if len(k) > 1 else "markers"  # of one number of examples there is no line
    for number, name in enumerate(others):
        figure.add_scatter(
            x=k, y=values.sel(predictor=name).values, name=name, mode=mode,
            line={"color": LINES[number % len(LINES)], "width": 2},
        )  # fmt: skip
    for dash, (name, label) in zip(_DASHES, methods.items()):
        if name in values.predictor.values:
            line = {"color": "#333", "dash": dash, "width": 1.6}
            figure.add_scatter(x=k, y=values.sel(predictor=name).values, name=label, mode=mode, line=line)
    if result.control is not None:
        line = {"color": GREY, "width": 1.2}
        figure.add_scatter(x=k, y=result.control.values, name=result.control_kind, mode=mode, line=line)
    figure.add_scatter(
        x=k, y=[result.trivial] * len(k), mode="lines", name="always answering 0",
        line={"color": GREY, "dash": "dot"},
    )  # fmt: skip
    ticks = [2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200]
    figure.update_xaxes(
        title="examples in the prompt", type="log", tickvals=ticks, ticktext=list(map(str, ticks))
    )
    figure.update_yaxes(title="mean squared error", type="log", exponentformat="power")
    return _roomy(styled(figure, "Error by number of examples", height=540), 540)


def step_maps(result: Result) -> go.Figure:
    """The preconditioner of the trained layer's step, theory's, and that before training."""
    panels = {"trained": "matrix", "theory": "target", "untrained": "untrained"}
    shown = {title: result.extra[key] for title, key in panels.items() if key in result.extra}
    limit = max(float(np.abs(array).max()) for array in shown.values())
    figure = make_subplots(rows=1, cols=len(shown), subplot_titles=list(shown), horizontal_spacing=0.07)
    for column, array in enumerate(shown.values(), start=1):
        small = array.size <= 100
        figure.add_heatmap(
            z=array.values, x=array.column.values, y=array.row.values, colorscale=DIVERGING, zmin=-limit,
            zmax=limit, zmid=0, showscale=column == len(shown), row=1, col=column,
            text=np.round(array.values, 2) if small else None, texttemplate="%{text}" if small else None,
            colorbar={"title": {"text": "weight"}, "thickness": 14},
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title="of the query's x", col=1)
    figure.update_xaxes(title="of the examples' x")
    cosine, error = (float(result.values.sel(measure=m)) for m in ("cosine", "relative error"))
    title = f"W_PV[y,y] W_KQ[x,x] of the layer: cosine with theory {cosine:.4f}, relative error {error:.3f}"
    return styled(figure, title, height=400, legend=False).update_layout(margin={"t": 84})


def agreement_bars(result: Result) -> go.Figure:
    """Cosines and explained shares of each method, beside another prompt's and the untrained network's."""
    shown = {"model cos": "cosine of sensitivities", "explained": "share of answers explained"}
    names = [str(name) for name in result.values.predictor.values]
    figure = make_subplots(rows=1, cols=2, subplot_titles=list(shown.values()), horizontal_spacing=0.1)
    rows = {"network": (result.values, BLUE), result.control_kind: (result.control, GREY)}
    if "untrained" in result.extra:
        rows["untrained network"] = (result.extra["untrained"], GOLD)
    for column, measure in enumerate(shown, start=1):
        for label, (array, colour) in rows.items():
            y = array.sel(measure=measure).values
            figure.add_bar(
                x=names, y=np.maximum(y, -1), name=label, marker={"color": colour}, showlegend=column == 1,
                legendgroup=label, textposition="outside", textfont={"size": 11}, cliponaxis=False, row=1,
                text=[f"{v:.3f}" for v in y] if label == "network" else None, col=column,
            )  # fmt: skip
        figure.update_yaxes(range=[-1.1, 1.15], title=shown[measure], row=1, col=column)
    figure.update_layout(barmode="group")
    figure.update_xaxes(title="method", row=1)
    named = result.provenance.get("network", "the network")
    return _roomy(styled(figure, f"Which method answers as this network does: {named}", height=440), 440)


def attention_rows(result: Result) -> go.Figure:
    """How much each head looks at one prompt's examples, these in order of their similarity to the query."""
    near, pattern = result.extra["similarity"].values, result.extra["pattern"]
    order = np.argsort(near)
    heads = [(layer, head) for layer in pattern.layer.values for head in pattern["head"].values]
    rows, names = [], []
    strength = [abs(float(result.values.sel(layer=layer, head=head))) for layer, head in heads]
    chosen = sorted(np.argsort(-np.array(strength), kind="stable")[:12])
    for layer, head in (heads[i] for i in chosen):
        row = pattern.sel(layer=layer, head=head).values[order]
        rows.append(row / max(np.abs(row).max(), 1e-12))
        names.append(f"L{layer}H{head} (r {float(result.values.sel(layer=layer, head=head)):+.2f})")
    rows.append(near[order] / max(np.abs(near).max(), 1e-12))
    names.append("x_j · x of the query")
    figure = go.Figure(
        go.Heatmap(
            z=rows[::-1], y=names[::-1], x=[str(i + 1) for i in range(len(order))], colorscale=DIVERGING,
            zmin=-1, zmax=1, zmid=0, colorbar={"title": {"text": "over its<br>largest"}, "thickness": 14},
        )
    )  # fmt: skip
    figure.update_xaxes(
        title="examples of one prompt, in order of their product with the query", type="category"
    )
    figure.update_yaxes(title="head", autorange="reversed")
    more = "" if len(chosen) == len(heads) else f" ({len(chosen)} of {len(heads)} heads)"
    title = f"Where the query of {result.provenance.get('network', 'the network')} looks{more}"
    height = 220 + 26 * len(rows)
    return styled(figure, title, height=height, legend=False).update_layout(margin={"l": 150})


def smoother_bars(result: Result) -> go.Figure:
    """What a kernel smoother and a gradient step explain of the network's answers, with controls."""
    names = [str(name) for name in result.values.predictor.values]
    rows = {"network": (result.values, BLUE), result.control_kind: (result.control, GREY)}
    if "untrained" in result.extra:
        rows["untrained network"] = (result.extra["untrained"], GOLD)
    figure = go.Figure()
    for label, (array, colour) in rows.items():
        y = array.values
        figure.add_bar(
            x=names,
            y=np.maximum(y, -0.2),
            name=label,
            marker={"color": colour},
            text=[f"{v:.3f}" for v in y],
            textposition="outside",
            cliponaxis=False,
        )
    figure.update_layout(barmode="group")
    figure.update_xaxes(title="predictor, fitted on other prompts")
    figure.update_yaxes(title="held-out share explained", range=[-0.25, 1.12])
    u, w = (float(result.extra["parameters"].sel(parameter=p)) for p in ("u", "w"))
    title = f"Softmax attention as a kernel smoother: u {u:.2f}, w {w:.2f}"
    return _roomy(styled(figure, title, height=420), 420)


def variant_lines(result: Result) -> go.Figure:
    """How much positions differ by layer: the whole network and without its parts; untrained dotted."""
    layers = ["in", *(str(i + 1) for i in range(result.values.sizes["layer"] - 1))]
    figure = go.Figure()
    for number, name in enumerate(result.values.network.values):
        colour = LINES[number % len(LINES)]
        kinds = [(result.values, "solid", str(name))]
        if result.control is not None:
            kinds.append((result.control, "dot", f"{name}, {result.control_kind}"))
        for array, dash, label in kinds:
            figure.add_scatter(
                x=layers,
                y=np.maximum(array.sel(network=name).values, 1e-8),
                name=label,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"size": 5},
            )
    figure.update_xaxes(title="blocks passed", type="category")
    figure.update_yaxes(title="|X − 1x'| / |X|", type="log", exponentformat="power")
    return _roomy(styled(figure, "How much positions differ, with parts left out", height=520), 520)


def layer_bars(result: Result) -> go.Figure:
    """Rate and curvature of each layer, and how much of the layer they are."""
    layers = [str(i + 1) for i in result.values.layer.values]
    figure = make_subplots(
        rows=1,
        cols=3,
        horizontal_spacing=0.12,
        subplot_titles=list(map(str, result.values.measure.values)),
    )
    for column, measure in enumerate(result.values.measure.values, start=1):
        for array, colour, label in (
            (result.values, BLUE, "trained"),
            (result.control, GREY, result.control_kind),
        ):
            if array is not None:
                y = array.sel(measure=measure).values
                figure.add_bar(
                    x=layers,
                    y=y,
                    marker={"color": colour},
                    name=label,
                    legendgroup=label,
                    showlegend=column == 1,
                    text=[f"{v:.2f}".replace("-0.00", "0.00") for v in y] if label == "trained" else None,
                    textposition="outside",
                    cliponaxis=False,
                    row=1,
                    col=column,
                )
    figure.update_layout(barmode="group")
    figure.update_xaxes(title="layer", type="category", row=1)
    figure.update_yaxes(title="rate of the step", row=1, col=1)
    figure.update_yaxes(title="curvature", row=1, col=2)
    figure.update_yaxes(title="squared cosine", range=[0, 1.15], row=1, col=3)
    return _roomy(styled(figure, "The step of GD++ nearest to each layer", height=400), 400)


def comparison_table(result: Result) -> go.Figure:
    """The table of the course: one row a network."""
    columns = [str(name) for name in result.values.column.values]
    cells = [
        [format_number(float(f"{value:.4g}")) for value in result.values.sel(column=name).values]
        for name in columns
    ]
    head = ["network", *columns, "untrained, over Bayes"]
    before = [format_number(float(f"{value:.4g}")) for value in result.control.values]
    figure = go.Figure(
        go.Table(
            header={"values": [f"<b>{name}</b>" for name in head], "align": "left", "fill_color": "#eef0f3"},
            cells={"values": [list(map(str, result.values.network.values)), *cells, before], "align": "left",
                   "height": 28, "fill_color": "#ffffff"},
            columnwidth=[2.2, *[1] * (len(head) - 1)],
        )
    )  # fmt: skip
    title = f"Networks side by side (d {result.provenance['d']}, {result.provenance['examples']} examples)"
    return styled(figure, title, height=210 + 30 * len(result.values.network), legend=False)


def shift_map(result: Result) -> go.Figure:
    """Squared error over variance of every predictor under every shift; a factor of ten is a colour."""
    values = np.maximum(result.values.values, 1e-12)
    limit = 2.0
    figure = go.Figure(
        go.Heatmap(
            z=np.clip(np.log10(values), -limit, limit),
            x=list(map(str, result.values["shift"].values)),
            y=list(map(str, result.values.predictor.values)),
            colorscale=DIVERGING,
            zmid=0,
            zmin=-limit,
            zmax=limit,
            text=[[_short(v) for v in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": 11},
            colorbar={
                "title": {"text": "error over<br>variance"},
                "thickness": 14,
                "tickvals": [-2, -1, 0, 1, 2],
                "ticktext": ["≤ .01", ".1", "1: answers 0", "10", "≥ 100"],
            },
        )
    )
    figure.update_yaxes(title="predictor", autorange="reversed")
    figure.update_xaxes(title="prompts", tickangle=-30)
    height = 260 + 32 * len(values)
    styled(
        figure,
        "Error over variance under shifts; above 1 is worse than answering 0",
        height=height,
        legend=False,
    )
    return figure.update_layout(margin={"l": 190, "b": 110})


def ratio_dots(result: Result) -> go.Figure:
    """Each setting's ratios over seeds; the line is what theory says."""
    setting = str(result.values.dims[0])
    names = [str(name) for name in result.values[setting].values]
    figure = go.Figure()
    for seed in result.values.seed.values:
        figure.add_scatter(
            x=result.values.sel(seed=seed).values,
            y=names,
            mode="markers",
            name=f"seed {seed}",
            marker={"size": 9},
        )
    figure.add_vline(x=1, line={"color": "#555", "dash": "dot"})
    figure.update_xaxes(title=result.values.attrs.get("units", "ratio"))
    figure.update_yaxes(title=setting, autorange="reversed")
    titles = {"optimum_by_setting": "Trained loss of one linear layer over its least loss"}
    title = titles.get(result.name, "Error of the deep network over Bayes' optimum")
    height = 210 + 34 * len(names)
    return _roomy(styled(figure, title, height=height), height).update_layout(margin={"l": 150})


def _short(value: float) -> str:
    if value >= 1e4 or value < 1e-3:
        return f"{value:.0e}"
    return f"{value:.3g}"


def _roomy(figure: go.Figure, height: int) -> go.Figure:
    """A legend of several lines below the axis titles."""
    return figure.update_layout(legend={"y": -62 / (height - 216)}, margin={"t": 84, "b": 130})
