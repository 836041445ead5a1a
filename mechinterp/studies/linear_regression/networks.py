"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mechinterp.analysis.gates import Gate
from mechinterp.models.factories import deep_linear_regression, linear_regression
from mechinterp.models.transformer import HookedTransformer
from mechinterp.studies.base import Watch, silent, train
from mechinterp.tasks.base import Batch
from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.training.fit import Fit
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import DEEP_REGRESSION, LAYERS, ONE_LAYER

LONGER = 4
"""Prompts of so many times the longest in training can be tried."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of network.

    Args:
        queries: that each training prompt asks.
        least: share of what one linear layer explains from which such a network counts as having learned;
            what is deeper must do better than one layer. ``None``: as the task says.
        changes: fields of ``TransformerConfig``.
    """

    deep: bool = False
    recipe: Recipe = ONE_LAYER
    queries: int = 8
    least: float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def network(self, task: LinearRegression, seed: int) -> HookedTransformer:
        """The untrained network, with room for longer prompts than those of training."""
        build = deep_linear_regression if self.deep else linear_regression
        n_ctx = LONGER * task.longest + self.queries
        return build(task, **{"seed": seed, "n_ctx": n_ctx, **self.changes})


LINEAR, SOFTMAX, LINEAR_3, LINEAR_6, DEEP = (
    "linear, 1 layer",
    "softmax, 1 layer",
    "linear, 3 layers",
    "linear, 6 layers",
    "softmax and MLPs, 6 layers",
)
KINDS = {
    LINEAR: Kind(),
    SOFTMAX: Kind(changes={"attention": "softmax"}),
    LINEAR_3: Kind(least=1.0, recipe=LAYERS, changes={"n_layers": 3, "init_mode": "identity"}),
    LINEAR_6: Kind(
        deep=True,
        least=1.0,
        recipe=replace(DEEP_REGRESSION, steps=3000, betas=(0.9, 0.99)),
        queries=16,
        changes={
            "attention": "linear",
            "average_keys": True,
            "attn_only": True,
            "n_heads": 2,
            "normalization_type": "RMS",
        },
    ),
    DEEP: Kind(deep=True, least=1.0, recipe=DEEP_REGRESSION, queries=16),
}
"""The rows of the table, by their names. Six linear layers want a normalisation: on raw tokens their answers
are polynomials of degree 3^6 of the prompt, and training comes upon prompts on which they overflow."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network, the same before training, and whether it learned.

    Args:
        task: with one query a prompt, as all that follows asks it.
    """

    name: str
    task: LinearRegression
    model: HookedTransformer
    untrained: HookedTransformer
    job: Fit
    gate: Gate


def trained(
    name: str, task: LinearRegression, folder: Path, watch: Watch = silent, share: float = 1.0
) -> Trained:
    """Train one kind of network on a task; what a folder holds already is read instead.

    Args:
        share: of the recipe's steps.

    Raises:
        KeyboardInterrupt: interrupted; the state is saved.
        Diverged: the loss is no longer finite.
    """
    kind, seed = KINDS[name], task.seed
    model, before = (kind.network(task, seed) for _ in range(2))
    steps = max(1, round(share * kind.recipe.steps))
    recipe = replace(kind.recipe, steps=steps, seed=seed)
    label = f"{name}, d {task.d}, seed {seed}"
    job = train(model, replace(task, n_queries=kind.queries), recipe, folder, watch, label)
    model.eval()
    asked = replace(task, n_queries=1)
    gate = Gate.of(model, asked)
    gate = gate if kind.least is None else replace(gate, learned_at=kind.least * asked.ceiling)
    return Trained(name=name, task=asked, model=model, untrained=before.eval(), job=job, gate=gate)


@torch.no_grad()
def answers(model: torch.nn.Module, task: LinearRegression, batch: Batch) -> torch.Tensor:
    """A network's answers, ``[n, q]``, in float64."""
    return torch.cat([task.outputs(model, part)[..., 0] for part in batch.split()]).double()
