"""Do heads look at the column that is being worked on? For every head of every stack.

Positions of a sum, of its operands and of what is written belong to columns. A head that serves a column
looks, from where it is asked for, at where its digits stand, or those of its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.checks import check_inputs, check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patches import hook_of
from mechinterp.analysis.sets import Component, check_components, components_of
from mechinterp.analysis.setting import activations
from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_means, permutation_p_value
from mechinterp.result import Result

Columns = tuple[Sequence[int], Sequence[int]]
"""The column of each query position and of each key position; -1 where there is none."""


@torch.no_grad()
def column_alignment(
    model: Any,
    inputs: Tensor,
    columns: Mapping[str, Columns],
    components: Sequence[Component] | None = None,
    *,
    offsets: Sequence[int] = (0, 1),
    attention_mask: Tensor | None = None,
    untrained: Any = None,
    draws: int = 1000,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The attention of each head from positions of a column to those of the same one, or of ones before it.

    Args:
        columns: by stack of ``patches.STACKS``, those of queries and keys.
        components: heads; all by default.
        offsets: columns that a key lies before its query; 0 is the same column.
        untrained: the network before training.
        draws: of the null, in which each query asks for one of the columns that it can see, at random.

    Returns:
        Dims ``component``, ``offset``: attention to such keys, the mean over the queries that have one; NaN
        where none has. Trivial is the mean of even attention. The control is the null's mean: what a head
        gives that looks at digits, but at no column in particular. ``extra``: ``even``, ``low`` and ``high``
        (95 %, bootstrap over examples), ``untrained``, and ``p_adjusted`` (Benjamini & Hochberg over
        cells). The null has few draws that differ where columns are few. The interval is that of the
        largest.

    Raises:
        ValueError: columns that are missing, do not fit or are nowhere related, components that are no heads
            or not there, no draws.
    """
    chosen = components_of(model) if components is None else list(components)
    check_components(model, chosen)
    check_inputs(inputs, attention_mask)
    check_model(model)
    if any(one.head is None for one in chosen) or draws < 1:
        raise ValueError(f"expected heads and at least 1 draw, got {[str(one) for one in chosen]}, {draws}")
    if missing := sorted({one.stack for one in chosen} - set(columns)):
        raise ValueError(f"expected columns for the stacks {missing} too, got those of {sorted(columns)}")
    own = _looks(model, inputs, chosen, columns, attention_mask)
    before = None if untrained is None else _looks(untrained, inputs, chosen, columns, attention_mask)
    shape = (len(chosen), len(offsets))
    by_example = torch.full((len(inputs), *shape), torch.nan, dtype=torch.float64)
    cells = {name: np.full(shape, np.nan) for name in ("null", "even", "p", "untrained")}
    for cell in np.ndindex(*shape):
        look, offset = own[cell[0]], offsets[cell[1]]
        where = look.asked(offset)
        if not bool(where.any()):
            continue
        by_example[:, *cell] = look.share(offset)
        null = look.null(where, draws, seed)
        cells["null"][cell], cells["even"][cell] = null.mean(), look.even_share(offset)
        cells["p"][cell] = permutation_p_value(by_example[:, *cell].mean().item() - 1e-9, null)
        if before is not None:
            cells["untrained"][cell] = before[cell[0]].share(offset).mean()
    if bool(by_example.isnan().all()):
        raise ValueError(
            f"expected a query that sees a key of a column {list(offsets)} before its own, got none; check "
            "the columns"
        )
    return _result(by_example, cells, chosen, offsets, before is not None, gated(
        gate, {**(provenance or {}), "n": len(inputs), "draws": draws, "seed": seed}
    ))  # fmt: skip


@dataclass(frozen=True)
class _Look:
    """How a head's attention is spread over columns.

    Args:
        queries: the column of each query.
        names: the columns that keys have.
        given: attention from each query to each of them.
        even: the same of even attention to all keys that may be seen.
    """

    queries: Int[Tensor, " query"]
    names: Int[Tensor, " column"]
    given: Float[Tensor, "batch query column"]
    even: Float[Tensor, "query column"]

    def _related(self, offset: int) -> Bool[Tensor, "query column"]:
        there = (self.queries[:, None] - offset == self.names) & (self.queries[:, None] >= 0)
        return there & (self.even > 0)

    def asked(self, offset: int) -> Bool[Tensor, " query"]:
        """The queries that can see a key of that column."""
        return self._related(offset).any(1)

    def share(self, offset: int) -> Float[Tensor, " batch"]:
        """Attention to the column, the mean over queries."""
        return (self.given * self._related(offset)).sum(-1)[:, self.asked(offset)].mean(-1)

    def even_share(self, offset: int) -> float:
        """The same of even attention."""
        return (self.even * self._related(offset)).sum(-1)[self.asked(offset)].mean().item()

    def null(self, where: Bool[Tensor, " query"], draws: int, seed: int) -> np.ndarray:
        """Attention to a column drawn anew for each query."""
        seen = (self.even[where] > 0).double()
        drawn = torch.multinomial(
            seen, draws, replacement=True, generator=torch.Generator().manual_seed(seed)
        )
        return self.given.mean(0)[where].gather(1, drawn).mean(0).numpy()


def _looks(
    model: Any,
    inputs: Tensor,
    chosen: Sequence[Component],
    columns: Mapping[str, Columns],
    mask: Tensor | None,
) -> list[_Look]:
    hooks = [hook_of("pattern", one.layer, one.stack) for one in chosen]
    cache = activations(model, inputs, sorted(set(hooks)), mask)
    found = []
    for one, hook in zip(chosen, hooks):
        queries, keys = (torch.as_tensor(list(x)) for x in columns[one.stack])
        pattern = cache[hook][:, one.head].double().cpu()
        if pattern.shape[1:] != (len(queries), len(keys)):
            raise ValueError(
                f"expected columns of {pattern.shape[1]} queries and {pattern.shape[2]} keys for {one}, got "
                f"{len(queries)} and {len(keys)}"
            )
        names = keys[keys >= 0].unique()
        member = (keys[:, None] == names).double()
        seen = (pattern > 0).any(0).double()
        found.append(_Look(queries, names, pattern @ member, seen / seen.sum(-1, keepdim=True) @ member))
    return found


def _result(
    by_example: Float[Tensor, "batch component offset"],
    cells: Mapping[str, np.ndarray],
    chosen: Sequence[Component],
    offsets: Sequence[int],
    trained_too: bool,
    provenance: Mapping[str, Any],
) -> Result:
    values, (low, high) = by_example.mean(0), bootstrap_means(by_example.nan_to_num())
    coords = {"component": [str(one) for one in chosen], "offset": [int(x) for x in offsets]}
    there = ~values.isnan().numpy()
    adjusted = np.full(there.shape, np.nan)
    adjusted[there] = benjamini_hochberg(cells["p"][there])
    row, column = map(int, np.unravel_index(int(values.nan_to_num(-1).argmax()), there.shape))

    def array(x: Any, units: str = "share of attention") -> xr.DataArray:
        shown = np.where(there, np.asarray(x), np.nan)
        return xr.DataArray(shown, dims=list(coords), coords=coords, attrs={"units": units})

    extra = {"even": array(cells["even"]), "low": array(low), "high": array(high)}
    extra["p_adjusted"] = array(adjusted, "p-value, Benjamini-Hochberg")
    if trained_too:
        extra["untrained"] = array(cells["untrained"])
    return Result(
        name="column_alignment",
        values=array(values),
        trivial=float(np.nanmean(cells["even"])),
        control=array(cells["null"]),
        control_kind="each query asks for a column drawn at random, mean",
        interval=(float(low[row, column]), float(high[row, column])),
        provenance={**provenance, "interval of": f"{chosen[row]}, offset {coords['offset'][column]}"},
        extra=extra,
    )
