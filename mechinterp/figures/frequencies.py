"""Spectra, rings, neurons and what their groups carry."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechinterp.figures.style import BLUE, CYCLIC, DIVERGING, GREY, SEQUENTIAL, styled
from mechinterp.result import Result

_TITLES = {
    "embedding_spectrum": "Embedding: power by frequency",
    "readout_spectrum": "Neurons to answers (W_out W_U): power by frequency",
    "logit_frequencies": "Logits: variance explained by cos(2πk(a+b−c)/p)",
}


def bars(result: Result) -> go.Figure:
    """Bars over frequencies, the control's as a line over them."""
    frequencies = result.values.coords["frequency"].values
    figure = go.Figure()
    figure.add_bar(x=frequencies, y=result.values.values, name="trained", marker={"color": BLUE})
    if result.control is not None:
        figure.add_scatter(
            x=frequencies, y=result.control.values, name=result.control_kind, mode="lines",
            line={"color": GREY, "shape": "hvh", "width": 1.5},
        )  # fmt: skip
    figure.update_xaxes(title="frequency k")
    figure.update_yaxes(title=result.values.attrs.get("units", ""), rangemode="tozero")
    return styled(figure, _TITLES.get(result.name, result.name))


def rings(result: Result, most: int = 12) -> go.Figure:
    """The numbers in the planes of the strongest frequencies, coloured by how far each has turned."""
    planes = result.extra["planes"]
    drawable = planes.coords["frequency"].values
    strongest = result.values.sel(frequency=drawable).argsort().values[::-1][:most]
    frequencies = drawable[np.sort(strongest)]
    n = len(frequencies)
    columns = min(n, 4)
    p = planes.sizes["number"]
    roundness = result.extra["roundness"]
    titles = [
        f"k = {k}<br>{100 * float(result.values.sel(frequency=k)):.0f} % of variance<br>"
        f"roundness {float(roundness.sel(network='trained', frequency=k)):.2f}"
        for k in frequencies
    ]
    rows = -(-n // columns)
    reach = 1.08 * float(np.abs(planes.sel(frequency=frequencies).values).max())
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.52 / (rows + 1))
    for i, k in enumerate(frequencies):
        x, y = planes.sel(frequency=k).values.T
        figure.add_scatter(
            x=x, y=y, mode="markers", text=[f"{a}" for a in range(p)],
            hovertemplate="number %{text}<extra></extra>",
            marker={
                "size": 6, "color": (int(k) * np.arange(p)) % p, "colorscale": CYCLIC, "cmin": 0, "cmax": p,
                "showscale": i == 0, "colorbar": {"title": {"text": "k·a mod p"}, "len": 0.8},
            },
            row=i // columns + 1, col=i % columns + 1,
        )  # fmt: skip
    figure.update_xaxes(zeroline=True, zerolinecolor="#dde", range=[-reach, reach], title_text="first axis")
    figure.update_yaxes(zeroline=True, zerolinecolor="#dde", range=[-reach, reach], constrain="domain")
    figure.update_yaxes(title_text="second axis", col=1)
    for i in range(n):
        axis = "" if i == 0 else str(i + 1)
        figure.update_layout({f"yaxis{axis}": {"scaleanchor": f"x{axis}"}})
    figure.update_annotations(font={"size": 11})
    more = "" if n == len(drawable) else f" (the {n} strongest of {len(drawable)})"
    title = f"Embedding: the numbers in the plane of each key frequency{more}"
    figure = styled(figure, title, height=130 + 310 * rows)
    return figure.update_layout(showlegend=False, margin={"t": 110})


def neuron_map(result: Result) -> go.Figure:
    """Each neuron's variance by frequency, neurons sorted by theirs."""
    shares = result.values.values
    best = shares.argmax(0)
    used = np.unique(best[shares.max(0) > 0.5])
    rest = 1 - shares[used].sum(0)
    order = np.lexsort((-shares.max(0), best))
    figure = make_subplots(
        rows=1, cols=2, column_widths=[0.66, 0.34], horizontal_spacing=0.2,
        subplot_titles=("share of each neuron's variance", "best single frequency"),
    )  # fmt: skip
    labels = [f"k = {k + 1}" for k in used] + ["others"]
    figure.add_heatmap(
        z=np.vstack([shares[used], rest])[:, order], y=labels, zmin=0, zmax=1, colorscale=SEQUENTIAL,
        colorbar={"title": {"text": "share"}, "x": 0.54, "len": 1.0, "thickness": 14}, row=1, col=1,
    )  # fmt: skip
    edges = {"start": 0, "end": 1, "size": 0.05}
    for values, name, colour in (
        (shares.max(0), "trained", BLUE), (result.control.values, "untrained", GREY),
    ):  # fmt: skip
        figure.add_histogram(
            x=values, name=name, xbins=edges, marker={"color": colour}, opacity=0.75, row=1, col=2
        )
    figure.update_layout(barmode="overlay")
    figure.add_vline(x=0.85, line={"color": "#444", "dash": "dot"}, row=1, col=2)
    figure.update_xaxes(title="neuron, sorted by frequency", row=1, col=1)
    figure.update_xaxes(title="share of variance", range=[0, 1], row=1, col=2)
    figure.update_yaxes(title="frequency", row=1, col=1)
    figure.update_yaxes(title="neurons", row=1, col=2)
    return styled(figure, "Neurons: variance by frequency of a and b", height=400)


def cluster_heatmaps(result: Result) -> go.Figure:
    """What ablating and patching each cluster does to each frequency, and what random neurons do."""
    names = [f"k = {k}" for k in result.values.coords["frequency"].values]
    titles = ("ablate the cluster", "patch the cluster", "ablate random neurons", "patch random neurons")
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=titles, horizontal_spacing=0.14, vertical_spacing=0.17
    )
    for row, array in enumerate((result.values, result.control)):
        for column, operation in enumerate(("ablate", "patch")):
            z = array.sel(operation=operation).values
            figure.add_heatmap(
                z=z, x=names, y=names, zmin=-1, zmax=1, zmid=0, colorscale=DIVERGING,
                text=np.round(z, 2), texttemplate="%{text}", showscale=row == column == 0,
                colorbar={"title": {"text": "share"}}, row=row + 1, col=column + 1,
            )  # fmt: skip
    figure.update_xaxes(title="frequency of the logits", row=2)
    figure.update_yaxes(title="cluster", col=1, autorange="reversed")
    figure.update_yaxes(autorange="reversed", col=2)
    return styled(
        figure,
        "Neuron clusters: share of a frequency that goes, or follows the patch",
        height=640,
        legend=False,
    )


def phase_map(result: Result) -> go.Figure:
    """Steps to grok over weight decay and train fraction; empty where a network did not."""
    values = result.values
    z = values.sel(measure="steps").values
    text = [
        [
            "no" if not np.isfinite(steps) else f"{steps:.0f} steps<br>{keys:.0f} frequencies"
            for steps, keys in zip(line, more)
        ]
        for line, more in zip(z, values.sel(measure="key_frequencies").values)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=z, x=[f"{100 * f:.0f} %" for f in values.coords["train_fraction"].values],
            y=[f"{d:g}" for d in values.coords["weight_decay"].values], text=text, texttemplate="%{text}",
            colorscale=SEQUENTIAL, reversescale=True, colorbar={"title": {"text": "steps"}},
        )
    )  # fmt: skip
    figure.update_xaxes(title="share of all pairs that train", type="category")
    figure.update_yaxes(title="weight decay", type="category")
    return styled(figure, "Where and when it groks", legend=False, height=420)


def sufficiency_bars(result: Result) -> go.Figure:
    """Losses with only the key frequencies and without them, beside random ones."""
    labels = {
        "full_test": "test: all of the logits",
        "restricted_test": "test: only these frequencies",
        "full_train": "train: all of the logits",
        "excluded_train": "train: without these",
    }
    measures = [str(m) for m in result.values.coords["measure"].values]
    figure = go.Figure()
    x = [labels[m] for m in measures]
    figure.add_bar(x=x, y=result.values.values, name="key frequencies", marker={"color": BLUE})
    if result.control is not None:
        figure.add_bar(x=x, y=result.control.values, name=result.control_kind, marker={"color": GREY})
    figure.add_scatter(
        x=x,
        y=[result.trivial] * len(x),
        name="uniform guess",
        mode="lines",
        line={"color": "#444", "dash": "dot"},
    )
    figure.update_xaxes(title="pairs, and what is kept of their logits")
    figure.update_yaxes(title="loss (nats)", type="log", exponentformat="power")
    return styled(figure, "Loss with only the key frequencies, and without them", height=420)
