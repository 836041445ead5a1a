"""What needs networks of its own: theory's other settings, other dimensions, and entries never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import xarray as xr

from mechinterp.result import Result
from mechinterp.studies.base import Watch
from mechinterp.studies.linear_regression.anatomy import Anatomy
from mechinterp.studies.linear_regression.losses import over_optimum
from mechinterp.studies.linear_regression.networks import DEEP, KINDS, LINEAR, answers
from mechinterp.studies.linear_regression.shifts import AS_TRAINED, shift_errors
from mechinterp.studies.networks import Trained, train_kind
from mechinterp.tasks.linear_regression import LinearRegression

SETTINGS = {
    "d=5, k=10": {"d": 5, "n_context": 10},
    "d=5, k=50": {"d": 5, "n_context": 50},
    "d=10, k=10": {"d": 10, "n_context": 10},
    "d=20, k=40": {"d": 20, "n_context": 40},
    "d=5, k in 5..50": {"d": 5, "n_context": 5, "max_context": 50},
    "d=10, k in 5..50": {"d": 10, "n_context": 5, "max_context": 50},
    "d=20, k in 5..50": {"d": 20, "n_context": 5, "max_context": 50},
}
"""Settings without noise, whose least losses are published."""

DIMENSIONS = (10, 20)
"""At which the deep network is tried besides."""


def optimum_by_setting(seeds: Sequence[int], folder: Path, watch: Watch) -> Result:
    """The trained loss of one linear layer over its least loss, in each of ``SETTINGS``, by seed."""
    values, before, learned = [], [], True
    for number, fields in enumerate(SETTINGS.values()):
        made = [
            _trained(
                LINEAR, LinearRegression(**fields, seed=seed), folder / f"setting_{number}_{seed}", watch
            )
            for seed in seeds
        ]
        values.append([over_optimum(one.model, one.task)[0] for one in made])
        before.append(over_optimum(made[0].untrained, made[0].task)[0])
        learned &= all(one.gate.learned for one in made)
    names = {"setting": list(SETTINGS), "seed": list(seeds)}
    return Result(
        name="optimum_by_setting",
        values=xr.DataArray(values, dims=list(names), coords=names, attrs={"units": "loss over the least"}),
        trivial=None,
        control=xr.DataArray(before, dims="setting", coords={"setting": list(SETTINGS)}),
        control_kind="untrained network, first seed",
        provenance={"noise": 0, "split": "new prompts", "n": 32_768, "learned": learned},
    )


def deep_by_dimension(task: LinearRegression, found: Sequence[Anatomy], folder: Path, watch: Watch) -> Result:
    """The deep network's error over Bayes', at the study's d for each seed, at wider ones for the first."""
    wider = [d for d in DIMENSIONS if d != task.d]
    names = {
        "dimension": [f"d={d}" for d in (task.d, *wider)],
        "seed": [one.task.seed for one in found],
    }
    learned = all(one.networks[DEEP].gate.learned for one in found)
    nothing = [float("nan")] * (len(found) - 1)
    values = [[one.error(DEEP) / one.error("ridge") for one in found]]
    before = [_over_bayes(found[0].networks[DEEP], trained_too=False)]
    for d in wider:
        one = _trained(DEEP, replace(task, d=d, covariance=None), folder / f"d_{d}", watch)
        values.append([_over_bayes(one), *nothing])
        before.append(_over_bayes(one, trained_too=False))
        learned &= one.gate.learned
    return Result(
        name="deep_by_dimension",
        values=xr.DataArray(
            values, dims=list(names), coords=names, attrs={"units": "error over Bayes' optimum"}
        ),
        trivial=None,
        control=xr.DataArray(before, dims="dimension", coords={"dimension": names["dimension"]}),
        control_kind="untrained network, first seed",
        provenance={
            "noise": task.noise,
            "examples": f"{task.lengths[0]} to {task.longest}",
            "learned": learned,
        },
    )


def _trained(kind: str, task: LinearRegression, folder: Path, watch: Watch) -> Trained:
    return train_kind(f"{kind}, d {task.d}", KINDS[kind], task, folder, watch)


def _over_bayes(one: Trained, trained_too: bool = True) -> float:
    task = replace(one.task, n_test=8192)
    batch = task.dataset("test")
    given = answers(one.model if trained_too else one.untrained, task, batch)
    error, least = (
        (x.double() - batch.targets.double()).square().mean() for x in (given, batch.variables["ridge"])
    )
    return float(error / least)


def higher_d(task: LinearRegression, folder: Path, watch: Watch) -> Result:
    """One linear layer whose tokens have room for twice the d of training, on prompts that fill it.

    The entries beyond d were 0 throughout training, so that no gradient ever reached what reads them: what a
    network does with a higher d is what its initial weights do.
    """
    padded = replace(task, width=2 * task.d)
    one = _trained(LINEAR, padded, folder, watch)
    tasks = {AS_TRAINED: padded}
    tasks |= {f"d = {d}": replace(padded, d=d) for d in sorted({task.d + 1, 2 * task.d})}
    return shift_errors({LINEAR: one}, tasks, name="higher_d")
