"""Whether two sets of vectors of the same examples have the same shape: linear CKA and Procrustes.

Both are blind to rotations, since no network cares along which axes it writes. Both find likeness
in noise when examples are few: an n x d cloud can be turned far towards any other. Shuffled
examples say how far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.jackknife import jackknife_interval
from mechinterp.analysis.procrustes import check_clouds, procrustes
from mechinterp.analysis.repeats import repeated_rows
from mechinterp.analysis.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    null_interval,
    permutation_p_value,
)
from mechinterp.analysis.tensors import said, tensor_of, whole_of
from mechinterp.devices import cpu_default
from mechinterp.hooks import Activations, Site
from mechinterp.result import Result

Measure = Literal["cka", "procrustes"]
_UNITS = {"cka": "linear CKA", "procrustes": "held-out R² after rotation"}


@cpu_default
def cka(x: Float[Tensor, "n d"], y: Float[Tensor, "m e"]) -> float:
    """Linear centred kernel alignment, ``|X'Y|² / (|X'X| |Y'Y|)`` in Frobenius norms, 0 to 1.

    1 if Y is X rotated, scaled and moved. Of independent noise it is near d / n, not 0, while
    d < n: compare it with ``score_and_null``.

    Raises:
        ValueError: different numbers of rows, fewer than 3, or vectors that are all alike.

    Source: Kornblith et al. (2019), "Similarity of neural network representations revisited", section 3.
    """
    x, y = tensor_of(x, "x"), tensor_of(y, "y")
    check_clouds(x, y)
    return _overlap(_normalised(x), _normalised(y))


@cpu_default
def score_and_null(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m e"],
    measure: Measure = "cka",
    *,
    draws: int = 100,
    seed: int = 0,
) -> tuple[float, NDArray[np.float64]]:
    """A measure, and what it is with the rows of y in random orders, ``[draws]``.

    CKA is taken on all rows; Procrustes is fitted on a random half and scored (R²) on the other, in the null
    as well. Rows that are independent examples make ``permutation_p_value`` of the two an exact test.

    Raises:
        ValueError: as ``cka`` and ``procrustes``, or an unknown measure.
    """
    x, y = tensor_of(x, "x"), tensor_of(y, "y")
    whole_of(draws, "draws", 1)
    check_clouds(x, y)
    once = _once(x, y)
    x, y = x[once], y[once]
    check_clouds(x, y)
    prepare, score = _scorer(measure, _halves(len(x), seed))
    first, second = prepare(x), prepare(y)
    return score(first, second), np.array(
        [score(first, second[order]) for order in _orders(len(x), draws, seed)]
    )


@cpu_default
def similarity(
    first: Activations,
    second: Activations | None = None,
    *,
    measure: Measure = "cka",
    names: Sequence[str] | None = None,
    position: int = -1,
    draws: int = 100,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """How alike the layers of one network are, or those of two networks on the same inputs.

    Args:
        first, second: caches, or tensors by name: ``[n, d]``, or as at a hook point, read at ``position``
            (several heads are put side by side). Without ``second``, ``first`` is compared with itself.
        names: which of them; ``None`` means all.
        draws: random orders of the examples, in the control.
        provenance: what else to remember of where the vectors come from.

    Returns:
        Dims ``first`` and ``second``: CKA, or the R² with which a rotation fitted on half of the examples
        turns the first into the second on the other half. Trivial is 0. The interval is that of the mean
        over layers with the same name in both networks, or over all pairs if no names are shared; of one
        network, over pairs of different layers. Of CKA it comes from leaving examples out, and its middle
        is corrected for the likeness that few examples feign; of Procrustes from a bootstrap over the
        examples that no rotation was fitted on. ``extra``: ``null`` (end, first, second), the control's
        middle 95 %, and ``p`` (first, second), adjusted for how many pairs there are; a layer beside itself
        has none.

    Raises:
        ValueError: no tensors, different numbers of examples or fewer than 8, vectors that are all alike, a
            hook point without positions, one network of one layer, no draws, or an unknown measure.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"expected at least 1 random order as a control, got draws={said(draws)}")
    for cache in (first, second if second is not None else first):
        if not (hasattr(cache, "keys") and hasattr(cache, "__getitem__")):
            raise TypeError(
                f"expected a cache, or tensors by name, got {type(cache).__name__}; of one give {{'x': it}}"
            )
    here = _rows(first, names, position)
    there = here if second is None else _rows(second, names, position)
    pairs = _headline_pairs(list(here), list(there), alone=second is None)
    for a, x in here.items():
        for b, y in there.items():
            check_clouds(x, y, least=8, names=(a, b))
    n, whole, repeats = len(next(iter(here.values()))), (here, there), {}
    once = _once(*here.values(), *there.values())
    if len(once) < 8:
        raise ValueError(
            f"expected at least 8 distinct inputs, got {len(once)} among {n}, the others copies; give more"
        )
    if len(once) < n:
        repeats = {
            "repeats": f"{len(once)} distinct inputs among {n}, each one example to control and interval"
        }
        here, there = ({name: x[once] for name, x in each.items()} for each in (here, there))
        n = len(once)
    halves = _halves(n, seed)

    def scores(rows: Tensor, orders: Iterable[Tensor]) -> NDArray[np.float64]:
        prepare, score = _scorer(measure, halves[rows])
        ready = [prepare(x[rows]) for x in here.values()]
        other = ready if second is None else [prepare(y[rows]) for y in there.values()]
        # What is prepared, means and norms, does not depend on the order of rows.
        grids = ((ready, [y[order] for y in other]) for order in orders)
        return np.array([[[score(x, y) for y in ys] for x in xs] for xs, ys in grids])

    everyone = torch.arange(n)
    values, null = scores(everyone, [everyone])[0], scores(everyone, _orders(n, draws, seed))
    p = _p_values(values, null, alone=second is None)
    if repeats and measure == "cka":  # which has no held-out half, and takes all rows
        values = np.array([[cka(x, y) for y in whole[1].values()] for x in whole[0].values()])
    own = {"measure": measure, "n": n, "draws": draws, "seed": seed, **repeats}
    own["mean"] = round(float(values[pairs].mean()), 6)
    if measure == "cka":
        interval = jackknife_interval(
            lambda rows: float(scores(rows, [torch.arange(len(rows))])[0][pairs].mean()), n, seed=seed
        )
        own["mean corrected for n"] = round(sum(interval) / 2, 6)
    else:
        both = [
            (x, y) for i, x in enumerate(here.values()) for j, y in enumerate(there.values()) if pairs[i, j]
        ]
        interval = _held_out_interval(both, halves, seed)
    dims, coords = ("first", "second"), {"first": list(here), "second": list(there)}
    bounds = np.apply_along_axis(null_interval, 0, null)
    return Result(
        name="similarity",
        values=xr.DataArray(values, dims=dims, coords=coords, attrs={"units": _UNITS[measure]}),
        trivial=0.0,
        control=xr.DataArray(null.mean(0), dims=dims, coords=coords),
        control_kind=f"examples in random order, mean of {draws} draws",
        interval=interval,
        provenance=gated(gate, {**(provenance or {}), **own}),
        extra={
            "null": xr.DataArray(bounds, dims=("end", *dims), coords={**coords, "end": ["low", "high"]}),
            "p": xr.DataArray(p, dims=dims, coords=coords),
        },
    )


def _once(*clouds: Float[Tensor, "n _"]) -> Int[Tensor, " once"]:
    """One row of each input: copies are no further examples, and the null would take them for such."""
    alike = repeated_rows(*clouds)
    first = torch.full((int(alike.max()) + 1,), len(alike))
    return first.scatter_reduce(0, alike, torch.arange(len(alike)), "amin")


def _held_out_interval(
    pairs: list[tuple[Tensor, Tensor]], fit: Bool[Tensor, " n"], seed: int
) -> tuple[float, float]:
    """Of the mean R² of the rotations fitted, over examples that they were not fitted on."""
    errors = [procrustes(x[fit], y[fit]).errors(x[~fit], y[~fit]) for x, y in pairs]
    arrays = [(wrong.numpy(), whole.numpy()) for wrong, whole in errors]

    def mean_score(rows: NDArray, axis: int) -> NDArray[np.float64]:
        return np.mean([1 - wrong[rows].sum(axis) / whole[rows].sum(axis) for wrong, whole in arrays], 0)

    held = np.arange(int((~fit).sum()))
    # The resampled values are row numbers, which a mean of ratios needs.
    return bootstrap_interval(
        held, lambda rows, axis: mean_score(rows.astype(int), axis), draws=500, seed=seed
    )


def _p_values(values: NDArray, null: NDArray, alone: bool) -> NDArray[np.float64]:
    p = np.full(values.shape, np.nan)
    for i, j in np.ndindex(values.shape):
        if not (alone and i == j):
            p[i, j] = permutation_p_value(values[i, j], null[:, i, j])
    return benjamini_hochberg(p)


def _headline_pairs(first: list[str], second: list[str], alone: bool) -> NDArray[np.bool_]:
    same = np.array([[a == b for b in second] for a in first])
    pairs = ~same if alone else same if same.any() else ~same
    if not pairs.any():
        raise ValueError(
            f"expected at least 2 layers to compare, got {first}; give more, or a second network"
        )
    return pairs


def _rows(cache: Activations, names: Sequence[str] | None, position: int) -> dict[str, Float[Tensor, "n d"]]:
    known = list(cache.keys())
    if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
        raise ValueError(f"expected names as a list of {known}, got {said(names)}; of one give [it]")
    wanted = known if names is None else list(names)
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        raise ValueError(f"expected names among {known}, got {missing or 'none'}; cache those hook points")
    found = {}
    for name in wanted:
        x = cache[name]
        x = tensor_of(x, f"activations of {name}")
        if x.ndim < 2 or not x.is_floating_point() or not x.numel():
            raise ValueError(
                f"expected floating-point activations of {name}, [n, d] or as at a hook point, got {x.dtype} "
                f"{list(x.shape)}"
            )
        read = x if x.ndim == 2 else Site.at(name, position=position).read(name, x)
        found[name] = read.flatten(1).cpu()
    return found


def _scorer(
    measure: Measure, fit: Bool[Tensor, " n"]
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], float]]:
    """What to do to each cloud once, and the score of two clouds to which it was done."""
    if not isinstance(measure, str) or measure not in _UNITS:
        raise ValueError(f"expected measure cka or procrustes, got {said(measure)}; there is no other")
    if measure == "cka":
        return _normalised, _overlap
    return torch.Tensor.double, lambda x, y: procrustes(x[fit], y[fit]).score(x[~fit], y[~fit])


def _normalised(x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    centred = x.double() - x.double().mean(0)
    if x.shape[1] > len(x):  # CKA sees inner products alone: a rotation to n dimensions keeps them
        u, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
        centred = u * sizes
    return centred / (centred.mT @ centred).norm().sqrt()


def _overlap(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    return ((x.mT @ y) ** 2).sum().item()


def _halves(n: int, seed: int) -> Bool[Tensor, " n"]:
    half = torch.zeros(n, dtype=torch.bool)
    half[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: n // 2]] = True
    return half


def _orders(n: int, draws: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    return [torch.randperm(n, generator=generator) for _ in range(draws)]
