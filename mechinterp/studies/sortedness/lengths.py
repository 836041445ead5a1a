"""At which lengths networks are right: by length and density, by where and by how much a sequence falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr

from mechinterp.analysis.statistics import bootstrap_interval, bootstrap_means, proportion_interval
from mechinterp.models.sharpened import sharpened
from mechinterp.result import Result
from mechinterp.studies.networks import Trained
from mechinterp.studies.sortedness.networks import FREE, right
from mechinterp.tasks.base import Batch
from mechinterp.tasks.sortedness import Sortedness

PARTS = 4
"""Of a sequence, by which the place of a fall is counted."""
GAPS = (1, 2, 4, 8)
"""By how much a sequence falls: the least of each group."""
FURTHER, FURTHEST = 4, 16
"""How many times the longest length of training is asked for."""


def lengths_of(task: Sortedness) -> list[int]:
    """The lengths at which is asked, the longest of training among them."""
    return sorted({*task.test_lengths, task.train_lengths[1]})


def far(task: Sortedness, times: int) -> int:
    """The length beyond those of training that comes nearest to so many times the longest of them."""
    longest = task.train_lengths[1]
    beyond = [length for length in task.test_lengths if length > longest]
    return min(beyond, key=lambda length: abs(length - times * longest))


def by_length(networks: Mapping[str, Trained], asked: Mapping[int, Batch]) -> list[Result]:
    """Accuracy by length, as trained and with sharper attention; by place and size of the fall; by ties."""
    task = networks[FREE].task
    longest = task.train_lengths[1]
    own, before = (
        answers_of(networks, model, asked) for model in (lambda one: one.model, lambda one: one.untrained)
    )
    sharp = answers_of(networks, lambda one: sharpened(one.model, longest), asked)
    provenance = {
        "n": len(asked[longest]), "seed": task.seed, "split": "test",
        "trained at": "{} to {}".format(*task.train_lengths),
    }  # fmt: skip
    low, high = _ends(own, networks, asked)
    lengths = Result(
        name="accuracy_by_length",
        values=grid(np.mean, own, networks, asked),
        trivial=0.5,
        control=grid(np.mean, before, networks, asked),
        control_kind="untrained network",
        provenance=provenance | {"log n from": longest},
        extra={"low": low, "high": high, "log_n": grid(np.mean, sharp, networks, asked)},
    )
    parts = [
        _split_up(name, *how, own=own, before=before, networks=networks, provenance=provenance)
        for name, how in groupings(asked).items()
    ]
    return [lengths, *parts]


def groupings(asked: Mapping[int, Batch]) -> dict[str, tuple[str, list[str], dict[int, np.ndarray]]]:
    """Ways to tell sequences of a length apart: a name for each group, and the group of each sequence, -1 for
    none."""
    places, gaps, thirds = {}, {}, {}
    for length, batch in asked.items():
        place, gap, ties = (batch.variables[name].numpy() for name in ("place", "gap", "tie_rate"))
        places[length] = np.where(place < 0, 0, 1 + place * PARTS // length)
        gaps[length] = np.searchsorted(GAPS, gap, side="right") - 1
        # The two of a pair have the same ties, and stay together.
        thirds[length] = (ties[::2].argsort(kind="stable").argsort() * 3 // len(ties[::2])).repeat(2)
    steps = [f"{gap}" if gap + 1 == end else f"{gap} to {end - 1}" for gap, end in pairwise(GAPS)]
    where = [f"falls in part {part + 1} of {PARTS}" for part in range(PARTS)]
    return {
        "accuracy_by_place": ("kind", ["sorted", *where], places),
        "accuracy_by_gap": ("gap", [*steps, f"{GAPS[-1]} or more"], gaps),
        "accuracy_by_ties": ("ties", ["fewest ties", "middle third", "most ties"], thirds),
    }


Answers = Mapping[tuple[str, int], np.ndarray]
"""Which answers are right, by network and length."""


def answers_of(
    networks: Mapping[str, Trained], model: Callable[[Trained], Any], asked: Mapping[int, Batch]
) -> Answers:
    """Which answers of each network are right, at each length."""
    return {
        (name, length): right(model(one), one.task, batch)
        for name, one in networks.items()
        for length, batch in asked.items()
    }


def grid(
    of: Callable[[np.ndarray], Any],
    answers: Answers,
    networks: Mapping[str, Any],
    asked: Mapping[int, Any],
) -> xr.DataArray:
    """A number of each network's answers at each length."""
    cells = [[float(of(answers[name, length])) for length in asked] for name in networks]
    coords = {"network": list(networks), "length": list(asked)}
    return xr.DataArray(np.array(cells), dims=list(coords), coords=coords, attrs={"units": "accuracy"})


def _ends(
    own: Answers, networks: Mapping[str, Any], asked: Mapping[int, Any]
) -> tuple[xr.DataArray, xr.DataArray]:
    """Bootstrap intervals over pairs, whose two answers hang together."""
    pairs = np.stack([hits.reshape(-1, 2).mean(1) for hits in own.values()], 1)
    ends = (dict(zip(own, end[:, None].numpy())) for end in bootstrap_means(torch.from_numpy(pairs)))
    low, high = (grid(np.mean, end, networks, asked) for end in ends)
    return low, high


def _split_up(
    name: str,
    dim: str,
    labels: Sequence[str],
    groups: Mapping[int, np.ndarray],
    *,
    own: Answers,
    before: Answers,
    networks: Mapping[str, Trained],
    provenance: Mapping[str, Any],
) -> Result:
    """Accuracy of groups of sequences; -1 is none."""
    coords = {"network": list(networks), "length": list(groups), dim: list(labels)}

    def cells(answers: Answers, of: Callable[[np.ndarray], float]) -> xr.DataArray:
        values = [
            [
                [of(answers[net, length][group == i]) for i in range(len(labels))]
                for length, group in groups.items()
            ]
            for net in networks
        ]
        return xr.DataArray(np.array(values), dims=list(coords), coords=coords, attrs={"units": "accuracy"})

    def end(hits: np.ndarray, which: int) -> float:
        if not len(hits):
            return math.nan
        if dim != "ties":
            return proportion_interval(int(hits.sum()), len(hits))[which]
        pairs = hits.reshape(-1, 2).mean(1)  # the two of a pair are in one group, and hang together
        if np.isin(pairs, (0.0, 1.0)).all():
            return proportion_interval(int(pairs.sum()), len(pairs))[which]
        return bootstrap_interval(pairs)[which]

    def mean(hits: np.ndarray) -> float:
        return float(hits.mean()) if len(hits) else math.nan

    return Result(
        name=name,
        values=cells(own, mean),
        trivial=0.5 if dim == "ties" else None,  # where all fall, a constant is always right
        control=cells(before, mean),
        control_kind="untrained network",
        provenance=dict(provenance),
        extra={
            "low": cells(own, lambda hits: end(hits, 0)),
            "high": cells(own, lambda hits: end(hits, 1)),
            "n": cells(own, len),
        },
    )


def by_density(networks: Mapping[str, Trained], lengths: Result, n: int) -> Result:
    """Accuracy on sequences of the longest length of training that are as dense as longer ones: what of the
    decay with length is that neighbours come nearer to one another.

    Args:
        lengths: accuracy at the lengths themselves, which ``extra["at_length"]`` repeats.
    """
    task = networks[FREE].task
    longest = task.train_lengths[1]
    further = [
        length
        for length in lengths.values.length.values.tolist()
        if length >= longest and task.can_be_as_dense(longest, length)
    ]
    dense = {length: task.of_length(longest, n, as_dense_as=length) for length in further}
    own, before = (
        answers_of(networks, model, dense) for model in (lambda one: one.model, lambda one: one.untrained)
    )
    low, high = _ends(own, networks, dense)
    return Result(
        name="accuracy_by_density",
        values=grid(np.mean, own, networks, dense),
        trivial=0.5,
        control=grid(np.mean, before, networks, dense),
        control_kind="untrained network",
        provenance={
            "n": n, "seed": task.seed, "tokens": longest,
            "trained at": "{} to {}".format(*task.train_lengths),
        },
        extra={"low": low, "high": high, "at_length": lengths.values.sel(length=further)},
    )  # fmt: skip
