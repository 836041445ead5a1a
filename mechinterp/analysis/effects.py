"""From what a metric was under each of many edits to a ``Result`` with intervals, tests and a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_means, sign_flip_p_values
from mechinterp.result import Result


def effects_result(
    name: str,
    after: Float[Tensor, "*cell example"],
    before: Float[Tensor, " example"],
    axes: Mapping[str, Sequence[Any]],
    provenance: Mapping[str, Any],
    *,
    other: Float[Tensor, "*cell example"] | None = None,
    rounding: float = 0.0,
    tested: Bool[Tensor, "*cell"] | None = None,
    control_kind: str = "",
    units: str = "metric",
    extra: Mapping[str, xr.DataArray] | None = None,
    seed: int = 0,
) -> Result:
    """What each cell of a sweep does to a metric.

    Args:
        after, before: the metric under each edit, and of the intact run.
        axes: names of the cell's axes and their coordinates.
        other: the metric under the control's edits.
        rounding: differences of the metric no larger than this are 0 to the tests: a network's rounding
            errors are as consistent over examples as an effect is.
        tested: the cells that are tested and corrected for; ``None``: all. Others have no p-value.

    Returns:
        ``values``: the metric under each edit, averaged over examples; ``trivial``: of the intact run;
        ``control``: under the control's edits; ``interval``: of the largest effect. In ``extra``:
        ``effect`` (after minus before) with ``low`` and ``high`` (95 %, bootstrap over examples),
        ``p_value`` (sign flips: that the edit does something, and more in that direction than
        its control does; Benjamini-Hochberg over all cells) and ``per_example``. With n examples no
        p-value is below 2^(1-n) before adjustment, so many cells need many examples.
    """
    n_axes = after.ndim - 1
    by_example = after.movedim(-1, 0)
    effect = by_example - before.view(-1, *[1] * n_axes)
    low, high = bootstrap_means(effect, seed=seed)
    p_values = _p_values(beyond(rounding, effect), seed)
    if other is not None:  # both must be so: the larger of two p-values tests that (Berger 1982)
        special = beyond(rounding, by_example - other.movedim(-1, 0))
        p_values = p_values.maximum(_p_values(special, seed))
        # What goes the control's way, and less far, is nothing special.
        less = special.mean(0) * effect.mean(0) <= 0
        p_values = torch.where(less, 1.0, p_values)

    if tested is not None:
        p_values = p_values.masked_fill(~tested, torch.nan)

    def array(cells: Any) -> xr.DataArray:
        return xr.DataArray(np.asarray(cells, dtype=float), dims=list(axes), coords=dict(axes))

    mean = array(effect.mean(0))
    strongest = int(mean.to_numpy().__abs__().argmax())
    place = np.unravel_index(strongest, mean.shape)
    cell = ", ".join(f"{axis} {mean.coords[axis].values[i]}" for axis, i in zip(axes, place))
    values = array(after.mean(-1)).assign_attrs(units=units)
    return Result(
        name=name,
        values=values,
        trivial=before.mean().item(),
        control=None if other is None else array(other.mean(-1)),
        control_kind=control_kind if other is not None else "",
        interval=(float(low.flatten()[strongest]), float(high.flatten()[strongest])),
        provenance={
            **provenance,
            "n": len(before),
            "rounding": rounding,
            "interval of": f"the effect at {cell}",
        },
        extra={
            "effect": mean.assign_attrs(units=units),
            "low": array(low),
            "high": array(high),
            "p_value": array(benjamini_hochberg(p_values.numpy())),
            "per_example": xr.DataArray(after.numpy(), dims=[*axes, "example"], coords=dict(axes)),
            "before": xr.DataArray(before.numpy(), dims=["example"]),
            **(extra or {}),
        },
    )


def beyond(rounding: float, effects: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Effects, with 0 for those that are no more than rounding."""
    return effects.masked_fill(effects.abs() <= rounding, 0.0)


def _p_values(effects: Float[Tensor, " example *cell"], seed: int) -> Float[Tensor, "*cell"]:
    """Sign-flip p-values; small ones from so many draws that one cell alone can pass among up to 1250."""
    flat = effects.flatten(1)
    found = torch.cat([sign_flip_p_values(some, seed=seed) for some in flat.split(256, dim=1)])
    draws = min(20 * flat.shape[1], 25_000)
    if draws > 2000:
        for some in (found <= 0.01).nonzero().flatten().split(32):
            found[some] = sign_flip_p_values(flat[:, some], draws=draws, seed=seed)
    return found.view(effects.shape[1:])


def derangement(n: int, seed: int = 0, mask: Tensor | None = None) -> Int[Tensor, " n"]:
    """A random order in which nothing stays in its place: each example's donor is another one.

    Args:
        mask: true at real tokens; donors then have as many at the same places, where another example has.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    donors = torch.empty(n, dtype=torch.long)
    donors[order] = order.roll(1)
    if mask is not None:
        kinds = mask.bool().cpu().unique(dim=0, return_inverse=True)[1]
        for kind in kinds.unique():
            alike = order[kinds[order] == kind]
            if len(alike) > 1:
                donors[alike] = alike.roll(1)
    return donors
