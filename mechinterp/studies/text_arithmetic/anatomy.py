"""What one seed's networks are found to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mechinterp.result import Result
from mechinterp.studies.networks import Trained, score_curves
from mechinterp.studies.text_arithmetic.networks import RESIDUE, SUM
from mechinterp.studies.text_arithmetic.residues import residues
from mechinterp.studies.text_arithmetic.sums import sums
from mechinterp.tasks.text_arithmetic import TextModular


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One seed's findings.

    Args:
        networks: trained, by kind.
        scores: of each on held-out problems: R² of numbers, otherwise accuracy.
        untrained: the same before training.
        rmse: of the network that answers sums, in units of the sum.
        results: by name.
    """

    task: TextModular
    networks: Mapping[str, Trained]
    scores: Mapping[str, float]
    untrained: Mapping[str, float]
    rmse: float
    results: Mapping[str, Result]

    @classmethod
    def of(cls, networks: Mapping[str, Trained], n: int = 6000) -> Anatomy:
        """Take the networks of a seed apart; claims say which did not learn.

        Args:
            n: problems on which they are probed.
        """
        batches = {name: one.task.dataset("test") for name, one in networks.items()}
        given = {name: one.task.answers(one.model, batches[name]) for name, one in networks.items()}
        before = {name: one.task.answers(one.untrained, batches[name]) for name, one in networks.items()}
        scores, untrained = (
            {name: one.task.score(answers[name], batches[name]) for name, one in networks.items()}
            for answers in (given, before)
        )
        found = [
            score_curves(networks, units="R² or accuracy"),
            network_scores(networks, scores, untrained),
            *sums(networks[SUM], n),
            *residues(networks[RESIDUE], n),
        ]
        return cls(
            task=networks[RESIDUE].task,
            networks=networks,
            scores=scores,
            untrained=untrained,
            rmse=networks[SUM].task.measures(given[SUM], batches[SUM])["rmse"],
            results={result.name: result for result in found},
        )


def network_scores(
    networks: Mapping[str, Trained], scores: Mapping[str, float], untrained: Mapping[str, float]
) -> Result:
    """What each network scores, beside what it needs to count as having learned."""
    coords = {"network": list(networks)}

    def array(values: list[float]) -> xr.DataArray:
        return xr.DataArray(np.array(values), dims="network", coords=coords)

    values = array(list(scores.values()))
    values.attrs["units"] = "R² or accuracy"
    first = next(iter(networks.values()))
    return Result(
        name="network_scores",
        values=values,
        trivial=first.task.trivial,
        control=array(list(untrained.values())),
        control_kind="untrained network",
        provenance={"split": "test", "n": first.task.n_test, "seed": first.task.seed},
        extra={
            "needed": array([one.gate.learned_at for one in networks.values()]),
            "constant": array([one.task.trivial for one in networks.values()]),
        },
    )
