"""What a network loses as one concept after another is erased at one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.erasure.concepts import ReadAs, as_concept
from mechinterp.analysis.erasure.erasers import (
    Eraser,
    Shrinkage,
    check_concept,
    columns,
    leace,
    random_erasers,
)
from mechinterp.analysis.erasure.place import Metric, Place, check_enough
from mechinterp.analysis.gates import Gate, gated
from mechinterp.devices import cpu_default
from mechinterp.hooks import HookedRootModule, Site
from mechinterp.result import Result


@torch.no_grad()
@cpu_default
def erasure_curve(
    model: HookedRootModule,
    inputs: Tensor,
    site: Site,
    concepts: Mapping[Any, Tensor],
    metric: Metric,
    *,
    shrinkage: Shrinkage = 0.0,
    draws: int = 5,
    seed: int = 0,
    z_as: ReadAs | None = None,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
    **forward: Any,
) -> Result:
    """How the answers change as more and more concepts are erased together, in the order given.

    Erasers are fitted on a random half of the examples and tried on the other, where a fresh linear reader is
    asked for all the concepts too.

    Args:
        inputs: what the model takes, one row an example; ``forward`` is passed on to it.
        site: one hook point, and where in it, as for ``erasure_effect``.
        concepts: by name, in the order in which they go: each classes ``[n]``, or numbers ``[n]`` or
            ``[n, k]``, of the examples.
        metric: from the model's outputs on all inputs to one number an example, ``[n]``.
        shrinkage: as in ``leace``.
        draws: random erasers at each step, of as many dimensions.
        z_as: how all concepts are read, as in ``leace``.

    Returns:
        Dim ``erased`` (0 concepts to all): the mean change of the metric over held-out examples. Trivial is
        0, the control the mean change by random erasers of the same rank. The interval is that of the last
        step (bootstrap over held-out examples). ``extra``: ``dimensions`` (erased), how many are gone;
        ``readable`` (of: leace, random; erased), R² of all concepts to a fresh reader; ``low`` and ``high``
        (of; erased), ends of the 95 % interval of LEACE's change and of the range of the random ones.

    Raises:
        ValueError: no concepts, or as ``erasure_effect``.
    """
    if not isinstance(concepts, Mapping):
        raise TypeError(f"expected concepts by name, got {type(concepts).__name__}; give {{name: z}}")
    if not concepts:
        raise ValueError("expected at least one concept to erase, got none; give them by name")
    each = [as_concept(z, z_as) for z in concepts.values()]
    for z in each:
        check_enough(inputs, z, draws)
        check_concept(z)
    parts = [columns(z) for z in each]
    place = Place.of(model, inputs, site, metric, seed, forward, torch.cat(parts, 1))
    wanted = place.for_each_vector(torch.cat(parts, 1))
    rows = [_step(place, None, [], wanted)]
    for count in range(1, len(parts) + 1):
        about = place.for_each_vector(torch.cat(parts[:count], 1))[place.fit].flatten(0, 1)
        eraser = leace(place.fitted_on, about, shrinkage=shrinkage, z_as="values")
        others = random_erasers(place.fitted_on, eraser.rank, draws, shrinkage=shrinkage, seed=seed + count)
        rows.append(_step(place, eraser, others, wanted))

    def curve(*keys: str) -> xr.DataArray:
        found = np.array([[row[key] for row in rows] for key in keys])
        steps = {"erased": list(range(len(rows)))}
        if len(keys) == 1:
            return xr.DataArray(found[0], dims="erased", coords=steps)
        return xr.DataArray(found, dims=("of", "erased"), coords={"of": ["leace", "random"], **steps})

    values = curve("change")
    values.attrs["units"] = "change of the mean metric"
    own = {
        "site": str(site), "concepts": ", ".join(map(str, concepts)), "draws": draws, "seed": seed,
        "n fitted": len(place.fit), "n held out": len(place.held), **place.said,
        "intact": round(float(place.intact.mean()), 6),
    }  # fmt: skip
    return Result(
        name="erasure_curve",
        values=values,
        trivial=0.0,
        control=curve("random"),
        control_kind=f"random erasers of the same rank, mean of {draws} draws",
        interval=(rows[-1]["low"], rows[-1]["high"]),
        provenance=gated(gate, {**(provenance or {}), **own}),
        extra={
            "dimensions": curve("dimensions"),
            "readable": curve("left", "random left"),
            "low": curve("low", "random low"),
            "high": curve("high", "random high"),
        },
    )


def _step(place: Place, eraser: Eraser | None, others: list[Eraser], wanted: Tensor) -> dict[str, float]:
    """What is measured with one eraser in place, and with random ones of its rank."""
    left = place.readable(eraser, wanted)
    if eraser is None:
        return dict.fromkeys(
            ("change", "low", "high", "random", "random low", "random high", "dimensions"), 0.0
        ) | {"left": left, "random left": left}
    change = place.scores(eraser) - place.intact
    chance = [float((place.scores(other) - place.intact).mean()) for other in others]
    low, high = place.interval(change)
    return {
        "change": float(change.mean()), "low": low, "high": high,
        "random": float(np.mean(chance)), "random low": min(chance), "random high": max(chance),
        "dimensions": float(eraser.rank), "left": left,
        "random left": float(np.mean([place.readable(other, wanted) for other in others])),
    }  # fmt: skip
