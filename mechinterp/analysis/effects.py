"""From what a metric was under each of many edits to a ``Result`` with intervals, tests and a control."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.analysis.repeats import repeated_rows
from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_means, sign_flip_p_values
from mechinterp.result import PrecisionWarning, Result


@dataclass(frozen=True)
class Sample:
    """What the tests of a sweep must know of its examples.

    Args:
        groups: the number of each example's input, as ``repeated_rows`` gives it: examples of one input count
            as one. ``None``: all inputs differ.
        rounding: differences of the metric no larger than this are 0 to the tests: a network's rounding
            errors are as consistent over examples as an effect is.
        dtype: the precision in which the network ran.
        control_tells: whether the control can tell an example's own donor from others, as ``donors_differ``
            says. If not, p-values are against no effect.
    """

    groups: Int[Tensor, " example"] | None = None
    rounding: float = 0.0
    dtype: torch.dtype = torch.float64
    control_tells: bool = True

    def summed(self, effects: Float[Tensor, " example *cell"]) -> Float[Tensor, " group *cell"]:
        """Sums over the examples of one input."""
        if self.groups is None:
            return effects
        sums = effects.new_zeros(int(self.groups.max()) + 1, *effects.shape[1:])
        return sums.index_add_(0, self.groups, effects)

    def interval(self, values: Float[Tensor, " example *cell"], seed: int) -> tuple[Tensor, Tensor]:
        """Bootstrap intervals of means, of inputs drawn with all their examples."""
        if self.groups is None:
            return bootstrap_means(values, seed=seed)
        return bootstrap_means(self.summed(values), sizes=self.groups.bincount(), seed=seed)

    def words(self) -> dict[str, Any]:
        """What a result's provenance says of the examples."""
        if self.groups is None:
            return {}
        return {"different inputs": f"{int(self.groups.max()) + 1}, by which tests and intervals go"}


def distinct(*inputs: Tensor, mask: Tensor | None = None) -> Int[Tensor, " example"] | None:
    """The groups of a sample of some inputs, such as clean and corrupted ones; ``None`` if all differ.

    Args:
        mask: true at real tokens; the others do not make inputs different.

    Raises:
        ValueError: all inputs are the same.
    """
    given = list(inputs)
    if mask is not None:
        real = mask.bool()
        given = [x.masked_fill(~real.view(*real.shape, *[1] * (x.ndim - 2)), 0) for x in given] + [real]
    groups = repeated_rows(*given)
    if int(groups.max()) == 0:
        raise ValueError(
            f"expected at least 2 different examples, got one input {len(groups)} times, which says nothing "
            "about spread; give others"
        )
    return groups if int(groups.max()) + 1 < len(groups) else None


def effects_result(
    name: str,
    after: Float[Tensor, "*cell example"],
    before: Float[Tensor, " example"],
    axes: Mapping[str, Sequence[Any]],
    provenance: Mapping[str, Any],
    *,
    other: Float[Tensor, "*cell example"] | None = None,
    tested: Bool[Tensor, "*cell"] | None = None,
    control_kind: str = "",
    units: str = "metric",
    extra: Mapping[str, xr.DataArray] | None = None,
    sample: Sample = Sample(),
    seed: int = 0,
) -> Result:
    """What each cell of a sweep does to a metric.

    Args:
        after, before: the metric under each edit, and of the intact run.
        axes: names of the cell's axes and their coordinates.
        other: the metric under the control's edits.
        tested: the cells that are tested and corrected for; ``None``: all. Others have no p-value.
        sample: which examples are the same, what is rounding, and whether the control tells.

    Returns:
        ``values``: the metric under each edit, averaged over examples; ``trivial``: of the intact run;
        ``control``: under the control's edits; ``interval``: of the largest effect. In ``extra``:
        ``effect`` (after minus before) with ``low`` and ``high`` (95 %, bootstrap over examples),
        ``p_value`` (sign flips: that the edit does something, and more in that direction than
        its control does; Benjamini-Hochberg over all cells) and ``per_example``. With a control also
        ``p_against_zero`` and ``p_against_control``, of either alone. Where the control cannot tell,
        ``p_value`` is the first of these, and provenance says so. With n examples no
        p-value is below 2^(1-n) before adjustment, so many cells need many examples.

    Warns:
        PrecisionWarning: in half precision, effects that are no larger than rounding.

    Raises:
        ValueError: effects that are not finite.
    """
    if not bool(after.isfinite().all() and before.isfinite().all()):
        raise ValueError(
            f"expected finite numbers in {name}, got NaN or infinity; look at the network's outputs, and in "
            "half precision at model.float()"
        )
    n_axes, rounding = after.ndim - 1, sample.rounding
    by_example = after.movedim(-1, 0)
    effect = by_example - before.view(-1, *[1] * n_axes)
    low, high = sample.interval(effect, seed)

    def adjusted(p: Tensor) -> NDArray[np.float64]:
        return benjamini_hochberg((p if tested is None else p.masked_fill(~tested, torch.nan)).numpy())

    def array(cells: Any) -> xr.DataArray:
        return xr.DataArray(np.asarray(cells, dtype=float), dims=list(axes), coords=dict(axes))

    p_values = against_zero = _p_values(sample.summed(beyond(rounding, effect)), seed)
    words, both = sample.words(), {}
    if other is not None:  # both must be so: the larger of two p-values tests that (Berger 1982)
        special = beyond(rounding, by_example - other.movedim(-1, 0))
        against_control = _p_values(sample.summed(special), seed)
        # What goes the control's way, and less far, is nothing special.
        less = special.mean(0) * effect.mean(0) <= 0
        against_control = torch.where(less, 1.0, against_control)
        both = {"p_against_zero": against_zero, "p_against_control": against_control}
        both = {name: array(adjusted(p)) for name, p in both.items()}
        if sample.control_tells:
            p_values = against_zero.maximum(against_control)
        else:
            words["p_value"] = "against no effect, since every donor brings the same answer"
    mean = array(effect.mean(0))
    words |= _within_rounding(effect, sample, tested)
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
            **words,
        },
        extra={
            "effect": mean.assign_attrs(units=units),
            "low": array(low),
            "high": array(high),
            "p_value": array(adjusted(p_values)),
            "per_example": xr.DataArray(after.numpy(), dims=[*axes, "example"], coords=dict(axes)),
            "before": xr.DataArray(before.numpy(), dims=["example"]),
            **both,
            **(extra or {}),
        },
    )


HALF = 1e-4
"""A dtype whose last bit is larger than this share of a number is one of half precision."""


def _within_rounding(
    effect: Float[Tensor, " example *cell"], sample: Sample, tested: Bool[Tensor, "*cell"] | None
) -> dict[str, str]:
    """In half precision, how many effects cannot be told from rounding, and what to do about it."""
    if torch.finfo(sample.dtype).eps < HALF:
        return {}
    there = effect.ne(0).any(0) & (effect.mean(0).abs() <= sample.rounding)
    lost, of = (int((x if tested is None else x & tested).sum()) for x in (there, torch.ones_like(there)))
    if not lost:
        return {}
    said = (
        f"{lost} of {of} effects are no larger than the rounding of {sample.dtype}, {sample.rounding:.3g}, "
        "and count as none; model.float() tells them apart"
    )
    warn_of_precision(said)
    return {"precision": said}


_BETWEEN = ("mechinterp.analysis", "torch.", "jaxtyping", "beartype", "contextlib")


def warn_of_precision(message: str) -> None:
    """Warn where the analysis was called, whatever stands between."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(_BETWEEN):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, PrecisionWarning, stacklevel=level)


def donors_differ(
    before: Float[Tensor, " example"],
    own: Float[Tensor, " example"],
    others: Float[Tensor, " example"],
    sample: Sample,
    seed: int = 0,
) -> bool:
    """Whether another example's donor, put in whole, does less than the example's own.

    If not, no patch can do more than the control's: with two classes every donor brings the other answer.
    So it is where the own donors close a gap that is there, the others close at least ``AS_WELL`` of it, in
    no direction less than the own ones by the sign-flip test, and own and others go the gap's way in at
    least as large a share of the examples.

    Args:
        before, own, others: the metric of the intact run, of the donors' and of the other examples' donors'.
    """
    gap, by_others = own - before, others - before
    pair = torch.stack((gap, gap - by_others), 1)
    p_gap, p_less = _p_values(sample.summed(pair), seed).tolist()
    ways = [(each * gap.mean() > 0).double().mean().item() for each in (gap, by_others)]
    as_well = bool(by_others.mean() / gap.mean() >= AS_WELL)
    return not (p_gap <= 0.05 < p_less and as_well and min(ways) >= AS_WELL)


AS_WELL = 0.9
"""The share of a gap that other examples' donors close where they do as much as the own ones, and the share
of examples in which they do."""


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


def derangement(
    n: int, seed: int = 0, mask: Tensor | None = None, groups: Tensor | None = None
) -> Int[Tensor, " n"]:
    """A random order in which nothing stays in its place: each example's donor is another one.

    Args:
        mask: true at real tokens; donors then have as many at the same places, where another example has.
        groups: the number of each example's input; donors then are of other inputs, where there are some.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    donors = _rolled(order, groups)
    if mask is not None:
        kinds = mask.bool().cpu().unique(dim=0, return_inverse=True)[1]
        for kind in kinds.unique():
            alike = order[kinds[order] == kind]
            if len(alike if groups is None else groups[alike].unique()) > 1:
                donors[alike] = _rolled(alike, groups)[alike]
    return donors


def _rolled(order: Int[Tensor, " some"], groups: Tensor | None) -> Int[Tensor, " n"]:
    """For each example in an order the one before it, or with groups the last one of the group before."""
    donors = torch.empty(int(order.max()) + 1, dtype=torch.long)
    if groups is None:
        donors[order] = order.roll(1)
        return donors
    by_group: dict[int, list[int]] = {}
    for example in order.tolist():
        by_group.setdefault(int(groups[example]), []).append(example)
    members = list(by_group.values())
    for before, own in zip([members[-1], *members], members):
        for place, example in enumerate(own):
            donors[example] = before[place % len(before)]
    return donors
