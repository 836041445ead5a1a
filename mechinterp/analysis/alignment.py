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

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patches import hook_of, mask_of
from mechinterp.analysis.sets import Component, check_components, components_of
from mechinterp.analysis.setting import activations
from mechinterp.analysis.statistics import bootstrap_defined
from mechinterp.result import Result

Columns = tuple[Sequence[int], Sequence[int]]
"""The column of each query position and of each key position; -1 where there is none."""


@checked
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
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The attention of each head from positions of a column to those of the same one, or of ones before it.

    Args:
        columns: by stack of ``patches.STACKS``, those of queries and keys.
        components: heads; all by default.
        offsets: columns that a key lies before its query; 0 is the same column.
        untrained: the network before training.

    Returns:
        Dims ``component``, ``offset``: attention to such keys, the mean over the queries that have one; NaN
        where none has. Trivial is the mean of even attention to all keys that may be seen. The control is
        what each query would give on average to one of the columns that it can see, drawn at random.
        ``extra``: ``even``, ``low`` and ``high`` (95 %, bootstrap over examples), and ``untrained``. Columns
        are few and attention is much the same in all examples, so that no test of a head by itself has power:
        read values beside ``even``, the null and the untrained network. The interval is that of the largest.

    Raises:
        ValueError: columns that are missing, do not fit or are nowhere related, components that are no heads
            or not there.
    """
    check_inputs(inputs, attention_mask)
    check_model(model, "column alignment", ("n_layers", "n_heads", "attn_only"))
    chosen = components_of(model) if components is None else list(components)
    check_components(model, chosen)
    if any(one.head is None for one in chosen):
        raise ValueError(f"expected heads, got {[str(one) for one in chosen]}; leave out the MLPs")
    if missing := sorted({one.stack for one in chosen} - set(columns)):
        raise ValueError(f"expected columns for the stacks {missing} too, got those of {sorted(columns)}")
    own = _looks(model, inputs, chosen, columns, attention_mask)
    before = None if untrained is None else _looks(untrained, inputs, chosen, columns, attention_mask)
    shape = (len(chosen), len(offsets))
    by_example = torch.full((len(inputs), *shape), torch.nan, dtype=torch.float64)
    cells = {name: np.full(shape, np.nan) for name in ("null", "even", "untrained")}
    for cell in np.ndindex(*shape):
        look, offset = own[cell[0]], offsets[cell[1]]
        if not bool(look.related(offset).any()):
            continue
        by_example[:, *cell] = look.share(offset)
        cells["null"][cell], cells["even"][cell] = look.null(offset), look.even_share(offset)
        if before is not None:
            cells["untrained"][cell] = before[cell[0]].share(offset).nanmean()
    if bool(by_example.isnan().all()):
        raise ValueError(
            f"expected a query that sees a key of a column {list(offsets)} before its own, got none; check "
            "the columns"
        )
    return _result(by_example, cells, chosen, offsets, before is not None, gated(
        gate, {**(provenance or {}), "n": len(inputs)}
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
    even: Float[Tensor, "batch query column"]

    def related(self, offset: int) -> Bool[Tensor, "batch query column"]:
        """Where a query can see keys of the column that it is asked for."""
        there = (self.queries[:, None] - offset == self.names) & (self.queries[:, None] >= 0)
        return there & (self.even > 0)

    def share(self, offset: int) -> Float[Tensor, " batch"]:
        """Attention to that column, the mean over the queries that have one."""
        return self._mean(self.given, offset)

    def even_share(self, offset: int) -> float:
        """The same of even attention."""
        return self._mean(self.even, offset).nanmean().item()

    def _mean(self, x: Float[Tensor, "batch query column"], offset: int) -> Float[Tensor, " batch"]:
        """The mean over queries that have one; NaN in an example without."""
        there = self.related(offset)
        return (x * there).sum((1, 2)) / there.any(2).sum(1)

    def null(self, offset: int) -> float:
        """Attention to a column drawn at random, for each query of those that it can see, on average."""
        where = self.related(offset).any(2)
        seen = self.even[where] > 0
        return ((self.given[where] * seen).sum(1) / seen.sum(1)).mean().item()


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
        seen = _visible(model, one.stack, hook, pattern, mask)
        even = (seen / seen.sum(-1, keepdim=True)).nan_to_num() @ member
        found.append(_Look(queries, names, pattern @ member, even))
    return found


def _visible(
    model: Any, stack: str, hook: str, pattern: Float[Tensor, "batch query key"], mask: Tensor | None
) -> Float[Tensor, "batch query key"]:
    """1 where a real query may look at a key: by causality and padding, whatever it does look at."""
    seen = torch.ones_like(pattern)
    causal = stack == "decoder" or (stack == "" and getattr(model.cfg, "attention_dir", "causal") == "causal")
    if causal:
        seen = seen.tril()
    if mask is None:
        return seen
    keys = "cross_attn.hook_k" if stack == "cross" else hook
    asking, real = (mask_of(model, name, mask).cpu().to(seen) for name in (hook, keys))
    return seen * real[:, None, :] * asking[:, :, None]


def _result(
    by_example: Float[Tensor, "batch component offset"],
    cells: Mapping[str, np.ndarray],
    chosen: Sequence[Component],
    offsets: Sequence[int],
    trained_too: bool,
    provenance: Mapping[str, Any],
) -> Result:
    values, (low, high) = by_example.nanmean(0), bootstrap_defined(by_example)
    coords = {"component": [str(one) for one in chosen], "offset": [int(x) for x in offsets]}
    there = ~values.isnan().numpy()
    row, column = map(int, np.unravel_index(int(values.nan_to_num(-1).argmax()), there.shape))

    def array(x: Any) -> xr.DataArray:
        shown = np.where(there, np.asarray(x), np.nan)
        return xr.DataArray(shown, dims=list(coords), coords=coords, attrs={"units": "share of attention"})

    extra = {"even": array(cells["even"]), "low": array(low), "high": array(high)}
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
