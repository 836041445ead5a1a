"""Losses measured closely enough to be set beside theory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.tasks.regression_methods import descent


@torch.no_grad()
def over_optimum(model: nn.Module, task: LinearRegression, n: int = 32_768) -> tuple[float, float]:
    """A network's loss over the least one of a layer of linear attention, and its standard error.

    The loss of the best step is known exactly. So only the difference between the network's squared errors
    and those of that step, on the same n prompts, is left to chance: of a network that takes the step it is
    nearly 0, where the loss itself would be off by a percent or two.
    """
    one = replace(task, n_queries=1)
    batch = one.sample(n, torch.Generator().manual_seed(task.seed + 3 * 10**6), variables=False)
    x, y, query = batch.inputs[:, :-1, : task.d], batch.inputs[:, :-1, -1], batch.inputs[:, -1, : task.d]
    step = descent(x, y, batch.mask[:, :-1].sum(1), [1.0], precondition=task.preconditioner)
    answers = one.outputs(model, batch)[:, 0, 0].double()
    target = batch.targets[:, 0].double()
    more = (answers - target).square() - ((query.double() * step).sum(-1) - target).square()
    ratio = 1 + more.mean() / task.one_layer_loss
    return ratio.item(), (more.std() / len(more) ** 0.5 / task.one_layer_loss).item()
