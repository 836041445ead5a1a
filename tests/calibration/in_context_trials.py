"""Trials of what sets networks that regress in context beside gradient descent."""

from __future__ import annotations

import torch
from trial import Trial, before_correction

from mechinterp import constructions, models
from mechinterp.analysis.in_context import attending, attention_similarity, effective_step
from mechinterp.tasks import LinearRegression

D, HEADS = 4, 4


def step(seed: int, noise: float | None = None) -> Trial:
    """A linear layer's weights: random, or the best step's with so much noise on each."""
    skewed = tuple(tuple(float(2**i if i == j else 0) for j in range(D)) for i in range(D))
    task = LinearRegression(d=D, n_context=8, covariance=skewed)
    model = models.linear_regression(task, seed=seed)
    if noise is not None:
        model = constructions.linear_regression(task)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in (model.blocks[0].attn.W_Q, model.blocks[0].attn.W_V):
                weight += noise * weight.abs().max() * torch.randn(weight.shape, generator=generator)
    found = effective_step(model, task.preconditioner, draws=199, seed=seed)
    return Trial.of([found.extra["p"].item()], planted=[noise is not None])


def similarity(seed: int, strength: float | None = None) -> Trial:
    """Heads whose keys read y alone; with ``strength`` the first also looks by how alike the x are."""
    task = LinearRegression(d=D, n_context=6, noise=1.0, n_test=24, seed=seed)
    model = models.linear_regression(task, n_heads=HEADS, seed=seed)
    query, key = model.blocks[0].attn.W_Q, model.blocks[0].attn.W_K
    with torch.no_grad():
        key[:, :D] = 0.0
        if strength is not None:
            query[0, :D, :D] = torch.eye(D)
            key[0, :D, :D] = strength * torch.eye(D)
    batch = task.dataset("test")
    with before_correction(attending) as seen:
        found = attention_similarity(model, batch, draws=199, seed=seed)
    planted = [strength is not None and head == 0 for head in range(HEADS)]
    return Trial.of(found.extra["p_adjusted"], seen[-1], planted=planted)
