"""Codes of codebooks beside the states of a machine: how they train, align and steer."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, GOLD, GREY, LINES, RED, SEQUENTIAL, styled
from mechinterp.result import Result

_MEASURES = {"purity": "purity", "v_measure": "V-measure", "ami": "adjusted mutual<br>information"}


def machine_maps(result: Result) -> go.Figure:
    """How likely each state is after each, and each token in each state."""
    panels = (
        (result.values, "next state", "next state"),
        (result.extra["emission"], "next token", "next token"),
    )
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.1, subplot_titles=[title for _, title, _ in panels],
        column_widths=[panel.shape[1] for panel, _, _ in panels],
    )  # fmt: skip
    for column, (panel, _, title) in enumerate(panels, 1):
        figure.add_heatmap(
            z=panel.values, colorscale=SEQUENTIAL, zmin=0, zmax=1, showscale=column == 1, row=1, col=column,
            colorbar={"title": {"text": "probability"}, "thickness": 14},
            hovertemplate="state %{y}, " + title + " %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title=title, dtick=1, row=1, col=column)
    figure.update_yaxes(title="state", dtick=1, autorange="reversed", row=1, col=1)
    figure.update_yaxes(dtick=1, autorange="reversed", row=1, col=2)
    figure.update_annotations(font={"size": 12})
    return styled(figure, "The machine", height=400, legend=False)


def training_dashboard(result: Result) -> go.Figure:
    """Loss, score, temperature and entropy along training, with the least loss and the ceiling drawn."""
    values, steps = result.values, result.values.step.values
    panels = {
        "loss": ("loss, nats", float(result.extra["least_loss"]), "least there is"),
        "score": ("score", float(result.extra["ceiling"]), "ceiling"),
        "temperature": ("temperature", None, ""),
        "entropy": ("entropy of the choice, nats", None, ""),
    }
    figure = make_subplots(
        rows=2, cols=2, horizontal_spacing=0.12, vertical_spacing=0.16, shared_xaxes=True,
        subplot_titles=[title for title, _, _ in panels.values()],
    )  # fmt: skip
    for place, (name, (_, best, said)) in enumerate(panels.items()):
        at = {"row": place // 2 + 1, "col": place % 2 + 1}
        if name == "entropy":
            for colour, site in zip(LINES, result.extra["entropy"].site.values):
                figure.add_scatter(
                    x=steps, y=result.extra["entropy"].sel(site=site).values, name=str(site), mode="lines",
                    line={"color": colour, "width": 1.5}, **at,
                )  # fmt: skip
        else:
            figure.add_scatter(
                x=steps, y=values.sel(measure=name).values, mode="lines", showlegend=False,
                line={"color": BLUE}, **at,
            )  # fmt: skip
        if best is not None:
            figure.add_scatter(
                x=[steps[0], steps[-1]], y=[best] * 2, mode="lines", name=f"{name}: {said}",
                line={"color": RED, "dash": "dot"}, **at,
            )  # fmt: skip
        figure.update_yaxes(
            title={"loss": "nats", "entropy": "nats"}.get(name, name),
            rangemode="tozero" if name != "loss" else "normal", **at,
        )  # fmt: skip
    figure.update_xaxes(title="step", row=2)
    figure.update_annotations(font={"size": 12})
    figure = styled(figure, f"Training with codebooks: {result.provenance['network']}", height=560)
    return figure.update_layout(legend={"y": -0.14})


def code_state_map(result: Result) -> go.Figure:
    """Measures by site beside other sequences' states and the untrained network; below, the best site's codes
    by state, sorted so that a code stands under the state it is most often in."""
    sites, best = [str(site) for site in result.values.site.values], str(result.provenance["best"])
    table = result.extra["table"].sel(site=best).values.astype(float)
    used = np.flatnonzero(table.sum(0))
    order = used[np.lexsort((-table[:, used].sum(0), table[:, used].argmax(0)))]
    shares = table[:, order] / table[:, order].sum(0)
    titles = [_MEASURES[str(name)] for name in result.values.measure.values]
    figure = make_subplots(
        rows=2, cols=3, specs=[[{}, {}, {}], [{"colspan": 3}, None, None]], row_heights=[0.42, 0.58],
        vertical_spacing=0.2, horizontal_spacing=0.06, shared_yaxes=True,
        subplot_titles=[*titles, f"{best}: share of each code's occurrences in each state"],
    )  # fmt: skip
    for column, name in enumerate(result.values.measure.values, 1):
        marks = [("other sequences' states, 95 %", result.extra["null_high"], GREY, "line-ew-open")]
        if "untrained" in result.extra:
            marks.append(("untrained network", result.extra["untrained"], GOLD, "diamond-open"))
        figure.add_bar(
            x=sites, y=result.values.sel(measure=name).values, name="trained", marker={"color": BLUE},
            showlegend=column == 1, row=1, col=column,
        )  # fmt: skip
        for said, array, colour, symbol in marks:
            figure.add_scatter(
                x=sites, y=array.sel(measure=name).values, mode="markers", name=said, legendgroup=said,
                showlegend=column == 1, row=1, col=column,
                marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2}},
            )  # fmt: skip
    figure.update_yaxes(range=[-0.05, 1.04], row=1)
    figure.update_yaxes(title="agreement", row=1, col=1)
    figure.update_xaxes(title={"text": "site", "standoff": 0}, tickangle=-45, row=1)
    figure.add_heatmap(
        z=shares, x=[f"{code}" for code in order], y=[f"{state}" for state in range(len(shares))], zmin=0,
        zmax=1, colorscale=SEQUENTIAL, colorbar={"title": {"text": "share"}, "thickness": 14, "len": 0.5, "y":
        0.22}, hovertemplate="code %{x}, state %{y}: %{z:.3f}<extra></extra>", row=2, col=1,
    )  # fmt: skip
    figure.update_xaxes(title="code (those in use), sorted by state", type="category", row=2, col=1)
    figure.update_yaxes(title="state", autorange="reversed", type="category", row=2, col=1)
    figure.update_annotations(font={"size": 12})
    figure = styled(figure, f"Codes and states: {result.provenance.get('network', 'network')}", height=640)
    return figure.update_layout(legend={"y": -0.12})


def steering_maps(result: Result) -> go.Figure:
    """Success by site beside random codes; below, by source and target, at the best site."""
    best, success = str(result.provenance["best"]), result.extra["success"]
    sites = [str(site) for site in success.site.values]
    figure = make_subplots(
        rows=2, cols=2, specs=[[{"colspan": 2}, None], [{}, {}]], row_heights=[0.36, 0.64],
        vertical_spacing=0.2, horizontal_spacing=0.1,
        subplot_titles=["success by site, mean over other states", f"codes, {best}", f"random codes, {best}"],
    )  # fmt: skip
    kinds = (
        ("codes", "code of the target state", BLUE), ("another state's", "code of a third state", GOLD),
        ("random", "random codes", GREY),
    )  # fmt: skip
    for of, name, colour in kinds:
        figure.add_bar(
            x=sites, y=success.sel(of=of).values, name=name, marker={"color": colour}, offsetgroup=of,
            row=1, col=1,
        )  # fmt: skip
    figure.update_yaxes(title="share", range=[0, 1.04], row=1, col=1)
    figure.update_xaxes(title={"text": "site", "standoff": 0}, row=1, col=1)
    for column, array in enumerate((result.values, result.control), 1):
        figure.add_heatmap(
            z=array.sel(site=best).values, zmin=0, zmax=1, colorscale=SEQUENTIAL, showscale=column == 1,
            colorbar={"title": {"text": "share"}, "thickness": 14, "len": 0.5, "y": 0.25}, row=2, col=column,
            hovertemplate="from %{y} to %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title="target state", dtick=1, row=2, col=column)
        figure.update_yaxes(dtick=1, autorange="reversed", row=2, col=column)
    figure.update_yaxes(title="state that was", row=2, col=1)
    figure.update_annotations(font={"size": 12})
    name = result.provenance.get("network", "network")
    figure = styled(figure, f"Predicted as in the target state, its code put in: {name}", height=660)
    return figure.update_layout(barmode="group", legend={"y": -0.1})


def position_lines(result: Result) -> go.Figure:
    """Scores by position: the network's, the best there are, and the untrained network's."""
    figure = go.Figure()
    dashes = ("solid", "dash", "dot")
    for name, colour, dash in zip(result.values.of.values, (BLUE, RED, GOLD), dashes):
        figure.add_scatter(
            x=result.values.position.values, y=result.values.sel(of=name).values, name=str(name),
            mode="lines", line={"color": colour, "dash": dash},
        )  # fmt: skip
    figure.add_scatter(
        x=result.values.position.values, y=result.control.values, name=result.control_kind, mode="lines",
        line={"color": GREY},
    )  # fmt: skip
    figure.update_xaxes(title="tokens read before the last, position")
    figure.update_yaxes(title=str(result.values.attrs["units"]), rangemode="tozero")
    return styled(figure, f"By position: {result.provenance['network']}", height=400)
