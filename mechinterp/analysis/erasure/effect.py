"""What a network loses when a concept is erased at one place, scored with its own answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Shaped
from scipy import stats
from torch import Tensor

from mechinterp.analysis.erasure.concepts import ReadAs, as_concept, kind_of
from mechinterp.analysis.erasure.erasers import (
    Eraser,
    Shrinkage,
    check_concept,
    dimensions,
    leace,
    mean_projection,
    probe_projection,
    random_erasers,
)
from mechinterp.analysis.erasure.place import Metric, Place, check_enough
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.jackknife import pseudo_values
from mechinterp.analysis.statistics import permutation_p_value
from mechinterp.devices import cpu_default
from mechinterp.hooks import HookedRootModule, Site
from mechinterp.result import Result

GROUPS = 10
"""In how many parts the examples of a fit are left out, to see whether its effect depends on them."""


@torch.no_grad()
@cpu_default
def erasure_effect(
    model: HookedRootModule,
    inputs: Tensor,
    site: Site,
    z: Shaped[Tensor, " n *more"],
    metric: Metric,
    *,
    shrinkage: Shrinkage = 0.0,
    draws: int = 20,
    seed: int = 0,
    z_as: ReadAs | None = None,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
    **forward: Any,
) -> Result:
    """How much the answers depend on a concept being linearly there, and whether it is gone.

    Erasers are fitted on a random half of the examples. On the other half the network runs with each
    of them in place, and a fresh linear reader is fitted and scored on the erased activations: on the
    half that erasers were fitted on, it would find nothing by construction.

    Args:
        inputs: what the model takes, one row an example; ``forward`` is passed on to it.
        site: one hook point, and where in it. One eraser acts on all vectors that the site covers (along
            its last axis; positions and heads are pooled).
        z: the concept: classes (integers or booleans) ``[n]``, or numbers ``[n]`` or ``[n, k]``. Where it
            differs between the v vectors of an example: classes ``[n, v]``, or numbers ``[n, v, k]``.
        metric: from the model's outputs on all inputs to one number an example, ``[n]``.
        shrinkage: as in ``leace``.
        draws: random erasers, of LEACE's rank, in the control.
        z_as: as in ``leace``.

    Returns:
        Dim ``eraser`` (leace, mean projection, probe projection): how much the mean metric over held-out
        examples changes. Trivial is 0, the intact network; the control is the mean change by random erasers
        of LEACE's rank. The interval is that of LEACE's change (bootstrap over held-out examples). ``p`` in
        the provenance is the share of random erasers that change the metric as much; or, if that is larger,
        the p-value of a change that is not 0, given how it varies with the examples of the fit (jackknife).
        ``extra``: ``change`` (eraser, quantity: mean, low, high), the control's included; ``readable``
        (eraser: intact, and those, random), R² for numbers or accuracy for classes; ``random`` (measure:
        change, readable; draw).

    Raises:
        ValueError: a site that the model lacks, or of several hook points, or of single examples; fewer
            than 8 examples; a z that does not fit or does not vary; a model that drops out at random; a
            metric that is not one finite number an example; activations without a dimension to spare.
    """
    z = as_concept(z, z_as)
    check_enough(inputs, z, draws)
    check_concept(z if z.is_floating_point() else z.flatten())
    place = Place.of(model, inputs, site, metric, seed, forward, z)
    concept = place.for_each_vector(z)
    about = concept[place.fit].flatten(0, 1)
    fitted, random = _erasers(place.fitted_on, about, site, shrinkage, draws, seed)

    unit = place.unit[place.fit].unique(return_inverse=True)[1]

    def by_leace(units: Tensor) -> float:
        some = place.fit[torch.isin(unit, units)]
        try:
            eraser = leace(
                place.vectors[some].flatten(0, 1), concept[some].flatten(0, 1), shrinkage=shrinkage,
                z_as=kind_of(z),
            )  # fmt: skip
        except ValueError:  # without some of the examples there is none
            return math.nan
        return float((place.scores(eraser) - place.intact).mean())

    own = {
        "site": str(site), "rank": fitted["leace"].rank, "n fitted": len(place.fit),
        "n held out": len(place.held), "draws": draws, "seed": seed, "eraser": str(fitted["leace"]),
        **place.said, **_reader(concept[place.held]),
    }  # fmt: skip
    return _result(
        place,
        by_eraser=np.array([place.scores(eraser) for eraser in fitted.values()]),
        by_draw=np.array([place.scores(eraser) for eraser in random]),
        of_fit=_p_of_fit(by_leace, int(unit.max()) + 1, seed),
        found=[place.readable(eraser, concept) for eraser in (None, *fitted.values())],
        found_by_draw=[place.readable(eraser, concept) for eraser in random],
        provenance=gated(gate, {**(provenance or {}), **own}),
    )


def _erasers(
    x: Float[Tensor, "row d"],
    z: Shaped[Tensor, " row *k"],
    site: Site,
    shrinkage: Shrinkage,
    draws: int,
    seed: int,
) -> tuple[dict[str, Eraser], list[Eraser]]:
    z_as = kind_of(z)
    fitted = leace(x, z, shrinkage=shrinkage, z_as=z_as)
    if fitted.rank == dimensions(x):
        raise ValueError(
            f"expected a concept of fewer dimensions than the {fitted.rank} in which activations vary at "
            f"{site}, got one that spans them all: erasing it is mean ablation, and so is every control; "
            "choose fewer features, or a wider site"
        )
    random = random_erasers(x, fitted.rank, draws, shrinkage=shrinkage, seed=seed)
    others = {
        "mean projection": mean_projection(x, z, z_as=z_as),
        "probe projection": probe_projection(x, z, z_as=z_as),
    }
    return {"leace": fitted, **others}, random


def _p_of_fit(change: Callable[[Tensor], float], n: int, seed: int) -> float:
    """Whether a change by an eraser differs from 0, given how it varies with the examples of the fit."""
    values = pseudo_values(change, n, groups=GROUPS, seed=seed)
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    return 1.0 if np.isnan(values).any() else float(stats.ttest_1samp(values, 0.0).pvalue)


def _result(
    place: Place,
    *,
    by_eraser: Float[np.ndarray, "eraser n"],
    by_draw: Float[np.ndarray, "draw n"],
    of_fit: float,
    found: list[float],
    found_by_draw: list[float],
    provenance: Mapping[str, Any],
) -> Result:
    intact = place.intact
    changes = [*(by_eraser - intact), by_draw.mean(0) - intact]
    change = np.array([[each.mean(), *place.interval(each)] for each in changes])
    null = (by_draw - intact).mean(1)
    own = {
        "intact": round(float(intact.mean()), 6),
        "p": round(max(of_fit, permutation_p_value(abs(change[0, 0]), abs(null))), 4),
        "readable intact": round(found[0], 4),
        "readable erased": round(found[1], 4),
    }
    kinds = ["leace", "mean projection", "probe projection", "random"]
    units = {"units": f"{provenance['reader']} of a fresh linear reader"}
    return Result(
        name="erasure_effect",
        values=xr.DataArray(
            change[:-1, 0],
            dims="eraser",
            coords={"eraser": kinds[:-1]},
            attrs={"units": "change of the mean metric"},
        ),
        trivial=0.0,
        control=xr.DataArray(change[-1, 0]),
        control_kind=f"random erasers of rank {provenance['rank']}, mean of {len(by_draw)} draws",
        interval=(float(change[0, 1]), float(change[0, 2])),
        provenance={**provenance, **own},
        extra={
            "readable": xr.DataArray(
                [*found, np.mean(found_by_draw)],
                dims="eraser",
                coords={"eraser": ["intact", *kinds]},
                attrs=units,
            ),
            "random": xr.DataArray(
                [null, found_by_draw], dims=("measure", "draw"), coords={"measure": ["change", "readable"]}
            ),
            "change": xr.DataArray(
                change,
                dims=("eraser", "quantity"),
                coords={"eraser": kinds, "quantity": ["mean", "low", "high"]},
            ),
        },
    )


def _reader(concept: Shaped[Tensor, "n v *k"]) -> dict[str, Any]:
    if concept.is_floating_point():
        return {"reader": "R²", "constant reader": 0.0}
    counts = concept.flatten().unique(return_counts=True)[1]
    return {"reader": "accuracy", "constant reader": round(counts.max().item() / counts.sum().item(), 4)}
