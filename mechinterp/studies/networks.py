"""The networks that a study compares: kinds of them, each trained on a seed's task once, and kept."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp.analysis.gates import Gate
from mechinterp.hooks import run_with_cache
from mechinterp.result import Result
from mechinterp.studies.base import Watch, silent, train
from mechinterp.tasks.base import Batch, Task
from mechinterp.training.checkpoint import load_into
from mechinterp.training.fit import Callback, Fit
from mechinterp.training.loading import save_network
from mechinterp.training.recipe import Recipe
from mechinterp.training.step import Penalty


class Kind(ABC):
    """One kind of network: how it is built, what it is trained on, and with which recipe."""

    recipe: Recipe
    """How it is trained; the seed is the task's."""
    callbacks: Sequence[Callback] = ()
    """What else is done at every measurement."""
    penalty: Penalty | None = None
    """What the weights cost besides the task's loss."""

    def posed(self, task: Any) -> Any:
        """The form of a task that it is trained on."""
        return task

    def asked(self, task: Any) -> Any:
        """The form of a task in which it is asked afterwards."""
        return self.posed(task)

    @abstractmethod
    def network(self, task: Any) -> Any:
        """The untrained network for the form of a task that it is trained on."""

    def gate(self, model: nn.Module, task: Any) -> Gate:
        """Whether a network of this kind learned the task, in the form in which it is asked."""
        return Gate.of(model, task)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network, the same before training, and whether it learned.

    Args:
        task: in the form in which the network is asked.
        job: its training, with its checkpoints.
    """

    name: str
    task: Any
    model: Any
    untrained: Any
    job: Fit
    gate: Gate

    def at_step(self, step: int) -> Any:
        """The network as it was after so many steps, of those kept."""
        model = copy.deepcopy(self.untrained)
        load_into(model, self.job.checkpoints[step], f"the checkpoint of step {step}")
        return model


def train_kind(
    name: str, kind: Kind, task: Task, folder: Path | None, watch: Watch = silent, share: float = 1.0
) -> Trained:
    """``fit_kind``, and ask whether the network learned, in the form in which it is asked."""
    job, asked = fit_kind(name, kind, task, folder, watch, share), kind.asked(task)
    model, before = job.model.eval(), kind.network(kind.posed(task)).eval()
    gate = kind.gate(model, asked)
    return Trained(name=name, task=asked, model=model, untrained=before, job=job, gate=gate)


def fit_kind(
    name: str, kind: Kind, task: Task, folder: Path | None, watch: Watch = silent, share: float = 1.0
) -> Fit:
    """Train one kind of network on a task; what a folder holds already, if there is one, is read instead.

    The folder's ``network.json`` says what it is; ``training.load_network`` reads it back.

    Args:
        share: of the recipe's steps.

    Raises:
        KeyboardInterrupt: interrupted; the state is saved.
        Diverged: the loss is no longer finite.
    """
    posed = kind.posed(task)
    model = kind.network(posed)
    recipe = replace(kind.recipe, seed=task.seed, steps=max(1, round(share * kind.recipe.steps)))
    job = train(
        model, posed, recipe, folder, watch, f"{name}, seed {task.seed}", callbacks=kind.callbacks,
        penalty=kind.penalty,
    )  # fmt: skip
    if folder is not None:
        save_network(folder, model, posed, recipe, name)
    return job


def score_curves(networks: Mapping[str, Trained], units: str) -> Result:
    """Scores along training, network by network, on the split that training is followed by.

    Returns:
        Dims ``network`` and ``step``; NaN at steps at which a network was not measured. Trivial is that of
        the first network, the control each network before training.
    """
    histories = [one.job.history for one in networks.values()]
    steps = sorted({step for history in histories for step in history.steps})
    values = np.full((len(histories), len(steps)), np.nan)
    for row, history in zip(values, histories):
        row[np.searchsorted(steps, history.steps)] = history.test_score
    coords = {"network": list(networks), "step": steps}
    first = next(iter(networks.values()))
    return Result(
        name="score_curves",
        values=xr.DataArray(values, dims=list(coords), coords=coords, attrs={"units": units}),
        trivial=first.task.trivial,
        control=xr.DataArray(values[:, 0], dims="network", coords={"network": list(networks)}),
        control_kind="untrained network",
        provenance={
            "split": first.task.watched,
            "seed": first.task.seed,
            "seconds": [round(history.seconds, 1) for history in histories],
        },
    )


def network_scores(
    networks: Mapping[str, Trained],
    scores: Mapping[str, float],
    untrained: Mapping[str, float],
    *,
    n: int,
    units: str,
) -> Result:
    """What each network scores on the test split, beside what it needs to count as having learned.

    Args:
        n: held-out examples.
        units: of the scores.

    Returns:
        Dim ``network``. The control is each network before training; ``extra``: ``needed``, ``constant`` (the
        score of the best constant answer) and ``ceiling``.
    """
    coords = {"network": list(networks)}

    def array(values: Sequence[float]) -> xr.DataArray:
        return xr.DataArray(np.array(values), dims="network", coords=coords)

    values = array(list(scores.values()))
    values.attrs["units"] = units
    first = next(iter(networks.values()))
    return Result(
        name="network_scores",
        values=values,
        trivial=first.task.trivial,
        control=array(list(untrained.values())),
        control_kind="untrained network",
        provenance={"split": "test", "n": n, "seed": first.task.seed},
        extra={
            "needed": array([one.gate.learned_at for one in networks.values()]),
            "constant": array([one.task.trivial for one in networks.values()]),
            "ceiling": array([one.task.ceiling for one in networks.values()]),
        },
    )


def stream_hooks(model: Any) -> list[str]:
    """The stream after each layer."""
    return [f"blocks.{layer}.hook_resid_post" for layer in range(len(model.blocks))]


@torch.no_grad()
def streams(model: Any, batch: Batch, hooks: Sequence[str]) -> dict[str, Tensor]:
    """What a network has at some hooks."""
    return dict(run_with_cache(model, batch.inputs, names=hooks, attention_mask=batch.mask)[1].items())
