"""The values of any result as a table, where there is no figure made for it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.figures.style import FONT, styled
from mechinterp.formatting import format_interval, format_number
from mechinterp.result import Result

MOST = 200
"""How many rows a table has at most."""


@dataclass(frozen=True)
class Table:
    """Values by their coordinates.

    Args:
        title: lines that say whose they are, and what they are to be compared with.
        columns: names of the columns.
        rows: cells, as text.
    """

    title: list[str]
    columns: list[str]
    rows: list[list[str]]


def tabulate(result: Result) -> Table:
    """A row for each value, the first ``MOST`` of them, with the control beside it."""
    values, control = result.values, result.control
    dims = [str(dim) for dim in values.dims]
    where = [values[dim].values for dim in values.dims]
    title = [result.name + (" (untested: not learned)" if result.learned is False else "")]
    compared = [
        f"trivial {format_number(result.trivial)}",
        f"95 % interval {format_interval(result.interval)}",
    ]
    if control is None:
        compared.append("no control")
    elif not _fits(control, values):
        compared.append(f"control ({result.control_kind}) of other dimensions, {dict(control.sizes)}")
        control = None
    if values.size > MOST:
        compared.append(f"the first {MOST} of {values.size} values")
    columns = [*dims, str(values.attrs.get("units") or "value")]
    columns += [] if control is None else [f"control: {result.control_kind}"]
    rows = []
    for at in itertools.islice(np.ndindex(values.shape), MOST):
        row = [_cell(labels[i]) for labels, i in zip(where, at)] + [_cell(values.values[at])]
        if control is not None:
            own = dict(zip(values.dims, at))
            row.append(_cell(control.values[tuple(own[dim] for dim in control.dims)]))
        rows.append(row)
    return Table([*title, "; ".join(compared)], columns, rows)


def value_table(result: Result) -> go.Figure:
    """A plain table of a result's values."""
    made = tabulate(result)
    figure = go.Figure(
        go.Table(
            header={"values": [f"<b>{_literal(name)}</b>" for name in made.columns], "align": "left"},
            cells={
                "values": [[_literal(row[i]) for row in made.rows] for i in range(len(made.columns))],
                "align": "left",
                "height": 24,
            },
        )
    )
    figure.update_traces(header_font_family=FONT, cells_font_family=FONT)
    title, compared = map(_literal, made.title)
    return styled(figure, f"{title}<br><sup>{compared}</sup>", height=min(640, 200 + 24 * len(made.rows)))


def _fits(control: xr.DataArray, values: xr.DataArray) -> bool:
    """Whether a control has a number for each value: the same dims, or some of them."""
    return all(dim in values.dims and size == values.sizes[dim] for dim, size in control.sizes.items())


def _cell(value: Any) -> str:
    """A value, or the label of one, in short."""
    value = value.item() if isinstance(value, np.generic) else value
    return format_number(value) if type(value) in (int, float) and abs(value) < np.inf else str(value)


def _literal(text: str) -> str:
    """Text that plotly shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
