"""What one seed's networks are found to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from mechinterp.analysis.statistics import proportion_interval
from mechinterp.result import Result
from mechinterp.studies.digit_addition.heads import Heads, generated, heads_of
from mechinterp.studies.digit_addition.networks import (
    PLAIN,
    REVERSED,
    ROOMY,
    UNENRICHED,
    exact,
    forced,
)
from mechinterp.studies.networks import Trained, score_curves
from mechinterp.studies.seeds import SeedFindings
from mechinterp.tasks.base import Batch
from mechinterp.tasks.digit_addition import DigitAddition

LEARNED = 0.99
"""Exact match from which an order of digits, or a length of cascade, counts as learned along training."""


@dataclass(frozen=True, kw_only=True)
class Anatomy(SeedFindings):
    """One seed's findings.

    Args:
        greedy: exact match of each on held-out problems, written greedily.
        untrained: the same before training.
        longest: exact match of the first on all problems whose carry runs through all columns, and how many
            they are; then on those of them that are held out.
        apart: the same on test problems of which neither order of the numbers was trained on.
        heads: of the first network.
    """

    task: DigitAddition
    greedy: Mapping[str, float]
    untrained: Mapping[str, float]
    longest: tuple[float, int, float, int]
    apart: tuple[float, int]
    heads: Heads

    @classmethod
    def of(cls, networks: Mapping[str, Trained], n: int = 2000) -> Anatomy:
        """Take the networks of a seed apart; claims say which did not learn.

        Args:
            n: problems on which heads are ablated.
        """
        first = networks[REVERSED]
        batches = {name: one.task.dataset("test") for name, one in networks.items()}
        right = {name: exact(one.model, one.task, batches[name]) for name, one in networks.items()}
        before = {
            name: exact(one.untrained, one.task, batches[name][slice(0, n)]).double().mean().item()
            for name, one in networks.items()
        }
        hard = [first.task.with_cascade(first.task.n_digits, held_out=held) for held in (False, True)]
        alone = batches[REVERSED][first.task.apart(batches[REVERSED])]
        heads = heads_of(first, n)
        found = [
            score_curves(networks, units="exact match"),
            exact_matches(networks, right, before, min(n, len(batches[REVERSED]))),
            cascades(networks),
            identity(first, heads, n),
            more_digits(networks[ROOMY]),
            head_sets(first, heads),
        ]
        return cls(
            task=first.task,
            networks=networks,
            greedy={name: x.double().mean().item() for name, x in right.items()},
            untrained=before,
            longest=(*_share(first, hard[0]), *_share(first, hard[1])),
            apart=_share(first, alone),
            heads=heads,
            results={**heads.results, **{result.name: result for result in found}},
        )


def _share(one: Trained, batch: Batch) -> tuple[float, int]:
    """Exact match on some problems, and how many they are; of none it is NaN."""
    if not len(batch):
        return float("nan"), 0
    return exact(one.model, one.task, batch).double().mean().item(), len(batch)


def steps_to(one: Trained, least: float = LEARNED) -> tuple[int, bool]:
    """The first measured step with that exact match on validation problems, and whether there is one.

    Otherwise it is the last step, which is too few.
    """
    history = one.job.history
    found = [step for step, score in zip(history.steps, history.test_score) if score >= least]
    return (found[0], True) if found else (history.steps[-1], False)


def exact_matches(
    networks: Mapping[str, Trained],
    right: Mapping[str, torch.Tensor],
    before: Mapping[str, float],
    untrained_on: int,
) -> Result:
    """Exact match of each network, written greedily, with the exact interval."""
    coords = {"network": list(networks)}
    ends = np.array([proportion_interval(int(x.sum()), len(x)) for x in right.values()])

    def array(x: object) -> xr.DataArray:
        return xr.DataArray(np.asarray(x), dims="network", coords=coords, attrs={"units": "exact match"})

    first = next(iter(networks.values()))
    return Result(
        name="exact_matches",
        values=array([x.double().mean().item() for x in right.values()]),
        trivial=first.task.trivial,
        control=array(list(before.values())),
        control_kind="untrained network",
        interval=(float(ends[0, 0]), float(ends[0, 1])),
        provenance={
            "n": len(next(iter(right.values()))), "n untrained": untrained_on, "split": "test",
            "generated": "greedy",
            "seed": first.task.seed, "interval of": first.name,
            "learned": all(one.gate.learned for one in networks.values()),
        },
        extra={"low": array(ends[:, 0]), "high": array(ends[:, 1])},
    )  # fmt: skip


def cascades(networks: Mapping[str, Trained], n: int = 1000) -> Result:
    """Exact match along training by how far a carry runs; NaN at steps of which a network was not kept."""
    shown = {name: networks[name] for name in (REVERSED, UNENRICHED, PLAIN)}
    first = networks[REVERSED]
    steps = sorted({step for one in shown.values() for step in one.job.checkpoints})
    lengths = list(range(first.task.n_digits + 1))
    values = np.full((len(shown), len(steps), len(lengths)), np.nan)
    for i, one in enumerate(shown.values()):
        batches = [one.task.with_cascade(length, held_out=True)[slice(0, n)] for length in lengths]
        for step in one.job.checkpoints:
            model, j = one.at_step(step), steps.index(step)
            for k, batch in enumerate(batches):
                values[i, j, k] = forced(model, one.task, batch).all(1).double().mean()
    coords = {"network": list(shown), "step": steps, "longest": lengths}
    counts = [len(first.task.with_cascade(length, held_out=True)[slice(0, n)]) for length in lengths]
    return Result(
        name="cascades",
        values=xr.DataArray(values, dims=list(coords), coords=coords, attrs={"units": "exact match"}),
        trivial=first.task.trivial,
        control=xr.DataArray(
            values[:, 0], dims=("network", "longest"), coords={k: coords[k] for k in ("network", "longest")}
        ),
        control_kind="untrained network",
        provenance={"held out": True, "n": counts, "seed": first.task.seed, "teacher forced": True},
    )


def identity(one: Trained, heads: Heads, n: int, shown: int = 8) -> Result:
    """Exact match written greedily, that of teacher forcing, and the least that its token accuracy allows.

    Of the intact network, of those without one of the heads that cost most, and of an untrained one.
    """
    batch, others = one.task.dataset("test")[slice(0, n)], one.task.dataset("val")
    order = heads.lost.argsort().values[::-1][:shown]
    at = heads.ablated.references.index("mean")
    names = ["intact", *(str(heads.ablated.components[i]) for i in order)]
    answers = [heads.ablated.intact.right, *(heads.ablated.without.right[at, i] for i in order)]
    wrote = [exact(one.model, one.task, batch)]
    wrote += [generated(one, batch, others, [heads.ablated.components[i]]) for i in order]
    rows = [
        [
            greedy.double().mean().item(),
            right.all(1).double().mean().item(),
            1 - one.task.n_target * (1 - right.double().mean().item()),
            right.double().mean().item(),
        ]
        for greedy, right in zip(wrote, answers)
    ]
    before = forced(one.untrained, one.task, batch)
    control = [
        exact(one.untrained, one.task, batch).double().mean().item(),
        before.all(1).double().mean().item(),
        1 - one.task.n_target * (1 - before.double().mean().item()),
        before.double().mean().item(),
    ]
    measures = ["greedy", "all right when forced", "bound", "token accuracy"]
    coords = {"network": names, "measure": measures}
    return Result(
        name="teacher_forcing",
        values=xr.DataArray(rows, dims=list(coords), coords=coords, attrs={"units": "share"}),
        trivial=one.task.trivial,
        control=xr.DataArray(control, dims="measure", coords={"measure": measures}),
        control_kind="untrained network",
        provenance={"n": len(batch), "reference": "mean", "seed": one.task.seed},
    )


def more_digits(one: Trained) -> Result:
    """A network with room for a digit more than it was trained on, on problems that have it."""
    tasks = {f"{one.task.n_digits} digits": one.task}
    longer = replace(one.task, n_digits=one.task.n_digits + 1)
    tasks[f"{longer.n_digits} digits"] = longer
    values, control, counts = [], [], []
    for task in tasks.values():
        batch = task.dataset("test")[slice(0, 2000)]
        counts.append(len(batch))
        for model, rows in ((one.model, values), (one.untrained, control)):
            right = forced(model, task, batch)
            rows.append(
                [exact(model, task, batch).double().mean().item(), right[:, :-1].double().mean().item()]
            )
    coords = {"problems": list(tasks), "measure": ["exact match", "right digits, forced"]}
    return Result(
        name="more_digits",
        values=xr.DataArray(values, dims=list(coords), coords=coords, attrs={"units": "share"}),
        trivial=longer.trivial,
        control=xr.DataArray(control, dims=list(coords), coords=coords),
        control_kind="untrained network",
        provenance={"n": counts, "seed": one.task.seed, "learned": one.gate.learned},
    )


def head_sets(one: Trained, heads: Heads) -> Result:
    """Which heads are critical, redundant by themselves, and prunable together; and what they bring."""
    names = [str(each) for each in heads.ablated.components]
    sets = {"critical": heads.critical, "redundant alone": heads.redundant, "pruned together": heads.pruned}
    rows = [[float(name in some) for some in sets.values()] for name in names]
    coords = {"component": names, "measure": [*sets, "carry", "digit"]}
    brings = np.stack(
        [heads.results[f"{x}_heads"].values.mean("column").values for x in ("carry", "digit")], 1
    )
    return Result(
        name="head_sets",
        values=xr.DataArray(np.concatenate((rows, brings), 1), dims=list(coords), coords=coords),
        trivial=0.0,
        control=None,
        provenance={
            "seed": one.task.seed,
            "reference": "mean",
            "exact match lost without all that are redundant alone": round(heads.together, 4),
        },
    )
