"""Losses and scores along training, and where the network groks."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, GOLD, GREY, LINES, RED, styled
from mechinterp.result import Result


def training_curves(result: Result) -> go.Figure:
    """Loss above (log axis), accuracy below; the grokking gap is shaded."""
    values = result.values
    steps = values.coords["step"].values
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.6, 0.4])
    for name, colour in (("train", BLUE), ("test", RED)):
        for row, what in ((1, "loss"), (2, "score")):
            figure.add_scatter(
                x=steps, y=values.sel(measure=f"{name}_{what}").values, name=name, legendgroup=name,
                showlegend=row == 1, line={"color": colour, "width": 2}, row=row, col=1,
            )  # fmt: skip
    figure.add_scatter(
        x=[steps[0], steps[-1]], y=[result.trivial] * 2, name="uniform guess", mode="lines",
        line={"color": GREY, "dash": "dot"}, row=1, col=1,
    )  # fmt: skip
    gap = result.extra.get("gap")
    if gap is not None and bool(gap.notnull().all()):
        figure.add_vrect(
            x0=float(gap[0]), x1=float(gap[1]), fillcolor=GOLD, opacity=0.15, line_width=0, row="all", col=1
        )
        figure.add_annotation(
            x=float(gap.mean()), y=1.0, yref="paper", yanchor="bottom", showarrow=False,
            text="grokking gap", font={"size": 11, "color": GOLD},
        )  # fmt: skip
    figure.update_yaxes(title="loss (nats)", type="log", exponentformat="power", row=1, col=1)
    figure.update_yaxes(title="accuracy", range=[-0.03, 1.03], row=2, col=1)
    figure.update_xaxes(title="step (full batch)", row=2, col=1)
    return styled(figure, "Training: loss and accuracy of both splits", height=520)


def progress(result: Result) -> go.Figure:
    """Restricted and excluded loss above, Gini and weight norm below."""
    values = result.values
    steps = values.coords["step"].values
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.6, 0.4],
        specs=[[{}], [{"secondary_y": True}]],
    )  # fmt: skip
    lines = (
        ("train_loss", "train", BLUE, "solid"),
        ("test_loss", "test", RED, "solid"),
        ("restricted_loss", "restricted (test)", RED, "dot"),
        ("excluded_loss", "excluded (train)", BLUE, "dot"),
    )
    for key, name, colour, dash in lines:
        figure.add_scatter(
            x=steps, y=values.sel(measure=key).values, name=name, mode="lines+markers", marker={"size": 4},
            line={"color": colour, "dash": dash, "width": 2}, row=1, col=1,
        )  # fmt: skip
    figure.add_scatter(
        x=steps, y=values.sel(measure="gini").values, name="Gini of W_E's frequencies", mode="lines+markers",
        marker={"size": 4}, line={"color": GOLD}, row=2, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=steps, y=values.sel(measure="weight_norm").values, name="weight norm", mode="lines+markers",
        marker={"size": 4}, line={"color": GREY}, row=2, col=1, secondary_y=True,
    )  # fmt: skip
    figure.update_yaxes(title="loss (nats)", type="log", exponentformat="power", row=1, col=1)
    figure.update_yaxes(title="Gini", range=[0, 1], row=2, col=1, secondary_y=False)
    figure.update_yaxes(
        title="weight norm", rangemode="tozero", showgrid=False, row=2, col=1, secondary_y=True
    )
    figure.update_xaxes(title="step (full batch)", row=2, col=1)
    return styled(figure, "Progress measures along training", height=540)


def score_lines(result: Result) -> go.Figure:
    """Scores along training, network by network; what lies below -.08 is drawn there."""
    figure = go.Figure()
    for i, name in enumerate(result.values.network.values):
        y = result.values.sel(network=name)
        figure.add_scatter(
            x=y.step.values, y=y.values.clip(min=-0.08), name=str(name), mode="lines+markers",
            marker={"size": 4}, connectgaps=True,
            line={"color": LINES[i % len(LINES)], "dash": "dot" if i >= len(LINES) else "solid"},
        )  # fmt: skip
    low = bool((result.values < -0.08).any())
    figure.update_xaxes(title="step")
    split = {"val": "validation", "test": "test"}[result.provenance["split"]]
    figure.update_yaxes(title=f"{result.values.attrs['units']}, {split}", range=[-0.1, 1.04])
    said = "Learning, by kind of network" + "; less than -.08 is drawn there" * low
    return styled(figure, said, height=400)
