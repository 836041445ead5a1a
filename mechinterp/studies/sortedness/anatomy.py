"""One seed's networks side by side, and the data they are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import xarray as xr

from mechinterp.analysis.leaks import leaks
from mechinterp.result import Result
from mechinterp.studies.networks import Trained, network_scores, score_curves
from mechinterp.studies.seeds import SeedFindings
from mechinterp.studies.sortedness.attending import dilution, heads, sharpening
from mechinterp.studies.sortedness.lengths import by_density, by_length, far, lengths_of
from mechinterp.studies.sortedness.networks import DENSE, FREE, KINDS, LEARNED, SHUFFLED, in_range
from mechinterp.studies.sortedness.placing import maps, moves, table_of
from mechinterp.tasks.sortedness import Sortedness

ENCODED = tuple(name for name in KINDS if name not in (DENSE, SHUFFLED))
"""Networks that differ in their encoding and direction alone, and some in how long they are trained."""


@dataclass(frozen=True, kw_only=True)
class Anatomy(SeedFindings):
    """One seed's findings.

    Args:
        scores: of each on sequences of all lengths of training; and before training.
    """

    task: Sortedness
    scores: Mapping[str, float]
    untrained: Mapping[str, float]

    @classmethod
    def of(cls, networks: Mapping[str, Trained], n: int = 1000) -> Anatomy:
        """Take the networks of a seed apart; claims say which did not learn.

        Args:
            n: sequences of each length.
        """
        task = networks[FREE].task
        scores = {name: one.gate.score for name, one in networks.items()}
        untrained = {name: in_range(one.untrained, one.task, n) for name, one in networks.items()}
        asked = {length: task.of_length(length, n) for length in lengths_of(task)}
        lengths, *parts = by_length(networks, asked)
        results = [
            leaks_by_length(task, n),
            score_curves(networks, units="accuracy"),
            network_scores(networks, scores, untrained, n=task.n_test, units="accuracy"),
            lengths,
            *parts,
            by_density(networks, lengths, n),
            dilution(networks, asked),
            sharpening(networks[FREE], n),
            table_of(networks[LEARNED]),
            *maps(networks[LEARNED], task),
            *moves(networks, task, n),
            *heads(networks[FREE], n),
            *(replace(result, name=f"{result.name}_dense") for result in heads(networks[DENSE], n)),
        ]
        return cls(
            task=task, networks=networks, scores=scores, untrained=untrained,
            results={result.name: result for result in results},
        )  # fmt: skip

    def at(self, network: str, length: int, result: str = "accuracy_by_length") -> float:
        """A network's accuracy at a length."""
        return float(self.results[result].values.sel(network=network, length=length))

    def far(self, times: int) -> int:
        """The length beyond those of training that comes nearest to so many times the longest of them."""
        return far(self.task, times)

    def lost_at(self, network: str, length: int) -> float:
        """How much accuracy a network has less at a length than at those of training."""
        return self.scores[network] - self.at(network, length)


def leaks_by_length(task: Sortedness, n: int) -> Result:
    """What tells without the order, by kind of negatives and length."""
    kinds = ("adjacent", "shuffle")
    found = {
        (kind, length): _leaks(replace(task, negatives=kind), length, n)
        for kind in kinds
        for length in lengths_of(task)
    }
    coords = {"negatives": list(kinds), "length": list(lengths_of(task))}

    def grid(of: Callable[[Result], xr.DataArray]) -> xr.DataArray:
        rows = [
            xr.concat([of(found[kind, length]) for length in lengths_of(task)], "length") for kind in kinds
        ]
        return xr.concat(rows, "negatives").assign_coords(coords)

    return Result(
        name="leaks_by_length",
        values=grid(lambda result: result.values).assign_attrs(units="accuracy, held out"),
        trivial=0.5,
        control=grid(lambda result: result.control),
        control_kind="shuffled answers",
        provenance={"n": n, "seed": task.seed, "reader": "logistic regression"},
        extra={"mixed": xr.concat([_mixed(replace(task, negatives=kind), n) for kind in kinds], "negatives")},
    )


def _leaks(task: Sortedness, length: int, n: int) -> Result:
    batch = task.of_length(length, n)
    views = task.leaks(batch)
    del views["length"]  # of one length all are the same
    return leaks(views, batch.targets[:, 0], torch.arange(len(batch)) // 2, seed=task.seed)


def _mixed(task: Sortedness, n: int) -> xr.DataArray:
    """What tells among sequences of all lengths together, of which the length is one thing."""
    batches = [task.of_length(length, n // 2 - n // 2 % 2) for length in lengths_of(task)]
    views = [task.leaks(batch) for batch in batches]
    together = torch.arange(sum(map(len, batches))) // 2
    answers = torch.cat([batch.targets[:, 0] for batch in batches])
    every = {name: torch.cat([view[name] for view in views]) for name in views[0]}
    return leaks(every, answers, together, seed=task.seed).values.assign_coords(negatives=task.negatives)
