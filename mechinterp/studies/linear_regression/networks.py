"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mechinterp.analysis.gates import Gate
from mechinterp.models.factories import deep_linear_regression, linear_regression
from mechinterp.models.transformer import HookedTransformer
from mechinterp.studies.networks import Kind
from mechinterp.tasks.base import Batch
from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import DEEP_REGRESSION, LAYERS, ONE_LAYER

LONGER = 4
"""Prompts of so many times the longest in training can be tried."""


@dataclass(frozen=True, kw_only=True)
class RegressionKind(Kind):
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

    def posed(self, task: LinearRegression) -> LinearRegression:
        """With as many queries as it is trained on."""
        return replace(task, n_queries=self.queries)

    def asked(self, task: LinearRegression) -> LinearRegression:
        """With one query a prompt."""
        return replace(task, n_queries=1)

    def network(self, task: LinearRegression) -> HookedTransformer:
        """The untrained network, with room for longer prompts than those of training."""
        build = deep_linear_regression if self.deep else linear_regression
        n_ctx = LONGER * task.longest + self.queries
        return build(task, **{"seed": task.seed, "n_ctx": n_ctx, **self.changes})

    def gate(self, model: torch.nn.Module, task: LinearRegression) -> Gate:
        """With its own least score, where it has one."""
        gate = super().gate(model, task)
        return gate if self.least is None else replace(gate, learned_at=self.least * task.ceiling)


LINEAR, SOFTMAX, LINEAR_3, LINEAR_6, DEEP = (
    "linear, 1 layer",
    "softmax, 1 layer",
    "linear, 3 layers",
    "linear, 6 layers",
    "softmax and MLPs, 6 layers",
)
KINDS = {
    LINEAR: RegressionKind(),
    SOFTMAX: RegressionKind(changes={"attention": "softmax"}),
    LINEAR_3: RegressionKind(least=1.0, recipe=LAYERS, changes={"n_layers": 3, "init_mode": "identity"}),
    LINEAR_6: RegressionKind(
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
    DEEP: RegressionKind(deep=True, least=1.0, recipe=DEEP_REGRESSION, queries=16),
}
"""The rows of the table, by their names. Six linear layers want a normalisation: on raw tokens their answers
are polynomials of degree 3^6 of the prompt, and training comes upon prompts on which they overflow."""


def answers(model: torch.nn.Module, task: LinearRegression, batch: Batch) -> torch.Tensor:
    """A network's answers, ``[n, q]``, in float64."""
    return task.answers(model, batch)[..., 0].double()
