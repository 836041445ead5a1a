"""What each cell of a sweep does to a metric, as a map beside its control."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechinterp.figures.style import DIVERGING, styled
from mechinterp.result import Result

_TITLES = {
    "activation_patching": "Activation patching",
    "ablation": "Ablation",
    "sum_heads": "Share of the sum's variance lost without a head",
    "residue_heads": "Residues right without a head",
    "path_patching": "Path patching",
}
_SHORT = {"layer": "L", "head": "H"}
_TOLD = ("activation", "what", "reference", "receivers", "direction")


def effect_map(result: Result) -> go.Figure:
    """Any result of ``effects_result`` over layers and more as a map; a dot marks cells with p <= 0.05.

    Positions, or else the last axis, run to the right and all other axes downwards. The control's effect
    stands beside it on the same scale.

    Raises:
        ValueError: no axis of layers.
    """
    if "layer" not in result.values.dims:
        raise ValueError(
            f"expected values over layers and more, got {result.values.dims}; draw them yourself"
        )
    effect = result.extra["effect"]
    panels = [("effect of the edit", effect)]
    if result.control is not None:
        panels.append(("effect of its control", (result.control - result.trivial).broadcast_like(effect)))
    limit = max(float(np.nanmax(np.abs([panel.values for _, panel in panels]), initial=0.0)), 1e-9)
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.06,
        subplot_titles=[title for title, _ in panels],
    )  # fmt: skip
    rows, columns = _axes(effect)
    x, y = [str(label) for label in effect.coords[columns].values], _labels(effect, rows)
    height = 230 + max(110, min(900, 20 * len(y)))
    for number, (_, panel) in enumerate(panels, start=1):
        figure.add_heatmap(
            z=_flat(panel, rows, columns), x=x, y=y, zmin=-limit, zmax=limit, zmid=0, colorscale=DIVERGING,
            customdata=_told(result, rows, columns) if number == 1 else None, showscale=number == 1,
            hovertemplate=_HOVER[number == 1], row=1, col=number,
            colorbar={"title": {"text": _units(result)}, "thickness": 14, **_length(height - 70)},
        )  # fmt: skip
    _mark(figure, result, rows, columns, x, y)
    _divide(figure, effect, rows, len(panels))
    # Markers would widen the axes, and plotly would turn the labels of one panel and not the other's.
    upright = {"tickangle": 0, "dtick": -(-len(x) // 16)} if max(map(len, x)) < 4 else {}
    figure.update_xaxes(title=columns, type="category", range=[-0.5, len(x) - 0.5], **upright)
    figure.update_yaxes(type="category", range=[len(y) - 0.5, -0.5], dtick=-(-len(y) // 64))
    figure.update_yaxes(title=" and ".join(rows) or "all at once", ticks="outside" if rows else "", col=1)
    figure = styled(figure, _title(result), height=height)
    # The legend is placed by the height of the plot, which differs.
    return figure.update_layout(
        margin={"t": 96}, legend={"y": -78 / (height - 152), "itemsizing": "constant"}
    )


_HOVER = {
    True: "%{y}, %{x}: %{z:.4g}<br>[%{customdata[0]:.4g}, %{customdata[1]:.4g}], p %{customdata[2]:.2g}"
    "<extra></extra>",
    False: "%{y}, %{x}: %{z:.4g}<extra></extra>",
}


def _length(most: int) -> dict[str, int | str]:
    """A colour bar of at most so many pixels."""
    return {"lenmode": "pixels", "len": min(most, 340)}


def _axes(effect: xr.DataArray) -> tuple[list[str], str]:
    """The axes that run downwards, and the one that runs to the right."""
    dims = [str(dim) for dim in effect.dims]
    columns = "position" if "position" in dims else dims[-1]
    return [dim for dim in dims if dim != columns], columns


def _labels(effect: xr.DataArray, rows: list[str]) -> list[str]:
    """A name for each row, such as L0H3."""
    names, before = [""], ""
    for dim in rows:
        space = "" if not before or (before, dim) == ("layer", "head") else " "
        labels = [f"{space}{_SHORT.get(dim, '')}{label}" for label in effect.coords[dim].values]
        names, before = [name + label for name in names for label in labels], dim
    return names


def _flat(array: xr.DataArray, rows: list[str], columns: str) -> np.ndarray:
    return array.transpose(*rows, columns).values.reshape(-1, array.sizes[columns])


def _told(result: Result, rows: list[str], columns: str) -> np.ndarray:
    """The interval and p-value of each cell."""
    cells = [result.extra[name] for name in ("low", "high", "p_value")]
    return np.stack([_flat(cell, rows, columns) for cell in cells], axis=-1)


def _mark(
    figure: go.Figure, result: Result, rows: list[str], columns: str, x: list[str], y: list[str]
) -> None:
    """A dot on each cell that does something that its control does not."""
    found = np.argwhere(_flat(result.extra["p_value"], rows, columns) <= 0.05)
    figure.add_scatter(
        x=[x[column] for _, column in found] or [None], y=[y[row] for row, _ in found] or [None],
        mode="markers", name=f"p ≤ .05 (Benjamini–Hochberg over {result.values.size} cells): "
        f"{len(found) or 'none'}", hoverinfo="skip",
        marker={"size": 7, "color": "#fff", "line": {"color": "#22262b", "width": 1.3}}, row=1, col=1,
    )  # fmt: skip


def _divide(figure: go.Figure, effect: xr.DataArray, rows: list[str], panels: int) -> None:
    """A thin line between layers, or what else stands first, where each has several rows."""
    of_each = int(np.prod([effect.sizes[dim] for dim in rows[1:]], initial=1))
    for first in range(1, effect.sizes[rows[0]] if of_each > 1 else 0):
        for panel in range(1, panels + 1):
            line = {"color": "#9aa0a6", "width": 1}
            figure.add_hline(y=first * of_each - 0.5, line=line, row=1, col=panel)


def _units(result: Result) -> str:
    units = result.values.attrs.get("units", "metric")
    return f"change of the<br>{units}" if units == "metric" else f"change<br>({units})"


def _title(result: Result) -> str:
    about = [str(result.provenance[key]) for key in _TOLD if result.provenance.get(key)]
    title = f"{_TITLES.get(result.name, result.name)}: {', '.join(about)}" if about else _TITLES[result.name]
    control = "" if result.control is None else f"; control: {result.control_kind}"
    intact = f"intact run {result.trivial:.4g}" if result.trivial is not None else ""
    return f"{title}<br><sup>{intact}{control}</sup>"
