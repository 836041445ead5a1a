"""What one seed's networks are found to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from mechinterp.analysis.in_context import (
    attention_similarity,
    effective_step,
    error_by_context,
    flops,
    kernel_smoother,
    layer_steps,
    method_agreement,
)
from mechinterp.analysis.rank_collapse import collapse_without_parts
from mechinterp.result import Result
from mechinterp.studies.linear_regression.losses import over_optimum
from mechinterp.studies.linear_regression.networks import (
    DEEP,
    LINEAR,
    LINEAR_3,
    SOFTMAX,
    answers,
)
from mechinterp.studies.linear_regression.shifts import shift_errors, shifted
from mechinterp.studies.networks import Trained
from mechinterp.studies.seeds import SeedFindings
from mechinterp.tasks.base import Batch
from mechinterp.tasks.linear_regression import METHODS, LinearRegression
from mechinterp.tasks.regression_methods import descent

TABLE = ("error", "over Bayes", "over best step", "kFLOP per prompt", "parameters", "training seconds")
"""Columns of the table."""


@dataclass(frozen=True, kw_only=True)
class Anatomy(SeedFindings):
    """One seed's findings.

    Args:
        batch: fixed prompts of one query that all are asked.
        given: answers to it, of networks, of the same before training, and of methods, ``[n, 1]``.
        over_optimum: the loss of the one-layer network over the least of a layer, of the trained one and
            of the same before training.
    """

    task: LinearRegression
    batch: Batch
    given: Mapping[str, torch.Tensor]
    untrained: Mapping[str, torch.Tensor]
    over_optimum: tuple[float, float]

    @classmethod
    def of(cls, networks: Mapping[str, Trained], n: int = 8192) -> Anatomy:
        """Take the networks of a seed apart; claims say which did not learn."""
        task = replace(networks[LINEAR].task, n_test=n)
        batch = task.dataset("test")
        given = {name: answers(one.model, task, batch) for name, one in networks.items()}
        before = {name: answers(one.untrained, task, batch) for name, one in networks.items()}
        methods = {name: batch.variables[name].double() for name in METHODS}
        found = [
            training_losses(networks, task),
            *one_layer(networks[LINEAR], task, batch),
            *smoothing(networks[SOFTMAX], batch),
            *depth(networks, batch),
            _errors({**given, **methods}, before[LINEAR], networks, task, batch),
            course_table(networks, {**given, **methods}, before, task, batch),
            shift_errors(networks, shifted(task), n=min(n, 4096)),
        ]
        return cls(
            task=task,
            networks=networks,
            batch=batch,
            given={**given, **methods},
            untrained=before,
            over_optimum=(
                over_optimum(networks[LINEAR].model, task)[0],
                over_optimum(networks[LINEAR].untrained, task)[0],
            ),
            results={result.name: result for result in found},
        )

    def error(self, name: str, least: int = 0) -> float:
        """The mean squared error of a network or a method, on prompts of at least so many examples."""
        rows = self.batch.variables["k"] >= min(least, self.task.longest)
        return _error(self.given[name], self.batch)[rows].mean().item()


def training_losses(networks: Mapping[str, Trained], task: LinearRegression) -> Result:
    """Losses on fixed prompts along training, beside the least of a layer and Bayes' optimum."""
    histories = [one.job.history for one in networks.values()]
    points = max(len(history.steps) for history in histories)

    def padded(values: Sequence[float | int]) -> np.ndarray:
        return np.pad(np.asarray(values, dtype=float), (0, points - len(values)), constant_values=np.nan)

    names = {"network": list(networks), "point": list(range(points))}
    bayes = replace(task, n_test=16_384).dataset("test")
    lines = [task.one_layer_loss, _error(bayes.variables["ridge"], bayes).mean().item()]
    return Result(
        name="training_losses",
        values=xr.DataArray(
            [padded(history.test_loss) for history in histories],
            dims=list(names),
            coords=names,
            attrs={"units": "squared error"},
        ),
        trivial=task.variance,
        provenance={"seed": task.seed, "split": "test", "queries a prompt": "as in training"},
        extra={
            "step": xr.DataArray(
                [padded(history.steps) for history in histories], dims=list(names), coords=names
            ),
            "theory": xr.DataArray(
                lines, dims="line", coords={"line": ["best of one linear layer", "Bayes' optimum"]}
            ),
        },
    )


def one_layer(one: Trained, task: LinearRegression, batch: Batch) -> list[Result]:
    """Is the linear layer a step of gradient descent, in its weights, its answers and where it looks?"""
    about = {"network": one.name, "seed": task.seed}
    settings = {"untrained": one.untrained, "gate": one.gate, "provenance": about}
    methods = {name: batch.variables[f"w_{name}"] for name in METHODS}
    step = one.task.preconditioner
    x, y = batch.inputs[:, :-1, : task.d], batch.inputs[:, :-1, -1]
    best = descent(x, y, batch.variables["k"], [1.0], precondition=step)
    return [
        effective_step(one.model, step, **settings),
        method_agreement(one.model, batch, {"best step": best, **methods}, **settings),
        attention_similarity(one.model, batch[_some(batch)], **settings),
    ]


def smoothing(one: Trained, batch: Batch) -> list[Result]:
    """Is the softmax layer a kernel smoother?"""
    about = {"network": one.name, "seed": one.task.seed}
    settings = {"untrained": one.untrained, "gate": one.gate, "provenance": about}
    # Dealt out so that the half that fits and the half that judges have prompts of every length.
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    return [
        kernel_smoother(one.model, batch[order[:4096]], **settings),
        attention_similarity(one.model, batch[_some(batch)], name="softmax_similarity", **settings),
    ]


def depth(networks: Mapping[str, Trained], batch: Batch) -> list[Result]:
    """Are more layers more steps, and what do skips and MLPs do for the deep network?"""
    found = []
    if LINEAR_3 in networks:
        one = networks[LINEAR_3]
        about = {"network": one.name, "seed": one.task.seed}
        found.append(
            layer_steps(one.model, one.task.d, untrained=one.untrained, gate=one.gate, provenance=about)
        )
    if DEEP in networks:
        one = networks[DEEP]
        about = {"network": one.name, "seed": one.task.seed}
        settings = {"untrained": one.untrained, "gate": one.gate, "provenance": about}
        some, task = batch[_some(batch)], replace(one.task, n_queries=1)
        methods = {name: batch.variables[f"w_{name}"] for name in ("ridge", "ols", "gd")}
        generator = torch.Generator().manual_seed(task.seed + 2 * 10**6)
        longest = task.prompts(torch.full((256,), task.longest), generator, variables=False)
        found += [
            method_agreement(one.model, batch, methods, name="deep_agreement", **settings),
            attention_similarity(one.model, some, name="deep_similarity", **settings),
            collapse_without_parts(one.model, longest.inputs, mask=longest.mask, **settings),
        ]
    return found


def course_table(
    networks: Mapping[str, Trained],
    given: Mapping[str, torch.Tensor],
    untrained: Mapping[str, torch.Tensor],
    task: LinearRegression,
    batch: Batch,
) -> Result:
    """One row a network: error, that over Bayes' optimum and over the best step, and what it costs."""
    bayes, best = (_error(given[name], batch).mean().item() for name in ("ridge", "gd"))
    longest = task.prompts(torch.full((8,), task.longest), torch.Generator().manual_seed(0), variables=False)
    rows = []
    for name, one in networks.items():
        error = _error(given[name], batch).mean().item()
        size = sum(weight.numel() for weight in one.model.parameters() if weight.requires_grad)
        cost = flops(one.model, longest) / 1e3
        seconds = one.job.history.seconds
        rows.append([error, error / bayes, error / best, cost, size, seconds])
    before = [_error(untrained[name], batch).mean().item() / bayes for name in networks]
    names = {"network": list(networks), "column": list(TABLE)}
    return Result(
        name="course_table",
        values=xr.DataArray(rows, dims=list(names), coords=names, attrs={"units": "as the column"}),
        trivial=task.variance / bayes,
        control=xr.DataArray(before, dims="network", coords={"network": list(networks)}),
        control_kind="untrained network, over Bayes",
        provenance={
            "seed": task.seed, "n": len(batch), "d": task.d,
            "examples": f"{task.lengths[0]} to {task.longest}",
            "noise": task.noise, "flops of prompts with": f"{task.longest} examples",
            "learned": all(one.gate.learned for one in networks.values()),
        },
    )  # fmt: skip


def _errors(
    given: Mapping[str, torch.Tensor],
    untrained: torch.Tensor,
    networks: Mapping[str, Trained],
    task: LinearRegression,
    batch: Batch,
) -> Result:
    return error_by_context(
        given, batch.targets, batch.variables["k"], trivial=task.variance, untrained=untrained,
        gate=networks[LINEAR].gate, provenance={"seed": task.seed, "noise": task.noise, "d": task.d},
    )  # fmt: skip


def read_off(found: Anatomy, without: int | None = None) -> torch.Tensor:
    """What the steps read off the three layers' weights answer, or all but one of them, ``[n, 1]``."""
    steps, batch, d = found.results["layer_steps"].values, found.batch, found.task.d
    rates, curvatures = (steps.sel(measure=which).values.tolist() for which in ("rate", "curvature"))
    if without is not None:
        rates[without] = curvatures[without] = 0.0
    x, y, query = batch.inputs[:, :-1, :d], batch.inputs[:, :-1, -1], batch.inputs[:, -1, :d]
    w = descent(x, y, batch.variables["k"], rates, curvatures)
    return (query.double() * w).sum(-1, keepdim=True)


def explained(guess: torch.Tensor, given: torch.Tensor) -> float:
    """The share of the mean square of answers that a guess explains."""
    return (1 - (given - guess).square().sum() / given.square().sum()).item()


def _error(given: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (given.double() - batch.targets.double()).square().mean(1)


def _some(batch: Batch, n: int = 256) -> torch.Tensor:
    """Rows spread over the whole batch, and so over all numbers of examples."""
    return torch.linspace(0, len(batch) - 1, min(n, len(batch))).long()
