"""What one seed's networks are found to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mechinterp.analysis.probes import Fourier, probe
from mechinterp.result import Result
from mechinterp.studies.networks import Trained, network_scores, score_curves, stream_hooks, streams
from mechinterp.studies.seeds import SeedFindings
from mechinterp.studies.text_arithmetic.networks import PUBLISHED, RESIDUE, SUM
from mechinterp.studies.text_arithmetic.residues import residues
from mechinterp.studies.text_arithmetic.sums import sums
from mechinterp.tasks.text_arithmetic import TextModular


@dataclass(frozen=True, kw_only=True)
class Anatomy(SeedFindings):
    """One seed's findings.

    Args:
        scores: of each on held-out problems: R² of numbers, otherwise accuracy.
        untrained: the same before training.
        agreement: the squared correlation of answers and right ones, of networks that answer by a number.
        rmse: of the network that answers sums, in units of the sum.
    """

    task: TextModular
    scores: Mapping[str, float]
    untrained: Mapping[str, float]
    agreement: Mapping[str, float]
    rmse: float

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
            network_scores(
                networks, scores, untrained, n=min(map(len, batches.values())), units="R² or accuracy"
            ),
            *sums(networks[SUM], n),
            *residues(networks[RESIDUE], n),
            published(networks[PUBLISHED], n),
        ]
        return cls(
            task=networks[RESIDUE].task,
            networks=networks,
            scores=scores,
            untrained=untrained,
            agreement={
                name: agreement(answers, batches[name].targets)
                for name, answers in given.items()
                if answers.shape[-1] == 1
            },
            rmse=networks[SUM].task.measures(given[SUM], batches[SUM])["rmse"],
            results={result.name: result for result in found},
        )


def agreement(answers: Tensor, targets: Tensor) -> float:
    """The squared correlation: R^2 of the best that can be made of the answers by a scale and a shift."""
    both = torch.stack((answers.flatten(), targets.flatten())).double()
    return float(torch.nan_to_num(both.corrcoef()[0, 1] ** 2))


def published(one: Trained, n: int) -> Result:
    """The published search for residues on circles, in the network of the published recipe: refused by the
    gate, whatever it finds."""
    batch = one.task.dataset("test")[slice(0, n)]
    hooks = stream_hooks(one.model)
    assert isinstance(batch.read, Tensor)
    at = batch.read[..., None]
    caches = [
        {hook: x.take_along_dim(at, 1) for hook, x in streams(model, batch, hooks).items()}
        for model in (one.model, one.untrained)
    ]
    residue = batch.variables["residue"]
    found = probe(
        caches[0], residue, Fourier(p=one.task.k), together=residue, untrained=caches[1], gate=one.gate
    )
    return replace(found, name="probe_of_published")
