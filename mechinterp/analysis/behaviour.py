"""What a network answers, beside what it should: by length, place or state; and after states are swapped.

A right answer shows that a network agrees with an automaton, not that it has its states. So its
states are swapped: the direction of one is taken from the stream and that of another put there. A
network that uses it answers as from the other state, at once; one that carries it along goes on so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.statistics import (
    benjamini_hochberg,
    bootstrap_means,
    bootstrap_weights,
    sign_flip_p_values,
)
from mechinterp.hooks import Edit, Site, run
from mechinterp.result import Result

Follows = Callable[[Tensor, Tensor], Float[Tensor, "example later"]]


@checked
def agreement(
    right: Mapping[str, Bool[Tensor, "_ _"]],
    groups: Int[Tensor, " _ *some"],
    mask: Bool[Tensor, "example pos"],
    *,
    axis: str,
    trivial: float,
    untrained: Mapping[str, Bool[Tensor, "_ _"]] | None = None,
    together: Int[Tensor, " _"] | None = None,
    draws: int = 500,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The share of right answers in each group: of positions, and of examples that are right throughout.

    Args:
        right: for each kind of answer, whether it is right.
        groups: the length of each example, or the state or position at each place.
        mask: True at real places.
        axis: what the groups are, such as ``"length"``.
        trivial: the share that the best constant answer has of the first kind.
        untrained: the same answers of the untrained network, the control.
        together: the number of each example's group, where some are copies of one another; intervals
            draw groups whole.

    Returns:
        Dims ``answer`` and the axis. Where examples, not places, are grouped, each kind has a second row,
        ``whole``: right at every place. ``extra``: ``low`` and ``high``, 95 % over examples, ``n``. The
        interval is that of the first kind over all.

    Raises:
        ValueError: no kinds, shapes that differ, or fewer than 2 examples.
    """
    shapes = {name: tuple(x.shape) for name, x in right.items()}
    same = set(shapes.values()) == {tuple(mask.shape)} and len(groups) == len(mask)
    if draws < 1:
        raise ValueError(f"expected at least 1 draw, got {draws}; give some hundreds")
    if not same or len(mask) < 2 or not bool(mask.any()):
        raise ValueError(
            f"expected answers like the mask {tuple(mask.shape)} of at least 2 examples, and a group for "
            f"each, got {shapes or 'none'} and groups {tuple(groups.shape)}"
        )
    per_example = groups.ndim == 1
    places = groups[:, None].expand(mask.shape) if per_example else groups
    names = places[mask].unique().tolist()
    inside = torch.stack([mask & (places == name) for name in names], -1)  # [example, pos, group]

    def rows(answers: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Hits and trials of each example in each group, for each kind of answer."""
        found = {}
        for name, x in answers.items():
            hits, trials = (inside & x[..., None]).sum(1).double(), inside.sum(1).double()
            found[name] = hits, trials
            if per_example:
                found[f"{name}, whole"] = ((hits == trials) & (trials > 0)).double(), (trials > 0).double()
        return found

    mine = rows(right)
    clusters = torch.arange(len(mask)) if together is None else together
    weights = bootstrap_weights(int(clusters.max()) + 1, draws, seed)[:, clusters]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low_high = [
        ((weights @ hits) / (weights @ trials)).nanquantile(ends, 0) for hits, trials in mine.values()
    ]
    first, among = next(iter(mine.values()))
    whole = ((weights @ first.sum(1)) / (weights @ among.sum(1))).quantile(ends)
    coords = {"answer": list(mine), axis: names}

    def label(x: list[Tensor]) -> xr.DataArray:
        return xr.DataArray(torch.stack(x).numpy(), dims=("answer", axis), coords=coords)

    def shares(counted: Mapping[str, tuple[Tensor, Tensor]]) -> xr.DataArray:
        found = label([hits.sum(0) / trials.sum(0) for hits, trials in counted.values()])
        found.attrs["units"] = "share of right answers"
        return found

    extra = {"low": label([pair[0] for pair in low_high]), "high": label([pair[1] for pair in low_high])}
    return Result(
        name=f"agreement_by_{axis}",
        values=shares(mine),
        trivial=trivial,
        control=None if untrained is None else shares(rows(untrained)),
        control_kind="" if untrained is None else "untrained network",
        interval=tuple(whole.tolist()),
        provenance=gated(gate, {**(provenance or {}), "axis": axis, "n": len(mask), "seed": seed}),
        extra={**extra, "n": label([trials.sum(0) for _, trials in mine.values()])},
    )


@checked
def state_swap(
    model: nn.Module,
    inputs: Int[Tensor, "example pos"],
    hook: str,
    at: Int[Tensor, " example"],
    directions: Float[Tensor, "state d_model"],
    source: Int[Tensor, " example"],
    target: Int[Tensor, " example"],
    wrong: Int[Tensor, " example"],
    follows: Follows,
    *,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """Put another state's direction into the stream, and see whether the network goes on from there.

    At one place of each example the stream gets ``directions[target] - directions[source]``. The controls
    put a third state there instead, and a random direction of the same length.

    Args:
        hook: of the stream, ``[example, pos, d_model]``.
        at: the place in each example.
        directions: what the stream holds in each state, such as ``StateBasis.write``.
        source, target, wrong: states by number: the one there, the one put there, and the third. Where all
            third ones are the source, as of two states, nothing is put there as a control.
        follows: of outputs ``[example, pos, out]`` and states ``[example]``, whether the answers at the
            place and later are those that follow from these states: 1 or 0, and NaN where they
            would be the same from the source or from the third state, so that a network that uses its
            states scores 0 both intact and with the third one.

    Returns:
        Dim ``later``: the share of answers that follow from the target, at the place itself (0) and so
        many symbols later. Trivial: the intact network. Control: the same answers after the third state was
        put there. ``extra``: ``random``, the share after a random direction, ``intact``, ``n``, ``low`` and
        ``high`` (95 %, over examples), and ``p`` of the difference from the third state, adjusted for how
        many places there are; and, if there are answers later than at once, ``after`` (of): the share of
        these that follow the target, the third state, and the p of their difference, by example. p-values
        are one-sided: that the target is followed more often. The interval is that of place 0.

    Raises:
        ValueError: examples whose three states are not different, or fewer than 2.
    """
    check_inputs(inputs)
    n, states = len(inputs), len(directions)
    asked = {"source": source, "target": target, "wrong": wrong}
    for name, each in {"at": at, **asked}.items():
        size = states if name in asked else inputs.shape[1]
        if len(each) != n or int(each.min()) < 0 or int(each.max()) >= size:
            raise ValueError(f"expected {name} of {n} numbers in [0, {size}), got {each.tolist()[:8]}")
    if len(inputs) < 2 or bool(((source == target) | (target == wrong)).any()):
        raise ValueError(
            "expected at least 2 examples, each with a target other than its source and the wrong state, "
            f"got {len(inputs)}; draw others"
        )
    check_model(model, "swapping states")
    rows = torch.arange(len(inputs))
    directions = directions.to(next(model.parameters()))
    change = directions[target] - directions[source]
    noise = torch.randn(change.shape, generator=torch.Generator().manual_seed(seed)).to(change)
    changes = {
        "target": change,
        "wrong": directions[wrong] - directions[source],
        "random": noise * (change.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)),
    }

    def answers(added: Tensor | None) -> Float[Tensor, "example later"]:
        def add(x: Tensor, _: str) -> Tensor:
            moved = x.clone()
            moved[rows, at] += added
            return moved

        edits = [] if added is None else [Edit(Site(hook), add, "swap state")]
        with torch.no_grad():
            return follows(run(model, inputs, edits=edits), target).double()

    found = {"intact": answers(None), **{name: answers(added) for name, added in changes.items()}}
    counts = (~found["target"].isnan()).sum(0)
    there = counts >= 2
    if not bool(there.any()):
        raise ValueError(
            "expected answers that tell the target from the source, got none; choose other states"
        )
    later = there.nonzero()[:, 0]
    shares = {name: x[:, later].nanmean(0) for name, x in found.items()}
    low, high, p = _over_examples(found["target"][:, later], found["wrong"][:, later], seed)
    after = _after(found["target"][:, 1:], found["wrong"][:, 1:], seed)
    coords = {"later": later.tolist()}

    def label(x: Any) -> xr.DataArray:
        return xr.DataArray(np.asarray(x), dims=("later",), coords=coords)

    values = label(shares["target"])
    values.attrs["units"] = "share that follows the state put in"
    return Result(
        name="state_swap",
        values=values,
        trivial=float(shares["intact"][0]),
        control=label(shares["wrong"]),
        control_kind="nothing put in" if bool((wrong == source).all()) else "a third state's direction",
        interval=(float(low[0]), float(high[0])),
        provenance=gated(gate, {**(provenance or {}), "hook": hook, "n": len(inputs), "seed": seed}),
        extra={
            "random": label(shares["random"]), "intact": label(shares["intact"]), "n": label(counts[later]),
            "low": label(low), "high": label(high), "p": label(p), **after,
        },
    )  # fmt: skip


def _over_examples(
    found: Float[Tensor, "example later"], control: Float[Tensor, "example later"], seed: int
) -> tuple[list[float], list[float], np.ndarray]:
    """Intervals of the shares, and p-values that they are larger than the control's."""
    low, high, p = [], [], []
    for mine, other in zip(found.T, control.T):
        real = ~mine.isnan()
        ends = bootstrap_means(mine[real][:, None], seed=seed)
        low.append(float(ends[0]))
        high.append(float(ends[1]))
        p.append(_larger(mine[real], other[real], seed))
    return low, high, benjamini_hochberg(p)


def _after(
    found: Float[Tensor, "example later"], control: Float[Tensor, "example later"], seed: int
) -> dict[str, xr.DataArray]:
    """All later answers of each example as one."""
    there = (~found.isnan()).any(1)
    if int(there.sum()) < 2:
        return {}
    mine, other = found[there].nanmean(1), control[there].nanmean(1)
    numbers = [mine.mean().item(), other.mean().item(), _larger(mine, other, seed)]
    return {"after": xr.DataArray(numbers, dims=("of",), coords={"of": ["target", "control", "p"]})}


def _larger(mine: Float[Tensor, " example"], other: Float[Tensor, " example"], seed: int) -> float:
    """One-sided, from the two-sided test of signs flipped."""
    difference = mine - other
    p = float(sign_flip_p_values(difference[:, None], seed=seed))
    return p / 2 if difference.mean() > 0 else 1 - p / 2 if difference.mean() < 0 else 1.0
