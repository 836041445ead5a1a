"""The same networks on prompts of another kind than those of training, beside methods on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.result import Result
from mechinterp.studies.linear_regression.networks import LONGER, answers
from mechinterp.studies.networks import Trained
from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.tasks.regression_methods import descent

OWN_STEP, BEST_STEP = "the trained step", "the best step"
METHODS = (OWN_STEP, BEST_STEP, "least squares", "Bayes")
AS_TRAINED = "as trained"


def shifted(task: LinearRegression) -> dict[str, LinearRegression]:
    """Tasks that differ from the trained one in one thing each.

    A lower d leaves the last entries of x at 0, where training had none: tokens keep their width, since
    an embedding has no entry to put another x in.
    """
    d, most = task.d, task.longest
    sizes = torch.logspace(0.6, -0.6, d, dtype=torch.float64)
    sizes = (d * sizes / sizes.sum()).tolist()
    skewed = tuple(tuple(sizes[i] if i == j else 0.0 for j in range(d)) for i in range(d))
    tasks = {AS_TRAINED: task}
    for k in (most, 2 * most, LONGER * most):
        tasks[f"{k} examples"] = replace(task, n_context=k, max_context=None)
    few = max(1, task.n_context // 2)
    tasks[f"{few} examples"] = replace(task, n_context=few, max_context=None)
    tasks |= {
        "no noise": replace(task, noise=0.0),
        "noise x 3": replace(task, noise=3 * task.noise or 1.0),
        "x halved": replace(task, x_scale=task.x_scale / 2),
        "x doubled": replace(task, x_scale=2 * task.x_scale),
    }
    if d > 1:
        tasks["covariance skewed"] = replace(task, covariance=skewed)
        low = max(1, d // 2)
        tasks[f"d = {low}, padded"] = replace(task, d=low, covariance=None, width=task.token_width)
    return tasks


def shift_errors(
    networks: Mapping[str, Trained],
    tasks: Mapping[str, LinearRegression],
    name: str = "shifts",
    n: int = 4096,
) -> Result:
    """Mean squared errors of networks and methods under each shift, over that of always answering 0.

    Methods: one step of descent at the rate that was best in training (what a layer learned, taken to the
    shift as it is), one at the rate that is best under the shift, least squares, and Bayes' optimum.

    Args:
        networks: trained on the first of the tasks.
        n: prompts of each shift.

    Returns:
        Dims ``predictor``, ``shift``; 1 is no better than answering 0, and it is the trivial value. The
        control is the untrained first network's. ``extra``: ``low`` and ``high``, 95 % by bootstrap.
    """
    trained_on = next(iter(tasks.values()))
    first = next(iter(networks.values()))
    rows = [*networks, *METHODS]
    cells, ends, before = np.zeros((len(rows), len(tasks))), [], []
    for column, task in enumerate(tasks.values()):
        batch = replace(task, n_test=n, n_queries=1, seed=trained_on.seed + 7).dataset("test")
        given = {kind: answers(one.model, task, batch) for kind, one in networks.items()}
        given |= _methods(task, trained_on, batch)
        errors = torch.stack([_relative(given[row], batch, task) for row in rows], 1)
        cells[:, column] = errors.mean(0)
        ends.append(bootstrap_means(errors, draws=300))
        before.append(_relative(answers(first.untrained, task, batch), batch, task).mean().item())
    coords = {"predictor": rows, "shift": list(tasks)}

    def array(x: Any) -> xr.DataArray:
        return xr.DataArray(
            x, dims=list(coords), coords=coords, attrs={"units": "squared error over variance"}
        )

    return Result(
        name=name,
        values=array(cells),
        trivial=1.0,
        control=xr.DataArray(before, dims="shift", coords={"shift": list(tasks)}),
        control_kind=f"untrained network ({first.name})",
        provenance={
            "n": n,
            "seed": trained_on.seed,
            "learned": all(x.gate.learned for x in networks.values()),
        },
        extra={
            end: array(torch.stack([pair[i] for pair in ends], 1).numpy())
            for i, end in enumerate(("low", "high"))
        },
    )


def _methods(task: LinearRegression, trained_on: LinearRegression, batch: Any) -> dict[str, torch.Tensor]:
    x, y, k = batch.inputs[:, :-1, : task.d], batch.inputs[:, :-1, -1], batch.variables["k"]
    query = batch.inputs[:, -1, : task.d].double()
    own = (query * descent(x, y, k, [trained_on.best_rate])).sum(-1, keepdim=True)
    by_task = [batch.variables[name].double() for name in ("gd", "ols", "ridge")]
    return dict(zip(METHODS, (own, *by_task)))


def _relative(given: torch.Tensor, batch: Any, task: LinearRegression) -> torch.Tensor:
    return (given - batch.targets.double()).square().mean(1) / task.variance
